package controller

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestCollectionRacesAgents: pods of two nodes are made, get their addresses, new sandboxes and new pods of their names, and are
// deleted, while the controller collects without a pause. The nodes are not ready, so each pod that is gone is a reason. What a
// container was told is its until its DEL: the entry stays in its name, in use by a pod, and nobody else is told the address.
func TestCollectionRacesAgents(t *testing.T) {
	rounds := 25
	if *soak {
		rounds = 1000
	}
	r := &race{cluster: newCluster(t), sockets: map[string]string{}, bears: map[string]string{}}
	r.pool("a", "10.6.0.10-10.6.0.99")
	if err := client.IgnoreAlreadyExists(r.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.tidyPods)
	nodes := []string{"n1", "n2"}
	for _, node := range nodes {
		r.nodeThat(node, corev1.ConditionUnknown)
		r.agent(node)
	}
	l := leadAs(t, apiserver.ControllerConfig(t, r.server), func(_ *manager.Options, o *Options) {
		o.GC, o.collectGather, o.keptScan = collectAll, time.Millisecond, 20*time.Millisecond
	})
	r.apps = r.admin()
	set := r.set("web")
	var slots sync.WaitGroup
	for i := range 8 {
		s := &slot{race: r, name: fmt.Sprint("job-", i), node: nodes[i%2], random: rand.New(rand.NewPCG(uint64(i), 1))}
		if i < 4 {
			s.name, s.set = fmt.Sprint("web-", i), set
		}
		slots.Go(func() {
			for n := 0; n < rounds && !t.Failed(); n++ {
				s.round(n)
			}
		})
	}
	slots.Wait()
	if err := r.apps.Delete(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	r.eventually("all is free", func() bool { return r.uses() == "" })
	collected, vetoed := l.value(t, "spiderpool_ip_gc_counts"), l.value(t, "spiderpool_controller_collection_vetoes_total", "what", vetoEntry)
	if t.Logf("the controller collected %v, and came too late for %v", collected, vetoed); collected+vetoed == 0 {
		t.Error("they never met")
	}
}

// race is what the test knows of who bears which address.
type race struct {
	*cluster
	apps    client.Client
	sockets map[string]string // by node

	mu    sync.Mutex
	bears map[string]string // the container that was told an address and had no DEL
}

// slot is the place of a pod: one of its name at a time.
type slot struct {
	*race
	name, node string
	set        *appsv1.StatefulSet // nil if its addresses are not fixed
	random     *rand.Rand
}

// round is the life of one pod.
func (s *slot) round(n int) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: s.name, Annotations: map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["a"]}`}}}
	p.Spec.NodeName, p.Spec.Containers = s.node, []corev1.Container{{Name: "c", Image: "localhost/c:1"}}
	if s.set != nil {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s.set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
	}
	if err := s.Create(context.Background(), p); err != nil {
		s.t.Error(err)
		return
	}
	for sandbox := range 1 + s.random.IntN(3) {
		container := fmt.Sprint(s.name, "-", n, "-", sandbox)
		address, ok := s.add(p, container)
		if !ok {
			return
		}
		s.pause()
		s.check(address, container)
		last := s.random.IntN(2) == 0
		if last { // it is deleted by force, and its container lives on
			s.remove(p)
			s.pause()
		}
		s.del(p, container, address)
		if last {
			return
		}
		s.pause()
	}
	s.remove(p)
	s.pause()
}

// pause lets the others do something.
func (s *slot) pause() { time.Sleep(time.Duration(s.random.IntN(20)) * time.Millisecond) }

// remove deletes a pod at once; the next one of its name may be on the other node.
func (s *slot) remove(p *corev1.Pod) {
	if err := s.Delete(context.Background(), p, client.GracePeriodSeconds(0)); err != nil {
		s.t.Error(err)
	}
	if s.random.IntN(4) == 0 {
		s.node = map[string]string{"n1": "n2", "n2": "n1"}[s.node]
	}
}

func (s *slot) call(verb wire.Verb, p *corev1.Pod, container string) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return wire.Call(ctx, s.sockets[p.Spec.NodeName], &wire.Request{Verb: verb, Network: "net", ContainerID: container, Interface: "lo", Netns: "/proc/self/ns/net",
		Pod: wire.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}})
}

// add asks until it is answered: a fixed address may be borne still by the container before.
func (s *slot) add(p *corev1.Pod, container string) (address string, ok bool) {
	var err error
	for late := time.Now().Add(wait); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		var reply *wire.Reply
		if reply, err = s.call(wire.VerbAdd, p, container); err != nil {
			continue
		}
		address = reply.IPs[0].Address.Addr().String()
		s.mu.Lock()
		defer s.mu.Unlock()
		if other := s.bears[address]; other != "" {
			s.t.Errorf("%s was told %s, which %s bears", container, address, other)
		}
		s.bears[address] = container
		return address, true
	}
	s.t.Errorf("%s: %v", container, err)
	return "", false
}

// check looks whether an address is that of a container of a pod that lives.
func (s *slot) check(address, container string) {
	ip := &v2beta1.SpiderIP{}
	if err := s.Get(context.Background(), client.ObjectKey{Name: address}, ip); err != nil {
		s.t.Errorf("%s bears %s: %v", container, address, err)
	} else if ip.Spec.ContainerID != container || ip.Spec.Use != v2beta1.IPUsePod {
		s.t.Errorf("%s bears %s, and the entry says %+v", container, address, ip.Spec)
	}
}

func (s *slot) del(p *corev1.Pod, container, address string) {
	s.mu.Lock()
	delete(s.bears, address)
	s.mu.Unlock()
	if _, err := s.call(wire.VerbDel, p, container); err != nil {
		s.t.Error(err)
	}
}

// admin is a client that knows StatefulSets.
func (r *race) admin() client.Client {
	r.t.Helper()
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		r.t.Fatal(err)
	}
	c, err := client.New(r.server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// set makes a StatefulSet of which only half of the slots are wanted after their pods have gone.
func (r *race) set(name string) *appsv1.StatefulSet {
	r.t.Helper()
	replicas, labels := int32(2), map[string]string{"app": name}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	s.Spec.Replicas, s.Spec.Selector, s.Spec.Template.Labels = &replicas, &metav1.LabelSelector{MatchLabels: labels}, labels
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "localhost/c:1"}}
	if err := r.apps.Create(r.t.Context(), s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// agent starts the agent of a node.
func (r *race) agent(node string) {
	r.t.Helper()
	clients, err := apiclient.New(apiserver.AgentConfig(r.t, r.server, node))
	if err != nil {
		r.t.Fatal(err)
	}
	w, err := facts.New(clients.Watch, clients.Live, node)
	if err != nil {
		r.t.Fatal(err)
	}
	d := timing.Production()
	d.Release, d.Rescan, d.Announce, d.Stop, d.Wait = time.Millisecond, 0, 0, 0, time.Second
	r.sockets[node] = filepath.Join(r.t.TempDir(), "s.sock")
	a := agent.New(agent.Options{Node: node, Socket: r.sockets[node], Families: pool.Families[:], Client: clients.Live, Facts: w, Fixed: keepAll,
		Events: &record.FakeRecorder{}, Durations: d, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.eventually("the agent of "+node+" is ready", a.Ready)
}
