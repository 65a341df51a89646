package agent

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/segment"
)

// squatter is the hardware address of hosts that are no pods.
var squatter = net.HardwareAddr{2, 0, 0x5e, 0x10, 0, 1}

// prober starts the agent of a node that probes for conflicts.
func (c *cluster) prober(name string) *node {
	c.t.Helper()
	n := c.machine(name)
	n.conflicts = true
	n.start()
	return n
}

// container gives a container a network namespace before its ADD, as a runtime does.
func (n *node) container(containerID string) (netns string) {
	n.t.Helper()
	netns = filepath.Join(n.netns, containerID)
	segment.Mount(n.t, netns)
	return netns
}

// plugged is container with an interface that the main plugin bridge has made, macvlan one by that plugin.
func (n *node) plugged(s *segment.Segment, containerID string) string {
	n.t.Helper()
	netns := n.container(containerID)
	s.Plug(netns, "eth0", nil)
	return netns
}

func (n *node) macvlan(s *segment.Segment, containerID string) string {
	n.t.Helper()
	netns := n.container(containerID)
	s.Macvlan(netns, "eth0")
	return netns
}

// quarantined prints what is in quarantine and whose hardware address answered, a line each.
func (c *cluster) quarantined() string {
	c.t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &list, client.MatchingFields{"spec.use": string(v2beta1.IPUseQuarantine)}); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprint(e.Spec.Address, " ", e.Spec.Conflict))
		if e.Spec.Owner != nil {
			c.t.Errorf("%s in quarantine belongs to %s", e.Spec.Address, e.Spec.Owner.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestConflicts: a host that is no pod has three of five addresses of each family. All pods for which there are addresses run,
// at once and from either kind of interface, and none has one of these.
func TestConflicts(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.14"})
	c.pool("v6", "fd01::/64", []string{"fd01::10-fd01::14"})
	s.Host(squatter, "10.1.0.10/24", "10.1.0.12/24", "10.1.0.13/24", "fd01::10/64", "fd01::12/64", "fd01::13/64")
	n.macvlan(s, "a")
	n.plugged(s, "b")
	var adds []*pending
	for _, name := range []string{"a", "b"} {
		adds = append(adds, n.adding(c.pod(n, name, c.from("v4|v6")), name))
	}
	var got []string
	for _, a := range adds {
		got = append(got, a.ips(t)...)
	}
	slices.Sort(got)
	if want := []string{"10.1.0.11/24", "10.1.0.14/24", "fd01::11/64", "fd01::14/64"}; !slices.Equal(got, want) {
		t.Errorf("the pods have %v, want %v", got, want)
	}
	// Addresses are drawn: the pods may have tried all that the host has, and once in about a hundred times none.
	found := strings.FieldsFunc(c.quarantined(), func(r rune) bool { return r == '\n' })
	n.counted("spiderpool_ipam_conflict_counts", fmt.Sprint(len(found)))
	n.counted("spiderpool_ipam_unprobed_counts", "0")
	for _, line := range found {
		if !strings.HasSuffix(line, " "+squatter.String()) {
			t.Errorf("%q does not name the host", line)
		}
	}
}

// TestAllInConflict: the refusal names the addresses and who answers for them, also the next time, and both Events tell it.
func TestAllInConflict(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.12"})
	s.Host(squatter, "10.1.0.10/24", "10.1.0.11/24", "10.1.0.12/24")
	p := c.pod(n, "web", c.from("v4|"))
	n.plugged(s, "one")
	n.adding(p, "one").refused(t, wire.CodeTryAgain, "all IP addresses used out", "another host answers for 10.1.0.1",
		"10.1.0.10 (02:00:5e:10:00:01)", "10.1.0.11 (02:00:5e:10:00:01)", "10.1.0.12 (02:00:5e:10:00:01)")
	if got := c.quarantined(); strings.Count(got, squatter.String()) != 3 {
		t.Errorf("in quarantine: %q", got)
	}
	for _, object := range []string{"the pod", "the pool"} {
		if e := n.told("IPConflict"); !strings.HasPrefix(e, "Warning IPConflict the host 02:00:5e:10:00:01 answered for 10.1.0.1") ||
			!strings.HasSuffix(e, fmt.Sprintf("of IPPool %[1]s-v4 when the address was probed from interface eth0 of pod %[1]s/web on node %[1]s-n1", c.prefix)) {
			t.Errorf("of %s: %q", object, e)
		}
	}
	n.plugged(s, "two")
	n.adding(p, "two").refused(t, wire.CodeTryAgain, "in quarantine: the host 02:00:5e:10:00:01 answered for 10.1.0.10")
	n.counted("spiderpool_ipam_conflict_counts", "3")
}

// TestConflictsAreBounded: a host that answers for everything does not cost the whole pool at once.
func TestConflictsAreBounded(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.39"})
	var all []string
	for i := range 30 {
		all = append(all, fmt.Sprintf("10.1.0.%d/24", 10+i))
	}
	s.Host(squatter, all...)
	n.plugged(s, "web")
	n.durations.Wait = time.Minute
	n.restart()
	n.adding(c.pod(n, "web", c.from("v4|")), "web").refused(t, wire.CodeConflict, "others are tried with the next call")
	n.counted("spiderpool_ipam_conflict_counts", "16")
}

// TestConflictOfWhatWasAsked: an address that was asked for is refused with the name of the host, and no pod gets it meanwhile.
func TestConflictOfWhatWasAsked(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
	s.Host(squatter, "10.1.0.10/24")
	n.plugged(s, "web")
	n.adding(c.pod(n, "web", c.from("v4|")), "web", asking("10.1.0.10")).
		refused(t, wire.CodeConflict, "another host answers for 10.1.0.10 (02:00:5e:10:00:01)", "it was asked for")
	if got := c.quarantined(); got != "10.1.0.10 "+squatter.String() {
		t.Errorf("in quarantine: %q", got)
	}
}

// TestConflictOfFixed: a fixed address that a host took stays kept, and the pod has it when the host is gone.
func TestConflictOfFixed(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
	set := c.statefulSet("db", 1)
	p := c.pod(n, "db-0", of(set), c.from("v4|"))
	n.plugged(s, "one")
	had := n.add(p, "one")
	n.del(p, "one")
	c.remove(p)
	kept := c.kept()
	host := s.Host(squatter, had[0])
	p = c.pod(n, "db-0", of(set), c.from("v4|"))
	n.plugged(s, "two")
	n.adding(p, "two").refused(t, wire.CodeConflict, strings.TrimSuffix(had[0], "/24")+" (02:00:5e:10:00:01)", "it is fixed and stays the pod's")
	if got := c.kept(); got != kept || c.quarantined() != "" {
		t.Errorf("kept %q, want %q; in quarantine: %q", got, kept, c.quarantined())
	}
	segment.Change(t, host, segment.Ifname, (*netlink.Handle).LinkSetDown)
	if got := n.add(p, "two"); !slices.Equal(got, had) {
		t.Errorf("%v, the pod before had %v", got, had)
	}
}

// TestConflictOfFixedNew: a pod whose addresses are fixed and that has none yet takes another one, and that is its own.
func TestConflictOfFixedNew(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.12"})
	s.Host(squatter, "10.1.0.10/24", "10.1.0.12/24")
	n.plugged(s, "db")
	if got := n.add(c.pod(n, "db-0", of(c.statefulSet("db", 1)), c.from("v4|")), "db"); got[0] != "10.1.0.11/24" {
		t.Errorf("%v", got)
	}
	c.quarantined() // which belongs to nobody
}

// buffer is a log that several write.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) lines(with string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), with)
}

// TestUnprobeable: where the main plugin makes the interface later nothing can be asked. Pods run; it is counted, and logged once.
func TestUnprobeable(t *testing.T) {
	c, log := newCluster(t), &buffer{}
	n := c.machine("n1")
	n.conflicts, n.gateways, n.log = true, true, log
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"}, gateway("10.1.0.1"))
	for _, name := range []string{"a", "b"} {
		n.container(name)
		n.add(c.pod(n, name, c.from("v4|")), name)
	}
	n.counted("spiderpool_ipam_unprobed_counts", "2")
	if got := log.lines("cannot be probed on the link"); got != 1 {
		t.Errorf("it is logged %d times", got)
	}
}

// TestNotProbed: what is off, or told already, is not asked for: the interface is not even set up.
func TestNotProbed(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, gateway("10.1.0.1"))
	t.Run("both are off", func(t *testing.T) {
		n := c.node("off")
		s := segment.New(t)
		s.Host(squatter, "10.1.0.10/24")
		netns := n.macvlan(s, "a")
		p := c.pod(n, "a", c.from("v4|"))
		if got := n.add(p, "a"); got[0] != "10.1.0.10/24" {
			t.Errorf("%v", got)
		}
		segment.Change(t, netns, "eth0", func(_ *netlink.Handle, link netlink.Link) error {
			if sent := link.Attrs().Statistics.TxPackets; sent > 0 {
				t.Errorf("%d frames were sent", sent)
			}
			return nil
		})
		n.del(p, "a")
	})
	n := c.prober("on")
	p := c.pod(n, "web", c.from("v4|"))
	n.plugged(s, "one")
	n.add(p, "one")
	s.Host(squatter, "10.1.0.10/24")
	t.Run("the same ADD", func(*testing.T) { n.add(p, "one") })
	t.Run("the next container of the pod", func(*testing.T) {
		n.del(p, "none")
		n.endNetns("one")
		n.plugged(s, "two")
		n.add(p, "two")
	})
	n.counted("spiderpool_ipam_conflict_counts", "0")
}

// TestDelDuringProbe: a DEL ends the ADD that probes, and nothing is left.
func TestDelDuringProbe(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.prober("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	netns := n.container("web")
	port := s.Plug(netns, "eth0", nil)
	if err := s.Links.LinkSetDown(port); err != nil { // the probe waits for a carrier
		t.Fatal(err)
	}
	n.endsAdding()
}

// TestRestartBeforeTheProbe: an agent that was killed had claimed an address and told nobody. The next one probes it before it
// answers.
func TestRestartBeforeTheProbe(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n := c.machine("n1")
	n.conflicts = true
	n.start()
	n.stop()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	s.Host(squatter, "10.1.0.10/24")
	netns := n.plugged(s, "web")
	p := c.pod(n, "web", c.from("v4|"))
	if err := n.live.Create(t.Context(), n.entry("10.1.0.10", p, "web", netns)); err != nil {
		t.Fatal(err)
	}
	n.start()
	if got := n.add(p, "web"); got[0] != "10.1.0.11/24" {
		t.Errorf("%v", got)
	}
	if got := c.quarantined(); got != "10.1.0.10 "+squatter.String() {
		t.Errorf("in quarantine: %q", got)
	}
}

// entry is what the agent of a node claims for a container.
func (n *node) entry(address string, p *corev1.Pod, containerID, netns string) *v2beta1.SpiderIP {
	e := &v2beta1.SpiderIP{Spec: v2beta1.IPSpec{Address: address, Pool: n.prefix + "-v4", Node: n.name, Network: "underlay", Interface: "eth0",
		Netns: netns, ContainerID: containerID, Pod: v2beta1.IPPod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}}}
	e.Name = address
	return e
}

// TestGatewayDetection: a pod whose gateway does not answer is refused, and leaves nothing claimed.
func TestGatewayDetection(t *testing.T) {
	for _, conflicts := range []bool{false, true} {
		t.Run(fmt.Sprint("conflicts are probed: ", conflicts), func(t *testing.T) {
			c, s := newCluster(t), segment.New(t)
			n := c.machine("n1")
			n.conflicts, n.gateways = conflicts, true
			n.start()
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, gateway("10.1.0.1"))
			c.pool("v6", "fd01::/64", []string{"fd01::10"}, gateway("fe80::1"))
			s.Host(squatter, "10.1.0.1/24")
			p := c.pod(n, "web", c.from("v4|v6"))
			n.macvlan(s, "one")
			n.adding(p, "one").refused(t, wire.CodeTryAgain, "the gateway fe80::1 of IPPool "+c.prefix+"-v6 does not answer on interface eth0")
			c.holds("")
			t.Run("one that is not used", func(t *testing.T) {
				other := c.pod(n, "other", c.from("|v6"))
				n.macvlan(s, "other")
				n.adding(other, "other", func(r *wire.Request) { r.CleanGateway = true }).ips(t)
				n.del(other, "other")
			})
			s.Host(net.HardwareAddr{2, 0, 0, 0, 0, 6}, "fe80::1/64")
			n.macvlan(s, "two")
			n.add(p, "two")
			n.counted("spiderpool_ipam_unprobed_counts", "0")
		})
	}
}

// TestAnnounced: neighbours learn where a fixed address has gone, once the interface has it.
func TestAnnounced(t *testing.T) {
	c, s := newCluster(t), segment.New(t)
	n1, n2 := c.machine("n1"), c.machine("n2")
	n2.durations.Announce = requestWait
	n1.start()
	n2.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("v6", "fd01::/64", []string{"fd01::10"})
	set := c.statefulSet("db", 1)
	near := s.Host(squatter, "10.1.0.99/24", "fd01::99/64")
	p := c.pod(n1, "db-0", of(set), c.from("v4|v6"))
	n1.plugged(s, "one")
	had := n1.add(p, "one")
	n1.del(p, "one")
	c.remove(p)
	p = c.pod(n2, "db-0", of(set), c.from("v4|v6"))
	netns := n2.plugged(s, "two")
	n2.add(p, "two")
	var mac string
	segment.Change(t, netns, "eth0", func(_ *netlink.Handle, link netlink.Link) error { mac = link.Attrs().HardwareAddr.String(); return nil })
	for _, ip := range had {
		address, _, _ := strings.Cut(ip, "/")
		segment.Believe(t, near, address, net.HardwareAddr{2, 0, 0, 0, 0, 9})
		segment.Assign(t, netns, "eth0", ip)
		c.eventually("the neighbour has "+address+" at "+mac, func() bool { return segment.Neighbour(t, near, address) == mac })
	}
}

// TestMachineIsNotInConflictWithItself: while a virtual machine moves, the launcher that it leaves answers for its addresses.
func TestMachineIsNotInConflictWithItself(t *testing.T) {
	m, s := newMachine(t), segment.New(t)
	m.n2.conflicts = true
	m.n2.restart()
	a, b := m.launcher(m.n1, "a"), m.launcher(m.n2, "b")
	netns := m.n1.plugged(s, "ca")
	had := m.n1.add(a, "ca")
	for _, ip := range had {
		segment.Assign(t, netns, "eth0", ip)
	}
	m.n2.plugged(s, "cb")
	same(t, "b", m.n2.add(b, "cb"), had)
}

// TestQuarantineIsAudited: what somebody without proof put into quarantine goes back to a pod that lives, and is freed when its
// container is gone. What another host bears stays.
func TestQuarantineIsAudited(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("by an agent that is new: ", restart), func(t *testing.T) {
			c := newCluster(t)
			n := c.machine("n1")
			n.durations.Look, n.durations.List = 100*time.Millisecond, 0
			n.start()
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
			lives, goes, orphan := n.occupy("lives", "v4|", asking("10.1.0.10")), n.occupy("goes", "v4|", asking("10.1.0.11")), n.occupy("orphan", "v4|", asking("10.1.0.12"))
			set := c.statefulSet("db", 1)
			db := c.pod(n, "db-0", of(set), c.from("v4|"))
			n.add(db, "db-0", asking("10.1.0.13"))
			foreign := n.entry("10.1.0.14", lives, "gone", filepath.Join(n.netns, "gone"))
			foreign.Spec.Use, foreign.Spec.Conflict = v2beta1.IPUseQuarantine, squatter.String()
			if err := n.live.Create(t.Context(), foreign); err != nil {
				t.Fatal(err)
			}
			if restart {
				n.stop()
			}
			for _, p := range []*corev1.Pod{goes, orphan, db} {
				c.remove(p)
			}
			for _, address := range []string{"10.1.0.10", "10.1.0.11", "10.1.0.12", "10.1.0.13"} {
				n.quarantine(address)
			}
			n.endNetns("goes")
			n.endNetns("db-0")
			if restart {
				n.start()
			}
			use := func(address string) (use v2beta1.IPUse) {
				e := &v2beta1.SpiderIP{}
				if err := c.Get(t.Context(), client.ObjectKey{Name: address}, e); client.IgnoreNotFound(err) != nil {
					t.Fatal(err)
				}
				return e.Spec.Use
			}
			for address, want := range map[string]v2beta1.IPUse{"10.1.0.10": v2beta1.IPUsePod, "10.1.0.11": "", "10.1.0.13": v2beta1.IPUseKept} {
				c.eventually(fmt.Sprintf("%s is %q", address, want), func() bool { return use(address) == want })
			}
			for range 3 {
				if err := n.agent.list(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := c.quarantined(), "10.1.0.12 \n10.1.0.14 "+squatter.String(); got != want {
				t.Errorf("in quarantine %q, want %q", got, want)
			}
		})
	}
}

// TestQuarantineOfAPodThatAsksAgain ends before the answer.
func TestQuarantineOfAPodThatAsksAgain(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	n.quarantine("10.1.0.10")
	n.add(p, "web")
	if got := c.quarantined(); got != "" {
		t.Errorf("in quarantine: %q", got)
	}
	c.holds("10.1.0.10 n1/web eth0 web")
}

// quarantine is what the controller writes of an address of which nothing proves that its container is gone.
func (n *node) quarantine(name string) {
	n.t.Helper()
	e := &v2beta1.SpiderIP{}
	n.eventually(name+" is in quarantine", func() bool {
		if err := n.Get(n.t.Context(), client.ObjectKey{Name: name}, e); err != nil {
			n.t.Fatal(err)
		}
		e.Spec.Use, e.Spec.Reason = v2beta1.IPUseQuarantine, "node n1 is lost"
		return n.live.Update(n.t.Context(), e) == nil
	})
}
