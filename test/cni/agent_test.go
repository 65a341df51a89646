package cni_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// Codes of the CNI specification 1.1, section "Error", and of STATUS.
const (
	badVersion       = 1
	unknownContainer = 3
	tryAgain         = 11
	notReady         = 50
	noPool           = 100 // this product's
)

// TestStatus asks as a container runtime does before it calls its node ready.
func TestStatus(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	status := func(t *testing.T, main string) error {
		list, err := libcni.NetworkConfFromBytes(h.network(t, "1.1.0", main))
		if err != nil {
			t.Fatal(err)
		}
		// A plugin that hangs is killed, and its error has no code.
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return h.runtime.GetStatusNetworkList(ctx, list)
	}
	for _, main := range delegating {
		if err := status(t, main); err != nil {
			t.Errorf("STATUS of %s: %v", main, err)
		}
	}
	h.stopAgent(t)
	for _, main := range delegating {
		t.Run(main+" without agent", func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			err := status(t, main)
			t.Logf("STATUS took %v", time.Since(began))
			if code(err) != notReady || !strings.Contains(err.Error(), "unhealthy spiderpool-agent backend") {
				t.Errorf("STATUS: code %d: %v", code(err), err)
			}
		})
	}
}

// TestGC frees what the runtime forgot, and nothing that it calls valid.
func TestGC(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.63.0.0/24", "10.63.0.16-10.63.0.255")
	h := newHost(t)
	network := h.network(t, "1.1.0", "macvlan", pool)
	valid, forgotten := h.sandbox(t, network), h.sandbox(t, network)
	var attachments []types.GCAttachment
	for _, s := range []*sandbox{valid, forgotten} {
		s.add(t)
		attachments = append(attachments, types.GCAttachment{ContainerID: s.conf.ContainerID, IfName: s.conf.IfName})
	}
	gc := func(known ...types.GCAttachment) {
		t.Helper()
		if err := h.runtime.GCNetworkList(t.Context(), valid.list, &libcni.GCArgs{ValidAttachments: known}); err != nil {
			t.Fatalf("GC: %v", err)
		}
	}
	gc(attachments...)
	c.wantHolders(t, pool, valid, forgotten)
	gc(attachments[0]) // libcni sends the DEL of the other
	c.wantHolders(t, pool, valid)
	forgotten.wantInterfaces(t)
	if err := valid.check(t); err != nil {
		t.Errorf("CHECK of the valid one: %v", err)
	}
	valid.del(t)
	c.wantHolders(t, pool)
}

// TestGCOfARuntimeThatForgot is a runtime that lost what libcni remembers, so no
// DEL comes: GC itself frees what is gone, and leaves what is still there.
func TestGCOfARuntimeThatForgot(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.80.0.0/24", "10.80.0.16-10.80.0.255")
	h := newHost(t)
	network := h.network(t, "1.1.0", "spiderpool", pool) // the main plugins do not pass a GC on
	valid, gone, alive := h.sandbox(t, network), h.sandbox(t, network), h.sandbox(t, network)
	for _, s := range []*sandbox{valid, gone, alive} {
		s.add(t)
	}
	if err := alive.links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: alive.conf.IfName}}); err != nil {
		t.Fatal(err)
	}
	gone.remove()
	c.wantHolders(t, pool, valid, gone, alive)
	h.runtime = h.newRuntime(t.TempDir())
	err := h.runtime.GCNetworkList(t.Context(), valid.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
		{ContainerID: valid.conf.ContainerID, IfName: valid.conf.IfName}}})
	if err != nil {
		t.Fatalf("GC: %v", err)
	}
	c.wantHolders(t, pool, valid, alive)
	for _, s := range []*sandbox{valid, gone, alive} {
		s.del(t)
	}
	c.wantHolders(t, pool)
}

// TestAway is a node whose agent is away: a pod can be removed, its address is
// free when the agent is back, and a pod that starts is told what is wrong.
func TestAway(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.64.0.0/24", "10.64.0.16-10.64.0.255")
	h := newHost(t)
	network := h.network(t, "1.1.0", "macvlan", pool)
	old, young := h.sandbox(t, network), h.sandbox(t, network)
	old.add(t)
	h.stopAgent(t)
	c.wantHolders(t, pool, old)
	old.del(t)
	old.wantInterfaces(t)
	if held := c.holders(t, pool); len(held) != 1 {
		t.Fatalf("with the agent away the pool's holders are %v: somebody else freed the address", held)
	}
	_, err := young.tryAdd(t.Context())
	if code(err) != tryAgain || !strings.Contains(err.Error(), "unhealthy spiderpool-agent backend") {
		t.Errorf("ADD without an agent: code %d: %v", code(err), err)
	}
	wantLine(t, err)
	young.del(t)
	young.wantInterfaces(t)
	h.startAgent(t)
	c.wantHolders(t, pool)
	young.add(t)
	c.wantHolders(t, pool, young)
	young.del(t)
	c.wantHolders(t, pool)
}

// TestSocketIsRemoved clears the directory of the socket away, as tmpfiles or a
// person may: the next pods are served all the same.
func TestSocketIsRemoved(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.81.0.0/24", "10.81.0.16-10.81.0.255")
	h := newHost(t)
	network := h.network(t, "1.1.0", "macvlan", pool)
	for _, gone := range []string{h.socket, filepath.Dir(h.socket)} {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		s := h.sandbox(t, network)
		s.add(t)
		c.wantHolders(t, pool, s)
		s.del(t)
		c.wantHolders(t, pool)
	}
}

// TestRestart restarts the agent, and takes addresses out of the ledger while
// it is away: CHECK tells the pods that have lost theirs.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.65.0.0/24", "10.65.0.16-10.65.0.255")
	h := newHost(t)
	pods := map[string][2]*sandbox{} // the one that keeps its address, the one that loses it
	for _, v := range versions {
		for _, main := range delegating {
			if !v.check {
				continue
			}
			network := h.network(t, v.version, main, pool)
			keeps, loses := h.sandbox(t, network), h.sandbox(t, network)
			keeps.add(t)
			loses.add(t)
			pods[v.version+"/"+main] = [2]*sandbox{keeps, loses}
		}
	}
	h.stopAgent(t)
	for _, p := range pods {
		ip := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: objectName(p[1].addresses[0])}}
		if err := apiserver.DeleteSpiderIP(t.Context(), c, ip); err != nil {
			t.Fatal(err)
		}
	}
	h.startAgent(t)
	for name, p := range pods {
		if err := p[0].check(t); err != nil {
			t.Errorf("%s: CHECK of a pod that has its address: %v", name, err)
		}
		if err := p[1].check(t); code(err) != unknownContainer {
			t.Errorf("%s: CHECK of a pod whose address is not in the ledger: code %d: %v", name, code(err), err)
		}
		p[0].del(t)
		p[1].del(t)
	}
	c.wantHolders(t, pool)
}

// TestPortInUse starts an agent on a node where others have the ports of its
// metrics and profiles: it serves, and is ready when the ports are free.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.76.0.0/24", "10.76.0.16-10.76.0.255")
	h := newHost(t)
	h.stopAgent(t)
	var others []net.Listener
	for _, port := range []string{":5711", "127.0.0.1:5712"} {
		err := h.in(func() error {
			l, err := net.Listen("tcp", port)
			others = append(others, l)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := h.launchAgent("SPIDERPOOL_ENABLED_METRIC=true"); err != nil {
		t.Fatal(err)
	}
	agent := h.agent
	t.Cleanup(func() { stop(t, agent) })
	s := h.sandbox(t, h.network(t, "1.1.0", "spiderpool", pool))
	eventually(t, "ADD", func() error { _, err := s.tryAdd(t.Context()); return err })
	s.del(t)
	c.wantHolders(t, pool)
	for _, l := range others {
		_ = l.Close()
	}
	h.awaitAgent(t)
}

// TestAnotherContainer: while the interface of a container lives, another
// container of its pod and interface gets another address, and the end of that
// one frees nothing of the first, whatever the DEL leaves out.
func TestAnotherContainer(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	pool := c.pool(t, "10.77.0.0/24", "10.77.0.16-10.77.0.255")
	h := newHost(t)
	alone, macvlan := h.network(t, "1.0.0", "spiderpool", pool), h.network(t, "1.0.0", "macvlan", pool)
	for name, tt := range map[string]struct {
		network []byte
		same    bool // in the namespace of the first
		netns   bool // the DEL names it
	}{
		"by hand in its namespace":       {alone, true, true},
		"by hand, DEL without namespace": {alone, true, false},
		"new sandbox":                    {macvlan, false, true},
		"new sandbox without namespace":  {macvlan, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := h.sandbox(t, macvlan)
			first.add(t)
			now := h.sandboxOf(t, first.pod, tt.network)
			if tt.same {
				now.conf.NetNS = first.path
			}
			now.add(t)
			if now.addresses[0] == first.addresses[0] {
				t.Errorf("both got %s", first.addresses[0])
			}
			gone := now.addresses[0]
			if !tt.netns {
				now.conf.NetNS = ""
				if !tt.same {
					now.remove() // only a namespace that is gone is left out
				}
			}
			now.del(t)
			eventually(t, "its address is free", func() error {
				if h, held := c.holders(t, pool)[gone.String()]; held {
					return fmt.Errorf("held by %s", h.ContainerID)
				}
				return nil
			})
			if diff := cmp.Diff(first.entry(first.addresses[0], pool), c.holders(t, pool)[first.addresses[0].String()]); diff != "" {
				t.Errorf("the entry of the first (-want +got):\n%s", diff)
			}
			first.del(t)
		})
	}
}
