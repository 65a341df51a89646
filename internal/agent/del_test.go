package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// TestLateDelDuringTakeOver: the DEL of the old sandbox comes while the ADD of
// the new one is being written.
func TestLateDelDuringTakeOver(t *testing.T) {
	c := newCluster(t)
	writing := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == takeOvers {
			if err := writing.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	p := c.pod(n, "web", c.from("v4|"))
	had := n.add(p, "old")
	n.endNetns("old")
	next := n.adding(p, "new")
	c.await("the take-over is being written", writing.reached)
	n.deleted(p, "old")
	writing.open()
	if got := next.ips(t); !slices.Equal(got, had) {
		t.Errorf("got %v, had %v", got, had)
	}
	n.done()
	c.holds(strings.TrimSuffix(had[0], "/24") + " n1/web eth0 new")
}

// TestDelDuringAdd: wherever an ADD is when the DEL of its container comes, it
// is answered an error, and nothing is held in the end.
func TestDelDuringAdd(t *testing.T) {
	const ( // what becomes of the request that the ADD is at when DEL comes
		unsent     = iota // it does not reach the API server
		unanswered        // it does, and its answer never comes
		answered          // it does, and is answered after the DEL
	)
	for _, tc := range []struct {
		name     string
		at       string // "" is in line
		fate     int
		full     bool // the pool is
		takeOver bool // the pod has an older sandbox
		noUID    bool // the runtime gives none
	}{
		{name: "before the pod is known", at: "get Pod", noUID: true},
		{name: "before the claim is sent", at: claims},
		{name: "when the claim was sent", at: claims, fate: unanswered},
		{name: "between claim and fence", at: claims, fate: answered},
		{name: "during the fence", at: fences},
		{name: "during a LIST", at: looks, full: true},
		{name: "in line", full: true},
		{name: "before the take-over is sent", at: takeOvers, takeOver: true},
		{name: "when the take-over was sent", at: takeOvers, takeOver: true, fate: unanswered},
		{name: "between take-over and fence", at: takeOvers, takeOver: true, fate: answered},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			var on atomic.Bool
			deleted, over := newGate(), newGate() // opened when the DEL is answered, and the ADD
			n := c.machine("n1")
			n.durations.Wait, n.durations.Settle = requestWait, 300*time.Millisecond
			n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
				switch {
				case !on.Load():
				case r.what == tc.at && tc.fate == answered:
					err := send(ctx)
					_ = deleted.pass(context.WithoutCancel(ctx))
					return err
				case r.what == tc.at:
					if tc.fate == unanswered {
						_ = send(context.WithoutCancel(ctx))
					}
					deleted.arrive()
					if err := over.pass(ctx); err != nil {
						return err
					}
				case r.what == fences && tc.fate == answered:
					_ = over.pass(ctx)
				}
				return send(ctx)
			}))
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
			p, edit := c.pod(n, "web", c.from("v4|")), func(r *wire.Request) {
				if tc.noUID {
					r.Pod.UID = ""
				}
			}
			if tc.takeOver {
				n.add(p, "old")
				n.endNetns("old")
			}
			if tc.full {
				other := c.node("n2")
				other.add(c.pod(other, "other", c.from("v4|")), "c")
			}
			before := c.held()
			on.Store(true)
			add := n.adding(p, "c1", edit)
			if tc.at == "" {
				n.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })
			} else {
				c.await("the ADD is at "+tc.at, deleted.reached)
			}
			n.deleted(p, "c1", edit)
			deleted.open()
			add.refused(t, wire.CodeTryAgain)
			over.open()
			on.Store(false)
			n.deleted(p, "old")
			n.done()
			if tc.takeOver {
				before = ""
			}
			c.holds(before)
		})
	}
}

// TestGC: what the runtime does not list is freed if it is of this network, its
// namespace is gone, and no call of it is in progress.
func TestGC(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Wait = requestWait
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	gone := filepath.Join(t.TempDir(), "gone")
	add := func(name, network, netns, pools string) *pending {
		return n.adding(c.pod(n, name, c.from(pools)), name, func(r *wire.Request) { r.Network, r.Netns = network, netns })
	}
	listed, left := add("listed", "one", gone, "v4|"), add("left", "one", gone, "v4|")
	alive, other := add("alive", "one", namespace(t, "eth0"), "v4|"), add("other", "two", gone, "v4|")
	for _, a := range []*pending{listed, left, alive, other} {
		a.ips(t)
	}
	// A new sandbox of a pod is being made; its old one is not listed any more.
	busy := c.pod(n, "busy", c.from("v4|"))
	on := func(r *wire.Request) { r.Network, r.Netns = "one", gone }
	n.adding(busy, "busy", on).ips(t)
	before := busy.DeepCopy()
	c.from("v4|full6")(busy)
	if err := c.Patch(t.Context(), busy, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	c.pool("full6", "fd00::/64", nil)
	c.eventually("the watch has brought the pod's edit", func() bool {
		known := n.agent.Facts.CachedPod(t.Context(), client.ObjectKeyFromObject(busy), string(busy.UID))
		return known != nil && known.Annotations[v2beta1.AnnotationIPPool] == busy.Annotations[v2beta1.AnnotationIPPool]
	})
	going := n.adding(busy, "busy2", on)
	c.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })

	req := &wire.Request{Verb: wire.VerbGC, Network: "one", Attachments: []wire.Attachment{{ContainerID: "listed", Interface: "eth0"}, {ContainerID: "left", Interface: "net1"}}}
	if _, err := wire.Call(t.Context(), n.socket, req); err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(c.held()) {
		names = append(names, strings.Fields(line)[3])
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"alive", "busy2", "listed", "other"}, names); diff != "" {
		t.Errorf("containers that hold an address: %s", diff)
	}
	n.deleted(busy, "busy2")
	going.refused(t, wire.CodeTryAgain)
}

// TestNotesOutliveTheAgent: DELs that were answered and could not be done are
// done by the agent that comes after.
func TestNotesOutliveTheAgent(t *testing.T) {
	const pods = 20
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	stuck := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == frees {
			if err := stuck.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	for i := range pods {
		name := fmt.Sprint("p", i)
		p := c.pod(n, name, c.from("v4|"))
		n.add(p, name)
		n.deleted(p, name)
	}
	n.stop()
	notes, err := wire.ReadNotes(wire.NotesDir(n.socket))
	if err != nil || len(notes) != pods || strings.Count(c.held(), "\n") != pods-1 {
		t.Fatalf("%d notes (%v), held:\n%s\nwant %d of each", len(notes), err, c.held(), pods)
	}
	n.start()
	n.done()
	c.holds("")
}

// TestDelIsRetried: a DEL that the API server does not carry out is done again
// until it is, also by another process.
func TestDelIsRetried(t *testing.T) {
	for name, trouble := range map[string]error{
		"not reached": errRefused, "no answer": errNoReply, "forbidden": apierrors.NewForbidden(v2beta1.GroupVersion.WithResource("spiderips").GroupResource(), "x", errors.New("no")),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
			var tried atomic.Int32
			failing := func(times int32) interceptor.Funcs {
				return between(func(ctx context.Context, r request, send func(context.Context) error) error {
					if r.what == frees && tried.Add(1) <= times {
						return trouble
					}
					return send(ctx)
				})
			}
			n := c.machine("n1")
			n.durations.Notes, n.durations.Release = 50*time.Millisecond, 0
			n.start(failing(1 << 30))
			p := c.pod(n, "web", c.from("v4|"))
			n.add(p, "c1")
			n.deleted(p, "c1")
			c.eventually("it is tried again", func() bool { return tried.Load() >= 3 })
			n.stop()
			tried.Store(0)
			n.start(failing(2))
			n.done()
			c.holds("")
			if n := tried.Load(); n != 3 {
				t.Errorf("tried %d times, the third should have done it", n)
			}
		})
	}
}

// TestDelWithoutNote: a DEL that cannot be noted is done before it is answered.
func TestDelWithoutNote(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	if err := os.WriteFile(wire.NotesDir(n.socket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.deleted(p, "web")
	if held := c.held(); held != "" {
		t.Errorf("held %q", held)
	}
	n.add(p, "web")
}

// TestNoteOfAContainerThatIsBack: a plugin that got no answer to its DEL notes
// it although the agent served it, beside the socket or a former one; the
// container ID is used again before the notes are read. What the ADD is
// answered stays.
func TestNoteOfAContainerThatIsBack(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Notes = 300 * time.Millisecond
	n.former = []string{filepath.Join(t.TempDir(), "former.sock")}
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	n.del(p, "web")
	note := wire.Note{Network: "underlay", ContainerID: "web", Interface: "eth0", Netns: "/run/netns/web"}
	now, former := wire.NotesDir(n.socket), wire.NotesDir(n.former[0])
	for _, dirs := range [][]string{{now}, {former}, {now, former}} {
		for _, dir := range dirs {
			if err := wire.WriteNote(dir, note); err != nil {
				t.Fatal(err)
			}
		}
		_, err := n.call(wire.VerbAdd, p, "web", "eth0") // it may be refused: nobody knows which came first
		if err != nil {
			n.add(p, "web")
		}
		time.Sleep(2 * n.durations.Notes)
		if want := "10.1.0.10 n1/web eth0 web"; c.held() != want {
			t.Errorf("held %q, want %q", c.held(), want)
		}
		n.done()
		if notes, err := wire.ReadNotes(former); len(notes) > 0 || err != nil {
			t.Errorf("%v are left beside the former socket (%v)", notes, err)
		}
		n.del(p, "web")
	}
}

// TestSecondLookWaitsForSilence: the second look of an agent at the ledger comes
// while a DEL waits until its interface is silent.
func TestSecondLookWaitsForSilence(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Rescan, n.durations.Release = 1500*time.Millisecond, 8*time.Second
	n.launch()
	n.eventually("the agent is ready", n.agent.Ready)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	here := namespace(t, "eth0")
	in := func(r *wire.Request) { r.Netns = here }
	p := n.occupy("web", "v4|", in)
	deleted := time.Now()
	n.deleted(p, "web", in)
	for c.held() != "" {
		time.Sleep(10 * time.Millisecond)
	}
	if after := time.Since(deleted); after < n.durations.Release {
		t.Errorf("freed %s after the DEL, the interface is there, and silence is after %s", after, n.durations.Release)
	}
	n.done()
}

// TestDelOfWhatStillHasItsAddress: the main plugin does not remove the interface after the DEL of its IPAM, as on a node that
// has far too much to do. Nobody gets the address before it is gone, also after a restart of the agent, whose log says why.
func TestDelOfWhatStillHasItsAddress(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	log := &buffer{}
	n.log = log
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	here := namespace(t, "eth0")
	in := func(r *wire.Request) { r.Netns = here }
	p := n.occupy("web", "v4|", in)
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, 0, 10), Mask: net.CIDRMask(24, 32)}}
	links, eth0 := linkIn(t, here, "eth0")
	if err := links.AddrAdd(eth0, address); err != nil {
		t.Fatal(err)
	}
	n.deleted(p, "web", in)
	next := c.pod(n, "next", c.from("v4|"))
	why := "eth0 in " + here + " still has 10.1.0.10"
	for range 2 {
		n.eventually("the log says why", func() bool { return log.lines(why) == 1 })
		n.adding(next, "next").refused(t, wire.CodeTryAgain, "used out: 0 free of 1")
		if again := log.lines(why); again != 1 {
			t.Errorf("the log says it %d times", again)
		}
		n.stop()
		log = &buffer{}
		n.log = log
		n.launch()
		n.eventually("the agent is ready", n.agent.Ready)
	}
	if err := links.AddrDel(eth0, address); err != nil {
		t.Fatal(err)
	}
	n.done()
	n.add(next, "next")
	c.holds("10.1.0.10 n1/next eth0 next")
}

// linkIn is a link in a network namespace.
func linkIn(t *testing.T, path, ifname string) (*netlink.Handle, netlink.Link) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	links, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(links.Close)
	link, err := links.LinkByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	return links, link
}

// TestDelDuringClaim: the DEL comes when the API server has made the claim and not yet answered. The ADD says that, and not what
// became of its request; nothing stays claimed.
func TestDelDuringClaim(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/spiderips") {
				<-r.Context().Done()
				return nil, errors.Join(r.Context().Err(), resp.Body.Close())
			}
			return resp, err
		})
	}
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.endsAdding()
}

// endsAdding has a DEL come while the ADD of a pod has claimed 10.1.0.10 and is not done. The ADD says so, and nothing is left.
func (n *node) endsAdding() {
	n.t.Helper()
	p := n.pod(n, "web", n.from("v4|"))
	add := n.adding(p, "web")
	n.holds("10.1.0.10 n1/web eth0 web")
	n.deleted(p, "web")
	add.refused(n.t, wire.CodeTryAgain, lease.ErrDeleted.Error())
	n.done()
	n.holds("")
}
