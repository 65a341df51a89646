package allocation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/line"
	"github.com/spidernet-io/spiderpool/internal/agent/usage"
	"github.com/spidernet-io/spiderpool/internal/coalesce"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// tries is how many addresses are tried between two LISTs of a pool, unless they prove to be held in the name of other pools.
const tries = 8

// search is one ADD looking for a free address in one pool.
type search struct {
	*Allocator
	request    *Request
	pool       *pool.Pool
	usage      *usage.Pool
	candidates addr.Set
	random     *rand.Rand

	// tried are the candidates that were answered "taken" to this search, latest those since the last LIST, and batch is how
	// many are tried between two.
	tried  map[netip.Addr]bool
	latest []netip.Addr
	batch  int
	// listed says that a LIST came that was sent after the ADD; likely that it left a candidate that may well be free.
	listed, likely bool
}

// search claims one free address of a pool, at random among those not known to be taken. The pool is full only when every
// candidate is in a LIST that was sent after this ADD came, or was answered "taken" to it although a LIST calls it free.
func (a *Allocator) search(ctx context.Context, r *Request, p *pool.Pool, candidates addr.Set) (*lease.Lease, *Full, error) {
	s := &search{Allocator: a, request: r, pool: p, usage: a.usages.Of(p.Name), candidates: candidates,
		random: newRandom(), tried: map[netip.Addr]bool{}, batch: tries}
	for {
		l, err := s.try(ctx)
		if l != nil || err != nil {
			return l, nil, err
		}
		if s.knownFull() {
			return nil, s.full(), nil
		}
		left, woken, err := s.list(ctx)
		if err != nil {
			return nil, nil, err
		}
		if left.IsEmpty() && !woken {
			return nil, s.full(), nil
		}
	}
}

func newRandom() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }

func (s *search) full() *Full {
	reserved := s.pool.Addresses.Minus(s.Facts.Gives(s.pool))
	return &Full{Candidates: s.candidates, Usage: pool.Usage{Size: s.candidates.Count(), Reserved: reserved.Count()}}
}

// knownFull reports that an ADD in line need not wait for the next LIST: it has proof that the pool was full since it came,
// and waits better where it hears of edits and of addresses that come free.
func (s *search) knownFull() bool {
	if s.request.waiter == nil || s.request.final || !time.Now().Before(s.usage.Next(false)) {
		return false
	}
	_, seen := s.request.seen[s.pool.Name]
	return seen || s.usage.ListedSince(s.request.Came)
}

// try creates entries, one after the other, until one is won, a batch was taken, or nothing is left to try. When a LIST has
// left nothing but what is held in the name of other pools, all of it is tried, as no LIST tells when that is free.
func (s *search) try(ctx context.Context) (*lease.Lease, error) {
	for n := 0; n < s.batch || s.listed && !s.likely; n++ {
		if n >= tries && !s.request.patient() {
			return nil, fmt.Errorf("pool %s, %d tried of %s: %w", s.pool.Name, len(s.tried), s.candidates.Count(), errTooMany)
		}
		address, ok := s.next()
		if !ok {
			return nil, nil
		}
		l, err := s.create(ctx, address)
		s.usage.Tried(address)
		switch {
		case err == nil:
			s.usage.Won(address)
			return l, nil
		case !errors.Is(err, ledger.ErrTaken):
			if s.request.waiter != nil && !errors.Is(err, ledger.ErrUnknown) { // one in doubt is nobody's yet
				s.freed(line.Offer{Pool: s.pool.Name, Address: address}, s.request.iface.Owner)
			}
			return nil, away(err)
		}
		s.Metrics.Allocation.Conflicts.Inc()
		s.usage.Lost(address, s.listed)
		s.tried[address] = true
		s.latest = append(s.latest, address)
	}
	return nil, nil
}

// next chooses what to try: what was offered, what the interface may hold already, its home, or any candidate.
func (s *search) next() (netip.Addr, bool) {
	for s.request.waiter != nil {
		a, ok := s.request.waiter.Take(s.pool.Name)
		if !ok {
			break
		}
		if s.candidates.Contains(a) {
			return a, true
		}
		s.freed(line.Offer{Pool: s.pool.Name, Address: a}, s.request.iface.Owner)
	}
	for _, l := range s.request.iface.Leases() {
		a := lease.AddressOf(l.Entry)
		if !s.tried[a] && !l.Held() && s.candidates.Contains(a) {
			return a, true
		}
	}
	if a, ok := s.home(); ok && !s.tried[a] {
		s.usage.Trying(a)
		return a, true
	}
	return s.usage.Pick(s.candidates, s.tried, s.random)
}

// create claims one address. While the API server does not say what became of it, the same claim is sent again for as long
// as the ADD may wait; then it stays in doubt.
func (s *search) create(ctx context.Context, address netip.Addr) (*lease.Lease, error) {
	spec := s.request.spec(s.Node)
	spec.Address, spec.Pool = address.String(), s.pool.Name
	return retry(ctx, s.request, func() (*lease.Lease, error) {
		return s.Leases.Create(ctx, s.request.iface, &v2beta1.SpiderIP{Spec: spec})
	})
}

// list finds out by a LIST what is free: the first time by any that was sent after the ADD came, then by one newer than the
// last it saw. woken says that an address was offered before it came.
func (s *search) list(ctx context.Context) (left addr.Set, woken bool, err error) {
	since, again := s.request.seen[s.pool.Name]
	if !again {
		since = s.request.Came
	}
	var r coalesce.Result[addr.Set]
	err = s.request.Retry(ctx, func() (err error) {
		r, woken, err = s.interruptible(ctx, since, s.due(!again || s.request.final))
		if err != nil {
			s.usage.Failed()
		}
		return err
	})
	if err != nil || woken {
		return addr.Set{}, woken, away(err)
	}
	s.usage.Brought(r.Value, r.Sent)
	s.request.seen[s.pool.Name] = r.Sent
	for a := range s.tried { // what came free since it was tried, unless it is another pool's
		if !r.Value.Contains(a) && !s.usage.Foreign(a) {
			delete(s.tried, a)
		}
	}
	left, s.likely = s.usage.Left(s.candidates, r.Value, s.tried)
	s.noteForeign(r.Value)
	s.usage.Judge(r.Sent, !s.likely)
	return left, false, nil
}

// due is when the next LIST may be sent: by the pace of the pool, but when the ADD may wait no longer, or is hurried, as soon
// as a hurried one may.
func (s *search) due(hurried bool) time.Time {
	soon := s.usage.Next(true)
	if hurried || s.request.Deadline.Before(soon) {
		return soon
	}
	return earlier(s.request.Deadline, s.usage.Next(false))
}

// noteForeign notes what a LIST calls free and a create called taken. If that is all that was tried since the last LIST,
// more is tried before the next, or there would be a LIST for every few of them.
func (s *search) noteForeign(listed addr.Set) {
	for a := range s.tried {
		if !listed.Contains(a) {
			s.usage.Lost(a, true)
		}
	}
	own := slices.ContainsFunc(s.latest, listed.Contains)
	if s.listed && len(s.latest) > 0 && !own {
		s.batch *= 2
	}
	s.listed, s.latest = true, nil
}

// interruptible waits for a LIST, but not if an address is offered meanwhile.
func (s *search) interruptible(ctx context.Context, since, notBefore time.Time) (r coalesce.Result[addr.Set], woken bool, err error) {
	if s.request.waiter == nil {
		r, err = s.lists.Get(ctx, s.pool.Name, since, notBefore)
		return r, false, err
	}
	if s.request.waiter.Offered(s.pool.Name) {
		return r, true, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	came := make(chan struct{})
	go func() {
		defer close(came)
		r, err = s.lists.Get(ctx, s.pool.Name, since, notBefore)
	}()
	select {
	case <-came:
		return r, false, err
	case <-s.request.waiter.Woken:
		stop()
		<-came
		return coalesce.Result[addr.Set]{}, true, nil
	}
}

// candidates are the addresses of a pool that an ADD may get: all that are not reserved, or the one that was asked for, if
// the pool has it.
func (a *Allocator) candidates(r *Request, p *pool.Pool, f pool.Family) (_ addr.Set, refusal string) {
	all := a.Facts.Gives(p)
	asked := r.asked(f)
	if !asked.IsValid() {
		return all, ""
	}
	if !all.Contains(asked) {
		return addr.Set{}, "it does not have the address " + asked.String() + " that was asked for"
	}
	return addr.Set{}.With(asked), ""
}

// asked is the address of a family that the runtime asks for, if any.
func (r *Request) asked(f pool.Family) netip.Addr {
	i := slices.IndexFunc(r.RequestedIPs, func(ip netip.Addr) bool { return pool.FamilyOf(ip) == f })
	if i < 0 {
		return netip.Addr{}
	}
	return r.RequestedIPs[i]
}
