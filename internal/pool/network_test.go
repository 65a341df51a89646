package pool

import (
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

func TestNetwork(t *testing.T) {
	networks := func(text string) func(*PodContext) { return pod(networksKey, text) }
	chosen := func(text string) func(*PodContext) { return pod(v2beta1.AnnotationMultusDefaultNetwork, text) }
	cluster := func(text string) func(*PodContext) {
		return func(s *PodContext) { s.ClusterNetwork, s.OwnNamespace = text, "kube-system" }
	}
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
