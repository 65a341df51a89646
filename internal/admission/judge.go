package admission

import (
	"context"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

func (o Options) defaultPool(ctx context.Context, p *v2beta1.SpiderIPPool) error {
	if p.DeletionTimestamp != nil {
		return nil
	}
	subnets, err := o.subnets(ctx)
	if err == nil {
		pool.DefaultPool(p, subnets)
	}
	return err
}

func defaultSubnet(_ context.Context, s *v2beta1.SpiderSubnet) error {
	pool.DefaultSubnet(s)
	return nil
}

func defaultReserved(_ context.Context, r *v2beta1.SpiderReservedIP) error {
	pool.DefaultReserved(r)
	return nil
}

// judgePool reads no more than the edit has to be judged by: to disable a pool
// must be possible whatever else does not answer.
func (o Options) judgePool(ctx context.Context, e edit[*v2beta1.SpiderIPPool]) (v pool.Verdict, err error) {
	if e.after == nil {
		return o.judgePoolDeletion(ctx, e.before)
	}
	around := o.around(e.user)
	change := pool.ChangeOfPool(e.before, e.after)
	looked := around.ByController && pool.IsAutomatic(e.after) // the controller did, at all that is around it
	isNew := !looked && (e.before == nil || !change.Added.IsEmpty())
	if isNew {
		if around.Pools, err = o.pools(ctx); err != nil {
			return v, err
		}
		if around.Subnets, err = o.subnets(ctx); err != nil {
			return v, err
		}
	}
	if !change.Removed.IsEmpty() {
		if around.Held, err = o.held(ctx, change.Removed, e.after.Name); err != nil {
			return v, err
		}
	}
	var missing []string
	if isNew {
		missing = o.readAdvice(ctx, &around) // last: the time that is left is enough to do without
	}
	v = pool.CheckPool(e.before, e.after, around)
	v.Warnings = append(v.Warnings, missing...)
	return v, nil
}

func (o Options) judgePoolDeletion(ctx context.Context, p *v2beta1.SpiderIPPool) (v pool.Verdict, err error) {
	if !o.EnableValidatingResourcesDeletedWebhook || p.DeletionTimestamp != nil {
		return v, nil
	}
	held, err := o.held(ctx, everything, p.Name)
	if err != nil {
		return v, err
	}
	return pool.CheckPoolDeletion(p, held), nil
}

func (o Options) judgeSubnet(ctx context.Context, e edit[*v2beta1.SpiderSubnet]) (v pool.Verdict, err error) {
	around := o.around(e.user)
	if e.after == nil && !o.EnableValidatingResourcesDeletedWebhook {
		return v, nil
	}
	if around.Pools, err = o.pools(ctx); err != nil {
		return v, err
	}
	if e.after == nil {
		return pool.CheckSubnetDeletion(e.before, around), nil
	}
	if around.Subnets, err = o.allSubnets(ctx); err != nil {
		return v, err
	}
	return pool.CheckSubnet(e.before, e.after, around), nil
}

// judgeReserved does not need what it reads to decide, so it goes on without.
func (o Options) judgeReserved(ctx context.Context, e edit[*v2beta1.SpiderReservedIP]) (pool.Verdict, error) {
	around := o.around(e.user)
	var missing []string
	if added := pool.Reservation(e.after).Minus(pool.Reservation(e.before)); !added.IsEmpty() {
		held, err := o.held(ctx, added, "")
		if err != nil {
			missing = append(missing, notRead(err))
		}
		around.Held = held
	}
	v := pool.CheckReserved(e.before, e.after, around)
	v.Warnings = append(v.Warnings, missing...)
	return v, nil
}
