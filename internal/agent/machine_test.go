package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/owners"
)

var ownersInstalled sync.Once

// machine is a virtual machine and its pods.
type machine struct {
	*cluster
	vm, vmi    *unstructured.Unstructured
	n1, n2, n3 *node
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{cluster: newCluster(t)}
	ownersInstalled.Do(func() {
		if err := owners.Install(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	})
	m.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	m.pool("v6", "fd01::/64", []string{"fd01::10-fd01::ffff"})
	m.n1, m.n2, m.n3 = m.node("n1"), m.node("n2"), m.node("n3")
	m.vm = owners.Machine(m.prefix, "db")
	m.create(m.vm)
	m.boot()
	return m
}

// boot makes a new instance of the machine, in the place of the one that runs.
func (m *machine) boot() {
	m.t.Helper()
	if m.vmi != nil {
		if err := m.Delete(m.t.Context(), m.vmi); err != nil {
			m.t.Fatal(err)
		}
	}
	m.vmi = owners.Instance(m.vm)
	m.create(m.vmi)
}

func (m *machine) launcher(n *node, name string) *corev1.Pod {
	m.t.Helper()
	return m.pod(n, "virt-launcher-db-"+name, owners.Of(m.vmi), m.from("v4|v6"))
}

// bearers are those of the entries of the machine, and the use; both families must agree.
func (m *machine) state() string {
	m.t.Helper()
	var list v2beta1.SpiderIPList
	if err := m.List(m.t.Context(), &list); err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if strings.HasPrefix(e.Spec.Pool, m.prefix+"-") {
			out = append(out, strings.TrimPrefix(e.Spec.Pod.Name, "virt-launcher-db-")+" "+string(e.Spec.Use)+" "+strings.Join(lease.Bearers(&e), ","))
		}
	}
	if len(out) == 0 {
		return ""
	}
	if len(out) != 2 || out[0] != out[1] {
		m.t.Fatalf("the two addresses: %v", out)
	}
	return strings.TrimSpace(out[0])
}

func (m *machine) expect(when, state string) {
	m.t.Helper()
	if got := m.state(); got != state {
		m.t.Errorf("%s: %q, want %q", when, got, state)
	}
}

func same(t *testing.T, who string, got, had []string) {
	t.Helper()
	if !slices.Equal(got, had) {
		t.Errorf("%s has %v, the machine had %v", who, got, had)
	}
}

// TestMachineRestarts: a machine has its addresses again when it is started again, and they are free with it.
func TestMachineRestarts(t *testing.T) {
	m := newMachine(t)
	a := m.launcher(m.n1, "a")
	had := m.n1.add(a, "ca")
	e := &v2beta1.SpiderEndpoint{}
	if err := m.Get(t.Context(), client.ObjectKey{Namespace: m.prefix, Name: "db"}, e); err != nil || e.Status.OwnerControllerType != "VirtualMachine" {
		t.Errorf("the endpoint of the machine: %v, %+v", err, e.Status)
	}
	if err := m.Delete(t.Context(), m.vmi); err != nil { // it is stopped
		t.Fatal(err)
	}
	m.vmi = nil
	m.n1.del(a, "ca")
	m.remove(a)
	m.expect("stopped", "a Kept")
	m.boot()
	b := m.launcher(m.n2, "b")
	same(t, "b", m.n2.add(b, "cb"), had)
	m.expect("started", "b Pod")
	if err := m.Delete(t.Context(), m.vm); err != nil {
		t.Fatal(err)
	}
	m.n2.del(b, "cb")
	m.expect("deleted", "")
	if err := m.Get(t.Context(), client.ObjectKey{Namespace: m.prefix, Name: "db"}, e); err == nil {
		t.Error("the endpoint is left")
	}
}

// TestMachineMigrates: the addresses go to the target when it asks, and the DEL of the source frees nothing.
func TestMachineMigrates(t *testing.T) {
	m := newMachine(t)
	a, b := m.launcher(m.n1, "a"), m.launcher(m.n2, "b")
	had := m.n1.add(a, "ca")
	same(t, "b", m.n2.add(b, "cb"), had)
	m.expect("both run", "b Pod ca")
	m.n1.agent.look(t.Context()) // the audit of the source changes nothing
	if err := m.n1.agent.list(t.Context()); err != nil {
		t.Error(err)
	}
	m.expect("after an audit", "b Pod ca")
	m.n1.del(a, "ca")
	m.remove(a)
	m.expect("moved", "b Pod")
	c := m.launcher(m.n1, "c")
	same(t, "c", m.n1.add(c, "cc"), had)
	m.n2.del(b, "cb")
	m.expect("moved back", "c Pod")
	m.n1.restart()
	m.n1.del(c, "cc")
	m.expect("stopped", "c Kept")
}

// TestMachineMigrationAborted: the source keeps its addresses, whatever happens next.
func TestMachineMigrationAborted(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps func(m *machine, a *corev1.Pod)
		then  string
	}{
		{"the source goes on", func(m *machine, _ *corev1.Pod) {
			if err := m.n1.agent.list(m.t.Context()); err != nil {
				m.t.Error(err)
			}
		}, "a Pod"},
		{"the source goes on, and its agent is new", func(m *machine, a *corev1.Pod) {
			m.n1.restart()
			m.n1.del(a, "ca")
		}, "b Kept"},
		{"the source ends", func(m *machine, a *corev1.Pod) { m.n1.del(a, "ca") }, "b Kept"},
		{"the source ends without a DEL", func(m *machine, _ *corev1.Pod) {
			m.n1.endNetns("ca")
			m.n1.agent.look(m.t.Context())
			m.n1.agent.look(m.t.Context())
		}, "b Kept"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			a, b := m.launcher(m.n1, "a"), m.launcher(m.n2, "b")
			had := m.n1.add(a, "ca")
			m.n2.add(b, "cb")
			m.n2.del(b, "cb")
			m.remove(b)
			m.expect("aborted", "b Kept ca")
			m.boot() // the source's node is lost, and the machine is started elsewhere
			c := m.launcher(m.n3, "c")
			m.n3.adding(c, "early").refused(t, wire.CodeHeldElsewhere, "is still held by")
			tc.steps(m, a)
			m.expect("then", tc.then)
			if strings.HasSuffix(tc.then, "Pod") {
				m.n1.del(a, "ca")
			}
			same(t, "c", m.n3.add(c, "cc"), had)
		})
	}
}

// TestMachineTwoLaunchers ask at the same moment: both have the addresses, and one owns them.
func TestMachineTwoLaunchers(t *testing.T) {
	m := newMachine(t)
	a, b := m.launcher(m.n1, "a"), m.launcher(m.n2, "b")
	var got [2][]string
	var both sync.WaitGroup
	both.Go(func() { got[0] = m.n1.add(a, "ca") })
	both.Go(func() { got[1] = m.n2.add(b, "cb") })
	both.Wait()
	if !slices.Equal(got[0], got[1]) {
		t.Errorf("a has %v, b has %v", got[0], got[1])
	}
	if s := m.state(); s != "a Pod cb" && s != "b Pod ca" {
		t.Errorf("%q", s)
	}
	m.n1.del(a, "ca")
	m.n2.del(b, "cb")
	if s := m.state(); s != "a Kept" && s != "b Kept" {
		t.Errorf("%q", s)
	}
	var e v2beta1.SpiderEndpointList
	if err := m.List(context.Background(), &e, client.InNamespace(m.prefix)); err != nil || len(e.Items) != 1 {
		t.Errorf("%d endpoints (%v), want that of the machine", len(e.Items), err)
	}
}
