// Package facts holds the facts that decide about a pod's addresses — the pod,
// its namespace and node, the pools and reservations — as values. The agent
// fills it from watches of what concerns its node (New, Run); what a watch has
// not brought yet is read live. The command line fills it by reads (Read).
package facts

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
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
	cache  cache.Cache // nil if filled by reads
	live   client.Reader
	owners *lru.Cache // metav1.OwnerReference of what controls an owner, by its UID
	above  coalesce.Group[*metav1.OwnerReference]

	handled sync.Map // by watch, a toolscache.InformerSynced: its first list came, and was handled

	awaited sync.Map // by the channel on which an ADD waits: the key of the pod that it waits for

	mu    sync.Mutex
	epoch int // see Epoch
	// revision is the latest that is known of the API server's store, and putBack when that was found put back.
	revision uint64
	putBack  time.Time

	pools   map[string]parsed
	gone    map[types.UID]bool // pools that were read as gone, until the watch says so
	sorted  []*pool.Pool       // of pools; nil after an edit
	edited  chan struct{}      // closed at the next edit of any pool
	unknown coalesce.Group[*v2beta1.SpiderIPPool]

	automatic coalesce.Group[struct{}] // by namespace, see ReadAutomatic

	reserved    map[string]reservation
	allReserved addr.Set // the union of reserved, unless stale
	stale       bool
	gives       map[*pool.Pool]addr.Set // of pools, while allReserved counts; see Gives
	heard       time.Time               // when the watch of the reservations last brought something, or they were read
	events      int                     // of that watch
	reading     coalesce.Group[struct{}]
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
	w := empty(live, node)
	w.cache, err = cache.New(cfg, cache.Options{
		HTTPClient: httpClient, Scheme: apiclient.Scheme(), Mapper: mapper, NewInformer: w.newInformer,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Field: fields.OneTermEqualSelector("spec.nodeName", node), Transform: trimPod},
			meta(nodeKind): {Field: fields.OneTermEqualSelector("metadata.name", node)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the watches: %w", err)
	}
	return w, nil
}

// Read reads the facts of a node as it is now.
func Read(ctx context.Context, live client.Reader, node string) (*Facts, error) {
	w := empty(live, node)
	if err := w.readPools(ctx); err != nil {
		return nil, err
	}
	return w, w.readReserved(ctx)
}

// OfOwners are facts that know of owners alone (TopOwner). For who looks at pods
// of all nodes.
func OfOwners(live client.Reader) *Facts { return empty(live, "") }

func empty(live client.Reader, node string) *Facts {
	w := &Facts{
		node: node, live: live, owners: lru.New(4096),
		pools: map[string]parsed{}, gone: map[types.UID]bool{}, edited: make(chan struct{}),
		reserved: map[string]reservation{}, gives: map[*pool.Pool]addr.Set{},
	}
	w.above.Read = w.readAbove
	w.unknown.Read, w.unknown.Keep = w.lookUpPool, poolsFor
	w.automatic.Read, w.automatic.Keep = w.readAutomatic, poolsFor
	w.reading.Read = func(ctx context.Context, _ string) (struct{}, error) { return struct{}{}, w.readReserved(ctx) }
	return w
}

// PodContext is what the rules of a pool look at, for p.
func (w *Facts) PodContext(ctx context.Context, p *corev1.Pod) (*pool.PodContext, error) {
	node, err := w.metadata(ctx, ofNodes, nodeKind, w.node)
	if err != nil {
		return nil, err
	}
	namespace, err := w.metadata(ctx, ofNamespaces, namespaceKind, p.Namespace)
	if err != nil {
		return nil, err
	}
	return &pool.PodContext{
		Node: w.node, NodeLabels: node.Labels,
		Namespace: p.Namespace, NamespaceLabels: namespace.Labels, NamespaceAnnotations: namespace.Annotations,
		PodLabels: p.Labels, PodAnnotations: p.Annotations,
	}, nil
}

// metadata reads an object, and nothing for the empty name: the command line may ask for a pod that has no node yet.
func (w *Facts) metadata(ctx context.Context, watch string, kind schema.GroupVersionKind, name string) (*metav1.PartialObjectMetadata, error) {
	m := meta(kind)
	if name == "" || w.has(watch) && w.cache.Get(ctx, client.ObjectKey{Name: name}, m) == nil {
		return m, nil
	}
	if err := w.live.Get(ctx, client.ObjectKey{Name: name}, m); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", strings.ToLower(kind.Kind), name, err)
	}
	return m, nil
}
