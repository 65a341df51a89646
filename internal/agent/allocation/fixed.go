package allocation

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Held is the error of an ADD whose fixed address another container bears still.
type Held struct {
	// Entry is the address and its holder.
	Entry *v2beta1.SpiderIP
}

// Error names the holder, and what to do if it never goes.
func (e *Held) Error() string {
	s := e.Entry.Spec
	if s.Use == v2beta1.IPUseQuarantine {
		return fmt.Sprintf("the fixed address %s is in quarantine (%s), and not known to be silent on the link of interface %s: it is taken over when "+
			"nobody answers for it, or the agent of node %s has seen the container of pod %s/%s (UID %s) end", s.Address, s.Reason, s.Interface, s.Node,
			s.Pod.Namespace, s.Pod.Name, s.Pod.UID)
	}
	return fmt.Sprintf("the fixed address %s is still held by pod %s/%s (UID %s, container %s) on node %s: the address is taken over when the "+
		"agent of that node has seen the container end. If the node is gone for certain, run: kubectl annotate --overwrite spiderip %s %s=true && kubectl delete spiderip %[7]s",
		s.Address, s.Pod.Namespace, s.Pod.Name, s.Pod.UID, s.ContainerID, s.Node, e.Entry.Name, v2beta1.AnnotationAllowDelete)
}

// had gives the interface an address that it has: one that it holds or, if its addresses are fixed, one that it had in an
// earlier pod of its name. It returns nil if there is none that a pool gives it.
func (a *Allocator) had(ctx context.Context, r *Request, f pool.Family) (*Grant, error) {
	if r.FixedFor == nil {
		return a.reuse(ctx, r, f)
	}
	return retry(ctx, r, func() (*Grant, error) {
		if g, err := a.reuse(ctx, r, f); g != nil || err != nil {
			return g, err
		}
		return a.takeOver(ctx, r, f)
	})
}

// takeOver gives the interface the address that is recorded of it, once nothing else bears it. One that no pool gives it any
// more is left when the ADD has another.
func (a *Allocator) takeOver(ctx context.Context, r *Request, f pool.Family) (*Grant, error) {
	address, recorded := r.Recorded[f]
	if !recorded {
		return nil, nil
	}
	if err := a.reasserted(); err != nil {
		return nil, err
	}
	candidates, err := a.selected(ctx, r, f)
	if err != nil {
		return nil, err
	}
	serve, _ := pool.Choose(r.Context, f, candidates)
	if len(serve) == 0 && r.Selection.Subnets[f] != "" {
		return nil, nil // the ADD waits for its automatic pool, which may have the address
	}
	entry, err := a.Ledger.Get(ctx, addr.Name(address))
	if err != nil {
		return nil, away(fmt.Errorf("read SpiderIP %s: %w", addr.Name(address), err))
	}
	if entry != nil && !r.inherits(entry) {
		return r.forget(f)
	}
	p, err := a.giver(ctx, r, f, candidates, entry)
	switch {
	case err != nil:
		return nil, err
	case entry != nil && entry.Spec.Pod.UID == r.UID && entry.Spec.Use == v2beta1.IPUsePod:
		return a.regain(ctx, r, f, entry, p)
	case p == nil:
		r.left = append(r.left, entry)
		return r.forget(f)
	case entry == nil:
		return a.claimAgain(ctx, r, p, address, f)
	case inQuarantine(entry):
		silent, err := a.silent(ctx, r, entry)
		if err != nil {
			return nil, err
		}
		if !silent {
			return nil, &Held{entry}
		}
	case !r.mayTake(entry):
		return nil, &Held{entry}
	}
	return a.inherit(ctx, r, f, entry, p)
}

// home is the candidate that an interface whose addresses are fixed tries first. It follows from the names of the owner and
// the pod alone, so what was freed when the owner was scaled in or deleted is given to the same pod again, unless somebody
// took it meanwhile. The pods of one owner have neighbours, and so never want the same. An ADD tries it once, though this node
// may believe that it is taken: other nodes free addresses too.
func (s *search) home() (netip.Addr, bool) {
	owner, pod := s.request.FixedFor, s.request.pod()
	if owner == nil || s.request.waiter != nil || s.candidates.IsEmpty() {
		return netip.Addr{}, false
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, pod.Namespace, "/", owner.Kind, "/", owner.Name, "/", s.request.Interface) // never fails
	ordinal, _ := fixed.Ordinal(owner, pod.Name)
	size := uint64(s.candidates.Count().Int64())
	return s.candidates.Nth(addr.CountOf((h.Sum64()%size + uint64(ordinal)) % size))
}

// forget goes on without the recorded address.
func (r *Request) forget(f pool.Family) (*Grant, error) {
	delete(r.Recorded, f)
	return nil, nil
}

// regain is for an entry of the pod itself, which reuse did not give to the container.
func (a *Allocator) regain(ctx context.Context, r *Request, f pool.Family, entry *v2beta1.SpiderIP, p *pool.Pool) (*Grant, error) {
	if l := r.iface.Lease(entry.Name); l == nil || !l.Held() {
		a.Leases.Found(r.iface, entry)
		return a.reuse(ctx, r, f)
	}
	if p == nil {
		return r.forget(f)
	}
	return nil, &Held{entry}
}

// inherits reports whether an entry is of the interface itself, or of an earlier pod whose addresses it gets.
func (r *Request) inherits(entry *v2beta1.SpiderIP) bool {
	s := entry.Spec
	return s.Interface == r.Interface && (s.Pod.UID == r.UID || fixed.Same(s.Owner, s.Pod, r.FixedFor, r.pod()))
}

// giver is the pool that gives the interface its address again, that of its entry before others; nil if there is none.
func (a *Allocator) giver(ctx context.Context, r *Request, f pool.Family, candidates []pool.Candidate, entry *v2beta1.SpiderIP) (*pool.Pool, error) {
	address := r.Recorded[f]
	if asked := r.asked(f); asked.IsValid() && asked != address {
		return nil, nil
	}
	serve, _ := pool.Choose(r.Context, f, candidates)
	var first *pool.Pool
	for _, p := range serve {
		switch {
		case !a.Facts.Gives(p).Contains(address):
		case entry == nil || p.Name == entry.Spec.Pool:
			return p, nil
		case first == nil:
			first = p
		}
	}
	if entry == nil || !slices.ContainsFunc(candidates, func(c pool.Candidate) bool { return c.Name == entry.Spec.Pool }) {
		return first, nil
	}
	// Only the API server's word counts for a pool that a fixed address would be lost for.
	live, err := a.pools.Fresh(ctx, entry.Spec.Pool)
	switch p := live.Value; {
	case err != nil && !errors.Is(err, facts.ErrNoPool):
		return nil, away(err)
	case err == nil && p.Refuses(r.Context, f) == "" && a.Facts.Gives(p).Contains(address):
		return p, nil
	}
	return first, nil
}

// lookAgain begins anew when an entry was changed after it was read.
func (a *Allocator) lookAgain(ctx context.Context, r *Request, f pool.Family, err error) (*Grant, error) {
	if errors.Is(err, ledger.ErrLost) || errors.Is(err, ledger.ErrTaken) {
		return a.takeOver(ctx, r, f)
	}
	return nil, away(err)
}

// claimAgain claims an address that the interface had and whose entry is gone.
func (a *Allocator) claimAgain(ctx context.Context, r *Request, p *pool.Pool, address netip.Addr, f pool.Family) (*Grant, error) {
	spec := r.spec(a.Node)
	spec.Address, spec.Pool = address.String(), p.Name
	l, err := a.Leases.Create(ctx, r.iface, &v2beta1.SpiderIP{Spec: spec})
	if err != nil {
		return a.lookAgain(ctx, r, f, err)
	}
	return a.admit(ctx, r, l, f)
}

// inherit writes the interface into the entry of an earlier pod. If p is another pool than the entry's, the address is released
// and claimed again there.
func (a *Allocator) inherit(ctx context.Context, r *Request, f pool.Family, entry *v2beta1.SpiderIP, p *pool.Pool) (*Grant, error) {
	l, err := a.write(ctx, r, entry)
	if err != nil {
		return a.lookAgain(ctx, r, f, err)
	}
	if p.Name == entry.Spec.Pool {
		return a.admit(ctx, r, l, f)
	}
	if err := a.Release(ctx, r.iface, l); err != nil {
		return nil, err
	}
	return a.claimAgain(ctx, r, p, r.Recorded[f], f)
}

// write writes the interface into the entry of an earlier pod.
func (a *Allocator) write(ctx context.Context, r *Request, entry *v2beta1.SpiderIP) (*lease.Lease, error) {
	if err := a.checkCurrent(ctx, r); err != nil {
		return nil, err
	}
	l, err := a.Leases.TakeOver(ctx, r.iface, entry, r.spec(a.Node))
	r.current = r.current || err == nil
	return l, err
}

// ReleaseLeft releases the addresses of earlier pods that no pool gives the interface any more. What a container still bears
// the agent of its node releases: it is recorded no more. So does the controller what cannot be released now.
func (a *Allocator) ReleaseLeft(ctx context.Context, r *Request) {
	for _, entry := range r.left {
		if entry == nil || !r.mayTake(entry) {
			continue
		}
		l, err := a.write(ctx, r, entry)
		if err == nil {
			err = a.Release(ctx, r.iface, l)
		}
		if err != nil {
			a.Log.Warn("a fixed address that the pod has no more is not released yet", "address", entry.Spec.Address, "error", err)
		}
	}
	r.left = nil
}

// checkCurrent reads whether this is still the pod of its name. It follows the read of the entry: if a later pod has been
// about the entry since, the write fails. Once the ADD has one address no later pod comes by it, and so by no other.
func (a *Allocator) checkCurrent(ctx context.Context, r *Request) error {
	if r.current {
		return nil
	}
	pod, _, err := a.Facts.PodOfAnyNode(ctx, r.Pod.Namespace, r.Pod.Name, r.UID)
	if err != nil {
		return away(err)
	}
	if why := facts.Finished(pod); why != "" {
		return fmt.Errorf("pod %s/%s %s: %w", pod.Namespace, pod.Name, why, ErrFinished)
	}
	return nil
}

// mayTake reports whether an entry of an earlier pod may be written to this one: nothing bears the address any more, or only
// other pods of the same virtual machine instance, which moves.
func (r *Request) mayTake(entry *v2beta1.SpiderIP) bool {
	if entry.Spec.Use == v2beta1.IPUseKept && len(lease.Bearers(entry)) == 0 {
		return true
	}
	instance := r.FixedFor.Instance
	return instance != "" && entry.Spec.Owner != nil && entry.Spec.Owner.Instance == instance && entry.Spec.Use != v2beta1.IPUseQuarantine
}

// admit has the fence judge an address that the interface had.
func (a *Allocator) admit(ctx context.Context, r *Request, l *lease.Lease, f pool.Family) (*Grant, error) {
	v, err := a.confirm(ctx, r, l, f)
	if err != nil || v.admitted() {
		return &Grant{l, v.live, true}, err
	}
	return r.forget(f) // confirm has put it back
}

// firstPause and lastPause are between two looks at a fixed address that is held.
const firstPause, lastPause = 200 * time.Millisecond, 2 * time.Second

// awaitHolder looks again and again whether a fixed address may be taken over, until the deadline has passed. The interface is
// not locked meanwhile, so that a DEL of another container of the pod can end.
func (a *Allocator) awaitHolder(ctx context.Context, r *Request, f pool.Family, held *Held) (*Grant, *Refused, error) {
	a.Events.Event(r.Pod, corev1.EventTypeWarning, ReasonWaiting, fmt.Sprintf("waiting up to %s: %s", time.Until(r.Deadline).Round(time.Second), held))
	for pause := firstPause; r.patient(); pause = min(2*pause, lastPause) {
		r.Unlock()
		if err := a.rest(ctx, r, timing.Jitter(pause)); err != nil {
			return nil, nil, err
		}
		if err := a.Lock(ctx, r); err != nil {
			return nil, nil, err
		}
		g, refused, err := a.attempt(ctx, r, f)
		again, ok := errors.AsType[*Held](err)
		if !ok {
			return g, refused, err
		}
		held = again
	}
	return nil, nil, held
}

// rest lets some time pass.
func (a *Allocator) rest(ctx context.Context, r *Request, pause time.Duration) error {
	began := time.Now()
	defer func() { r.Waited += time.Since(began) }()
	select {
	case <-time.After(pause):
		return nil
	case <-a.stopping:
		return errStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
