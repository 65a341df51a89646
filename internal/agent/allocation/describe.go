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
	// poolsOf is of how many full pools at most that, or what is kept of them, is told, and what is in quarantine is tried: a
	// pattern may name many.
	poolsOf = 8
	// podlessOf is how many entries of a pool that no pod has are read, podlessAge how old the knowledge of them may be.
	podlessOf, podlessAge = 500, 5 * time.Second
	// describeTime bounds those reads.
	describeTime = 2 * time.Second
)

// podless is what was read of the entries of a pool that no pod has.
type podless struct {
	entries []v2beta1.SpiderIP
	more    bool
}

// readPodless reads the entries of a pool that no pod has. What cannot be read counts as read, or each ADD would ask an API
// server that has no time.
func (a *Allocator) readPodless(ctx context.Context, pool string) (read podless, _ error) {
	var err error
	if read.entries, read.more, err = a.Ledger.WithoutPod(ctx, pool, podlessOf); err != nil {
		a.Log.Warn("it is not known which addresses of a full pool are kept or in quarantine", "pool", pool, "error", err)
	}
	for i := range read.entries {
		read.entries[i].ManagedFields = nil // which are large
	}
	return read, nil
}

// describe says of full pools, for people, who has their addresses, for whom they are kept and which come free next.
func (a *Allocator) describe(ctx context.Context, r *Request, refused *Refused) {
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	a.countTerminating(refused)
	described := 0
	for _, tried := range refused.Why {
		full := refused.Full[tried.Pool]
		if full == nil || described == poolsOf {
			continue
		}
		described++
		if full.Candidates.Count().Cmp(addr.CountOf(holdersOf)) > 0 {
			a.countWithoutPod(ctx, r, tried.Pool, full)
		} else {
			a.nameHolders(ctx, r, full)
		}
	}
}

// nameHolders reads who holds the addresses of a small pool.
func (a *Allocator) nameHolders(ctx context.Context, r *Request, full *Full) {
	for held := range full.Candidates.Ranges() {
		for address := held.From(); held.Contains(address); address = address.Next() {
			if entry, err := a.Ledger.Get(ctx, addr.Name(address)); err == nil && entry != nil {
				full.Usage.CountWithoutPod(&entry.Spec, r.Pod.Namespace)
				full.Usage.Holders = append(full.Usage.Holders, a.holder(ctx, r, entry))
			}
		}
	}
}

// countWithoutPod counts which addresses of a pool are kept or in quarantine. All ADDs of the node share what is read.
func (a *Allocator) countWithoutPod(ctx context.Context, r *Request, name string, full *Full) {
	read, err := a.podless.Get(ctx, name, time.Now().Add(-podlessAge), time.Time{})
	if err != nil {
		return // it takes too long
	}
	full.Usage.AtLeast = read.Value.more
	for i := range read.Value.entries {
		s := &read.Value.entries[i].Spec
		if address, err := addr.ParseAddr(s.Address); err == nil && full.Candidates.Contains(address) {
			full.Usage.CountWithoutPod(s, r.Pod.Namespace)
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
	if owner := pool.KeptFor(&entry.Spec, r.Pod.Namespace); owner != "" {
		h.Node, h.State = "", "kept for "+owner+": "+pool.FreeKept(owner, entry.Name)
		return h
	}
	if entry.Spec.Use == v2beta1.IPUseQuarantine {
		h.State = "in quarantine: " + entry.Spec.Reason
		return h
	}
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
