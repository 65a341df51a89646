package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// asker is one ADD: who asks and for what, and how far it has come.
type asker struct {
	req *wire.Request
	// came is when the request came; patience is until when it may wait.
	came, patience time.Time

	uid        string // of the attachment, as CNI gave it
	pod        *corev1.Pod
	podContext *pool.PodContext
	selection  pool.Selection
	routes     []pool.Route // of the pod, for any of its interfaces

	// waited is how long it stood in line.
	waited time.Duration
	// seen is when the last LIST was sent that this ADD has used, by pool.
	seen map[string]time.Time
	// edited is closed when a pool is edited after the last round began.
	edited <-chan struct{}
	// called is closed when this ADD is called out of the line of waiters while
	// it searches.
	called <-chan struct{}
}

// patient reports whether this ADD may wait.
func (ask *asker) patient() bool { return time.Now().Before(ask.patience) }

// isCalled reports whether this ADD was called out of the line.
func (ask *asker) isCalled() bool {
	select {
	case <-ask.called:
		return true
	default:
		return false
	}
}

// hold does something that the API server may not answer now, again and again
// while that may change and the ADD has patience.
func (ask *asker) hold(ctx context.Context, do func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		if !transient(err) || !ask.patient() || wait(ctx, time.After(jitter(pause))) != nil {
			return err
		}
	}
}

// add serves ADD: an exact repeat from memory; otherwise what the attachment
// holds is kept, missing families are claimed, and if one fails, what this call
// claimed is released before the error returns.
func (a *Agent) add(ctx context.Context, req *wire.Request) (*wire.Reply, error) {
	if !a.Ready() {
		return nil, errStarting
	}
	ask := &asker{req: req, came: time.Now(), seen: map[string]time.Time{}}
	reply, err := a.serveAdd(ctx, ask)
	a.metrics.ended(a.metrics.allocation, time.Since(ask.came), ask.waited, err)
	if err != nil && ask.pod != nil {
		a.events.Event(ask.pod, corev1.EventTypeWarning, reasonFailed, err.Error())
	}
	return reply, err
}

// reasonFailed is the reason of the Event on a pod whose ADD failed.
const reasonFailed = "IPAllocationFailed"

func (a *Agent) serveAdd(ctx context.Context, ask *asker) (*wire.Reply, error) {
	req := ask.req
	c := container{req.ContainerID, req.Interface}
	a.applyNoteOf(c)
	ask.patience = a.table.since(c.id).Add(a.timing.patience)
	ctx, leave, err := a.table.enter(ctx, c, ask.came.Add(-req.Age))
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := ask.hold(ctx, func() error { return a.who(ctx, ask) }); err != nil {
		return nil, err
	}
	at, give, err := a.table.take(ctx, attachmentKey{ask.uid, req.Interface})
	if err != nil {
		return nil, err
	}
	defer give()
	ask.waited = time.Since(ask.came)
	if at.answered == req.ContainerID && at.reply != nil {
		return at.reply, nil
	}
	a.table.bind(c, at.key)
	return a.assign(ctx, at, ask)
}

// who finds out which pod asks and which pools it may take from. A pod that is
// terminating or has finished gets no address.
func (a *Agent) who(ctx context.Context, ask *asker) error {
	req := ask.req
	pod, err := a.facts.Pod(ctx, req.Pod.Namespace, req.Pod.Name, req.Pod.UID)
	if err != nil {
		return err
	}
	ask.pod, ask.uid = pod, req.Pod.UID
	if ask.uid == "" {
		ask.uid = string(pod.UID)
	}
	if why := facts.Finished(pod); why != "" {
		return fmt.Errorf("pod %s/%s %s: %w", pod.Namespace, pod.Name, why, errFinished)
	}
	if ask.podContext, err = a.facts.PodContext(ctx, pod); err != nil {
		return err
	}
	ask.podContext.Interface, ask.podContext.ConfName, ask.podContext.Conf = req.Interface, req.Network, confOf(req)
	ask.podContext.ClusterNetwork, ask.podContext.OwnNamespace = a.clusterNetwork, a.namespace
	if ask.selection, err = pool.SelectionOf(ask.podContext, a.facts.Pools(), a.families); err != nil {
		return fmt.Errorf("%w of interface %s: %w", errConfig, req.Interface, err)
	}
	if ask.routes, _, err = pool.RoutesOf(ask.podContext); err != nil {
		return fmt.Errorf("%w of interface %s: %w", errConfig, req.Interface, err)
	}
	return ask.checkRequested()
}

func confOf(req *wire.Request) pool.Conf {
	return pool.Conf{
		Pools:        map[pool.Family][]string{pool.IPv4: req.IPv4Pools, pool.IPv6: req.IPv6Pools},
		CleanGateway: req.CleanGateway,
		MatchParent:  req.MatchMasterSubnet,
		Parent:       req.Parent,
	}
}

// cleanGateway reports whether the interface gets no default route.
func (ask *asker) cleanGateway() bool {
	if ask.selection.CleanGateway != nil {
		return *ask.selection.CleanGateway
	}
	return ask.podContext.Conf.CleanGateway
}

// checkRequested refuses addresses that nobody could be given: without a pool
// of their family, or two of one family.
func (ask *asker) checkRequested() error {
	for _, ip := range ask.req.RequestedIPs {
		f := pool.FamilyOf(ip)
		if first := ask.requested(f); first != ip {
			return fmt.Errorf("%w: the addresses %s and %s are asked for, one of a family can be given", errConfig, first, ip)
		}
		if len(ask.selection.Names[f]) == 0 {
			return fmt.Errorf("%w: the address %s is asked for, and %s names no %s pool", errConfig, ip, ask.selection.Source, f)
		}
	}
	return nil
}

// assign makes the attachment hold one address of each family that is wished,
// and nothing else, and remembers the answer.
func (a *Agent) assign(ctx context.Context, at *attachment, ask *asker) (*wire.Reply, error) {
	at.reply = nil
	var kept, claimed []*holding
	for _, f := range pool.Families {
		if len(ask.selection.Names[f]) == 0 {
			continue
		}
		h, err := a.keep(ctx, at, ask, f)
		if err == nil && h == nil {
			h, err = a.claim(ctx, at, ask, f)
			claimed = append(claimed, h)
		}
		if err != nil {
			a.putBack(ctx, at, claimed)
			return nil, err
		}
		kept = append(kept, h)
	}
	for _, h := range slices.Clone(at.held) {
		if !slices.Contains(kept, h) {
			a.putBack(ctx, at, []*holding{h})
		}
	}
	for _, h := range kept {
		h.unanswered = false
	}
	at.answered, at.reply = ask.req.ContainerID, answer(kept, ask.routes, ask.cleanGateway())
	a.publish.add(ask.pod, ask.uid, endpointOf(ask.req.Interface, kept, at.reply, ask.cleanGateway()))
	return at.reply, nil
}

// keep takes an address of family f that the attachment holds already into the
// new container, and returns nil if it holds none that its pool still has. Of
// the pool's rules only the ranges are tested for a holder; one who was never
// told the address is none.
func (a *Agent) keep(ctx context.Context, at *attachment, ask *asker, f pool.Family) (*holding, error) {
	if err := ask.hold(ctx, func() error { return a.resolve(ctx, at) }); err != nil && !errors.Is(err, errUnsettled) {
		return nil, err
	}
	for _, h := range slices.SortedStableFunc(slices.Values(at.of(f)), confirmedFirst) {
		if asked := ask.requested(f); asked.IsValid() && asked != addressOf(h.entry) {
			continue
		}
		if err := ask.hold(ctx, func() error { return a.rewrite(ctx, at, h, ask) }); errors.Is(err, ledger.ErrLost) {
			at.forget(h)
			continue
		} else if err != nil {
			return nil, away(err)
		}
		if h, err := a.fence(ctx, at, ask, h, f); !passedOver(err) {
			return h, away(err)
		}
	}
	return nil, nil
}

// confirmedFirst orders holdings: of several, the pod bears the confirmed one.
func confirmedFirst(a, b *holding) int {
	switch {
	case a.confirmed() == b.confirmed():
		return 0
	case a.confirmed():
		return -1
	}
	return 1
}

// rewrite records the container that asks in an entry that the attachment
// holds; nothing is written if it stands there and was confirmed.
func (a *Agent) rewrite(ctx context.Context, at *attachment, h *holding, ask *asker) error {
	if h.confirmed() && h.entry.Spec.ContainerID == ask.req.ContainerID {
		return nil
	}
	h.pool = nil
	err := a.update(ctx, h, ask)
	if errors.Is(err, ledger.ErrLost) {
		if h.entry, err = a.reread(ctx, h.entry, at.key); err == nil {
			err = a.update(ctx, h, ask)
		}
	}
	return err
}

// update writes the container that asks into an entry.
func (a *Agent) update(ctx context.Context, h *holding, ask *asker) error {
	entry := h.entry.DeepCopy()
	a.fill(entry, ask)
	err := a.ledger.Update(ctx, entry)
	switch {
	case err == nil:
		h.entry, h.unsure = entry, time.Time{}
	case errors.Is(err, ledger.ErrUnknown):
		h.unsure = time.Now()
	}
	return err
}

// reread reads an entry that changed since it was known; ErrLost if it is not
// the attachment's any more, or if it comes from another claim.
func (a *Agent) reread(ctx context.Context, known *v2beta1.SpiderIP, key attachmentKey) (*v2beta1.SpiderIP, error) {
	now, err := a.ledger.Get(ctx, known.Name)
	if err != nil {
		return known, fmt.Errorf("read SpiderIP %s: %w", known.Name, err)
	}
	another := known.UID != "" && now != nil && now.UID != known.UID
	if now == nil || another || keyOf(now) != key || now.Spec.Node != known.Spec.Node {
		return known, ledger.ErrLost
	}
	return now, nil
}

// fill writes into an entry who holds it now.
func (a *Agent) fill(entry *v2beta1.SpiderIP, ask *asker) {
	entry.Spec.Node = a.node
	entry.Spec.Network = ask.req.Network
	entry.Spec.Interface = ask.req.Interface
	entry.Spec.Netns = ask.req.Netns
	entry.Spec.ContainerID = ask.req.ContainerID
	entry.Spec.Pod = v2beta1.IPPod{Namespace: ask.pod.Namespace, Name: ask.pod.Name, UID: ask.uid}
	entry.Spec.Use = v2beta1.IPUsePod
}

// putBack releases holdings also when the call's time is over. What cannot be
// released stays with the attachment, unconfirmed, for a repeat or DEL.
func (a *Agent) putBack(ctx context.Context, at *attachment, back []*holding) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	for _, h := range back {
		if h == nil || !slices.Contains(at.held, h) {
			continue
		}
		h.pool = nil
		if err := a.release(ctx, at, h); err != nil {
			a.log.Warn("not released yet", "address", h.entry.Spec.Address, "pod", h.entry.Spec.Pod.Namespace+"/"+h.entry.Spec.Pod.Name, "error", err)
		}
	}
}

// release frees one holding, or hands it to the oldest ADD that waits for such
// an address; one that has become somebody else's is left alone.
func (a *Agent) release(ctx context.Context, at *attachment, h *holding) error {
	handed, err := a.handOver(ctx, at, h)
	if err == nil && !handed {
		err = a.ledger.Release(ctx, h.entry)
	}
	if errors.Is(err, ledger.ErrLost) {
		var now *v2beta1.SpiderIP
		if now, err = a.reread(ctx, h.entry, at.key); err == nil {
			c := container{now.Spec.ContainerID, at.key.ifname}
			if now.Spec.ContainerID != h.entry.Spec.ContainerID && !a.table.isBuried(c) {
				h.entry = now // an update without an answer happened after all
				a.table.bind(c, at.key)
				return errUnsettled
			}
			err = a.ledger.Release(ctx, now)
		}
	}
	if err != nil && !errors.Is(err, ledger.ErrLost) {
		return away(err)
	}
	at.forget(h)
	if !handed {
		a.scouts.of(h.entry.Spec.Pool).free(addressOf(h.entry))
	}
	return nil
}

// handOver writes an address that is being released to the name of the oldest
// ADD in line that can use it, but not of the attachment that gives it up. That
// ADD fences it like any other.
func (a *Agent) handOver(ctx context.Context, from *attachment, h *holding) (bool, error) {
	w := a.waiters.call(h.entry.Spec.Pool, addressOf(h.entry), from)
	if w == nil {
		return false, nil
	}
	entry := h.entry.DeepCopy()
	a.fill(entry, w.ask)
	err := a.ledger.Update(ctx, entry)
	w.offer <- offer{entry, err}
	return err == nil, err
}

func (at *attachment) forget(h *holding) {
	at.held = slices.DeleteFunc(at.held, func(o *holding) bool { return o == h })
}

// answer is what CNI is told: addresses with the prefix, gateway and routes of
// the pools as the fence read them, and those of the pod's routes whose gateways
// are on this interface's subnets. A route to everything among these stands in
// for the one by the gateway.
func answer(held []*holding, routes []pool.Route, cleanGateway bool) *wire.Reply {
	r := &wire.Reply{}
	for _, h := range held {
		p := h.pool
		r.IPs = append(r.IPs, wire.IP{Address: p.Prefix(addressOf(h.entry)), Gateway: p.Gateway, Pool: p.Name})
		wanted := slices.Concat(p.Routes, routes)
		if p.Gateway.IsValid() && !cleanGateway {
			everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if p.Family == pool.IPv6 {
				everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			wanted = append(wanted, pool.Route{Dst: everything, GW: p.Gateway})
		}
		for _, route := range wanted {
			// Main plugins fail if a route is there, and the first says what counts.
			known := slices.ContainsFunc(r.Routes, func(o wire.Route) bool { return o.Dst == route.Dst })
			if p.Reaches(route.GW) && !known {
				r.Routes = append(r.Routes, wire.Route{Dst: route.Dst, GW: route.GW})
			}
		}
	}
	return r
}

func keyOf(e *v2beta1.SpiderIP) attachmentKey { return attachmentKey{e.Spec.Pod.UID, e.Spec.Interface} }

// addressOf is the address of an entry; the CRD admits no entry without one.
func addressOf(e *v2beta1.SpiderIP) netip.Addr {
	a, _ := addr.ParseAddr(e.Spec.Address)
	return a
}

func familyOf(e *v2beta1.SpiderIP) pool.Family { return pool.FamilyOf(addressOf(e)) }
