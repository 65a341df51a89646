package allocation

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// line is the ADDs of this node that wait for an address of a full pool, the oldest first. An address that the node releases
// wakes the oldest that can use it, which then claims it like any other; nothing is written in its name by another's call.
type line struct {
	mu      sync.Mutex
	waiting []*waiter
}

// waiter is one ADD in line. It stays there while it searches again.
type waiter struct {
	request *Request
	// woken has a token when there is something for it to try.
	woken chan struct{}

	// wants are the full pools of which it can use an address, by name, and offers the addresses that came free for it and that
	// it has not tried. The lock of the line guards both.
	wants  map[string]*Full
	offers []offer
}

// offer is an address that came free.
type offer struct {
	pool    string
	address netip.Addr
}

// join puts an ADD in line, by the time it came.
func (l *line) join(r *Request, wants map[string]*Full) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &waiter{request: r, wants: wants, woken: make(chan struct{}, 1)}
	l.waiting = append(l.waiting, w)
	slices.SortStableFunc(l.waiting, func(a, b *waiter) int { return a.request.Came.Compare(b.request.Came) })
	return w
}

// leave takes an ADD out of the line and returns what was offered to it and not tried.
func (l *line) leave(w *waiter) []offer {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(o *waiter) bool { return o == w })
	left := w.offers
	w.offers = nil
	return left
}

// want says of which pools a waiter can use addresses from now on.
func (l *line) want(w *waiter, wants map[string]*Full) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.wants = wants
}

// length is how many wait.
func (l *line) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// wake offers an address to the oldest ADD that can use it, and reports whether there is one. An interface that gives the
// address up itself does not want it.
func (l *line) wake(o offer, from lease.Owner) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waiting {
		if full := w.wants[o.pool]; full != nil && full.Candidates.Contains(o.address) && w.request.Owner() != from {
			w.offers = append(w.offers, o)
			select {
			case w.woken <- struct{}{}:
			default:
			}
			return true
		}
	}
	return false
}

// take returns an address of a pool that was offered to w, if there is one. It is w's to try, or to pass on.
func (l *line) take(w *waiter, pool string) (netip.Addr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(w.offers, func(o offer) bool { return o.pool == pool })
	if i < 0 {
		return netip.Addr{}, false
	}
	a := w.offers[i].address
	w.offers = slices.Delete(w.offers, i, i+1)
	return a, true
}

// offered reports whether w has an offer of a pool.
func (l *line) offered(w *waiter, pool string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(w.offers, func(o offer) bool { return o.pool == pool })
}
