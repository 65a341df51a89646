package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// request is one that an agent sends to the API server: "create SpiderIP".
type request struct {
	what   string
	object client.Object // what is written, or read into; nil for a LIST
}

// between puts f between an agent and the API server. It may send the request
// or not, and says what the agent is told.
func between(f func(ctx context.Context, r request, send func(context.Context) error) error) interceptor.Funcs {
	is := func(verb string, o client.Object) request {
		return request{verb + " " + reflect.TypeOf(o).Elem().Name(), o}
	}
	return interceptor.Funcs{
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return f(ctx, is("get", o), func(ctx context.Context) error { return w.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, w client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
			r := request{what: "list " + reflect.TypeOf(o).Elem().Name()}
			return f(ctx, r, func(ctx context.Context) error { return w.List(ctx, o, opts...) })
		},
		Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f(ctx, is("create", o), func(ctx context.Context) error { return w.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return f(ctx, is("update", o), func(ctx context.Context) error { return w.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f(ctx, is("delete", o), func(ctx context.Context) error { return w.Delete(ctx, o, opts...) })
		},
	}
}

const (
	claims    = "create SpiderIP"
	takeOvers = "update SpiderIP"
	frees     = "delete SpiderIP"
	fences    = "get SpiderIPPool"
	looks     = "list PartialObjectMetadataList"
)

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	errNoReply = apierrors.NewTimeoutError("the answer was lost", 1)
)

// gate stops requests until it is opened.
type gate struct {
	reached, opened chan struct{}
	arrive, open    func()
}

func newGate() *gate {
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	g.arrive = sync.OnceFunc(func() { close(g.reached) })
	g.open = sync.OnceFunc(func() { close(g.opened) })
	return g
}

// pass waits until the gate is open, or ctx ends.
func (g *gate) pass(ctx context.Context) error {
	g.arrive()
	return lease.Wait(ctx, g.opened)
}

// await waits for what must come.
func (c *cluster) await(what string, come <-chan struct{}) {
	c.t.Helper()
	select {
	case <-come:
	case <-time.After(requestWait):
		c.t.Fatalf("not within %s: %s", requestWait, what)
	}
}

// pending is an ADD under way beside the test.
type pending struct {
	pod   *corev1.Pod
	done  chan struct{}
	reply *wire.Reply
	err   error
	ended time.Time
	took  time.Duration
}

// adding starts the ADD of eth0 of a pod.
func (n *node) adding(p *corev1.Pod, containerID string, edit ...func(*wire.Request)) *pending {
	a := &pending{pod: p, done: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(a.done)
		a.reply, a.err = n.call(wire.VerbAdd, p, containerID, "eth0", edit...)
		a.ended = time.Now()
		a.took = a.ended.Sub(began)
	}()
	return a
}

// ips waits for the answer, which must be one, and returns its addresses.
func (a *pending) ips(t *testing.T) []string {
	t.Helper()
	if <-a.done; a.err != nil {
		t.Fatalf("ADD of %s: %v", a.pod.Name, a.err)
	}
	return texts(a.reply)
}

// refused waits for the answer, which must be an error of a code that says why.
func (a *pending) refused(t *testing.T, code uint, says ...string) {
	t.Helper()
	<-a.done
	var refused *wire.Error
	if !errors.As(a.err, &refused) || refused.Code != code {
		t.Fatalf("ADD of %s: %v, error %v; want code %d", a.pod.Name, a.reply, a.err, code)
	}
	for _, part := range says {
		if !strings.Contains(refused.Msg, part) {
			t.Errorf("%q does not say %q", refused.Msg, part)
		}
	}
}

// deleted serves the DEL of eth0 of a pod and does not wait until it is done.
func (n *node) deleted(p *corev1.Pod, containerID string, edit ...func(*wire.Request)) {
	n.t.Helper()
	if _, err := n.call(wire.VerbDel, p, containerID, "eth0", edit...); err != nil {
		n.t.Fatalf("DEL of %s: %v", p.Name, err)
	}
}

// holds waits until the ledger says so.
func (c *cluster) holds(want string) {
	c.t.Helper()
	var held string
	for deadline := time.Now().Add(requestWait); ; time.Sleep(10 * time.Millisecond) {
		if held = c.held(); held == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("held %q, want %q", held, want)
		}
	}
}

// knows waits until the node's watch has brought a pool as it is now.
func (n *node) knows(p *v2beta1.SpiderIPPool) {
	n.t.Helper()
	now, err := facts.Read(n.t.Context(), n.Client, "")
	if err != nil {
		n.t.Fatal(err)
	}
	want, err := now.Pool(n.t.Context(), p.Name)
	if err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the watch has brought pool "+p.Name, func() bool {
		for _, known := range n.agent.facts.Pools() {
			if known.Name == p.Name {
				return known.UID == want.UID && known.Addresses.Equal(want.Addresses)
			}
		}
		return false
	})
}

// TestTwoPoolsOneAddress: two nodes claim it at the same moment, each from
// another pool.
func TestTwoPoolsOneAddress(t *testing.T) {
	c := newCluster(t)
	var both sync.WaitGroup
	both.Add(2)
	nodes := make([]*node, 2)
	answers := make([]*pending, 2)
	for i := range nodes {
		arrive := sync.OnceFunc(func() {
			both.Done()
			both.Wait()
		})
		nodes[i] = c.node(fmt.Sprint("n", i), between(func(ctx context.Context, r request, send func(context.Context) error) error {
			if r.what == claims {
				arrive()
			}
			return send(ctx)
		}))
	}
	for i, n := range nodes {
		c.pool(fmt.Sprint("v", i), "10.1.0.0/24", []string{"10.1.0.10"})
		name := fmt.Sprint("p", i)
		answers[i] = n.adding(c.pod(n, name, c.from(fmt.Sprint("v", i, "|"))), name)
	}
	for i := range answers {
		<-answers[i].done
	}
	winner := slices.IndexFunc(answers, func(a *pending) bool { return a.err == nil })
	if winner < 0 {
		t.Fatalf("none was served: %v, %v", answers[0].err, answers[1].err)
	}
	answers[1-winner].refused(t, wire.CodeTryAgain, "used out: 0 free of 1")
	nodes[1-winner].del(answers[1-winner].pod, answers[1-winner].pod.Name)
	if want := fmt.Sprintf("10.1.0.10 n%d/p%d eth0 p%d", winner, winner, winner); c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// TestPoolMadeAgain: addresses that pods hold stay theirs when their pool is
// deleted and another one of its name is made.
func TestPoolMadeAgain(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	ips := []string{"10.1.0.10-10.1.0.12"}
	old := c.pool("v4", "10.1.0.0/24", ips)
	p := c.pod(n, "p", c.from("v4|"))
	had := n.add(p, "p")
	n.add(c.pod(n, "q", c.from("v4|")), "q")
	if err := c.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	n.knows(c.pool("v4", "10.1.0.0/24", ips))
	before := c.held()
	last := n.add(c.pod(n, "r", c.from("v4|")), "r")
	if strings.Contains(before, strings.TrimSuffix(last[0], "24")) {
		t.Errorf("a new pod got %v of %s", last, before)
	}
	n.adding(c.pod(n, "s", c.from("v4|")), "s").refused(t, wire.CodeTryAgain, "0 free of 3")
	n.endNetns("p")
	if again := n.add(p, "p2"); !slices.Equal(again, had) {
		t.Errorf("a new sandbox got %v, its pod had %v", again, had)
	}
}

// TestLostAnswerThenAway: a claim happened, its answer was lost, and the API
// server was away for longer than the ADD could wait. The address is not lost.
func TestLostAnswerThenAway(t *testing.T) {
	for _, after := range []string{"DEL", "ADD of another sandbox"} {
		t.Run(after, func(t *testing.T) {
			c := newCluster(t)
			var away, lost atomic.Bool
			n := c.machine("n1")
			n.durations.Wait, n.durations.Settle = 300*time.Millisecond, 300*time.Millisecond
			n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
				if away.Load() {
					return errRefused
				}
				err := send(ctx)
				if r.what == claims && lost.CompareAndSwap(false, true) {
					away.Store(true)
					return errNoReply
				}
				return err
			}))
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
			p := c.pod(n, "web", c.from("v4|"))
			n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error())
			address, _, _ := strings.Cut(c.held(), " ")
			if address == "" {
				t.Fatal("the claim did not happen")
			}
			if after == "DEL" {
				n.deleted(p, "c1")
				away.Store(false)
				n.done()
				c.holds("")
				return
			}
			away.Store(false)
			if got := n.add(p, "c2"); got[0] != address+"/24" {
				t.Errorf("the next sandbox got %v, %s was its pod's", got, address)
			}
			n.del(p, "c1")
			c.holds(address + " n1/web eth0 c2")
			n.del(p, "c2")
			c.holds("")
		})
	}
}

// zombie is a claim that the API server carries out long after the agent gave
// it up.
type zombie struct {
	*cluster
	on    atomic.Bool
	mu    sync.Mutex
	claim *v2beta1.SpiderIP
}

func (z *zombie) funcs() interceptor.Funcs {
	return between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what != claims || !z.on.Load() {
			return send(ctx)
		}
		z.mu.Lock()
		defer z.mu.Unlock()
		if z.claim == nil {
			z.claim = r.object.DeepCopyObject().(*v2beta1.SpiderIP)
		}
		return errNoReply
	})
}

func (z *zombie) land() {
	z.t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	if err := z.Create(z.t.Context(), z.claim); err != nil {
		z.t.Fatal(err)
	}
}

// replace ends the agent and starts another one, which need not have looked a
// second time.
func (n *node) replace(faults ...interceptor.Funcs) {
	n.t.Helper()
	n.stop()
	n.launch(faults...)
	n.eventually("the agent is ready", n.agent.Ready)
}

// secondLook keeps an agent from looking at its node the second time until the
// gate opens.
func secondLook(g *gate) interceptor.Funcs {
	var n atomic.Int32
	return between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == "list SpiderIPList" && n.Add(1) > 1 {
			if err := g.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	})
}

// TestZombieClaim: whatever happened to the pod in the meantime, the late entry
// is freed.
func TestZombieClaim(t *testing.T) {
	setup := func(t *testing.T, settled time.Duration) (*zombie, *node, *v2beta1.SpiderIPPool, *corev1.Pod) {
		c := newCluster(t)
		z := &zombie{cluster: c}
		n := c.machine("n1")
		n.durations.Settle, n.durations.Wait, n.durations.Look = settled, 300*time.Millisecond, 300*time.Millisecond
		n.start(z.funcs())
		p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
		p := c.pod(n, "web", c.from("v4|"))
		z.on.Store(true)
		n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error())
		z.on.Store(false)
		return z, n, p4, p
	}
	t.Run("after the DEL", func(t *testing.T) {
		z, n, _, p := setup(t, requestWait)
		n.deleted(p, "c1")
		z.land()
		n.holds("")
	})
	t.Run("after the pod got another address", func(t *testing.T) {
		z, n, p4, p := setup(t, 4*time.Second)
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} })
		n.knows(p4)
		if got := n.add(p, "c2"); got[0] != "10.1.0.20/24" {
			t.Errorf("got %v", got)
		}
		z.land()
		n.holds("10.1.0.20 n1/web eth0 c2")
	})
	for _, when := range []string{"before", "after"} {
		t.Run("the agent was replaced, DEL "+when, func(t *testing.T) {
			z, n, _, p := setup(t, requestWait)
			landed := newGate()
			if when == "before" {
				n.deleted(p, "c1")
			}
			n.replace(secondLook(landed))
			if when == "after" {
				n.deleted(p, "c1")
			}
			z.land()
			landed.open()
			n.holds("")
			n.done()
		})
	}
	t.Run("the agent was replaced, the pod has another address", func(t *testing.T) {
		z, n, p4, p := setup(t, requestWait)
		landed := newGate()
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} })
		n.replace(secondLook(landed))
		n.add(p, "c2")
		z.land()
		landed.open()
		n.endNetns("c1") // nothing else proves that it is silent: it had no DEL
		n.holds("10.1.0.20 n1/web eth0 c2")
	})
}

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

// valve holds back what watches of one resource bring to an agent.
type valve struct {
	path string
	mu   sync.Mutex
	open chan struct{} // closed while it flows
}

func newValve(resource string) *valve {
	v := &valve{path: "/" + resource, open: make(chan struct{})}
	close(v.open)
	return v
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = make(chan struct{})
}

func (v *valve) flow() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

func (v *valve) state() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open
}

// tripper is a function as http.RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (v *valve) transport(next http.RoundTripper) http.RoundTripper {
	return tripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && strings.HasSuffix(r.URL.Path, v.path) && r.URL.Query().Get("watch") != "" {
			resp.Body = &valveBody{ReadCloser: resp.Body, valve: v, closed: make(chan struct{})}
		}
		return resp, err
	})
}

type valveBody struct {
	io.ReadCloser
	valve  *valve
	once   sync.Once
	closed chan struct{}
}

func (b *valveBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	select {
	case <-b.valve.state():
	case <-b.closed:
	}
	return n, err
}

func (b *valveBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

// TestStalePool: the agent's watch of pools is behind. An edit that grew the
// pool may be seen late; an address outside of the live pool is never answered.
func TestStalePool(t *testing.T) {
	setup := func(t *testing.T, ips ...string) (*valve, *node, *v2beta1.SpiderIPPool) {
		c := newCluster(t)
		v := newValve("spiderippools")
		n := c.machine("n1")
		n.transport, n.durations.Wait = v.transport, requestWait
		n.start()
		p4 := c.pool("v4", "10.1.0.0/24", ips)
		n.knows(p4)
		v.shut()
		t.Cleanup(v.flow)
		return v, n, p4
	}
	t.Run("grown", func(t *testing.T) {
		v, n, p4 := setup(t, "10.1.0.10")
		n.add(n.pod(n, "p", n.from("v4|")), "p")
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.10-10.1.0.11"} })
		late := n.adding(n.pod(n, "q", n.from("v4|")), "q")
		n.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })
		v.flow()
		if got := late.ips(t); got[0] != "10.1.0.11/24" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("shrunk", func(t *testing.T) {
		_, n, p4 := setup(t, "10.1.0.10", "10.1.0.20")
		p := n.pod(n, "p", n.from("v4|"))
		if n.add(p, "p", asking("10.1.0.20"))[0] != "10.1.0.20/24" {
			t.Fatal("not the address that was asked for")
		}
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} })
		late := n.adding(n.pod(n, "q", n.from("v4|")), "q")
		n.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })
		n.del(p, "p")
		if got := late.ips(t); got[0] != "10.1.0.20/24" {
			t.Errorf("got %v, which the pool has no more", got)
		}
		n.holds("10.1.0.20 n1/q eth0 q")
	})
	t.Run("made", func(t *testing.T) {
		_, n, _ := setup(t, "10.1.0.10")
		n.pool("new", "10.2.0.0/24", []string{"10.2.0.10"})
		if got := n.add(n.pod(n, "p", n.from("new|")), "p"); got[0] != "10.2.0.10/24" {
			t.Errorf("got %v", got)
		}
	})
}

// TestStalePod: the agent's watch of pods is behind and shows an earlier pod of
// the same name. The ADD serves the pod that there is.
func TestStalePod(t *testing.T) {
	c := newCluster(t)
	v := newValve("pods")
	n := c.machine("n1")
	n.transport = v.transport
	n.start()
	c.pool("old", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("new", "10.2.0.0/24", []string{"10.2.0.10"})
	before := c.pod(n, "web", c.from("old|"))
	n.add(before, "c1")
	v.shut()
	t.Cleanup(v.flow)
	if err := c.Delete(t.Context(), before, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	n.del(before, "c1")
	p := c.pod(n, "web", c.from("new|"))
	if got := n.add(p, "c2"); got[0] != "10.2.0.10/24" {
		t.Errorf("got %v, as the earlier pod asked for", got)
	}
	if n.agent.facts.CachedPod(t.Context(), client.ObjectKeyFromObject(p), string(p.UID)) != nil {
		t.Error("the watch was not behind")
	}
	n.del(p, "c2")
	c.holds("")
}

// TestWebhookDown: a webhook that guards pools and cannot be reached keeps
// nobody from getting an address.
func TestWebhookDown(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Labels = map[string]string{"test": c.prefix} })
	scheme := apiclient.Scheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(c.server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	hook := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: c.prefix},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:           "pools.test.example",
			ClientConfig:   admissionv1.WebhookClientConfig{URL: ptr("https://127.0.0.1:1/")},
			FailurePolicy:  ptr(admissionv1.Fail),
			ObjectSelector: &metav1.LabelSelector{MatchLabels: p4.Labels},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.OperationAll},
				Rule:       admissionv1.Rule{APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"spiderippools", "spiderippools/*"}},
			}},
			SideEffects:             ptr(admissionv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
	if err := admin.Create(t.Context(), hook); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.Delete(context.Background(), hook); err != nil {
			t.Error(err)
		}
	})
	c.eventually("edits of the pool are refused", func() bool {
		p4.Spec.ExcludeIPs = []string{"10.1.0.200"}
		return c.Update(t.Context(), p4, client.DryRunAll) != nil
	})
	p := c.pod(n, "web", c.from("v4|"))
	n.add(p, "c1")
	n.del(p, "c1")
	c.holds("")
}

// TestReplacedInTheMiddle: the agent is killed with 64 ADDs in flight, each at
// another step. The kubelet deletes their sandboxes and makes new ones.
func TestReplacedInTheMiddle(t *testing.T) {
	const pods = 64
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.10-10.1.200.10"})
	var mu sync.Mutex
	var sent, fenced int
	var late []*v2beta1.SpiderIP
	inFlight := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		mu.Lock()
		defer mu.Unlock()
		switch r.what {
		case fences:
			if fenced++; fenced > 2 { // the first ones are answered
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
			}
		case claims:
			sent++
			fate, err := sent%4, error(nil)
			if fate == 3 {
				late = append(late, r.object.DeepCopyObject().(*v2beta1.SpiderIP))
			} else if fate > 0 {
				err = send(context.WithoutCancel(ctx))
			}
			if sent == pods {
				inFlight.arrive()
			}
			if fate == 1 {
				return err
			}
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			return ctx.Err()
		}
		return send(ctx)
	}))
	all := make([]*corev1.Pod, pods)
	first := make([]*pending, pods)
	for i := range all {
		all[i] = c.pod(n, fmt.Sprint("p", i), c.from("v4|"))
		first[i] = n.adding(all[i], fmt.Sprint("old", i))
	}
	c.await("all claims are in flight", inFlight.reached)
	n.stop()
	for _, a := range first {
		<-a.done
	}
	landed := newGate()
	n.replace(secondLook(landed))
	second := make([]*pending, pods)
	for i, p := range all {
		n.deleted(p, fmt.Sprint("old", i))
		second[i] = n.adding(p, fmt.Sprint("new", i))
		if i < len(late) {
			c.create(late[i])
		}
	}
	var want []string
	for i, a := range second {
		want = append(want, fmt.Sprintf("%s n1/p%d eth0 new%d", strings.TrimSuffix(a.ips(t)[0], "/16"), i, i))
	}
	landed.open()
	n.done()
	slices.Sort(want)
	c.holds(strings.Join(want, "\n"))
}

// TestThrottled: the API server answers that it has too much to do, and when to
// come again. The ADDs come again then, and not before.
func TestThrottled(t *testing.T) {
	const adds, refusals = 8, 16
	c := newCluster(t)
	var mu sync.Mutex
	refused := 0
	came := map[string][]time.Time{} // by claim
	n := c.machine("n1")
	n.durations.Wait = requestWait
	n.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/spiderips") {
				return next.RoundTrip(r)
			}
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			claim, err := io.ReadAll(body)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			came[string(claim)] = append(came[string(claim)], time.Now())
			if refused == refusals {
				mu.Unlock()
				defer mu.Lock()
				return next.RoundTrip(r)
			}
			refused++
			return &http.Response{StatusCode: http.StatusTooManyRequests, Request: r, Proto: "HTTP/2.0", ProtoMajor: 2,
				Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
		})
	}
	n.start()
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.10-10.1.200.10"})
	answers := make([]*pending, adds)
	for i := range answers {
		name := fmt.Sprint("p", i)
		answers[i] = n.adding(c.pod(n, name, c.from("v4|")), name)
	}
	for _, a := range answers {
		a.ips(t)
	}
	total := 0
	for claim, times := range came {
		total += len(times)
		for i := range times[1:] {
			if gap := times[i+1].Sub(times[i]); gap < time.Second {
				t.Errorf("came again after %s, was told 1 s: %s", gap, claim)
			}
		}
	}
	if total != adds+refusals || len(came) != adds {
		t.Errorf("%d requests for %d claims, want %d for %d", total, len(came), adds+refusals, adds)
	}
}

// TestThrottledWithoutEnd: when the client has given up to ask again, the agent
// asks at growing intervals, and then fails.
func TestThrottledWithoutEnd(t *testing.T) {
	c := newCluster(t)
	var asked atomic.Int32
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims {
			asked.Add(1)
			return apierrors.NewTooManyRequests("too much to do", 1)
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error(), "too much to do")
	if n := asked.Load(); n < 2 || n > 5 { // after 0.1, 0.2, 0.4 and 0.8 s, a quarter less by chance
		t.Errorf("asked %d times within 1 s", n)
	}
	n.del(p, "c1") // a refused claim did not happen, there is nothing to wait for
	c.holds("")
}

// TestStatusAndGCWithoutPod: STATUS does not ask the API server, and neither
// STATUS nor GC needs a pod.
func TestStatusAndGCWithoutPod(t *testing.T) {
	c := newCluster(t)
	var away atomic.Bool
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if away.Load() {
			return errRefused
		}
		return send(ctx)
	}))
	call := func(req *wire.Request) error {
		ctx, cancel := context.WithTimeout(t.Context(), requestWait)
		defer cancel()
		_, err := wire.Call(ctx, n.socket, req)
		return err
	}
	away.Store(true)
	if err := call(&wire.Request{Verb: wire.VerbStatus}); err != nil {
		t.Errorf("STATUS while the API server is away: %v", err)
	}
	away.Store(false)
	if err := call(&wire.Request{Verb: wire.VerbGC, Network: "underlay"}); err != nil {
		t.Errorf("GC: %v", err)
	}
}

// namespace makes a network namespace that the test has for itself.
func namespace(t *testing.T, ifname string) string {
	path := newNetns(t, ifname)
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.RemoveAll(filepath.Dir(path))
	})
	return path
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
		known := n.agent.facts.CachedPod(t.Context(), client.ObjectKeyFromObject(busy), string(busy.UID))
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

// TestLostRelease: the answer to a release is lost, and before it is done again
// somebody else takes the address.
func TestLostRelease(t *testing.T) {
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	freed, lost := newGate(), atomic.Bool{}
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		err := send(ctx)
		if r.what == frees && lost.CompareAndSwap(false, true) {
			_ = freed.pass(ctx)
			return errNoReply
		}
		return err
	}))
	other := c.node("n2")
	p := c.pod(n, "p", c.from("v4|"))
	n.add(p, "p")
	n.deleted(p, "p")
	c.await("the address is released", freed.reached)
	other.add(c.pod(other, "q", c.from("v4|")), "q")
	freed.open()
	n.done()
	if want := "10.1.0.10 n2/q eth0 q"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// TestZombieAfterRetry: a claim is late, the same claim sent again wins, and the
// address is freed by DEL. Then the late one happens.
func TestZombieAfterRetry(t *testing.T) {
	c := newCluster(t)
	var late atomic.Pointer[v2beta1.SpiderIP]
	n := c.machine("n1")
	n.durations.Settle = requestWait
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims && late.CompareAndSwap(nil, r.object.DeepCopyObject().(*v2beta1.SpiderIP)) {
			return errNoReply
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	n.deleted(p, "web")
	c.holds("")
	c.create(late.Load())
	c.holds("")
}

// TestLostTakeOverThenAnother: it is not known whether a new sandbox was
// written, the ADD failed, and the next sandbox asks for another address.
func TestLostTakeOverThenAnother(t *testing.T) {
	c := newCluster(t)
	var away atomic.Bool
	n := c.machine("n1")
	n.durations.Wait = 300 * time.Millisecond
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if away.Load() {
			return errRefused
		}
		err := send(ctx)
		if r.what == takeOvers {
			away.Store(true)
			return errNoReply
		}
		return err
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	p := n.occupy("web", "v4|", asking("10.1.0.10"))
	n.endNetns("web")
	n.adding(p, "two").refused(t, wire.CodeTryAgain)
	away.Store(false)
	n.add(p, "three", asking("10.1.0.11"))
	n.del(p, "web")
	n.del(p, "two")
	c.holds("10.1.0.11 n1/web eth0 three")
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

// TestStopFinishesCalls: an agent that is to stop serves the ADDs that are under
// way; those that wait for an address are told to come again.
func TestStopFinishesCalls(t *testing.T) {
	c := newCluster(t)
	claim := newGate()
	n := c.machine("n1")
	n.durations.Stop, n.durations.Wait = requestWait, requestWait
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims && r.object.(*v2beta1.SpiderIP).Spec.Pod.Name == "web" {
			if err := claim.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	c.pool("full", "10.1.1.0/24", []string{"10.1.1.10"})
	n.occupy("first", "full|")
	line := n.lineUp(1, "full|")
	web := n.adding(c.pod(n, "web", c.from("v4|")), "web")
	c.await("the ADD claims", claim.reached)
	stopped := make(chan struct{})
	go func() {
		n.stop()
		close(stopped)
	}()
	line[0].refused(t, wire.CodeTryAgain, "stopping")
	claim.open()
	web.ips(t)
	c.await("the agent stopped", stopped)
	n.start()
	n.del(web.pod, "web")
	c.holds("10.1.1.10 n1/first eth0 first")
}

// TestLateReleaseOfAnAddressThatIsUsedAgain: a release is sent, its answer does
// not come, and the next ADD of the same container uses the address, which
// changes nothing in its entry. The release arrives after that.
func TestLateReleaseOfAnAddressThatIsUsedAgain(t *testing.T) {
	c := newCluster(t)
	arrived := make(chan struct{})
	var late sync.WaitGroup
	var once atomic.Bool
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what != frees || !once.CompareAndSwap(false, true) {
			return send(ctx)
		}
		late.Go(func() {
			<-arrived
			_ = send(context.Background())
		})
		return errNoReply
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	v6 := c.pool("v6", "fd01::/64", []string{"fd01::10"}, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	p := c.pod(n, "web", c.from("v4|v6"))
	n.adding(p, "web").refused(t, wire.CodeNoPool, "disabled")
	c.edit(v6, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(false) })
	var got []string
	c.eventually("the agent has heard of the edit", func() bool {
		reply, err := n.call(wire.VerbAdd, p, "web", "eth0")
		if err == nil {
			got = texts(reply)
		}
		return err == nil
	})
	close(arrived)
	late.Wait()
	if want := "10.1.0.10 n1/web eth0 web\nfd01::10 n1/web eth0 web"; c.held() != want {
		t.Errorf("told %v, held %q", got, c.held())
	}
	n.del(p, "web")
	c.holds("")
}

// TestNoteOfAContainerThatIsBack: a plugin that got no answer to its DEL notes
// it although the agent served it; the container ID is used again before the
// notes are read. What the ADD is answered stays.
func TestNoteOfAContainerThatIsBack(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Notes = 300 * time.Millisecond
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	n.del(p, "web")
	note := wire.Note{Network: "underlay", ContainerID: "web", Interface: "eth0", Netns: "/run/netns/web"}
	for range 3 {
		if err := wire.WriteNote(wire.NotesDir(n.socket), note); err != nil {
			t.Fatal(err)
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
		n.del(p, "web")
	}
}

// TestRefusedByTheFenceAndNotReleased: the fence refuses an address that was
// just claimed, and it cannot be released at once. The pod never had it, so the
// next ADD does not get it either.
func TestRefusedByTheFenceAndNotReleased(t *testing.T) {
	for _, why := range []string{"reserved", "disabled", "not for this pod"} {
		t.Run(why, func(t *testing.T) {
			c := newCluster(t)
			claimed := newGate()
			var stuck atomic.Bool
			stuck.Store(true)
			n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
				if r.what == frees && stuck.Load() {
					return errRefused
				}
				err := send(ctx)
				if r.what == claims && stuck.Load() {
					_ = claimed.pass(ctx)
				}
				return err
			}))
			v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
			p := c.pod(n, "web", c.from("v4|"))
			first := n.adding(p, "c1")
			c.await("the address is claimed", claimed.reached)
			switch why {
			case "reserved":
				o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: c.prefix}}
				o.Spec.IPs = []string{"10.1.0.10"}
				c.create(o)
				t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
				c.eventually("the agent has heard of it", func() bool { return !n.agent.facts.Reserved().IsEmpty() })
			case "disabled":
				c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
			default:
				c.edit(v4, func(p *v2beta1.SpiderIPPool) {
					p.Spec.PodAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "another"}}
				})
			}
			claimed.open()
			if <-first.done; first.err == nil {
				t.Fatalf("got %v", texts(first.reply))
			}
			stuck.Store(false)
			second := n.adding(p, "c2")
			if <-second.done; second.err == nil {
				t.Errorf("first %v; then the pod, which never had it, got %v", first.err, texts(second.reply))
			}
			_ = fmt.Sprint()
		})
	}
}

// TestDoubtAndReserved: a claim had no answer, its ADD failed, and then the
// address was reserved. The pod never had it.
func TestDoubtAndReserved(t *testing.T) {
	c := newCluster(t)
	var away, lost atomic.Bool
	n := c.machine("n1")
	n.durations.Wait = 300 * time.Millisecond
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if away.Load() {
			return errRefused
		}
		err := send(ctx)
		if r.what == claims && lost.CompareAndSwap(false, true) {
			away.Store(true)
			return errNoReply
		}
		return err
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error())
	o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: c.prefix}}
	o.Spec.IPs = []string{"10.1.0.10"}
	c.create(o)
	t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
	c.eventually("the agent has heard of it", func() bool { return !n.agent.facts.Reserved().IsEmpty() })
	away.Store(false)
	a := n.adding(p, "c2")
	if <-a.done; a.err == nil {
		t.Errorf("got %v, which was reserved before the pod had it", texts(a.reply))
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

// TestLateClaimOfTheOldSandbox: the claim of a pod's first sandbox had no answer.
// It happens while the ADD of the second one claims the same, only address.
func TestLateClaimOfTheOldSandbox(t *testing.T) {
	c := newCluster(t)
	z := &zombie{cluster: c}
	var land atomic.Bool
	n := c.machine("n1")
	n.durations.Wait = 300 * time.Millisecond
	n.durations.Settle = 2 * time.Second
	n.start(z.funcs(), between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims && land.CompareAndSwap(true, false) {
			z.land()
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	z.on.Store(true)
	n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error())
	z.on.Store(false)
	land.Store(true)
	n.agent.durations.Wait = 8 * time.Second
	w := n.adding(p, "c2")
	<-w.done
	t.Logf("took %s: %v; held %q", w.took, w.err, c.held())
	if w.err != nil {
		t.Errorf("refused after %s, and the address is the pod's own (%q): %v", w.took, c.held(), w.err)
	}
}

// TestLateTakeOverOfAnAgentThatIsGone: an agent wrote a new container into an entry, was killed after that container's DEL,
// and the write arrives when the next agent has looked at the ledger once. The container is dead all the same.
func TestLateTakeOverOfAnAgentThatIsGone(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	sent, late, second := newGate(), make(chan *v2beta1.SpiderIP, 1), newGate()
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what != takeOvers {
			return send(ctx)
		}
		late <- r.object.DeepCopyObject().(*v2beta1.SpiderIP)
		_ = sent.pass(ctx)
		return errNoReply
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("one", "v4|")
	n.endNetns("one")
	two := n.adding(p, "two")
	c.await("the new container is written", sent.reached)
	n.deleted(p, "two")
	<-two.done
	n.replace(secondLook(second))
	if err := c.Update(t.Context(), <-late); err != nil {
		t.Fatal(err)
	}
	second.open()
	n.done()
	c.holds("")
}

// TestReleaseWithoutAnswerThenTheSameAddress: an address that the fence refused
// is released, the answer does not come, and the same ADD wins the address once
// more, by another claim. What is left of the first is nobody's business.
func TestReleaseWithoutAnswerThenTheSameAddress(t *testing.T) {
	c := newCluster(t)
	var claimed, freed atomic.Bool
	var v4 *v2beta1.SpiderIPPool
	exclude := func(ips ...string) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = ips })
	}
	n := c.patient("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		err := send(ctx)
		switch {
		case r.what == claims && claimed.CompareAndSwap(false, true):
			exclude("10.1.0.10")
		case r.what == frees && freed.CompareAndSwap(false, true):
			exclude()
			return errNoReply
		}
		return err
	}))
	v4 = c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	if got := n.add(p, "web"); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v", got)
	}
	if want := "10.1.0.10 n1/web eth0 web"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
	n.del(p, "web")
	c.holds("")
}
