package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/autopool"
	"github.com/spidernet-io/spiderpool/internal/facts"
)

// Priorities in the queue of pools: an edit is judged before counts are brought up to date.
const (
	ofCounts = iota
	ofEdits
)

// gather is how long a change of what is held waits for others of its pool: a
// Deployment that starts is one write of the status and not two.
const gather = 500 * time.Millisecond

// enqueue asks for a look at pools.
func enqueue(q workqueue.TypedRateLimitingInterface[reconcile.Request], priority int, after time.Duration, pools ...string) {
	for _, name := range pools {
		r := reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}
		if p, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
			p.AddWithOpts(priorityqueue.AddOpts{Priority: &priority, After: after}, r)
		} else {
			q.AddAfter(r, after)
		}
	}
}

// newCache prepares the leader's watches of everything but SpiderIPs, of which
// it keeps less than a cache would.
func newCache(mgr manager.Manager, o Options) (cache.Cache, error) {
	byObject := map[client.Object]cache.ByObject{&corev1.Node{}: {Transform: trimNode}}
	for _, kind := range autopool.Kinds() {
		byObject[kind] = cache.ByObject{Transform: trimWorkload}
	}
	c, err := cache.New(o.Watch, cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		NewInformer: func(lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
			kind, _ := apiutil.GVKForObject(object, mgr.GetScheme()) // which the cache has looked up in it
			return toolscache.NewSharedIndexInformer(consistent(lw, o.Live, kind, func() {}), object, resync, indexers)
		},
		ByObject: byObject,
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the watches: %w", err)
	}
	return c, nil
}

// trimNode keeps of a node its name, InternalIPs and readiness: nodes are many,
// and their images and labels long.
func trimNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	trimmed := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, DeletionTimestamp: n.DeletionTimestamp}}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			trimmed.Status.Addresses = append(trimmed.Status.Addresses, a)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			trimmed.Status.Conditions = append(trimmed.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
		}
	}
	return trimmed, nil
}

// trimIP keeps of a SpiderIP what an Entry says.
func trimIP(ip *v2beta1.SpiderIP) {
	trimmed := v2beta1.SpiderIP{
		ObjectMeta: metav1.ObjectMeta{Name: ip.Name, UID: ip.UID, ResourceVersion: ip.ResourceVersion},
		Spec: v2beta1.IPSpec{Address: ip.Spec.Address, Pool: ip.Spec.Pool, Node: ip.Spec.Node, Pod: ip.Spec.Pod, Owner: ip.Spec.Owner,
			Use: ip.Spec.Use, Conflict: ip.Spec.Conflict},
	}
	if borne := ip.Annotations[v2beta1.AnnotationBearers]; borne != "" {
		trimmed.Annotations = map[string]string{v2beta1.AnnotationBearers: borne}
	}
	*ip = trimmed
}

// listWatch lists and watches so that every list is of a moment after it was
// asked for, not of what an API server has in its cache: a leader that begins
// with an old view would undo what the one before has written. Streamed
// lists are not asked for: they end with a bookmark, which proxies are known to hold back. A watch that the API server has not
// reached, since etcd was put back, lists anew.
type listWatch struct {
	toolscache.ListerWatcher
	toolscache.ListerWatcherWithContext
	facts.Resumption
	lists func() // before each list
}

func consistent(lw toolscache.ListerWatcher, live client.Reader, kind schema.GroupVersionKind, lists func()) *listWatch {
	return &listWatch{ListerWatcher: lw, ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw),
		Resumption: facts.Resumption{Live: live, Kind: kind}, lists: lists}
}

// IsWatchListSemanticsUnSupported is what a reflector asks before it streams.
func (*listWatch) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext lists, or asks for a page of a list.
func (l *listWatch) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Continue == "" {
		l.lists()
	}
	o.ResourceVersion, o.ResourceVersionMatch = "", ""
	list, err := l.ListerWatcherWithContext.ListWithContext(ctx, o)
	if err == nil {
		l.Listed(list)
	}
	return list, err
}

// WatchWithContext watches from a version on that the API server has reached.
func (l *listWatch) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := l.Check(ctx, o.ResourceVersion); err != nil {
		return nil, err
	}
	return l.ListerWatcherWithContext.WatchWithContext(ctx, o)
}

// heldSource is the watch of the SpiderIPs as a source of a controller.
type heldSource struct {
	client  client.WithWatch
	usage   *usage
	changed signal
}

// Start begins to watch, until ctx ends.
func (s *heldSource) Start(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	s.usage.changed = func(pool string) {
		enqueue(q, ofCounts, gather, pool)
		s.changed.raise()
	}
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			var list v2beta1.SpiderIPList
			err := s.client.List(ctx, &list, &client.ListOptions{Limit: o.Limit, Continue: o.Continue, Raw: &o})
			for i := range list.Items {
				trimIP(&list.Items[i])
			}
			return &list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return s.client.Watch(ctx, &v2beta1.SpiderIPList{}, &client.ListOptions{Raw: &o})
		},
	}
	kind := v2beta1.GroupVersion.WithKind("SpiderIP")
	reflector := toolscache.NewReflectorWithOptions(consistent(lw, s.client, kind, s.usage.relisting), &v2beta1.SpiderIP{}, s.usage, toolscache.ReflectorOptions{Name: "spiderips"})
	reflector.WatchListPageSize = 1000 // also when it lists again: memory is small
	go reflector.RunWithContext(ctx)
	return nil
}

// WaitForSync returns when the first list has come.
func (s *heldSource) WaitForSync(ctx context.Context) error {
	select {
	case <-s.usage.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no list of the SpiderIPs came: %w", ctx.Err())
	}
}

func (s *heldSource) String() string { return "SpiderIPs" }
