package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// annotated sets an annotation of a pod, in which %s is the test's prefix.
func (c *cluster) annotated(key, text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[key] = strings.ReplaceAll(text, "%s", c.prefix) }
}

// knowsPools waits until the agent knows so many pools of the test.
func (n *node) knowsPools(pools int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d pools are known", pools), func() bool {
		known := 0
		for _, p := range n.agent.Facts.Pools() {
			if strings.HasPrefix(p.Name, n.prefix+"-") {
				known++
			}
		}
		return known == pools
	})
}

// TestSourcesOfPools: what decides when several things name pools.
func TestSourcesOfPools(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	for i, name := range []string{"named", "pod", "ns", "conf"} {
		c.pool(name, "10.1.0.0/24", []string{fmt.Sprintf("10.1.0.%d0-10.1.0.%d9", i+1, i+1)})
	}
	n.knowsPools(4)
	named := c.annotated(v2beta1.AnnotationIPPools, `[{"interface":"eth0","ipv4":["%s-named"]}]`)
	pod := c.annotated(v2beta1.AnnotationIPPool, `{"ipv4":["%s-p*"]}`)
	conf := func(r *wire.Request) { r.IPv4Pools = []string{c.prefix + "-conf"} }
	before := &corev1.Namespace{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: c.prefix}, before); err != nil {
		t.Fatal(err)
	}
	annotate := func(key, text string) {
		after := before.DeepCopy()
		metav1.SetMetaDataAnnotation(&after.ObjectMeta, key, text)
		if err := c.Patch(t.Context(), after, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	ip := func(name string, edits ...func(*corev1.Pod)) string {
		t.Helper()
		p := c.pod(n, name, edits...)
		got := n.add(p, name, conf)
		n.del(p, name)
		return got[0][:len("10.1.0.1")]
	}
	if got := ip("conf"); got != "10.1.0.4" {
		t.Errorf("of the configuration: %sx", got)
	}
	annotate(v2beta1.AnnotationDefaultIPv4IPPool, `["`+c.prefix+`-ns"]`)
	c.eventually("the agent has heard of the namespace's pools", func() bool { return ip(fmt.Sprint("ns", tests.Add(1))) == "10.1.0.3" })
	if got := ip("pod", pod); got != "10.1.0.2" {
		t.Errorf("of the pod: %sx", got)
	}
	if got := ip("named", named, pod); got != "10.1.0.1" {
		t.Errorf("of the interface: %sx", got)
	}
}

// TestSeventeenInterfaces: each ADD allocates its own interface only, from its
// own pools; two interfaces on one pool have two addresses; and each costs what
// a pod of one costs.
func TestSeventeenInterfaces(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n := c.node("n1", requests.funcs())
	var pools, networks []string
	for i := range 17 {
		name := []string{"shared", fmt.Sprint("own", i)}[i%2] // every second interface has a pool of its own
		pools = append(pools, fmt.Sprintf(`{"ipv4":["%s-%s"]}`, c.prefix, name))
		if i%2 == 1 {
			c.pool(name, "10.2.0.0/16", []string{fmt.Sprintf("10.2.%d.1-10.2.%d.9", i, i)})
		}
	}
	c.pool("shared", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.18"})
	n.knowsPools(9)
	for i := 1; i < 17; i++ {
		networks = append(networks, fmt.Sprintf("net-%d", i))
	}
	p := c.pod(n, "web", c.annotated(v2beta1.AnnotationIPPools, "["+strings.Join(pools, ",")+"]"),
		c.annotated(v2beta1.AnnotationMultusNetworks, strings.Join(networks, ",")))
	c.eventually("the pod is known", func() bool {
		return n.agent.Facts.CachedPod(t.Context(), client.ObjectKeyFromObject(p), string(p.UID)) != nil
	})
	requests.reset()
	seen := map[string]bool{}
	for i := range 17 {
		ifname := fmt.Sprint("net", i)
		if i == 0 {
			ifname = "eth0"
		}
		reply, err := n.call(wire.VerbAdd, p, "web", ifname, ofNetwork(fmt.Sprint("net-", i)))
		if err != nil {
			t.Fatalf("%s: %v", ifname, err)
		}
		want := "10.1.0."
		if i%2 == 1 {
			want = fmt.Sprintf("10.2.%d.", i)
		}
		if got := texts(reply); len(got) != 1 || !strings.HasPrefix(got[0], want) || seen[got[0]] {
			t.Errorf("%s got %v, want one of %sx that no other has", ifname, got, want)
		} else {
			seen[got[0]] = true
		}
		if held := strings.Count(c.held(), "\n") + 1; held != i+1 {
			t.Errorf("%d addresses are held after %d ADDs", held, i+1)
		}
	}
	if got := []int{requests.of(claims) - requests.of(fences), requests.of(looks), requests.of("get Pod")}; !slices.Equal(got, []int{0, 0, 0}) || requests.of(fences) > 17+3 {
		t.Errorf("17 interfaces cost %s", requests)
	}
	c.eventually("the endpoint lists them all", func() bool {
		e := &v2beta1.SpiderEndpoint{}
		return c.Get(t.Context(), client.ObjectKeyFromObject(p), e) == nil && len(e.Status.Current.IPs) == 17
	})
}

// TestSecondInterfaceIsNotServed: over the retries of a pod whose second
// interface finds no address, the first has one address and the pod no more.
func TestSecondInterfaceIsNotServed(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Wait = 0
	n.start()
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.30"})
	c.pool("full", "10.2.0.0/24", []string{"10.2.0.10"})
	n.occupy("first", "full|")
	n.knowsPools(2)
	p := c.pod(n, "web", c.annotated(v2beta1.AnnotationIPPools,
		`[{"interface":"eth0","ipv4":["%s-a"]},{"interface":"net1","ipv4":["%s-full"]}]`))
	for i := range 5 {
		sandbox := fmt.Sprint("web", i)
		n.add(p, sandbox)
		_, err := n.call(wire.VerbAdd, p, sandbox, "net1")
		if err == nil || !strings.Contains(err.Error(), "interface net1 gets no IPv4 address") || !strings.Contains(err.Error(), "0 free of 1") {
			t.Fatalf("net1: %v", err)
		}
		if held := c.held(); strings.Count(held, "\n") != 1 || !strings.HasSuffix(strings.Split(held, "\n")[0], " "+sandbox) {
			t.Errorf("after try %d: %s", i, held)
		}
		if i%2 == 0 {
			n.del(p, sandbox)
		} else { // its DEL is lost
			n.endNetns(sandbox)
		}
	}
}

// TestRoutes: pool routes and the pod's go to the interface on whose subnet
// their gateway is; an entry of ippools says whether there is a default route.
func TestRoutes(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10"}, gateway("10.1.0.1"), func(p *v2beta1.SpiderIPPool) {
		p.Spec.Routes = []v2beta1.Route{{Dst: "10.8.0.0/16", Gw: "10.1.0.2"}}
	})
	c.pool("b", "10.2.0.0/24", []string{"10.2.0.10"}, gateway("10.2.0.1"))
	c.pool("b6", "fd02::/64", []string{"fd02::10"}, gateway("fd02::1"))
	n.knowsPools(3)
	p := c.pod(n, "web",
		c.annotated(v2beta1.AnnotationIPPools, `[{"interface":"eth0","ipv4":["%s-a"]},{"interface":"net1","ipv4":["%s-b"],"ipv6":["%s-b6"],"cleangateway":true}]`),
		c.annotated(v2beta1.AnnotationRoutes, `[{"dst":"10.9.0.0/16","gw":"10.1.0.3"},{"dst":"10.8.0.0/16","gw":"10.1.0.2"},
			{"dst":"10.7.0.0/16","gw":"10.2.0.3"},{"dst":"fd09::/64","gw":"fd02::3"},{"dst":"10.6.0.0/16","gw":"192.168.1.1"}]`))
	for ifname, want := range map[string][]string{
		"eth0": {"10.8.0.0/16 via 10.1.0.2", "10.9.0.0/16 via 10.1.0.3", "0.0.0.0/0 via 10.1.0.1"},
		"net1": {"10.7.0.0/16 via 10.2.0.3", "fd09::/64 via fd02::3"},
	} {
		reply, err := n.call(wire.VerbAdd, p, "web", ifname)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range reply.Routes {
			got = append(got, fmt.Sprintf("%s via %s", r.Dst, r.GW))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", ifname, diff)
		}
	}
	bad := c.pod(n, "bad", c.from("a|"), c.annotated(v2beta1.AnnotationRoutes, `[{"dst":"10.9.0.0/16","gw":"fd01::1"}]`))
	n.adding(bad, "bad").refused(t, wire.CodeConfig, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/routes'", "different families")
}

// TestOrderOfPools: pools made for fewer pods come first, then the order
// written; a name that does not exist is passed over.
func TestOrderOfPools(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("any", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("zone-b", "10.1.0.0/24", []string{"10.1.0.20"}, func(p *v2beta1.SpiderIPPool) {
		p.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"node": "n2"}}
	})
	c.pool("zone-a", "10.1.0.0/24", []string{"10.1.0.30"}, func(p *v2beta1.SpiderIPPool) {
		p.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"node": "n1"}}
	})
	c.pool("also", "10.1.0.0/24", []string{"10.1.0.40"})
	n.knowsPools(4)
	for i, want := range []string{"10.1.0.30/24", "10.1.0.10/24", "10.1.0.40/24"} {
		name := fmt.Sprint("p", i)
		if got := n.add(c.pod(n, name, c.from("none,any,zone-b,zone-a,also|")), name); got[0] != want {
			t.Errorf("pod %d got %v, want %s", i, got, want)
		}
	}
	n.adding(c.pod(n, "late", c.from("none,any,zone-b,zone-a,also|")), "late").refused(t, wire.CodeTryAgain,
		"no IPPool available, interface eth0 gets no IPv4 address", "-none: no such IPPool", "-zone-b: unmatched Node labels", "-any: all IP addresses used out: 0 free of 1")
}

// TestReserved: a reserved address is given to nobody, from the moment the
// agent hears of the reservation; who has it keeps it.
func TestReserved(t *testing.T) {
	c := newCluster(t)
	claimed := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		err := send(ctx)
		if e, ok := r.object.(*v2beta1.SpiderIP); ok && r.what == claims && e.Spec.Pod.Name == "late" && e.Spec.Address == "10.1.0.11" {
			if err := claimed.pass(ctx); err != nil {
				return err
			}
		}
		return err
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.13"})
	c.pool("v6", "fd01::/64", []string{"fd01::-fd01::ffff:ffff:ffff:ffff"})
	reserve := func(name string, ips ...string) {
		o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: c.prefix + "-" + name}}
		o.Spec.IPs = ips
		c.create(o)
		t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
		first, _, _ := strings.Cut(ips[0], "-")
		n.eventually("the agent has heard of the reservation", func() bool {
			return n.agent.Facts.Reserved().Contains(netip.MustParseAddr(first))
		})
	}
	has := n.occupy("has", "v4|", asking("10.1.0.10"))
	reserve("held", "10.1.0.10", "10.1.0.12-10.1.0.13")
	// Of all 2^64 but two addresses of the other pool nothing is given.
	reserve("huge", "fd01::-fd01::1:0:0:4", "fd01::1:0:0:7-fd01::ffff:ffff:ffff:ffff")
	for _, name := range []string{"six", "more"} {
		if got := n.add(c.pod(n, name, c.from("|v6")), name); got[0] != "fd01::1:0:0:5/64" && got[0] != "fd01::1:0:0:6/64" {
			t.Errorf("got %v, which is reserved", got)
		}
	}
	n.endNetns("has")
	if got := n.add(has, "next"); got[0] != "10.1.0.10/24" {
		t.Errorf("the pod that had 10.1.0.10 has %v now", got)
	}
	late := n.adding(c.pod(n, "late", c.from("v4|")), "late")
	c.await("the last address is claimed", claimed.reached)
	reserve("late", "10.1.0.11")
	claimed.open()
	late.refused(t, wire.CodeTryAgain, "0 free of 0, 4 more reserved")
	n.del(late.pod, "late")
	n.del(has, "next")
	n.adding(c.pod(n, "other", c.from("v4|")), "other").refused(t, wire.CodeTryAgain, "0 free of 0, 4 more reserved")
	n.adding(c.pod(n, "asks", c.from("v4|")), "asks", asking("10.1.0.10")).refused(t, wire.CodeConfig, "10.1.0.10")
}

// ofNetwork calls by a network configuration of that name.
func ofNetwork(name string) func(*wire.Request) {
	return func(r *wire.Request) { r.Network = name }
}

// TestMultusNetworks: a pool that names networks serves their interfaces only.
func TestMultusNetworks(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"}, func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{c.prefix + "/a"} })
	c.pool("b", "10.2.0.0/24", []string{"10.2.0.10-10.2.0.19"}, func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{c.prefix + "/b"} })
	n.knowsPools(2)
	p := c.pod(n, "web", c.from("a,b|"), c.annotated(v2beta1.AnnotationMultusNetworks, "%s/b@data0,a"))
	for ifname, want := range map[string]string{"data0": "10.2.0.", "net2": "10.1.0."} {
		if reply, err := n.call(wire.VerbAdd, p, "web", ifname, ofNetwork("a")); err != nil || !strings.HasPrefix(texts(reply)[0], want) {
			t.Errorf("%s: %v, error %v, want %sx", ifname, reply, err, want)
		}
	}
	n.adding(p, "web").refused(t, wire.CodeNoPool, "-a: spec.multusName", "cluster-network multus isn't set")
}

// TestMatchParent: with match_master_subnet a pool serves if the parent
// interface is on its subnet.
func TestMatchParent(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("b", "10.2.0.0/24", []string{"10.2.0.10"})
	on := func(addresses ...string) func(*wire.Request) {
		return func(r *wire.Request) {
			r.MatchMasterSubnet = true
			for _, a := range addresses {
				r.Parent = append(r.Parent, netip.MustParseAddr(a))
			}
		}
	}
	if got := n.add(c.pod(n, "web", c.from("a,b|")), "web", on("fd02::1", "10.2.0.1")); got[0] != "10.2.0.10/24" {
		t.Errorf("got %v", got)
	}
	n.adding(c.pod(n, "none", c.from("a,b|")), "none", on()).refused(t, wire.CodeNoPool, "match_master_subnet: its subnet 10.1.0.0/24 holds none")
}

// TestPatternWhileWaiting: an ADD that waits is served by a pool that is made
// meanwhile and matches its pattern.
func TestPatternWhileWaiting(t *testing.T) {
	c := newCluster(t)
	n := c.patient("n1")
	c.pool("web-1", "10.1.0.0/24", []string{"10.1.0.10"})
	n.knowsPools(1)
	pattern := c.annotated(v2beta1.AnnotationIPPool, `{"ipv4":["%s-web-*"]}`)
	n.add(c.pod(n, "first", pattern), "first")
	late := n.adding(c.pod(n, "late", pattern), "late")
	n.inLine(1)
	c.pool("web-2", "10.1.0.0/24", []string{"10.1.0.20"})
	if got := late.ips(t); got[0] != "10.1.0.20/24" {
		t.Errorf("got %v", got)
	}
	nothing := c.pod(n, "nothing", c.annotated(v2beta1.AnnotationIPPool, `{"ipv4":["%s-db-*"]}`))
	n.adding(nothing, "nothing").refused(t, wire.CodeNoPool, "-db-*: no IPv4 IPPool has such a name")
}

// TestMalformedDefault: a default pool that is malformed is no secret, and does
// not keep the others from serving.
func TestMalformedDefault(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	isDefault := func(p *v2beta1.SpiderIPPool) { p.Spec.Default = ptr(true) }
	crooked := c.pool("crooked", "fd01::/64", []string{"fd01::20-fd01::10"}, isDefault)
	n.knowsPools(1)
	n.adding(c.pod(n, "six"), "six").refused(t, wire.CodeNoPool, "(spec.default)", crooked.Name+": it serves nobody: spec.ips", "fd01::20-fd01::10")
	good := c.pool("good", "fd01::/64", []string{"fd01::30"}, isDefault)
	n.knowsPools(2)
	if got := n.add(c.pod(n, "more"), "more"); got[0] != "fd01::30/64" {
		t.Errorf("got %v", got)
	}
	for _, p := range []*v2beta1.SpiderIPPool{crooked, good} {
		if err := c.Delete(t.Context(), p); err != nil { // or it would be a default for other tests
			t.Error(err)
		}
	}
}

// TestTerminatingIsCounted: a refusal tells how many addresses come free next.
func TestTerminatingIsCounted(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("web", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.12"})
	grace := int64(600)
	for i := range 3 {
		name := fmt.Sprint("p", i)
		p := c.pod(n, name, c.from("web|"), func(p *corev1.Pod) { p.Finalizers = []string{"test.example/hold"} })
		n.add(p, name)
		t.Cleanup(func() {
			_ = c.Patch(context.Background(), p, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
		})
		if i == 0 {
			continue
		}
		if err := c.Delete(t.Context(), p, &client.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
		n.eventually("the agent has heard of the deletion", func() bool { return n.agent.Facts.Terminating(p.Namespace, p.Name, string(p.UID)) })
	}
	n.adding(c.pod(n, "late", c.from("web|")), "late").refused(t, wire.CodeTryAgain, "-web: all IP addresses used out: 0 free of 3, 2 terminating on this node")
}

// TestDefaultRouteTwice: the annotation routes repeats what the pool brings.
func TestDefaultRouteTwice(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Spec.Gateway = ptr("10.1.0.1") })
	p := c.pod(n, "web", c.from("v4|"), c.annotated(v2beta1.AnnotationRoutes, `[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}]`))
	reply, err := n.call(wire.VerbAdd, p, "web", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Routes) != 1 {
		t.Errorf("routes %v, want one", reply.Routes)
	}
}

// TestNameThatCannotBe: a name that no pool can have does not exist, so the
// backup serves.
func TestNameThatCannotBe(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.annotated(v2beta1.AnnotationIPPool, `{"ipv4":["kube-system/v4","%s-v4"]}`))
	reply, err := n.call(wire.VerbAdd, p, "web", "eth0")
	t.Logf("%v %#v", reply, err)
	if err != nil && !strings.Contains(err.Error(), "wrong input") {
		t.Error(err)
	}
	n.adding(c.pod(n, "only", c.annotated(v2beta1.AnnotationIPPool, `{"ipv4":["kube-system/v4"]}`)), "only").refused(t, wire.CodeNoPool)
}

// TestMalformedDefaultOfTheOtherFamily: a malformed pool serves nobody, others serve.
func TestMalformedDefaultOfTheOtherFamily(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	isDefault := func(p *v2beta1.SpiderIPPool) { p.Spec.Default = ptr(true) }
	pools := []*v2beta1.SpiderIPPool{
		c.pool("good", "10.1.0.0/24", []string{"10.1.0.10"}, isDefault),
		c.pool("crooked", "fd01::/64", []string{"fd01::20-fd01::10"}, isDefault),
	}
	n.knowsPools(2)
	_, err := n.call(wire.VerbAdd, c.pod(n, "web"), "web", "eth0")
	if err != nil {
		t.Error(err)
	}
	for _, p := range pools {
		if err := c.Delete(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
}

// TestDefaultPoolMadeWhileWaiting: an ADD that waits is served by a default pool
// that is made meanwhile.
func TestDefaultPoolMadeWhileWaiting(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	isDefault := func(p *v2beta1.SpiderIPPool) { p.Spec.Default = ptr(true) }
	one := c.pool("one", "10.1.0.0/24", []string{"10.1.0.10"}, isDefault)
	n.knowsPools(1)
	n.add(c.pod(n, "first"), "first")
	late := n.adding(c.pod(n, "late"), "late")
	n.inLine(1)
	two := c.pool("two", "10.1.0.0/24", []string{"10.1.0.20"}, isDefault)
	if <-late.done; late.err != nil {
		t.Error(late.err)
	}
	for _, p := range []*v2beta1.SpiderIPPool{one, two} {
		if err := c.Delete(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
}
