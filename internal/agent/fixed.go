package agent

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/probe"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// recall reads which addresses the interface had in an earlier pod of its name, if they are fixed. It returns where that
// stands, for record.
func (a *Agent) recall(ctx context.Context, r *allocation.Request) (e *v2beta1.SpiderEndpoint, err error) {
	if r.FixedFor == nil {
		return nil, nil
	}
	key := client.ObjectKey{Namespace: r.Pod.Namespace, Name: fixed.Name(r.FixedFor, r.Pod.Name)}
	if err := r.Retry(ctx, func() error { e, err = a.publish.Read(ctx, key); return err }); err != nil {
		return nil, err
	}
	r.Recorded = map[pool.Family]netip.Addr{}
	for _, ip := range fixed.Recorded(e, r.Interface) {
		r.Recorded[pool.FamilyOf(ip)] = ip
	}
	return e, nil
}

// record writes which addresses an interface has, if they are fixed, before the container is told.
func (a *Agent) record(ctx context.Context, r *allocation.Request, before *v2beta1.SpiderEndpoint, shown v2beta1.EndpointInterface) error {
	if r.FixedFor == nil {
		return nil
	}
	return r.Retry(ctx, func() error { return a.publish.Record(ctx, r.Pod, r.UID, r.FixedFor, before, shown) })
}

// recordAgain writes which addresses a container has into whose name the entry of its fixed address was written again.
func (a *Agent) recordAgain(ctx context.Context, i *lease.Interface, l *lease.Lease) {
	s := l.Entry.Spec
	reply := a.leases.Attachment(l.Key()).Answer
	if s.Owner == nil || reply == nil {
		return
	}
	pod, err := a.Facts.Pod(ctx, s.Pod.Namespace, s.Pod.Name, i.PodUID)
	if err != nil {
		return // it is going
	}
	there, err := a.publish.Read(ctx, endpointKey(s))
	if err == nil {
		err = a.publish.Record(ctx, pod, i.PodUID, s.Owner, there, endpointOf(s.Interface, false, reply.IPs, reply.Routes))
	}
	if err != nil {
		a.Log.Warn("the SpiderEndpoint does not list a fixed address", "address", s.Address, "pod", s.Pod.Namespace+"/"+s.Pod.Name, "error", err)
	}
}

func endpointKey(s v2beta1.IPSpec) client.ObjectKey {
	return client.ObjectKey{Namespace: s.Pod.Namespace, Name: fixed.Name(s.Owner, s.Pod.Name)}
}

// giveUp ends a lease that nothing bears any more: the address is released or, if it is fixed and recorded and its owner wants
// a pod of that name, kept for the next one. An owner that cannot be read may want it.
func (a *Agent) giveUp(ctx context.Context, i *lease.Interface, l *lease.Lease) error {
	s := l.Entry.Spec
	if s.Owner == nil {
		return a.allocation.Release(ctx, i, l)
	}
	recorded, err := a.publish.Read(ctx, endpointKey(s))
	if err != nil {
		return err
	}
	listed := slices.Contains(fixed.Recorded(recorded, s.Interface), lease.AddressOf(l.Entry))
	wanted := listed && a.wanted(ctx, s)
	if wanted {
		err = a.leases.Keep(ctx, i, l, "kept "+fixed.Until(s.Owner, s.Pod.Name))
	} else {
		err = a.allocation.Release(ctx, i, l)
	}
	if err == nil && fixed.IsMachine(s.Owner) {
		err = a.leases.Silenced(ctx, l.Entry.Name, s.ContainerID)
	}
	if err == nil && listed && !wanted { // the SpiderIP first: an address that is recorded and free is claimed again
		err = a.publish.Unrecord(ctx, recorded, s.Pod.UID, s.Interface)
	}
	return err
}

// wanted reports whether the owner of a fixed address wants a pod of that name again. It costs one read.
func (a *Agent) wanted(ctx context.Context, s v2beta1.IPSpec) bool {
	if !a.Fixed.Cover(s.Owner) {
		return false
	}
	owner, err := facts.ReadOwner(ctx, a.Client, s.Pod.Namespace, s.Owner)
	if err != nil {
		a.Log.Info("a fixed address is kept: its owner cannot be read", "address", s.Address, "error", err)
		return true
	}
	wanted, why := fixed.Wanted(s.Owner, owner, s.Pod.Name)
	if !wanted {
		a.Log.Info("a fixed address is not kept", "address", s.Address, "pod", s.Pod.Namespace+"/"+s.Pod.Name, "why", why)
	}
	return wanted
}

// launcher returns a pod of this node if it is one of a virtual machine; nil if it is none or not known. Nothing is read.
func (a *Agent) launcher(ctx context.Context, p wire.Pod) *corev1.Pod {
	pod := a.Facts.CachedPod(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Name}, p.UID)
	if pod == nil || !fixed.IsLauncher(pod) {
		return nil
	}
	return pod
}

// silence notes that a launcher is gone from which its machine had moved away before this agent started: the entries of the
// addresses that it bore are of another node, and say so.
func (a *Agent) silence(ctx context.Context, note wire.Note) error {
	pod := a.launcher(ctx, note.Pod)
	if pod == nil {
		return nil
	}
	owner, _, err := a.Facts.FixedOwner(ctx, pod, a.Fixed)
	if owner == nil || err != nil {
		return err
	}
	e, err := a.publish.Read(ctx, client.ObjectKey{Namespace: note.Pod.Namespace, Name: owner.Name})
	if err != nil {
		return err
	}
	gone, cancel := context.WithTimeout(ctx, a.Durations.Release)
	defer cancel()
	probe.AwaitGone(gone, note.Netns, note.Interface, a.Durations.Release)
	for _, ip := range fixed.Recorded(e, note.Interface) {
		if err := a.leases.Silenced(ctx, addr.Name(ip), note.ContainerID); err != nil {
			return err
		}
	}
	return nil
}
