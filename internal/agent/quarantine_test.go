package agent

import (
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/segment"
)

// quarantine writes an address into quarantine as the controller does, which does not know whether its container is gone.
func (c *cluster) quarantine(address string) {
	c.t.Helper()
	config := rest.CopyConfig(c.server.Config())
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:spiderpool-controller", Groups: []string{"system:masters"}}
	controller, err := client.New(config, client.Options{Scheme: c.Scheme()})
	if err != nil {
		c.t.Fatal(err)
	}
	ip := &v2beta1.SpiderIP{}
	if err := controller.Get(c.t.Context(), client.ObjectKey{Name: address}, ip); err != nil {
		c.t.Fatal(err)
	}
	ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseQuarantine, "its node is not ready"
	if err := controller.Update(c.t.Context(), ip); err != nil {
		c.t.Fatal(err)
	}
}

// entry is the SpiderIP of an address.
func (c *cluster) entry(address string) v2beta1.IPSpec {
	c.t.Helper()
	ip := &v2beta1.SpiderIP{}
	if err := c.Get(c.t.Context(), client.ObjectKey{Name: address}, ip); err != nil {
		c.t.Fatal(err)
	}
	return ip.Spec
}

// lost is a pod of another node whose address is in quarantine. Its node is never heard of again.
func (c *cluster) lost(name, address string, edit ...func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	other := c.node("lost-" + name)
	p := c.pod(other, name, append(edit, c.from("v4|"))...)
	other.add(p, "lost-"+name, asking(address))
	other.stop()
	c.quarantine(address)
	return p
}

// TestQuarantineIsTheLastResort: what is in quarantine is given when nothing else is left, once it is silent on the link.
func TestQuarantineIsTheLastResort(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	c.pool("spare", "10.1.0.0/24", []string{"10.1.0.30"})
	c.lost("old", "10.1.0.10")
	for _, tc := range []struct{ pod, want string }{{"first", "10.1.0.11/24"}, {"second", "10.1.0.30/24"}, {"third", "10.1.0.10/24"}} {
		n.macvlan(s, tc.pod)
		if got := n.add(c.pod(n, tc.pod, c.from("v4,spare|")), tc.pod); got[0] != tc.want {
			t.Errorf("%s has %v, want %s", tc.pod, got, tc.want)
		}
	}
	if e := c.entry("10.1.0.10"); e.Use != v2beta1.IPUsePod || e.Reason != "" || e.Pod.Name != "third" || e.Node != n.name || e.Pool != c.prefix+"-v4" {
		t.Errorf("the entry says %+v", e)
	}
	n.adding(c.pod(n, "fourth", c.from("v4,spare|")), "fourth").refused(t, wire.CodeTryAgain, "all IP addresses used out")
}

// TestQuarantineAnswers: an address stays in quarantine as long as its container answers, and when nobody can be asked.
func TestQuarantineAnswers(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	c.lost("old", "10.1.0.10")
	container := s.Host(nil, "10.1.0.10/24")
	p := c.pod(n, "next", c.from("v4|"))
	n.macvlan(s, "one")
	n.adding(p, "one").refused(t, wire.CodeTryAgain, "0 free of 1", "in quarantine: its node is not ready")
	n.adding(p, "nowhere").refused(t, wire.CodeTryAgain, "0 free of 1") // a dummy has no neighbours
	if e := c.entry("10.1.0.10"); e.Use != v2beta1.IPUseQuarantine || e.Pod.Name != "old" {
		t.Errorf("the entry says %+v", e)
	}
	segment.Change(t, container, segment.Ifname, (*netlink.Handle).LinkSetDown)
	n.macvlan(s, "two")
	c.eventually("the address is given", func() bool {
		_, err := n.call(wire.VerbAdd, p, "two", "eth0")
		return err == nil
	})
	if e := c.entry("10.1.0.10"); e.Use != v2beta1.IPUsePod || e.Pod.Name != "next" {
		t.Errorf("the entry says %+v", e)
	}
}

// TestQuarantineOfFixed: a fixed address in quarantine is given to the next pod of its name alone, which waits until it is silent.
func TestQuarantineOfFixed(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	set := c.statefulSet("web", 2)
	old := c.lost("web-0", "10.1.0.10", of(set))
	c.remove(old)
	container := s.Host(nil, "10.1.0.10/24")
	n.macvlan(s, "stranger")
	n.adding(c.pod(n, "stranger", c.from("v4|")), "stranger").refused(t, wire.CodeTryAgain, "0 free of 1")
	n.macvlan(s, "other")
	n.adding(c.pod(n, "web-1", of(set), c.from("v4|")), "other").refused(t, wire.CodeTryAgain, "0 free of 1")
	p := c.pod(n, "web-0", of(set), c.from("v4|"))
	n.macvlan(s, "one")
	n.adding(p, "one").refused(t, wire.CodeHeldElsewhere, "10.1.0.10 is in quarantine", "its node is not ready")
	segment.Change(t, container, segment.Ifname, (*netlink.Handle).LinkSetDown)
	n.macvlan(s, "two")
	c.eventually("the address is given", func() bool {
		_, err := n.call(wire.VerbAdd, p, "two", "eth0")
		return err == nil
	})
	if e := c.entry("10.1.0.10"); e.Use != v2beta1.IPUsePod || e.Pod.UID != string(p.UID) || e.Node != n.name {
		t.Errorf("the entry says %+v", e)
	}
}

// TestQuarantineOwnerIsBack: the agent of the node that was lost frees nothing of the pod that has the address by now, and says
// so.
func TestQuarantineOwnerIsBack(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n, lost := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	old := c.pod(lost, "old", c.from("v4|"))
	lost.add(old, "old")
	c.quarantine("10.1.0.10")
	n.macvlan(s, "new")
	n.add(c.pod(n, "new", c.from("v4|")), "new")
	lost.del(old, "old")
	lost.endNetns("old")
	lost.restart()
	if e := c.entry("10.1.0.10"); e.Pod.Name != "new" || e.Node != n.name {
		t.Errorf("the entry says %+v", e)
	}
	if held := c.held(); held != "10.1.0.10 n1/new eth0 new" {
		t.Errorf("held: %s", held)
	}
}
