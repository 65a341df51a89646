package allocation

import (
	"context"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// describe says of full pools which addresses come free next, for people.
func (a *Allocator) describe(ctx context.Context, r *Request, refused *Refused) {
	for _, o := range a.leases.Owners() {
		i, unlock, ok := a.leases.TryLock(o, false)
		if !ok {
			continue // it is being served, or released
		}
		for _, l := range i.Leases() {
			s := l.Entry.Spec
			full := refused.Full[s.Pool]
			if full != nil && full.Candidates.Contains(lease.AddressOf(l.Entry)) && a.facts.Terminating(s.Pod.Namespace, s.Pod.Name, s.Pod.UID) {
				full.Usage.Terminating++
				full.Usage.Where = " on this node"
			}
		}
		unlock()
	}
}
