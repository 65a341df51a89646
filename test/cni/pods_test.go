package cni_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestGone removes pods whose network namespace is gone already.
func TestGone(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.66.0.0/24", "10.66.0.16-10.66.0.255")
	h := newHost(t)
	for _, main := range delegating {
		for _, told := range []bool{true, false} {
			s := h.sandbox(t, h.network(t, "1.1.0", main, pool))
			s.add(t)
			c.wantHolders(t, pool, s)
			s.remove()
			if !told {
				s.conf.NetNS = ""
			}
			s.del(t)
			c.wantHolders(t, pool)
		}
	}
}

// TestNewSandbox gives a pod a new sandbox: it keeps its address, also when the
// DEL of the old sandbox comes late.
func TestNewSandbox(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.67.0.0/24", "10.67.0.16-10.67.0.255")
	h := newHost(t)
	network := h.network(t, "1.1.0", "macvlan", pool)
	old := h.sandbox(t, network)
	old.add(t)
	address := old.addresses[0]
	old.remove()
	now := h.sandboxOf(t, old.pod, network)
	now.add(t)
	if now.addresses[0] != address {
		t.Errorf("the new sandbox got %s, the old one had %s", now.addresses[0], address)
	}
	c.wantHolders(t, pool, now)
	old.del(t)
	if err := now.check(t); err != nil {
		t.Errorf("CHECK after the DEL of the old sandbox: %v", err)
	}
	c.wantHolders(t, pool, now)
	now.del(t)
	c.wantHolders(t, pool)
}

// TestFull starts a pod whose pool is full. Of a /30 only one address is for
// pods: the others are the network, the gateway and the broadcast address.
func TestFull(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pools := map[string]*v2beta1.SpiderIPPool{}
	for i, main := range delegating {
		pools[main] = c.pool(t, fmt.Sprintf("10.68.%d.0/30", i), fmt.Sprintf("10.68.%d.0-10.68.%d.3", i, i))
	}
	h := newHost(t)
	for main, pool := range pools {
		t.Run(main, func(t *testing.T) {
			t.Parallel()
			network := h.network(t, "1.1.0", main, pool)
			first, second := h.sandbox(t, network), h.sandbox(t, network)
			first.add(t)
			_, err := second.tryAdd(t.Context())
			if code(err) != tryAgain {
				t.Errorf("ADD with a full pool: code %d: %v", code(err), err)
			}
			for _, part := range []string{"spiderpool IP allocation error", pool.Name, "0 free of 1"} {
				if !strings.Contains(fmt.Sprint(err), part) {
					t.Errorf("ADD with a full pool says %v, not %q", err, part)
				}
			}
			wantLine(t, err)
			second.del(t) // macvlan and bridge leave their interface to the DEL that runtimes send
			second.wantInterfaces(t)
			c.wantHolders(t, pool, first)
			first.del(t)
			c.wantHolders(t, pool)
			second.add(t)
			second.wantWiring(t, main, pool)
			second.del(t)
			c.wantHolders(t, pool)
		})
	}
}

// TestHandOver removes a pod while another waits for its address.
func TestHandOver(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.73.0.0/24", "10.73.0.16")
	h := newHost(t)
	network := h.network(t, "1.1.0", "macvlan", pool)
	first, second := h.sandbox(t, network), h.sandbox(t, network)
	first.add(t)
	served := make(chan error, 1)
	go func() { _, err := second.tryAdd(t.Context()); served <- err }()
	eventually(t, "macvlan makes its interface, and then asks for an address", func() error {
		if len(second.names(t)) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	first.del(t)
	if err := <-served; err != nil {
		t.Fatalf("ADD of the pod that waits: %v", err)
	}
	c.wantHolders(t, pool, second)
	second.wantWiring(t, "macvlan", pool)
	second.del(t)
	c.wantHolders(t, pool)
}

// TestAllOrNothing starts dual-stack pods for which one family has no address:
// they hold none of the other.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v4, v6 := c.pool(t, "10.69.0.0/24", "10.69.0.16-10.69.0.255"), c.pool(t, "fd00:69::/64", "fd00:69::10-fd00:69::ff")
	full4, full6 := c.pool(t, "10.69.1.0/24", "10.69.1.16"), c.pool(t, "fd00:69:0:1::/64", "fd00:69:0:1::10")
	disabled := c.pool(t, "fd00:69:0:2::/64", "fd00:69:0:2::10-fd00:69:0:2::ff")
	disabled.Spec.Disable = new(true)
	if err := c.Update(t.Context(), disabled); err != nil {
		t.Fatal(err)
	}
	absent := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "absent"}, Spec: v2beta1.IPPoolSpec{Subnet: "fd00:69:0:3::/64"}}
	h := newHost(t)
	filler := h.sandbox(t, h.network(t, "1.1.0", "bridge", full4, full6))
	filler.add(t)
	for name, tt := range map[string]struct {
		v4, v6 *v2beta1.SpiderIPPool
		code   uint
		text   string
	}{
		"IPv6 full":     {v4, full6, tryAgain, "pool " + full6.Name + ": all IP addresses used out: 0 free of 1"},
		"IPv6 disabled": {v4, disabled, noPool, "pool " + disabled.Name + ": it is disabled"},
		"IPv6 absent":   {v4, absent, noPool, "pool absent: "},
		"IPv4 full":     {full4, v6, tryAgain, "pool " + full4.Name + ": all IP addresses used out: 0 free of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := h.sandbox(t, h.network(t, "1.1.0", "macvlan", tt.v4, tt.v6))
			_, err := s.tryAdd(t.Context())
			if code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("ADD: code %d, want %d: %v", code(err), tt.code, err)
			}
			wantLine(t, err)
			s.wantNothing(t, tt.v4, tt.v6)
			s.del(t)
			s.wantInterfaces(t)
		})
	}
}

// wantNothing fails the test if the pod holds an address of the pools.
func (s *sandbox) wantNothing(t *testing.T, pools ...*v2beta1.SpiderIPPool) {
	t.Helper()
	for _, p := range pools {
		for address, holder := range s.host.cluster.holders(t, p) {
			if holder.Pod.UID == string(s.pod.UID) {
				t.Errorf("the pod holds %s", address)
			}
		}
	}
}

// wantLine fails the test unless an error is one line: the kubelet puts it in
// the Event of the pod.
func wantLine(t *testing.T, err error) {
	t.Helper()
	if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}
