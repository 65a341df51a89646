package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/spidernet-io/spiderpool/test/segment"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// isUp reports whether net1 is up.
func isUp(t *testing.T, file string) (up bool) {
	t.Helper()
	segment.Change(t, file, "net1", func(_ *netlink.Handle, link netlink.Link) error {
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
	veth := func(_ *testing.T, w *segment.Segment) string { return w.Host(ours) }
	macvlan := func(t *testing.T, w *segment.Segment) string {
		file := segment.Namespace(t)
		w.Macvlan(file, "net1")
		return file
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, w *segment.Segment) string
		host net.HardwareAddr // has the address
		want net.HardwareAddr
	}{
		{"nobody", veth, nil, nil},
		{"another", veth, other, other},
		{"ourselves", veth, ours, nil},
		{"macvlan, nobody", macvlan, nil, nil},
		{"macvlan, another", macvlan, other, other},
		{"it was down", func(t *testing.T, w *segment.Segment) string {
			file := w.Host(ours)
			segment.Change(t, file, "net1", (*netlink.Handle).LinkSetDown)
			return file
		}, other, other},
		{"another, and IPv6 is off here", func(t *testing.T, w *segment.Segment) string {
			file := w.Host(ours)
			must(t, enter(file, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/net1/disable_ipv6", []byte("1"), 0) }))
			return file
		}, other, other},
	} {
		for _, f := range families {
			t.Run(tc.name+", "+f.name, func(t *testing.T) {
				w := segment.New(t)
				if tc.host != nil {
					w.Host(tc.host, f.prefixed)
				}
				file := tc.make(t, w)
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
	in := func(link netlink.Link) func(*testing.T, *segment.Segment) string {
		return func(t *testing.T, w *segment.Segment) string {
			file := segment.Namespace(t)
			_, links := segment.Open(t, file)
			link.Attrs().Name = "net1"
			must(t, links.LinkAdd(link))
			return file
		}
	}
	for _, tc := range []struct {
		name string
		make func(*testing.T, *segment.Segment) string
		want string
	}{
		{"no namespace", func(t *testing.T, w *segment.Segment) string { return filepath.Join(t.TempDir(), "cni-1") }, NoNamespace},
		{"no path", func(*testing.T, *segment.Segment) string { return "" }, NoNamespace},
		{"our own namespace", func(*testing.T, *segment.Segment) string { return "/proc/self/ns/net" }, NoNamespace},
		{"not made yet", func(t *testing.T, w *segment.Segment) string { return segment.Namespace(t) }, NoInterface},
		{"its cable is not plugged in", in(&netlink.Veth{PeerName: "other"}), NoCarrier},
		{"its parent is unplugged", func(t *testing.T, w *segment.Segment) string {
			file := segment.Namespace(t)
			w.Macvlan(file, "net1")
			port, err := w.Links.LinkByName("port1")
			must(t, errors.Join(err, w.Links.LinkSetDown(port)))
			return file
		}, NoCarrier},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := segment.New(t)
			who, err := conflict(t.Context(), tc.make(t, w), "10.9.0.10")
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

// TestRights: which capabilities a probe takes, and what it says without one. Those that work are what the chart gives the agent.
func TestRights(t *testing.T) {
	const enter, raw, admin = unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_ADMIN
	w := segment.New(t)
	w.Host(other, "10.9.0.10/24")
	up, down := w.Host(ours), segment.Namespace(t)
	w.Macvlan(down, "net1")
	for _, tc := range []struct {
		file, name string
		may        []uintptr
		want       string
	}{
		{up, "up, all", []uintptr{enter, raw, admin}, other.String()},
		{down, "down, all", []uintptr{enter, raw, admin}, other.String()},
		{up, "up, without NET_ADMIN", []uintptr{enter, raw}, other.String()},
		{down, "down, without NET_ADMIN", []uintptr{enter, raw}, NoUp},
		{up, "up, without NET_RAW", []uintptr{enter, admin}, NoSocket},
		{up, "up, without SYS_ADMIN", []uintptr{raw, admin}, NoNamespace},
	} {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childProbe+"="+tc.file)
		if out, err := limited(child, append(tc.may, unix.CAP_DAC_OVERRIDE)...); err != nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%s: %q, %v, want %q", tc.name, out, err, tc.want)
		}
	}
}

// TestConflictWhenTheLinkFails: an interface that goes while it is asked leaves nothing known.
func TestConflictWhenTheLinkFails(t *testing.T) {
	for name, fail := range map[string]func(t *testing.T, w *segment.Segment, file string, port netlink.Link){
		"it is set down": func(t *testing.T, _ *segment.Segment, file string, _ netlink.Link) {
			segment.Change(t, file, "net1", (*netlink.Handle).LinkSetDown)
		},
		"it is removed": func(t *testing.T, _ *segment.Segment, file string, _ netlink.Link) { removeNet1(t, file) },
		"it is unplugged": func(t *testing.T, w *segment.Segment, _ string, port netlink.Link) {
			must(t, w.Links.LinkSetDown(port))
		},
		"its port is gone": func(t *testing.T, w *segment.Segment, _ string, port netlink.Link) { must(t, w.Links.LinkDel(port)) },
	} {
		t.Run(name, func(t *testing.T) {
			w, file := segment.New(t), segment.Namespace(t)
			port := w.Plug(file, "net1", nil)
			l, err := Open(t.Context(), file, "net1")
			must(t, err)
			fail(t, w, file, port)
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
			w := segment.New(t)
			files := map[string]string{ours.String(): w.Host(ours), other.String(): w.Host(other)}
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
	file, deleted := segment.New(t).Host(ours), errors.New("deleted")
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
	w := segment.New(t)
	w.Host(other, "10.9.0.10/24")
	file, done := w.Host(ours), make(chan struct{})
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
	w := segment.New(t)
	w.Host(other, families[0].prefixed, families[1].prefixed)
	file := segment.Namespace(t)
	w.Macvlan(file, "net1")
	l, err := Open(t.Context(), file, "net1")
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
			w := segment.New(t)
			bits := map[string]string{"IPv4": "/24", "IPv6": "/64"}[f.name]
			router := w.Host(other, f.gateway+bits)
			l, err := Open(t.Context(), w.Host(ours), "net1")
			if err != nil {
				t.Fatal(err)
			}
			for gateway, want := range map[string]net.HardwareAddr{f.gateway: other, f.address: nil} {
				who, err := l.Gateway(t.Context(), netip.MustParseAddr(gateway), netip.Addr{})
				if err != nil || who.String() != want.String() {
					t.Errorf("%s: %q, %v, want %q", gateway, who, err, want)
				}
			}
			if known := segment.Neighbour(t, router, f.address); known != "" {
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

// TestAnnounce: a neighbour that has an address in its table under another hardware address learns the new one, but not before
// the interface has the address.
func TestAnnounce(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w := segment.New(t)
			near, file := w.Host(other, strings.Replace(f.prefixed, "10/", "99/", 1)), w.Host(ours)
			segment.Believe(t, near, f.address, net.HardwareAddr{2, 0, 0, 0, 0, 9})
			address := netip.MustParseAddr(f.address)
			if err := Announce(t.Context(), file, "net1", address, time.Millisecond); err == nil {
				t.Error("it is announced though the interface does not have it")
			}
			if got := segment.Neighbour(t, near, f.address); got != "02:00:00:00:00:09" {
				t.Errorf("the neighbour has %s", got)
			}
			done := make(chan error)
			go func() { done <- Announce(t.Context(), file, "net1", address, 30*time.Second) }()
			segment.Assign(t, file, segment.Ifname, f.prefixed)
			if err := receive(t, done); err != nil {
				t.Error(err)
			}
			if got := segment.Neighbour(t, near, f.address); got != ours.String() {
				t.Errorf("the neighbour has %s, want %s", got, ours)
			}
		})
	}
}

// TestAnnounceEnds with its context, and says nothing where nobody listens.
func TestAnnounceEnds(t *testing.T) {
	file := segment.New(t).Host(ours)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Announce(ctx, file, "net1", netip.MustParseAddr("10.9.0.10"), time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
