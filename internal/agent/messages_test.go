package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// told waits for an Event of a reason.
func (n *node) told(reason string) string {
	n.t.Helper()
	for late := time.After(requestWait); ; {
		select {
		case e := <-n.agent.Events.(*record.FakeRecorder).Events:
			if strings.Contains(e, reason) {
				return e
			}
		case <-late:
			n.t.Fatalf("no Event %s within %s", reason, requestWait)
		}
	}
}

// deployment makes pods those of a Deployment, by one ReplicaSet.
func (c *cluster) deployment(name string) func(*corev1.Pod) {
	c.t.Helper()
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: c.prefix, Name: name + "-5d9f",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: "11111111-2222-3333-4444-555555555555", Controller: ptr(true)}}}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	set.Spec.Template.Labels = set.Spec.Selector.MatchLabels
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}
	c.createUntyped(set)
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
}

// TestRollingUpdateOfOne: a Deployment of one pod on a pool of one address makes the new pod before the old one goes. The Event
// comes when the ADD begins to wait, names the holder and says what to do; another comes when it fails.
func TestRollingUpdateOfOne(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	ofDeployment := c.deployment("web")
	n.add(c.pod(n, "old", c.from("v4|"), ofDeployment), "old")
	next := n.adding(c.pod(n, "new", c.from("v4|"), ofDeployment), "new")
	holder := "held by " + c.prefix + "/old on node " + n.name + " (running, of the same Deployment web, which keeps it until the new pod is ready"
	waiting := n.told("IPAllocationWaiting")
	for _, part := range []string{"waiting for an address, up to 1s", "0 free of 1", holder, "maxSurge: 0"} {
		if !strings.Contains(waiting, part) {
			t.Errorf("%q does not say %q", waiting, part)
		}
	}
	next.refused(t, wire.CodeTryAgain, holder, "maxSurge: 0")
	if failed := n.told("IPAllocationFailed"); !strings.Contains(failed, holder) {
		t.Error(failed)
	}
}

// TestNothingToWaitFor: a pool that can give nothing at all is waited for only as long as an edit needs to arrive.
func TestNothingToWaitFor(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n := c.machine("n1")
	n.durations.Wait, n.durations.EditArrival = requestWait, 100*time.Millisecond
	n.start(requests.funcs())
	n.knows(c.pool("empty", "10.1.0.0/24", nil))
	late := n.adding(c.pod(n, "web", c.from("empty|")), "web")
	late.refused(t, wire.CodeTryAgain, "0 free of 0")
	if late.took > requestWait/2 {
		t.Errorf("waited %s", late.took)
	}
}

// TestPingPong: a pool lost an address that comes free, and the watch is late. Two ADDs in line must not claim it in turns.
func TestPingPong(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n, other := c.machine("n1"), c.node("n2")
	v := apiserver.NewValve(t, "spiderippools")
	n.transport, n.durations.Wait = v.Wrap, requestWait
	n.start(requests.funcs())
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	n.knows(v4)
	first := n.occupy("first", "v4|", asking("10.1.0.10"))
	second := other.occupy("second", "v4|", asking("10.1.0.11"))
	line := n.lineUp(2, "v4|")
	v.Shut()
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.10"} })
	requests.reset()
	n.del(first, "first")
	c.eventually("the address is claimed and given back", func() bool { return requests.of(frees) >= 2 })
	other.del(second, "second") // the one that the pool still has
	served := make(chan *pending, len(line))
	for _, w := range line {
		go func() { <-w.done; served <- w }()
	}
	if got := (<-served).ips(t); got[0] != "10.1.0.11/24" {
		t.Errorf("got %v", got)
	}
	if tries := requests.of(claims); tries > 4 {
		t.Errorf("%d claims of one address that the pool lost: %s", tries, requests)
	}
	for _, w := range line {
		n.deleted(w.pod, w.pod.Name)
	}
	<-served
}

// TestBusyForAWhile: the API server is away while the fence asks it. The ADD waits, and is counted once.
func TestBusyForAWhile(t *testing.T) {
	c := newCluster(t)
	var refusals atomic.Int32
	n := c.patient("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == fences && refusals.Add(1) <= 2 {
			return errRefused
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.occupy("web", "v4|")
	n.counted("spiderpool_ipam_allocation_failure_counts", "0")
}
