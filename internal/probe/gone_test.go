package probe

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/spidernet-io/spiderpool/test/segment"
)

// childLook makes the test binary a program that prints whether net1 in the namespace of this path is gone; childProbe one that
// prints who has 10.9.0.10 beside it.
const childLook, childProbe = "PROBE_TEST_LOOK", "PROBE_TEST_PROBE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childProbe); path != "" {
		fmt.Println(conflict(context.Background(), path, "10.9.0.10"))
		return
	}
	if path := os.Getenv(childLook); path != "" {
		fmt.Println(Gone(path, "net1"))
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func unmount(t *testing.T, file string) {
	t.Helper()
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

// removeNamespace unmounts the namespace and removes its file, as container runtimes do.
func removeNamespace(t *testing.T, file string) {
	t.Helper()
	unmount(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// addVeth makes net1 in the namespace; its other end is there too.
func addVeth(t *testing.T, file string) {
	t.Helper()
	_, links := segment.Open(t, file)
	if err := links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}, PeerName: "other"}); err != nil {
		t.Fatal(err)
	}
}

// removeNet1 removes net1, as main plugins do at a DEL.
func removeNet1(t *testing.T, file string) {
	t.Helper()
	segment.Change(t, file, "net1", (*netlink.Handle).LinkDel)
}

func TestGone(t *testing.T) {
	with := func(edits ...func(*testing.T, string)) func(*testing.T) string {
		return func(t *testing.T) string {
			file := segment.Namespace(t)
			for _, edit := range edits {
				edit(t, file)
			}
			return file
		}
	}
	text := func(path string) func(*testing.T) string { return func(*testing.T) string { return path } }
	below := func(path string) func(*testing.T) string {
		return func(t *testing.T) string { return filepath.Join(t.TempDir(), path) }
	}
	tests := []struct {
		name string
		path func(*testing.T) string
		want bool // of net1
	}{
		{"no path, which proves nothing", text(""), false},
		{"nothing at the path", below("cni-1"), true},
		{"nothing at the path and no directory", below("netns/cni-1"), false},
		{"a file", func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "cni-1")
			if err := os.WriteFile(file, nil, 0o444); err != nil {
				t.Fatal(err)
			}
			return file
		}, true},
		{"our own namespace", text("/proc/self/ns/net"), false},
		{"a namespace of another kind", text("/proc/self/ns/uts"), false},
		{"empty namespace", with(), true},
		{"the interface is there", with(addVeth), false},
		{"the interface is removed", with(addVeth, removeNet1), true},
		{"the interface is renamed", with(addVeth, func(t *testing.T, file string) {
			segment.Change(t, file, "net1", func(links *netlink.Handle, link netlink.Link) error { return links.LinkSetName(link, "net2") })
		}), true},
		{"the interface is moved away", with(addVeth, func(t *testing.T, file string) {
			away, _ := segment.Open(t, segment.Namespace(t))
			segment.Change(t, file, "net1", func(links *netlink.Handle, link netlink.Link) error { return links.LinkSetNsFd(link, int(away)) })
		}), true},
		{"the namespace is unmounted", with(addVeth, unmount), true},
		{"the namespace is removed", with(addVeth, removeNamespace), true},
		{"the namespace is removed and still open", with(addVeth, func(t *testing.T, file string) {
			segment.Open(t, file)
			removeNamespace(t, file)
		}), true},
		{"another namespace has the path", with(addVeth, removeNamespace, segment.Mount), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Gone(test.path(t), "net1"); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestGoneLooksAtEveryKindOfInterface: what main plugins make.
func TestGoneLooksAtEveryKindOfInterface(t *testing.T) {
	file := segment.Namespace(t)
	_, links := segment.Open(t, file)
	named := netlink.LinkAttrs{Name: "net1"}
	parent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent"}, PeerName: "other"}
	if err := links.LinkAdd(parent); err != nil {
		t.Fatal(err)
	}
	onParent := netlink.LinkAttrs{Name: "net1", ParentIndex: parent.Index}
	for _, link := range []netlink.Link{
		&netlink.Veth{LinkAttrs: named, PeerName: "peer"},
		&netlink.Macvlan{LinkAttrs: onParent, Mode: netlink.MACVLAN_MODE_BRIDGE},
		&netlink.Bridge{LinkAttrs: named},
	} {
		t.Run(link.Type(), func(t *testing.T) {
			if err := links.LinkAdd(link); err != nil {
				t.Fatal(err)
			}
			if Gone(file, "net1") {
				t.Error("gone while it is there")
			}
			removeNet1(t, file)
			if !Gone(file, "net1") {
				t.Error("not gone when it is removed")
			}
		})
	}
}

// TestGoneByProcess: some runtimes name a namespace by a process in it. This test and the next need the PID namespace of
// the host.
func TestGoneByProcess(t *testing.T) {
	path, end := segment.Keeper(t)
	if Gone(path, "lo") {
		t.Error("lo is gone while the process runs")
	}
	end()
	if !Gone(path, "lo") {
		t.Error("lo is not gone when the process has ended")
	}
}

// TestGoneByProcessOfTheHost: from the PID namespace of a container nothing can be told about processes of the host.
func TestGoneByProcessOfTheHost(t *testing.T) {
	path, end := segment.Keeper(t)
	end()
	for flags, want := range map[uintptr]string{0: "true", syscall.CLONE_NEWPID: "false"} {
		look := exec.Command(os.Args[0])
		look.Env = append(os.Environ(), childLook+"="+path)
		look.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		out, err := look.Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("clone flags %#x: %q, %v, want %s", flags, got, err, want)
		}
	}
}

// TestGoneWithoutTheRightToEnter: only the removal of the path tells then.
func TestGoneWithoutTheRightToEnter(t *testing.T) {
	file := segment.Namespace(t)
	powerless := func() bool {
		answer := make(chan bool)
		go func() {
			runtime.LockOSThread() // capabilities are those of a thread, and this one ends with its goroutine
			if err := dropSysAdmin(); err != nil {
				t.Error(err)
			}
			answer <- enterHere(file, func() error { return nil }) == nil
		}()
		return <-answer
	}
	if !Gone(file, "net1") {
		t.Fatal("net1 is not gone for one who may enter")
	}
	if powerless() {
		t.Error("one who may not enter has entered")
	}
	removeNamespace(t, file)
	if !Gone(file, "net1") {
		t.Error("net1 is not gone when the namespace is removed")
	}
}

// limited runs a program that has no capabilities but these.
func limited(child *exec.Cmd, capabilities ...uintptr) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the set of a thread bounds what it starts, and this one ends with its goroutine
		for c := range uintptr(unix.CAP_LAST_CAP + 1) {
			if slices.Contains(capabilities, c) {
				continue
			}
			if err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return
			}
		}
		out, err = child.CombinedOutput()
	}()
	<-done
	return out, err
}

func dropSysAdmin() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	return unix.Capset(&header, &data[0])
}

// TestGoneLeavesNothingBehind: no descriptor stays open, no thread stays in another namespace, no namespace stays alive.
func TestGoneLeavesNothingBehind(t *testing.T) {
	file, neighbour := segment.Namespace(t), segment.Namespace(t)
	_, links := segment.Open(t, neighbour)
	there, err := netns.GetFromPath(file)
	if err != nil {
		t.Fatal(err)
	}
	err = links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "peer"}, PeerName: "net1", PeerNamespace: netlink.NsFd(there)})
	_ = there.Close()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	Gone(file, "net1")
	before := descriptors(t)
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			for range 250 {
				if Gone(file, "net1") || !Gone(file, "net2") || !Gone(file+"-absent", "net1") || Gone("/proc/self/ns/net", "net1") {
					t.Error("an answer is wrong when many ask at once")
				}
			}
		})
	}
	done.Wait()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	for _, thread := range threads(t) {
		if in, err := os.Readlink(filepath.Join(thread, "ns/net")); err == nil && in != ours {
			t.Errorf("%s is in %s, want %s", thread, in, ours)
		}
	}

	removeNamespace(t, file)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := links.LinkByName("peer"); err != nil {
			break // the kernel has removed the pair with the namespace of the other end
		}
		if time.Now().After(deadline) {
			t.Fatal("the namespace lives on though its path is removed")
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

func threads(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, %v", found, err)
	}
	return found
}

func TestAwaitGoneWaitsForTheEnd(t *testing.T) {
	for name, remove := range map[string]func(*testing.T, string){"interface": removeNet1, "namespace": removeNamespace} {
		t.Run(name, func(t *testing.T) {
			file := segment.Namespace(t)
			addVeth(t, file)
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				AwaitGone(t.Context(), file, "net1", time.Hour)
			}()
			select {
			case <-returned:
				t.Fatal("returned while the interface is there")
			case <-time.After(50 * time.Millisecond):
			}
			remove(t, file)
			await(t, returned)
		})
	}
}

func TestAwaitGoneGivesUp(t *testing.T) {
	file := segment.Namespace(t)
	addVeth(t, file)
	t.Run("when most has passed", func(t *testing.T) {
		const most = 30 * time.Millisecond
		began := time.Now()
		AwaitGone(t.Context(), file, "net1", most)
		if took := time.Since(began); took < most {
			t.Errorf("after %s, want %s", took, most)
		}
	})
	t.Run("when the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			AwaitGone(ctx, file, "net1", time.Hour)
		}()
		cancel()
		await(t, returned)
	})
}

func TestAwaitGoneReturnsAtOnce(t *testing.T) {
	returned, dir := make(chan struct{}), t.TempDir()
	go func() {
		defer close(returned)
		AwaitGone(context.Background(), filepath.Join(dir, "cni-1"), "net1", time.Hour)
	}()
	await(t, returned)
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("not done within a minute")
	}
}

// TestNamespaceGone: an interface that is missing says nothing of its namespace.
func TestNamespaceGone(t *testing.T) {
	file := segment.Namespace(t)
	if NamespaceGone(file) || !Gone(file, "net7") || NamespaceGone("") {
		t.Error("a namespace that is there is gone, or an interface that is not there is not")
	}
	removeNamespace(t, file)
	if !NamespaceGone(file) || !Gone(file, "net1") {
		t.Error("a namespace that was removed is not gone")
	}
}

// TestBears: an interface bears the addresses that it has, and no others; one that is gone bears none.
func TestBears(t *testing.T) {
	file := segment.Namespace(t)
	addVeth(t, file)
	segment.Change(t, file, "net1", func(links *netlink.Handle, link netlink.Link) error {
		for _, text := range []string{"10.1.0.7/24", "fd00::7/64"} {
			address, err := netlink.ParseAddr(text)
			if err == nil {
				err = links.AddrAdd(link, address)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, tc := range []struct {
		path, ifname, address string
		want                  bool
	}{
		{file, "net1", "10.1.0.7", true}, {file, "net1", "fd00::7", true}, {file, "net1", "10.1.0.8", false},
		{file, "net7", "10.1.0.7", false}, {"", "net1", "10.1.0.7", false}, {file + "x", "net1", "10.1.0.7", false},
	} {
		if got := Bears(tc.path, tc.ifname, netip.MustParseAddr(tc.address)); got != tc.want {
			t.Errorf("%+v: %t", tc, got)
		}
	}
}
