package agent

import (
	"context"
	"fmt"
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
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

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

// TestZombieTakeOver: the same of a write that gives the address of a container that is gone to the next one of its pod. It arrives
// late, or, since the entry is another by then, not at all; whatever happened to the pod in the meantime, the address ends with
// the container that was told it, or free.
func TestZombieTakeOver(t *testing.T) {
	const inPlace, elsewhere = "10.1.0.10 n1/web eth0 c3", "10.1.0.20 n1/web eth0 c3"
	moves := func(n *node, p4 *v2beta1.SpiderIPPool) {
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} })
		n.knows(p4)
	}
	for _, tt := range []struct {
		name string
		// before happens before the write lands, after when it has.
		before, after func(n *node, p *corev1.Pod, p4 *v2beta1.SpiderIPPool, second *gate)
		holds         string
	}{
		{"after the DEL", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.deleted(p, "c2") }, nil, ""},
		{"before the DEL", nil, func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.deleted(p, "c2") }, ""},
		{"after the pod was deleted", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) {
			n.remove(p)
			n.deleted(p, "c2")
			n.deleted(p, "c1")
		}, nil, ""},
		{"after the next container has the address", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) {
			n.deleted(p, "c2")
			n.add(p, "c3")
		}, nil, inPlace},
		{"before the next container has the address", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.deleted(p, "c2") },
			func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.add(p, "c3") }, inPlace},
		{"after the pod got another address", func(n *node, p *corev1.Pod, p4 *v2beta1.SpiderIPPool, _ *gate) {
			moves(n, p4)
			n.deleted(p, "c2")
			n.add(p, "c3")
		}, nil, elsewhere},
		{"the agent was replaced, after the DEL", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, second *gate) {
			n.deleted(p, "c2")
			n.replace(secondLook(second))
		}, nil, ""},
		{"the agent was replaced, before the DEL", func(n *node, _ *corev1.Pod, _ *v2beta1.SpiderIPPool, second *gate) { n.replace(secondLook(second)) },
			func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.deleted(p, "c2") }, ""},
		{"the agent was replaced, the next container has the address", func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, second *gate) {
			n.deleted(p, "c2")
			n.replace(secondLook(second))
			n.add(p, "c3")
		}, nil, inPlace},
		{"the agent was replaced, the pod has another address", func(n *node, p *corev1.Pod, p4 *v2beta1.SpiderIPPool, second *gate) {
			moves(n, p4)
			n.deleted(p, "c2")
			n.replace(secondLook(second))
			n.add(p, "c3")
		}, nil, elsewhere},
		{"the agent was replaced, the pod gets another address", func(n *node, p *corev1.Pod, p4 *v2beta1.SpiderIPPool, second *gate) {
			moves(n, p4)
			n.deleted(p, "c2")
			n.replace(secondLook(second))
		}, func(n *node, p *corev1.Pod, _ *v2beta1.SpiderIPPool, _ *gate) { n.add(p, "c3") }, elsewhere},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			var on atomic.Bool
			late := make(chan *v2beta1.SpiderIP, 100)
			n := c.machine("n1")
			n.durations.Settle, n.durations.Wait, n.durations.Look = 4*time.Second, 300*time.Millisecond, 300*time.Millisecond
			n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
				if r.what != takeOvers || !on.Load() {
					return send(ctx)
				}
				late <- r.object.DeepCopyObject().(*v2beta1.SpiderIP)
				return errNoReply
			}))
			p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
			p := c.pod(n, "web", c.from("v4|"))
			n.add(p, "c1")
			n.endNetns("c1")
			on.Store(true)
			n.adding(p, "c2").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error())
			on.Store(false)
			second := newGate()
			if tt.before != nil {
				tt.before(n, p, p4, second)
			}
			err := n.live.Update(t.Context(), <-late)
			t.Logf("the late write: %v", err)
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if tt.after != nil {
				tt.after(n, p, p4, second)
			}
			second.open()
			if tt.holds == "" {
				n.endNetns("c2")
			}
			n.done()
			n.holds(tt.holds)
		})
	}
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
				c.eventually("the agent has heard of it", func() bool { return !n.agent.Facts.Reserved().IsEmpty() })
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
	c.eventually("the agent has heard of it", func() bool { return !n.agent.Facts.Reserved().IsEmpty() })
	away.Store(false)
	a := n.adding(p, "c2")
	if <-a.done; a.err == nil {
		t.Errorf("got %v, which was reserved before the pod had it", texts(a.reply))
	}
}

// TestSameAddressOfAnotherPool: an address that the fence refused for one pool is released without an answer, and the next pool
// has the same address. The entry of the first is not taken for one of the second: what the fence says of the first pool says
// nothing of the second.
func TestSameAddressOfAnotherPool(t *testing.T) {
	c := newCluster(t)
	var claimed, lost atomic.Bool
	var a *v2beta1.SpiderIPPool
	n := c.machine("n1")
	n.durations.Wait = requestWait
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == frees && lost.CompareAndSwap(false, true) {
			return errNoReply // and nothing was done
		}
		err := send(ctx)
		if r.what == claims && claimed.CompareAndSwap(false, true) {
			if err := c.Delete(context.Background(), a); err != nil {
				t.Error(err)
			}
		}
		return err
	}))
	a = c.pool("a", "10.1.0.0/24", []string{"10.1.0.10"})
	n.knows(a)
	n.knows(c.pool("b", "10.1.0.0/24", []string{"10.1.0.10"}))
	reply, err := n.call(wire.VerbAdd, c.pod(n, "web", c.from("a,b|")), "web", "eth0")
	if err != nil || reply.IPs[0].Pool != c.prefix+"-b" {
		t.Errorf("%+v, %v", reply, err)
	}
	c.holds("10.1.0.10 n1/web eth0 web")
}
