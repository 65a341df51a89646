package cni_test

import (
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestAlone is the contract with main plugins that the kernel of a test machine
// may not have, ipvlan, vlan and others: addresses and routes, and nothing
// about interfaces, which are theirs.
func TestAlone(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v4, v6 := c.pool(t, "10.70.0.0/24", "10.70.0.16-10.70.0.255"), c.pool(t, "fd00:70::/64", "fd00:70::10-fd00:70::ffff")
	h := newHost(t)
	for _, v := range versions {
		for families, pools := range map[string][]*v2beta1.SpiderIPPool{"IPv4": {v4}, "IPv6": {v6}, "dual": {v4, v6}} {
			t.Run(v.version+"/"+families, func(t *testing.T) {
				s := h.sandbox(t, h.network(t, v.version, "spiderpool", pools...))
				result := s.add(t)
				s.wantResult(t, result, pools...)
				wantBare(t, result)
				s.wantInterfaces(t)
				if diff := cmp.Diff(result, s.add(t)); diff != "" {
					t.Errorf("the same ADD once more (-first +second):\n%s", diff)
				}
				if err := s.check(t); v.check && err != nil {
					t.Errorf("CHECK: %v", err)
				}
				s.del(t)
				for _, p := range pools {
					c.wantHolders(t, p)
				}
			})
		}
	}
}

// wantBare fails the test if a result speaks of interfaces or DNS.
func wantBare(t *testing.T, r *types100.Result) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Interfaces) > 0 || strings.Contains(string(text), `"interface"`) || !r.DNS.IsEmpty() {
		t.Errorf("the result says more than addresses and routes: %s", text)
	}
}

// TestUnknownVersion gives a version that nobody knows to our plugin and to one
// that delegates. It is refused as such; a DEL of ours succeeds, because a
// container must be removable whatever its configuration became.
func TestUnknownVersion(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.71.0.0/24", "10.71.0.16-10.71.0.255")
	h := newHost(t)
	for _, main := range []string{"spiderpool", "macvlan"} {
		s := h.sandbox(t, h.network(t, "9.9.9", main, pool))
		_, err := s.tryAdd(t.Context())
		if code(err) != badVersion || !strings.Contains(err.Error(), "incompatible CNI versions") || !strings.Contains(err.Error(), "9.9.9") {
			t.Errorf("%s: ADD: code %d: %v", main, code(err), err)
		}
		wantLine(t, err)
		s.wantInterfaces(t)
		c.wantHolders(t, pool)
		if main == "spiderpool" {
			s.del(t)
		}
	}
}
