package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// reasonContradiction is the reason of the Event on a pod that bears an address which the ledger gives to another.
const reasonContradiction = "IPAddressContradiction"

// audits says when the ledger was last read for an audit, and in which epoch of the facts; -1 if what vanished could not all
// be made again.
type audits struct {
	mu     sync.Mutex
	listed time.Time
	epoch  int
}

func (s *audits) last() (listed time.Time, epoch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed, s.epoch
}

func (s *audits) done(listed time.Time, epoch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed, s.epoch = listed, epoch
}

// audit looks at every address of the node and does what lease.Decide says: it frees what is silent and had no DEL. It asks
// only whether containers are gone, which costs the API server nothing.
func (a *Agent) audit(ctx context.Context) error {
	return a.auditInterfaces(ctx, a.leases.Owners(), nil)
}

// auditListed does the same by what the ledger says: it also makes entries of living containers again that vanished, and
// reports contradictions. Called through audited, so that one is in progress at a time.
func (a *Agent) auditListed(ctx context.Context) error {
	epoch := a.facts.Epoch()
	before, _ := a.audits.last()
	s, err := a.leases.List(ctx)
	if err != nil {
		return err
	}
	s.First = before.IsZero()
	s.Settled = a.settled.Load() || !s.First && time.Since(a.began) > a.durations.Rescan
	owners := a.leases.Owners()
	owners = slices.AppendSeq(owners, maps.Keys(s.ByOwner()))
	slices.SortFunc(owners, lease.Owner.Compare)
	if err := a.auditInterfaces(ctx, slices.Compact(owners), &s); err != nil {
		epoch = -1 // the next look lists again; what must be released is known now, and tried without a LIST
	}
	a.audits.done(s.Sent, epoch)
	return nil
}

func (a *Agent) auditInterfaces(ctx context.Context, owners []lease.Owner, s *lease.Snapshot) error {
	var errs []error
	for _, o := range owners {
		errs = append(errs, a.auditInterface(ctx, o, s, func(*lease.Lease) bool { return false }))
	}
	return errors.Join(errs...)
}

// list audits by the ledger, as of a moment after the call.
func (a *Agent) list(ctx context.Context) error {
	_, err := a.audited.Fresh(ctx, "")
	return err
}

// reassert lets an ADD wait for an audit by the ledger if that may have lost entries since the last: the API server was away,
// or was put back to an earlier state.
func (a *Agent) reassert(ctx context.Context) error {
	if _, epoch := a.audits.last(); epoch == a.facts.Epoch() {
		return nil
	}
	return a.list(ctx)
}

// auditInterface audits what one interface holds, unless a call of it is in progress.
func (a *Agent) auditInterface(ctx context.Context, o lease.Owner, s *lease.Snapshot, unlisted func(*lease.Lease) bool) error {
	i, unlock, ok := a.leases.TryLock(o, s != nil)
	if !ok {
		return nil
	}
	defer unlock()
	if err := a.leases.Settle(ctx, i); err != nil {
		return err
	}
	if s != nil {
		a.leases.Adopt(ctx, i, *s, s.ByOwner()[o])
	}
	var reports []lease.Report
	for _, l := range i.Leases() {
		f := a.leases.Find(i, l, s, unlisted(l))
		reports = append(reports, a.do(ctx, i, l, lease.Decide(f)))
	}
	if s != nil && s.First {
		a.publishFound(ctx, i)
	} else if slices.ContainsFunc(reports, func(r lease.Report) bool { return r.Verdict == lease.Release || r.Verdict == lease.Forget }) {
		a.republish(ctx, i)
	}
	var errs []error
	for _, r := range reports {
		a.report(r)
		if r.Verdict == lease.Recreate {
			errs = append(errs, r.Err)
		}
	}
	return errors.Join(errs...)
}

// do carries out a verdict.
func (a *Agent) do(ctx context.Context, i *lease.Interface, l *lease.Lease, v lease.Verdict) lease.Report {
	r := lease.Report{Verdict: v, Entry: l.Entry}
	switch v {
	case lease.Release:
		r.Err = a.allocation.Release(ctx, i, l)
	case lease.Recreate:
		return a.recreate(ctx, i, l)
	case lease.Forget:
		a.leases.Forget(i, l)
	}
	return r
}

func (a *Agent) recreate(ctx context.Context, i *lease.Interface, l *lease.Lease) lease.Report {
	r := lease.Report{Verdict: lease.Recreate, Entry: l.Entry}
	if r.Holder, r.Err = a.leases.Recreate(ctx, i, l); r.Holder != nil {
		r.Err = nil
	}
	return r
}

// report tells people what an audit did.
func (a *Agent) report(r lease.Report) {
	s := r.Entry.Spec
	log := a.log.With("address", s.Address, "pool", s.Pool, "pod", s.Pod.Namespace+"/"+s.Pod.Name, "container", s.ContainerID, "interface", s.Interface)
	switch {
	case r.Err != nil && !errors.Is(r.Err, lease.ErrUnsettled):
		log.Warn("an address cannot be put right now, it is tried again", "error", r.Err)
	case r.Verdict == lease.Release && r.Err == nil:
		a.metrics.Released.Inc()
		log.Info("released without a DEL: nothing bears the address any more")
	case r.Holder != nil:
		a.metrics.Contradictions.Inc()
		text := fmt.Sprintf("the pod bears %s, and the ledger gives it to %s: delete one of the two pods", s.Address, holderText(r.Holder))
		log.Error("contradiction", "holder", holderText(r.Holder))
		a.events.Event(podReference(s.Pod), corev1.EventTypeWarning, reasonContradiction, text)
	case r.Verdict == lease.Recreate && r.Err == nil:
		a.metrics.Recreated.Inc()
		log.Warn("the SpiderIP of a living container was gone and is made again")
	}
}

func holderText(e *v2beta1.SpiderIP) string {
	return fmt.Sprintf("pod %s/%s on node %s (interface %s)", e.Spec.Pod.Namespace, e.Spec.Pod.Name, e.Spec.Node, e.Spec.Interface)
}

func podReference(p v2beta1.IPPod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: typesUID(p.UID)}
}
