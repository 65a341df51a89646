package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestRequests: what one change costs.
func TestRequests(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.pool("b", "10.6.1.10-10.6.1.19")
	held := c.claim("a", "10.6.0.10")
	l := c.lead()
	c.status("a", inUse(1, 10))
	c.status("b", unused(10))
	const (
		list  = "GET spiderips?spec.pool=a"
		put   = "PUT spiderippools/a/status"
		patch = "PATCH spiderippools/a"
	)
	l.quiet()
	l.requests.take()
	var r *v2beta1.SpiderReservedIP
	for _, tc := range []struct {
		name string
		do   func()
		want []string
	}{
		{"nothing", func() {}, nil},
		{"an address is held", func() { c.claim("a", "10.6.0.11"); c.status("a", inUse(2, 10)) }, []string{put}},
		{"an address is free", func() { c.release(held); c.status("a", inUse(1, 10)) }, []string{put}},
		{"an edit", func() {
			c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.6.0.10-10.6.0.29"} })
			c.status("a", inUse(1, 20))
		}, []string{list, put}},
		{"a label", func() {
			c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Labels["x"] = "y" })
		}, nil},
		{"a status edited by hand", func() {
			c.editStatus("a", func(s *v2beta1.IPPoolStatus) { *s.AllocatedIPCount = 99; s.ObservedGeneration = 0; s.Conditions = nil })
			c.status("a", inUse(1, 20))
		}, []string{put}},
		{"a reservation", func() {
			r = c.reserve("r", "10.6.0.1-10.6.0.12")
			c.eventually("reserved", func() bool {
				p := c.status("a", inUse(1, 20))
				return p.Status.ObservedReserved == "10.6.0.10-10.6.0.12"
			})
		}, []string{patch, list, put}},
		{"a reservation that cuts no pool", func() { c.reserve("none", "10.7.0.1") }, nil},
		{"a reservation edited where no pool is", func() {
			r.Spec.IPs = append(r.Spec.IPs, "10.9.0.1")
			if err := c.Update(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		tc.do()
		l.quiet()
		if diff := cmp.Diff(tc.want, l.requests.take()); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// TestNewLeader: a leader asks nothing about pools whose status is right, and does
// not believe its watch about one whose status is wrong.
func TestNewLeader(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.pool("b", "10.6.1.10-10.6.1.19")
	l := c.lead()
	c.status("a", unused(10))
	c.status("b", unused(10))
	l.stop()
	c.claim("a", "10.6.0.10")
	l = c.lead()
	c.status("a", inUse(1, 10))
	l.quiet()
	var got []string
	for _, line := range l.requests.take() {
		if strings.Contains(line, "?") || !strings.HasPrefix(line, "GET") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff([]string{"GET spiderips?spec.pool=a", "PUT spiderippools/a/status"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestStorm: counts are right after many claims and releases by a real ledger, and
// they cost at most one write per second.
func TestStorm(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.0-10.6.3.255")
	l := c.lead()
	c.status("a", unused(1023))
	l.requests.take()
	start := time.Now()
	var group sync.WaitGroup
	const each, workers = 40, 8
	for w := range workers {
		group.Go(func() {
			for i := range each {
				e := entryIn("a", nth(1+w*each+i))
				if err := c.ledger.Claim(t.Context(), e); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := c.ledger.Release(t.Context(), e); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	p := c.status("a", inUse(each*workers/2, 1023))
	if p.Status.AllocatedIPs != nil {
		t.Error("allocatedIPs is there")
	}
	if n, most := len(l.requests.take()), int(time.Since(start)/time.Second)+1; n > most {
		t.Errorf("%d requests, at most %d status writes are due", n, most)
	}
	var list v2beta1.SpiderIPList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items[100:] {
		c.release(&list.Items[100+i])
	}
	if p := c.status("a", inUse(100, 1023)); p.Status.AllocatedIPs == nil {
		t.Error("allocatedIPs is missing")
	}
}

// agent claims addresses as agents do, until ctx ends: it holds one only if the
// pool, read after the claim, has it.
type agents struct {
	c    *cluster
	pool string
	mu   sync.Mutex
	held map[netip.Addr]bool
}

func (a *agents) run(ctx context.Context, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	var mine []*v2beta1.SpiderIP
	for ctx.Err() == nil {
		if len(mine) > 10 || len(mine) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(mine))
			a.mu.Lock()
			delete(a.held, netip.MustParseAddr(mine[i].Spec.Address))
			a.mu.Unlock()
			if err := a.c.ledger.Release(context.Background(), mine[i]); err != nil {
				a.c.t.Error(err)
			}
			mine = append(mine[:i], mine[i+1:]...)
			continue
		}
		e := entryIn(a.pool, nth(1+r.IntN(60)))
		switch err := a.c.ledger.Claim(context.Background(), e); {
		case errors.Is(err, ledger.ErrTaken):
			continue
		case err != nil:
			a.c.t.Error(err)
			return
		}
		fence := &v2beta1.SpiderIPPool{}
		if err := a.c.Get(context.Background(), client.ObjectKey{Name: a.pool}, fence); err != nil {
			a.c.t.Error(err)
			return
		}
		address := netip.MustParseAddr(e.Spec.Address)
		if has, _ := pool.AddressesOf(fence); !has.Contains(address) {
			if err := a.c.ledger.Release(context.Background(), e); err != nil {
				a.c.t.Error(err)
			}
			continue
		}
		a.mu.Lock()
		a.held[address] = true
		a.mu.Unlock()
		mine = append(mine, e)
	}
}

// check looks whether all that is held is in a pool or drains.
func (a *agents) check(p *v2beta1.SpiderIPPool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	has, _ := pool.AddressesOf(p)
	draining, err := addr.ParseSet(p.Status.Draining)
	if err != nil {
		a.c.t.Error(err)
	}
	for address := range a.held {
		if !has.Contains(address) && !draining.Contains(address) {
			a.c.t.Errorf("%s is held outside %v and does not drain, %v, in generation %d", address, p.Spec.IPs, p.Status.Draining, p.Generation)
		}
	}
}

// TestEditsAndClaims: from the moment at which the status is of the present
// generation, as the API server's watch shows it, nobody holds an address outside
// the pool save those that it calls draining. The same with two that lead at once,
// one of which no longer hears of the ledger.
func TestEditsAndClaims(t *testing.T) {
	for _, leaders := range []int{1, 2} {
		t.Run(fmt.Sprint(leaders, " leaders"), func(t *testing.T) {
			c := newCluster(t)
			c.pool("a", "10.6.0.1-10.6.0.60")
			var old *leader
			if leaders == 2 {
				deaf := apiserver.NewValve(t, "spiderips")
				old = c.lead(deaf.Wrap)
				c.status("a", unused(60))
				deaf.Shut()
			}
			c.lead()
			ctx, cancel := context.WithCancel(t.Context())
			a := &agents{c: c, pool: "a", held: map[netip.Addr]bool{}}
			var group sync.WaitGroup
			for i := range uint64(4) {
				group.Go(func() { a.run(ctx, i) })
			}
			w, err := c.Watch(t.Context(), &v2beta1.SpiderIPPoolList{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			drained := 0
			for i, ips := range []string{"10.6.0.1-10.6.0.20", "10.6.0.21-10.6.0.60", "10.6.0.1-10.6.0.5", "10.6.0.1-10.6.0.60", "10.6.0.30"} {
				edited := c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{ips} })
				for looks := 0; looks < 2+i%2; {
					p := next(t, w)
					if p.Generation == edited.Generation && observed(p) {
						a.check(p)
						looks++
						drained += len(p.Status.Draining)
					}
				}
			}
			cancel()
			group.Wait()
			if drained == 0 {
				t.Error("nothing drained: the test shows nothing")
			}
			if old != nil {
				old.stop()
			}
			var list v2beta1.SpiderIPList
			if err := c.List(t.Context(), &list); err != nil {
				t.Fatal(err)
			}
			c.eventually("the count is right", func() bool {
				p := &v2beta1.SpiderIPPool{}
				c.get("a", p)
				return *p.Status.AllocatedIPCount == int64(len(list.Items))
			})
		})
	}
}

// TestDeafLeader: a leader whose watch of the ledger hangs judges an edit by what
// is held; and when it hears late of an edit that another has judged, it does not
// put its own view in the place of that.
func TestDeafLeader(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	ofHeld, ofPools := apiserver.NewValve(t, "spiderips"), apiserver.NewValve(t, "spiderippools")
	deaf := c.lead(ofHeld.Wrap, ofPools.Wrap)
	c.status("a", unused(10))
	ofHeld.Shut()
	without := func(n int) {
		c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = append(p.Spec.ExcludeIPs, nth(10+n)) })
	}
	const draining = " Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec"
	c.claim("a", "10.6.0.10")
	without(0)
	c.status("a", "1 of 9, draining 1 [10.6.0.10]"+draining)

	ofPools.Shut()
	c.lead()
	c.claim("a", "10.6.0.11")
	without(1)
	judged := c.status("a", "2 of 8, draining 2 [10.6.0.10-10.6.0.11]"+draining)
	deaf.quiet()
	deaf.requests.take()
	ofPools.Open()
	c.eventually("it has heard of the edit", func() bool { return deaf.count() > 0 })
	deaf.quiet()
	// It may have seen the pool before it was judged, and lost to the other.
	if got := deaf.requests.take(); got[0] != "GET spiderips?spec.pool=a" {
		t.Errorf("requests %q", got)
	}
	now := &v2beta1.SpiderIPPool{}
	if c.get("a", now); now.ResourceVersion != judged.ResourceVersion {
		t.Errorf("it has written %s", summary(now.Status))
	}
}

// next is the next version of a pool that a watch brings.
func next(t *testing.T, w watch.Interface) *v2beta1.SpiderIPPool {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if p, is := e.Object.(*v2beta1.SpiderIPPool); ok && is {
			return p
		}
		t.Fatalf("the watch brought %v", e)
	case <-time.After(wait):
		t.Fatal("the watch brought nothing")
	}
	return nil
}

// TestConflict: a pool that is edited between LIST and write is judged again.
func TestConflict(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	var once sync.Once
	c.lead(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/status") {
				once.Do(func() {
					c.claim("a", "10.6.0.19")
					c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.6.0.10-10.6.0.18"} })
				})
			}
			return next.RoundTrip(r)
		})
	})
	c.status("a", "1 of 9, draining 1 [10.6.0.19] Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec")
}

// TestWebhookAway: what the metadata cannot have because the webhook is away does
// not keep the status of any pool from being true, is tried seldom, and is made up for.
func TestWebhookAway(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.pool("b", "10.6.1.10-10.6.1.19")
	c.reserve("r", "10.6.0.10", "10.6.1.10")
	var back atomic.Bool
	var tries atomic.Int32
	c.lead(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if !back.Load() && r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/spiderippools/") {
				tries.Add(1)
				return nil, errors.New("failed calling webhook")
			}
			return next.RoundTrip(r)
		})
	})
	for i := range 4 {
		for _, p := range []string{c.status("a", inUse(i, 10)).Status.ObservedReserved, c.status("b", inUse(i, 10)).Status.ObservedReserved} {
			if p != "" {
				t.Error("it is reserved though nothing could be written")
			}
		}
		c.claim("a", nth(11+i))
		c.claim("b", nth(256+11+i))
	}
	if n := tries.Load(); n > 3 {
		t.Errorf("%d tries", n)
	}
	back.Store(true)
	c.eventually("it is reserved", func() bool {
		return c.status("a", inUse(4, 10)).Status.ObservedReserved == "10.6.0.10" && c.status("b", inUse(4, 10)).Status.ObservedReserved == "10.6.1.10"
	})
}

// TestMalformed: a pool that the API server stored though it is malformed says
// what is wrong, keeps the counts it can, and is forgiven.
func TestMalformed(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19", "10.6.0.12")
	c.claim("a", "10.6.0.11")
	l := c.lead()
	c.status("a", "1 of ?, draining ? [] Ready=False/InvalidSpec Draining=False/NothingDrains Malformed=True/InvalidSpec")
	if e := <-l.events.Events; !strings.Contains(e, "Warning Malformed it serves nobody: spec.ips: [1]") {
		t.Errorf("event %q", e)
	}
	if got := l.value(t, "spiderpool_pool_malformed", "pool", "a"); got != 1 {
		t.Errorf("malformed is %v", got)
	}
	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = p.Spec.IPs[:1] })
	c.status("a", inUse(1, 10))
	if got := l.value(t, "spiderpool_pool_malformed", "pool", "a"); got != 0 {
		t.Errorf("malformed is %v", got)
	}
}
