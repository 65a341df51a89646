// Package controller keeps true what the API shows of pools: their status, what is
// reserved in them, their life from the first write to the last address. Only the
// leader runs it, and nothing of it is on the path of an ADD or a DEL.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// Options are what the leader's work needs.
type Options struct {
	// Live reads and writes uncached, with a timeout for each request and a bound for
	// those under way (apiclient.Clients.Live).
	Live client.Client
	// Watch is for watches and has no timeout (apiclient.Clients.Watch).
	Watch *rest.Config
	// Events records what people should see on their pools.
	Events record.EventRecorder
	// Metrics is where the numbers of pools are registered.
	Metrics prometheus.Registerer
	// DebugMetrics adds those of single pools under their names of before.
	DebugMetrics bool
	// FixedAddresses says which pods have fixed addresses.
	FixedAddresses fixed.Rules
	// GC says which addresses are collected.
	GC config.GC
	// AutomaticPools says whether pools are made for applications.
	AutomaticPools AutomaticPools
	Log            *slog.Logger

	// These are set by tests in place of the constants.
	keptScan, keptSettled, collectGather time.Duration
}

const (
	// workers is how many pools are looked at at once.
	workers = 4
	// firstRetry and lastRetry bound the pause after a look that failed.
	firstRetry, lastRetry = 100 * time.Millisecond, 30 * time.Second
)

// Setup registers all that the leader runs. Nothing is asked of the API server
// before the manager is started and leads.
func Setup(mgr manager.Manager, o Options) error {
	watches, err := newCache(mgr, o)
	if err != nil {
		return err
	}
	// A runnable that does not say otherwise waits for the lease.
	if err := mgr.Add(manager.RunnableFunc(watches.Start)); err != nil {
		return fmt.Errorf("register the watches: %w", err)
	}
	watching, err := client.NewWithWatch(o.Watch, client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("prepare the watch of the SpiderIPs: %w", err)
	}
	s := &status{
		Options: o, pools: watches, ledger: ledger.New(o.Live), histories: map[string]*history{},
		usage: newUsage(), inventory: newInventory(), budget: newBudget(),
	}
	if err := o.Metrics.Register(newCollector(s.usage, s.inventory, o.DebugMetrics)); err != nil {
		return fmt.Errorf("register the metrics of pools: %w", err)
	}
	c, err := controller.New("ippool", mgr, controller.Options{
		Reconciler: s, MaxConcurrentReconciles: workers,
		RateLimiter: retries(),
	})
	if err != nil {
		return fmt.Errorf("make the controller of pools: %w", err)
	}
	if err := c.Watch(&sources{append(s.sources(watches), &heldSource{watching, s.usage, s.inventory.changed}), s.inventory.complete}); err != nil {
		return fmt.Errorf("register the watches: %w", err)
	}
	p := newPods(watching, s.inventory.changed)
	if err := addCollection(mgr, watches, p, o, s.usage, s.inventory); err != nil {
		return fmt.Errorf("register the collection of addresses: %w", err)
	}
	if o.AutomaticPools.Enabled {
		err = addAutomaticPools(mgr, watches, p, o, s.usage, s.inventory)
	}
	if err == nil && (o.GC.Enabled || o.AutomaticPools.Enabled) { // nobody else needs a watch of pods
		err = mgr.Add(p)
	}
	if err != nil {
		return fmt.Errorf("register the automatic pools: %w", err)
	}
	return errors.Join(addSubnets(mgr, watches, o), addReservations(mgr, watches, o))
}

// addCollection registers what collects addresses, unless that is switched off.
func addCollection(mgr manager.Manager, watches cache.Cache, p *pods, o Options, u *usage, i *inventory) error {
	o.keptScan, o.keptSettled = cmp.Or(o.keptScan, keptScan), cmp.Or(o.keptSettled, keptSettled)
	o.collectGather = cmp.Or(o.collectGather, collectGather)
	a, err := newActor(o, watches, &p.turnover)
	if err != nil || !o.GC.Enabled {
		return err
	}
	c := newCollection(a, p, u, i)
	return errors.Join(mgr.Add(newKeptAddresses(a, u)), mgr.Add(c), mgr.Add(endpoints{c}))
}

func addAutomaticPools(mgr manager.Manager, watches cache.Cache, p *pods, o Options, u *usage, i *inventory) error {
	a, err := newAutomaticPools(o, watches, p, u, i)
	if err != nil {
		return err
	}
	return mgr.Add(a)
}

// retries is the pause after a look that failed.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry)
}

// sources are watches that count only together.
type sources struct {
	all  []source.SyncingSource
	done func() // called when each has brought its first list
}

// Start begins to watch.
func (s *sources) Start(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	for _, one := range s.all {
		if err := one.Start(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// WaitForSync returns when each has brought its first list.
func (s *sources) WaitForSync(ctx context.Context) error {
	for _, one := range s.all {
		if err := one.WaitForSync(ctx); err != nil {
			return err
		}
	}
	s.done()
	return nil
}

// sources are what makes a pool be looked at, beside what is held in its name.
func (s *status) sources(watches cache.Cache) []source.SyncingSource {
	i := s.inventory
	return []source.SyncingSource{
		source.Kind(watches, &v2beta1.SpiderIPPool{}, on(
			func(o *v2beta1.SpiderIPPool) []string { i.setPool(o); return []string{o.Name} },
			func(o *v2beta1.SpiderIPPool) []string { i.dropPool(o.Name); return []string{o.Name} })),
		source.Kind(watches, &v2beta1.SpiderReservedIP{}, on(i.setReserved,
			func(o *v2beta1.SpiderReservedIP) []string { return i.dropReserved(o.Name) })),
		source.Kind(watches, &corev1.Node{}, on(i.setNode,
			func(o *corev1.Node) []string { return i.dropNode(o.Name) })),
		source.Kind(watches, &v2beta1.SpiderSubnet{}, on(
			func(o *v2beta1.SpiderSubnet) []string { i.setSubnet(o.Name); return nil },
			func(o *v2beta1.SpiderSubnet) []string { i.dropSubnet(o.Name); return nil })),
	}
}

// on makes an event handler of two functions, which return the pools to look at.
func on[T client.Object](set, drop func(T) []string) handler.TypedEventHandler[T, reconcile.Request] {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.TypedFuncs[T, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[T], q queue) {
			enqueue(q, priorityOf(e.Object), 0, set(e.Object)...)
		},
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[T], q queue) {
			enqueue(q, priorityOf(e.ObjectNew), 0, set(e.ObjectNew)...)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[T], q queue) {
			enqueue(q, ofEdits, 0, drop(e.Object)...)
		},
	}
}

// priorityOf is low only for a pool that was judged as it is.
func priorityOf(o client.Object) int {
	p, ok := o.(*v2beta1.SpiderIPPool)
	if ok && p.Status.ObservedGeneration == p.Generation && p.Status.ObservedReserved == p.Annotations[v2beta1.AnnotationReserved] {
		return ofCounts
	}
	return ofEdits
}
