// Package allocation gives an interface of a pod an address: it tries the pools that serve the pod in order, searches each
// for a free address, claims it through the ledger, and admits it by the fence. If all are full the ADD waits in line.
//
// One allocation goes: Allocate → round (pools in order) → search (create entries, LIST) → confirm (the fence).
package allocation

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/line"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/agent/usage"
	"github.com/spidernet-io/spiderpool/internal/coalesce"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// Options are what an Allocator is made of.
type Options struct {
	// Node is the name of the Node object, Families those that the cluster's configuration enables.
	Node      string
	Families  []pool.Family
	Facts     *facts.Facts
	Ledger    *ledger.Ledger
	Leases    *lease.Table
	Durations timing.Durations
	Metrics   *metrics.Metrics
	// Events records on pods why they wait.
	Events record.EventRecorder
	Log    *slog.Logger
}

// Allocator allocates the addresses of one node.
type Allocator struct {
	Options

	pools   coalesce.Group[*pool.Pool] // live reads, for the fence
	lists   coalesce.Group[addr.Set]   // of the addresses in use of a pool
	podless coalesce.Group[podless]    // of the entries of a pool that no pod has
	usages  usage.Pools
	line    line.Line
	// stopping is closed when the agent is to stop: then nobody waits for an address any more.
	stopping <-chan struct{}
}

// New makes an allocator.
func New(o Options) *Allocator {
	a := &Allocator{Options: o}
	a.pools.Read = o.Facts.ReadPool
	a.lists.Keep = 2 * usage.LastGap
	a.lists.Read = func(ctx context.Context, pool string) (addr.Set, error) {
		a.Metrics.Lists.Inc()
		taken, strange, err := a.Ledger.OfPool(ctx, pool)
		if len(strange) > 0 {
			a.Log.Warn("SpiderIPs that name no address are left out", "pool", pool, "count", len(strange), "first", strange[0])
		}
		return taken, err
	}
	a.podless.Keep, a.podless.Read = podlessAge, a.readPodless
	return a
}

// StopWaiting ends all waiting for addresses when ctx ends. Called by the agent before it serves.
func (a *Allocator) StopWaiting(ctx context.Context) { a.stopping = ctx.Done() }

// Waiting is how many ADDs wait for an address.
func (a *Allocator) Waiting() int { return a.line.Length() }

// Request is one ADD: who asks and for what, and how far it has come.
type Request struct {
	wire.Request
	// Came is when it came, Deadline until when it may wait for an address or for the API server.
	Came, Deadline time.Time
	// Known is the revision of the API server's store that was known when it came.
	Known uint64
	// UID is the pod's as CNI gave it, and Pod the pod that this means.
	UID       string
	Pod       *corev1.Pod
	Context   *pool.PodContext
	Selection pool.Selection
	// Routes are those that the pod asks for, for any of its interfaces.
	Routes []pool.Route
	// FixedFor is what the pod's addresses belong to, nil if they go with the pod. Recorded are those that the interface had,
	// in this pod or one before it of the name, as its SpiderEndpoint says.
	FixedFor *v2beta1.IPOwner
	Recorded map[pool.Family]netip.Addr
	// Waited is how long it stood in line.
	Waited time.Duration

	// iface is the interface of the pod, while it is locked, and unlock ends that.
	iface  *lease.Interface
	unlock func()
	// left are entries of earlier pods whose addresses the interface does not get again.
	left []*v2beta1.SpiderIP
	// current says that the ADD has taken over an address of an earlier pod.
	current bool
	// unprobed says that nobody can be asked from the interface.
	unprobed bool
	// seen is when the last LIST was sent that this ADD has used, by pool.
	seen map[string]time.Time
	// waiter is its place in line; final says that it searches for the last time.
	waiter *line.Waiter
	final  bool
}

// Lock locks the interface of the pod for the ADD. Allocate gives the lock up while the ADD waits in line, so that a DEL can
// release what another container of the pod bears, and has it again when it returns an address.
func (a *Allocator) Lock(ctx context.Context, r *Request) (err error) {
	if r.iface == nil {
		r.iface, r.unlock, err = a.Leases.Lock(ctx, r.Owner())
	}
	return err
}

// Unlock gives the interface up, if the ADD has it.
func (r *Request) Unlock() {
	if r.iface != nil {
		r.unlock()
		r.iface = nil
	}
}

// Owner is the interface of the pod, as leases know it.
func (r *Request) Owner() lease.Owner { return lease.Owner{PodUID: r.UID, Interface: r.Interface} }

// Key is the attachment that asks.
func (r *Request) Key() lease.Key { return lease.Key{Container: r.ContainerID, Interface: r.Interface} }

// Holding is the interface with what it holds, nil if the ADD does not have it locked.
func (r *Request) Holding() *lease.Interface { return r.iface }

// patient reports whether the ADD may wait.
func (r *Request) patient() bool { return time.Now().Before(r.Deadline) }

// spec is what an entry says in the name of the ADD, but for address and pool.
func (r *Request) spec(node string) v2beta1.IPSpec {
	return v2beta1.IPSpec{Node: node, Network: r.Network, Interface: r.Interface, Netns: r.Netns, ContainerID: r.ContainerID,
		Pod: r.pod(), Owner: r.FixedFor, Use: v2beta1.IPUsePod}
}

func (r *Request) pod() v2beta1.IPPod {
	return v2beta1.IPPod{Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: r.UID}
}

// Grant is an address that an interface holds, and its pool as the fence read it.
type Grant struct {
	Lease *lease.Lease
	Pool  *pool.Pool
	// Moved says that another container bore the address before: neighbours may believe that it still does.
	Moved bool
}

// Unproven reports whether another host may have the address: nobody has told it to the pod yet, and no other pod of the same
// virtual machine bears it, which would answer for it.
func (g *Grant) Unproven() bool { return !g.Lease.Owned && len(lease.Bearers(g.Lease.Entry)) == 0 }

// Address is what is granted.
func (g *Grant) Address() netip.Addr { return lease.AddressOf(g.Lease.Entry) }

// Allocate gives the interface, which the ADD has locked, an address of a family: one that it holds already and that its
// new container may have, or a new one. If every pool that would serve the pod is full, or an automatic pool does not
// serve it yet, it waits in line: for an address that this node releases, for an edit of a pool, and for the time to look again.
func (a *Allocator) Allocate(ctx context.Context, r *Request, f pool.Family) (*Grant, error) {
	if r.seen == nil {
		r.seen = map[string]time.Time{}
	}
	edited := a.Facts.PoolsChanged()
	g, refused, err := a.attempt(ctx, r, f)
	if held, ok := errors.AsType[*Held](err); ok {
		g, refused, err = a.awaitHolder(ctx, r, f, held)
	}
	if refused == nil {
		return g, err
	}
	switch {
	case !refused.MayPass():
		return nil, refused
	case !r.patient():
		a.describe(ctx, r, refused)
		return nil, refused
	}
	return a.wait(ctx, r, f, refused, edited)
}

// attempt looks once. Before an ADD that waited for an automatic pool is refused, it is read what the watch may not have
// brought. Exactly one of its results is set.
func (a *Allocator) attempt(ctx context.Context, r *Request, f pool.Family) (*Grant, *Refused, error) {
	edited := a.Facts.PoolsChanged()
	g, refused, err := a.look(ctx, r, f)
	if refused == nil || !refused.automatic() || r.patient() {
		return g, refused, err
	}
	if err := a.Facts.ReadAutomatic(ctx, r.Pod.Namespace); err != nil {
		return nil, nil, away(err)
	}
	select {
	case <-edited:
		return a.look(ctx, r, f)
	default:
		return nil, refused, nil
	}
}

// look looks at what the interface holds, then at the pools.
func (a *Allocator) look(ctx context.Context, r *Request, f pool.Family) (*Grant, *Refused, error) {
	if g, err := a.had(ctx, r, f); g != nil || err != nil {
		return g, nil, err
	}
	return a.round(ctx, r, f)
}

// round tries the pools that serve the selection, once. Only a pool that is proven full is passed over for the next, or one
// that refuses meanwhile.
func (a *Allocator) round(ctx context.Context, r *Request, f pool.Family) (*Grant, *Refused, error) {
	if err := a.reasserted(); err != nil {
		return nil, nil, err
	}
	candidates, err := a.selected(ctx, r, f)
	if err != nil {
		return nil, nil, err
	}
	serve, refusals := pool.Choose(r.Context, f, candidates)
	refused := &Refused{Full: map[string]*Full{}, Asked: r.asked(f),
		Unserved: pool.Unserved{Interface: r.Interface, Family: f, Selection: r.Selection, Why: refusals}}
	for _, p := range serve {
		g, full, refusal, err := a.claim(ctx, r, p, f)
		if g != nil || err != nil {
			return g, nil, err
		}
		if full != nil {
			refused.Full[p.Name] = full
		}
		refused.Why = append(refused.Why, pool.Refusal{Pool: p.Name, Why: refusal})
	}
	if g, err := a.fromQuarantine(ctx, r, f, serve, refused.Full); g != nil || err != nil {
		return g, nil, err
	}
	return nil, refused, nil
}

// selected are the pools that the ADD may take from, as they are now.
func (a *Allocator) selected(ctx context.Context, r *Request, f pool.Family) ([]pool.Candidate, error) {
	a.selectAgain(r, f)
	candidates, err := retry(ctx, r, func() ([]pool.Candidate, error) { return a.Facts.Candidates(ctx, r.Selection, f) })
	return candidates, away(err)
}

// selectAgain looks which pools are defaults, or automatic ones of the application, now, if those are what the ADD takes from.
func (a *Allocator) selectAgain(r *Request, f pool.Family) {
	if r.Selection.Source != pool.FromDefaults && r.Selection.Subnets == nil {
		return
	}
	if now, err := pool.SelectionOf(r.Context, a.Facts.Pools(), a.Families); err == nil && now.Has(f) {
		r.Selection.Names[f] = now.Names[f]
	}
}

// claim claims an address in one pool and has the fence admit it. Exactly one of its results is set.
func (a *Allocator) claim(ctx context.Context, r *Request, p *pool.Pool, f pool.Family) (_ *Grant, _ *Full, refusal string, _ error) {
	for {
		candidates, refusal := a.candidates(r, p, f)
		if refusal != "" {
			return nil, nil, refusal, nil
		}
		l, full, err := a.search(ctx, r, p, candidates)
		if err != nil || full != nil {
			return nil, full, "", err
		}
		verdict, err := a.confirm(ctx, r, l, f)
		switch {
		case err != nil:
			return nil, nil, "", err
		case verdict.refusal != "":
			return nil, nil, verdict.refusal, nil
		case verdict.moved:
			p = verdict.live // it was edited meanwhile: search in what it is now
		default:
			return &Grant{Lease: l, Pool: verdict.live}, nil, "", nil
		}
	}
}

// reuse gives the new container an address that the interface holds already: its own, or one whose container is silent. It
// returns nil if there is none that its pool still has.
func (a *Allocator) reuse(ctx context.Context, r *Request, f pool.Family) (*Grant, error) {
	i := r.iface
	if len(i.Leases()) == 0 {
		return nil, nil
	}
	if err := r.Retry(ctx, func() error { return a.Leases.Settle(ctx, i) }); err != nil {
		return nil, away(err)
	}
	for _, l := range a.usable(r, f) {
		moved := l.Key() != r.Key()
		// Also what was confirmed is written: only that shows that the entry stands and is not another's by now.
		err := r.Retry(ctx, func() error { return a.Leases.Rewrite(ctx, i, l, r.spec(a.Node)) })
		if errors.Is(err, ledger.ErrLost) {
			continue
		} else if err != nil {
			return nil, away(err)
		}
		verdict, err := a.confirm(ctx, r, l, f)
		if err != nil {
			return nil, err
		}
		if verdict.admitted() {
			return &Grant{l, verdict.live, moved}, nil
		}
	}
	return nil, nil
}

// usable are the leases of a family that a container may have, the confirmed ones first.
func (a *Allocator) usable(r *Request, f pool.Family) (out []*lease.Lease) {
	var others []*lease.Lease
	for _, l := range r.iface.Leases() {
		asked := r.asked(f)
		if !l.Held() || l.Family() != f || asked.IsValid() && asked != lease.AddressOf(l.Entry) {
			continue
		}
		switch mine := l.Entry.Spec.ContainerID == r.ContainerID; {
		case mine && l.Confirmed:
			out = append(out, l)
		case mine || a.Leases.Silent(l, r.Key()):
			others = append(others, l)
		}
	}
	return append(out, others...)
}

// Release removes the entry of a lease and, if that made the address free, wakes the oldest ADD that can use it.
func (a *Allocator) Release(ctx context.Context, i *lease.Interface, l *lease.Lease) error {
	o := line.Offer{Pool: l.Entry.Spec.Pool, Address: lease.AddressOf(l.Entry)}
	freed, err := a.Leases.Release(ctx, i, l)
	if freed {
		a.freed(o, i.Owner)
	}
	return away(err)
}

// freed wakes the oldest ADD that can use an address, or notes that the address is free.
func (a *Allocator) freed(o line.Offer, from lease.Owner) {
	if !a.line.Wake(o, from) {
		a.usages.Of(o.Pool).Release(o.Address)
	}
}

// PutBack releases a lease also when the call's time is over. If it cannot be released now it stays the interface's, and the
// audit releases it.
func (a *Allocator) PutBack(ctx context.Context, i *lease.Interface, l *lease.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.Durations.PutBack)
	defer cancel()
	if err := a.Release(ctx, i, l); err != nil {
		a.Log.Warn("not released yet", "address", l.Entry.Spec.Address, "pod", l.Entry.Spec.Pod.Namespace+"/"+l.Entry.Spec.Pod.Name, "error", err)
	}
}

// Tidy forgets what is remembered of pools that exist no more.
func (a *Allocator) Tidy() {
	exist := map[string]bool{}
	for _, p := range a.Facts.Pools() {
		exist[p.Name] = true
	}
	a.usages.KeepOnly(func(pool string) bool { return exist[pool] })
}
