package facts

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// The watches, by resource.
const (
	ofPods       = "pods"
	ofPools      = "spiderippools"
	ofReserved   = "spiderreservedips"
	ofNodes      = "nodes"
	ofNamespaces = "namespaces"
)

// Run watches until ctx ends. The API server may be away: what a watch has not
// brought yet is read when it is needed.
func (w *Facts) Run(ctx context.Context) error {
	for _, watch := range []struct {
		name    string
		object  client.Object
		handler toolscache.ResourceEventHandler
	}{
		{ofPods, &corev1.Pod{}, on(w.podArrived, func(*corev1.Pod) {})},
		{ofPools, &v2beta1.SpiderIPPool{}, on(w.setPool, w.dropPool)},
		{ofReserved, &v2beta1.SpiderReservedIP{}, on(w.setReserved, w.dropReserved)},
		{ofNodes, meta(nodeKind), toolscache.ResourceEventHandlerFuncs{}},
		{ofNamespaces, meta(namespaceKind), toolscache.ResourceEventHandlerFuncs{}},
	} {
		informer, err := w.cache.GetInformer(ctx, watch.object, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %s: %w", watch.name, err)
		}
		handled, err := informer.AddEventHandler(watch.handler)
		if err != nil {
			return fmt.Errorf("watch %s: %w", watch.name, err)
		}
		synced := toolscache.InformerSynced(handled.HasSynced)
		if watch.name == ofReserved {
			synced = func() bool { return handled.HasSynced() && !w.lastHeard().IsZero() }
			go w.listenReserved(ctx, informer.(toolscache.SharedIndexInformer), handled.HasSynced) // which all informers of the cache are
		}
		w.handled.Store(watch.name, synced)
	}
	go w.readPoolsUntilWatched(ctx)
	return w.cache.Start(ctx)
}

// on makes an event handler of two functions on one type.
func on[T any](set, drop func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(o.(T)) },
		UpdateFunc: func(_, o any) { set(o.(T)) },
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			drop(o.(T))
		},
	}
}

// has reports whether a watch has brought its first list and its handler has run
// on that. Before, the cache must not be asked: it would wait.
func (w *Facts) has(watch string) bool {
	handled, ok := w.handled.Load(watch)
	return ok && handled.(toolscache.InformerSynced)()
}

// Missing names the resources whose watches have not brought their first list
// yet. What of them is needed is read live meanwhile.
func (w *Facts) Missing() (out []string) {
	for _, name := range []string{ofPods, ofPools, ofReserved, ofNodes, ofNamespaces} {
		if !w.has(name) {
			out = append(out, name)
		}
	}
	return out
}

// Await waits until no watch is missing, for a limited time or until ctx ends,
// and returns those that still are. Run must run meanwhile.
func (w *Facts) Await(ctx context.Context, limit time.Duration) (missing []string) {
	_ = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, limit, true, func(context.Context) (bool, error) {
		missing = w.Missing()
		return len(missing) == 0, nil
	}) // an error says that some are missing
	return missing
}

// poolsFor is how old what was read of the pools may be while no watch brings it.
const poolsFor = 10 * time.Second

// readPoolsUntilWatched reads all pools from time to time while their watch is
// missing: default pools and patterns cannot be looked up one by one.
func (w *Facts) readPoolsUntilWatched(ctx context.Context) {
	_ = wait.PollUntilContextCancel(ctx, poolsFor, false, func(ctx context.Context) (bool, error) {
		if w.has(ofPools) {
			return true, nil
		}
		_ = w.readPools(ctx) // there is a next time, and the watch says what is wrong
		return false, nil
	})
}
