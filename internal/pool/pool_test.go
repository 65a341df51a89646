package pool

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

func spec(subnet string, ips []string, edit ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	o := &v2beta1.SpiderIPPool{}
	o.Name = "web"
	o.Spec.Subnet, o.Spec.IPs = subnet, ips
	for _, e := range edit {
		e(o)
	}
	return o
}

func ptr[T any](v T) *T { return &v }

func TestParseAddresses(t *testing.T) {
	for _, tc := range []struct {
		name string
		pool *v2beta1.SpiderIPPool
		want string
	}{
		{"ranges", spec("10.1.0.0/16", []string{"10.1.2.3", "10.1.0.10-10.1.0.20"}), "10.1.0.10-10.1.0.20, 10.1.2.3"},
		{"adjacent ranges are one", spec("10.1.0.0/16", []string{"10.1.0.10-10.1.0.20", "10.1.0.21"}), "10.1.0.10-10.1.0.21"},
		{"no ips", spec("10.1.0.0/16", nil), ""},
		{"excluded", spec("10.1.0.0/16", []string{"10.1.0.10-10.1.0.20"}, func(o *v2beta1.SpiderIPPool) {
			o.Spec.ExcludeIPs = []string{"10.1.0.12-10.1.0.13", "10.1.0.20"}
		}), "10.1.0.10-10.1.0.11, 10.1.0.14-10.1.0.19"},
		{"the gateway is never given", spec("10.1.0.0/16", []string{"10.1.0.1-10.1.0.3"}, func(o *v2beta1.SpiderIPPool) {
			o.Spec.Gateway = ptr("10.1.0.2")
		}), "10.1.0.1, 10.1.0.3"},
		{"an empty gateway is none", spec("10.1.0.0/16", []string{"10.1.0.1"}, func(o *v2beta1.SpiderIPPool) {
			o.Spec.Gateway = ptr("")
		}), "10.1.0.1"},
		{"network and broadcast are never given", spec("10.1.0.0/30", []string{"10.1.0.0-10.1.0.3"}), "10.1.0.1-10.1.0.2"},
		{"/31 has neither", spec("10.1.0.0/31", []string{"10.1.0.0-10.1.0.1"}), "10.1.0.0-10.1.0.1"},
		{"/32", spec("10.1.0.7/32", []string{"10.1.0.7"}), "10.1.0.7"},
		{"/127", spec("fd00::/127", []string{"fd00::-fd00::1"}), "fd00::-fd00::1"},
		{"/128", spec("fd00::7/128", []string{"fd00::7"}), "fd00::7"},
		{"the routers' anycast address is never given", spec("fd00::/126", []string{"fd00::-fd00::3"}), "fd00::1-fd00::3"},
		{"other spellings", spec("FD00:0:0::/112", []string{"FD00::0010-fd00:0::12"}), "fd00::10-fd00::12"},
		{"recorded reservations", spec("10.1.0.0/16", []string{"10.1.0.10-10.1.0.20"}, func(o *v2beta1.SpiderIPPool) {
			o.Annotations = map[string]string{v2beta1.AnnotationReserved: "10.1.0.11-10.1.0.20"}
		}), "10.1.0.10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, errs := Parse(tc.pool)
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			if got := p.Addresses.Minus(p.Reserved).String(); got != tc.want {
				t.Errorf("addresses %q, want %q", got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	route := func(dst, gw string) func(*v2beta1.SpiderIPPool) {
		return func(o *v2beta1.SpiderIPPool) { o.Spec.Routes = []v2beta1.Route{{Dst: dst, Gw: gw}} }
	}
	for _, tc := range []struct {
		name string
		pool *v2beta1.SpiderIPPool
		want []string // each a part of the error
	}{
		{"no subnet", spec("", nil), []string{"spec.subnet"}},
		{"host bits", spec("10.1.2.3/16", nil), []string{"spec.subnet", "10.1.0.0/16"}},
		{"version", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.IPVersion = ptr[int64](6) }), []string{"spec.ipVersion", "IPv4"}},
		{"family of ips", spec("10.1.0.0/16", []string{"fd00::1"}), []string{"spec.ips", "fd00::1", "10.1.0.0/16"}},
		{"outside", spec("10.1.0.0/16", []string{"10.1.255.255-10.2.0.3"}), []string{"spec.ips", "10.2.0.0-10.2.0.3"}},
		{"order", spec("fd00::/64", []string{"fd00::20-fd00::10"}), []string{"spec.ips", "fd00::20-fd00::10"}},
		{"overlap within the list", spec("fd00::/64", []string{"fd00::10-fd00::20", "fd00::1f-fd00::30"}), []string{"spec.ips", "fd00::10-fd00::20", "fd00::1f-fd00::30"}},
		{"mapped", spec("10.1.0.0/16", []string{"::ffff:10.1.0.9"}), []string{"spec.ips", "::ffff:10.1.0.9"}},
		{"excluded elsewhere", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.ExcludeIPs = []string{"10.2.0.1"} }), []string{"spec.excludeIPs"}},
		{"gateway elsewhere", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.Gateway = ptr("10.2.0.1") }), []string{"spec.gateway", "outside the subnet 10.1.0.0/16: write the router's address inside it"}},
		{"link-local gateway of IPv4", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.Gateway = ptr("169.254.1.1") }), []string{"spec.gateway"}},
		{"link-local gateway of the other family", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.Gateway = ptr("fe80::1") }), []string{"spec.gateway"}},
		{"IPv6 gateway elsewhere", spec("fd00::/64", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.Gateway = ptr("fd01::1") }), []string{"spec.gateway", "or its link-local address (fe80::/10)"}},
		{"gateway with a zone", spec("fd00::/64", nil, func(o *v2beta1.SpiderIPPool) { o.Spec.Gateway = ptr("fe80::1%eth0") }), []string{"spec.gateway", "zone"}},
		{"default route by host bits", spec("10.1.0.0/16", nil, route("10.9.0.0/0", "10.1.0.1")), []string{"spec.routes[0].dst", "set the gateway"}},
		{"route via elsewhere", spec("10.1.0.0/16", nil, route("10.9.0.0/16", "10.2.0.1")), []string{"spec.routes[0].gw"}},
		{"route of two families", spec("10.1.0.0/16", nil, route("fd00::/64", "10.1.0.1")), []string{"spec.routes[0]", "famil"}},
		{"selector", spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) {
			o.Spec.PodAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}}}
		}), []string{"spec.podAffinity"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, errs := Parse(tc.pool)
			if len(errs) == 0 || p != nil {
				t.Fatalf("accepted as %+v", p)
			}
			for _, part := range tc.want {
				if !strings.Contains(errs.ToAggregate().Error(), part) {
					t.Errorf("%q does not say %q", errs.ToAggregate(), part)
				}
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	podContext := &PodContext{
		Node: "n1", NodeLabels: map[string]string{"zone": "a"},
		Namespace: "shop", NamespaceLabels: map[string]string{"team": "blue"},
		PodLabels: map[string]string{"app": "web"},
	}
	selector := func(k, v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
	}
	for _, tc := range []struct {
		name string
		edit func(*v2beta1.SpiderIPPool)
		f    Family
		want string // part of the reason; "" if it serves
	}{
		{"plain", func(*v2beta1.SpiderIPPool) {}, IPv4, ""},
		{"other family", func(*v2beta1.SpiderIPPool) {}, IPv6, "IPv4 pool"},
		{"disabled", func(o *v2beta1.SpiderIPPool) { o.Spec.Disable = ptr(true) }, IPv4, "spec.disable"},
		{"terminating", func(o *v2beta1.SpiderIPPool) { o.DeletionTimestamp = ptr(metav1.Now()) }, IPv4, "being deleted"},
		{"terminating before disabled", func(o *v2beta1.SpiderIPPool) {
			o.DeletionTimestamp, o.Spec.Disable = ptr(metav1.Now()), ptr(true)
		}, IPv4, "being deleted"},
		{"not moved in", func(o *v2beta1.SpiderIPPool) { o.Status.AllocatedIPs = ptr("{}") }, IPv4, "migrate"},
		{"moved in", func(o *v2beta1.SpiderIPPool) {
			o.Status.AllocatedIPs, o.Status.ObservedGeneration = ptr("{}"), 1
		}, IPv4, ""},
		{"this node", func(o *v2beta1.SpiderIPPool) { o.Spec.NodeName = []string{"n0", "n1"} }, IPv4, ""},
		{"another node", func(o *v2beta1.SpiderIPPool) { o.Spec.NodeName = []string{"n0"} }, IPv4, "unmatched Node name of IPPool web: spec.nodeName is [n0], this is n1"},
		{"node labels", func(o *v2beta1.SpiderIPPool) { o.Spec.NodeAffinity = selector("zone", "a") }, IPv4, ""},
		{"other node labels", func(o *v2beta1.SpiderIPPool) { o.Spec.NodeAffinity = selector("zone", "b") }, IPv4, "zone=b"},
		{"nodeName stands before nodeAffinity", func(o *v2beta1.SpiderIPPool) {
			o.Spec.NodeName, o.Spec.NodeAffinity = []string{"n1"}, selector("zone", "b")
		}, IPv4, ""},
		{"this namespace", func(o *v2beta1.SpiderIPPool) { o.Spec.NamespaceName = []string{"shop"} }, IPv4, ""},
		{"another namespace", func(o *v2beta1.SpiderIPPool) { o.Spec.NamespaceName = []string{"bank"} }, IPv4, "spec.namespaceName"},
		{"namespace labels", func(o *v2beta1.SpiderIPPool) { o.Spec.NamespaceAffinity = selector("team", "red") }, IPv4, "team=red"},
		{"namespaceName stands before namespaceAffinity", func(o *v2beta1.SpiderIPPool) {
			o.Spec.NamespaceName, o.Spec.NamespaceAffinity = []string{"bank"}, selector("team", "blue")
		}, IPv4, "spec.namespaceName"},
		{"pod labels", func(o *v2beta1.SpiderIPPool) { o.Spec.PodAffinity = selector("app", "web") }, IPv4, ""},
		{"other pod labels", func(o *v2beta1.SpiderIPPool) { o.Spec.PodAffinity = selector("app", "db") }, IPv4, "app=db"},
		{"an empty selector matches all", func(o *v2beta1.SpiderIPPool) { o.Spec.PodAffinity = &metav1.LabelSelector{} }, IPv4, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, errs := Parse(spec("10.1.0.0/16", []string{"10.1.0.9"}, tc.edit))
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			got := p.Refuses(podContext, tc.f)
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("reason %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPrefix(t *testing.T) {
	p, _ := Parse(spec("10.1.0.0/20", nil))
	if got := p.Prefix(netip.MustParseAddr("10.1.0.9")).String(); got != "10.1.0.9/20" {
		t.Error(got)
	}
}

// TestHuge: what a pool costs follows from its ranges, not from its addresses.
// Anything that listed members would not come back.
func TestHuge(t *testing.T) {
	for _, tc := range []struct {
		name, subnet string
		ips, exclude []string
		count        string
	}{
		{"/64", "fd00::/64", []string{"fd00::-fd00::ffff:ffff:ffff:ffff"}, nil, "18446744073709551615"},
		{"/48 with 2^60 addresses excluded", "fd00:1:2::/48", []string{"fd00:1:2::-fd00:1:2:ffff:ffff:ffff:ffff:ffff"},
			[]string{"fd00:1:2::-fd00:1:2:0:fff:ffff:ffff:ffff"}, "1208924666693124567859200"},
		{"/8 with 95 % excluded", "10.0.0.0/8", []string{"10.0.0.0-10.255.255.255"}, []string{"10.0.0.0-10.243.51.50"}, "838860"},
		{"/8 with every second /24 excluded", "10.0.0.0/8", []string{"10.0.0.0-10.255.255.255"}, everySecond(500), "16649215"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, errs := Parse(spec(tc.subnet, tc.ips, func(o *v2beta1.SpiderIPPool) { o.Spec.ExcludeIPs = tc.exclude }))
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			if got := p.Addresses.Count().String(); got != tc.count {
				t.Errorf("%s addresses, want %s", got, tc.count)
			}
		})
	}
}

func everySecond(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("10.%d.%d.0-10.%d.%d.255", i/128, i%128*2, i/128, i%128*2))
	}
	return out
}

// TestNextHops: which next hops are on the link, and to which interface a pod's
// route through them belongs.
func TestNextHops(t *testing.T) {
	v4, errs := Parse(spec("10.1.0.0/16", nil))
	v6, more := Parse(spec("fd00::/64", []string{"fd00::10"}, func(o *v2beta1.SpiderIPPool) {
		o.Spec.Gateway, o.Spec.Routes = ptr("fe80::1"), []v2beta1.Route{{Dst: "fd09::/64", Gw: "FE80::2"}}
	}))
	if errs = append(errs, more...); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if v6.Gateway.String() != "fe80::1" || len(v6.Routes) != 1 || v6.Addresses.String() != "fd00::10" {
		t.Errorf("%+v", v6)
	}
	for _, tc := range []struct {
		pool              *Pool
		hop               string
		reaches, net1, e0 bool
	}{
		{v4, "10.1.0.1", true, true, true},
		{v4, "10.2.0.1", false, false, false},
		{v4, "169.254.0.1", false, false, false},
		{v4, "fe80::1", false, false, false},
		{v6, "fd00::1", true, true, true},
		{v6, "fd01::1", false, false, false},
		{v6, "fe80::9", true, false, true},
		{v6, "10.1.0.1", false, false, false},
	} {
		r := Route{GW: netip.MustParseAddr(tc.hop)}
		if got := v(tc.pool.Reaches(r.GW), tc.pool.TakesRoute("net1", r), tc.pool.TakesRoute("eth0", r)); got != v(tc.reaches, tc.net1, tc.e0) {
			t.Errorf("%s of %s: %s", tc.hop, tc.pool.Subnet, got)
		}
	}
}

func v(bools ...bool) string { return fmt.Sprint(bools) }

// TestHostBits: a route that existing installations have is taken for what it
// means, and told of.
func TestHostBits(t *testing.T) {
	p, errs := Parse(spec("10.1.0.0/16", nil, func(o *v2beta1.SpiderIPPool) {
		o.Spec.Routes = []v2beta1.Route{{Dst: "10.20.1.0/16", Gw: "10.1.0.1"}, {Dst: "10.20.0.0/16", Gw: "10.1.0.2"}, {Dst: "10.30.0.0/16", Gw: "10.1.0.2"}}
	}))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if got := fmt.Sprint(p.Routes); got != "[{10.20.0.0/16 10.1.0.1} {10.30.0.0/16 10.1.0.2}]" {
		t.Error(got)
	}
	want := []string{"spec.routes[0].dst: 10.20.1.0/16 has host bits and counts as 10.20.0.0/16: write that", "spec.routes[1]: 10.20.0.0/16 is the destination of an earlier route, which counts"}
	if fmt.Sprint(p.Warnings) != fmt.Sprint(want) {
		t.Errorf("%q", p.Warnings)
	}
}

// TestIsForeign: only a status of which nothing is from here is that of an older Spiderpool.
func TestIsForeign(t *testing.T) {
	text := "{}"
	for _, tc := range []struct {
		name   string
		status v2beta1.IPPoolStatus
		want   bool
	}{
		{"new", v2beta1.IPPoolStatus{}, false},
		{"older", v2beta1.IPPoolStatus{AllocatedIPs: &text}, true},
		{"ours", v2beta1.IPPoolStatus{AllocatedIPs: &text, ObservedGeneration: 1}, false},
		{"ours, edited by hand", v2beta1.IPPoolStatus{AllocatedIPs: &text, Conditions: []metav1.Condition{{Type: v2beta1.ConditionReady}}}, false},
	} {
		if got := IsForeign(&v2beta1.SpiderIPPool{Status: tc.status}); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
