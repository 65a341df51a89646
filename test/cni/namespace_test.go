package cni_test

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a network namespace that lives as long as a process in it which
// only waits. So it goes when the tests end, in whatever way they end.
type namespace struct {
	path   string // for CNI_NETNS; nothing is there once the namespace is gone
	handle netns.NsHandle
	links  *netlink.Handle
	keeper *exec.Cmd
	end    io.Closer // ends the keeper, which the kernel does too if this process dies
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n, err := makeNamespace("")
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(n.remove)
	n.up(t, "lo")
	return n
}

// mounted shows a namespace at a path, as container runtimes do, as long as its keeper lives.
const mounted = `: >"$0" && mount --bind /proc/self/ns/net "$0" && echo; read _; umount -l "$0"; rm "$0"`

// makeNamespace makes a namespace that is found at path; empty: below /proc, by its keeper, whose number another process
// may get later.
func makeNamespace(path string) (_ *namespace, err error) {
	n := &namespace{path: path, keeper: exec.Command("cat"), handle: netns.None()}
	if path != "" {
		n.keeper = exec.Command("sh", "-c", mounted, path)
	}
	n.keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := n.keeper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if n.end, err = n.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	if err := n.keeper.Start(); err != nil {
		return nil, err
	}
	if path == "" {
		n.path = fmt.Sprintf("/proc/%d/ns/net", n.keeper.Process.Pid)
	} else if _, err = out.Read(make([]byte, 1)); err != nil {
		err = fmt.Errorf("mounting %s: %w", path, err)
	}
	if err == nil {
		n.handle, err = netns.GetFromPath(n.path)
	}
	if err == nil {
		n.links, err = netlink.NewHandleAt(n.handle)
	}
	if err != nil {
		n.remove()
		return nil, err
	}
	return n, nil
}

// remove ends the namespace; one that is gone stays gone.
func (n *namespace) remove() {
	if n.keeper.ProcessState != nil {
		return
	}
	if n.links != nil {
		n.links.Close()
	}
	if n.handle.IsOpen() {
		_ = n.handle.Close()
	}
	_ = n.end.Close()
	_ = n.keeper.Wait()
}

// in calls do on a thread that is in the namespace: the sockets that it opens
// and the programs that it starts belong there.
func (n *namespace) in(do func() error) error {
	runtime.LockOSThread() // if do does not return, the thread ends with its goroutine
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if err := netns.Set(n.handle); err != nil {
		return err
	}
	err = do()
	if back := netns.Set(here); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

func (n *namespace) up(t *testing.T, name string) {
	t.Helper()
	link, err := n.links.LinkByName(name)
	if err == nil {
		err = n.links.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("bringing %s up: %v", name, err)
	}
}

// names are those of the interfaces beside lo.
func (n *namespace) names(t *testing.T) []string {
	t.Helper()
	links, err := n.links.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

// wiring is what an interface has: addresses "10.6.0.7/16", without link-local
// ones, and routes with a next hop "10.7.0.0/16 via 10.6.0.1", each sorted.
type wiring struct{ Addresses, Routes []string }

func (n *namespace) wiring(t *testing.T, ifname string) wiring {
	t.Helper()
	link, err := n.links.LinkByName(ifname)
	if err != nil {
		t.Fatalf("interface %s: %v; there are %q", ifname, err, n.names(t))
	}
	var w wiring
	for family, everything := range map[int]string{netlink.FAMILY_V4: "0.0.0.0/0", netlink.FAMILY_V6: "::/0"} {
		addresses, err := n.links.AddrList(link, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() {
				w.Addresses = append(w.Addresses, a.IPNet.String())
			}
		}
		routes, err := n.links.RouteList(link, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			dst := everything
			if r.Dst != nil {
				dst = r.Dst.String()
			}
			if r.Gw != nil {
				w.Routes = append(w.Routes, dst+" via "+r.Gw.String())
			}
		}
	}
	return w.sorted()
}

func (w wiring) sorted() wiring {
	slices.Sort(w.Addresses)
	slices.Sort(w.Routes)
	return w
}
