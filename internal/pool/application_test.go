package pool

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

var web = Application{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}

// automatic makes a pool that of an application for a SpiderSubnet.
func automatic(a Application, subnet string, edits ...func(*v2beta1.SpiderIPPool)) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) {
		p.Labels = map[string]string{v2beta1.LabelOwnerSpiderSubnet: subnet, v2beta1.LabelInterface: "eth0"}
		p.Spec.PodAffinity = a.Affinity()
		for _, e := range edits {
			e(p)
		}
	}
}

func of(a Application) func(*PodContext) {
	return func(s *PodContext) { s.AutomaticPools, s.Application = true, &a }
}

// TestAutomaticRefuses: an automatic pool serves an interface of the pods of its application that ask for a SpiderSubnet, and
// nobody else, whatever names it.
func TestAutomaticRefuses(t *testing.T) {
	newer := web
	newer.APIVersion = "apps/v2"
	kruise := web
	kruise.APIVersion = "apps.kruise.io/v1"
	elsewhere := web
	elsewhere.Namespace = "bank"
	p := parsed(t, "p", automatic(web, "s4"))
	for name, tc := range map[string]struct {
		s   *PodContext
		why string
	}{
		"its application":             {asks(of(web)), ""},
		"in another version":          {asks(of(newer)), ""},
		"of another group":            {asks(of(kruise)), "it is the automatic pool of Deployment shop/web, and the pod is of Deployment shop/web"},
		"of another namespace":        {asks(of(elsewhere)), "and the pod is of Deployment bank/web"},
		"another interface":           {asks(of(web), ifname("net1")), "it is the automatic pool of interface eth0"},
		"what asks for no subnet":     {asks(), "it is the automatic pool of Deployment shop/web, whose pods get it by their annotation ipam.spidernet.io/subnet"},
		"labels as those of affinity": {asks(func(s *PodContext) { s.PodLabels = web.Affinity().MatchLabels }), "it is the automatic pool of"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.Refuses(tc.s, IPv4); (got == "") != (tc.why == "") || !strings.Contains(got, tc.why) {
				t.Errorf("reason %q, want %q", got, tc.why)
			}
		})
	}
}

// TestSelectionOfSubnets: the pools of a subnet that is asked for are those of the application, interface and family, as many as
// are made; there may be none.
func TestSelectionOfSubnets(t *testing.T) {
	other := web
	other.Name = "other"
	v6 := func(p *v2beta1.SpiderIPPool) {
		p.Spec.Subnet, p.Spec.IPs = "fd01::/64", []string{"fd01::10"}
	}
	long := strings.Repeat("s", 64) + ".x" // too long for a label
	longOwner := func(p *v2beta1.SpiderIPPool) {
		delete(p.Labels, v2beta1.LabelOwnerSpiderSubnet)
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "SpiderSubnet", Name: long, Controller: ptr(true)}}
	}
	malformed := spec("10.1.0.0/16", []string{"10.2.0.9"}, automatic(web, "crooked"))
	malformed.Name = "crooked"
	pools := []*Pool{
		parsed(t, "web4", automatic(web, "s4")), parsed(t, "web6", automatic(web, "s6", v6)), parsed(t, "web-other-subnet", automatic(web, "t4")),
		parsed(t, "web-net1", automatic(web, "s4", func(p *v2beta1.SpiderIPPool) { p.Labels[v2beta1.LabelInterface] = "net1" })),
		parsed(t, "other4", automatic(other, "s4")), parsed(t, "web-long", automatic(web, "", longOwner)),
		parsed(t, "made-by-hand", func(p *v2beta1.SpiderIPPool) { p.Labels = map[string]string{v2beta1.LabelOwnerSpiderSubnet: "s4"} }),
		Outline(malformed),
	}
	for text, want := range map[string]map[Family][]string{
		`{"ipv4":["s4"],"ipv6":["s6"]}`:   {IPv4: {"web4"}, IPv6: {"web6"}},
		`{"ipv4":["s4"]}`:                 {IPv4: {"web4"}},
		`{"ipv4":["s6"]}`:                 {IPv4: nil},
		`{"ipv4":["t4"],"ipv6":["none"]}`: {IPv4: {"web-other-subnet"}, IPv6: nil},
		`{"ipv4":["` + long + `"]}`:       {IPv4: {"web-long"}},
		`{"ipv4":["crooked"]}`:            {IPv4: {"crooked"}},
	} {
		w, err := SelectionOf(asks(of(web), pod(v2beta1.AnnotationSubnet, text)), pools, Families[:])
		if diff := cmp.Diff(want, w.Names); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
		for _, f := range Families {
			if _, asked := want[f]; w.Has(f) != asked {
				t.Errorf("%s: has %s: %t", text, f, w.Has(f))
			}
		}
	}
}

// TestUnservedBySubnet: who gets nothing from a subnet is told for what he waits, and where the reason stands.
func TestUnservedBySubnet(t *testing.T) {
	redis := Application{APIVersion: "cache.example.com/v1", Kind: "RedisCluster", Namespace: "shop", Name: "r"}
	const begin = "no IPPool available, interface eth0 gets no IPv4 address from SpiderSubnet s4 (Pod annotation a): "
	for _, tc := range []struct {
		app  Application
		why  []Refusal
		want string
	}{
		{web, nil, "the controller has not made the automatic pool of Deployment shop/web yet; 'kubectl describe deployment -n shop web' says why"},
		{redis, nil, "the controller has not made the automatic pool of RedisCluster shop/r yet; 'kubectl describe rediscluster.cache.example.com -n shop r' says why"},
		{web, []Refusal{{"p", Usage{Size: count(3)}.UsedOut()}}, "pool p: all IP addresses used out: 0 free of 3; 'kubectl describe deployment -n shop web' says why"},
	} {
		e := &Unserved{Interface: "eth0", Family: IPv4, Why: tc.why,
			Selection: Selection{Source: "Pod annotation a", Subnets: map[Family]string{IPv4: "s4"}, Application: &tc.app}}
		if got := e.Error(); got != begin+tc.want {
			t.Errorf("says %q, want %q", got, begin+tc.want)
		}
	}
}
