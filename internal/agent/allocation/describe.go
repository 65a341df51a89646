package allocation

import (
	"context"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

const (
	// holdersOf is of how many addresses at most a full pool is told with its holders: each costs reads.
	holdersOf = 3
	// describeTime bounds those reads.
	describeTime = 2 * time.Second
)

// describe says of full pools, for people, who has their addresses and which come free next.
func (a *Allocator) describe(ctx context.Context, r *Request, refused *Refused) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	a.countTerminating(refused)
	for _, full := range refused.Full {
		if full.Candidates.Count().Cmp(addr.CountOf(holdersOf)) > 0 {
			continue
		}
		for held := range full.Candidates.Ranges() {
			for address := held.From(); held.Contains(address); address = address.Next() {
				if entry, err := a.Ledger.Get(ctx, addr.Name(address)); err == nil && entry != nil {
					full.Usage.Holders = append(full.Usage.Holders, a.holder(ctx, r, entry))
				}
			}
		}
	}
}

// countTerminating counts the addresses of full pools that pods of this node hold which are being deleted.
func (a *Allocator) countTerminating(refused *Refused) {
	for _, o := range a.Leases.Owners() {
		i, unlock, ok := a.Leases.TryLock(o, false)
		if !ok {
			continue // it is being served, or released
		}
		for _, l := range i.Leases() {
			s := l.Entry.Spec
			full := refused.Full[s.Pool]
			if full != nil && full.Candidates.Contains(lease.AddressOf(l.Entry)) && a.Facts.Terminating(s.Pod.Namespace, s.Pod.Name, s.Pod.UID) {
				full.Usage.Terminating++
				full.Usage.Where = " on this node"
			}
		}
		unlock()
	}
}

// holder says who holds an entry, as far as that can be found out.
func (a *Allocator) holder(ctx context.Context, r *Request, entry *v2beta1.SpiderIP) pool.Holder {
	p := entry.Spec.Pod
	h := pool.Holder{Pod: p.Namespace + "/" + p.Name, Node: entry.Spec.Node}
	pod, gone, err := a.Facts.PodOfAnyNode(ctx, p.Namespace, p.Name, p.UID)
	switch {
	case gone:
		h.State = "gone, its container not yet"
		return h
	case err != nil:
		return h
	case pod.DeletionTimestamp != nil:
		h.State = "being deleted"
	default:
		h.State = "running"
	}
	top, err := a.Facts.TopOwner(ctx, pod)
	if err != nil || top.UID == pod.UID {
		return h
	}
	h.Owner = top.Kind + " " + top.Name
	own, err := a.Facts.TopOwner(ctx, r.Pod)
	h.SameOwner = err == nil && own.UID == top.UID
	return h
}
