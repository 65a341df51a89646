package pool

import (
	"strings"
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

func TestNetwork(t *testing.T) {
	networks := func(text string) func(*PodContext) { return pod(networksKey, text) }
	chosen := func(text string) func(*PodContext) { return pod(v2beta1.AnnotationMultusDefaultNetwork, text) }
	cluster := func(text string) func(*PodContext) {
		return func(s *PodContext) { s.ClusterNetwork, s.OwnNamespace = text, "kube-system" }
	}
	called := func(name string) func(*PodContext) { return func(s *PodContext) { s.ConfName = name } }
	for _, tc := range []struct {
		name string
		s    *PodContext
		want string
		err  string
	}{
		{"eth0 of the cluster", asks(cluster("infra/vlan10")), "infra/vlan10", ""},
		{"eth0 of the cluster, without namespace", asks(cluster("vlan10")), "kube-system/vlan10", ""},
		{"eth0 as chosen", asks(cluster("vlan10"), chosen("other/vlan20")), "other/vlan20", ""},
		{"eth0 as chosen, without namespace", asks(cluster(""), chosen("vlan20")), "kube-system/vlan20", ""},
		{"eth0 as chosen, JSON", asks(cluster(""), chosen(`[{"name":"vlan20","namespace":"other"}]`)), "other/vlan20", ""},
		{"eth0 as chosen, two", asks(cluster(""), chosen(`[{"name":"a"},{"name":"b"}]`)), "", "want one network"},
		{"eth0 of nobody", asks(), "", "cluster-network multus isn't set"},
		{"first", asks(networks("a,b"), ifname("net1")), "shop/a", ""},
		{"second", asks(networks(" a , other/b "), ifname("net2")), "other/b", ""},
		{"named", asks(networks("a,b@data0"), ifname("data0")), "shop/b", ""},
		{"the number counts those that are named", asks(networks("a@data0,b"), ifname("net2")), "shop/b", ""},
		{"JSON", asks(networks(`[{"name":"a"},{"name":"b","namespace":"other","interface":"data0","ips":["10.1.0.9"]}]`), ifname("data0")), "other/b", ""},
		{"JSON, old key", asks(networks(`[{"name":"a"},{"name":"b","interfaceRequest":"data0"}]`), ifname("data0")), "shop/b", ""},
		{"JSON, both keys", asks(networks(`[{"name":"b","interface":"data0","interfaceRequest":"data1"}]`), ifname("data0")), "shop/b", ""},

		{"the call is of this network", asks(networks("a,b"), ifname("net1"), called("a")), "shop/a", ""},
		{"of the next, behind a default network", asks(networks("a,b"), ifname("net2"), called("a")), "shop/a", ""},
		{"behind three", asks(networks("a,b"), ifname("net5"), called("b")), "shop/b", ""},
		{"of a default network", asks(networks("a,b"), ifname("net1"), called("extra")), "", `nothing says which network of the Pod annotation k8s.v1.cni.cncf.io/networks the interface net1 is, whose network configuration is called "extra"`},
		{"of one that comes later", asks(networks("a,b"), ifname("net1"), called("b")), "", `name the interface of each network there (name@net1, in JSON "interface":"net1")`},
		{"named, whatever the configuration is called", asks(networks("a@net1"), ifname("net1"), called("x")), "shop/a", ""},
		{"one network twice", asks(networks("a,a"), ifname("net2"), called("a")), "shop/a", ""},
		{"one network twice, behind a default network", asks(networks("a,a"), ifname("net3"), called("a")), "shop/a", ""},
		{"two of one name", asks(networks("a,other/a"), ifname("net2"), called("a")), "", "nothing says which network"},
		{"of a default network, all others named", asks(networks("a@data0"), ifname("net1"), called("extra"), cluster("infra/main")), "infra/extra", ""},
		{"of a default network, no annotation", asks(ifname("net1"), called("extra"), cluster("main")), "kube-system/extra", ""},
		{"no net<n>", asks(ifname("data0"), called("extra")), "", "has no network for the interface data0"},
		{"not there", asks(networks("a"), ifname("net2")), "", "has no network for the interface net2"},
		{"no annotation", asks(ifname("net1")), "", "has no network for the interface net1"},
		{"no name", asks(networks(`[{"namespace":"a"}]`), ifname("net1")), "", "entry 1 names no network"},
		{"no JSON", asks(networks(`[a]`), ifname("net1")), "", "wrong input, invalid format of Pod annotation 'k8s.v1.cni.cncf.io/networks'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.s.Network()
			wantError(t, err, tc.err)
			if got != tc.want {
				t.Errorf("network %q, want %q", got, tc.want)
			}
		})
	}
}

// TestPosition: pools by position are for an interface whose position is certain.
func TestPosition(t *testing.T) {
	three := pod(ippools, `[{"ipv4":["p0"]},{"ipv4":["p1"]},{"ipv4":["p2"]}]`)
	called := func(name string) func(*PodContext) { return func(s *PodContext) { s.ConfName = name } }
	for _, tc := range []struct {
		name string
		s    *PodContext
		want string
		err  string
	}{
		{"as it stands", asks(three, pod(networksKey, "a,b"), ifname("net2"), called("b")), "p2", ""},
		{"behind a default network", asks(three, pod(networksKey, "a,b"), ifname("net2"), called("a")), "p1", ""},
		{"of a default network", asks(three, pod(networksKey, "a,b"), ifname("net1"), called("x")), "", "nothing says which network"},
		{"of a default network, all named", asks(three, pod(networksKey, "a@data0"), ifname("net1"), called("x")), "", "nothing says which network"},
		{"one network twice", asks(three, pod(networksKey, "a,a"), ifname("net1"), called("a")), "p1", ""},
		{"one network twice, behind a default network", asks(three, pod(networksKey, "a,a"), ifname("net3"), called("a")), "", "nothing says which network"},
		{"named", asks(three, pod(networksKey, "a,b@data0"), ifname("data0"), called("x")), "p2", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := SelectionOf(tc.s, nil, Families[:])
			wantError(t, err, tc.err)
			if got := strings.Join(w.Names[IPv4], ","); got != tc.want {
				t.Errorf("pools %q, want %q", got, tc.want)
			}
		})
	}
}
