// Package segment makes Ethernet segments for tests: a bridge, hosts with addresses, and containers whose interfaces are made
// as main plugins make them. It needs root. What it makes ends with the test.
package segment

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Ifname is the interface that every host and container has.
const Ifname = "net1"

// Namespace mounts a network namespace on a new file, as container runtimes do.
func Namespace(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cni-1")
	Mount(t, file)
	return file
}

// Mount mounts a network namespace on a file that is made for it.
func Mount(t *testing.T, file string) {
	t.Helper()
	must(t, os.WriteFile(file, nil, 0o444))
	// Not on a thread of our own: the first one never ends and is what /proc/self shows.
	path, end := Keeper(t)
	defer end()
	must(t, unix.Mount(path, file, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
}

// Keeper starts a process that keeps a network namespace; end ends both.
func Keeper(t *testing.T) (path string, end func()) {
	t.Helper()
	keeper := exec.Command("cat")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := keeper.StdinPipe()
	must(t, err)
	must(t, keeper.Start())
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = stdin.Close()
			_ = keeper.Wait()
		}
	}
	t.Cleanup(end)
	return fmt.Sprintf("/proc/%d/ns/net", keeper.Process.Pid), end
}

// Open returns a namespace and its links, for the time of the test.
func Open(t *testing.T, file string) (netns.NsHandle, *netlink.Handle) {
	t.Helper()
	ns, err := netns.GetFromPath(file)
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	links, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(links.Close)
	return ns, links
}

// Change does something with an interface of a namespace.
func Change(t *testing.T, file, ifname string, edit func(*netlink.Handle, netlink.Link) error) {
	t.Helper()
	_, links := Open(t, file)
	link, err := links.LinkByName(ifname)
	must(t, err)
	must(t, edit(links, link))
}

// Segment is a bridge in a namespace of its own.
type Segment struct {
	// Links are those of the bridge's namespace: the other ends of what is plugged in.
	Links *netlink.Handle

	t      *testing.T
	bridge *netlink.Bridge
	ports  int
}

// New makes a segment.
func New(t *testing.T) *Segment {
	t.Helper()
	_, links := Open(t, Namespace(t))
	s := &Segment{t: t, Links: links, bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "segment"}}}
	must(t, links.LinkAdd(s.bridge))
	must(t, links.LinkSetUp(s.bridge))
	return s
}

// Plug makes an interface in a namespace whose cable ends in the segment, as the main plugin bridge does: it is up. It returns
// the other end. mac may be nil.
func (s *Segment) Plug(file, ifname string, mac net.HardwareAddr) netlink.Link {
	s.t.Helper()
	there, links := Open(s.t, file)
	s.ports++
	port := netlink.LinkAttrs{Name: fmt.Sprint("port", s.ports), MasterIndex: s.bridge.Index}
	must(s.t, s.Links.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: ifname, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(there)}))
	link, err := s.Links.LinkByName(port.Name)
	must(s.t, err)
	must(s.t, s.Links.LinkSetUp(link))
	inside, err := links.LinkByName(ifname)
	must(s.t, err)
	must(s.t, links.LinkSetUp(inside))
	return link
}

// Host plugs in a host with addresses, each with its prefix length, and returns its namespace.
func (s *Segment) Host(mac net.HardwareAddr, addresses ...string) (file string) {
	s.t.Helper()
	file = Namespace(s.t)
	s.Plug(file, Ifname, mac)
	for _, a := range addresses {
		Assign(s.t, file, Ifname, a)
	}
	return file
}

// Assign gives an interface an address, at once.
func Assign(t *testing.T, file, ifname, address string) {
	t.Helper()
	Change(t, file, ifname, func(links *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		return links.AddrAdd(link, a)
	})
}

// Macvlan makes an interface in a namespace on a parent that is plugged in, as the main plugin macvlan does: it is down.
func (s *Segment) Macvlan(file, ifname string) {
	s.t.Helper()
	node := Namespace(s.t)
	s.Plug(node, Ifname, nil)
	there, _ := Open(s.t, file)
	Change(s.t, node, Ifname, func(links *netlink.Handle, parent netlink.Link) error {
		return links.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE,
			LinkAttrs: netlink.LinkAttrs{Name: ifname, ParentIndex: parent.Attrs().Index, Namespace: netlink.NsFd(there)}})
	})
}

// Neighbour is the hardware address that a host believes another address to be at, empty if it does not know it.
func Neighbour(t *testing.T, file, address string) (mac string) {
	t.Helper()
	Change(t, file, Ifname, func(links *netlink.Handle, link netlink.Link) error {
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

// Believe makes a host believe that an address is at a hardware address.
func Believe(t *testing.T, file, address string, mac net.HardwareAddr) {
	t.Helper()
	Change(t, file, Ifname, func(links *netlink.Handle, link netlink.Link) error {
		return links.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(address), HardwareAddr: mac, State: netlink.NUD_STALE})
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
