package pool

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

const (
	ofSubnetsKey = v2beta1.AnnotationSubnets
	ippools      = v2beta1.AnnotationIPPools
	ippool       = v2beta1.AnnotationIPPool
	networksKey  = v2beta1.AnnotationMultusNetworks
	ns4, ns6     = v2beta1.AnnotationDefaultIPv4IPPool, v2beta1.AnnotationDefaultIPv6IPPool
)

// asks is a podContext whose interface is eth0 unless edited.
func asks(edit ...func(*PodContext)) *PodContext {
	s := &PodContext{Namespace: "shop", Interface: "eth0", PodAnnotations: map[string]string{}, NamespaceAnnotations: map[string]string{}}
	for _, e := range edit {
		e(s)
	}
	return s
}

func pod(key, text string) func(*PodContext) {
	return func(s *PodContext) { s.PodAnnotations[key] = text }
}

func namespace(key, text string) func(*PodContext) {
	return func(s *PodContext) { s.NamespaceAnnotations[key] = text }
}

func ifname(name string) func(*PodContext) { return func(s *PodContext) { s.Interface = name } }

func conf(v4, v6 []string) func(*PodContext) {
	return func(s *PodContext) { s.Conf.Pools = map[Family][]string{IPv4: v4, IPv6: v6} }
}

// sources are all sources of pools, the first one that is present decides.
var sources = []struct {
	name string
	edit func(*PodContext)
	want map[Family][]string
	err  string
}{
	{"subnets", pod(ofSubnetsKey, `[{"ipv4":["s4"]}]`), nil, "it's invalid to use 'ipam.spidernet.io/subnets' or 'ipam.spidernet.io/subnet' annotation when Auto-Pool feature is disabled"},
	{"subnet", pod(v2beta1.AnnotationSubnet, `{"ipv4":["s4"]}`), nil, "Auto-Pool feature is disabled"},
	{"ippools", pod(ippools, `[{"interface":"eth0","ipv4":["i4"]}]`), map[Family][]string{IPv4: {"i4"}}, ""},
	{"ippool", pod(ippool, `{"ipv4":["b","a"],"ipv6":["p6"]}`), map[Family][]string{IPv4: {"b", "a"}, IPv6: {"p6"}}, ""},
	{"namespace", namespace(ns6, `["n6"]`), map[Family][]string{IPv6: {"n6"}}, ""},
	{"conf", conf([]string{"c4"}, nil), map[Family][]string{IPv4: {"c4"}}, ""},
	{"default", func(*PodContext) {}, map[Family][]string{IPv4: {"a4", "z4"}, IPv6: {"d6"}}, ""},
}

var defaults = []*Pool{
	{Name: "z4", Family: IPv4, Default: true}, {Name: "a4", Family: IPv4, Default: true},
	{Name: "d6", Family: IPv6, Default: true}, {Name: "other", Family: IPv4},
}

// TestSources: of each two sources the first decides alone.
func TestSources(t *testing.T) {
	for i, first := range sources {
		for _, second := range sources[i:] {
			t.Run(first.name+" before "+second.name, func(t *testing.T) {
				w, err := SelectionOf(asks(second.edit, first.edit), defaults, Families[:])
				wantError(t, err, first.err)
				if diff := cmp.Diff(first.want, w.Names); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if (err != nil) != (part != "") || err != nil && !strings.Contains(err.Error(), part) {
		t.Fatalf("error %v, want %q", err, part)
	}
}

func TestWishOf(t *testing.T) {
	named := pod(ippools, `[{"interface":"net1","ipv4":["b4"],"cleangateway":true},{"interface":"eth0","ipv4":["a4"],"ipv6":["a6"]}]`)
	placed := pod(ippools, `[{"ipv4":["p0"]},{"ipv4":["p1"]},{"ipv6":["p2"],"cleangateway":false}]`)
	twoMore := pod(networksKey, "a, other/b@eth9")
	v4 := func(names ...string) map[Family][]string { return map[Family][]string{IPv4: names} }
	const wrong = "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/ippools': "
	for _, tc := range []struct {
		name string
		s    *PodContext
		want map[Family][]string
		err  string
	}{
		{"unknown keys are ignored", asks(pod(ippool, `{"ipv4":["a"],"other":1}`)), v4("a"), ""},
		{"no JSON", asks(pod(ippool, `pool-a`), conf([]string{"c"}, nil)), nil, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/ippool': "},
		{"wrong type", asks(pod(ippool, `{"ipv4":"a"}`)), nil, "wrong input, invalid format"},
		{"empty", asks(pod(ippool, `{}`), conf([]string{"c"}, nil)), nil, "names no pool"},
		{"twice", asks(pod(ippool, `{"ipv4":["a","b","a"]}`)), nil, "wrong input, duplicate IPPool a"},
		{"the same name for both families", asks(pod(ippool, `{"ipv4":["a"],"ipv6":["a"]}`)), map[Family][]string{IPv4: {"a"}, IPv6: {"a"}}, ""},
		{"empty name", asks(pod(ippool, `{"ipv4":[""]}`)), nil, "empty"},
		{"null name", asks(pod(ippool, `{"ipv4":[null]}`)), nil, "empty"},
		{"bad pattern", asks(pod(ippool, `{"ipv4":["a["]}`)), nil, "no pattern"},

		{"by name", asks(named), map[Family][]string{IPv4: {"a4"}, IPv6: {"a6"}}, ""},
		{"by name, the other", asks(named, ifname("net1")), v4("b4"), ""},
		{"by name, not named", asks(named, ifname("net2"), conf([]string{"c"}, nil)), nil, "interface net2 must be specified"},
		{"by position, first", asks(placed), v4("p0"), ""},
		{"by position, first without Multus' annotation", asks(placed, ifname("eth0")), v4("p0"), ""},
		{"by position, second", asks(placed, twoMore, ifname("net1")), v4("p1"), ""},
		{"by position, under its own name", asks(placed, twoMore, ifname("eth9")), map[Family][]string{IPv6: {"p2"}}, ""},
		{"by position, no such network", asks(placed, twoMore, ifname("net2")), nil, "has no network for the interface net2"},
		{"by position, too few", asks(pod(ippools, `[{"ipv4":["p0"]}]`), twoMore, ifname("net1")), nil, "for 1 interfaces, and net1 is at position 1"},
		{"by position, bad networks", asks(placed, pod(networksKey, `[{"name":3}]`), ifname("net1")), nil, "annotation 'k8s.v1.cni.cncf.io/networks'"},
		{"no list", asks(pod(ippools, `{"ipv4":["a"]}`)), nil, wrong},
		{"empty list", asks(pod(ippools, `[]`)), nil, wrong + "it has no entry"},
		{"null", asks(pod(ippools, `null`)), nil, wrong + "it has no entry"},
		{"some interfaces", asks(pod(ippools, `[{"interface":"eth0","ipv4":["a"]},{"ipv4":["b"]}]`)), nil, "NIC should be either all specified or all unspecified"},
		{"same interface", asks(pod(ippools, `[{"interface":"eth0","ipv4":["a"]},{"interface":"eth0","ipv4":["b"]}]`)), nil, "duplicate interface eth0"},
		{"entry without pool", asks(pod(ippools, `[{"interface":"eth0","ipv4":["a"]},{"interface":"net1"}]`)), nil, "entry 2 names no pool"},
		{"fault in another entry", asks(pod(ippools, `[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","ipv6":["b","b"]}]`)), nil, "duplicate IPPool b in entry 2"},

		{"namespace, both", asks(namespace(ns4, `["n4","m4"]`), namespace(ns6, `["n6"]`)), map[Family][]string{IPv4: {"n4", "m4"}, IPv6: {"n6"}}, ""},
		{"namespace, empty lists", asks(namespace(ns4, `[]`), namespace(ns6, ``), conf([]string{"c"}, nil)), v4("c"), ""},
		{"namespace, no list", asks(namespace(ns4, `a`), conf([]string{"c"}, nil)), nil, "wrong input, invalid format of annotation 'ipam.spidernet.io/default-ipv4-ippool' of Namespace shop"},
		{"namespace, twice", asks(namespace(ns6, `["a","a"]`)), nil, "duplicate IPPool a in the default pools of Namespace shop"},
		{"configuration, twice", asks(conf([]string{"a", "a"}, nil)), nil, "duplicate IPPool a in the CNI configuration"},
		{"nothing", asks(), nil, "no IPPool available"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := SelectionOf(tc.s, nil, Families[:])
			wantError(t, err, tc.err)
			if diff := cmp.Diff(tc.want, w.Names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEnabledFamilies(t *testing.T) {
	both := asks(pod(ippool, `{"ipv4":["a"],"ipv6":["b"]}`))
	for _, tc := range []struct {
		name    string
		s       *PodContext
		enabled []Family
		want    map[Family][]string
		err     string
	}{
		{"both", both, []Family{IPv4, IPv6}, map[Family][]string{IPv4: {"a"}, IPv6: {"b"}}, ""},
		{"IPv4 alone", both, []Family{IPv4}, map[Family][]string{IPv4: {"a"}}, ""},
		{"IPv6 alone", both, []Family{IPv6}, map[Family][]string{IPv6: {"b"}}, ""},
		{"one of two is asked for", asks(pod(ippool, `{"ipv6":["b"]}`)), []Family{IPv4, IPv6}, map[Family][]string{IPv6: {"b"}}, ""},
		{"what is off is not looked at, pod", asks(pod(ippool, `{"ipv4":["a"],"ipv6":["","","["]}`)), []Family{IPv4}, map[Family][]string{IPv4: {"a"}}, ""},
		{"what is off is not looked at, interfaces", asks(pod(ippools, `[{"interface":"eth0","ipv4":["a"],"ipv6":[""]},{"interface":"net1","ipv6":["b","b"]}]`)), []Family{IPv4}, map[Family][]string{IPv4: {"a"}}, ""},
		{"what is off is not looked at, namespace", asks(namespace(ns4, `["a"]`), namespace(ns6, `no list`)), []Family{IPv4}, map[Family][]string{IPv4: {"a"}}, ""},
		{"what is off is not looked at, configuration", asks(conf([]string{"a"}, []string{""})), []Family{IPv4}, map[Family][]string{IPv4: {"a"}}, ""},
		{"only the other is asked for", asks(pod(ippool, `{"ipv4":["a"]}`)), []Family{IPv6}, nil, "no IPPool available: Pod annotation ipam.spidernet.io/ippool names none of an enabled family ([IPv6])"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := SelectionOf(tc.s, nil, tc.enabled)
			wantError(t, err, tc.err)
			if diff := cmp.Diff(tc.want, w.Names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCleanGateway(t *testing.T) {
	for text, want := range map[string]*bool{
		`[{"ipv4":["a"]}]`:                      nil,
		`[{"ipv4":["a"],"cleangateway":true}]`:  ptr(true),
		`[{"ipv4":["a"],"cleangateway":false}]`: ptr(false),
	} {
		w, err := SelectionOf(asks(pod(ippools, text)), nil, Families[:])
		if diff := cmp.Diff(want, w.CleanGateway); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
}

func TestExpand(t *testing.T) {
	pools := []*Pool{
		{Name: "web-2", Family: IPv4}, {Name: "web-1", Family: IPv4}, {Name: "web-6", Family: IPv6}, {Name: "db", Family: IPv4},
	}
	for _, tc := range []struct{ name, ask, want, unmatched string }{
		{"names stay", "b,a", "b,a", ""},
		{"by name, of the family", "web-*", "web-1,web-2", ""},
		{"in place", "z,web-?,a", "z,web-1,web-2,a", ""},
		{"what stands before is not repeated", "web-2,web-*", "web-2,web-1", ""},
		{"what comes later is not repeated", "*,db", "db,web-1,web-2", ""},
		{"class", "web-[1-1]", "web-1", ""},
		{"nothing matches", "x*,db,y?", "db", "x*,y?"},
		{"quoted", `w\eb-1`, "web-1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			names, unmatched := Selection{Names: map[Family][]string{IPv4: strings.Split(tc.ask, ",")}}.Expand(IPv4, pools)
			if got := strings.Join(names, ","); got != tc.want || strings.Join(unmatched, ",") != tc.unmatched {
				t.Errorf("names %s, unmatched %v; want %s and %q", got, unmatched, tc.want, tc.unmatched)
			}
		})
	}
}

func TestRoutesOf(t *testing.T) {
	for _, tc := range []struct{ text, want, err string }{
		{`[{"dst":"10.9.0.0/16","gw":"10.1.0.1"},{"dst":"fd09::/64","gw":"fd01::1"}]`, "10.9.0.0/16 10.1.0.1, fd09::/64 fd01::1", ""},
		{`[{"dst":"fd09::/64","gw":"fe80::1"}]`, "fd09::/64 fe80::1", ""},
		{`[{"dst":"10.9.1.2/16","gw":"10.1.0.1"}]`, "10.9.0.0/16 10.1.0.1, Pod annotation ipam.spidernet.io/routes, route 1: 10.9.1.2/16 has host bits and counts as 10.9.0.0/16: write that", ""},
		{"[" + strings.Repeat(`{"dst":"10.9.0.0/16","gw":"10.1.0.1"},`, MaxRoutes) + `{"dst":"10.8.0.0/16","gw":"10.1.0.1"}]`, "", "it has 101 routes, at most 100 are accepted"},
		{`[]`, "", ""},
		{`[{"dst":"10.9.0.0/16","gw":"fd01::1"}]`, "", "route 1: destination 10.9.0.0/16 and gateway fd01::1 are of different families"},
		{`[{"dst":"10.9.0.0/16","gw":"10.1.0.1"},{"dst":"x","gw":"10.1.0.1"}]`, "", "route 2"},
		{`[{"dst":"10.9.0.0/16"}]`, "", "route 1"},
		{`{}`, "", "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/routes'"},
	} {
		t.Run(tc.text[:min(len(tc.text), 80)], func(t *testing.T) {
			routes, warnings, err := RoutesOf(asks(pod(v2beta1.AnnotationRoutes, tc.text)))
			wantError(t, err, tc.err)
			var got []string
			for _, r := range routes {
				got = append(got, r.Dst.String()+" "+r.GW.String())
			}
			got = append(got, warnings...)
			if strings.Join(got, ", ") != tc.want {
				t.Errorf("got %v, want %s", got, tc.want)
			}
		})
	}
}

// FuzzAnnotations: whatever stands in an annotation, there is an error or a
// selection of names that can be meant.
func FuzzAnnotations(f *testing.F) {
	keys := []string{ippools, ippool, networksKey, v2beta1.AnnotationMultusDefaultNetwork, v2beta1.AnnotationRoutes, ns4, ns6, ofSubnetsKey}
	for i, text := range []string{`[{"interface":"eth0","ipv4":["a"]}]`, `{"ipv4":["a"]}`, `{}`, ``, `[`, `{"ipv4":[null]}`, `{"ipv4":["a","a"]}`,
		`a@b,c/d`, `[{"name":"a"}]`, `["a*","[a-"]`, `[{"dst":"10.0.0.0/8","gw":"10.0.0.1"}]`, `[{"ipv4":["a"]},{"ipv6":["b"]}]`, `[null]`} {
		f.Add(text, `{"ipv4":["p"]}`, i, "net1")
	}
	pools := []*Pool{{Name: "a", Family: IPv4}, {Name: "b", Family: IPv6, Default: true}}
	f.Fuzz(func(t *testing.T, text, other string, at int, name string) {
		at = max(at, 0) % len(keys)
		s := asks(pod(ippool, other), ifname(name), pod(keys[at], text), namespace(keys[at], text))
		_, _ = s.Network()
		_, _, _ = RoutesOf(s)
		w, err := SelectionOf(s, pools, Families[:])
		if err != nil {
			if len(w.Names) > 0 {
				t.Errorf("%v, and yet it wishes %v", err, w.Names)
			}
			return
		}
		for _, family := range Families {
			names, unmatched := w.Expand(family, pools)
			if len(w.Names[family]) > 0 && len(names)+len(unmatched) == 0 {
				t.Errorf("%v came to nothing", w.Names[family])
			}
		}
		if len(w.Names[IPv4])+len(w.Names[IPv6]) == 0 {
			t.Errorf("%q and %q are accepted and name no pool", text, other)
		}
	})
}

// TestBounds: of every list that a tenant writes there is a length that is
// refused, with the bound in the message, and one below that is not.
func TestBounds(t *testing.T) {
	list := func(n int, one func(int) string) string {
		var out []string
		for i := range n {
			out = append(out, one(i))
		}
		return strings.Join(out, ",")
	}
	names := func(n int) string {
		return list(n, func(i int) string { return fmt.Sprintf("%q", fmt.Sprint("p", i)) })
	}
	entries := func(n int) string {
		return "[" + list(n, func(i int) string { return fmt.Sprintf(`{"interface":"eth%d","ipv4":["p"]}`, i) }) + "]"
	}
	networks := func(n int) string { return list(n, func(i int) string { return fmt.Sprintf("n%d", i) }) }
	selects := func(edit ...func(*PodContext)) func() error {
		return func() error { _, err := SelectionOf(asks(edit...), nil, Families[:]); return err }
	}
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint("p", i))
		}
		return out
	}
	for _, tc := range []struct {
		name string
		do   func() error
		err  string
	}{
		{"ippool", selects(pod(ippool, `{"ipv4":[`+names(MaxNames)+`]}`)), ""},
		{"ippool, more", selects(pod(ippool, `{"ipv4":[`+names(20000)+`]}`)), "names 20000 IPv4 pools, at most 64 are accepted"},
		{"ippools", selects(pod(ippools, entries(MaxInterfaces))), ""},
		{"ippools, more", selects(pod(ippools, entries(MaxInterfaces+1))), "it has 65 entries, at most 64 are accepted"},
		{"ippools, more pools of one", selects(pod(ippools, `[{"interface":"eth0","ipv6":[`+names(MaxNames+1)+`]}]`)), "names 65 IPv6 pools"},
		{"namespace", selects(namespace(ns4, `[`+names(MaxNames+1)+`]`)), "names 65 IPv4 pools"},
		{"configuration", selects(conf(many(MaxNames+1), nil)), "names 65 IPv4 pools"},
		{"a long name", selects(pod(ippool, `{"ipv4":["`+strings.Repeat("a", 254)+`"]}`)), "has 254 characters, at most 253"},
		{"networks", func() error {
			_, err := asks(ifname("net1"), pod(networksKey, networks(MaxInterfaces))).Network()
			return err
		}, ""},
		{"networks, more", func() error {
			_, err := asks(ifname("net1"), pod(networksKey, networks(MaxInterfaces+1))).Network()
			return err
		}, "names 65 networks, at most 64 are accepted"},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.do(), tc.err) })
	}
}

// TestManyDefaults: the bounds are for tenants; an administrator may make as many
// default pools as he likes.
func TestManyDefaults(t *testing.T) {
	var pools []*Pool
	for i := range 2 * MaxNames {
		pools = append(pools, &Pool{Name: fmt.Sprint("p", i), Family: IPv4, Default: true})
	}
	if w, err := SelectionOf(asks(), pools, Families[:]); err != nil || len(w.Names[IPv4]) != len(pools) {
		t.Errorf("%d names, %v", len(w.Names[IPv4]), err)
	}
}
