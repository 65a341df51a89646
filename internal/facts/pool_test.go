package facts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// reader is an API server with some pools and one pod, which counts.
type reader struct {
	mu    sync.Mutex
	pools map[string]*v2beta1.SpiderIPPool
	pod   *corev1.Pod
	meta  *metav1.PartialObjectMetadata
	slow  chan struct{} // if set, reads of meta wait for it
	gets  int
	lists int
}

func (r *reader) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gets++
	switch o := o.(type) {
	case *metav1.PartialObjectMetadata:
		if r.slow != nil {
			<-r.slow
		}
		if r.meta != nil && r.meta.Name == key.Name {
			r.meta.DeepCopyInto(o)
			return nil
		}
	case *v2beta1.SpiderIPPool:
		if p, ok := r.pools[key.Name]; ok {
			p.DeepCopyInto(o)
			return nil
		}
	case *corev1.Pod:
		if r.pod != nil {
			r.pod.DeepCopyInto(o)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (r *reader) List(_ context.Context, l client.ObjectList, opts ...client.ListOption) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	var options client.ListOptions
	options.ApplyOptions(opts)
	list := l.(*v2beta1.SpiderIPPoolList)
	for name, p := range r.pools {
		if options.FieldSelector == nil || options.FieldSelector.String() == "metadata.name="+name {
			list.Items = append(list.Items, *p)
		}
	}
	return nil
}

// watched is a cache that has a pod.
type watched struct {
	cache.Cache
	*reader
}

func (w watched) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return w.reader.Get(ctx, key, o, opts...)
}

func (w watched) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	return w.reader.List(ctx, l, opts...)
}

// object is a pool of 10.1.0.<generation>.
func object(name, uid, version string, generation int64) *v2beta1.SpiderIPPool {
	o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid), ResourceVersion: version, Generation: generation}}
	o.Spec.Subnet, o.Spec.IPs = "10.1.0.0/16", []string{fmt.Sprintf("10.1.0.%d", generation)}
	return o
}

// TestLateWatch: what was read live counts though the watch brings older news
// later.
func TestLateWatch(t *testing.T) {
	api := &reader{pools: map[string]*v2beta1.SpiderIPPool{}}
	w := empty(api, "n1")
	w.cache = watched{reader: api}
	watch := w.setPool
	read := func() {
		t.Helper()
		if _, err := w.ReadPool(t.Context(), "a"); err != nil && !errors.Is(err, ErrNoPool) {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		what string
		do   func()
		want string // the addresses of the pool
	}{
		{"the watch brings it", func() { watch(object("a", "u1", "5", 1)) }, "10.1.0.1"},
		{"a read finds it edited", func() { api.pools["a"] = object("a", "u1", "9", 3); read() }, "10.1.0.3"},
		{"an edit in between comes late", func() { watch(object("a", "u1", "7", 2)) }, "10.1.0.3"},
		{"what was read comes", func() { watch(object("a", "u1", "9", 3)) }, "10.1.0.3"},
		{"the watch is ahead of a read", func() { watch(object("a", "u1", "11", 4)); read() }, "10.1.0.4"},
		{"a read finds it gone", func() { delete(api.pools, "a"); read() }, ""},
		{"an edit comes late", func() { watch(object("a", "u1", "13", 5)) }, ""},
		{"a read finds another of the name", func() { api.pools["a"] = object("a", "u2", "20", 6); read() }, "10.1.0.6"},
		{"the end of the first comes late", func() { w.dropPool(object("a", "u1", "15", 5)) }, "10.1.0.6"},
		{"the end of the second", func() { w.dropPool(object("a", "u2", "30", 6)) }, ""},
	} {
		step.do()
		got := ""
		for _, p := range w.Pools() {
			got += p.Addresses.String()
		}
		if got != step.want {
			t.Errorf("%s: %q, want %q", step.what, got, step.want)
		}
	}
	if len(w.gone) > 0 {
		t.Errorf("%v are remembered", w.gone)
	}
}

// TestUnknownNames: of the names that a tenant writes and nobody knows, few are
// looked up, and not again and again.
func TestUnknownNames(t *testing.T) {
	api := &reader{pools: map[string]*v2beta1.SpiderIPPool{"late": object("late", "u1", "5", 1)}}
	w := empty(api, "n1")
	w.cache = watched{reader: api}
	names := []string{"late", "-no-name-"}
	for i := range 1000 {
		names = append(names, fmt.Sprintf("none-%d", i))
	}
	selection := pool.Selection{Names: map[pool.Family][]string{pool.IPv4: names}}
	for range 3 {
		candidates, err := w.Candidates(t.Context(), selection, pool.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		if candidates[0].Pool == nil {
			t.Errorf("a pool that the watch has not brought: %s", candidates[0].Why)
		}
		if last := candidates[len(candidates)-1].Why; !strings.Contains(last, "no such IPPool known to this node's agent") {
			t.Errorf("the last: %s", last)
		}
	}
	if api.gets != 0 || api.lists > maxUnknown+2 {
		t.Errorf("%d GETs, %d LISTs", api.gets, api.lists)
	}
}

// TestGives: what a pool gives is computed once, until it or the reservations
// are edited.
func TestGives(t *testing.T) {
	w := empty(&reader{}, "n1")
	known := func(version string, generation int64) *pool.Pool {
		o := object("a", "u1", version, generation)
		o.Spec.IPs = []string{"10.1.0.1-10.1.0.9"}
		return w.learnPool(o).pool
	}
	reserve := func(version, ip string) {
		o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r", ResourceVersion: version}}
		o.Spec.IPs = []string{ip}
		w.setReserved(o)
	}
	p := known("1", 1)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "10.1.0.1-10.1.0.9"},
		{func() { reserve("2", "10.1.0.1-10.1.0.4") }, "10.1.0.5-10.1.0.9"},
		{func() { p = known("3", 2) }, "10.1.0.5-10.1.0.9"},
		{func() { reserve("4", "10.1.0.9") }, "10.1.0.1-10.1.0.8"},
	} {
		step.do()
		if got := w.Gives(p).String(); got != step.want {
			t.Errorf("gives %s, want %s", got, step.want)
		}
		if n := testing.AllocsPerRun(10, func() { _ = w.Gives(p) }); n != 0 {
			t.Errorf("%v allocations when nothing was edited", n)
		}
	}
	if got := w.Gives(&pool.Pool{Name: "a", Addresses: addr.Set{}}); !got.IsEmpty() {
		t.Errorf("another version of it gives %s", got)
	}
}

// TestLabelsOfAnAutomaticPool: what an automatic pool is made for stands in labels, too, which no generation counts.
func TestLabelsOfAnAutomaticPool(t *testing.T) {
	w := empty(&reader{}, "n1")
	o := object("a", "u", "1", 1)
	o.Spec.PodAffinity = pool.Application{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}.Affinity()
	w.setPool(o)
	for i, labels := range []map[string]string{{v2beta1.LabelOwnerSpiderSubnet: "s4"}, {v2beta1.LabelOwnerSpiderSubnet: "s4", v2beta1.LabelInterface: "net1"}} {
		edited := w.PoolsChanged()
		o = o.DeepCopy()
		o.ResourceVersion, o.Labels = fmt.Sprint(i+2), labels
		w.setPool(o)
		select {
		case <-edited:
		default:
			t.Errorf("nobody is told of %v", labels)
		}
	}
	if a := w.Pools()[0].Automatic; a.Subnet != "s4" || a.Interface != "net1" {
		t.Errorf("it is taken for the pool of %+v", a)
	}
}

// TestReadAutomatic: those who ask within a while share one LIST, which counts like the watch.
func TestReadAutomatic(t *testing.T) {
	api := &reader{pools: map[string]*v2beta1.SpiderIPPool{"a": object("a", "u", "1", 1)}}
	w := empty(api, "n1")
	edited := w.PoolsChanged()
	for range 3 {
		if err := w.ReadAutomatic(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-edited:
	default:
		t.Error("nobody is told of what was read")
	}
	if len(w.Pools()) != 1 || api.lists != 1 {
		t.Errorf("%d pools are known by %d LISTs", len(w.Pools()), api.lists)
	}
}

// TestPod: whose pod it is, and that nothing is kept of those who were waited for.
func TestPod(t *testing.T) {
	const uid, other = "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01", "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a02"
	for _, tc := range []struct {
		name, node, uid string
		want            error
		says            string
	}{
		{"of this node", "n1", uid, nil, ""},
		{"of this node, UID not given", "n1", "", nil, ""},
		{"of another node", "n2", uid, ErrOtherNode, `pod shop/web is bound to node "n2", this is the agent of node "n1"`},
		{"of another node, UID not given", "n2", "", ErrOtherNode, ""},
		{"not bound yet", "", uid, ErrOtherNode, ""},
		{"another pod", "n1", other, ErrOtherPod, ""},
		{"a static pod without mirror", "n1", "abc", ErrNoMirror, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: uid}}
			p.Spec.NodeName = tc.node
			api := &reader{pod: p}
			w := empty(api, "n1")
			got, err := w.Pod(t.Context(), "shop", "web", tc.uid)
			if !errors.Is(err, tc.want) || (got == nil) == (err == nil) || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, error %v", got, err)
			}
		})
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: uid}}
	w := empty(&reader{}, "n1")
	w.cache = watched{reader: &reader{pod: p}}
	w.handled.Store(ofPods, toolscache.InformerSynced(func() bool { return true }))
	for _, uid := range []string{uid, other} {
		_, err := w.Pod(t.Context(), "shop", "web", uid)
		if (err == nil) != (uid == string(p.UID)) {
			t.Error(err)
		}
		w.awaited.Range(func(_, key any) bool {
			t.Errorf("pod %s is awaited by nobody", key)
			return true
		})
	}
}
