package agent

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// waiters are the ADDs of this node that wait for an address of a full pool,
// the oldest first. An address that the node releases is handed to the oldest
// one that can use it.
type waiters struct {
	mu   sync.Mutex
	line []*waiter
}

// waiter is one ADD in line.
type waiter struct {
	at  *attachment
	ask *asker
	// wants are the addresses that it can use, by pool.
	wants map[string]addr.Set
	// called is closed when it is called out of the line. offer then says what
	// became of that.
	called chan struct{}
	offer  chan offer
}

// offer is an entry that was to be written to the name of an ADD in line, and
// what the write came to.
type offer struct {
	entry *v2beta1.SpiderIP
	err   error
}

// join puts an ADD in line, by the time it came: one that has just searched
// again in vain stands where it stood.
func (w *waiters) join(at *attachment, ask *asker, wants map[string]addr.Set) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &waiter{at: at, ask: ask, wants: wants, called: make(chan struct{}), offer: make(chan offer, 1)}
	i := slices.IndexFunc(w.line, func(o *waiter) bool { return o.ask.came.After(ask.came) })
	if i < 0 {
		i = len(w.line)
	}
	w.line = slices.Insert(w.line, i, out)
	return out
}

// length is how many wait.
func (w *waiters) length() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.line)
}

// leave takes an ADD out of the line. It returns false if it was called out
// before: then it must receive the offer.
func (w *waiters) leave(who *waiter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.line, who)
	if i < 0 {
		return false
	}
	w.line = slices.Delete(w.line, i, i+1)
	return true
}

// call takes the oldest ADD that can use an address out of the line, but not
// that of the attachment that gives it up, or returns nil. Whoever calls must
// send it an offer.
func (w *waiters) call(pool string, a netip.Addr, from *attachment) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, who := range w.line {
		if who.wants[pool].Contains(a) && (from == nil || who.at != from) {
			w.line = slices.Delete(w.line, i, i+1)
			close(who.called)
			return who
		}
	}
	return nil
}
