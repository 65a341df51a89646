package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// reasonContradiction is the reason of the Event on a pod that bears an address which the ledger gives to another.
const reasonContradiction = "IPAddressContradiction"

// lastAudit is when the ledger was last read for an audit, zero before the first, and in which epoch of the facts; -1 if what
// vanished could not all be made again.
type lastAudit struct {
	listed time.Time
	epoch  int
}

// auditListed audits by what the ledger says: it also makes entries of living containers again that vanished, and
// reports contradictions. Called through audits, so that one is in progress at a time.
func (a *Agent) auditListed(ctx context.Context) error {
	epoch := a.Facts.Epoch()
	s, err := a.leases.List(ctx)
	if err != nil {
		return err
	}
	s.First, s.Settled = a.audited.Load().listed.IsZero(), time.Since(a.began) > a.Durations.Rescan
	owners := slices.Collect(maps.Keys(s.Entries))
	for _, o := range a.leases.Owners() {
		if len(s.Entries[o]) == 0 {
			owners = append(owners, o)
		}
	}
	if err := a.auditInterfaces(ctx, owners, &s, nil); err != nil {
		epoch = -1 // the next look lists again; what must be released is known now, and tried without a LIST
	}
	a.audited.Store(&lastAudit{s.Sent, epoch})
	return nil
}

// auditInterfaces looks at every address of interfaces and does what lease.Decide says: it frees what is silent and had no DEL.
// Without a snapshot it asks only whether containers are gone, which costs the API server nothing. unlisted says of a lease
// that the runtime does not list it; nil is of none.
func (a *Agent) auditInterfaces(ctx context.Context, owners []lease.Owner, s *lease.Snapshot, unlisted func(*lease.Lease) bool) error {
	var errs []error
	for _, o := range owners {
		errs = append(errs, a.auditInterface(ctx, o, s, unlisted))
	}
	return errors.Join(errs...)
}

// list audits by the ledger, as of a moment after the call.
func (a *Agent) list(ctx context.Context) error {
	_, err := a.audits.Fresh(ctx, "")
	return err
}

// reassert lets an ADD wait for an audit by the ledger if that may have lost entries since the last: the API server was away,
// or was put back to an earlier state.
func (a *Agent) reassert(ctx context.Context) error {
	if a.audited.Load().epoch == a.Facts.Epoch() {
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
		a.leases.Adopt(ctx, i, s)
	}
	found := s != nil && s.First
	changed := found
	var errs []error
	for _, l := range i.Leases() {
		v := lease.Decide(a.leases.Find(i, l, s, unlisted != nil && unlisted(l), func(p v2beta1.IPPod) bool {
			return a.Facts.CachedPod(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Name}, p.UID) != nil
		}))
		changed = changed || v == lease.Release || v == lease.Forget
		if _, err := a.do(ctx, i, l, v); v == lease.Recreate {
			errs = append(errs, err)
		}
	}
	if changed {
		a.republish(ctx, i, found)
	}
	return errors.Join(errs...)
}

// do carries out a verdict and tells people of it. The holder is who has the address of a vanished entry by now.
func (a *Agent) do(ctx context.Context, i *lease.Interface, l *lease.Lease, v lease.Verdict) (holder *v2beta1.SpiderIP, err error) {
	s := l.Entry.Spec
	log := a.Log.With("address", s.Address, "pool", s.Pool, "pod", s.Pod.Namespace+"/"+s.Pod.Name, "container", s.ContainerID, "interface", s.Interface)
	switch v {
	case lease.Forget:
		i.Forget(l)
	case lease.Release:
		if err = a.giveUp(ctx, i, l); err == nil {
			a.metrics.Released.Inc()
			log.Info("released without a DEL: nothing bears the address any more")
		}
	case lease.Recreate:
		told := l.Contradicted()
		holder, err = a.leases.Recreate(ctx, i, l)
		if holder != nil && !told {
			a.metrics.Contradictions.Inc()
			log.Error("contradiction", "holder", holderText(holder))
			a.Events.Event(podReference(s.Pod), corev1.EventTypeWarning, reasonContradiction,
				fmt.Sprintf("the pod bears %s, and the ledger gives it to %s: delete one of the two pods", s.Address, holderText(holder)))
		} else if holder == nil && err == nil {
			a.recordAgain(ctx, i, l)
			a.metrics.Recreated.Inc()
			log.Warn("the SpiderIP of a living container was gone and is made again")
		}
	case lease.Restore:
		if err = a.leases.Restore(ctx, i, l); err == nil {
			log.Info("taken out of quarantine: its container lives")
		}
	}
	if err != nil && !errors.Is(err, lease.ErrUnsettled) && !errors.Is(err, lease.ErrMoved) {
		log.Warn("an address cannot be put right now, it is tried again", "error", err)
	}
	return holder, err
}

func holderText(e *v2beta1.SpiderIP) string {
	return fmt.Sprintf("pod %s/%s on node %s (interface %s)", e.Spec.Pod.Namespace, e.Spec.Pod.Name, e.Spec.Node, e.Spec.Interface)
}

func podReference(p v2beta1.IPPod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)}
}
