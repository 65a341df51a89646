package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab"
)

// The scenarios of this file break parts of the cluster, so each runs alone.

// deployment makes one of n pods.
func (s *scenario) deployment(n int32, edit ...func(*appsv1.Deployment)) *appsv1.Deployment {
	s.Helper()
	d := &appsv1.Deployment{ObjectMeta: s.meta(), Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: selector, Template: s.template(forever...)}}
	for _, e := range edit {
		e(d)
	}
	s.make(d)
	return d
}

func (s *scenario) started(atLeast int) {
	s.Helper()
	s.eventually(func() string {
		pods, err := s.Running(s.Context(), s.namespace)
		if err != nil || len(pods) < atLeast {
			return fmt.Sprintf("%d pods run, want %d (%v)", len(pods), atLeast, err)
		}
		return ""
	})
}

// TestAgentKilled: the agents are killed again and again while pods start.
func TestAgentKilled(t *testing.T) {
	s := alone(t, 60)
	const n = 15
	d := s.deployment(n)
	nodes, err := s.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		s.started(2 * i)
		if err := s.KillAgent(t.Context(), nodes[i]); err != nil {
			t.Error(err)
		}
	}
	s.running(n)
	s.held(2 * n)
	s.agree(n, 2*n)
	s.remove(d)
	s.held(0)
}

// TestAgentDown: with no agent anywhere pods can be deleted, and their
// addresses are free when the agents are back.
func TestAgentDown(t *testing.T) {
	s := alone(t, 60)
	const n = 20
	d := s.deployment(n)
	s.running(n)
	s.agents(map[string]string{"no-such": "node"}, 0)
	began := time.Now()
	s.remove(d)
	s.eventually(func() string {
		var list corev1.PodList
		if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil || len(list.Items) > 0 {
			return fmt.Sprintf("%d pods are still there (%v)", len(list.Items), err)
		}
		return ""
	})
	t.Logf("%d pods are gone %s after their deletion, without an agent", n, time.Since(began).Round(time.Second))
	if held := s.entries(); len(held) != 2*n {
		t.Errorf("%d addresses are held while nobody can free them, want %d", len(held), 2*n)
	}
	s.agents(nil, 3)
	s.held(0)
}

// agents has the DaemonSet run on nodes with these labels only, and waits until
// n agents are ready and the others gone.
func (s *scenario) agents(on map[string]string, n int) {
	s.Helper()
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-agent"}}
	if err := s.Get(s.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		s.Fatal(err)
	}
	before := d.DeepCopy()
	d.Spec.Template.Spec.NodeSelector = on
	if err := s.Patch(s.Context(), d, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
	s.eventually(func() string {
		var pods corev1.PodList
		if err := s.List(s.Context(), &pods, client.InNamespace("kube-system"), client.MatchingLabels{"app.kubernetes.io/component": "spiderpool-agent"}); err != nil {
			return err.Error()
		}
		if err := s.Get(s.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err.Error()
		}
		if len(pods.Items) != n || d.Status.ObservedGeneration != d.Generation || int(d.Status.NumberReady) != n || int(d.Status.UpdatedNumberScheduled) != n {
			return fmt.Sprintf("%d agents, %d ready, %d updated, want %d", len(pods.Items), d.Status.NumberReady, d.Status.UpdatedNumberScheduled, n)
		}
		return ""
	})
}

// TestRollOut: agents are replaced while the runtime asks for their STATUS,
// which CNI 1.1.0 brings, and no node becomes NotReady for it.
func TestRollOut(t *testing.T) {
	s := alone(t, 60)
	ipam := map[string]any{"type": "spiderpool"}
	write := func(version string) {
		if err := s.WriteCNI("", "10-underlay.conflist", lab.MacvlanConflist(version, "underlay", lab.Segments[0], ipam)); err != nil {
			t.Fatal(err)
		}
	}
	write("1.1.0")
	t.Cleanup(func() { write("1.0.0") })
	d := s.deployment(6)
	s.running(6)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan []string, 1)
	go func() { changes <- s.readiness(ctx) }()
	for range 2 {
		if _, err := s.Kubectl(t.Context(), "-n", "kube-system", "rollout", "restart", "daemonset/spiderpool-agent"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Kubectl(t.Context(), "-n", "kube-system", "rollout", "status", "daemonset/spiderpool-agent", "--timeout=120s"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(12 * time.Second) // the kubelet asks for the status of the network every few seconds
	cancel()
	if got := <-changes; len(got) > 0 {
		t.Errorf("nodes were not ready: %v", got)
	}
	s.agree(6, 2*6)
	s.remove(d)
	s.held(0)
	// That the runtime asks at all is seen when nobody answers for long.
	s.agents(map[string]string{"no-such": "node"}, 0)
	s.eventually(func() string {
		if seen := s.notReady(t.Context()); len(seen) == 0 {
			return "all nodes are ready without an agent"
		}
		return ""
	})
	s.agents(nil, 3)
	if err := s.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// readiness lists what it sees of nodes that are not ready until ctx ends.
func (s *scenario) readiness(ctx context.Context) (seen []string) {
	for ctx.Err() == nil {
		seen = append(seen, s.notReady(ctx)...)
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return seen
}

// notReady lists the nodes that are not ready, and why.
func (s *scenario) notReady(ctx context.Context) (seen []string) {
	var nodes corev1.NodeList
	if err := s.List(ctx, &nodes); err != nil {
		return nil
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				seen = append(seen, n.Name+": "+c.Message)
			}
		}
	}
	return seen
}

// TestAPIServerRestarted while pods start.
func TestAPIServerRestarted(t *testing.T) {
	s := alone(t, 100)
	const n = 40
	d := s.deployment(n)
	s.started(5)
	if err := s.API.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.running(n)
	s.held(2 * n)
	s.agree(n, 2*n)
	s.remove(d)
	s.held(0)
}

// TestPoolReserved: half of a pool is reserved while pods start. Once the status says so nobody gets an address of that half;
// who had one keeps it.
func TestPoolReserved(t *testing.T) {
	s := begin(t, 100)
	const n = 30
	d := s.deployment(n)
	s.started(5)
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: s.namespace},
		Spec: v2beta1.ReservedIPSpec{IPs: []string{fmt.Sprintf("172.20.%d.1-172.20.%d.50", s.number, s.number)}}}
	if err := s.Create(t.Context(), reserved); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Delete(context.Background(), reserved) })
	s.eventually(func() string {
		p := s.poolOf(s.v4)
		if said := p.Annotations[v2beta1.AnnotationReserved]; said == "" || p.Status.ObservedReserved != said {
			return fmt.Sprintf("the pool is told to reserve %q, and judged with %q", said, p.Status.ObservedReserved)
		}
		return ""
	})
	// Claims that were confirmed before the edit are in this list; later ones see the edit.
	before := s.entries()
	s.running(n)
	s.held(2 * n)
	s.agree(n, 2*n)
	outside := 0
	for _, e := range s.entries() {
		address, _, _ := strings.Cut(e, " ")
		ip := netip.MustParseAddr(address)
		if ip.Is4() && ip.As4()[3] <= 50 {
			outside++
			if !slices.Contains(before, e) {
				t.Errorf("%s was given after it was reserved", e)
			}
		}
	}
	t.Logf("%d pods keep an address that is reserved, of %d entries when the pool was judged", outside, len(before))
	s.remove(d)
	s.held(0)
}
