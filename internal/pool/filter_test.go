package pool

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// bonds are the ways in which a pool says whom it is for, those that are tried
// first at the beginning. insteadOf is the bond that is not looked at beside it.
var bonds = []struct {
	name          string
	fits, fitsNot func(*v2beta1.SpiderIPPool)
	why           string
	insteadOf     string
	rank          int // 1 comes first
}{
	{name: "nodeName", rank: 2, why: "unmatched Node name of IPPool p: ", insteadOf: "nodeAffinity",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n0", "n1"} },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n0"} }},
	{name: "nodeAffinity", rank: 3, why: "unmatched Node labels of IPPool p: ",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selecting("zone", "a") },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selecting("zone", "b") }},
	{name: "namespaceName", rank: 4, why: "unmatched Namespace name of IPPool p: ", insteadOf: "namespaceAffinity",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{"shop"} },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{"bank"} }},
	{name: "namespaceAffinity", rank: 5, why: "unmatched Namespace labels of IPPool p: ",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceAffinity = selecting("team", "blue") },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceAffinity = selecting("team", "red") }},
	{name: "podAffinity", rank: 1, why: "unmatched Pod labels of IPPool p: ",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selecting("app", "web") },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selecting("app", "db") }},
	{name: "multusName", rank: 6, why: "unmatched Multus name of IPPool p: ",
		fits:    func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"infra/vlan9", "vlan10"} },
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"infra/vlan10"} }},
	{name: "parent", rank: 7, why: "match_master_subnet",
		fits:    func(p *v2beta1.SpiderIPPool) {},
		fitsNot: func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet, p.Spec.IPs = "10.2.0.0/16", []string{"10.2.0.9"} }},
}

func selecting(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

// bound is the podContext that every bond is made for.
func bound() *PodContext {
	return &PodContext{
		Node: "n1", NodeLabels: map[string]string{"zone": "a"},
		Namespace: "shop", NamespaceLabels: map[string]string{"team": "blue"},
		PodLabels: map[string]string{"app": "web"},
		Interface: "eth0", ClusterNetwork: "vlan10", OwnNamespace: "kube-system",
		Conf: Conf{MatchParent: true, Parent: []netip.Addr{netip.MustParseAddr("fd01::2"), netip.MustParseAddr("10.1.0.2")}},
	}
}

func parsed(t *testing.T, name string, edits ...func(*v2beta1.SpiderIPPool)) *Pool {
	t.Helper()
	o := spec("10.1.0.0/16", []string{"10.1.0.9"}, edits...)
	o.Name = name
	p, errs := Parse(o)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	return p
}

// TestPairsOfRules: a pool with two bonds serves if both fit, or if the second
// does not count beside the first; else the first that does not fit is the reason.
func TestPairsOfRules(t *testing.T) {
	for i, a := range bonds {
		for j, b := range bonds {
			if i == j {
				continue
			}
			for _, fits := range [][2]bool{{true, true}, {true, false}, {false, true}, {false, false}} {
				edits := []func(*v2beta1.SpiderIPPool){a.fits, b.fits}
				why := ""
				if !fits[1] {
					edits[1] = b.fitsNot
					if a.insteadOf != b.name {
						why = b.why
					}
				}
				if !fits[0] {
					edits[0] = a.fitsNot
					if (why == "" || i < j) && b.insteadOf != a.name {
						why = a.why
					}
				}
				got := parsed(t, "p", edits...).Refuses(bound(), IPv4)
				if (got == "") != (why == "") || !strings.HasPrefix(got, why) {
					t.Errorf("%s fits %t, %s fits %t: reason %q, want %q", a.name, fits[0], b.name, fits[1], got, why)
				}
			}
		}
	}
}

// TestOrder: of two pools with one bond each, which comes first does not follow
// from how they were written; with the same bonds it does.
func TestOrder(t *testing.T) {
	for _, a := range bonds {
		for _, b := range bonds {
			first, second := parsed(t, a.name, a.fits), parsed(t, b.name+"2", b.fits)
			want := []string{a.name, b.name + "2"}
			if b.rank < a.rank {
				want = []string{b.name + "2", a.name}
			}
			serve, refused := Choose(bound(), IPv4, []Candidate{{Name: first.Name, Pool: first}, {Name: second.Name, Pool: second}})
			if got := namesOf(serve); !slices.Equal(got, want) || len(refused) > 0 {
				t.Errorf("order %v, want %v; refused %v", got, want, refused)
			}
		}
	}
}

func namesOf(pools []*Pool) (out []string) {
	for _, p := range pools {
		out = append(out, p.Name)
	}
	return out
}

// TestOrderOfMany: several bonds count before one, by the first that differs.
func TestOrderOfMany(t *testing.T) {
	byName := map[string]func(*v2beta1.SpiderIPPool){}
	for _, b := range bonds {
		byName[b.name] = b.fits
	}
	pool := func(name string, with ...string) Candidate {
		var edits []func(*v2beta1.SpiderIPPool)
		for _, w := range with {
			edits = append(edits, byName[w])
		}
		return Candidate{Name: name, Pool: parsed(t, name, edits...)}
	}
	serve, refused := Choose(bound(), IPv4, []Candidate{
		pool("plain-1"), {Name: "gone", Why: "no such IPPool"}, pool("zone", "nodeAffinity"), pool("zone-and-team", "nodeAffinity", "namespaceAffinity"),
		pool("plain-2"), {Name: "off", Pool: parsed(t, "off", func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })},
		pool("app", "podAffinity"), pool("node", "nodeName"), pool("all-but-app", "nodeName", "nodeAffinity", "namespaceName", "namespaceAffinity", "multusName"),
	})
	if got, want := strings.Join(namesOf(serve), " "), "app all-but-app node zone-and-team zone plain-1 plain-2"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(refused) != 2 || refused[0] != (Refusal{"gone", "no such IPPool"}) || refused[1].Pool != "off" || !strings.Contains(refused[1].Why, "disabled") {
		t.Errorf("refused %v", refused)
	}
}

// TestMultusName: a pool that names networks needs to know the interface's, one
// that names none does not.
func TestMultusName(t *testing.T) {
	names := func(names ...string) func(*v2beta1.SpiderIPPool) {
		return func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = names }
	}
	without := asks()
	for _, tc := range []struct {
		name string
		pool *Pool
		s    *PodContext
		why  string
	}{
		{"no Multus, not asked for", parsed(t, "p"), without, ""},
		{"no Multus", parsed(t, "p", names("a")), without, "cluster-network multus isn't set"},
		{"second interface", parsed(t, "p", names("shop/b")), asks(pod(networksKey, "b"), ifname("net1")), ""},
		{"a name without namespace is in the agent's", parsed(t, "p", names("b")), asks(pod(networksKey, "b"), ifname("net1")), "interface net1 is not matched, it is of shop/b"},
		{"of another network", parsed(t, "p", names("shop/a")), asks(pod(networksKey, "a,b"), ifname("net2")), "unmatched Multus name of IPPool p: interface net2 is not matched, it is of shop/b and spec.multusName is [shop/a]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.pool.Refuses(tc.s, IPv4); (got == "") != (tc.why == "") || !strings.Contains(got, tc.why) {
				t.Errorf("reason %q, want %q", got, tc.why)
			}
		})
	}
}

// TestRankOfWhatIsNotLookedAt: beside nodeName, nodeAffinity is not looked at,
// neither whom the pool serves nor in which order.
func TestRankOfWhatIsNotLookedAt(t *testing.T) {
	make := func(name string, edit func(*v2beta1.SpiderIPPool)) Candidate {
		o := &v2beta1.SpiderIPPool{}
		o.Name = name
		o.Spec.Subnet, o.Spec.IPs = "10.1.0.0/16", []string{"10.1.0.9"}
		edit(o)
		p, errs := Parse(o)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		return Candidate{Name: name, Pool: p}
	}
	a := make("node", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n1"} })
	b := make("node-and-ignored", func(p *v2beta1.SpiderIPPool) {
		p.Spec.NodeName, p.Spec.NodeAffinity = []string{"n1"}, selecting("zone", "elsewhere")
	})
	serve, refused := Choose(bound(), IPv4, []Candidate{a, b})
	if len(refused) > 0 || serve[0].Name != "node" {
		t.Errorf("%s is tried first, refused %v; both serve node n1 and no other rule of theirs is looked at: the list counts", serve[0].Name, refused)
	}
}
