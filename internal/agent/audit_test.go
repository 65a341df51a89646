package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// counted waits until a counter of the agent has a value.
func (n *node) counted(name, value string) {
	n.t.Helper()
	n.eventually(name+" is "+value, func() bool { return strings.Contains(n.exposition(), "\n"+name+" "+value+"\n") })
}

// TestSilentWithoutDel: the network namespace of a container goes and no DEL comes. Its address is free when the agent has
// found that twice; one whose namespace is there is not touched, whatever became of its pod.
func TestSilentWithoutDel(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Look = 200 * time.Millisecond
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	goes, stays := n.occupy("goes", "v4|", asking("10.1.0.10")), n.occupy("stays", "v4|", asking("10.1.0.11"))
	for _, p := range []*corev1.Pod{goes, stays} {
		if err := c.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	n.endNetns("goes")
	c.holds("10.1.0.11 n1/stays eth0 stays")
	n.counted("spiderpool_ipam_audit_released_counts", "1")
	n.del(stays, "stays")
	c.holds("")
}

// TestSilentAfterRestart: what a node holds whose runtime state is gone is free soon after its agent starts; what lives stays.
func TestSilentAfterRestart(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Look = 200 * time.Millisecond
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	n.occupy("goes", "v4|", asking("10.1.0.10"))
	n.occupy("stays", "v4|", asking("10.1.0.11"))
	n.stop()
	n.endNetns("goes")
	n.start()
	c.holds("10.1.0.11 n1/stays eth0 stays")
}

// TestTwoLivingSandboxes: a pod has two sandboxes that both live, as after a runtime lost its state. Each bears an address of
// its own; the DEL of the second, or of one that was never served, frees nothing of the first.
func TestTwoLivingSandboxes(t *testing.T) {
	for _, namespace := range []string{"its own", "none"} {
		t.Run("DEL names "+namespace, func(t *testing.T) {
			c := newCluster(t)
			n := c.node("n1")
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
			p := n.occupy("web", "v4|", asking("10.1.0.10"))
			if got := n.add(p, "second"); got[0] != "10.1.0.11/24" {
				t.Errorf("the second sandbox got %v", got)
			}
			c.holds("10.1.0.10 n1/web eth0 web\n10.1.0.11 n1/web eth0 second")
			for _, container := range []string{"second", "third"} {
				n.deleted(p, container, func(r *wire.Request) {
					if namespace == "none" {
						r.Netns = ""
					}
				})
				n.done()
			}
			c.holds("10.1.0.10 n1/web eth0 web")
			if _, err := n.call(wire.VerbCheck, p, "web", "eth0", holding("10.1.0.10")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestVanishedEntry: the SpiderIP of a living container is gone, by hand or because etcd was put back. It is made again before
// the same call is answered once more, before the next ADD if a watch had to begin anew, and else by the audit.
func TestVanishedEntry(t *testing.T) {
	for _, before := range []string{"the same ADD", "the next ADD", "nothing"} {
		t.Run("before "+before, func(t *testing.T) {
			c := newCluster(t)
			n := c.machine("n1")
			watches := &watches{}
			n.transport = watches.transport
			if before == "nothing" {
				n.durations.Look, n.durations.List = 100*time.Millisecond, 0
			}
			n.start()
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
			p := n.occupy("web", "v4|")
			entry := &v2beta1.SpiderIP{}
			if err := c.Get(t.Context(), client.ObjectKey{Name: "10.1.0.10"}, entry); err != nil {
				t.Fatal(err)
			}
			if err := apiserver.DeleteSpiderIP(t.Context(), c, entry); err != nil {
				t.Fatal(err)
			}
			switch before {
			case "the same ADD":
				n.add(p, "web")
			case "the next ADD":
				epoch := n.agent.Facts.Epoch()
				watches.end()
				c.eventually("a watch began anew", func() bool { return n.agent.Facts.Epoch() != epoch })
				other := n.adding(c.pod(n, "other", c.from("v4|")), "other")
				other.refused(t, wire.CodeTryAgain, "0 free of 1")
			}
			c.holds("10.1.0.10 n1/web eth0 web")
			n.counted("spiderpool_ipam_audit_recreated_counts", "1")
			n.del(p, "web")
			c.holds("")
		})
	}
}

// watches are those of an agent. They end like those of an API server that cannot go on where they were.
type watches struct {
	mu     sync.Mutex
	bodies []io.Closer
	expire int // so many of the next are answered that their version is too old
}

func (w *watches) transport(next http.RoundTripper) http.RoundTripper {
	return tripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("watch") == "" {
			return next.RoundTrip(r)
		}
		w.mu.Lock()
		expired := w.expire > 0
		w.expire = max(0, w.expire-1)
		w.mu.Unlock()
		if expired {
			return &http.Response{StatusCode: http.StatusGone, Request: r, Proto: "HTTP/2.0", ProtoMajor: 2, Body: http.NoBody, Header: http.Header{}}, nil
		}
		answer, err := next.RoundTrip(r)
		if err == nil {
			w.mu.Lock()
			w.bodies = append(w.bodies, answer.Body)
			w.mu.Unlock()
		}
		return answer, err
	})
}

func (w *watches) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire = len(w.bodies)
	for _, body := range w.bodies {
		_ = body.Close()
	}
}

// TestContradiction: the SpiderIP of a living container is gone and another pod has the address by now. That is told of, once,
// and nothing is overwritten.
func TestContradiction(t *testing.T) {
	c := newCluster(t)
	n, other := c.machine("n1"), c.node("n2")
	n.durations.Look, n.durations.List = 100*time.Millisecond, 0
	n.start()
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	entry := &v2beta1.SpiderIP{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "10.1.0.10"}, entry); err != nil {
		t.Fatal(err)
	}
	now := entry.DeepCopy()
	now.ResourceVersion, now.UID = "", ""
	now.Spec.Node, now.Spec.ContainerID, now.Spec.Pod.Name = other.name, "thief", "thief"
	now.Spec.Pod.UID = "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"
	if err := errors.Join(apiserver.DeleteSpiderIP(t.Context(), c, entry), c.Create(t.Context(), now)); err != nil {
		t.Fatal(err)
	}
	n.counted("spiderpool_ipam_audit_contradiction_counts", "1")
	told := func() string {
		for {
			select {
			case e := <-n.agent.Events.(*record.FakeRecorder).Events:
				if strings.Contains(e, "IPAddressContradiction") {
					return e
				}
			case <-time.After(requestWait):
				return "nothing"
			}
		}
	}()
	if !strings.Contains(told, "10.1.0.10") || !strings.Contains(told, "/thief on node "+other.name) {
		t.Errorf("the Event says %s", told)
	}
	for range 2 { // the address is another's, whoever asks again
		n.adding(p, "web").refused(t, wire.CodeTryAgain, "0 free of 1")
	}
	n.del(p, "web")
	if want := "10.1.0.10 n2/thief eth0 thief"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// holding is what the previous result of a CHECK names.
func holding(texts ...string) func(*wire.Request) {
	return func(r *wire.Request) {
		for _, text := range texts {
			r.Held = append(r.Held, netip.MustParseAddr(text))
		}
	}
}

// TestStarting: while the API server is away an agent has its socket, takes DELs, answers ADD "try again" and STATUS 50, and
// serves when the API server is back.
func TestStarting(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	n.stop()
	var away atomic.Bool
	away.Store(true)
	n.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if away.Load() {
				return nil, errRefused
			}
			return next.RoundTrip(r)
		})
	}
	n.launch()
	late := c.pod(n, "late", c.from("v4|"))
	c.eventually("the socket is there", func() bool {
		_, err := n.call(wire.VerbAdd, late, "late", "eth0")
		return !errors.Is(err, wire.ErrNoAgent)
	})
	n.adding(late, "late").refused(t, wire.CodeTryAgain, "starting")
	n.deleted(p, "web")
	var refused *wire.Error
	if _, err := n.call(wire.VerbStatus, p, "", ""); !errors.As(err, &refused) || refused.Code != wire.CodeNotReady {
		t.Errorf("STATUS: %v", err)
	}
	if why := n.agent.problem(); !strings.Contains(why, "starting") || !strings.Contains(why, "spiderippools") {
		t.Errorf("not ready because %q", why)
	}
	if !strings.Contains(n.exposition(), "\nspiderpool_agent_ready 0\n") {
		t.Error("the metrics do not say that it is not ready")
	}
	away.Store(false)
	n.eventually("the agent is ready", n.agent.Ready)
	if got := n.add(late, "late"); got[0] != "10.1.0.10/24" {
		t.Errorf("got %v", got)
	}
	n.done()
	if why := n.agent.problem(); why != "" {
		t.Errorf("not ready because %q", why)
	}
}

// TestStatusWithoutRights: STATUS fails when all that the agent asks is refused for as long as an ADD waits, and not before.
func TestStatusWithoutRights(t *testing.T) {
	h := &apiHealth{}
	began := time.Now()
	forbidden := apierrors.NewForbidden(v2beta1.GroupVersion.WithResource("spiderips").GroupResource(), "x", errors.New("no"))
	for _, tc := range []struct {
		after   time.Duration
		err     error
		trouble bool
		failing time.Duration // by the metric
	}{
		{0, nil, false, 0}, {time.Second, forbidden, false, 0}, {30 * time.Second, errRefused, false, 29 * time.Second},
		{47 * time.Second, forbidden, true, 46 * time.Second}, {48 * time.Second, errConfig, true, 47 * time.Second}, {49 * time.Second, nil, false, 0},
		{50 * time.Second, errRefused, false, 0}, {80 * time.Second, context.DeadlineExceeded, false, 30 * time.Second},
		{96 * time.Second, errNoReply, true, 46 * time.Second},
	} {
		now := began.Add(tc.after)
		h.observe(now, tc.err)
		if err := h.trouble(now, 45*time.Second); (err != nil) != tc.trouble {
			t.Errorf("after %s and %v: %v", tc.after, tc.err, err)
		}
		if got := h.failing(now); got != tc.failing {
			t.Errorf("after %s and %v it is failing for %s, want %s", tc.after, tc.err, got, tc.failing)
		}
	}
}

// TestRolesLoadLate: for some seconds after its restart an API server refuses what it will allow.
func TestRolesLoadLate(t *testing.T) {
	c := newCluster(t)
	var refusals atomic.Int32
	n := c.patient("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims && refusals.Add(1) <= 3 {
			return apierrors.NewForbidden(v2beta1.GroupVersion.WithResource("spiderips").GroupResource(), "",
				errors.New(`RBAC: clusterrole.rbac.authorization.k8s.io "spiderpool-agent" not found`))
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.occupy("web", "v4|")
}

// TestPodOfAnotherNode: the right UID on the wrong node gets nothing, and its endpoint is left alone.
func TestPodOfAnotherNode(t *testing.T) {
	c := newCluster(t)
	n, wrong := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	p := n.occupy("web", "v4|", asking("10.1.0.10"))
	e := c.endpoint(p, "10.1.0.10/24")
	wrong.adding(p, "c").refused(t, wire.CodeEnvironment, n.name, wrong.name)
	wrong.del(p, "c")
	if want := "10.1.0.10 n1/web eth0 web"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
	if again := c.endpoint(p, "10.1.0.10/24"); again.ResourceVersion != e.ResourceVersion {
		t.Error("the endpoint was written")
	}
}

// TestNeverAnsweredBeforeRestart: an agent was killed between claim and answer. The pod never had the address, so after the
// restart all rules of the pool count.
func TestNeverAnsweredBeforeRestart(t *testing.T) {
	c := newCluster(t)
	claimed := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		switch r.what {
		case fences:
			claimed.arrive()
			<-ctx.Done()
			return ctx.Err()
		case frees: // a process that is killed puts nothing back
			return errRefused
		}
		return send(ctx)
	}))
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.knows(v4)
	p := c.pod(n, "web", c.from("v4|"))
	first := n.adding(p, "c1")
	c.await("the address is claimed", claimed.reached)
	n.stop()
	<-first.done
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	n.start()
	c.holds("10.1.0.10 n1/web eth0 c1")
	n.adding(p, "c1").refused(t, wire.CodeNoPool, "disabled")
	n.endNetns("c1")
	n.adding(p, "c2").refused(t, wire.CodeNoPool, "disabled")
	c.holds("")
}

// TestEndpointAfterFailedTakeOver: a new container took the address of the old one over, and its pool does not give it any
// more. The endpoint does not show what nobody holds.
func TestEndpointAfterFailedTakeOver(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	e := c.endpoint(p, "10.1.0.10/24")
	n.endNetns("web")
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs, p.Spec.Disable = []string{"10.1.0.20"}, ptr(true) })
	n.adding(p, "next").refused(t, wire.CodeNoPool, "disabled")
	c.holds("")
	c.eventually("the endpoint shows no address", func() bool {
		return c.Get(t.Context(), client.ObjectKeyFromObject(p), e) == nil && len(e.Status.Current.IPs) == 0
	})
}

// TestSecondDelWhoseReleaseFails: a DEL comes while that of the same container is carried out, and what is left to do for it
// fails at first. It is not forgotten: the container's next ADD is let in.
func TestSecondDelWhoseReleaseFails(t *testing.T) {
	c := newCluster(t)
	freed := newGate()
	t.Cleanup(freed.open)
	var trouble atomic.Bool
	n := c.machine("n1")
	n.durations.Notes, n.durations.Wait = 50*time.Millisecond, 300*time.Millisecond
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		switch {
		case r.what == claims && r.object.(*v2beta1.SpiderIP).Spec.ContainerID == "other":
			return errNoReply
		case r.what == frees && freed.pass(ctx) == nil:
			trouble.Store(true)
		case r.what == "get SpiderIP" && trouble.CompareAndSwap(true, false):
			return errRefused
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.19"})
	p := n.occupy("web", "v4|", asking("10.1.0.10"))
	n.adding(p, "other").refused(t, wire.CodeTryAgain) // its claim is in doubt, so a release of the interface reads
	n.deleted(p, "web")
	c.await("the address is released", freed.reached)
	n.deleted(p, "web")
	freed.open()
	n.done()
	n.add(p, "web")
}

// TestEndpointOfTwoSandboxes: when the second of two living sandboxes goes, the endpoint shows what the first has.
func TestEndpointOfTwoSandboxes(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	p := n.occupy("web", "v4|", asking("10.1.0.10"))
	c.endpoint(p, "10.1.0.10/24")
	n.add(p, "second")
	c.endpoint(p, "10.1.0.11/24")
	n.del(p, "second")
	c.endpoint(p, "10.1.0.10/24")
}
