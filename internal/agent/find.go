package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// tries is how many addresses are tried between two LISTs of a pool, unless
// they prove to be held in the name of other pools.
const tries = 8

// search is one ADD looking for a free address in one pool.
type search struct {
	*Agent
	at    *attachment
	ask   *asker
	pool  *pool.Pool
	scout *scout

	candidates addr.Set
	// taken are the candidates that were answered "taken" to this ADD, looked how
	// many of them when the last LIST came, and batch how many are tried between
	// two LISTs.
	taken  []netip.Addr
	looked int
	batch  int
	// listed says that free comes from a LIST that this search waited for.
	listed bool
	free   addr.Set
	random *rand.Rand
}

// find claims one free address of a pool, at random among those not known to
// be taken. The pool counts as full only when every candidate is in a LIST
// sent after this ADD came, or was answered "taken" to it.
func (a *Agent) find(ctx context.Context, at *attachment, ask *asker, p *pool.Pool, f pool.Family) (*holding, error) {
	candidates, err := a.candidates(ask, p, f)
	if err != nil {
		return nil, err
	}
	s := &search{Agent: a, at: at, ask: ask, pool: p, scout: a.scouts.of(p.Name), candidates: candidates, batch: tries,
		random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
	known, _ := s.scout.unlikely()
	s.free = candidates.Minus(known)
	for {
		if h, err := s.try(ctx); h != nil || err != nil {
			return h, err
		}
		if s.knowsBetter() {
			return nil, s.full()
		}
		if err := s.look(ctx); err != nil {
			return nil, err
		}
		if s.free.IsEmpty() {
			return nil, s.full()
		}
	}
}

func (s *search) full() error {
	reserved := s.pool.Addresses.Minus(s.facts.Gives(s.pool))
	return &fullError{s.candidates, pool.Usage{Size: s.candidates.Count(), Reserved: reserved.Count()}}
}

// knowsBetter reports that an ADD in line need not wait for the next LIST to
// know that the pool is full: the last, which was sent after it came, and what
// this node learned since leave nothing to try. It waits for the next in line.
func (s *search) knowsBetter() bool {
	known, since := s.scout.known()
	return s.ask.called != nil && since.After(s.ask.came) && s.scout.pause() > 0 && s.left(known).IsEmpty()
}

// left are the candidates that are neither in a set, nor were answered "taken".
func (s *search) left(taken addr.Set) addr.Set {
	left := s.candidates.Minus(taken)
	for _, a := range s.taken {
		left = left.Without(a)
	}
	return left
}

// look finds out by a LIST what is free: the first time by any that was sent
// after the ADD came, then by one newer than the last it saw.
func (s *search) look(ctx context.Context) error {
	seen, again := s.ask.seen[s.pool.Name]
	since := s.ask.came
	if again {
		since = seen.Add(1)
	}
	var l listing
	err := s.ask.hold(ctx, func() (err error) {
		l, err = s.scout.list(ctx, s.ask.called, since, !again)
		return err
	})
	if err != nil {
		return away(err)
	}
	s.ask.seen[s.pool.Name] = l.sent
	strangers := 0
	for i, a := range s.taken {
		if !l.taken.Contains(a) {
			s.scout.lost(a, true)
			if i >= s.looked {
				strangers++
			}
		}
	}
	if s.listed && strangers > 0 && strangers == len(s.taken)-s.looked {
		s.batch *= 2 // or there would be a LIST for every few of them
	}
	s.looked, s.free, s.listed = len(s.taken), s.left(l.taken), true
	s.scout.judge(l, s.onlyStrangers())
	return nil
}

// onlyStrangers reports whether nothing is left that may well be free.
func (s *search) onlyStrangers() bool {
	_, foreign := s.scout.unlikely()
	return s.free.Minus(foreign).IsEmpty()
}

// candidates are the addresses of a pool that an ADD may get: all that are not
// reserved, or the one that was asked for.
func (a *Agent) candidates(ask *asker, p *pool.Pool, f pool.Family) (addr.Set, error) {
	all := a.facts.Gives(p)
	asked := ask.requested(f)
	if !asked.IsValid() {
		return all, nil
	}
	if !all.Contains(asked) {
		return addr.Set{}, &unservedError{"it does not have the address " + asked.String() + " that was asked for"}
	}
	return addr.Set{}.With(asked), nil
}

// requested is the address of a family that the runtime asks for, if any.
func (ask *asker) requested(f pool.Family) netip.Addr {
	i := slices.IndexFunc(ask.req.RequestedIPs, func(ip netip.Addr) bool { return pool.FamilyOf(ip) == f })
	if i < 0 {
		return netip.Addr{}
	}
	return ask.req.RequestedIPs[i]
}

// try claims a batch of addresses, one after the other, until one is won; after
// a LIST also all that are held in the name of other pools, as no LIST tells
// when those are free.
func (s *search) try(ctx context.Context) (*holding, error) {
	for n := 0; n < s.batch || s.listed && s.onlyStrangers(); n++ {
		if (n >= s.batch || s.batch > tries) && !s.ask.patient() {
			return nil, fmt.Errorf("pool %s, %d tried of %s: %w", s.pool.Name, len(s.taken), s.candidates.Count(), errTooMany)
		}
		address, ok := s.pick()
		if !ok {
			return nil, nil
		}
		h, err := s.claim(ctx, address)
		s.scout.tried(address)
		if !errors.Is(err, ledger.ErrTaken) {
			return h, err
		}
		s.metrics.allocation.conflicts.Inc()
		s.scout.lost(address, s.listed)
		s.taken, s.free = append(s.taken, address), s.free.Without(address)
	}
	return nil, nil
}

// pick chooses what to try next: first what the attachment may hold already.
func (s *search) pick() (netip.Addr, bool) {
	for _, d := range s.at.doubts {
		if a := addressOf(d.claim); s.free.Contains(a) {
			return a, true
		}
	}
	return s.scout.pick(s.free, s.random)
}

// claim claims one address. While the API server does not say what became of
// it, the same claim is sent again for as long as the ADD has patience; then it
// stays a doubt of the attachment.
func (s *search) claim(ctx context.Context, address netip.Addr) (*holding, error) {
	entry := &v2beta1.SpiderIP{}
	entry.Spec.Address, entry.Spec.Pool = address.String(), s.pool.Name
	s.fill(entry, s.ask)
	doubtful := s.at.doubts.has(entry.Spec.Address)
	err := s.ask.hold(ctx, func() error {
		err := s.ledger.Claim(ctx, entry)
		if doubtful && errors.Is(err, ledger.ErrTaken) {
			err = s.mine(ctx, entry, err)
		}
		doubtful = doubtful || errors.Is(err, ledger.ErrUnknown)
		return err
	})
	if doubtful {
		s.doubt(s.at, entry) // also of a claim that was won: the one without answer may come when it is released
	}
	if err != nil {
		return nil, away(err)
	}
	s.scout.use(address)
	h := &holding{entry: entry, unanswered: true}
	s.at.hold(h)
	return h, nil
}

// mine looks whether it was this attachment's own claim that took the address,
// and then makes claim what stands there; else it returns taken. If the ADD is
// called out of the line, what stands there may be what it is being offered:
// then the offer counts, and the claim stays a doubt.
func (s *search) mine(ctx context.Context, claim *v2beta1.SpiderIP, taken error) error {
	found, err := s.reread(ctx, claim, s.at.key)
	switch {
	case errors.Is(err, ledger.ErrLost):
		return taken
	case err != nil:
		return err
	case found.Spec.ContainerID != claim.Spec.ContainerID:
		return taken // an entry of an older sandbox: it is in the ledger, and known when the table is
	case s.ask.isCalled():
		return errCalled
	}
	*claim = *found
	return nil
}
