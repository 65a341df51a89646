package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// automatic makes the pool that the controller makes of a SpiderSubnet for eth0 of an application.
func (c *cluster) automatic(name, of, app, subnet string, ips []string, edit ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	kind, appName, _ := strings.Cut(app, "/")
	a := pool.Application{APIVersion: "apps/v1", Kind: kind, Namespace: c.prefix, Name: appName}
	return c.pool(name, subnet, ips, append([]func(*v2beta1.SpiderIPPool){func(p *v2beta1.SpiderIPPool) {
		p.Labels = map[string]string{v2beta1.LabelOwnerSpiderSubnet: of, v2beta1.LabelInterface: "eth0", v2beta1.LabelOwnerApplicationNamespace: c.prefix}
		p.Spec.PodAffinity = a.Affinity()
	}}, edit...)...)
}

func disabled(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) }

// subnet lets a pod ask for a SpiderSubnet of each family, of none by "".
func (c *cluster) subnet(v4, v6 string) func(*corev1.Pod) {
	text := fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, v4, v6)
	return c.annotated(v2beta1.AnnotationSubnet, strings.ReplaceAll(text, `[""]`, "[]"))
}

// waitings are the Events IPAllocationWaiting that are there.
func (n *node) waitings() (count int) {
	for {
		select {
		case e := <-n.agent.Events.(*record.FakeRecorder).Events:
			if strings.Contains(e, "IPAllocationWaiting") {
				count++
			}
		default:
			return count
		}
	}
}

// TestAutomaticPoolIsAwaited: an ADD that comes before its pool serves waits for the event that brings it, asks nothing
// meanwhile, says once that it waits, and then has its address by one claim.
func TestAutomaticPoolIsAwaited(t *testing.T) {
	const in = "10.1.0.0/24"
	for _, tc := range []struct {
		name         string
		before, then func(*cluster)
		says         string
		full         bool // then LISTs of its addresses are due
	}{
		{name: "not made", before: func(*cluster) {},
			then: func(c *cluster) { c.automatic("auto", "s4", "Deployment/web", in, []string{"10.1.0.11"}) },
			says: "from SpiderSubnet s4 (Pod annotation ipam.spidernet.io/subnet): the controller has not made the automatic pool of Deployment "},
		{name: "announced", before: func(c *cluster) {
			c.automatic("auto", "s4", "Deployment/web", in, []string{"10.1.0.11"}, disabled)
		},
			then: func(c *cluster) {
				c.edit(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: c.prefix + "-auto"}, Spec: v2beta1.IPPoolSpec{Disable: ptr(true)}},
					func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(false) })
			},
			says: "-auto: it is disabled (spec.disable); 'kubectl describe deployment -n "},
		{name: "empty", before: func(c *cluster) { c.automatic("auto", "s4", "Deployment/web", in, nil) },
			then: func(c *cluster) {
				c.edit(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: c.prefix + "-auto"}},
					func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.11"} })
			},
			says: "-auto: all IP addresses used out: 0 free of 0; 'kubectl describe", full: true},
		{name: "full", before: func(c *cluster) {
			c.automatic("auto", "s4", "Deployment/web", in, []string{"10.1.0.10"})
			holder := c.node("holder")
			holder.add(c.pod(holder, "first", c.deployment("web"), c.subnet("s4", "")), "first")
		},
			then: func(c *cluster) {
				c.edit(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: c.prefix + "-auto"}},
					func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.10-10.1.0.11"} })
			},
			says: "-auto: all IP addresses used out: 0 free of 1; held by ", full: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			requests := &counter{}
			n := c.machine("n1")
			n.durations.Wait, n.durations.EditArrival = requestWait, 50*time.Millisecond
			n.start(requests.funcs())
			other := c.pool("other", "10.2.0.0/24", []string{"10.2.0.10"})
			tc.before(c)
			owned := func(p *corev1.Pod) {
				p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "d1", Controller: ptr(true)}}
			}
			p := n.adding(c.pod(n, "web", owned, c.subnet("s4", "")), "web")
			if told := n.told("IPAllocationWaiting"); !strings.Contains(told, tc.says) {
				t.Errorf("says %q, want %q", told, tc.says)
			}
			n.inLine(1)
			requests.reset()
			for i := range 3 { // events that do not help
				c.edit(other, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{fmt.Sprintf("10.2.0.2%d", i)} })
				n.knows(other)
			}
			if asked := requests.String(); asked != "" && !tc.full {
				t.Errorf("while it waits: %s", asked)
			}
			tc.then(c)
			if got := p.ips(t); got[0] != "10.1.0.11/24" {
				t.Errorf("got %v", got)
			}
			if got := []int{requests.of(claims), requests.of(fences), requests.of("list SpiderIPPoolList")}; !slices.Equal(got, []int{1, 1, 0}) {
				t.Errorf("in all: %s", requests)
			}
			if more := n.waitings(); more > 0 {
				t.Errorf("it says %d times more that it waits", more)
			}
		})
	}
}

// TestAutomaticPoolNeverComes: when their time is over ADDs say for what they waited, and what says why it did not come. Before,
// they read once, together, what the watch may have missed.
func TestAutomaticPoolNeverComes(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n := c.node("n1", requests.funcs())
	web := c.deployment("web")
	c.automatic("other-app", "s4", "Deployment/other", "10.1.0.0/24", []string{"10.1.0.10"})
	c.automatic("other-subnet", "s5", "Deployment/web", "10.2.0.0/24", []string{"10.2.0.10"})
	n.knowsPools(2)
	var all []*pending
	for i := range 5 {
		name := fmt.Sprint("web", i)
		all = append(all, n.adding(c.pod(n, name, web, c.subnet("s4", "")), name))
	}
	for _, p := range all {
		p.refused(t, wire.CodeTryAgain, "no IPPool available, interface eth0 gets no IPv4 address from SpiderSubnet s4 (Pod annotation ipam.spidernet.io/subnet): "+
			"the controller has not made the automatic pool of Deployment "+c.prefix+"/web yet; 'kubectl describe deployment -n "+c.prefix+" web' says why")
	}
	if got := requests.of("list SpiderIPPoolList"); got != 1 {
		t.Errorf("%d LISTs of pools: %s", got, requests)
	}
	c.holds("")
}

// TestAutomaticPoolBehindASilentWatch: a watch that brings nothing refuses nobody for ever.
func TestAutomaticPoolBehindASilentWatch(t *testing.T) {
	for _, tc := range []struct {
		name  string
		known func(*v2beta1.SpiderIPPool) // what the watch has brought; nil: nothing
	}{
		{"not made", nil},
		{"announced", disabled},
		{"too small", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.10"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			v := apiserver.NewValve(t, "spiderippools")
			n, other := c.machine("n1"), c.node("n2")
			n.transport = v.Wrap
			n.start()
			web := c.deployment("web")
			make := func(edit ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
				return c.automatic("auto", "s4", "Deployment/web", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"}, edit...)
			}
			if tc.known != nil {
				auto := make(tc.known)
				n.knows(auto)
				v.Shut()
				c.edit(auto, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable, p.Spec.IPs = nil, []string{"10.1.0.10-10.1.0.11"} })
			} else {
				v.Shut()
				make()
			}
			other.add(c.pod(other, "first", web, c.subnet("s4", "")), "first", asking("10.1.0.10"))
			if got := n.add(c.pod(n, "web", web, c.subnet("s4", "")), "web"); got[0] != "10.1.0.11/24" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestInterfacesOfSubnets: each interface and family has an automatic pool of its own.
func TestInterfacesOfSubnets(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	of := func(ifname string) func(*v2beta1.SpiderIPPool) {
		return func(p *v2beta1.SpiderIPPool) { p.Labels[v2beta1.LabelInterface] = ifname }
	}
	for _, p := range []struct{ name, subnet, cidr, ip, ifname string }{
		{"a4", "s4", "10.1.0.0/24", "10.1.0.10", "eth0"}, {"a6", "s6", "fd01::/64", "fd01::10", "eth0"}, {"b4", "t4", "10.2.0.0/24", "10.2.0.10", "net1"},
		{"wrong-interface", "t4", "10.2.0.0/24", "10.2.0.20", "eth0"}, {"wrong-family", "t6", "10.3.0.0/24", "10.3.0.10", "net1"},
	} {
		c.automatic(p.name, p.subnet, "Deployment/web", p.cidr, []string{p.ip}, of(p.ifname))
	}
	n.knowsPools(5)
	p := c.pod(n, "web", c.deployment("web"), c.annotated(v2beta1.AnnotationSubnets,
		`[{"interface":"eth0","ipv4":["s4"],"ipv6":["s6"]},{"interface":"net1","ipv4":["t4"]},{"interface":"net2","ipv6":["t6"]}]`))
	for ifname, want := range map[string][]string{"eth0": {"10.1.0.10/24", "fd01::10/64"}, "net1": {"10.2.0.10/24"}} {
		if reply, err := n.call(wire.VerbAdd, p, "web", ifname); err != nil || !slices.Equal(texts(reply), want) {
			t.Errorf("%s has %v, %v, want %v", ifname, reply, err, want)
		}
	}
	before := c.held()
	for ifname, says := range map[string]string{"net2": "net2 gets no IPv6 address from SpiderSubnet t6", "net3": "interface net3 must be specified"} {
		if _, err := n.call(wire.VerbAdd, p, "web", ifname); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ifname, err)
		}
	}
	if _, err := n.call(wire.VerbAdd, p, "web", "net1", asking("fd01::11")); err == nil || !strings.Contains(err.Error(), "names no IPv6 pool") {
		t.Errorf("asking for the other family: %v", err)
	}
	if held := c.held(); held != before {
		t.Errorf("held %s, before %s", held, before)
	}
}

// TestSubnetsAsked: what is wrong with an annotation is said at once, and claims nothing; not even from pools that another names.
func TestSubnetsAsked(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	on, off := c.patient("on", requests.funcs()), c.machine("off")
	off.automatic = false
	off.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	web := c.deployment("web")
	static := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: on.name, UID: "n1", Controller: ptr(true)}}
	}
	one, many, number := v2beta1.AnnotationSubnet, v2beta1.AnnotationSubnets, v2beta1.AnnotationIPPoolIPNumber
	for _, tc := range []struct {
		name  string
		n     *node
		edits []func(*corev1.Pod)
		says  string
	}{
		{"feature-off", off, []func(*corev1.Pod){web, c.subnet("s4", "")}, "it's invalid to use 'ipam.spidernet.io/subnets' or 'ipam.spidernet.io/subnet' annotation when Auto-Pool feature is disabled"},
		{"orphan", on, []func(*corev1.Pod){c.subnet("s4", "")}, "SpiderSubnet feature doesn't support no-controller pod"},
		{"static", on, []func(*corev1.Pod){static, c.subnet("s4", "")}, "SpiderSubnet feature doesn't support no-controller pod"},
		{"both", on, []func(*corev1.Pod){web, c.subnet("s4", ""), c.annotated(many, `[]`)}, "both annotations"},
		{"malformed", on, []func(*corev1.Pod){web, c.annotated(one, `s4`)}, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/subnet'"},
		{"number", on, []func(*corev1.Pod){web, c.subnet("s4", ""), c.annotated(number, "-1")}, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/ippool-ip-number'"},
		{"interface", on, []func(*corev1.Pod){web, c.annotated(many, `[{"interface":"net1","ipv4":["s4"]}]`)}, "wrong input, Pod annotation ipam.spidernet.io/subnets: interface eth0 must be specified"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := c.pod(tc.n, tc.name, append(tc.edits, c.from("v4|"))...)
			tc.n.adding(p, tc.name).refused(t, wire.CodeConfig, tc.says)
		})
	}
	if requests.of(claims) > 0 {
		t.Errorf("claims: %s", requests)
	}
}

// TestSubnetOfALiveApplication: its annotation names another subnet. Pods of before keep what they have, in a new sandbox and
// with a new agent, too; new ones get addresses of the other subnet only.
func TestSubnetOfALiveApplication(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	web := c.deployment("web")
	c.automatic("former", "s4", "Deployment/web", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
	n.knowsPools(1)
	old := c.pod(n, "old", web, c.subnet("s4", ""))
	had := n.add(old, "one")
	next := c.pod(n, "new", web, c.subnet("s5", ""))
	n.adding(next, "new-1").refused(t, wire.CodeTryAgain, "from SpiderSubnet s5", "has not made the automatic pool")
	c.automatic("next", "s5", "Deployment/web", "10.2.0.0/24", []string{"10.2.0.10"})
	n.knowsPools(2)
	if got := n.add(next, "new-2"); got[0] != "10.2.0.10/24" {
		t.Errorf("the new pod has %v", got)
	}
	n.adding(c.pod(n, "third", web, c.subnet("s5", "")), "third").refused(t, wire.CodeTryAgain, "-next: all IP addresses used out: 0 free of 1")
	again := func(sandbox string) {
		t.Helper()
		if _, err := n.call(wire.VerbCheck, old, sandbox, "eth0", holding(strings.TrimSuffix(had[0], "/24"))); err != nil {
			t.Errorf("CHECK in %s: %v", sandbox, err)
		}
		if got := n.add(old, sandbox); !slices.Equal(got, had) {
			t.Errorf("in %s it has %v, had %v", sandbox, got, had)
		}
	}
	again("one")
	n.restart()
	again("one")
	n.endNetns("one")
	if got := n.add(old, "two"); !slices.Equal(got, had) {
		t.Errorf("in a new sandbox it has %v, had %v", got, had)
	}
}

// TestFixedAddressOfAFormerSubnet: the next pod of a StatefulSet whose annotation names another subnet gives its address up for
// one of that; and not before there is one.
func TestFixedAddressOfAFormerSubnet(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n1, n2 := c.node("n1"), c.patient("n2", requests.funcs())
	set := c.statefulSet("db", 1)
	c.automatic("former", "s4", "StatefulSet/db", "10.1.0.0/24", []string{"10.1.0.10"})
	n1.knowsPools(1)
	p := c.pod(n1, "db-0", of(set), c.subnet("s4", ""))
	n1.add(p, "one")
	n1.del(p, "one")
	c.remove(p)
	p = c.pod(n2, "db-0", of(set), c.subnet("s5", ""))
	waits := n2.adding(p, "two")
	n2.inLine(1)
	requests.reset()
	n2.knows(c.pool("other", "10.3.0.0/24", []string{"10.3.0.10"}))
	if asked := requests.String(); asked != "" {
		t.Errorf("while it waits: %s", asked)
	}
	c.holds("10.1.0.10 n1/db-0 eth0 one")
	c.automatic("next", "s5", "StatefulSet/db", "10.2.0.0/24", []string{"10.2.0.10"})
	if got := waits.ips(t); got[0] != "10.2.0.10/24" {
		t.Errorf("got %v", got)
	}
	c.holds("10.2.0.10 n2/db-0 eth0 two")
	n2.del(p, "two")
	c.remove(p)
	if got := n2.add(c.pod(n2, "db-0", of(set), c.subnet("s5", "")), "three"); got[0] != "10.2.0.10/24" {
		t.Errorf("the next one has %v", got)
	}
}

// TestFixedAddressOfAPoolThatDoesNotServeYet: the watch has not brought the automatic pool of a fixed address, or the pool is not
// enabled. The address stays.
func TestFixedAddressOfAPoolThatDoesNotServeYet(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprint("known ", known), func(t *testing.T) {
			c := newCluster(t)
			v := apiserver.NewValve(t, "spiderippools")
			n1, n2 := c.node("n1"), c.machine("n2")
			n2.transport = v.Wrap
			if known {
				n2.durations.Wait = requestWait
			}
			n2.start()
			set := c.statefulSet("db", 1)
			if !known {
				v.Shut()
			}
			auto := c.automatic("auto", "s4", "StatefulSet/db", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.200"})
			p := c.pod(n1, "db-0", of(set), c.subnet("s4", ""))
			had := n1.add(p, "one", asking("10.1.0.77"))
			n1.del(p, "one")
			c.remove(p)
			if known {
				c.edit(auto, disabled)
				n2.eventually("the pool is known to be disabled", func() bool {
					p, err := n2.agent.Facts.Pool(t.Context(), auto.Name)
					return err == nil && p.Refuses(&pool.PodContext{}, pool.IPv4) == "it is disabled (spec.disable)"
				})
			}
			next := n2.adding(c.pod(n2, "db-0", of(set), c.subnet("s4", "")), "two")
			if known {
				n2.inLine(1)
				c.edit(auto, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = nil })
			}
			if got := next.ips(t); !slices.Equal(got, had) {
				t.Errorf("it has %v, had %v", got, had)
			}
		})
	}
}
