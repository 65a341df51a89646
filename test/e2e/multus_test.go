package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/cluster"
	"github.com/spidernet-io/spiderpool/test/lab"
)

// TestMultusOnIPv6OnlyControlPlane runs scenarios on a cluster of its own: its
// API server, nodes and services have IPv6 addresses only, Multus gives pods
// their interfaces, and the default network is another segment in each zone.
func TestMultusOnIPv6OnlyControlPlane(t *testing.T) {
	t.Parallel()
	c, err := cluster.Start(t.Context(), lab.Config{Name: "e2e-multus", Nodes: 2, Families: lab.IPv6, Multus: "underlay", Out: shared.Out},
		"spiderpoolAgent.prometheus.enabled=true", "spiderpoolAgent.multusClusterNetwork=underlay",
		"spiderpoolAgent.binName=/usr/bin/spiderpool-agent", "spiderpoolController.binName=/usr/bin/spiderpool-controller")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	for i, segment := range lab.Segments {
		conf := lab.MacvlanConflist("1.0.0", "underlay", segment, map[string]any{"type": "spiderpool"})
		if err := c.WriteCNI(fmt.Sprint("node", i+1), "10-underlay.conflist", conf); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("scenarios", func(t *testing.T) {
		for name, run := range map[string]func(*scenario){
			"IPv6 alone":                            ipv6Alone,
			"one controller in two zones":           twoZones,
			"default network and two more":          threeNetworks,
			"seventeen interfaces":                  seventeen,
			"a second interface that is not served": notServed,
			"a DEL that nobody is called for":       notCalled,
			"fixed addresses of two interfaces":     fixedOfTwo,
			"a subnet for each of two interfaces":   twoSubnets,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(on(t, c, 1))
			})
		}
	})
	t.Run("installed again as the README says", func(t *testing.T) { asTheReadmeSays(on(t, c, 1)) })
}

// ipv6Alone: pods of an IPv6-only cluster have IPv6 addresses alone.
func ipv6Alone(s *scenario) {
	six := s.pool("six", lab.Segments[0].IPv6.String(), fmt.Sprintf("fd00:172:20::%x:100-fd00:172:20::%x:1ff", s.number, s.number), lab.Segments[0].IPv6Gateway.String())
	p := s.asking("web", "", six, at("node1"))
	if got := s.runs("web"); len(got) != 1 || netip.MustParseAddr(got[0]).Is4() {
		s.Errorf("it holds %v", got)
	}
	s.agree(1, 1)
	s.remove(p)
	s.held(0)
}

// at binds a pod to a node.
func at(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.TopologySpreadConstraints = node, nil }
}

// inZone binds a pool to the nodes of a zone.
func inZone(zone string) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) {
		p.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: zone}}
	}
}

// twoZones: pods of one Deployment have addresses of the subnet of their zone.
func twoZones(s *scenario) {
	var v4, v6 []string
	for i, segment := range lab.Segments {
		zone := fmt.Sprint("zone-", i+1)
		v4 = append(v4, s.pool(zone+"-4", segment.IPv4.String(), fmt.Sprintf("172.2%d.%d.60-172.2%d.%d.69", i, s.number, i, s.number), segment.IPv4Gateway.String(), inZone(zone)))
		v6 = append(v6, s.pool(zone+"-6", segment.IPv6.String(), fmt.Sprintf("fd00:172:2%d::%x:60-fd00:172:2%d::%x:69", i, s.number, i, s.number), segment.IPv6Gateway.String(), inZone(zone)))
	}
	n := int32(4)
	template := s.template(forever...)
	template.Annotations[v2beta1.AnnotationIPPool] = wants(strings.Join(v4, ","), strings.Join(v6, ","))
	s.make(&appsv1.Deployment{ObjectMeta: s.meta(), Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: selector, Template: template}})
	s.running(4)
	pods, err := s.Running(s.Context(), s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	nodes := map[string]int{}
	for _, p := range pods {
		segment := lab.Segments[0]
		if nodes[p.Spec.NodeName]++; p.Spec.NodeName == "node2" {
			segment = lab.Segments[1]
		}
		for _, text := range s.of(p.Name)["eth0"] {
			if a := netip.MustParseAddr(text); !segment.IPv4.Contains(a) && !segment.IPv6.Contains(a) {
				s.Errorf("%s on %s has %s", p.Name, p.Spec.NodeName, a)
			}
		}
	}
	if len(nodes) != 2 {
		s.Errorf("pods are on %v", nodes)
	}
	s.sound(4)
}

// attachment makes a network of Multus on a segment, with an ipam section that
// names default pools.
func (s *scenario) attachment(name string, segment lab.Segment, ipam map[string]any) {
	s.Helper()
	if ipam["type"] == nil {
		ipam["type"] = "spiderpool"
	}
	conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": name, "type": "macvlan",
		"master": segment.Interface, "mode": "bridge", "ipam": ipam})
	if err != nil {
		s.Fatal(err)
	}
	if err := s.Apply(s.Context(), fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: %s, namespace: %s}\nspec: {config: '%s'}\n",
		name, s.namespace, conf)); err != nil {
		s.Fatal(err)
	}
}

// inside returns the addresses that the interfaces of a pod bear.
func (s *scenario) inside(p *corev1.Pod) map[string][]string {
	s.Helper()
	sandbox, err := s.PodSandbox(p.Spec.NodeName, p.UID)
	if err != nil {
		s.Fatal(err)
	}
	byInterface, err := s.Addresses(p.Spec.NodeName, sandbox.Netns)
	if err != nil {
		s.Fatal(err)
	}
	out := map[string][]string{}
	for name, prefixes := range byInterface {
		for _, prefix := range prefixes {
			out[name] = append(out[name], prefix.Addr().String())
		}
		slices.Sort(out[name])
	}
	return out
}

// pool2 makes a pool of segment 2 with the addresses first to last of the
// scenario's own.
func (s *scenario) pool2(name string, first, last int, edit ...func(*v2beta1.SpiderIPPool)) string {
	s.Helper()
	return s.pool(name, lab.Segments[1].IPv4.String(), fmt.Sprintf("172.21.%d.%d-172.21.%d.%d", s.number, first, s.number, last), "", edit...)
}

func ofNetwork(name string) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{name} }
}

// threeNetworks: the default network and two attachments, whose pools are named
// by position; pools bound to networks serve these only; each address is on its
// interface, and routes too.
func threeNetworks(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	s.attachment("b", lab.Segments[1], map[string]any{"default_ipv4_ippool": []string{s.namespace + "-conf"}})
	s.pool2("conf", 100, 109)
	first := s.range4("first", 60, 69, ofNetwork("underlay"))
	a := s.pool2("a", 60, 69, ofNetwork(s.namespace+"/a"))
	b := s.pool2("b", 70, 79, ofNetwork(s.namespace+"/b"))
	gateway := fmt.Sprintf("172.21.%d.200", s.number)
	p := s.asking("web", "", "", at("node1"), func(p *corev1.Pod) {
		delete(p.Annotations, v2beta1.AnnotationIPPool)
		p.Annotations[v2beta1.AnnotationMultusNetworks] = "a, b@data0"
		p.Annotations[v2beta1.AnnotationIPPools] = fmt.Sprintf(`[{"ipv4":[%q]},{"ipv4":[%q,%q]},{"ipv4":[%q,%q],"cleangateway":true}]`, first, b, a, a, b)
		p.Annotations[v2beta1.AnnotationRoutes] = fmt.Sprintf(`[{"dst":"10.99.0.0/16","gw":%q}]`, gateway)
	})
	s.runs("web")
	held, inside := s.of("web"), s.inside(p)
	for ifname, want := range map[string]string{
		"eth0": fmt.Sprintf("172.20.%d.6", s.number), "net1": fmt.Sprintf("172.21.%d.6", s.number), "data0": fmt.Sprintf("172.21.%d.7", s.number)} {
		if len(held[ifname]) != 1 || !strings.HasPrefix(held[ifname][0], want) || !slices.Equal(held[ifname], inside[ifname]) {
			s.Errorf("%s: held %v, inside %v, want %sx", ifname, held[ifname], inside[ifname], want)
		}
	}
	routes, err := s.Kubectl(s.Context(), "-n", s.namespace, "exec", "web", "--", "ip", "route")
	if err != nil {
		s.Fatal(err)
	}
	if !strings.Contains(routes, "10.99.0.0/16 via "+gateway) || strings.Count(routes, "default") != 1 {
		s.Errorf("routes:\n%s", routes)
	}
	// A pod that names nothing takes what the network configuration names.
	plain := s.asking("plain", "", "", at("node1"), func(p *corev1.Pod) {
		p.Annotations[v2beta1.AnnotationMultusNetworks] = "b"
		delete(p.Annotations, v2beta1.AnnotationIPPool)
	})
	s.refused("plain", "IPAllocationFailed", "no IPPool available", "spec.default: true")
	s.patch(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: first}}, fmt.Sprintf(`{"spec":{"default":true,"namespaceName":[%q]}}`, s.namespace))
	s.runs("plain")
	if got := s.inside(plain)["net1"]; len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("172.21.%d.10", s.number)) {
		s.Errorf("net1 of a pod that names nothing: %v", got)
	}
	said := s.explain("web", "data0")
	for _, part := range []string{"1. pool " + b, "pool " + a + " does not serve: unmatched Multus name of IPPool", "holds " + held["data0"][0]} {
		if !strings.Contains(said, part) {
			s.Errorf("explain does not say %q:\n%s", part, said)
		}
	}
	s.agree(2, 5)
}

// seventeen: a pod with seventeen interfaces, sixteen of them on one pool.
func seventeen(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	first, many := s.range4("first", 60, 69), s.pool2("many", 60, 75)
	pools := fmt.Sprintf(`{"ipv4":[%q]}`, first) + strings.Repeat(fmt.Sprintf(`,{"ipv4":[%q]}`, many), 16)
	p := s.asking("web", "", "", at("node1"), func(p *corev1.Pod) {
		p.Annotations[v2beta1.AnnotationMultusNetworks] = "a" + strings.Repeat(",a", 15)
		p.Annotations[v2beta1.AnnotationIPPools] = "[" + pools + "]"
	})
	s.runs("web")
	inside := s.inside(p)
	for i := range 17 {
		ifname := fmt.Sprint("net", i)
		if i == 0 {
			ifname = "eth0"
		}
		if len(inside[ifname]) != 1 {
			s.Errorf("%s has %v", ifname, inside[ifname])
		}
	}
	s.agree(1, 17)
	s.remove(p)
	s.held(0)
}

// notServed: while the second interface of a pod finds no address, sandbox
// after sandbox, the pod never has more than one address.
func notServed(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	// A pool that has nothing to give is not waited for, so sandboxes follow each other soon.
	first, tiny := s.range4("first", 60, 69), s.pool2("tiny", 60, 60, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = p.Spec.IPs })
	two := func(p *corev1.Pod) {
		p.Annotations[v2beta1.AnnotationMultusNetworks] = "a"
		p.Annotations[v2beta1.AnnotationIPPools] = fmt.Sprintf(`[{"interface":"eth0","ipv4":[%q]},{"interface":"net1","ipv4":[%q]}]`, first, tiny)
	}
	late := s.asking("late", "", "", at("node1"), two)
	most := 0
	s.eventually(func() string {
		held := s.of("late")
		most = max(most, len(held["eth0"])+len(held["net1"]))
		var list corev1.EventList
		if err := s.List(s.Context(), &list); err != nil {
			return err.Error()
		}
		failures := int32(0)
		for _, e := range list.Items {
			if e.InvolvedObject.Namespace == s.namespace && e.InvolvedObject.Name == "late" && e.Reason == "FailedCreatePodSandBox" {
				failures += max(e.Count, 1)
				if !strings.Contains(e.Message, "interface net1 gets no IPv4 address") || !strings.Contains(e.Message, tiny+": all IP addresses used out: 0 free of 0") {
					return "the event says " + e.Message
				}
			}
		}
		if failures < 2 {
			return fmt.Sprintf("its sandbox failed %d times", failures)
		}
		return ""
	})
	if most != 1 {
		s.Errorf("it had up to %d addresses at once", most)
	}
	pool := &v2beta1.SpiderIPPool{}
	if err := s.Get(s.Context(), types.NamespacedName{Name: tiny}, pool); err != nil {
		s.Fatal(err)
	}
	if pool.Spec.ExcludeIPs = nil; s.Update(s.Context(), pool) != nil {
		s.Fatal("the pool cannot be edited")
	}
	s.runs("late")
	s.agree(1, 2)
	s.remove(late)
	s.held(0)
}

// notCalled: Multus has lost what it noted at the ADD, and the network that it
// looks up instead has another IPAM by now, so nobody hears of the end of net1.
func notCalled(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	first, second := s.range4("first", 60, 69), s.pool2("second", 60, 69)
	p := s.asking("web", "", "", at("node1"), func(p *corev1.Pod) {
		p.Annotations[v2beta1.AnnotationMultusNetworks] = "a"
		p.Annotations[v2beta1.AnnotationIPPools] = fmt.Sprintf(`[{"interface":"eth0","ipv4":[%q]},{"interface":"net1","ipv4":[%q]}]`, first, second)
	})
	s.runs("web")
	s.agree(1, 2)
	sandbox, err := s.PodSandbox("node1", p.UID)
	if err != nil {
		s.Fatal(err)
	}
	if err := os.Remove(s.HostPath("node1", "/var/lib/cni/multus/"+sandbox.ID)); err != nil {
		s.Fatal(err)
	}
	s.attachment("a", lab.Segments[1], lab.HostLocal(lab.Segments[1], byte(s.number)))
	silent := s.of("web")["net1"]
	s.remove(p)
	s.freed("node1", silent...)
}

// fixedOfTwo: each interface of a StatefulSet's pod has its own addresses again, though all are from one pool.
func fixedOfTwo(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	first, second := s.range4("first", 60, 69), s.pool2("second", 60, 69)
	set := s.statefulSet("web", 2, func(set *appsv1.StatefulSet) {
		delete(set.Spec.Template.Annotations, v2beta1.AnnotationIPPool)
		set.Spec.Template.Annotations[v2beta1.AnnotationMultusNetworks] = "a, a@data0"
		set.Spec.Template.Annotations[v2beta1.AnnotationIPPools] = fmt.Sprintf(
			`[{"interface":"eth0","ipv4":[%q]},{"interface":"net1","ipv4":[%q]},{"interface":"data0","ipv4":[%[2]q],"cleangateway":true}]`, first, second)
	})
	inside := func() map[string]map[string][]string {
		out := map[string]map[string][]string{}
		for _, p := range s.pods() {
			out[p.Name] = s.inside(&p)
		}
		return out
	}
	s.running(2)
	s.agree(2, 6)
	had := inside()
	before := s.pods()
	s.deletePods(set)
	s.anew(2, before...)
	s.agree(2, 6)
	if diff := gocmp.Diff(had, inside()); diff != "" {
		s.Errorf("addresses differ (-before +after):\n%s", diff)
	}
	s.remove(set)
	s.held(0)
}
