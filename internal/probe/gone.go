// Package probe looks at the interfaces of containers, from inside their network namespaces: whether what an address stood
// on is still there (Gone, Bears), and whether another host on the link answers for an address or a gateway (Open). It tells
// neighbours where an address has gone (Announce). It decides nothing about addresses.
//
// Links are left as they were found. Only a probe changes one: several main plugins call their IPAM before they set the
// interface up, and what is down sends nothing. So Open sets it up, and Close down again.
package probe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Gone reports whether an interface of a container is gone, so that nothing answers for its address any more. netnsPath
// and ifname are CNI_NETNS and CNI_IFNAME of the ADD that gave the address: those of a DEL may be of another container, and
// that they are empty says nothing. The interface is gone if
//
//   - nothing is at netnsPath, or no namespace any more,
//   - the namespace there has no interface of that name.
//
// True is proof; false may also mean that it cannot be told. So it is false, and only the removal of netnsPath makes it
// true, for the namespace of this process and for one that may not be entered (that takes CAP_SYS_ADMIN); and it is
// false as long as this process cannot see where the runtime keeps namespaces: the directory of netnsPath is missing,
// or netnsPath is below /proc and this process is not in the PID namespace of the host.
//
// A call takes about 0.2 ms, and longer while the kernel is busy with other links. Called by the agent, for a DEL and
// when it looks for addresses whose containers went without one.
func Gone(netnsPath, ifname string) bool {
	return NamespaceGone(netnsPath) || netnsPath != "" && inSight(netnsPath) && look(netnsPath, lacks(ifname))
}

// NamespaceGone reports whether the network namespace itself is gone, by the rules of [Gone]. It is the stronger proof: an
// interface that is missing may not have been made yet, since some main plugins call their IPAM before they make it.
func NamespaceGone(netnsPath string) bool {
	if netnsPath == "" || !inSight(netnsPath) {
		return false
	}
	var at unix.Statfs_t
	switch err := unix.Statfs(netnsPath, &at); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return true
	case err != nil:
		return false
	}
	return at.Type != unix.NSFS_MAGIC // what is left when the namespace is unmounted and its file not yet removed
}

// How often AwaitGone looks. Main plugins remove the interface a few milliseconds after the DEL of their IPAM.
const (
	firstLook  = 5 * time.Millisecond
	rarestLook = 100 * time.Millisecond
)

// AwaitGone returns when the interface is [Gone], when most has passed, or when ctx ends, whichever is first. It keeps
// nothing open between its looks, since an open namespace cannot end. Called by the agent before it gives the address of
// a DEL to another pod, because main plugins call the DEL of their IPAM before they remove the interface.
func AwaitGone(ctx context.Context, netnsPath, ifname string, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for pause := firstLook; !Gone(netnsPath, ifname); pause = min(2*pause, rarestLook) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// hostPIDs is the inode of the host's PID namespace (PID_NS_INIT_INO in linux/nsfs.h).
const hostPIDs = 0xEFFFFFFC

// inSight reports whether the absence of path would mean something. In the /proc of a container the processes of the host
// have no number, or another one; and a directory that is not mounted into a container lacks everything.
func inSight(path string) bool {
	if strings.HasPrefix(path, "/proc/") {
		var self unix.Stat_t
		return unix.Stat("/proc/self/ns/pid", &self) == nil && self.Ino == hostPIDs
	}
	_, err := os.Stat(filepath.Dir(path))
	return err == nil
}

// lacks is true only if the kernel says that the namespace has no such interface.
func lacks(ifname string) func(*netlink.Handle) bool {
	return func(links *netlink.Handle) bool {
		_, err := links.LinkByName(ifname)
		var absent netlink.LinkNotFoundError
		return errors.As(err, &absent)
	}
}

// Bears reports whether an interface in a network namespace has an address. netnsPath and ifname are CNI_NETNS and
// CNI_IFNAME of an ADD. False may also mean that it cannot be told. Called by the agent for what it finds in the ledger when
// it starts: a container that bears an address was told it.
func Bears(netnsPath, ifname string, address netip.Addr) bool {
	return borne(netnsPath, ifname, address, 0)
}

// borne is Bears of an address that has none of these flags (IFA_F_… of linux/if_addr.h).
func borne(netnsPath, ifname string, address netip.Addr, without int) bool {
	return !Gone(netnsPath, ifname) && look(netnsPath, func(links *netlink.Handle) bool {
		link, err := links.LinkByName(ifname)
		if err != nil {
			return false
		}
		addresses, err := links.AddrList(link, netlink.FAMILY_ALL)
		return err == nil && slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
			has, ok := netip.AddrFromSlice(a.IP)
			return ok && has.Unmap() == address && a.Flags&without == 0
		})
	})
}

// look asks about the links of another namespace than this process's; false if that cannot be entered.
func look(netnsPath string, ask func(*netlink.Handle) bool) (answer bool) {
	_ = enter(netnsPath, func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err == nil {
			defer links.Close()
			answer = ask(links)
		}
		return err
	})
	return answer
}

// enter does something in another network namespace than this process's. Sockets that it opens stay there. It has a thread of
// its own, which ends with its goroutine: if it could not come back from the namespace, other goroutines would run there.
func enter(netnsPath string, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- enterHere(netnsPath, do)
	}()
	return <-done
}

// errOurs says that a namespace is that of this process.
var errOurs = errors.New("it is the network namespace of the agent")

// enterHere is enter for a goroutine that holds its thread. It comes back, since the first thread of a process never ends.
func enterHere(netnsPath string, do func() error) error {
	there, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer func() { _ = here.Close() }()
	if there.Equal(here) {
		return errOurs
	}
	if err := netns.Set(there); err != nil {
		return err
	}
	err = do()
	return errors.Join(err, netns.Set(here))
}
