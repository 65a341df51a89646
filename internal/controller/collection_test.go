package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// collectTest are passes by hand, as the controller's account.
type collectTest struct {
	*cluster
	*collection
	requests *requests
	events   *record.FakeRecorder
	registry *prometheus.Registry
	// before is called before each request of a pass.
	before func(request string) error
	// faults change what the API server answers.
	faults interceptor.Funcs
	// asked is how many reads the last pass took.
	asked int
}

func newCollectTest(t *testing.T, gc config.GC) *collectTest {
	t.Helper()
	c := &collectTest{cluster: newCluster(t), requests: &requests{}, events: record.NewFakeRecorder(5000), registry: prometheus.NewRegistry()}
	clients := c.counted(c.requests, &c.before)
	live := interceptor.NewClient(clients.Live, interceptor.Funcs{
		List: func(ctx context.Context, w client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
			if c.faults.List != nil {
				return c.faults.List(ctx, w, l, o...)
			}
			return w.List(ctx, l, o...)
		},
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if c.faults.Get != nil {
				return c.faults.Get(ctx, w, key, o, options...)
			}
			return w.Get(ctx, key, o, options...)
		},
	})
	p := newPods(nil, newSignal())
	a, err := newActor(Options{Live: live, Events: c.events, Metrics: c.registry, FixedAddresses: keepAll, GC: gc,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, c.cluster, &p.turnover)
	if err == nil {
		err = client.IgnoreAlreadyExists(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.collection = newCollection(a, p, newUsage(), newInventory())
	c.usage.changed = func(string) {}
	t.Cleanup(c.tidyPods)
	return c
}

// tidyPods removes what newCluster does not.
func (c *cluster) tidyPods() {
	for _, o := range []client.Object{&v2beta1.SpiderEndpoint{}, &corev1.Pod{}} {
		if err := c.DeleteAllOf(context.Background(), o, client.InNamespace("shop"), client.GracePeriodSeconds(0)); err != nil {
			c.t.Error(err)
		}
	}
}

// nodeThat makes a node that is ready, or not.
func (c *cluster) nodeThat(name string, ready corev1.ConditionStatus) *corev1.Node {
	c.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.create(n)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if err := c.Status().Update(c.t.Context(), n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// podOn makes a pod of a node.
func (c *cluster) podOn(node, name string) *corev1.Pod {
	c.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "c", Image: "localhost/c:1"}}
	c.create(p)
	return p
}

// become writes the phase of a pod.
func (c *cluster) become(p *corev1.Pod, phase corev1.PodPhase, reason string) {
	c.t.Helper()
	p.Status.Phase, p.Status.Reason = phase, reason
	if err := c.Status().Update(c.t.Context(), p); err != nil {
		c.t.Fatal(err)
	}
}

// uidOf is a UID as the API server gives it.
func uidOf(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }

// holdOn holds an address for a pod of a node, as somebody did who is not there any more.
func (c *cluster) holdOn(node, address, pod, uid string, changes ...func(*v2beta1.SpiderIP)) *v2beta1.SpiderIP {
	c.t.Helper()
	ip := entryIn("a", address)
	ip.Name, ip.Spec.Node, ip.Spec.Use = address, node, v2beta1.IPUsePod
	ip.Spec.Pod = v2beta1.IPPod{Namespace: "shop", Name: pod, UID: uid}
	for _, change := range changes {
		change(ip)
	}
	c.create(ip)
	return ip
}

func fixedFor(pod string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		owner := ownerOf("apps/v1", "StatefulSet", pod)
		ip.Spec.Owner = &owner
	}
}

func inQuarantine(conflict string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		ip.Spec.Use, ip.Spec.Conflict, ip.Spec.Reason = v2beta1.IPUseQuarantine, conflict, "before"
	}
}

// watched has the watches bring what there is now.
func (c *collectTest) watched() {
	c.t.Helper()
	var ips v2beta1.SpiderIPList
	var pods corev1.PodList
	var nodes corev1.NodeList
	if err := errors.Join(c.cluster.List(c.t.Context(), &ips), c.cluster.List(c.t.Context(), &pods), c.cluster.List(c.t.Context(), &nodes)); err != nil {
		c.t.Fatal(err)
	}
	var held, there []any
	for i := range ips.Items {
		trimIP(&ips.Items[i])
		held = append(held, &ips.Items[i])
	}
	for i := range pods.Items {
		there = append(there, trimPod(&pods.Items[i]))
	}
	for name := range c.inventory.nodeStates() {
		c.inventory.dropNode(name)
	}
	for i := range nodes.Items {
		c.inventory.setNode(&nodes.Items[i])
	}
	if err := errors.Join(c.usage.Replace(held, ips.ResourceVersion), c.pods.Replace(there, "")); err != nil {
		c.t.Fatal(err)
	}
}

// passAfter passes after some time over what the watches brought before, and returns what was asked.
func (c *collectTest) passAfter(d time.Duration) (asked []string) {
	c.t.Helper()
	for _, s := range c.seen {
		s.since = s.since.Add(-d)
		if !s.ready.IsZero() {
			s.ready = s.ready.Add(-d)
		}
		if !s.notBefore.IsZero() {
			s.notBefore = s.notBefore.Add(-d)
		}
	}
	c.requests.take()
	_, c.asked = c.pass(c.t.Context())
	for _, line := range c.requests.take() {
		if line != "GET /api" && line != "GET /apis" && !strings.HasPrefix(line, "GET /api/v1?") {
			asked = append(asked, line)
		}
	}
	slices.Sort(asked)
	return asked
}

// held is what the ledger has now, as "ADDRESS USE".
func (c *cluster) uses() string {
	c.t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, ip := range list.Items {
		out = append(out, ip.Spec.Address+" "+string(ip.Spec.Use))
	}
	return strings.Join(out, "\n")
}

func (c *cluster) equal(what string, got, want any) {
	c.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// numbers are the metrics that are not 0.
func (c *collectTest) numbers() string {
	c.t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			if v := m.GetCounter().GetValue(); v != 0 {
				line := strings.TrimPrefix(strings.TrimPrefix(f.GetName(), "spiderpool_"), "controller_")
				for _, l := range m.Label {
					line += " " + l.GetValue()
				}
				out = append(out, fmt.Sprint(line, " ", v))
			}
		}
	}
	return strings.Join(out, "\n")
}

// told are the Events, sorted.
func (c *collectTest) told() string {
	var out []string
	for len(c.events.Events) > 0 {
		out = append(out, <-c.events.Events)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestCollection: one pass over entries of all sorts, what it asks, writes, counts and tells.
func TestCollection(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.0.99")
	c.nodeThat("ready", corev1.ConditionTrue)
	c.nodeThat("lost", corev1.ConditionUnknown)
	living := c.podOn("lost", "living")
	done := c.podOn("lost", "done")
	c.become(done, corev1.PodSucceeded, "")
	evicted := c.podOn("ready", "evicted")
	c.become(evicted, corev1.PodFailed, "Evicted")
	going := c.podOn("lost", "going")
	if err := c.Delete(t.Context(), going, client.GracePeriodSeconds(300)); err != nil {
		t.Fatal(err)
	}
	remade := c.podOn("lost", "remade")

	c.holdOn("lost", "10.6.0.10", "living", string(living.UID))
	c.holdOn("lost", "10.6.0.11", "done", string(done.UID))
	c.holdOn("ready", "10.6.0.12", "evicted", string(evicted.UID))
	c.holdOn("lost", "10.6.0.13", "going", string(going.UID))
	c.holdOn("lost", "10.6.0.14", "remade", uidOf(14))
	c.holdOn("lost", "10.6.0.15", "remade", string(remade.UID), inQuarantine(""))
	c.holdOn("ready", "10.6.0.16", "gone", uidOf(16))
	c.holdOn("deleted", "10.6.0.17", "gone", uidOf(17))
	c.holdOn("deleted", "10.6.0.18", "web-0", uidOf(18), fixedFor("web-0"))
	c.holdOn("deleted", "10.6.0.19", "web-1", uidOf(19), fixedFor("web-1"), inQuarantine(""))
	c.holdOn("lost", "10.6.0.20", "web-2", uidOf(20), fixedFor("web-2"))
	c.holdOn("lost", "10.6.0.21", "gone", uidOf(21), inQuarantine(""))
	c.holdOn("lost", "10.6.0.22", "static", "0123456789abcdef")
	c.holdOn("ready", "10.6.0.23", "bears", uidOf(23), inQuarantine("02:00:5e:10:00:01"))
	c.watched()

	const pods = "/api/v1/namespaces/shop/pods/"
	c.equal("requests at once", c.passAfter(0), []string{
		"GET " + pods + "done", "GET " + pods + "gone", "GET " + pods + "remade", "GET " + pods + "web-0", "GET " + pods + "web-2",
		"GET /api/v1/nodes/deleted", "GET /api/v1/nodes/lost",
		"PATCH spiderips/10.6.0.11", "PATCH spiderips/10.6.0.14", "PATCH spiderips/10.6.0.17", "PATCH spiderips/10.6.0.18", "PATCH spiderips/10.6.0.20",
	})
	c.watched()
	c.equal("requests as long as nothing changes", c.passAfter(0), []string(nil))
	c.equal("requests after a minute", c.passAfter(agentTime), []string{
		"GET " + pods + "evicted", "GET " + pods + "gone", "GET /api/v1/nodes/ready", "PATCH spiderips/10.6.0.12", "PATCH spiderips/10.6.0.16",
	})
	c.watched()
	c.equal("requests after the grace period", c.passAfter(300*time.Second-agentTime), []string{
		"GET " + pods + "going", "GET /api/v1/nodes/lost", "PATCH spiderips/10.6.0.13",
	})
	c.watched()
	c.equal("requests after ten minutes", c.passAfter(quarantineTime), []string{
		"DELETE spiderips/10.6.0.17", "DELETE spiderips/10.6.0.23",
		"GET " + pods + "gone", "GET " + pods + "web-0", "GET " + pods + "web-1", "GET /api/v1/nodes/deleted",
		"PATCH spiderips/10.6.0.18", "PATCH spiderips/10.6.0.19",
	})
	c.watched()
	c.equal("requests in the end", c.passAfter(time.Hour), []string(nil))
	c.equal("held", c.uses(), strings.Join([]string{
		"10.6.0.10 Pod", "10.6.0.11 Quarantine", "10.6.0.12 Quarantine", "10.6.0.13 Quarantine", "10.6.0.14 Quarantine", "10.6.0.15 Quarantine",
		"10.6.0.16 Quarantine", "10.6.0.18 Kept", "10.6.0.19 Kept", "10.6.0.20 Quarantine", "10.6.0.21 Quarantine", "10.6.0.22 Pod",
	}, "\n"))
	c.equal("metrics", c.numbers(), strings.Join([]string{
		"collected_total keep policy node_deleted 2", "collected_total quarantine policy node_deleted 2", "collected_total quarantine policy pod_evicted 1", "collected_total quarantine policy pod_finished 1",
		"collected_total quarantine policy pod_gone 3", "collected_total quarantine policy pod_terminating 1", "collected_total release policy node_deleted 1",
		"collected_total release policy quarantine_over 1", "ip_gc_counts 12",
	}, "\n"))
	events := c.told()
	for _, want := range []string{
		"Normal AddressQuarantined 10.6.0.17 of pod shop/gone: pod shop/gone is gone and node deleted was deleted: another pod may have it once it is silent on the link",
		"Normal AddressReleased 10.6.0.17 of pod shop/gone: pod shop/gone is gone and node deleted was deleted more than 10m0s ago",
		"Normal AddressKept 10.6.0.18 of pod shop/web-0: pod shop/web-0 is gone and node deleted was deleted more than 10m0s ago; it is kept until StatefulSet web is deleted or wants no pod web-0",
		"Normal AddressQuarantined 10.6.0.14 of pod shop/remade: pod shop/remade is gone and node lost is not ready: another pod may have it once it is silent on the link",
		"Normal AddressQuarantined 10.6.0.12 of pod shop/evicted: pod shop/evicted was evicted and node ready is ready, and its agent has not freed it for 1m0s: another pod may have it once it is silent on the link",
		"Normal AddressReleased 10.6.0.23 of pod shop/bears: a host that is no pod answered for it, and it was given to nobody for 10m0s",
	} {
		if !strings.Contains(events, want) {
			t.Errorf("%q is not in\n%s", want, events)
		}
	}
	ip := &v2beta1.SpiderIP{}
	c.get("10.6.0.18", ip)
	c.equal("reason", ip.Spec.Reason, "pod shop/web-0 is gone and node deleted was deleted more than 10m0s ago; it is kept until StatefulSet web is deleted or wants no pod web-0")
	if ip.Annotations[v2beta1.AnnotationWritten] == "" {
		t.Error("the write does not make older views old")
	}
}

// refused is an answer of the API server.
var refused = apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no right"))

// TestCollectionFaults: whatever is not known, or differs between the looks, or does not come through, frees nothing; it is
// counted, and tried again.
func TestCollectionFaults(t *testing.T) {
	const patch, get = "PATCH /apis/spiderpool.spidernet.io/v2beta1/spiderips/10.6.0.10", "GET /api/v1/namespaces/shop/pods/p0"
	ofPods := func(do func(*corev1.PodList)) interceptor.Funcs {
		return interceptor.Funcs{List: func(ctx context.Context, w client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
			err := w.List(ctx, l, o...)
			if pods, ok := l.(*corev1.PodList); ok {
				do(pods)
			}
			return err
		}}
	}
	failsGet := func(kind string, with error) func(*collectTest) {
		return func(c *collectTest) {
			c.faults.Get = func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
				if fmt.Sprintf("%T", o) == kind {
					return with
				}
				return w.Get(ctx, key, o, options...)
			}
		}
	}
	during := func(request string, do func(*collectTest) error) func(*collectTest) {
		return func(c *collectTest) {
			var once sync.Once
			c.before = func(r string) (err error) {
				if r == request {
					once.Do(func() { err = do(c) })
				}
				return err
			}
		}
	}
	notFoundPath := &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: 404,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: metav1.CauseTypeUnexpectedServerResponse}}}}}
	for _, tt := range []struct {
		name  string
		pods  int // of a node that is not ready, all gone
		fault func(*collectTest)
		want  string // numbers
		// later is what is held when it has been tried again; by default all is in quarantine.
		later string
	}{
		{"no fault", 1, func(*collectTest) {}, "collected_total quarantine policy pod_gone 1\nip_gc_counts 1", ""},
		{"no fault, many", 5, func(*collectTest) {}, "collected_total quarantine policy pod_gone 5\nip_gc_counts 5", ""},
		{"small pages", 9, func(c *collectTest) {
			for i := range 5 {
				c.podOn("lost", fmt.Sprint("z", i))
			}
			c.faults.List = func(ctx context.Context, w client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
				return w.List(ctx, l, append(o, client.Limit(2))...)
			}
		}, "collected_total quarantine policy pod_gone 9\nip_gc_counts 9", ""},
		{"pods may not be read", 1, failsGet("*v1.Pod", refused), "ip_gc_failure_counts 1", ""},
		{"there is no such path", 1, failsGet("*v1.Pod", notFoundPath), "ip_gc_failure_counts 1", ""},
		{"the node cannot be read", 1, failsGet("*v1.Node", errors.New("no answer")), "ip_gc_failure_counts 1", ""},
		{"pods may not be listed", 5, func(c *collectTest) {
			c.faults.List = func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return refused }
		}, "ip_gc_failure_counts 5", ""},
		{"a list ends too early", 5, func(c *collectTest) {
			c.faults = ofPods(func(l *corev1.PodList) { l.Items, l.RemainingItemCount = nil, ptr.To(int64(5)) })
		}, "ip_gc_failure_counts 5", ""},
		{"the second page of a list fails", 5, func(c *collectTest) {
			c.faults = ofPods(func(l *corev1.PodList) { l.Continue = "no token" })
		}, "ip_gc_failure_counts 5", ""},
		{"the watch of pods hangs", 1, func(c *collectTest) { c.realPod(0) }, "collection_vetoes_total pod 1", "10.6.0.10 Pod"},
		{"the watch of nodes hangs", 1, func(c *collectTest) { c.inventory.dropNode("lost") }, "collected_total quarantine policy pod_gone 1\nip_gc_counts 1", ""},
		{"the watch of nodes hangs, in quarantine", 1, func(c *collectTest) {
			c.clearEntries()
			c.holdOn("lost", "10.6.0.10", "p0", uidOf(0), inQuarantine(""))
			c.watched()
			c.inventory.dropNode("lost")
			c.passAfter(0)
			for _, s := range c.seen {
				s.since = s.since.Add(-quarantineTime)
			}
		}, "collection_vetoes_total node 1", ""},
		{"the watch of entries hangs", 1, func(c *collectTest) { c.clearEntries() }, "collection_vetoes_total entry 1", "-"},
		{"another writes the entry", 1, during(patch, func(c *collectTest) error {
			ip := &v2beta1.SpiderIP{}
			c.get("10.6.0.10", ip)
			ip.Annotations = map[string]string{"a": "b"}
			return c.Update(context.Background(), ip)
		}), "collection_vetoes_total entry 1", ""},
		{"the agent frees it", 1, during(patch, func(c *collectTest) error { c.clearEntries(); return nil }), "collection_vetoes_total entry 1", "-"},
		{"the pod of the name takes it over", 1, during(get, func(c *collectTest) error {
			agent, err := apiclient.New(apiserver.AgentConfig(c.t, c.server, "lost"))
			if err != nil {
				return err
			}
			ip := &v2beta1.SpiderIP{}
			c.get("10.6.0.10", ip)
			p := c.podOn("lost", "p0")
			ip.Spec.Pod.UID, ip.Spec.ContainerID = string(p.UID), "next"
			return ledger.New(agent.Live).Update(context.Background(), ip)
		}), "collection_vetoes_total entry 1", "10.6.0.10 Pod"},
		{"the write is not answered, and did not happen", 1, during(patch, func(*collectTest) error { return errors.New("no answer") }), "ip_gc_failure_counts 1", ""},
		{"the write is not answered, and happened", 1, during(patch, func(c *collectTest) error {
			return errors.Join(c.cluster.Patch(context.Background(), &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.6.0.10"}},
				client.RawPatch(types.MergePatchType, []byte(`{"spec":{"reason":"x"}}`))), errors.New("no answer"))
		}), "ip_gc_failure_counts 1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCollectTest(t, collectAll)
			c.pool("a", "10.6.0.10-10.6.0.99")
			c.nodeThat("lost", corev1.ConditionUnknown)
			for i := range tt.pods {
				c.holdOn("lost", fmt.Sprintf("10.6.0.1%d", i), fmt.Sprintf("p%d", i), uidOf(i))
			}
			c.watched()
			tt.fault(c)
			asked := c.passAfter(0)
			c.equal("metrics", c.numbers(), tt.want)
			if held := c.uses(); strings.HasPrefix(tt.want, "ip_gc_failure") && strings.Contains(held, "Quarantine") {
				t.Errorf("it went on in spite of it: %s; asked %q", held, asked)
			}
			c.faults, c.before = interceptor.Funcs{}, nil
			if again := c.passAfter(0); len(again) > 0 {
				t.Errorf("it tries again at once: %q", again)
			}
			c.watched()
			c.passAfter(firstPause)
			want := strings.Trim(tt.later, "-")
			for i := range tt.pods {
				if tt.later == "" {
					want = strings.TrimSpace(want + fmt.Sprintf("\n10.6.0.1%d Quarantine", i))
				}
			}
			c.equal("held later", c.uses(), want)
		})
	}
}

// realPod makes the pod that the entry of an address names be there, of which the watch brought nothing.
func (c *collectTest) realPod(i int) {
	c.t.Helper()
	p := c.podOn("lost", fmt.Sprintf("p%d", i))
	c.clearEntries()
	c.holdOn("lost", fmt.Sprintf("10.6.0.1%d", i), p.Name, string(p.UID))
	pods := c.pods.all
	c.watched()
	c.pods.all = pods
}

func (c *cluster) clearEntries() {
	c.t.Helper()
	var held v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &held); err != nil {
		c.t.Fatal(err)
	}
	for i := range held.Items {
		if err := apiserver.DeleteSpiderIP(c.t.Context(), c, &held.Items[i]); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestCollectionKeepsFailing: what keeps failing is an Event, once, and is tried less and less often.
func TestCollectionKeepsFailing(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.0.99")
	c.holdOn("deleted", "10.6.0.10", "gone", uidOf(1))
	c.watched()
	tries := 0
	c.before = func(r string) error {
		if strings.HasPrefix(r, "PATCH") {
			tries++
			return errors.New("no answer")
		}
		return nil
	}
	for range 40 { // times 15 s
		c.passAfter(firstPause)
	}
	c.equal("tries in ten minutes", tries, 6)
	if told := c.told(); strings.Count(told, "\n") != 0 || !strings.HasPrefix(told, "Warning AddressNotCollected 10.6.0.10 of pod shop/gone on node deleted cannot be collected, it is tried again: mark 10.6.0.10: ") {
		t.Errorf("Events %q", told)
	}
}

// TestCollectionOfNewLeader: durations are of one process: another that leads waits anew. What is quick to say it says at once.
func TestCollectionOfNewLeader(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.0.99")
	c.nodeThat("ready", corev1.ConditionTrue)
	c.holdOn("ready", "10.6.0.10", "gone", uidOf(1))
	c.holdOn("ready", "10.6.0.11", "bears", uidOf(2), inQuarantine("02:00:5e:10:00:01"))
	c.watched()
	c.passAfter(0)
	c.passAfter(agentTime - time.Second)
	c.collection = newCollection(c.actor, newPods(nil, newSignal()), c.usage, c.inventory)
	c.watched()
	c.equal("asked by the next leader", append(c.passAfter(0), c.passAfter(agentTime-time.Second)...), []string(nil))
	c.equal("asked at last", len(c.passAfter(time.Second)), 3)
	c.passAfter(quarantineTime)
	c.equal("held", c.uses(), "10.6.0.10 Quarantine")
}

// TestFlapping: what becomes of pod or node anew is waited for anew.
func TestFlapping(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.0.99")
	c.nodeThat("ready", corev1.ConditionTrue)
	p := c.podOn("ready", "p")
	c.holdOn("ready", "10.6.0.10", "p", string(p.UID))
	c.become(p, corev1.PodFailed, "")
	c.watched()
	c.passAfter(0)
	c.passAfter(agentTime - time.Second)
	if err := c.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	c.watched()
	c.equal("asked", append(c.passAfter(time.Second), c.passAfter(agentTime-time.Second)...), []string(nil))
	c.equal("asked at last", len(c.passAfter(time.Second)), 3)
}

// TestDryRun: it writes nothing, and says once what it would do.
func TestDryRun(t *testing.T) {
	dry := collectAll
	dry.DryRun = true
	c := newCollectTest(t, dry)
	c.pool("a", "10.6.0.10-10.6.0.99")
	c.nodeThat("lost", corev1.ConditionUnknown)
	c.holdOn("lost", "10.6.0.10", "gone", uidOf(1))
	c.holdOn("deleted", "10.6.0.11", "gone", uidOf(2))
	c.watched()
	for range 3 {
		for _, line := range c.passAfter(time.Hour) {
			if !strings.HasPrefix(line, "GET ") {
				t.Errorf("it writes: %s", line)
			}
		}
	}
	c.equal("held", c.uses(), "10.6.0.10 Pod\n10.6.0.11 Pod")
	c.equal("metrics", c.numbers(), "collection_dry_run_total quarantine policy node_deleted 1\ncollection_dry_run_total quarantine policy pod_gone 1")
	c.equal("Events", c.told(), "")
}

// TestRequestsOfManySuspects: what is read does not grow with the addresses of a node.
func TestRequestsOfManySuspects(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.9.99")
	parallel(20, func(i int) { c.nodeThat(fmt.Sprint("n", i), corev1.ConditionUnknown) })
	parallel(300, func(i int) { c.holdOn(fmt.Sprint("n", i%20), nth(256+i), fmt.Sprint("p", i), uidOf(i)) })
	c.watched()
	count := map[string]int{}
	for _, line := range c.passAfter(0) {
		verb, path, _ := strings.Cut(line, " ")
		path, _, _ = strings.Cut(path, "?")
		if verb == "PATCH" {
			path = "spiderips"
		}
		count[verb+" "+path]++
	}
	c.equal("reads that it was paced by", c.asked, 21)
	c.equal("requests", count, map[string]int{"GET /api/v1/pods": 20, "GET /api/v1/nodes": 1, "PATCH spiderips": 300})
	c.equal("in quarantine", strings.Count(c.uses(), "Quarantine"), 300)
}

// TestSameNameOnTwoNodes: that one node has no pod of a name says nothing of the pod of that name on another, whose LIST fails.
func TestSameNameOnTwoNodes(t *testing.T) {
	for _, fails := range []string{"", "n2"} {
		t.Run(fails, func(t *testing.T) {
			c := newCollectTest(t, collectAll)
			c.pool("a", "10.6.0.10-10.6.0.99")
			for n, node := range []string{"n1", "n2"} {
				c.nodeThat(node, corev1.ConditionUnknown)
				for i := range fewPods + 1 {
					uid := uidOf(i)
					if node == "n2" {
						uid = string(c.podOn(node, fmt.Sprint("web-", i)).UID)
					}
					c.holdOn(node, fmt.Sprintf("10.6.0.%d%d", n+1, i), fmt.Sprint("web-", i), uid)
				}
			}
			c.watched()
			c.pods.all = nil // the watch of pods is far behind
			c.faults.List = func(ctx context.Context, w client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
				var options client.ListOptions
				options.ApplyOptions(o)
				if of := options.FieldSelector; of != nil && fails != "" && strings.HasSuffix(of.String(), fails) {
					return refused
				}
				return w.List(ctx, l, o...)
			}
			c.passAfter(0)
			want := ""
			for i := range fewPods + 1 {
				want += fmt.Sprintf("10.6.0.1%d Quarantine\n", i)
			}
			for i := range fewPods + 1 {
				want += fmt.Sprintf("10.6.0.2%d Pod\n", i)
			}
			c.equal("held", c.uses()+"\n", want)
		})
	}
}

// TestPlan: how many requests the second look costs.
func TestPlan(t *testing.T) {
	for _, tt := range []struct{ nodes, pods, all, want int }{
		{0, 0, 9, 0}, {1, 1, 9, 2}, {1, 4, 9, 5}, {1, 5, 9, 2}, {2, 4, 9, 10}, {8, 200, 9, 16}, {9, 200, 9, 10},
		{250, 20, 2000, 500}, // 5,000 pods
		{251, 20, 2000, 252},
		{250, 20, 250, 251},
		{1000, 1, 2000, 2},  // one of each node
		{1000, 60, 2000, 2}, // 60,000
		{20, 15, 20, 21},    // 300
		{20, 15, 2000, 40},  // of a large cluster
	} {
		var entries []Entry
		for n := range tt.nodes {
			for p := range tt.pods {
				e := Entry{Node: fmt.Sprint(n), Pod: fmt.Sprintf("shop/p-%d-%d", n, p)}
				entries = append(entries, e, e) // two interfaces
			}
		}
		if got := len((&sight{allNodes: tt.all}).plan(entries)); got != tt.want {
			t.Errorf("%d pods of each of %d nodes, of %d: %d requests, want %d", tt.pods, tt.nodes, tt.all, got, tt.want)
		}
	}
}

// TestFactOf: what counts of a pod.
func TestFactOf(t *testing.T) {
	now, static := metav1.Now(), map[string]string{corev1.MirrorPodAnnotationKey: "0123456789abcdef"}
	for _, tt := range []struct {
		name string
		pod  corev1.Pod
		want podState
	}{
		{"pending", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, podLiving},
		{"running", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}, podLiving},
		{"of a node that does not answer", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodUnknown}}, podLiving},
		{"succeeded", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, podFinished},
		{"failed", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NodeLost"}}, podFinished},
		{"evicted", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}}, podEvicted},
		{"terminating", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, podTerminating},
		{"finished, terminating", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: corev1.PodStatus{Phase: corev1.PodFailed}}, podFinished},
		{"a mirror that somebody deletes", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now, Annotations: static}}, podLiving},
	} {
		if got := factOf(&tt.pod).state; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, podNames[got], podNames[tt.want])
		}
	}
	mirror := factOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uidOf(1)), Annotations: static}})
	for uid, want := range map[string]podState{"0123456789abcdef": podLiving, "fedcba9876543210": podNoMirror, uidOf(1): podLiving, uidOf(2): podGone} {
		if got, _ := mirror.of(Entry{UID: uid}); got != want {
			t.Errorf("UID %s: %s, want %s", uid, podNames[got], podNames[want])
		}
	}
}

// TestMemory: what is kept of 60,000 pods and as many addresses.
func TestMemory(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 60000
	before := heap()
	u, p := newUsage(), newPods(nil, newSignal())
	u.changed = func(string) {}
	for i := range n {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("deployment-%d-with-a-long-name", i), UID: types.UID(uidOf(i)),
			Annotations: map[string]string{"long": strings.Repeat("x", 1000)}}}
		pod.Spec.NodeName = fmt.Sprint("node-", i%500)
		ip := entryIn("a", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		ip.Spec.Node, ip.Spec.Pod = pod.Spec.NodeName, v2beta1.IPPod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
		ip.ResourceVersion = fmt.Sprint(1000000 + i)
		if i%2 == 0 {
			fixedFor("web-0")(ip)
		}
		if err := errors.Join(p.Add(trimPod(pod)), u.Add(ip)); err != nil {
			t.Fatal(err)
		}
	}
	used := heap() - before
	t.Logf("%d pods and addresses take %d MiB", n, used>>20)
	if used > 100<<20 {
		t.Error("more than 100 MiB")
	}
	c := newCollection(&actor{Options: Options{GC: collectAll, FixedAddresses: keepAll}}, p, u, newInventory())
	least := time.Hour
	for range 20 {
		begin := time.Now()
		if suspects, _ := c.firstLook(begin); len(suspects) > 0 {
			t.Fatalf("%d are suspect", len(suspects))
		}
		least = min(least, time.Since(begin))
	}
	t.Logf("the first look at all of them takes %s", least)
}

// TestEndpointsOfNobody: a SpiderEndpoint that nobody owns goes with pod and addresses, and with neither alone.
func TestEndpointsOfNobody(t *testing.T) {
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.10-10.6.0.99")
	endpoint := func(name, address string, owners ...metav1.OwnerReference) {
		e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: owners}}
		e.Status.OwnerControllerType, e.Status.OwnerControllerName = "StatefulSet", "web"
		e.Status.Current = v2beta1.EndpointCurrent{UID: "u", Node: "n1", IPs: []v2beta1.EndpointInterface{{Interface: "eth0", IPv4: ptr.To(address + "/16")}}}
		c.create(e)
	}
	c.holdOn("n1", "10.6.0.10", "web-0", uidOf(1), fixedFor("web-0"))
	c.holdOn("n1", "10.6.0.11", "other", uidOf(2))
	c.podOn("n1", "web-3")
	endpoint("web-0", "10.6.0.10")
	endpoint("web-1", "10.6.0.11") // another has it by now
	endpoint("web-2", "10.6.0.12")
	endpoint("web-3", "10.6.0.13")
	endpoint("web-4", "10.6.0.14")
	endpoint("web-5", "10.6.0.15", metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "web-5", UID: "u"})
	c.watched()
	c.podOn("n1", "web-4") // which the watch has not brought
	c.requests.take()
	if err := (endpoints{c.collection}).scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := c.requests.take()
	slices.Sort(asked)
	c.equal("requests", slices.DeleteFunc(asked, func(s string) bool {
		return s == "GET /api" || s == "GET /apis" || strings.HasPrefix(s, "GET /apis/spider")
	}), []string{
		"DELETE namespaces/shop/spiderendpoints/web-1", "DELETE namespaces/shop/spiderendpoints/web-2",
		"GET /api/v1/namespaces/shop/pods/web-1", "GET /api/v1/namespaces/shop/pods/web-2", "GET /api/v1/namespaces/shop/pods/web-4",
		"GET namespaces/shop/spiderendpoints/web-1", "GET namespaces/shop/spiderendpoints/web-2", "GET spiderendpoints", "GET spiderips/10.6.0.11", "GET spiderips/10.6.0.12",
	})
}

// TestNothingWithoutWatches: as long as a watch has brought nothing no address is looked at.
func TestNothingWithoutWatches(t *testing.T) {
	for _, missing := range []string{"entries", "pods", "nodes", ""} {
		c := newCollection(&actor{Options: Options{GC: collectAll}}, newPods(nil, newSignal()), newUsage(), newInventory())
		for what, synced := range map[string]chan struct{}{"entries": c.usage.synced, "pods": c.pods.synced, "nodes": c.inventory.synced} {
			if what != missing {
				close(synced)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		came := make(chan bool)
		go func() { came <- c.synced(ctx) }()
		if missing != "" {
			cancel()
		}
		if got := <-came; got != (missing == "") {
			t.Errorf("%s are missing: %v", missing, got)
		}
		cancel()
	}
}

// TestCollectionLeads: the leader collects by itself, woken by what happens; as long as all is in order it asks nothing. One
// that has it switched off watches no pods.
func TestCollectionLeads(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.99")
	if err := client.IgnoreAlreadyExists(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.tidyPods)
	node := c.nodeThat("n1", corev1.ConditionTrue)
	p, q := c.podOn("n1", "p"), c.podOn("n1", "q")
	c.holdOn("n1", "10.6.0.10", "p", string(p.UID))
	c.holdOn("n1", "10.6.0.11", "q", string(q.UID))
	watchesPods := func(l *leader) bool {
		l.requests.mu.Lock()
		defer l.requests.mu.Unlock()
		return slices.ContainsFunc(l.requests.list, func(s string) bool { return strings.HasSuffix(s, "/api/v1/pods") })
	}
	c.holdOn("deleted", "10.6.0.12", "gone", uidOf(1))
	c.holdOn("deleted", "10.6.0.13", "gone-0", uidOf(2), fixedFor("gone-0"), func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUseKept })
	off := c.lead()
	c.status("a", inUse(4, 90))
	off.quiet()
	off.stop()
	if asked := strings.Join(off.requests.list, ", "); watchesPods(off) || strings.Contains(asked, "DELETE") || strings.Contains(asked, "statefulsets") {
		t.Errorf("it collects nothing, and asks %s", asked)
	}
	c.equal("held while it is switched off", c.uses(), "10.6.0.10 Pod\n10.6.0.11 Pod\n10.6.0.12 Pod\n10.6.0.13 Kept")
	l := leadAs(t, apiserver.ControllerConfig(t, c.server), func(_ *manager.Options, o *Options) {
		o.GC, o.collectGather = collectAll, 10*time.Millisecond
		o.GC.GraceDelay, o.GC.Interval = time.Second, time.Hour
	})
	c.eventually("what leaked before is collected", func() bool { return c.uses() == "10.6.0.10 Pod\n10.6.0.11 Pod\n10.6.0.12 Quarantine" })
	l.quiet()
	l.requests.take()
	c.podOn("n1", "r")
	c.become(q, corev1.PodRunning, "")
	l.quiet()
	c.equal("requests while all is in order", l.requests.take(), []string(nil))

	node.Status.Conditions[0].Status = corev1.ConditionUnknown
	if err := c.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is in quarantine", func() bool { return c.uses() == "10.6.0.10 Quarantine\n10.6.0.11 Pod\n10.6.0.12 Quarantine" })
	c.delete(node)
	if err := c.Delete(t.Context(), q, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	c.eventually("the other is too", func() bool { return c.uses() == "10.6.0.10 Quarantine\n10.6.0.11 Quarantine\n10.6.0.12 Quarantine" })
	l.stop()
}

// TestCollectionSize: a look at a large cluster in which all is in order asks nothing, and a thousand addresses that leaked go
// in one. So it is with a whole controller, which is small.
func TestCollectionSize(t *testing.T) {
	pods, leaked := 200, 50
	if *soak {
		pods, leaked = 10000, 1000
	}
	c := newCollectTest(t, collectAll)
	c.pool("a", "10.6.0.1-10.6.255.254")
	const nodes = 20
	parallel(nodes, func(i int) { c.nodeThat(fmt.Sprint("n", i), corev1.ConditionUnknown) })
	parallel(pods, func(i int) {
		p := c.podOn(fmt.Sprint("n", i%nodes), fmt.Sprint("p", i))
		c.holdOn(p.Spec.NodeName, nth(256+i), p.Name, string(p.UID))
	})
	c.watched()
	begin := time.Now()
	c.equal("requests of a look", c.passAfter(0), []string(nil))
	t.Logf("%d addresses in order are looked at in %s", pods, time.Since(begin))
	leak := func(round int) {
		parallel(leaked, func(i int) {
			i += round * leaked
			c.holdOn(fmt.Sprint("n", i%(nodes/2)), nth(256+pods+i), fmt.Sprint("leaked", i), uidOf(i))
		})
	}
	leak(0)
	c.watched()
	begin = time.Now()
	asked := c.passAfter(0)
	t.Logf("%d of %d addresses are collected with %d requests in %s", leaked, pods+leaked, len(asked), time.Since(begin))
	pages := 1 + pods/nodes/podPage
	c.equal("requests", len(asked), leaked+nodes/2*pages+1)
	c.equal("in quarantine", strings.Count(c.uses(), "Quarantine"), leaked)
	c.watched()
	c.equal("requests of the next look", c.passAfter(time.Hour), []string(nil))

	peak, asked := c.process(collectAll, func() {
		c.eventually("all is counted", func() bool {
			p := &v2beta1.SpiderIPPool{}
			c.get("a", p)
			return ptr.Deref(p.Status.AllocatedIPCount, 0) == int64(pods+leaked)
		})
		leak(1)
		c.eventually("it collects", func() bool { return c.countQuarantine() == 2*leaked })
	})
	written := slices.DeleteFunc(asked, func(line string) bool {
		return strings.HasPrefix(line, "GET ") || strings.HasPrefix(line, "PUT spiderippools/a/status")
	})
	c.equal("the controller writes what leaked alone", len(written), leaked)
	t.Logf("a controller of its own had at most %d MiB", peak>>20)
	if peak > 300<<20 {
		t.Error("more than 300 MiB")
	}
}

// countQuarantine is how many addresses are in quarantine.
func (c *cluster) countQuarantine() int {
	c.t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &list, client.MatchingFields{"spec.use": string(v2beta1.IPUseQuarantine)}); err != nil {
		c.t.Fatal(err)
	}
	return len(list.Items)
}
