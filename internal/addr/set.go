package addr

import (
	"fmt"
	"iter"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// Set is an immutable set of addresses of either or both families. The zero value is the empty set. Where an order
// matters it is that of netip.Addr.Compare: IPv4 before IPv6.
//
// Contains and ContainsSet search by halves; everything else is one pass over the ranges.
type Set struct {
	// Valid, sorted, and as few as can be: disjoint and not adjacent, nil when empty. Shared between sets, never written
	// once it is here.
	ranges []Range
}

// MakeSet returns the union of ranges. Zero Ranges add nothing.
func MakeSet(ranges ...Range) Set {
	sorted := slices.SortedFunc(slices.Values(ranges), Range.compare)
	var merged []Range
	for _, r := range sorted {
		merged = appendRange(merged, r)
	}
	return Set{merged}
}

// ParseSet returns the union of texts, each as ParseRange reads it. The error begins with the index of the entry as in a
// field path, "[2]: ", counted from 0.
func ParseSet(texts []string) (Set, error) {
	ranges, err := parseRanges(texts)
	return MakeSet(ranges...), err
}

// ParseDisjoint is ParseSet for a list in which no address may stand twice. The error names both entries.
func ParseDisjoint(texts []string) (Set, error) {
	ranges, err := parseRanges(texts)
	if err != nil {
		return Set{}, err
	}
	order := make([]int, len(ranges))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return ranges[i].compare(ranges[j]) })
	// Sorted by first address, two overlapping entries mean that somewhere one overlaps its neighbour.
	for k := 1; k < len(order); k++ {
		i, j := min(order[k-1], order[k]), max(order[k-1], order[k])
		if ranges[i].overlaps(ranges[j]) {
			return Set{}, fmt.Errorf("[%d]: %q overlaps [%d] %q: list every address once", j, texts[j], i, texts[i])
		}
	}
	return MakeSet(ranges...), nil
}

func parseRanges(texts []string) ([]Range, error) {
	ranges := make([]Range, len(texts))
	for i, text := range texts {
		r, err := ParseRange(text)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		ranges[i] = r
	}
	return ranges, nil
}

// appendRange adds r to ranges, none of which begins after it, and joins it with the last one if they touch.
func appendRange(ranges []Range, r Range) []Range {
	if !r.IsValid() {
		return ranges
	}
	if len(ranges) == 0 {
		return append(ranges, r)
	}
	last := &ranges[len(ranges)-1]
	// Next of the last address of a family is the zero Addr, so the families never join.
	if r.from.Compare(last.to) > 0 && r.from != last.to.Next() {
		return append(ranges, r)
	}
	if last.to.Less(r.to) {
		last.to = r.to
	}
	return ranges
}

// Union returns the addresses that are in s, in t or in both.
func (s Set) Union(t Set) Set {
	if s.IsEmpty() {
		return t
	}
	if t.IsEmpty() {
		return s
	}
	a, b := s.ranges, t.ranges
	merged := make([]Range, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if b[0].from.Less(a[0].from) {
			a, b = b, a
		}
		merged = appendRange(merged, a[0])
		a = a[1:]
	}
	for _, r := range slices.Concat(a, b) {
		merged = appendRange(merged, r)
	}
	return Set{merged}
}

// Minus returns the addresses of s that are not in t.
func (s Set) Minus(t Set) Set {
	var left []Range
	cuts := t.ranges
	for _, r := range s.ranges {
		for len(cuts) > 0 && cuts[0].to.Less(r.from) {
			cuts = cuts[1:]
		}
		left, cuts = appendCut(left, r, cuts)
	}
	return Set{left}
}

// appendCut adds to left what remains of r without cuts, the first of which ends in or after r. It returns the cuts that
// may matter for the range after r.
func appendCut(left []Range, r Range, cuts []Range) (_, rest []Range) {
	for ; len(cuts) > 0 && cuts[0].from.Compare(r.to) <= 0; cuts = cuts[1:] {
		cut := cuts[0]
		if r.from.Less(cut.from) {
			left = append(left, Range{r.from, cut.from.Prev()})
		}
		if r.to.Compare(cut.to) <= 0 {
			return left, cuts
		}
		r.from = cut.to.Next()
	}
	return append(left, r), cuts
}

// Intersect returns the addresses that are both in s and in t.
func (s Set) Intersect(t Set) Set { return Set{slices.Collect(s.shared(t))} }

// Overlaps reports whether s and t share an address.
func (s Set) Overlaps(t Set) bool {
	for range s.shared(t) {
		return true
	}
	return false
}

// shared yields what the ranges of s and t have in common, in order. Two pieces never touch, for then a range of s and
// one of t would lie next to another of its own set.
func (s Set) shared(t Set) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for a, b := s.ranges, t.ranges; len(a) > 0 && len(b) > 0; {
			if a[0].overlaps(b[0]) && !yield(Range{higher(a[0].from, b[0].from), lower(a[0].to, b[0].to)}) {
				return
			}
			if b[0].to.Less(a[0].to) {
				a, b = b, a
			}
			a = a[1:]
		}
	}
}

func lower(a, b netip.Addr) netip.Addr {
	return slices.MinFunc([]netip.Addr{a, b}, netip.Addr.Compare)
}

func higher(a, b netip.Addr) netip.Addr {
	return slices.MaxFunc([]netip.Addr{a, b}, netip.Addr.Compare)
}

// With returns s and a. An a that no range can begin with (the zero Addr, IPv4-mapped, with a zone) adds nothing.
func (s Set) With(a netip.Addr) Set {
	if !isPlain(a) {
		return s
	}
	return s.Union(Set{[]Range{{a, a}}})
}

// Without returns s less a.
func (s Set) Without(a netip.Addr) Set {
	if !s.Contains(a) {
		return s
	}
	return s.Minus(Set{[]Range{{a, a}}})
}

// search returns the index of the first range that ends at or after a, the number of ranges if there is none.
func (s Set) search(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s.ranges, a, func(r Range, a netip.Addr) int { return r.to.Compare(a) })
	return i
}

// Contains reports whether a is in s, as Range.Contains does.
func (s Set) Contains(a netip.Addr) bool {
	i := s.search(a)
	return i < len(s.ranges) && s.ranges[i].Contains(a)
}

// ContainsSet reports whether every address of t is in s, which is true of the empty set.
func (s Set) ContainsSet(t Set) bool {
	for _, r := range t.ranges {
		i := s.search(r.from)
		if i == len(s.ranges) || r.from.Less(s.ranges[i].from) || s.ranges[i].to.Less(r.to) {
			return false
		}
	}
	return true
}

// IsEmpty reports whether s holds no address.
func (s Set) IsEmpty() bool { return len(s.ranges) == 0 }

// Equal reports whether s and t hold the same addresses.
func (s Set) Equal(t Set) bool { return slices.Equal(s.ranges, t.ranges) }

// Count returns how many addresses s holds, or 2^128-1 if that is less.
func (s Set) Count() Count {
	var n Count
	for _, r := range s.ranges {
		n = n.Add(r.Count())
	}
	return n
}

// Next returns the smallest member that is a or after it. A zone of a is left out of account. Before all members is the
// zero Addr, so Next of it is the first.
func (s Set) Next(a netip.Addr) (netip.Addr, bool) {
	a = a.WithZone("")
	i := s.search(a)
	if i == len(s.ranges) {
		return netip.Addr{}, false
	}
	return higher(a, s.ranges[i].from), true
}

// Nth returns the member that n members are smaller than: the first for 0. It is not ok if s has no more than n.
func (s Set) Nth(n Count) (netip.Addr, bool) {
	for _, r := range s.ranges {
		// Not Count, which falls one short for ::/0.
		last := number(r.to).Sub(number(r.from))
		if n.Cmp(last) <= 0 {
			return plus(r.from, n), true
		}
		n = n.Sub(last).Sub(CountOf(1))
	}
	return netip.Addr{}, false
}

// Random returns a member, each with the same chance. It is not ok if s is empty. Of a set whose Count stops at 2^128-1
// the members beyond that are never drawn.
func (s Set) Random(r *rand.Rand) (netip.Addr, bool) {
	if s.IsEmpty() {
		return netip.Addr{}, false
	}
	return s.Nth(below(r, s.Count()))
}

// Sampler is a set from which many members are drawn. It is made once, and then a draw costs the logarithm of the number of
// ranges, where one from the set itself costs that number.
type Sampler struct {
	Set
	upTo []Count // how many members the ranges up to each have
}

// MakeSampler returns s, ready for many draws.
func MakeSampler(s Set) Sampler {
	p := Sampler{s, make([]Count, len(s.ranges))}
	var n Count
	for i, r := range s.ranges {
		n = n.Add(r.Count())
		p.upTo[i] = n
	}
	return p
}

// Random returns a member as Set.Random does, and the same one.
func (p Sampler) Random(r *rand.Rand) (netip.Addr, bool) {
	if p.IsEmpty() {
		return netip.Addr{}, false
	}
	n := below(r, p.upTo[len(p.upTo)-1])
	i := sort.Search(len(p.upTo), func(i int) bool { return n.Cmp(p.upTo[i]) < 0 })
	if i > 0 {
		n = n.Sub(p.upTo[i-1])
	}
	return plus(p.ranges[i].from, n), true
}

// below returns a number from 0 to n-1, each with the same chance. n is not 0.
func below(r *rand.Rand, n Count) Count {
	if n.hi == 0 {
		return CountOf(r.Uint64N(n.lo))
	}
	// A number of n's length is below n at least every second time.
	mask := ^uint64(0) >> bits.LeadingZeros64(n.hi)
	for {
		if c := (Count{r.Uint64() & mask, r.Uint64()}); c.Cmp(n) < 0 {
			return c
		}
	}
}

// Ranges yields the ranges of s in order: disjoint, not adjacent, as few as can be.
func (s Set) Ranges() iter.Seq[Range] { return slices.Values(s.ranges) }

// Len returns the number of ranges.
func (s Set) Len() int { return len(s.ranges) }

// Strings returns the text of every range, nil if there is none: the lists of a spec or a status.
func (s Set) Strings() []string {
	var texts []string
	for _, r := range s.ranges {
		texts = append(texts, r.String())
	}
	return texts
}

// String returns the ranges with ", " between them.
func (s Set) String() string { return strings.Join(s.Strings(), ", ") }
