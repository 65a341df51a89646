package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire is an Ethernet segment: a bridge in a namespace of its own.
type wire struct {
	t      *testing.T
	links  *netlink.Handle
	bridge *netlink.Bridge
	ports  int
}

func newWire(t *testing.T) *wire {
	t.Helper()
	_, links := open(t, newNamespace(t))
	w := &wire{t: t, links: links, bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wire"}}}
	w.must(links.LinkAdd(w.bridge))
	w.must(links.LinkSetUp(w.bridge))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// plug makes an interface in a namespace whose cable ends in the wire, as the main plugin bridge does, and returns its port.
func (w *wire) plug(file, ifname string, mac net.HardwareAddr) netlink.Link {
	w.t.Helper()
	there, links := open(w.t, file)
	w.ports++
	port := netlink.LinkAttrs{Name: fmt.Sprint("port", w.ports), MasterIndex: w.bridge.Index}
	w.must(w.links.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: ifname, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(there)}))
	link, err := w.links.LinkByName(port.Name)
	w.must(err)
	w.must(w.links.LinkSetUp(link))
	inside, err := links.LinkByName(ifname)
	w.must(err)
	w.must(links.LinkSetUp(inside))
	return link
}

// host plugs in a host with addresses.
func (w *wire) host(mac net.HardwareAddr, addresses ...string) (file string) {
	w.t.Helper()
	file = newNamespace(w.t)
	w.plug(file, "net1", mac)
	for _, a := range addresses {
		assign(w.t, file, a)
	}
	return file
}

// assign gives net1 an address, at once.
func assign(t *testing.T, file, address string) {
	t.Helper()
	change(t, file, "net1", func(links *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		return links.AddrAdd(link, a)
	})
}

// onParent makes net1 on a parent that is plugged in, as macvlan, ipvlan and vlan do: it is down.
func (w *wire) onParent(make func(parent int) netlink.Link) (file string) {
	w.t.Helper()
	node, file := newNamespace(w.t), newNamespace(w.t)
	w.plug(node, "net1", nil)
	there, _ := open(w.t, file)
	change(w.t, node, "net1", func(links *netlink.Handle, parent netlink.Link) error {
		link := make(parent.Attrs().Index)
		link.Attrs().Name, link.Attrs().ParentIndex, link.Attrs().Namespace = "net1", parent.Attrs().Index, netlink.NsFd(there)
		return links.LinkAdd(link)
	})
	return file
}

func macvlan(int) netlink.Link { return &netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE} }

// isUp reports whether net1 is up.
func isUp(t *testing.T, file string) (up bool) {
	t.Helper()
	change(t, file, "net1", func(_ *netlink.Handle, link netlink.Link) error {
		up = link.Attrs().RawFlags&unix.IFF_UP != 0
		return nil
	})
	return up
}

// conflict opens net1 and asks who has an address.
func conflict(ctx context.Context, file, address string) (net.HardwareAddr, error) {
	l, err := Open(ctx, file, "net1")
	if err != nil {
		return nil, err
	}
	who, err := l.Conflict(ctx, netip.MustParseAddr(address))
	return who, errors.Join(err, l.Close())
}

var (
	ours  = net.HardwareAddr{2, 0, 0x5e, 0x10, 0, 1}
	other = net.HardwareAddr{2, 0, 0x5e, 0x10, 0, 2}
)

var families = []struct{ name, address, prefixed, gateway string }{
	{"IPv4", "10.9.0.10", "10.9.0.10/24", "10.9.0.1"},
	{"IPv6", "fd09::10", "fd09::10/64", "fe80::1"},
}

// TestConflict: who has an address, from each kind of interface that main plugins make.
func TestConflict(t *testing.T) {
	veth := func(w *wire) string { return w.host(ours) }
	for _, tc := range []struct {
		name string
		make func(w *wire) string
		host net.HardwareAddr // has the address
		want net.HardwareAddr
	}{
		{"nobody", veth, nil, nil},
		{"another", veth, other, other},
		{"ourselves", veth, ours, nil},
		{"macvlan, nobody", func(w *wire) string { return w.onParent(macvlan) }, nil, nil},
		{"macvlan, another", func(w *wire) string { return w.onParent(macvlan) }, other, other},
		{"it was down", func(w *wire) string {
			file := w.host(ours)
			change(w.t, file, "net1", (*netlink.Handle).LinkSetDown)
			return file
		}, other, other},
		{"another, and IPv6 is off here", func(w *wire) string {
			file := w.host(ours)
			w.must(enter(file, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/net1/disable_ipv6", []byte("1"), 0) }))
			return file
		}, other, other},
	} {
		for _, f := range families {
			t.Run(tc.name+", "+f.name, func(t *testing.T) {
				w := newWire(t)
				if tc.host != nil {
					w.host(tc.host, f.prefixed)
				}
				file := tc.make(w)
				before := isUp(t, file)
				got, err := conflict(t.Context(), file, f.address)
				if err != nil || got.String() != tc.want.String() {
					t.Errorf("%q, %v, want %q", got, err, tc.want)
				}
				if isUp(t, file) != before {
					t.Errorf("the interface was up: %t; and now the contrary", before)
				}
			})
		}
	}
}

// TestUnprobed: what cannot be asked is not silent, and why.
func TestUnprobed(t *testing.T) {
	in := func(link netlink.Link) func(*wire) string {
		return func(w *wire) string {
			file := newNamespace(w.t)
			_, links := open(w.t, file)
			link.Attrs().Name = "net1"
			w.must(links.LinkAdd(link))
			return file
		}
	}
	for _, tc := range []struct {
		name string
		make func(*wire) string
		want string
	}{
		{"no namespace", func(w *wire) string { return filepath.Join(w.t.TempDir(), "cni-1") }, NoNamespace},
		{"no path", func(*wire) string { return "" }, NoNamespace},
		{"our own namespace", func(*wire) string { return "/proc/self/ns/net" }, NoNamespace},
		{"not made yet", func(w *wire) string { return newNamespace(w.t) }, NoInterface},
		{"its cable is not plugged in", in(&netlink.Veth{PeerName: "other"}), NoCarrier},
		{"its parent is down", func(w *wire) string {
			node, file := newNamespace(w.t), newNamespace(w.t)
			w.plug(node, "net1", nil)
			there, _ := open(w.t, file)
			change(w.t, node, "net1", func(links *netlink.Handle, parent netlink.Link) error {
				return errors.Join(links.LinkSetDown(parent), links.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE,
					LinkAttrs: netlink.LinkAttrs{Name: "net1", ParentIndex: parent.Attrs().Index, Namespace: netlink.NsFd(there)}}))
			})
			return file
		}, NoCarrier},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWire(t)
			who, err := conflict(t.Context(), tc.make(w), "10.9.0.10")
			if u, ok := errors.AsType[*Unprobed](err); !ok || u.Why != tc.want || who != nil {
				t.Errorf("%q, %v, want %q", who, err, tc.want)
			}
		})
	}
	if u := (&Unprobed{NoUp, unix.EPERM}); !errors.Is(u, unix.EPERM) || !strings.Contains(u.Error(), "NET_ADMIN") {
		t.Errorf("%v", u)
	}
}

// TestUnfit: from which kinds of interfaces nobody can be asked. Not every kernel makes them all.
func TestUnfit(t *testing.T) {
	ethernet := netlink.LinkAttrs{EncapType: "ether", HardwareAddr: ours}
	without := func(flag uint32) netlink.LinkAttrs {
		return netlink.LinkAttrs{EncapType: "ether", HardwareAddr: ours, RawFlags: flag}
	}
	for _, tc := range []struct {
		name string
		link netlink.Link
		want string
	}{
		{"veth", &netlink.Veth{LinkAttrs: ethernet}, ""},
		{"macvlan", &netlink.Macvlan{LinkAttrs: ethernet}, ""},
		{"vlan", &netlink.Vlan{LinkAttrs: ethernet}, ""},
		{"a physical one", &netlink.Device{LinkAttrs: ethernet}, ""},
		{"ipvlan l2", &netlink.IPVlan{LinkAttrs: ethernet}, NoAnswers},
		{"ipvlan l3", &netlink.IPVlan{LinkAttrs: without(unix.IFF_NOARP)}, NoEthernet},
		{"dummy", &netlink.Dummy{LinkAttrs: without(unix.IFF_NOARP)}, NoEthernet},
		{"loopback", &netlink.Device{LinkAttrs: netlink.LinkAttrs{EncapType: "loopback", HardwareAddr: make(net.HardwareAddr, 6), RawFlags: unix.IFF_LOOPBACK}}, NoEthernet},
		{"tunnel", &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{EncapType: "none"}}, NoEthernet},
		{"InfiniBand", &netlink.Device{LinkAttrs: netlink.LinkAttrs{EncapType: "infiniband", HardwareAddr: make(net.HardwareAddr, 20)}}, NoEthernet},
	} {
		if got := unfit(tc.link); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestConflictWhenTheLinkFails: an interface that goes while it is asked leaves nothing known.
func TestConflictWhenTheLinkFails(t *testing.T) {
	for name, fail := range map[string]func(w *wire, file string, port netlink.Link){
		"it is set down":   func(w *wire, file string, _ netlink.Link) { change(w.t, file, "net1", (*netlink.Handle).LinkSetDown) },
		"it is removed":    func(w *wire, file string, _ netlink.Link) { removeNet1(w.t, file) },
		"it is unplugged":  func(w *wire, _ string, port netlink.Link) { w.must(w.links.LinkSetDown(port)) },
		"its port is gone": func(w *wire, _ string, port netlink.Link) { w.must(w.links.LinkDel(port)) },
	} {
		t.Run(name, func(t *testing.T) {
			w, file := newWire(t), newNamespace(t)
			port := w.plug(file, "net1", nil)
			l, err := Open(t.Context(), file, "net1")
			w.must(err)
			fail(w, file, port)
			who, err := l.Conflict(t.Context(), netip.MustParseAddr("10.9.0.10"))
			if _, ok := errors.AsType[*Unprobed](err); !ok || who != nil {
				t.Errorf("%q, %v, want that it could not be probed", who, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConflictOfTwoProbers: two hosts that probe for an address at once see each other.
func TestConflictOfTwoProbers(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w := newWire(t)
			files := map[string]string{ours.String(): w.host(ours), other.String(): w.host(other)}
			seen := make(chan string)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for mac, file := range files {
				go func() {
					for ctx.Err() == nil { // as the machine may stop one for longer than the other asks
						if who, err := conflict(ctx, file, f.address); who != nil || ctx.Err() == nil && err != nil {
							seen <- fmt.Sprint(mac, " sees ", who, err)
							return
						}
					}
				}()
			}
			first := receive(t, seen)
			if want := fmt.Sprint(ours, " sees ", other, nil); first != want && first != fmt.Sprint(other, " sees ", ours, nil) {
				t.Errorf("%s, want %s or the contrary", first, want)
			}
		})
	}
}

func receive[T any](t *testing.T, from <-chan T) (out T) {
	t.Helper()
	select {
	case out = <-from:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing within 30 s")
	}
	return out
}

// TestConflictEndsWithItsContext: and says why, for the silence until then proves nothing.
func TestConflictEndsWithItsContext(t *testing.T) {
	file, deleted := newWire(t).host(ours), errors.New("deleted")
	ctx, cancel := context.WithCancelCause(t.Context())
	l, err := Open(ctx, file, "net1")
	if err != nil {
		t.Fatal(err)
	}
	cancel(deleted)
	if who, err := l.Conflict(ctx, netip.MustParseAddr("10.9.0.10")); !errors.Is(err, deleted) || who != nil {
		t.Errorf("%q, %v", who, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestConflictUnderSignals: interrupted system calls end no probe.
func TestConflictUnderSignals(t *testing.T) {
	w := newWire(t)
	w.host(other, "10.9.0.10/24")
	file, done := w.host(ours), make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				_ = unix.Kill(unix.Getpid(), unix.SIGURG) // which the runtime of Go sends itself
			}
		}
	}()
	for address, want := range map[string]net.HardwareAddr{"10.9.0.10": other, "10.9.0.11": nil} {
		if who, err := conflict(t.Context(), file, address); err != nil || who.String() != want.String() {
			t.Errorf("%s: %q, %v", address, who, err)
		}
	}
}

// TestBothFamiliesAtOnce: one interface is asked for several addresses.
func TestBothFamiliesAtOnce(t *testing.T) {
	w := newWire(t)
	w.host(other, families[0].prefixed, families[1].prefixed)
	l, err := Open(t.Context(), w.onParent(macvlan), "net1")
	if err != nil {
		t.Fatal(err)
	}
	found := make(chan string)
	for _, f := range families {
		go func() {
			who, err := l.Conflict(t.Context(), netip.MustParseAddr(f.address))
			found <- fmt.Sprint(who, err)
		}()
	}
	for range families {
		if got, want := receive(t, found), fmt.Sprint(other, nil); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestGateway: one that is there answers, and learns nothing of who asks.
func TestGateway(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w := newWire(t)
			bits := map[string]string{"IPv4": "/24", "IPv6": "/64"}[f.name]
			router := w.host(other, f.gateway+bits)
			l, err := Open(t.Context(), w.host(ours), "net1")
			if err != nil {
				t.Fatal(err)
			}
			for gateway, want := range map[string]net.HardwareAddr{f.gateway: other, f.address: nil} {
				who, err := l.Gateway(t.Context(), netip.MustParseAddr(gateway), netip.Addr{})
				if err != nil || who.String() != want.String() {
					t.Errorf("%s: %q, %v, want %q", gateway, who, err, want)
				}
			}
			if known := neighbour(t, router, f.address); known != "" {
				t.Errorf("the gateway believes that %s is at %s", f.address, known)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGatewayThatWantsAnAddress: only the last question comes from an address, and only if there is one.
func TestGatewayThatWantsAnAddress(t *testing.T) {
	l, gateway, from := &Link{mac: ours}, netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.10")
	none := netip.IPv4Unspecified()
	for address, want := range map[netip.Addr][Tries]netip.Addr{{}: {none, none, none}, from: {none, none, from}} {
		for try := range Tries {
			var p arp.Packet
			if err := p.UnmarshalBinary(l.question(gateway, address, false).frame(try)); err != nil || p.SenderIP != want[try] || p.TargetIP != gateway {
				t.Errorf("try %d from %s: %+v, %v", try, address, p, err)
			}
		}
	}
}

// TestAnswers: which frames say that somebody has an address. What is malformed, or comes by way of a router, says nothing.
func TestAnswers(t *testing.T) {
	l, v4, v6 := &Link{mac: ours}, netip.MustParseAddr("10.9.0.10"), netip.MustParseAddr("fd09::10")
	o, none4, none6, near6 := &Link{mac: other}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("fe80::2")
	group, _ := ndp.SolicitedNodeMulticast(v6)
	advert := func(options ...ndp.Option) []byte {
		return ndpFrame(&ndp.NeighborAdvertisement{TargetAddress: v6, Options: options}, near6, allNodes)
	}
	routed := advert()
	routed[7] = 254
	for _, tc := range []struct {
		name    string
		target  netip.Addr
		probers bool
		frame   []byte
		want    string
	}{
		{"somebody speaks as it", v4, true, o.arpRequest(v4, none4), other.String()},
		{"announcement", v4, false, o.arpRequest(v4, v4), other.String()},
		{"probe", v4, true, o.arpRequest(none4, v4), other.String()},
		{"probe of a gateway", v4, false, o.arpRequest(none4, v4), ""},
		{"question of a neighbour", v4, true, o.arpRequest(v4.Next(), v4), ""},
		{"short", v4, true, o.arpRequest(v4, v4)[:20], ""},
		{"nothing", v4, true, nil, ""},
		{"advertisement", v6, true, advert(), other.String()},
		{"advertisement for another", v6, true, advert(&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}), "02:00:00:00:00:09"},
		{"advertisement of another", v6.Next(), true, advert(), ""},
		{"advertisement by way of a router", v6, true, routed, ""},
		{"probe of IPv6", v6, true, ndpFrame(&ndp.NeighborSolicitation{TargetAddress: v6}, none6, group), other.String()},
		{"probe of a gateway of IPv6", v6, false, ndpFrame(&ndp.NeighborSolicitation{TargetAddress: v6}, none6, group), ""},
		{"question of a neighbour of IPv6", v6, true, ndpFrame(&ndp.NeighborSolicitation{TargetAddress: v6}, near6, group), ""},
		{"short of IPv6", v6, true, advert()[:50], ""},
		{"nothing of IPv6", v6, true, nil, ""},
	} {
		if got := l.question(tc.target, netip.Addr{}, tc.probers).answer(tc.frame, other).String(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// neighbour is the hardware address that a host believes an address to be at.
func neighbour(t *testing.T, file, address string) (mac string) {
	t.Helper()
	change(t, file, "net1", func(links *netlink.Handle, link netlink.Link) error {
		list, err := links.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range list {
			if n.IP.Equal(net.ParseIP(address)) && n.HardwareAddr != nil {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// TestAnnounce: a neighbour that has an address in its table under another hardware address learns the new one, but not before
// the interface has the address.
func TestAnnounce(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w := newWire(t)
			near, file := w.host(other, strings.Replace(f.prefixed, "10/", "99/", 1)), w.host(ours)
			change(t, near, "net1", func(links *netlink.Handle, link netlink.Link) error {
				return links.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(f.address),
					HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}, State: netlink.NUD_STALE})
			})
			address := netip.MustParseAddr(f.address)
			if err := Announce(t.Context(), file, "net1", address, time.Millisecond); err == nil {
				t.Error("it is announced though the interface does not have it")
			}
			if got := neighbour(t, near, f.address); got != "02:00:00:00:00:09" {
				t.Errorf("the neighbour has %s", got)
			}
			done := make(chan error)
			go func() { done <- Announce(t.Context(), file, "net1", address, 30*time.Second) }()
			assign(t, file, f.prefixed)
			if err := receive(t, done); err != nil {
				t.Error(err)
			}
			if got := neighbour(t, near, f.address); got != ours.String() {
				t.Errorf("the neighbour has %s, want %s", got, ours)
			}
		})
	}
}

// TestAnnounceEnds with its context, and says nothing where nobody listens.
func TestAnnounceEnds(t *testing.T) {
	file := newWire(t).host(ours)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Announce(ctx, file, "net1", netip.MustParseAddr("10.9.0.10"), time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
