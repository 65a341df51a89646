package agent

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

const (
	// firstGap and lastGap bound the pause between two LISTs of a pool that
	// looks full: it doubles from the one to the other. An ADD that has not had
	// its proof yet waits firstGap at most.
	firstGap, lastGap = time.Second, 8 * time.Second
	// foreignFor is how long an address that a LIST of its pool calls free and a
	// claim calls taken counts as held in the name of another pool.
	foreignFor = 60 * time.Second
)

// scouts are the scouts of all pools that were searched.
type scouts struct {
	read  func(ctx context.Context, pool string) (addr.Set, error)
	count func() // of LISTs

	mu    sync.Mutex
	pools map[string]*scout
}

func newScouts(read func(context.Context, string) (addr.Set, error), count func()) *scouts {
	return &scouts{read: read, count: count, pools: map[string]*scout{}}
}

func (s *scouts) of(pool string) *scout {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, ok := s.pools[pool]
	if !ok {
		out = &scout{foreign: map[netip.Addr]time.Time{}, trying: map[netip.Addr]bool{}, read: func(ctx context.Context) (addr.Set, error) {
			s.count()
			return s.read(ctx, pool)
		}}
		s.pools[pool] = out
	}
	return out
}

// scout knows of one pool which addresses were last seen taken, so that a
// search seldom tries one in vain, and LISTs it for all who need that: one LIST
// at a time, paced while the pool looks full. It decides nothing.
type scout struct {
	read func(context.Context) (addr.Set, error)

	mu      sync.Mutex
	taken   addr.Set
	foreign map[netip.Addr]time.Time
	trying  map[netip.Addr]bool // by an ADD of this node, right now
	last    listing             // that was answered
	judged  bool                // the gap follows from last
	sent    time.Time           // when the last LIST was, answered or not
	gap     time.Duration       // from then to the next
	flight  *flight
}

// listing is what a LIST sent at a time said.
type listing struct {
	sent  time.Time
	taken addr.Set
}

// flight is a LIST that is on its way, or waits for its time.
type flight struct {
	due  time.Time
	poke chan struct{} // due was changed
	done chan struct{}
	err  error // when done is closed: why it has brought nothing
}

// unlikely returns what was last seen taken, and what is held in the name of
// other pools.
func (s *scout) unlikely() (taken, foreign addr.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for a, since := range s.foreign {
		if now.Sub(since) > foreignFor {
			delete(s.foreign, a)
		} else {
			foreign = foreign.With(a)
		}
	}
	return s.taken, foreign
}

// known returns what was last seen taken, and when the LIST was sent on which
// that rests.
func (s *scout) known() (taken addr.Set, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.last.sent
}

// guesses is how many addresses pick draws before it computes which are left.
const guesses = 16

// pick draws an address of a set at random, so that nodes seldom meet, and last
// what is being tried by another ADD or held in the name of another pool. There
// is none if all were seen taken meanwhile: then it is time for a LIST. tried
// must follow.
func (s *scout) pick(from addr.Set, random *rand.Rand) (a netip.Addr, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok = from.Random(random)
	for i := 0; ok && i < guesses && s.isUnlikely(a); i++ {
		a, ok = from.Random(random)
	}
	if ok && s.isUnlikely(a) {
		left := from.Minus(s.taken)
		a, ok = left.Random(random)
		for unlikely := range s.foreign {
			left = left.Without(unlikely)
		}
		for unlikely := range s.trying {
			left = left.Without(unlikely)
		}
		if likely, found := left.Random(random); found {
			a = likely
		}
	}
	if ok {
		s.trying[a] = true
	}
	return a, ok
}

func (s *scout) isUnlikely(a netip.Addr) bool {
	return s.trying[a] || s.taken.Contains(a) || time.Since(s.foreign[a]) < foreignFor
}

// tried ends what pick began.
func (s *scout) tried(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.trying, a)
}

// use notes that an address was won.
func (s *scout) use(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = s.taken.With(a)
	delete(s.foreign, a)
}

// lost notes that an address was answered "taken". If a LIST of the pool calls
// it free, now or lately, it is most likely held in the name of another pool.
func (s *scout) lost(a netip.Addr, listedFree bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !listedFree && time.Since(s.foreign[a]) > foreignFor {
		s.taken = s.taken.With(a)
		return
	}
	s.taken = s.taken.Without(a)
	s.foreign[a] = time.Now()
}

// free notes that an address is free.
func (s *scout) free(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = s.taken.Without(a)
	delete(s.foreign, a)
}

// list returns what a LIST sent not before since says. It is hurried if the
// caller needs it to pass over the pool. It ends with errCalled if called is
// closed before the LIST is there.
func (s *scout) list(ctx context.Context, called <-chan struct{}, since time.Time, hurried bool) (listing, error) {
	for {
		s.mu.Lock()
		if last := s.last; !last.sent.IsZero() && !last.sent.Before(since) {
			s.mu.Unlock()
			return last, nil
		}
		f := s.board(hurried)
		s.mu.Unlock()
		select {
		case <-f.done:
			if f.err != nil {
				return listing{}, f.err
			}
		case <-called:
			return listing{}, errCalled
		case <-ctx.Done():
			return listing{}, context.Cause(ctx)
		}
	}
}

// board returns the next flight, and makes it leave earlier for a hurried caller.
func (s *scout) board(hurried bool) *flight {
	gap := s.gap
	if hurried {
		gap = min(gap, firstGap)
	}
	due := s.sent.Add(gap)
	if s.flight == nil {
		s.flight = &flight{due: due, poke: make(chan struct{}, 1), done: make(chan struct{})}
		go s.fly(s.flight)
	} else if due.Before(s.flight.due) {
		s.flight.due = due
		select {
		case s.flight.poke <- struct{}{}:
		default:
		}
	}
	return s.flight
}

func (s *scout) fly(f *flight) {
	for {
		s.mu.Lock()
		pause := time.Until(f.due)
		s.mu.Unlock()
		if pause <= 0 {
			break
		}
		select {
		case <-time.After(pause):
		case <-f.poke:
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTime)
	defer cancel()
	sent := time.Now()
	taken, err := s.read(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight, s.sent, f.err = nil, sent, err
	if err != nil {
		s.gap = max(s.gap, firstGap)
		return
	}
	s.last, s.judged, s.taken = listing{sent, taken}, false, taken
	for a := range s.foreign {
		if taken.Contains(a) {
			delete(s.foreign, a)
		}
	}
}

// judge says of a LIST whether it showed the pool full; the pause before the
// next one follows from it.
func (s *scout) judge(l listing, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.judged || !l.sent.Equal(s.last.sent) {
		return
	}
	s.judged = true
	switch {
	case !full:
		s.gap = 0
	case s.gap == 0:
		s.gap = jitter(firstGap)
	default:
		s.gap = jitter(min(2*s.gap, lastGap))
	}
}

// pause is how long to wait before another LIST would be sent.
func (s *scout) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.sent.Add(s.gap))
}

// jitter spreads what many nodes would do at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/4)
}
