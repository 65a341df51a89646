package controller

import (
	"context"
	"strings"
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/autopool"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// podPage is how many pods one answer holds: they are large, and the leader's memory small.
const podPage = 250

// podFact is what the collection needs of a pod. There are as many as pods in the cluster.
type podFact struct {
	uid types.UID
	// mirrors is the hash of the static pod whose mirror it is; empty for any other.
	mirrors string
	state   podState
	grace   time.Duration
	// asks is set of a pod that asks for SpiderSubnets and that a workload of a kind of others made.
	asks *podAsk
}

// podAsk is who made a pod, and its annotations about SpiderSubnets.
type podAsk struct {
	owner       metav1.OwnerReference
	annotations map[string]string
}

// askOf is nil for a pod whose workload is watched, and for the mirror of a static pod, which its node controls.
func askOf(p *corev1.Pod) *podAsk {
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil || owner.APIVersion == "v1" && owner.Kind == "Node" || p.Spec.HostNetwork || !pool.AsksForSubnets(p.Annotations) || autopool.IsKnown(owner.APIVersion, owner.Kind) {
		return nil
	}
	return &podAsk{*owner, subnetAnnotations(p.Annotations)}
}

// factOf is what counts of a pod. A mirror that is being deleted says nothing of its container.
func factOf(p *corev1.Pod) podFact {
	f := podFact{uid: p.UID, mirrors: p.Annotations[corev1.MirrorPodAnnotationKey], state: podLiving, asks: askOf(p)}
	switch {
	case p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted":
		f.state = podEvicted
	case p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
		f.state = podFinished
	case p.DeletionTimestamp != nil && f.mirrors == "":
		f.state = podTerminating
		if s := p.DeletionGracePeriodSeconds; s != nil {
			f.grace = time.Duration(*s) * time.Second
		}
	}
	return f
}

// of is what the pod of an entry is, if this is the pod that has its name now; nil says that none has.
func (f *podFact) of(e Entry) (podState, time.Duration) {
	switch {
	case f != nil && (string(f.uid) == e.UID || f.mirrors == e.UID):
		return f.state, f.grace
	case facts.IsStatic(e.UID):
		return podNoMirror, 0
	}
	return podGone, 0
}

// pods is what the watch of all pods brought: the store of a reflector, and not an informer, whose objects would be ten times
// as large.
type pods struct {
	client client.WithWatch
	// changed wakes the collection, asked who makes automatic pools.
	changed, asked signal
	turnover       turnover

	mu     sync.Mutex
	all    map[string]podFact // by "namespace/name"
	synced chan struct{}      // closed when the watch has brought its first list
}

func newPods(c client.WithWatch, changed signal) *pods {
	return &pods{client: c, changed: changed, asked: newSignal(), all: map[string]podFact{}, synced: make(chan struct{})}
}

// Start watches until ctx ends.
func (p *pods) Start(ctx context.Context) error {
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			var list corev1.PodList
			err := p.client.List(ctx, &list, &client.ListOptions{Limit: o.Limit, Continue: o.Continue, Raw: &o})
			return trimPods(&list), err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := p.client.Watch(ctx, &corev1.PodList{}, &client.ListOptions{Raw: &o})
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
				if pod, ok := e.Object.(*corev1.Pod); ok {
					e.Object = trimPod(pod)
				}
				return e, true
			}), nil
		},
	}
	reflector := toolscache.NewReflectorWithOptions(consistent(lw, p.client, corev1.SchemeGroupVersion.WithKind("Pod"), func() {}), &trimmedPod{}, p, toolscache.ReflectorOptions{Name: "pods", TypeDescription: "pods"})
	reflector.WatchListPageSize = podPage
	reflector.RunWithContext(ctx)
	return nil
}

// trimmedPod is a pod on its way from the API server to the store: a list of all pods would else be in memory at once.
type trimmedPod struct {
	metav1.PartialObjectMetadata
	fact podFact
}

// DeepCopyObject makes it an object of the API machinery.
func (t *trimmedPod) DeepCopyObject() runtime.Object {
	return &trimmedPod{*t.PartialObjectMetadata.DeepCopy(), t.fact}
}

func trimPod(p *corev1.Pod) *trimmedPod {
	m := metav1.ObjectMeta{Namespace: unique.Make(p.Namespace).Value(), Name: p.Name, ResourceVersion: p.ResourceVersion}
	return &trimmedPod{metav1.PartialObjectMetadata{ObjectMeta: m}, factOf(p)}
}

// trimmedPods is a page of them.
type trimmedPods struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject makes it an object of the API machinery.
func (t *trimmedPods) DeepCopyObject() runtime.Object {
	out := &trimmedPods{ListMeta: *t.ListMeta.DeepCopy()}
	for _, item := range t.Items {
		out.Items = append(out.Items, item.DeepCopyObject())
	}
	return out
}

func trimPods(list *corev1.PodList) *trimmedPods {
	out := &trimmedPods{ListMeta: list.ListMeta}
	for i := range list.Items {
		out.Items = append(out.Items, trimPod(&list.Items[i]))
	}
	return out
}

func keyOf(o any) string {
	p := o.(*trimmedPod)
	return p.Namespace + "/" + p.Name
}

// Add takes a pod that the watch brought.
func (p *pods) Add(o any) error {
	fact, key := o.(*trimmedPod).fact, keyOf(o)
	p.mu.Lock()
	before, replaces := p.all[key]
	p.all[key] = fact
	p.mu.Unlock()
	if !replaces {
		p.turnover.count(time.Now())
	}
	if fact.asks != nil && !replaces {
		p.asked.raise()
	}
	if fact.state != podLiving || replaces && before.uid != fact.uid {
		p.changed.raise()
	}
	return nil
}

// Update takes a pod that the watch brought.
func (p *pods) Update(o any) error { return p.Add(o) }

// Delete takes that a pod went.
func (p *pods) Delete(o any) error {
	p.mu.Lock()
	delete(p.all, keyOf(o))
	p.mu.Unlock()
	p.turnover.count(time.Now())
	p.changed.raise()
	return nil
}

// Replace takes all pods.
func (p *pods) Replace(list []any, _ string) error {
	all := make(map[string]podFact, len(list))
	for _, o := range list {
		all[keyOf(o)] = o.(*trimmedPod).fact
	}
	p.mu.Lock()
	p.all = all
	select {
	case <-p.synced:
	default:
		close(p.synced)
	}
	p.mu.Unlock()
	p.changed.raise()
	p.asked.raise()
	return nil
}

// Resync does nothing: there is nobody who missed something.
func (p *pods) Resync() error { return nil }

// of is what became of the pod of an entry, as far as the watch has brought it.
func (p *pods) of(e Entry) (podState, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.all[e.Pod]; ok {
		return f.of(e)
	}
	return (*podFact)(nil).of(e)
}

// asking are pods that ask for SpiderSubnets, one of each owner, with their names' namespace, owner and annotations alone.
func (p *pods) asking() (out []*corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[types.UID]bool{}
	for name, f := range p.all {
		if f.asks == nil || f.state != podLiving || seen[f.asks.owner.UID] {
			continue
		}
		seen[f.asks.owner.UID] = true
		namespace, _, _ := strings.Cut(name, "/")
		out = append(out, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Annotations: f.asks.annotations, OwnerReferences: []metav1.OwnerReference{f.asks.owner}}})
	}
	return out
}

// has reports whether there is a pod of a name, as far as the watch has brought it.
func (p *pods) has(key client.ObjectKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.all[key.Namespace+"/"+key.Name]
	return ok
}

// signal wakes one who waits. Many are one.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// await returns when the signal was raised, or after most, but not before least; or when ctx ends.
func (s signal) await(ctx context.Context, least, most time.Duration) {
	gather, due := time.After(least), time.NewTimer(most)
	defer due.Stop()
	select {
	case <-s:
	case <-due.C:
	case <-ctx.Done():
	}
	select {
	case <-gather:
	case <-ctx.Done():
	}
}
