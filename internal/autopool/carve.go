package autopool

import (
	"net/netip"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

// carve takes n addresses out of those that are free, or all if they are fewer: after those that a pool has, then in one piece
// if there is one, the smallest that does, and else from the lowest on. Firewalls like few ranges.
func carve(free, has addr.Set, n int) (taken addr.Set) {
	for r := range has.Ranges() {
		if next := r.To().Next(); n > 0 && free.Contains(next) {
			more := first(free.Intersect(addr.MakeSet(pieceFrom(free, next))), n)
			taken, n = taken.Union(more), n-int(more.Count().Int64())
		}
	}
	free = free.Minus(taken)
	var best addr.Range
	for r := range free.Ranges() {
		if r.Count().Cmp(count(n)) >= 0 && (!best.IsValid() || r.Count().Cmp(best.Count()) < 0) {
			best = r
		}
	}
	if best.IsValid() {
		free = addr.MakeSet(best)
	}
	return taken.Union(first(free, n))
}

// pieceFrom is the rest of the range of a set that an address is in.
func pieceFrom(s addr.Set, from netip.Addr) addr.Range {
	for r := range s.Ranges() {
		if r.Contains(from) {
			rest, _ := addr.MakeRange(from, r.To())
			return rest
		}
	}
	return addr.Range{}
}

// first are the n lowest addresses of a set, or all if they are fewer.
func first(s addr.Set, n int) addr.Set {
	if n <= 0 {
		return addr.Set{}
	}
	last, ok := s.Nth(count(n - 1))
	if !ok {
		return s
	}
	lowest, _ := s.Nth(addr.Count{})
	upTo, _ := addr.MakeRange(lowest, last)
	return s.Intersect(addr.MakeSet(upTo))
}

// last are the n highest addresses of a set, or all if they are fewer.
func last(s addr.Set, n int) addr.Set {
	if all := s.Count(); all.Cmp(count(n)) > 0 {
		return s.Minus(first(s, int(all.Sub(count(n)).Int64())))
	}
	return s
}

func count(n int) addr.Count { return addr.CountOf(uint64(max(n, 0))) }
