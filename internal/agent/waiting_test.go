package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

var soak = flag.Bool("soak", false, "run TestManyNodesOneAddress, TestHugePool and TestChurn at full size")

func asking(texts ...string) func(*wire.Request) {
	return func(r *wire.Request) {
		for _, text := range texts {
			r.RequestedIPs = append(r.RequestedIPs, netip.MustParseAddr(text))
		}
	}
}

// patient starts an agent whose ADDs wait for longer than any test takes.
func (c *cluster) patient(name string, faults ...interceptor.Funcs) *node {
	c.t.Helper()
	n := c.machine(name)
	n.durations.Wait, n.durations.Release = requestWait, 10*time.Millisecond
	n.start(faults...)
	return n
}

// occupy lets a pod of the node hold an address of a pool.
func (n *node) occupy(name, pools string, edit ...func(*wire.Request)) *corev1.Pod {
	n.t.Helper()
	p := n.pod(n, name, n.from(pools))
	n.add(p, name, edit...)
	return p
}

// lineUp starts the ADDs of pods, named w0, w1 and so on as their containers,
// one after the other, and waits until all are in line.
func (n *node) lineUp(pods int, pools string) []*pending {
	n.t.Helper()
	line := make([]*pending, pods)
	for i := range line {
		name := fmt.Sprint("w", i)
		line[i] = n.adding(n.pod(n, name, n.from(pools)), name)
		n.inLine(i + 1)
	}
	return line
}

// inLine waits until so many ADDs are in line.
func (n *node) inLine(want int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d ADDs are in line", want), func() bool { return n.agent.allocation.Waiting() == want })
}

// TestWaitsForIPv4: an ADD that waits for IPv4 holds nothing of IPv6.
func TestWaitsForIPv4(t *testing.T) {
	c := newCluster(t)
	n := c.patient("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("v6", "fd01::/64", []string{"fd01::10-fd01::20"})
	first := n.occupy("first", "v4|")
	late := n.lineUp(1, "v4|v6")[0]
	if want := "10.1.0.10 n1/first eth0 first"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
	n.del(first, "first")
	if got := late.ips(t); got[0] != "10.1.0.10/24" || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// TestFullIsProven: that a pool was full before the ADD came is no reason to
// take from its backup.
func TestFullIsProven(t *testing.T) {
	c := newCluster(t)
	n, other := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("backup", "10.1.0.0/24", []string{"10.1.0.20-10.1.0.29"})
	first := other.occupy("first", "v4|")
	if got := n.add(c.pod(n, "p", c.from("v4,backup|")), "p"); got[0] == "10.1.0.10/24" {
		t.Fatalf("two pods have %v", got)
	}
	other.del(first, "first")
	if got := n.add(c.pod(n, "q", c.from("v4,backup|")), "q"); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v, and the first pool has a free address", got)
	}
}

// mostLists is how often a node LISTs a pool at most that looks full for a
// time: at once, and after pauses of 1, 2, 4 and then 8 s. Each is a quarter
// shorter by chance, and the next one grows from what it was.
func mostLists(full time.Duration) int {
	n := 1
	for at, gap := time.Duration(0), time.Second*3/4; at+gap <= full; n++ {
		at, gap = at+gap, min(2*gap, 8*time.Second)*3/4
	}
	return n
}

// TestManyNodesOneAddress: nodes wait for one address that another one frees.
// One gets it, the others fail when their time is over, and none asks the API
// server more often than it should.
func TestManyNodesOneAddress(t *testing.T) {
	nodes, patience := 20, 4*time.Second
	if *soak {
		nodes, patience = 200, 20*time.Second
	}
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	holder := c.node("holder")
	first := holder.occupy("first", "v4|")
	all, requests := make([]*node, nodes), make([]counter, nodes)
	for i := range all {
		all[i] = c.machine(fmt.Sprint("n", i))
		all[i].durations.Wait = patience
		all[i].launch(requests[i].funcs())
	}
	pods := make([]*corev1.Pod, nodes)
	for i, n := range all {
		n.eventually("the agent is ready", n.agent.Ready)
		pods[i] = c.pod(n, fmt.Sprint("p", i), c.from("v4|"))
	}
	began := time.Now()
	waiting := make([]*pending, nodes)
	for i, n := range all {
		waiting[i] = n.adding(pods[i], pods[i].Name)
	}
	for _, n := range all {
		n.inLine(1)
	}
	holder.del(first, "first")
	freed := time.Now()
	var winners []int
	for i, w := range waiting {
		if <-w.done; w.err == nil {
			winners = append(winners, i)
			continue
		}
		w.refused(t, wire.CodeTryAgain, "used out: 0 free of 1")
		if w.took < patience {
			t.Errorf("node %d gave up after %s, it may wait for %s", i, w.took, patience)
		}
	}
	took := time.Since(began)
	if len(winners) != 1 {
		t.Fatalf("nodes %v got the address", winners)
	}
	if i := winners[0]; c.held() != fmt.Sprintf("10.1.0.10 n%d/p%d eth0 p%d", i, i, i) {
		t.Errorf("held %q, node %d got it", c.held(), i)
	}
	most := 2*mostLists(took/2) + 1 // full before it was freed, and after
	total := 0
	for i := range requests {
		lists, tries := requests[i].of(looks), requests[i].of(claims)
		total += lists
		if lists > most || tries > 2 { // at first, and when it looked free
			t.Errorf("node %d sent %d LISTs and %d claims in %s, want at most %d and 2", i, lists, tries, took, most)
		}
	}
	t.Logf("%d nodes: served %s after it was freed; %d LISTs in %s, at most %d of one", nodes,
		waiting[winners[0]].ended.Sub(freed).Round(time.Millisecond), total, took.Round(time.Second), most)
}

// TestStrangersInLine: ADDs wait for addresses of a pool that are all held in
// the name of another pool. A LIST of theirs shows them free for ever; that
// must not make the agent LIST and claim without pause.
func TestStrangersInLine(t *testing.T) {
	const adds, addresses = 40, 2
	c := newCluster(t)
	requests := &counter{}
	other, n := c.node("n1"), c.machine("n2")
	n.durations.Wait = 5 * time.Second
	n.start(requests.funcs())
	for _, name := range []string{"a", "b"} {
		c.pool(name, "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	}
	other.occupy("first", "a|")
	other.occupy("second", "a|")
	began := time.Now()
	waiting := make([]*pending, adds)
	for i := range waiting {
		name := fmt.Sprint("w", i)
		waiting[i] = n.adding(c.pod(n, name, c.from("b|")), name)
	}
	for _, w := range waiting {
		w.refused(t, wire.CodeTryAgain, "used out: 0 free of 2")
	}
	took := time.Since(began)
	lists, tries := requests.of(looks), requests.of(claims)
	// At its deadline each ADD looks once more: at most one LIST a second while deadlines pass.
	if most := mostLists(took) + int((took-n.durations.Wait)/time.Second) + 2; lists > most || tries > adds*addresses*most {
		t.Errorf("%d LISTs and %d claims in %s, want at most %d and %d", lists, tries, took, most, adds*addresses*most)
	}
}

// TestListFails: a LIST that failed is sent again, and the ADD is served when
// that shows a free address.
func TestListFails(t *testing.T) {
	c := newCluster(t)
	failed := newGate()
	n := c.machine("n1")
	n.durations.Wait = 5 * time.Second
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == looks {
			select {
			case <-failed.reached:
			default:
				failed.arrive()
				return errNoReply
			}
		}
		return send(ctx)
	}))
	other := c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	first := other.occupy("first", "v4|")
	late := n.adding(c.pod(n, "late", c.from("v4|")), "late")
	c.await("the LIST failed", failed.reached)
	other.del(first, "first")
	if got := late.ips(t); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v", got)
	}
}

// TestWake: an address that the node frees is claimed by who waits longest, though all have looked again meanwhile: by one
// create, without a LIST.
func TestWake(t *testing.T) {
	const pods = 4
	c := newCluster(t)
	requests, stopped := &counter{}, newGate()
	t.Cleanup(stopped.open)
	var stop atomic.Bool
	n := c.patient("n1", requests.funcs(), between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == looks && stop.Load() {
			if err := stopped.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	has := &pending{pod: n.occupy("first", "v4|")}
	line := n.lineUp(pods, "v4|") // each brings a LIST, 1 s after the one before
	stop.Store(true)
	n.inLine(pods)
	for _, next := range line {
		requests.reset()
		n.del(has.pod, has.pod.Name)
		if got := next.ips(t); got[0] != "10.1.0.10/24" {
			t.Errorf("got %v", got)
		}
		got := []int{requests.of(frees), requests.of(claims), requests.of(fences), requests.of(takeOvers), requests.of(looks)}
		if !slices.Equal(got, []int{1, 1, 1, 0, 0}) {
			t.Errorf("%s: %s", next.pod.Name, requests)
		}
		has = next
	}
	stopped.open()
	n.del(has.pod, has.pod.Name)
	c.holds("")
}

// waking lets the only address of a pool be released while two ADDs are in line, and stops the first one's claim before it is
// sent, or if sent is set, its answer.
func waking(t *testing.T, sent bool) (n *node, pool *v2beta1.SpiderIPPool, line []*pending, claim *gate) {
	c := newCluster(t)
	claim = newGate()
	t.Cleanup(claim.open)
	var on atomic.Bool
	n = c.patient("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what != claims || !on.Load() || r.object.(*v2beta1.SpiderIP).Spec.Pod.Name != "w0" {
			return send(ctx)
		}
		if sent {
			if err := send(ctx); err != nil {
				return err
			}
			return claim.pass(ctx)
		}
		if err := claim.pass(ctx); err != nil {
			return err
		}
		return send(ctx)
	}))
	pool = c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	first := n.occupy("first", "v4|")
	line = n.lineUp(2, "v4|")
	on.Store(true)
	n.deleted(first, "first")
	c.await("the oldest claims it", claim.reached)
	return n, pool, line, claim
}

// TestWakeOneThatGoes: the DEL of an ADD comes while it claims what came free. The next in line gets it.
func TestWakeOneThatGoes(t *testing.T) {
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprint("claimed ", sent), func(t *testing.T) {
			n, _, line, claim := waking(t, sent)
			n.deleted(line[0].pod, "w0")
			line[0].refused(t, wire.CodeTryAgain)
			claim.open()
			if got := line[1].ips(t); got[0] != "10.1.0.10/24" {
				t.Errorf("got %v", got)
			}
			n.done()
			n.holds("10.1.0.10 n1/w1 eth0 w1")
			n.del(line[1].pod, "w1")
			n.holds("")
		})
	}
}

// TestWakeRefused: the pool is edited while an address of it is claimed by the oldest in line. Nobody gets one that the pool
// does not have; one that it does not give to this pod goes to the next.
func TestWakeRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*v2beta1.SpiderIPPool)
		next bool
	}{
		{"the pool lost it", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.10"} }, false},
		{"the pool is not for this pod", func(p *v2beta1.SpiderIPPool) {
			p.Spec.PodAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "w1"}}
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, p4, line, claim := waking(t, true)
			n.edit(p4, tc.edit)
			claim.open()
			if tc.next {
				line[0].refused(t, wire.CodeNoPool, "unmatched Pod labels")
				if got := line[1].ips(t); got[0] != "10.1.0.10/24" {
					t.Errorf("got %v", got)
				}
			} else {
				n.holds("")
			}
			for _, w := range line {
				n.deleted(w.pod, w.pod.Name)
				<-w.done
			}
			n.done()
			n.holds("")
		})
	}
}

// TestReleaseDoesNotDependOnWaiters: the API server refuses what an ADD in line claims. The release that woke it is done all
// the same, and the address goes to the next.
func TestReleaseDoesNotDependOnWaiters(t *testing.T) {
	c := newCluster(t)
	var refuse atomic.Bool
	n := c.patient("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if e, ok := r.object.(*v2beta1.SpiderIP); ok && r.what == claims && refuse.Load() && e.Spec.Pod.Name == "w0" {
			return apierrors.NewForbidden(v2beta1.GroupVersion.WithResource("spiderips").GroupResource(), e.Name, errors.New("no"))
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	first := n.occupy("first", "v4|")
	line := n.lineUp(2, "v4|")
	refuse.Store(true)
	n.del(first, "first")
	line[0].refused(t, wire.CodeTryAgain, "forbidden")
	if got := line[1].ips(t); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v", got)
	}
}

// TestOldContainerReleasesForItsOwnPod: a new sandbox waits for the only address of its pool, which the old container of the
// same pod bears; the DEL of that lets it have it.
func TestOldContainerReleasesForItsOwnPod(t *testing.T) {
	c := newCluster(t)
	n := c.patient("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	here := namespace(t, "eth0")
	in := func(r *wire.Request) { r.Netns = here }
	p := n.occupy("old", "v4|", in)
	late := n.adding(p, "new")
	n.inLine(1)
	n.deleted(p, "old", in)
	if got := late.ips(t); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v", got)
	}
	n.done()
	c.holds("10.1.0.10 n1/old eth0 new")
}

// TestRequestedAddress: the runtime or the user asks for one address.
func TestRequestedAddress(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
	c.pool("b", "10.1.0.0/24", []string{"10.1.0.20-10.1.0.29"})
	c.pool("v6", "fd01::/64", []string{"fd01::10-fd01::20"})
	n.occupy("first", "a|", asking("10.1.0.19"))
	n.occupy("second", "b|", asking("10.1.0.29"))
	for _, tc := range []struct {
		name, pools string
		ask         func(*wire.Request)
		want        []string
		code        uint
		says        []string
	}{
		{"free", "a|", asking("10.1.0.15"), []string{"10.1.0.15/24"}, 0, nil},
		{"of the second pool", "a,b|", asking("10.1.0.25"), []string{"10.1.0.25/24"}, 0, nil},
		{"of both families", "a|v6", asking("10.1.0.16", "fd01::12"), []string{"10.1.0.16/24", "fd01::12/64"}, 0, nil},
		{"of no pool", "a,b|", asking("10.1.0.30"), nil, wire.CodeConfig, []string{"-a: it does not have the address 10.1.0.30", "-b: it does not have"}},
		{"of a pool that is not named", "a|", asking("10.1.0.25"), nil, wire.CodeConfig, []string{"-a: it does not have the address 10.1.0.25"}},
		{"of a family without pool", "a|", asking("fd01::13"), nil, wire.CodeConfig, []string{"fd01::13"}},
		{"two of a family", "a|", asking("10.1.0.17", "10.1.0.18"), nil, wire.CodeConfig, []string{"10.1.0.17", "10.1.0.18"}},
		{"taken", "b,a|", asking("10.1.0.19"), nil, wire.CodeTryAgain, []string{"-b: it does not have the address 10.1.0.19", "-a: the address 10.1.0.19 that was asked for is held by ", "/first on node "}},
		{"taken, with another family", "b|v6", asking("10.1.0.29", "fd01::14"), nil, wire.CodeTryAgain, []string{"is held by ", "/second on node "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := strings.ReplaceAll(strings.ReplaceAll(tc.name, " ", "-"), ",", "")
			before := c.held()
			a := n.adding(c.pod(n, name, c.from(tc.pools)), name, tc.ask)
			if tc.code != 0 {
				a.refused(t, tc.code, tc.says...)
				if held := c.held(); held != before {
					t.Errorf("held %q, before %q", held, before)
				}
			} else if got := a.ips(t); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			n.del(a.pod, name)
		})
	}
}

// TestRequestedAnother: a new sandbox asks for another address than its pod has. What the old one bears stays its.
func TestRequestedAnother(t *testing.T) {
	for _, alive := range []bool{false, true} {
		t.Run(fmt.Sprint("old container alive ", alive), func(t *testing.T) {
			c := newCluster(t)
			n := c.node("n1")
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
			in := func(*wire.Request) {}
			want := "10.1.0.11 n1/web eth0 two"
			if alive {
				here := namespace(t, "eth0")
				in = func(r *wire.Request) { r.Netns = here }
				want = "10.1.0.10 n1/web eth0 web\n" + want
			}
			p := n.occupy("web", "v4|", asking("10.1.0.10"), in)
			if !alive {
				n.endNetns("web")
			}
			if got := n.add(p, "two", asking("10.1.0.11")); got[0] != "10.1.0.11/24" {
				t.Errorf("got %v", got)
			}
			if c.held() != want {
				t.Errorf("held %q, want %q", c.held(), want)
			}
		})
	}
}

// TestTwoEditsWhileWaiting: an ADD that waits hears of the second edit of a pool
// as it does of the first.
func TestTwoEditsWhileWaiting(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Wait = 6 * time.Second
	n.start()
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	other := c.pool("other", "10.2.0.0/24", []string{"10.2.0.10"})
	n.occupy("first", "v4|")
	w := n.lineUp(1, "v4|")[0]
	began := time.Now()
	// An edit of a pool that does not concern it.
	time.Sleep(5500*time.Millisecond - time.Since(began))
	c.edit(other, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.2.0.11"} })
	n.knows(other)
	time.Sleep(100 * time.Millisecond)
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.10-10.1.0.11"} })
	edited := time.Now()
	<-w.done
	t.Logf("ended %s after the edit, took %s, error %v", time.Since(edited), w.took, w.err)
	if w.err != nil || time.Since(edited) > time.Second {
		t.Errorf("%v: ended %s after the edit that gives it an address, took %s", w.err, time.Since(edited), w.took)
	}
}

// TestStopWhileLooking: an ADD that waits for its next look at a full pool is
// told why it ends when the agent stops.
func TestStopWhileLooking(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Stop, n.durations.Wait = 300*time.Millisecond, requestWait
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	other := c.pool("other", "10.2.0.0/24", []string{"10.2.0.10"})
	n.occupy("first", "v4|")
	w := n.lineUp(1, "v4|")[0]
	time.Sleep(3 * time.Second) // the looks are seconds apart
	c.edit(other, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.2.0.11"} })
	n.knows(other)
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	n.stop()
	w.refused(t, wire.CodeTryAgain, "stopping")
	t.Logf("stopped in %s: %v", time.Since(began), w.err)
}

// TestManyStrangers: all addresses of a pool are held in the name of another
// one. An ADD gives up when its time is over.
func TestManyStrangers(t *testing.T) {
	const strangers, answer = 300, 20 * time.Millisecond // what a claim takes at an API server that has something to do
	c := newCluster(t)
	requests := &counter{}
	n := c.machine("n1")
	n.durations.Wait = time.Second
	n.start(requests.funcs(), slowly(answer))
	c.pool("a", "10.1.0.0/16", []string{"10.1.1.0-10.1.2.43"})
	c.pool("b", "10.1.0.0/16", []string{"10.1.1.0-10.1.2.43"})
	var group sync.WaitGroup
	next := make(chan netip.Addr)
	for range 8 {
		group.Go(func() {
			for a := range next {
				e := &v2beta1.SpiderIP{}
				e.Name = a.String()
				e.Spec = v2beta1.IPSpec{Address: a.String(), Pool: c.prefix + "-a", Node: "elsewhere", Network: "main", Interface: "eth0", Netns: "/run/netns/x",
					ContainerID: "c1", Pod: v2beta1.IPPod{Namespace: "default", Name: "has", UID: "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"}, Use: v2beta1.IPUsePod}
				if err := c.Create(context.Background(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i, a := 0, netip.MustParseAddr("10.1.1.0"); i < strangers; i, a = i+1, a.Next() {
		next <- a
	}
	close(next)
	group.Wait()
	w := n.adding(c.pod(n, "web", c.from("b|")), "web")
	w.refused(t, wire.CodeTryAgain, "tried of 300: the search took too long", "other pools")
	if w.took > 2*n.durations.Wait {
		t.Errorf("took %s, it may wait for %s; %d claims, %d LISTs", w.took, n.durations.Wait, requests.of(claims), requests.of(looks))
	}
}

// slowly lets claims take a time.
func slowly(d time.Duration) interceptor.Funcs {
	return between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims {
			_ = lease.Wait(ctx, time.After(d))
		}
		return send(ctx)
	})
}
