package allocation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/coalesce"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// verdict is what the fence says of an address.
type verdict struct {
	// live is the pool as it was read, nil if it serves nobody.
	live *pool.Pool
	// refusal is why the pool does not serve the pod any more; moved says that it does, and has lost the address.
	refusal string
	moved   bool
}

func (v verdict) admitted() bool { return v.refusal == "" && !v.moved }

// confirm is the fence. It follows every write that gives the interface an address: the pool is read live, after the API
// server answered the write, and must still serve the pod and give the address. For a pod that was told the address before
// the pool must have it, and nothing else. What is not admitted is put back, if nothing bears it.
func (a *Allocator) confirm(ctx context.Context, r *Request, l *lease.Lease, f pool.Family) (verdict, error) {
	v, err := a.judge(ctx, r, l, f)
	switch {
	case err == nil && v.admitted():
		l.Confirmed = true
		return v, nil
	case err != nil && l.Owned: // it stays the pod's
	case a.Leases.Silent(l, r.Key()):
		a.PutBack(ctx, r.iface, l)
	}
	return v, err
}

func (a *Allocator) judge(ctx context.Context, r *Request, l *lease.Lease, f pool.Family) (v verdict, err error) {
	a.Facts.Learn(r.Known, l.Entry.ResourceVersion)
	if err := a.reasserted(); err != nil && !l.Owned {
		return v, err
	}
	// As of a moment after the call. The facts believe it from now on, so that a search does not go by what a watch has not
	// corrected yet.
	live, err := retry(ctx, r, func() (coalesce.Result[*pool.Pool], error) { return a.pools.Fresh(ctx, l.Entry.Spec.Pool) })
	v.live = live.Value
	switch {
	case errors.Is(err, facts.ErrNoPool):
		v.refusal = err.Error()
		return v, nil
	case err != nil:
		return v, away(err)
	case l.Owned:
		v.moved = !v.live.Addresses.Contains(lease.AddressOf(l.Entry))
		return v, nil
	}
	if err := r.Retry(ctx, func() error { return a.Facts.FreshReserved(ctx) }); err != nil {
		return v, away(err)
	}
	v.refusal = v.live.Refuses(r.Context, f)
	v.moved = v.refusal == "" && !a.Facts.Gives(v.live).Contains(lease.AddressOf(l.Entry))
	return v, nil
}

// reasserted says until when no pod gets an address that it had not before: the API server was put back to an earlier state, so
// what the ledger calls free another container may bear, until the agent of its node has made its entry again.
func (a *Allocator) reasserted() error {
	putBack := a.Facts.PutBack()
	left := time.Until(putBack.Add(a.Durations.Reassert))
	if putBack.IsZero() || left <= 0 {
		return nil
	}
	return fmt.Errorf("the API server was put back to an earlier state (etcd was restored): no pod gets a new address for another %s, "+
		"until all agents have recorded again what their pods have", left.Round(time.Second))
}
