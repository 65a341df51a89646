package cni_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// versions are those of the CNI specification that runtimes write, and whether
// they have CHECK.
var versions = []struct {
	version string
	check   bool
}{
	{"0.3.0", false}, {"0.3.1", false}, {"0.4.0", true}, {"1.0.0", true}, {"1.1.0", true},
}

// delegating are the main plugins that work on every kernel with namespaces.
var delegating = []string{"macvlan", "bridge", "ptp"}

// TestVerbs takes pods through their lives.
func TestVerbs(t *testing.T) {
	t.Parallel()
	type life struct {
		version string
		main    string
		checks  bool
		pools   []*v2beta1.SpiderIPPool
	}
	lives := map[string]life{}
	c := theCluster(t)
	for _, v := range versions {
		for _, main := range delegating {
			for _, families := range []string{"IPv4", "IPv6", "dual"} {
				n := len(lives) + 1
				var pools []*v2beta1.SpiderIPPool
				if families != "IPv6" {
					pools = append(pools, c.pool(t, fmt.Sprintf("10.61.%d.0/24", n), fmt.Sprintf("10.61.%d.16-10.61.%d.255", n, n)))
				}
				if families != "IPv4" {
					pools = append(pools, c.pool(t, fmt.Sprintf("fd00:61:%x::/64", n), fmt.Sprintf("FD00:61:%X:0::00A0-fd00:61:%x::ffff:0:ffff", n, n)))
				}
				lives[v.version+"/"+main+"/"+families] = life{v.version, main, v.check, pools}
			}
		}
	}
	h := newHost(t)
	for name, l := range lives {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			live(t, h.sandbox(t, h.network(t, l.version, l.main, l.pools...)), l.main, l.checks, l.pools)
		})
	}
}

func live(t *testing.T, s *sandbox, main string, checks bool, pools []*v2beta1.SpiderIPPool) {
	result := s.add(t)
	s.wantResult(t, result, pools...)
	s.wantWiring(t, main, pools...)
	for _, p := range pools {
		s.host.cluster.wantHolders(t, p, s)
	}
	err := s.check(t)
	if checks && err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if !checks && (err == nil || !strings.Contains(err.Error(), "does not support the CHECK command")) {
		t.Errorf("CHECK, which this version has not: %v", err)
	}
	s.takeAddress(t, main)
	if err := s.check(t); checks && (err == nil || !strings.Contains(err.Error(), s.addresses[0].String())) {
		t.Errorf("CHECK of an interface without %s: %v", s.addresses[0], err)
	}
	s.del(t)
	s.wantInterfaces(t)
	for _, p := range pools {
		s.host.cluster.wantHolders(t, p)
	}
	s.del(t)
	s.remove()
	s.del(t)
	s.conf.NetNS = ""
	s.del(t)
}

// takeAddress removes the first address of the sandbox from its interface.
func (s *sandbox) takeAddress(t *testing.T, main string) {
	t.Helper()
	link, err := s.links.LinkByName(s.conf.IfName)
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := s.links.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if a.IP.Equal(s.addresses[0].AsSlice()) {
			if err := s.links.AddrDel(link, &a); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s has no %s", s.conf.IfName, s.addresses[0])
}
