package controller

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/autopool"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// AutomaticPools say whether pools are made for applications that ask for SpiderSubnets.
type AutomaticPools struct {
	Enabled bool
	// Redundant is how many addresses more than pods a pool has where the application does not say.
	Redundant int
	// Families are those that are enabled.
	Families []pool.Family
}

const (
	// poolsGather is the least pause between two passes, for what changes at once is one.
	poolsGather = 200 * time.Millisecond
	// poolsRetry is the pause after a pass in which something failed or has to wait.
	poolsRetry = 2 * time.Second
	// poolsScan is the longest pause.
	poolsScan = time.Minute
	// poolWrites is how many pools are written at once.
	poolWrites = 8
)

// Reasons of Events on workloads.
const (
	reasonPoolMade    = "AutomaticPool"
	reasonPoolProblem = "AutomaticPoolProblem"
)

// automaticPools gives applications the pools that they ask for. A pass plans for all of them at once, from what the watches
// brought, and writes the differences. Addresses of a subnet are taken in three steps: they are announced on the pool, all
// pools and subnets are read live, and only what nobody else has or announces becomes the pool's. So another leader that is
// still at it, or an administrator, never gets the same range. There is no other state: who leads next goes on from the pools.
type automaticPools struct {
	Options
	watches   cache.Cache
	workloads *workloads
	pods      *pods
	owners    *facts.Facts // of pods
	usage     *usage
	inventory *inventory
	changed   signal

	problems prometheus.Gauge
	failures prometheus.Counter

	// told is what was told of each workload. One pass at a time uses it.
	told map[types.UID]string
	// wanted are pools that the watches say nobody asks for, and the API server does not.
	wanted *lately
}

func newAutomaticPools(o Options, watches cache.Cache, p *pods, u *usage, i *inventory) (*automaticPools, error) {
	a := &automaticPools{Options: o, watches: watches, workloads: &workloads{watches, o.AutomaticPools.Families}, pods: p, owners: facts.OfOwners(o.Live), usage: u, inventory: i,
		changed: p.asked, told: map[types.UID]string{}, wanted: &lately{noted: map[types.UID]time.Time{}},
		problems: prometheus.NewGauge(prometheus.GaugeOpts{Name: "spiderpool_controller_automatic_pool_problems",
			Help: "Applications that do not get the automatic pools that they ask for; an Event on each says why"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "spiderpool_controller_automatic_pool_failures_total",
			Help: "Passes over all applications in which something could not be read or written; each is done again"}),
	}
	return a, errors.Join(o.Metrics.Register(a.problems), o.Metrics.Register(a.failures))
}

// Start passes when something has changed, and every minute, until ctx ends.
func (a *automaticPools) Start(ctx context.Context) error {
	if err := a.watch(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	for ctx.Err() == nil {
		next := poolsScan
		if err := a.pass(ctx); err != nil && ctx.Err() == nil {
			if next = poolsRetry; !errors.Is(err, errWaits) {
				a.failures.Inc()
				a.Log.Warn("automatic pools are not what they should be yet", "error", err)
			}
		}
		a.changed.await(ctx, poolsGather, next)
	}
	return nil
}

// watch returns when all watches have brought their first list.
func (a *automaticPools) watch(ctx context.Context) error {
	if err := a.workloads.start(ctx, a.changed); err != nil {
		return err
	}
	raise := toolscache.ResourceEventHandlerFuncs{AddFunc: func(any) { a.changed.raise() }, DeleteFunc: func(any) { a.changed.raise() },
		UpdateFunc: func(before, after any) {
			if concerns(before, after) {
				a.changed.raise()
			}
		}}
	for _, kind := range []client.Object{&v2beta1.SpiderIPPool{}, &v2beta1.SpiderSubnet{}, &v2beta1.SpiderReservedIP{}} {
		informer, err := a.watches.GetInformer(ctx, kind)
		if err == nil {
			_, err = informer.AddEventHandler(raise)
		}
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	for _, synced := range []chan struct{}{a.usage.synced, a.pods.synced, a.inventory.synced} {
		select {
		case <-synced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// concerns reports whether a change may matter: of other pools the status does not, which is most of what they bring.
func concerns(before, after any) bool {
	old, ok := before.(*v2beta1.SpiderIPPool)
	now, is := after.(*v2beta1.SpiderIPPool)
	return !ok || !is || old.Generation != now.Generation || pool.AutomaticOf(now) != nil
}

// errWaits is the error of a pass that has to look again at what another announces.
var errWaits = errors.New("addresses are announced for two pools")

// pass makes pools what applications want. An error is the first thing that failed; the next pass tries again.
func (a *automaticPools) pass(ctx context.Context) error {
	state, err := a.state(ctx)
	if err != nil {
		return err
	}
	if len(state.Workloads) == 0 && len(state.Held) == 0 { // nobody asks for a pool, and there is none
		a.tell(nil)
		return nil
	}
	plan := autopool.Make(state)
	a.tell(plan.Problems)
	w := newWrites()
	for _, p := range plan.Create {
		w.Go(func() error { return a.create(ctx, p) })
	}
	for _, c := range plan.Change {
		w.Go(func() error { return a.change(ctx, c) })
	}
	for _, p := range plan.Delete {
		w.Go(func() error { return a.delete(ctx, p) })
	}
	a.wanted.forget(plan.Delete)
	if err := w.Wait(); err != nil {
		return err
	}
	if slices.ContainsFunc(plan.Create, announces) || slices.ContainsFunc(plan.Change, func(c autopool.Change) bool { return announces(c.After) }) ||
		slices.ContainsFunc(state.Pools, func(p v2beta1.SpiderIPPool) bool { return announces(&p) }) {
		return a.settle(ctx)
	}
	return nil
}

// state is what the watches brought.
func (a *automaticPools) state(ctx context.Context) (s autopool.State, err error) {
	var pools v2beta1.SpiderIPPoolList
	var subnets v2beta1.SpiderSubnetList
	if err := errors.Join(a.watches.List(ctx, &pools, client.UnsafeDisableDeepCopy), a.watches.List(ctx, &subnets, client.UnsafeDisableDeepCopy)); err != nil {
		return s, fmt.Errorf("list pools and subnets: %w", err)
	}
	if s.Workloads, err = a.workloads.list(ctx); err != nil {
		return s, err
	}
	s.Workloads = append(s.Workloads, a.ofPods(ctx)...)
	s.Pools, s.Subnets, s.Redundant = pools.Items, subnets.Items, a.AutomaticPools.Redundant
	reserved, nodes := a.inventory.kept()
	s.Reserved = reserved.Union(nodes)
	s.Held, s.InUse = map[string]addr.Set{}, a.usage.inUse
	for i := range s.Pools {
		if p := &s.Pools[i]; pool.AutomaticOf(p) != nil {
			s.Held[p.Name] = a.usage.heldIn(p.Name)
		}
	}
	return s, nil
}

// ofPods are the workloads that only their pods tell of. One whose top owner cannot be read now has to wait; its pools stay, for
// asksFor cannot read it either.
func (a *automaticPools) ofPods(ctx context.Context) (out []autopool.Workload) {
	for _, p := range a.pods.asking() {
		top, err := a.owners.TopOwner(ctx, p)
		if err != nil {
			a.Log.Warn("it is not known which application pods are of that ask for a SpiderSubnet", "namespace", p.Namespace, "error", err)
			continue
		}
		out = append(out, *autopool.WorkloadOfPod(p.Namespace, top, p.Annotations, a.AutomaticPools.Families))
	}
	return out
}

// settle looks live at all that is announced, and decides.
func (a *automaticPools) settle(ctx context.Context) error {
	var pools v2beta1.SpiderIPPoolList
	var subnets v2beta1.SpiderSubnetList
	if err := errors.Join(a.Live.List(ctx, &pools), a.Live.List(ctx, &subnets)); err != nil {
		return fmt.Errorf("read all pools and subnets: %w", err)
	}
	changes, waits := autopool.Settle(pools.Items, subnets.Items)
	w := newWrites()
	for _, c := range changes {
		w.Go(func() error {
			err := a.change(ctx, c)
			if err == nil && len(c.After.Spec.IPs) > 0 {
				a.made(c.After)
			}
			return err
		})
	}
	if err := w.Wait(); err != nil {
		return err
	}
	if waits {
		return errWaits
	}
	return nil
}

func (a *automaticPools) create(ctx context.Context, p *v2beta1.SpiderIPPool) error {
	err := a.Live.Create(ctx, p)
	if apierrors.IsAlreadyExists(err) {
		return nil // the watch is about to bring it
	}
	if err != nil {
		return fmt.Errorf("create IPPool %s: %w", p.Name, err)
	}
	return nil
}

// change writes what becomes of a pool, if it still is what was looked at.
func (a *automaticPools) change(ctx context.Context, c autopool.Change) error {
	err := a.Live.Patch(ctx, c.After.DeepCopy(), client.MergeFromWithOptions(c.Before, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the watch is about to bring what it is now
	}
	if err != nil {
		return fmt.Errorf("change IPPool %s: %w", c.Before.Name, err)
	}
	return nil
}

// delete deletes a pool that no application asks for, as far as the watches know, if the API server says so too. It goes when
// nobody holds an address in its name.
func (a *automaticPools) delete(ctx context.Context, p *v2beta1.SpiderIPPool) error {
	if a.wanted.knows(p.UID) {
		return nil
	}
	asked, err := a.asksFor(ctx, p)
	if asked || err != nil {
		a.wanted.note(p.UID)
		return err
	}
	err = a.Live.Delete(ctx, p.DeepCopy(), client.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete IPPool %s: %w", p.Name, err)
	}
	a.Log.Info("an automatic pool was deleted, for no application asks for it", "pool", p.Name)
	return nil
}

// asksFor reads the application of a pool, and whether it asks for it. One of a kind of others asks for its pools until it is
// gone: only its pods say what they want, and it may have none now.
func (a *automaticPools) asksFor(ctx context.Context, p *v2beta1.SpiderIPPool) (bool, error) {
	of := pool.AutomaticOf(p)
	known := autopool.New(of.APIVersion, of.Kind)
	if known == nil {
		o, err := facts.ReadOwner(ctx, a.Live, of.Namespace, &v2beta1.IPOwner{APIVersion: of.APIVersion, Kind: of.Kind, Name: of.Name})
		return o != nil, err
	}
	err := a.Live.Get(ctx, client.ObjectKey{Namespace: of.Namespace, Name: of.Name}, known)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", of.Application, err)
	}
	w := autopool.WorkloadOf(known, a.AutomaticPools.Families)
	switch {
	case w == nil:
		return false, nil
	case w.Ask == nil:
		return true, nil // what it asks for cannot be read
	}
	return w.Ask.Subnets[of.Interface][pool.FamilyOfSubnet(p.Spec.Subnet)] == of.Subnet, nil
}

// tell records on workloads what they do not get, each once until it is another.
func (a *automaticPools) tell(problems []autopool.Problem) {
	told := map[types.UID]string{}
	for _, p := range problems {
		told[p.UID] = p.Text
		if a.told[p.UID] != p.Text {
			a.Events.Event(referenceOf(p.Application, p.UID), corev1.EventTypeWarning, reasonPoolProblem, clip(p.Text))
			a.Log.Info("an application does not get the automatic pools that it asks for", "application", p.Application.String(), "why", p.Text)
		}
	}
	a.told = told
	a.problems.Set(float64(len(told)))
}

// made records on a workload that its pool has addresses.
func (a *automaticPools) made(p *v2beta1.SpiderIPPool) {
	of := pool.AutomaticOf(p)
	set, _ := pool.AddressesOf(p)
	a.Log.Info("an automatic pool has addresses", "pool", p.Name, "application", of.Application.String(), "subnet", of.Subnet, "count", set.Count().String())
	a.Events.Event(referenceOf(of.Application, types.UID(p.Labels[v2beta1.LabelOwnerApplicationUID])), corev1.EventTypeNormal, reasonPoolMade,
		fmt.Sprintf("IPPool %s of SpiderSubnet %s has %s addresses for interface %s", p.Name, of.Subnet, set.Count(), of.Interface))
}

func referenceOf(a pool.Application, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: a.APIVersion, Kind: a.Kind, Namespace: a.Namespace, Name: a.Name, UID: uid}
}

// clip keeps a text short enough for an Event.
func clip(text string) string {
	const most = 1000
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// lately are objects that need not be looked at again for a while.
type lately struct {
	mu    sync.Mutex
	noted map[types.UID]time.Time
}

func (l *lately) note(o types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted[o] = time.Now()
}

func (l *lately) knows(o types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.noted[o]
	return ok && time.Since(at) < poolsScan/2
}

// forget forgets all but some pools.
func (l *lately) forget(but []*v2beta1.SpiderIPPool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.noted, func(o types.UID, _ time.Time) bool {
		return !slices.ContainsFunc(but, func(p *v2beta1.SpiderIPPool) bool { return p.UID == o })
	})
}

// newWrites are some writes at a time, all of which are done though one fails.
func newWrites() *errgroup.Group {
	w := &errgroup.Group{}
	w.SetLimit(poolWrites)
	return w
}

// announces reports whether addresses are announced for a pool.
func announces(p *v2beta1.SpiderIPPool) bool {
	_, ok := p.Annotations[v2beta1.AnnotationCarving]
	return ok
}

// heldIn are the addresses that are held in the name of a pool.
func (u *usage) heldIn(name string) addr.Set {
	u.mu.Lock()
	defer u.mu.Unlock()
	h, ok := u.pools[name]
	if !ok {
		return addr.Set{}
	}
	return setOf(maps.Keys(h.entries))
}

// inUse are all addresses that are held.
func (u *usage) inUse() addr.Set {
	var all []netip.Addr
	u.each(func(e Entry) { all = append(all, e.Address) })
	return setOf(slices.Values(all))
}

func setOf(all iter.Seq[netip.Addr]) addr.Set {
	var ranges []addr.Range
	for a := range all {
		r, _ := addr.MakeRange(a, a)
		ranges = append(ranges, r)
	}
	return addr.MakeSet(ranges...)
}
