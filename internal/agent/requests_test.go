package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
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
		for _, known := range n.agent.Facts.Pools() {
			if known.Name == p.Name {
				return known.UID == want.UID && known.Addresses.Equal(want.Addresses)
			}
		}
		return false
	})
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

// tripper is a function as http.RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// namespace makes a network namespace that the test has for itself.
func namespace(t *testing.T, ifname string) string {
	path := newNetns(t, ifname)
	t.Cleanup(func() { removeNetns(path) })
	return path
}
