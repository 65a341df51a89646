package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Segment is an underlay segment: a bridge between the nodes, on which the
// control plane's namespace is the gateway to everything else.
type Segment struct {
	// Interface is the node's interface on the segment, the master of
	// macvlan and its like. It has no address, so that a node reaches its own
	// pods by the gateway.
	Interface                string
	IPv4, IPv6               netip.Prefix
	IPv4Gateway, IPv6Gateway netip.Addr
}

// Segments are the two underlay segments, on both of which every node is.
var Segments = [2]Segment{
	{
		Interface: "eth0",
		IPv4:      netip.MustParsePrefix("172.20.0.0/16"), IPv4Gateway: netip.MustParseAddr("172.20.0.1"),
		IPv6: netip.MustParsePrefix("fd00:172:20::/64"), IPv6Gateway: netip.MustParseAddr("fd00:172:20::1"),
	},
	{
		Interface: "eth2",
		IPv4:      netip.MustParsePrefix("172.21.0.0/16"), IPv4Gateway: netip.MustParseAddr("172.21.0.1"),
		IPv6: netip.MustParsePrefix("fd00:172:21::/64"), IPv6Gateway: netip.MustParseAddr("fd00:172:21::1"),
	},
}

// Families are the IP families of the cluster itself: the control plane, the
// nodes' addresses and the services. The segments always have both.
type Families string

// The values of Families. In DualStack IPv4 comes first.
const (
	IPv4      Families = "ipv4"
	IPv6      Families = "ipv6"
	DualStack Families = "dual"
)

// The management network: .1 is the control plane, .11 and up the nodes.
var management = map[Families]struct {
	network, services netip.Prefix
	gateway           netip.Addr
}{
	IPv4: {netip.MustParsePrefix("10.250.0.0/24"), netip.MustParsePrefix("10.96.0.0/16"), netip.MustParseAddr("10.250.0.1")},
	IPv6: {netip.MustParsePrefix("fd00:10:250::/64"), netip.MustParsePrefix("fd00:10:96::/112"), netip.MustParseAddr("fd00:10:250::1")},
}

// each lists the single families, the first being the cluster's main one.
func (f Families) each() []Families {
	if f == DualStack {
		return []Families{IPv4, IPv6}
	}
	return []Families{f}
}

func (f Families) valid() error {
	if f != IPv4 && f != IPv6 && f != DualStack {
		return fmt.Errorf("families %q: use %s, %s or %s", f, IPv4, IPv6, DualStack)
	}
	return nil
}

// nodeAddr is the management address of a node, in one family.
func nodeAddr(f Families, index int) netip.Addr {
	b := management[f].gateway.AsSlice()
	b[len(b)-1] = byte(10 + index)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// netns is the file that keeps a network namespace of the instance alive.
func (l *Lab) netns(of string) string { return filepath.Join(l.dir, "netns", of) }

// makeNetns makes a network namespace anew and runs a script in it.
func (l *Lab) makeNetns(ctx context.Context, of, script string) error {
	file := l.netns(of)
	if err := l.removeNetns(of); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := run(ctx, "unshare", "--net="+file, "true"); err != nil {
		return err
	}
	return l.inNetns(ctx, of, "ip link set lo up\n"+script)
}

// removeNetns removes a network namespace; its interfaces go with it.
func (l *Lab) removeNetns(of string) error {
	file := l.netns(of)
	err := syscall.Unmount(file, syscall.MNT_DETACH)
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("unmounting %s: %w", file, err)
	}
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (l *Lab) inNetns(ctx context.Context, of, script string) error {
	return run(ctx, "nsenter", "--net="+l.netns(of), "sh", "-ec", script)
}

// makeControlPlaneNetwork makes the namespace that is switch and router of the
// whole cluster. Bridges get a fixed hardware address, or it would change with
// every port.
func (l *Lab) makeControlPlaneNetwork(ctx context.Context) error {
	var s strings.Builder
	bridge := func(name string, number int, v4, v6 netip.Prefix) {
		fmt.Fprintf(&s, "ip link add %s address 02:00:00:00:00:%02x type bridge mcast_snooping 0\n", name, number)
		fmt.Fprintf(&s, "ip addr add %s dev %s\nip addr add %s dev %s nodad\nip link set %s up\n", v4, name, v6, name, name)
	}
	bridge("mgmt", 1, netip.PrefixFrom(management[IPv4].gateway, management[IPv4].network.Bits()),
		netip.PrefixFrom(management[IPv6].gateway, management[IPv6].network.Bits()))
	for i, seg := range Segments {
		bridge(fmt.Sprintf("und%d", i), 2+i, netip.PrefixFrom(seg.IPv4Gateway, seg.IPv4.Bits()), netip.PrefixFrom(seg.IPv6Gateway, seg.IPv6.Bits()))
	}
	s.WriteString(forwarding)
	return l.makeNetns(ctx, controlPlane, s.String())
}

// forwarding makes a router, and keeps the machine's filters, if it has the
// module for it, away from what the bridges carry.
const forwarding = `
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
for f in /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables; do
	test ! -e $f || echo 0 > $f
done
`

// makeNodeNetwork makes the namespace of a node and plugs it in: eth1 for its
// own address, eth0 and eth2 for the segments.
func (l *Lab) makeNodeNetwork(ctx context.Context, n node) error {
	if err := l.makeNetns(ctx, n.Name, forwarding); err != nil {
		return err
	}
	var plug, up strings.Builder
	wire := func(bridge, dev string) {
		port := fmt.Sprintf("n%d-%s", n.Index, dev)
		fmt.Fprintf(&plug, "ip link del %s 2>/dev/null || true\n", port)
		fmt.Fprintf(&plug, "ip link add %s type veth peer name %s netns %s\nip link set %s master %s up\n", port, dev, l.netns(n.Name), port, bridge)
		fmt.Fprintf(&up, "ip link set %s up\n", dev)
	}
	wire("mgmt", "eth1")
	for i, seg := range Segments {
		wire(fmt.Sprintf("und%d", i), seg.Interface)
	}
	for _, f := range l.cfg.Families.each() {
		m := management[f]
		fmt.Fprintf(&up, "ip addr add %s/%d dev eth1 %s\nip route add default via %s\n",
			nodeAddr(f, n.Index), m.network.Bits(), map[Families]string{IPv6: "nodad"}[f], m.gateway)
	}
	if err := l.inNetns(ctx, controlPlane, plug.String()); err != nil {
		return err
	}
	return l.inNetns(ctx, n.Name, up.String())
}

// PlugHost plugs a host that is no node into a segment. addresses have their prefix lengths. It is there until UnplugHost, and
// ends with the cluster.
func (l *Lab) PlugHost(ctx context.Context, name string, segment int, mac string, addresses ...netip.Prefix) error {
	if err := l.makeNetns(ctx, name, ""); err != nil {
		return err
	}
	plug := fmt.Sprintf("ip link add %[1]s type veth peer name eth0 netns %[2]s\nip link set %[1]s master und%[3]d up\n", name, l.netns(name), segment)
	if err := l.inNetns(ctx, controlPlane, plug); err != nil {
		return err
	}
	up := fmt.Sprintf("ip link set eth0 address %s up\n", mac)
	for _, a := range addresses {
		up += fmt.Sprintf("ip addr add %s dev eth0 %s\n", a, map[bool]string{true: "nodad"}[a.Addr().Is6()])
	}
	return l.inNetns(ctx, name, up)
}

// UnplugHost ends a host of PlugHost.
func (l *Lab) UnplugHost(name string) error { return l.removeNetns(name) }

// run runs a short command that ends with this process at the latest.
func run(ctx context.Context, args ...string) error {
	runtime.LockOSThread() // the kernel watches the thread that forked
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
