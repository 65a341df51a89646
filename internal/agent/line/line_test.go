package line

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

func wants(t testing.TB, pool string, texts ...string) Wants {
	s := set(t, texts...)
	return func(of string, a netip.Addr) bool { return of == pool && s.Contains(a) }
}

// join puts the ADD of a pod in line that came after a time.
func join(l *Line, pod string, after time.Duration, wants Wants) *Waiter {
	return l.Join(time.Unix(0, 0).Add(after), lease.Owner{PodUID: pod}, wants)
}

func of(pool, address string) Offer { return Offer{pool, netip.MustParseAddr(address)} }

// isWoken takes the token of a waiter, if it has one.
func isWoken(w *Waiter) bool {
	select {
	case <-w.Woken:
		return true
	default:
		return false
	}
}

// TestLine: the oldest ADD that can use an address is woken for it, whatever the order in which they joined.
func TestLine(t *testing.T) {
	l := &Line{}
	waiters := map[string]*Waiter{}
	for _, r := range []struct {
		pod   string
		came  time.Duration
		wants Wants
	}{
		{"third", 3, wants(t, "v4", "10.1.0.1-10.1.0.9")},
		{"first", 1, wants(t, "v4", "10.1.0.1-10.1.0.5")},
		{"second", 2, wants(t, "v6", "fd01::1")},
		{"fourth", 3, wants(t, "v4", "10.1.0.1-10.1.0.9")},
	} {
		waiters[r.pod] = join(l, r.pod, r.came, r.wants)
	}
	for _, tc := range []struct {
		offer Offer
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
		if got := l.Wake(tc.offer, lease.Owner{PodUID: tc.from}); got != (tc.want != "") {
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
	l := &Line{}
	w := join(l, "a", 1, wants(t, "v4", "10.1.0.1-10.1.0.9"))
	for _, o := range []Offer{of("v4", "10.1.0.1"), of("v4", "10.1.0.2"), of("v4", "10.1.0.3")} {
		if !l.Wake(o, lease.Owner{}) {
			t.Errorf("nobody wants %v", o)
		}
	}
	if !isWoken(w) || isWoken(w) {
		t.Error("not one token for three offers")
	}
	w.Want(wants(t, "v6", "fd01::1"))
	if !l.Wake(of("v6", "fd01::1"), lease.Owner{}) || l.Wake(of("v4", "10.1.0.4"), lease.Owner{}) {
		t.Error("it is not the last wish that counts")
	}
	if a, ok := w.Take("v4"); !ok || a != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("took %s, %t", a, ok)
	}
	if _, ok := w.Take("other"); ok || w.Offered("other") || !w.Offered("v4") || !w.Offered("v6") {
		t.Error("an offer of another pool")
	}
	if left := w.Leave(); len(left) != 3 || l.Length() != 0 {
		t.Errorf("left behind %v, %d in line", left, l.Length())
	}
	if left := w.Leave(); len(left) != 0 || l.Wake(of("v6", "fd01::1"), lease.Owner{}) {
		t.Errorf("one that is gone left %v, or is woken", left)
	}
}

// TestLineRace: every offer is taken by one ADD, returned by its leave, or was wanted by nobody; none is lost and none is
// there twice.
func TestLineRace(t *testing.T) {
	const adds, offers = 300, 600
	l := &Line{}
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
			w := join(l, "p", time.Duration(n), func(pool string, a netip.Addr) bool { return pool == "v4" && all.Contains(a) })
			for range rand.N(50) {
				if isWoken(w) && rand.N(2) == 0 {
					if a, ok := w.Take("v4"); ok {
						settle(a)
					}
				}
			}
			for _, o := range w.Leave() {
				settle(o.Address)
			}
		})
	}
	a := first
	for range offers {
		o := Offer{"v4", a}
		a = a.Next()
		group.Go(func() {
			if !l.Wake(o, lease.Owner{}) {
				settle(o.Address)
			}
		})
	}
	group.Wait()
	for n := range seen {
		if got := seen[n].Load(); got != 1 {
			t.Errorf("offer %d ended %d times", n, got)
		}
	}
	if l.Length() != 0 {
		t.Errorf("%d are left in line", l.Length())
	}
}
