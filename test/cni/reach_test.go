package cni_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestReach lets pods of two hosts, each with its own agent, talk over the
// underlay at the addresses that they got.
func TestReach(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v4, v6 := c.pool(t, "10.62.0.0/16", "10.62.1.0-10.62.1.255"), c.pool(t, "fd00:62::/64", "fd00:62::10-fd00:62::ffff")
	underlay := newSegment(t)
	var pods []*sandbox
	for range 2 {
		h := underlay.host(t)
		s := h.sandbox(t, h.network(t, "1.1.0", "macvlan", v4, v6))
		s.wantResult(t, s.add(t), v4, v6)
		pods = append(pods, s)
	}
	c.wantHolders(t, v4, pods...)
	c.wantHolders(t, v6, pods...)
	for _, s := range pods {
		s.wantEndpoint(t)
	}
	for i, from := range pods {
		for _, to := range pods[1-i].addresses {
			from.ping(t, to)
		}
	}
	for _, s := range pods {
		s.del(t)
	}
	c.wantHolders(t, v4)
	c.wantHolders(t, v6)
}

// TestLinkLocalGateway lets a pod reach what is behind a router that is known by
// its link-local address, as IPv6 routers announce themselves.
func TestLinkLocalGateway(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v6 := c.pool(t, "fd00:63::/64", "fd00:63::10-fd00:63::ffff")
	v6.Spec.Gateway, v6.Spec.Routes = ptr.To("fe80::1"), nil
	if err := c.Update(t.Context(), v6); err != nil {
		t.Fatal(err)
	}
	router := newSegment(t)
	for _, address := range []string{"fe80::1/64", "fd00:63::1/64", "fd00:9999::1/128"} {
		a, err := netlink.ParseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := router.links.AddrReplace(router.bridge, a); err != nil {
			t.Fatalf("giving the router %s: %v", address, err)
		}
	}
	h := router.host(t)
	pod := h.sandbox(t, h.network(t, "1.1.0", "macvlan", v6))
	pod.wantResult(t, pod.add(t), v6)
	pod.ping(t, netip.MustParseAddr("fd00:9999::1"))
	pod.del(t)
}

// wantEndpoint waits until the SpiderEndpoint of a pod with one address of each
// family, which is written after the ADD, tells people of them.
func (s *sandbox) wantEndpoint(t *testing.T) {
	t.Helper()
	want := []string{string(s.pod.UID), s.host.node, s.conf.IfName, s.addresses[0].String() + "/16", s.addresses[1].String() + "/64"}
	eventually(t, "the SpiderEndpoint", func() error {
		var e v2beta1.SpiderEndpoint
		if err := s.host.cluster.Get(t.Context(), client.ObjectKeyFromObject(s.pod), &e); err != nil {
			return err
		}
		got := []string{e.Status.Current.UID, e.Status.Current.Node}
		for _, i := range e.Status.Current.IPs {
			got = append(got, i.Interface, ptr.Deref(i.IPv4, ""), ptr.Deref(i.IPv6, ""))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
}

// ping sends echo requests from a namespace until one is answered (RFC 792,
// RFC 4443).
func (n *namespace) ping(t *testing.T, to netip.Addr) {
	t.Helper()
	network, all, request, reply := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		network, all, request, reply = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var socket *icmp.PacketConn
	err := n.in(func() (err error) { socket, err = icmp.ListenPacket(network, all); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	sent := 0
	eventually(t, "ping "+to.String(), func() error {
		sent++
		message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 1, Seq: sent}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := socket.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		return awaitEcho(socket, to, reply)
	})
}

// awaitEcho waits for a moment for an echo reply.
func awaitEcho(socket *icmp.PacketConn, from netip.Addr, reply icmp.Type) error {
	if err := socket.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return err
	}
	packet := make([]byte, 1500)
	for {
		length, sender, err := socket.ReadFrom(packet)
		if err != nil {
			return fmt.Errorf("no answer: %w", err)
		}
		got, err := icmp.ParseMessage(reply.Protocol(), packet[:length])
		if err != nil {
			return err
		}
		if got.Type == reply && sender.String() == from.String() {
			return nil
		}
	}
}
