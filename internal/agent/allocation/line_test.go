package allocation

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

func set(t testing.TB, texts ...string) addr.Set {
	t.Helper()
	s, err := addr.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wants(t testing.TB, pool string, texts ...string) map[string]*Full {
	return map[string]*Full{pool: {Candidates: set(t, texts...)}}
}

// ask is the ADD of a pod that came after a time.
func ask(pod string, after time.Duration) *Request {
	return &Request{UID: pod, Came: time.Unix(0, 0).Add(after)}
}

func of(pool, address string) offer { return offer{pool, netip.MustParseAddr(address)} }

// isWoken takes the token of a waiter, if it has one.
func isWoken(w *waiter) bool {
	select {
	case <-w.woken:
		return true
	default:
		return false
	}
}

// TestLine: the oldest ADD that can use an address is woken for it, whatever the order in which they joined.
func TestLine(t *testing.T) {
	l := &line{}
	waiters := map[string]*waiter{}
	for _, r := range []struct {
		pod   string
		came  time.Duration
		wants map[string]*Full
	}{
		{"third", 3, wants(t, "v4", "10.1.0.1-10.1.0.9")},
		{"first", 1, wants(t, "v4", "10.1.0.1-10.1.0.5")},
		{"second", 2, wants(t, "v6", "fd01::1")},
		{"fourth", 3, wants(t, "v4", "10.1.0.1-10.1.0.9")},
	} {
		waiters[r.pod] = l.join(ask(r.pod, r.came), r.wants)
	}
	for _, tc := range []struct {
		offer offer
		from  string
		want  string
	}{
		{of("v4", "10.1.0.10"), "", ""},
		{of("other", "10.1.0.1"), "", ""},
		{of("v6", "fd01::1"), "", "second"},
		{of("v4", "10.1.0.1"), "", "first"},
		{of("v4", "10.1.0.2"), "", "first"},
		{of("v4", "10.1.0.9"), "", "third"},
		{of("v4", "10.1.0.3"), "first", "third"}, // an interface that gives an address up does not want it
		{of("v4", "10.1.0.9"), "third", "fourth"},
		{of("v6", "fd01::1"), "second", ""},
	} {
		if got := l.wake(tc.offer, lease.Owner{PodUID: tc.from}); got != (tc.want != "") {
			t.Errorf("%v: somebody wants it: %t", tc.offer, got)
		}
		for pod, w := range waiters {
			if got := isWoken(w); got != (pod == tc.want) {
				t.Errorf("%v: %s is woken: %t, want %q", tc.offer, pod, got, tc.want)
			}
		}
	}
}

// TestLineOffers: what was offered is taken, or comes back when the ADD leaves; one that wants other addresses now still has
// what it was offered.
func TestLineOffers(t *testing.T) {
	l := &line{}
	w := l.join(ask("a", 1), wants(t, "v4", "10.1.0.1-10.1.0.9"))
	for _, o := range []offer{of("v4", "10.1.0.1"), of("v4", "10.1.0.2"), of("v4", "10.1.0.3")} {
		if !l.wake(o, lease.Owner{}) {
			t.Errorf("nobody wants %v", o)
		}
	}
	if !isWoken(w) || isWoken(w) {
		t.Error("not one token for three offers")
	}
	l.want(w, wants(t, "v6", "fd01::1"))
	if !l.wake(of("v6", "fd01::1"), lease.Owner{}) || l.wake(of("v4", "10.1.0.4"), lease.Owner{}) {
		t.Error("it is not the last wish that counts")
	}
	if a, ok := l.take(w, "v4"); !ok || a != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("took %s, %t", a, ok)
	}
	if _, ok := l.take(w, "other"); ok || l.offered(w, "other") || !l.offered(w, "v4") || !l.offered(w, "v6") {
		t.Error("an offer of another pool")
	}
	if left := l.leave(w); len(left) != 3 || l.length() != 0 {
		t.Errorf("left behind %v, %d in line", left, l.length())
	}
	if left := l.leave(w); len(left) != 0 || l.wake(of("v6", "fd01::1"), lease.Owner{}) {
		t.Errorf("one that is gone left %v, or is woken", left)
	}
}

// TestLineRace: every offer is taken by one ADD, returned by its leave, or was wanted by nobody; none is lost and none is
// there twice.
func TestLineRace(t *testing.T) {
	const adds, offers = 300, 600
	l := &line{}
	all := set(t, "10.1.0.0-10.1.3.255")
	first := netip.MustParseAddr("10.1.0.0")
	seen := make([]atomic.Int32, offers)
	settle := func(a netip.Addr) {
		b := a.As4()
		seen[int(b[2])<<8|int(b[3])].Add(1)
	}
	var group sync.WaitGroup
	for n := range adds {
		group.Go(func() {
			w := l.join(ask("p", time.Duration(n)), map[string]*Full{"v4": {Candidates: all}})
			for range rand.N(50) {
				if isWoken(w) && rand.N(2) == 0 {
					if a, ok := l.take(w, "v4"); ok {
						settle(a)
					}
				}
			}
			for _, o := range l.leave(w) {
				settle(o.address)
			}
		})
	}
	a := first
	for range offers {
		o := offer{"v4", a}
		a = a.Next()
		group.Go(func() {
			if !l.wake(o, lease.Owner{}) {
				settle(o.address)
			}
		})
	}
	group.Wait()
	for n := range seen {
		if got := seen[n].Load(); got != 1 {
			t.Errorf("offer %d ended %d times", n, got)
		}
	}
	if l.length() != 0 {
		t.Errorf("%d are left in line", l.length())
	}
}

// TestPassedOn: an ADD that leaves passes what it was offered and did not try to the next that can use it; what nobody wants
// is noted as free.
func TestPassedOn(t *testing.T) {
	a := &Allocator{}
	first, second := ask("first", 1), ask("second", 2)
	first.waiter = a.line.join(first, wants(t, "v4", "10.1.0.1-10.1.0.2"))
	second.waiter = a.line.join(second, wants(t, "v4", "10.1.0.2"))
	usage := a.usages.Of("v4")
	for _, text := range []string{"10.1.0.1", "10.1.0.2"} {
		usage.Won(netip.MustParseAddr(text))
		a.freed("v4", netip.MustParseAddr(text), lease.Owner{})
	}
	w := second.waiter
	a.leave(first)
	if got, ok := a.line.take(w, "v4"); !ok || got != netip.MustParseAddr("10.1.0.2") || !isWoken(w) {
		t.Errorf("the second in line was passed %s, %t", got, ok)
	}
	if !usage.LikelyFree(set(t, "10.1.0.1"), nil, newRandom()) || usage.LikelyFree(set(t, "10.1.0.2"), nil, newRandom()) {
		t.Error("what nobody wants is not free, or what is offered is")
	}
	if first.waiter != nil || a.Waiting() != 1 {
		t.Errorf("%d wait", a.Waiting())
	}
	a.leave(second)
}
