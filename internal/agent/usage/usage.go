// Package usage is what a node knows of the addresses of pools: hints, so that a search seldom tries an address in vain, and
// the pace of LISTs. It decides nothing, and no step costs what a pool is large.
package usage

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
)

const (
	// FirstGap and LastGap bound the pause between two LISTs of a pool that looks full: it doubles from the one to the other.
	// An ADD that has not had its proof yet waits FirstGap at most.
	FirstGap, LastGap = time.Second, 8 * time.Second
	// foreignFor is how long an address that a LIST of its pool calls free and a create calls taken counts as held in the
	// name of another pool.
	foreignFor = 60 * time.Second
	// guesses is how many addresses are drawn before it is computed which are free.
	guesses = 16
	// changesKept bounds what is remembered beside the last LIST.
	changesKept = 1 << 16
	// answeredFor is how long an address in quarantine is not asked for again after a host has answered for it.
	answeredFor = 10 * time.Second
	// restFor is for how long at least an address that came free is tried after others: neighbours may still know the
	// hardware address of who had it. It is remembered of restKept addresses, and restsPassed of them are passed over in one
	// search.
	restFor     = 60 * time.Second
	restKept    = 1 << 12
	restsPassed = 64
)

// Pool is what this node knows of the addresses of one pool: hints, so that a search seldom tries an address in vain, and
// the pace of LISTs. It decides nothing, and no step costs what the pool is large.
type Pool struct {
	mu sync.Mutex
	// listed are the addresses in the last LIST, which was sent at sent; taken and freed are what this node has learned since.
	listed       addr.Set
	sent         time.Time
	taken, freed map[netip.Addr]bool
	// foreign are held in the name of other pools, and since when that is known.
	foreign map[netip.Addr]time.Time
	// trying are what ADDs of this node try right now.
	trying map[netip.Addr]int
	// answered are addresses in quarantine for which a host has answered, and when.
	answered map[netip.Addr]time.Time
	// resting came free since restSince, restedBefore in the time before that.
	resting, restedBefore map[netip.Addr]bool
	restSince             time.Time
	// free are the candidates of the last search that are not listed.
	candidates addr.Set
	free       addr.Sampler
	// gap is the pause from the last LIST to the next; judged says that it follows from the last.
	gap    time.Duration
	judged bool
	failed time.Time // when a LIST last failed
}

func newPool() *Pool {
	return &Pool{taken: map[netip.Addr]bool{}, freed: map[netip.Addr]bool{}, foreign: map[netip.Addr]time.Time{}, trying: map[netip.Addr]int{},
		answered: map[netip.Addr]time.Time{}, resting: map[netip.Addr]bool{}}
}

// rest notes that an address came free. The caller has the lock.
func (u *Pool) rest(a netip.Addr) {
	if u.turn(); len(u.resting) >= restKept {
		u.restedBefore, u.resting = u.resting, map[netip.Addr]bool{}
	}
	u.resting[a] = true
}

// rests reports whether an address came free lately, if turn was called. The caller has the lock.
func (u *Pool) rests(a netip.Addr) bool { return u.resting[a] || u.restedBefore[a] }

// turn forgets what came free long ago. The caller has the lock.
func (u *Pool) turn() {
	switch now := time.Now(); {
	case now.Sub(u.restSince) > 2*restFor:
		u.restedBefore, u.resting, u.restSince = nil, map[netip.Addr]bool{}, now
	case now.Sub(u.restSince) > restFor:
		u.restedBefore, u.resting, u.restSince = u.resting, map[netip.Addr]bool{}, u.restSince.Add(restFor)
	}
}

// isTaken reports whether an address was last seen taken in the name of this pool. The caller has the lock.
func (u *Pool) isTaken(a netip.Addr) bool {
	return u.taken[a] || !u.freed[a] && u.listed.Contains(a)
}

// isUnlikely reports whether an address is tried last: another ADD is trying it, or another pool has it.
func (u *Pool) isUnlikely(a netip.Addr) bool {
	since, foreign := u.foreign[a]
	if foreign && time.Since(since) > foreignFor {
		delete(u.foreign, a)
		foreign = false
	}
	return foreign || u.trying[a] > 0
}

// Pick draws a candidate at random, so that nodes seldom meet, which is not known to be taken and not among tried. tried of
// the usage must follow. There is none if all were seen taken: then it is time for a LIST.
func (u *Pool) Pick(candidates addr.Set, tried map[netip.Addr]bool, random *rand.Rand) (netip.Addr, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a, _, ok := u.find(candidates, tried, random)
	if ok {
		u.trying[a]++
	}
	return a, ok
}

// find returns what to try next, and whether it may well be free. The caller has the lock.
func (u *Pool) find(candidates addr.Set, tried map[netip.Addr]bool, random *rand.Rand) (a netip.Addr, likely, ok bool) {
	u.turn()
	if a, ok := u.guess(candidates.Random, tried, random); ok {
		return a, true, true
	}
	free := u.freeOf(candidates)
	if a, ok := u.guess(free.Random, tried, random); ok {
		return a, true, true
	}
	return u.walk(candidates, free, tried, random)
}

func (u *Pool) guess(draw func(*rand.Rand) (netip.Addr, bool), tried map[netip.Addr]bool, random *rand.Rand) (netip.Addr, bool) {
	for range guesses {
		a, ok := draw(random)
		if !ok {
			break
		}
		if !tried[a] && !u.isTaken(a) && !u.isUnlikely(a) && !u.rests(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// walk looks at what is free one by one, from a random place on. It passes over what is known beside the LIST and so ends
// soon. What came free lately is taken if there is nothing else, and what is unlikely if there is not even that.
func (u *Pool) walk(candidates addr.Set, free addr.Sampler, tried map[netip.Addr]bool, random *rand.Rand) (_ netip.Addr, likely, ok bool) {
	var unlikely, resting netip.Addr
	passed := 0
	suits := func(a netip.Addr) bool {
		switch {
		case tried[a] || u.isTaken(a):
			return false
		case u.isUnlikely(a):
			unlikely = a
			return false
		case u.rests(a) && passed < restsPassed:
			resting = a
			passed++
			return false
		}
		return true
	}
	for a := range u.freed {
		if candidates.Contains(a) && suits(a) {
			return a, true, true
		}
	}
	first, ok := free.Random(random)
	for a := first; ok; {
		if suits(a) {
			return a, true, true
		}
		if a, ok = free.Next(a.Next()); !ok { // from the end to the beginning
			a, ok = free.Nth(addr.Count{})
		}
		ok = ok && a != first
	}
	if resting.IsValid() {
		return resting, true, true
	}
	return unlikely, false, unlikely.IsValid()
}

// freeOf are candidates without what the last LIST has; computed once for each LIST and edit.
func (u *Pool) freeOf(candidates addr.Set) addr.Sampler {
	if !u.candidates.Equal(candidates) {
		u.candidates, u.free = candidates, addr.MakeSampler(candidates.Minus(u.listed))
	}
	return u.free
}

// Trying begins to try one address, whatever is known of it. Tried of the usage must follow.
func (u *Pool) Trying(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trying[a]++
}

// Ask begins to ask on a link for an address in quarantine, unless a host has answered for it lately or another ADD of the node
// is asking: two that probe at once take each other for its holder. Tried must follow.
func (u *Pool) Ask(a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.trying[a] > 0 || time.Since(u.answered[a]) < answeredFor {
		return false
	}
	u.trying[a]++
	return true
}

// Answered notes that a host has answered for an address in quarantine, or is about to: it is not asked for again for a while.
func (u *Pool) Answered(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.answered) >= changesKept {
		clear(u.answered)
	}
	u.answered[a] = time.Now()
}

// Tried ends what Pick, Trying or Ask began.
func (u *Pool) Tried(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.trying[a]--; u.trying[a] <= 0 {
		delete(u.trying, a)
	}
}

// Won notes that an address is taken by an ADD of this node.
func (u *Pool) Won(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.foreign, a)
	u.take(a)
}

func (u *Pool) take(a netip.Addr) {
	if len(u.taken) >= changesKept {
		clear(u.taken)
	}
	delete(u.freed, a)
	if !u.listed.Contains(a) {
		u.taken[a] = true
	}
}

// Lost notes that an address was answered "taken". If a LIST of the pool calls it free, now or lately, it is most likely held
// in the name of another pool.
func (u *Pool) Lost(a netip.Addr, listedFree bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, foreign := u.foreign[a]; !listedFree && !foreign {
		u.take(a)
		return
	}
	delete(u.taken, a)
	if len(u.foreign) >= changesKept {
		clear(u.foreign)
	}
	u.foreign[a] = time.Now()
}

// Foreign reports whether an address is most likely held in the name of another pool.
func (u *Pool) Foreign(a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, foreign := u.foreign[a]
	return foreign
}

// Release notes that an address is free.
func (u *Pool) Release(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.taken, a)
	delete(u.foreign, a)
	u.rest(a)
	if u.listed.Contains(a) {
		u.freed[a] = true
	}
}

// Brought takes over what a LIST that was sent at a time brought, unless a later one is known.
func (u *Pool) Brought(listed addr.Set, sent time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !sent.After(u.sent) {
		return
	}
	u.restWhatWent(listed)
	u.listed, u.sent, u.judged = listed, sent, false
	u.candidates, u.free = addr.Set{}, addr.Sampler{}
	clear(u.taken)
	clear(u.freed)
	for a := range u.foreign {
		if listed.Contains(a) {
			delete(u.foreign, a)
		}
	}
}

// restWhatWent notes what was in the last LIST and is not in the next: other nodes released it. The caller has the lock.
func (u *Pool) restWhatWent(next addr.Set) {
	went := u.listed.Minus(next)
	if went.Count().Cmp(addr.CountOf(restKept)) > 0 {
		return // so many are free that few are given again
	}
	for r := range went.Ranges() {
		for a := r.From(); r.Contains(a); a = a.Next() {
			u.rest(a)
		}
	}
}

// Failed notes that a LIST failed: the next keeps a distance.
func (u *Pool) Failed() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed = time.Now()
	u.gap = max(u.gap, FirstGap)
}

// Left are the candidates that are neither in a LIST nor tried; likely says that some of them may well be free.
func (u *Pool) Left(candidates, listed addr.Set, tried map[netip.Addr]bool) (left addr.Set, likely bool) {
	singles := make([]addr.Range, 0, len(tried))
	for a := range tried {
		r, _ := addr.MakeRange(a, a)
		singles = append(singles, r)
	}
	left = candidates.Minus(listed).Minus(addr.MakeSet(singles...))
	u.mu.Lock()
	defer u.mu.Unlock()
	if left.Count().Cmp(addr.CountOf(uint64(len(u.foreign)))) > 0 {
		return left, true
	}
	for r := range left.Ranges() {
		for a := r.From(); a.IsValid() && a.Compare(r.To()) <= 0; a = a.Next() {
			if _, foreign := u.foreign[a]; !foreign {
				return left, true
			}
		}
	}
	return left, false
}

// LikelyFree reports whether this node knows of a candidate that may well be free and is not among tried.
func (u *Pool) LikelyFree(candidates addr.Set, tried map[netip.Addr]bool, random *rand.Rand) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, likely, _ := u.find(candidates, tried, random)
	return likely
}

// ListedSince reports whether the last LIST was sent after a moment.
func (u *Pool) ListedSince(t time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent.After(t)
}

// Judge says of the last LIST, if it was sent at a time, whether it showed the pool full: the pause before the next follows.
func (u *Pool) Judge(sent time.Time, full bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.judged || !sent.Equal(u.sent) {
		return
	}
	u.judged = true
	if !full {
		u.gap = 0
		return
	}
	u.gap = timing.Jitter(min(max(2*u.gap, FirstGap), LastGap))
}

// Next is when the next LIST may be sent; a hurried caller, who needs one to pass over the pool, waits FirstGap at most.
func (u *Pool) Next(hurried bool) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	gap, last := u.gap, u.sent
	if hurried {
		gap = min(gap, FirstGap)
	}
	if u.failed.After(last) {
		last = u.failed
	}
	return last.Add(gap)
}

// Pools are those of all pools that were searched.
type Pools struct{ pools sync.Map }

// Of is what is known of a pool, nothing at first.
func (s *Pools) Of(pool string) *Pool {
	u, ok := s.pools.Load(pool)
	if !ok {
		u, _ = s.pools.LoadOrStore(pool, newPool())
	}
	return u.(*Pool)
}

// KeepOnly forgets the pools that exist no more.
func (s *Pools) KeepOnly(exists func(pool string) bool) {
	s.pools.Range(func(name, _ any) bool {
		if !exists(name.(string)) {
			s.pools.Delete(name)
		}
		return true
	})
}
