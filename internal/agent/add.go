package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/publish"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// reasonFailed is the reason of the Event on a pod whose ADD failed.
const reasonFailed = "IPAllocationFailed"

// add serves ADD: an exact repeat from memory, as long as the ledger says the same; otherwise the interface gets one address
// of each family, of what it holds or new, and if one fails, what this call claimed is released before the error returns.
func (a *Agent) add(ctx context.Context, req *wire.Request) (*wire.Reply, error) {
	r := &allocation.Request{Request: *req, Came: time.Now(), Known: a.Facts.Revision()}
	reply, err := a.serveAdd(ctx, r)
	a.metrics.Ended(a.metrics.Allocation, time.Since(r.Came), r.Waited, outcome(err))
	a.api.observe(time.Now(), err)
	if refused, ok := errors.AsType[*allocation.Refused](err); ok && !cancelled(err) {
		a.metrics.Full(refused.FullPools())
	}
	if err != nil && r.Pod != nil && !cancelled(err) {
		a.Events.Event(r.Pod, corev1.EventTypeWarning, reasonFailed, err.Error())
	}
	return reply, err
}

func (a *Agent) serveAdd(ctx context.Context, r *allocation.Request) (*wire.Reply, error) {
	k := r.Key()
	a.deleteAsNoted(k)
	r.Deadline = a.leases.FirstAdd(k.Container).Add(a.Durations.Wait)
	ctx, leave, err := a.leases.Admit(ctx, k, r.Came.Add(-r.Age))
	if err != nil {
		return nil, err
	}
	defer leave()
	reply, err := a.serveAdmitted(ctx, r, k)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, lease.ErrDeleted) && !errors.Is(err, lease.ErrDeleted) {
		err = fmt.Errorf("%w: %w", cause, err) // which only says that a request was cancelled
	}
	return reply, err
}

// serveAdmitted serves an ADD until a DEL of its container ends ctx.
func (a *Agent) serveAdmitted(ctx context.Context, r *allocation.Request, k lease.Key) (*wire.Reply, error) {
	if err := r.Retry(ctx, func() error { return a.identify(ctx, r) }); err != nil {
		return nil, err
	}
	if err := r.Retry(ctx, func() error { return a.reassert(ctx) }); err != nil {
		return nil, err
	}
	if err := a.allocation.Lock(ctx, r); err != nil {
		return nil, err
	}
	defer r.Unlock()
	r.Waited = time.Since(r.Came)
	a.leases.Bind(k, r.Owner())
	if reply := a.leases.Attachment(k).Answer; reply != nil {
		stands := false
		if err := r.Retry(ctx, func() (err error) { stands, err = a.stands(ctx, r.Holding(), k, reply); return err }); err != nil || stands {
			return reply, err
		}
	}
	for {
		reply, err := a.assign(ctx, r, k)
		if !errors.Is(err, publish.ErrChanged) {
			return reply, err
		}
		if err := a.allocation.Lock(ctx, r); err != nil {
			return nil, err
		}
	}
}

// identify finds out which pod asks and which pools it may take from. A pod that is terminating or has finished gets no
// address.
func (a *Agent) identify(ctx context.Context, r *allocation.Request) error {
	pod, err := a.Facts.Pod(ctx, r.Request.Pod.Namespace, r.Request.Pod.Name, r.Request.Pod.UID)
	if err != nil {
		return err
	}
	r.Pod, r.UID = pod, r.Request.Pod.UID
	if r.UID == "" {
		r.UID = string(pod.UID)
	}
	if why := facts.Finished(pod); why != "" {
		return fmt.Errorf("pod %s/%s %s: %w", pod.Namespace, pod.Name, why, allocation.ErrFinished)
	}
	if r.FixedFor, _, err = a.Facts.FixedOwner(ctx, pod, a.Fixed); err != nil {
		return err
	}
	if r.Context, err = a.Facts.PodContext(ctx, pod); err != nil {
		return err
	}
	r.Context.Interface, r.Context.ConfName, r.Context.Conf = r.Interface, r.Network, confOf(&r.Request)
	r.Context.ClusterNetwork, r.Context.OwnNamespace = a.ClusterNetwork, a.Namespace
	if r.Context.AutomaticPools = a.AutomaticPools; a.AutomaticPools {
		if r.Context.Application, err = a.Facts.Application(ctx, pod); err != nil {
			return err
		}
	}
	if r.Selection, err = pool.SelectionOf(r.Context, a.Facts.Pools(), a.Families); err != nil {
		return fmt.Errorf("interface %s: %w: %w", r.Interface, errConfig, err)
	}
	if r.Routes, _, err = pool.RoutesOf(r.Context); err != nil {
		return fmt.Errorf("interface %s: %w: %w", r.Interface, errConfig, err)
	}
	return checkRequested(r)
}

func confOf(req *wire.Request) pool.Conf {
	return pool.Conf{
		Pools:        map[pool.Family][]string{pool.IPv4: req.IPv4Pools, pool.IPv6: req.IPv6Pools},
		CleanGateway: req.CleanGateway,
		MatchParent:  req.MatchMasterSubnet,
		Parent:       req.Parent,
	}
}

// checkRequested refuses addresses that nobody could be given: without a pool of their family, or two of one family.
func checkRequested(r *allocation.Request) error {
	first := map[pool.Family]string{}
	for _, ip := range r.RequestedIPs {
		f := pool.FamilyOf(ip)
		if other, twice := first[f]; twice {
			return fmt.Errorf("interface %s: %w: the addresses %s and %s are asked for, one of a family can be given", r.Interface, errConfig, other, ip)
		}
		if first[f] = ip.String(); !r.Selection.Has(f) {
			return fmt.Errorf("interface %s: %w: the address %s is asked for, and %s names no %s pool", r.Interface, errConfig, ip, r.Selection.Source, f)
		}
	}
	return nil
}

// stands reports whether the interface still holds in the ledger what its container was answered. What does not stand is made
// again if it can be; if another has it by now, that is reported, and the ADD goes on to another address.
func (a *Agent) stands(ctx context.Context, i *lease.Interface, k lease.Key, reply *wire.Reply) (bool, error) {
	for _, ip := range reply.IPs {
		l := i.Lease(addr.Name(ip.Address.Addr()))
		if l == nil || l.Key() != k || !l.Held() { // another container of the pod may have taken it over
			return false, nil
		}
		there, err := a.leases.Stands(ctx, l)
		if err != nil {
			return false, err
		}
		if there {
			continue
		}
		if holder, err := a.do(ctx, i, l, lease.Recreate); err != nil || holder != nil {
			a.leases.SetAnswer(k, nil)
			return false, err
		}
	}
	return true, nil
}

// assign gives the interface one address of each family that is selected, and remembers the answer. What else the interface
// holds is released if nothing bears it; what another container of the pod bears stays its.
func (a *Agent) assign(ctx context.Context, r *allocation.Request, k lease.Key) (*wire.Reply, error) {
	a.leases.SetAnswer(k, nil)
	had := r.Holding().Leases()
	recorded, err := a.recall(ctx, r)
	if err != nil {
		return nil, err
	}
	grants, err := a.allocate(ctx, r)
	if err != nil {
		a.takeBack(ctx, r, had, grants)
		return nil, err
	}
	reply, left := answer(r, grants)
	shown := endpointOf(r.Interface, cleanGateway(r), reply.IPs, reply.Routes)
	if err := a.record(ctx, r, recorded, shown); err != nil {
		a.takeBack(ctx, r, had, grants)
		return nil, err
	}
	a.releaseOthers(ctx, r, grants)
	a.allocation.ReleaseLeft(ctx, r)
	for _, g := range grants {
		g.Lease.Told, g.Lease.Owned = lease.Yes, true
	}
	if len(left) > 0 {
		a.Log.Info("routes of the pod are left out on this interface: their next hops are not on it",
			"pod", r.Pod.Namespace+"/"+r.Pod.Name, "interface", r.Interface, "routes", left)
	}
	a.leases.SetAnswer(k, reply)
	a.announce(r, grants)
	if r.FixedFor == nil {
		a.publish.Set(client.ObjectKeyFromObject(r.Pod), r.UID, nil, shown, false)
	}
	return reply, nil
}

// takeBack releases what an ADD that fails has claimed, and shows what the pod has then.
func (a *Agent) takeBack(ctx context.Context, r *allocation.Request, had []*lease.Lease, grants []*allocation.Grant) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.Durations.PutBack)
	defer cancel()
	if a.allocation.Lock(ctx, r) != nil {
		return // the DEL of the container releases it, or the audit
	}
	for _, g := range grants {
		if slices.Contains(had, g.Lease) {
			continue
		}
		if err := a.giveUp(ctx, r.Holding(), g.Lease); err != nil {
			a.Log.Warn("not released yet", "address", g.Lease.Entry.Spec.Address, "error", err) // the audit does it
		}
	}
	a.republish(ctx, r.Holding(), false)
}

// releaseOthers releases what the interface holds beside what it is given, if nothing bears it.
func (a *Agent) releaseOthers(ctx context.Context, r *allocation.Request, grants []*allocation.Grant) {
	for _, l := range r.Holding().Leases() {
		given := slices.ContainsFunc(grants, func(g *allocation.Grant) bool { return g.Lease == l })
		if !given && l.Held() && a.leases.Silent(l, r.Key()) {
			a.allocation.PutBack(ctx, r.Holding(), l)
		}
	}
}

func cancelled(err error) bool {
	return errors.Is(err, lease.ErrDeleted) || errors.Is(err, context.Canceled)
}
