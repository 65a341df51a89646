// Package facts holds the facts that decide about a pod's addresses — the pod,
// its namespace and node, the pools and reservations — as values. The agent
// fills it from watches of what concerns its node (New, Run); what a watch has
// not brought yet is read live. The command line fills it by reads (Read).
package facts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/coalesce"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Facts are what is known about the pods of one node.
type Facts struct {
	node   string
	cache  cache.Cache   // nil if filled by reads
	near   client.Reader // the cache, if there is one
	live   client.Reader
	owners *lru.Cache

	mu      sync.Mutex
	awaited map[client.ObjectKey]chan struct{}
	pools   map[string]parsed
	sorted  []*pool.Pool                // of pools; nil after an edit
	edited  chan struct{}               // closed at the next edit of any pool
	synced  []toolscache.InformerSynced // everything that the first lists brought was handled

	reserved    map[string]reservation
	allReserved addr.Set // the union of reserved, unless stale
	stale       bool
	heard       time.Time // when the watch of the reservations last brought something, or they were read
	events      int       // of that watch
	reading     coalesce.Group[struct{}]
}

// parsed is a pool, or why its object serves nobody.
type parsed struct {
	object *v2beta1.SpiderIPPool
	pool   *pool.Pool
	err    error
}

// meta is an empty metadata object of a kind: reading one transfers and keeps
// nothing but metadata.
func meta(gvk schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(gvk)
	return m
}

var (
	nodeKind      = corev1.SchemeGroupVersion.WithKind("Node")
	namespaceKind = corev1.SchemeGroupVersion.WithKind("Namespace")
)

// New prepares the facts of a node; nothing is asked of the API server yet. cfg
// is for watches and must have no timeout; live reads around the caches.
func New(cfg *rest.Config, live client.Reader, node string) (*Facts, error) {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare the watches: %w", err)
	}
	mapper, err := apiclient.Mapper(cfg, httpClient)
	if err != nil {
		return nil, err
	}
	c, err := cache.New(cfg, cache.Options{
		HTTPClient: httpClient, Scheme: apiclient.Scheme(), Mapper: mapper, NewInformer: newInformer,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Field: fields.OneTermEqualSelector("spec.nodeName", node), Transform: trimPod},
			meta(nodeKind): {Field: fields.OneTermEqualSelector("metadata.name", node)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the watches: %w", err)
	}
	w := empty(live, node)
	w.cache, w.near = c, c
	return w, nil
}

// newInformer makes an informer that begins with a LIST. Streamed first lists
// (client-go's WatchListClient) end with a bookmark; proxies are known to hold
// it back, and the informer would wait for it for ever.
func newInformer(lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	return toolscache.NewSharedIndexInformer(listFirst{lw, toolscache.ToListerWatcherWithContext(lw)}, object, resync, indexers)
}

type listFirst struct {
	toolscache.ListerWatcher
	toolscache.ListerWatcherWithContext
}

// IsWatchListSemanticsUnSupported is what a reflector asks before it streams.
func (listFirst) IsWatchListSemanticsUnSupported() bool { return true }

// Read reads the facts of a node as it is now.
func Read(ctx context.Context, live client.Reader, node string) (*Facts, error) {
	w := empty(live, node)
	var pools v2beta1.SpiderIPPoolList
	if err := live.List(ctx, &pools); err != nil {
		return nil, fmt.Errorf("read the SpiderIPPools: %w", err)
	}
	for i := range pools.Items {
		w.setPool(&pools.Items[i])
	}
	return w, w.readReserved(ctx)
}

func empty(live client.Reader, node string) *Facts {
	w := &Facts{
		node: node, near: live, live: live, owners: lru.New(4096),
		awaited: map[client.ObjectKey]chan struct{}{}, pools: map[string]parsed{}, reserved: map[string]reservation{},
		edited: make(chan struct{}),
	}
	w.reading.Read = func(ctx context.Context, _ string) (struct{}, error) { return struct{}{}, w.readReserved(ctx) }
	return w
}

// Run watches until ctx ends. Synced tells when the first lists have come.
func (w *Facts) Run(ctx context.Context) error {
	for _, watch := range []struct {
		object  client.Object
		handler toolscache.ResourceEventHandler
	}{
		{&corev1.Pod{}, on(w.podArrived, func(*corev1.Pod) {})},
		{&v2beta1.SpiderIPPool{}, on(w.setPool, w.dropPool)},
		{&v2beta1.SpiderReservedIP{}, on(w.setReserved, w.dropReserved)},
		{meta(nodeKind), nil},
		{meta(namespaceKind), nil},
	} {
		informer, err := w.cache.GetInformer(ctx, watch.object, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", watch.object, err)
		}
		if watch.handler == nil {
			continue
		}
		handled, err := informer.AddEventHandler(watch.handler)
		if err != nil {
			return fmt.Errorf("watch %T: %w", watch.object, err)
		}
		w.handledBy(handled.HasSynced)
		if _, ok := watch.object.(*v2beta1.SpiderReservedIP); ok {
			go w.listenReserved(ctx, informer.(toolscache.SharedIndexInformer), handled.HasSynced) // which all informers of the cache are
		}
	}
	return w.cache.Start(ctx)
}

func (w *Facts) handledBy(synced toolscache.InformerSynced) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced = append(w.synced, synced)
}

// Synced waits until all watches have brought their first list and that is
// known here, or ctx ends.
func (w *Facts) Synced(ctx context.Context) bool {
	if !w.cache.WaitForCacheSync(ctx) {
		return false
	}
	w.mu.Lock()
	all := slices.Clone(w.synced)
	w.mu.Unlock()
	return toolscache.WaitForCacheSync(ctx.Done(), all...)
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

func (w *Facts) setPool(o *v2beta1.SpiderIPPool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known, ok := w.pools[o.Name]; ok && !meansMore(known.object, o) {
		return
	}
	p, err := parse(o)
	w.pools[o.Name], w.sorted = parsed{o, p, err}, nil
	close(w.edited)
	w.edited = make(chan struct{})
}

// meansMore reports whether a pool may mean something else than before. Most
// events of a pool are its status, which does not.
func meansMore(before, now *v2beta1.SpiderIPPool) bool {
	return before.UID != now.UID || before.Generation != now.Generation ||
		(before.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil) ||
		(before.Status.AllocatedIPs == nil) != (now.Status.AllocatedIPs == nil) ||
		(before.Status.ObservedGeneration == 0) != (now.Status.ObservedGeneration == 0) ||
		before.Annotations[v2beta1.AnnotationReserved] != now.Annotations[v2beta1.AnnotationReserved]
}

// PoolsChanged returns a channel that is closed at the next edit of a pool.
func (w *Facts) PoolsChanged() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.edited
}

func (w *Facts) dropPool(o *v2beta1.SpiderIPPool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pools, o.Name)
	w.sorted = nil
}

// ErrNoPool means that a pool does not exist or is malformed, and serves nobody.
var ErrNoPool = errors.New("it serves nobody")

// Pool returns a pool by name. One that the watch has not brought is read live:
// it may have just been made. ErrNoPool says why it serves nobody; any other
// error is the API server's.
func (w *Facts) Pool(ctx context.Context, name string) (*pool.Pool, error) {
	w.mu.Lock()
	p, ok := w.pools[name]
	w.mu.Unlock()
	if !ok {
		return ReadPool(ctx, w.live, name)
	}
	return p.pool, p.err
}

// Candidates returns the pools of a family that a selection names, in its order, and
// of each that serves nobody the reason. An error is the API server's.
func (w *Facts) Candidates(ctx context.Context, selection pool.Selection, f pool.Family) ([]pool.Candidate, error) {
	names, unmatched := selection.Expand(f, w.Pools())
	var out []pool.Candidate
	for _, name := range names {
		p, err := w.Pool(ctx, name)
		switch {
		case errors.Is(err, ErrNoPool):
			out = append(out, pool.Candidate{Name: name, Why: err.Error()})
		case err != nil:
			return nil, err
		default:
			out = append(out, pool.Candidate{Name: name, Pool: p})
		}
	}
	for _, pattern := range unmatched {
		out = append(out, pool.Candidate{Name: pattern, Why: fmt.Sprintf("no %s IPPool has such a name", f)})
	}
	return out, nil
}

// ReadPool reads and parses a pool from the API server.
func ReadPool(ctx context.Context, c client.Reader, name string) (*pool.Pool, error) {
	if why := validation.NameIsDNSSubdomain(name, false); len(why) > 0 {
		return nil, fmt.Errorf("no such IPPool, and none can have this name (%s), %w", why[0], ErrNoPool)
	}
	o := &v2beta1.SpiderIPPool{}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, o); apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no such IPPool, %w", ErrNoPool)
	} else if err != nil {
		return nil, fmt.Errorf("read IPPool %s: %w", name, err)
	}
	return parse(o)
}

func parse(o *v2beta1.SpiderIPPool) (*pool.Pool, error) {
	p, errs := pool.Parse(o)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrNoPool, errs.ToAggregate())
	}
	return p, nil
}

// Pools returns all pools, by name; of malformed ones an outline, so that they
// are found by pattern or as a default and can be told of.
//
// The slice is shared and made again only after an edit: an ADD must not cost
// what there are pools.
func (w *Facts) Pools() []*pool.Pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sorted != nil {
		return w.sorted
	}
	w.sorted = []*pool.Pool{}
	for _, name := range slices.Sorted(maps.Keys(w.pools)) {
		p := w.pools[name].pool
		if p == nil {
			p = pool.Outline(w.pools[name].object)
		}
		if p != nil {
			w.sorted = append(w.sorted, p)
		}
	}
	return w.sorted
}

// PodContext is what the rules of a pool look at, for p.
func (w *Facts) PodContext(ctx context.Context, p *corev1.Pod) (*pool.PodContext, error) {
	node := meta(nodeKind)
	if w.node != "" { // the command line may ask for a pod that has none yet
		var err error
		if node, err = w.metadata(ctx, nodeKind, w.node); err != nil {
			return nil, err
		}
	}
	namespace, err := w.metadata(ctx, namespaceKind, p.Namespace)
	if err != nil {
		return nil, err
	}
	return &pool.PodContext{
		Node: w.node, NodeLabels: node.Labels,
		Namespace: p.Namespace, NamespaceLabels: namespace.Labels, NamespaceAnnotations: namespace.Annotations,
		PodLabels: p.Labels, PodAnnotations: p.Annotations,
	}, nil
}

func (w *Facts) metadata(ctx context.Context, kind schema.GroupVersionKind, name string) (*metav1.PartialObjectMetadata, error) {
	m := meta(kind)
	if err := w.near.Get(ctx, client.ObjectKey{Name: name}, m); err == nil {
		return m, nil
	}
	if err := w.live.Get(ctx, client.ObjectKey{Name: name}, m); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", strings.ToLower(kind.Kind), name, err)
	}
	return m, nil
}
