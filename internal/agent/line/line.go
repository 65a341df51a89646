// Package line is the ADDs of a node that wait for an address of a full pool, the oldest first. An address that the node
// releases wakes the oldest that can use it, which then claims it like any other; nothing is written in its name by another's
// call.
package line

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// Line is the ADDs that wait. Its zero value is an empty one.
type Line struct {
	mu      sync.Mutex
	waiting []*Waiter
}

// Waiter is one ADD in line. It stays there while it searches again.
type Waiter struct {
	// Woken has a token when there is something for it to try.
	Woken chan struct{}

	line  *Line
	came  time.Time
	owner lease.Owner

	// wants says whether it can use an address, and offers are those that came free for it and that it has not tried. The lock
	// of the line guards both.
	wants  Wants
	offers []Offer
}

// Wants reports whether an ADD can use an address of a pool. It is asked under the lock of the line.
type Wants func(pool string, a netip.Addr) bool

// Offer is an address that came free.
type Offer struct {
	Pool    string
	Address netip.Addr
}

// Join puts an ADD in line, by the time it came; owner is the interface that asks.
func (l *Line) Join(came time.Time, owner lease.Owner, wants Wants) *Waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &Waiter{Woken: make(chan struct{}, 1), line: l, came: came, owner: owner, wants: wants}
	l.waiting = append(l.waiting, w)
	slices.SortStableFunc(l.waiting, func(a, b *Waiter) int { return a.came.Compare(b.came) })
	return w
}

// Length is how many wait.
func (l *Line) Length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// Wake offers an address to the oldest ADD that can use it, and reports whether there is one. An interface that gives the
// address up itself, which from names, does not want it.
func (l *Line) Wake(o Offer, from lease.Owner) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waiting {
		if w.owner != from && w.wants(o.Pool, o.Address) {
			w.offers = append(w.offers, o)
			select {
			case w.Woken <- struct{}{}:
			default:
			}
			return true
		}
	}
	return false
}

// Leave takes the ADD out of the line and returns what was offered to it and not tried.
func (w *Waiter) Leave() []Offer {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	w.line.waiting = slices.DeleteFunc(w.line.waiting, func(o *Waiter) bool { return o == w })
	left := w.offers
	w.offers = nil
	return left
}

// Want says which addresses the ADD can use from now on.
func (w *Waiter) Want(wants Wants) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	w.wants = wants
}

// Take returns an address of a pool that was offered, if there is one. It is the ADD's to try, or to pass on.
func (w *Waiter) Take(pool string) (netip.Addr, bool) {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	i := slices.IndexFunc(w.offers, func(o Offer) bool { return o.Pool == pool })
	if i < 0 {
		return netip.Addr{}, false
	}
	a := w.offers[i].Address
	w.offers = slices.Delete(w.offers, i, i+1)
	return a, true
}

// Offered reports whether an address of a pool is offered.
func (w *Waiter) Offered(pool string) bool {
	w.line.mu.Lock()
	defer w.line.mu.Unlock()
	return slices.ContainsFunc(w.offers, func(o Offer) bool { return o.Pool == pool })
}
