package addr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
)

// window is the 256 addresses that a model knows, in order, as pieces of neighbours. No piece is next to another.
type window struct {
	name   string
	pieces []Range
}

var windows = []window{
	{"IPv4 /24", []Range{mustRange("10.6.1.0-10.6.1.255")}},
	{"IPv4 across /24s", []Range{mustRange("10.6.0.129-10.6.1.128")}},
	{"IPv6 across 64 bits", []Range{mustRange("fd00::ffff:ffff:ffff:ff80-fd00:0:0:1::7f")}},
	{"edges of both families", []Range{
		mustRange("0.0.0.0-0.0.0.63"), mustRange("255.255.255.192-255.255.255.255"),
		mustRange("::-::3f"), mustRange("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
	}},
}

func mustRange(s string) Range {
	r, err := ParseRange(s)
	if err != nil {
		panic(err)
	}
	return r
}

func mustSet(texts ...string) Set {
	s, err := ParseSet(texts)
	if err != nil {
		panic(err)
	}
	return s
}

// slots lists the addresses of w.
func (w window) slots() []netip.Addr {
	var slots []netip.Addr
	for _, r := range w.pieces {
		for a := r.from; a.IsValid() && a.Compare(r.to) <= 0; a = a.Next() {
			slots = append(slots, a)
		}
	}
	return slots
}

// model is the slow and obvious set: is slot i a member?
type model [256]bool

func (m model) members(slots []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for i, in := range m {
		if in {
			list = append(list, slots[i])
		}
	}
	return list
}

func combine(a, b model, op func(a, b bool) bool) (c model) {
	for i := range c {
		c[i] = op(a[i], b[i])
	}
	return c
}

// pair is one set, once as the package keeps it, once as a model, once as netipx builds it.
type pair struct {
	set    Set
	model  model
	oracle *netipx.IPSet
}

func randomRange(r *rand.Rand, w window) Range {
	piece := w.pieces[r.IntN(len(w.pieces))]
	size, _ := piece.Count().Uint64()
	from := r.Uint64N(size)
	length := r.Uint64N(min(size-from, 1+r.Uint64N(40)))
	return Range{plus(piece.from, CountOf(from)), plus(piece.from, CountOf(from+length))}
}

func randomPair(r *rand.Rand, w window, slots []netip.Addr) pair {
	var p pair
	ranges := make([]Range, r.IntN(12))
	for i := range ranges {
		ranges[i] = randomRange(r, w)
		for j, a := range slots {
			p.model[j] = p.model[j] || ranges[i].Contains(a)
		}
	}
	p.set, p.oracle = MakeSet(ranges...), oracleOf(ranges)
	return p
}

func oracleOf(ranges []Range) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		b.AddRange(netipx.IPRangeFrom(r.from, r.to))
	}
	return mustIPSet(&b)
}

func mustIPSet(b *netipx.IPSetBuilder) *netipx.IPSet {
	s, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	return s
}

// step makes a new pair from two by a random operation.
func step(r *rand.Rand, w window, slots []netip.Addr, a, b pair) (op string, c pair) {
	i := r.IntN(len(slots))
	var ob netipx.IPSetBuilder
	ob.AddSet(a.oracle)
	c.model = a.model
	switch op = []string{"union", "minus", "intersect", "with", "without", "new"}[r.IntN(6)]; op {
	case "union":
		c.set = a.set.Union(b.set)
		c.model = combine(a.model, b.model, func(a, b bool) bool { return a || b })
		ob.AddSet(b.oracle)
	case "minus":
		c.set = a.set.Minus(b.set)
		c.model = combine(a.model, b.model, func(a, b bool) bool { return a && !b })
		ob.RemoveSet(b.oracle)
	case "intersect":
		c.set = a.set.Intersect(b.set)
		c.model = combine(a.model, b.model, func(a, b bool) bool { return a && b })
		ob.Intersect(b.oracle)
	case "with":
		c.set, c.model[i] = a.set.With(slots[i]), true
		ob.Add(slots[i])
	case "without":
		c.set, c.model[i] = a.set.Without(slots[i]), false
		ob.Remove(slots[i])
	case "new":
		return op, randomPair(r, w, slots)
	}
	c.oracle = mustIPSet(&ob)
	return op, c
}

func TestSetAgainstModel(t *testing.T) {
	for _, w := range windows {
		t.Run(w.name, func(t *testing.T) {
			slots := w.slots()
			if len(slots) != 256 {
				t.Fatalf("window of %d addresses, want 256", len(slots))
			}
			r := rand.New(rand.NewPCG(1, 2))
			known := []pair{{oracle: oracleOf(nil)}, randomPair(r, w, slots)}
			for n := range 3000 {
				a, b := known[r.IntN(len(known))], known[r.IntN(len(known))]
				aText, bText := a.set.String(), b.set.String()
				op, c := step(r, w, slots, a, b)
				if a.set.String() != aText || b.set.String() != bText {
					t.Fatalf("step %d: %s changed its operands", n, op)
				}
				if err := check(r, slots, c, b); err != nil {
					t.Fatalf("step %d: {%s} %s {%s} = {%s}: %v", n, aText, op, bText, c.set, err)
				}
				if known = append(known, c); len(known) > 20 {
					known = slices.Delete(known, 0, 1)
				}
			}
		})
	}
}

// check compares every question that can be asked of c with its model and its oracle; other is a set to compare it with.
func check(r *rand.Rand, slots []netip.Addr, c, other pair) error {
	if err := checkForm(c.set); err != nil {
		return err
	}
	if err := sameAsOracle(c.set, c.oracle); err != nil {
		return err
	}
	if err := checkMembers(slots, c); err != nil {
		return err
	}
	if err := checkRelations(c, other); err != nil {
		return err
	}
	a, ok := c.set.Random(r)
	if ok == c.set.IsEmpty() || ok && !c.set.Contains(a) {
		return fmt.Errorf("Random = %v, %v", a, ok)
	}
	return nil
}

// checkForm tests the invariant of Set.ranges.
func checkForm(s Set) error {
	for i, r := range s.ranges {
		if !r.IsValid() || r.from.Is4() != r.to.Is4() || r.to.Less(r.from) {
			return fmt.Errorf("range %d: {%v %v}", i, r.from, r.to)
		}
		if i > 0 && (r.from.Compare(s.ranges[i-1].to) <= 0 || r.from == s.ranges[i-1].to.Next()) {
			return fmt.Errorf("ranges %s and %s touch or are out of order", s.ranges[i-1], r)
		}
	}
	if s.ranges != nil && len(s.ranges) == 0 {
		return fmt.Errorf("empty set is not the zero value")
	}
	return nil
}

func sameAsOracle(s Set, oracle *netipx.IPSet) error {
	var texts []string
	for _, r := range oracle.Ranges() {
		texts = append(texts, Range{r.From(), r.To()}.String())
	}
	if !slices.Equal(s.Strings(), texts) {
		return fmt.Errorf("netipx has %v", texts)
	}
	return nil
}

func checkMembers(slots []netip.Addr, c pair) error {
	members := c.model.members(slots)
	if got := c.set.Count(); got != CountOf(uint64(len(members))) {
		return fmt.Errorf("Count = %v, want %d", got, len(members))
	}
	for i, a := range members {
		if got, ok := c.set.Nth(CountOf(uint64(i))); !ok || got != a {
			return fmt.Errorf("Nth(%d) = %v, %v, want %v", i, got, ok, a)
		}
	}
	if got, ok := c.set.Nth(CountOf(uint64(len(members)))); ok {
		return fmt.Errorf("Nth(%d) = %v of so many", len(members), got)
	}
	for i, a := range slots {
		if err := checkSlot(c, members, a, c.model[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkSlot(c pair, members []netip.Addr, a netip.Addr, in bool) error {
	if got := c.set.Contains(a); got != in {
		return fmt.Errorf("Contains(%v) = %v", a, got)
	}
	smaller, _ := slices.BinarySearchFunc(members, a, netip.Addr.Compare)
	if got, ok := c.set.Index(a); ok != in || in && got != CountOf(uint64(smaller)) {
		return fmt.Errorf("Index(%v) = %v, %v, want %d, %v", a, got, ok, smaller, in)
	}
	var want netip.Addr
	if smaller < len(members) {
		want = members[smaller]
	}
	if got, ok := c.set.Next(a); got != want || ok != want.IsValid() {
		return fmt.Errorf("Next(%v) = %v, %v, want %v", a, got, ok, want)
	}
	return nil
}

func checkRelations(c, other pair) error {
	contains, overlaps := true, false
	for i := range c.model {
		contains = contains && (c.model[i] || !other.model[i])
		overlaps = overlaps || c.model[i] && other.model[i]
	}
	if got := c.set.ContainsSet(other.set); got != contains {
		return fmt.Errorf("ContainsSet(%s) = %v", other.set, got)
	}
	if got := c.set.Overlaps(other.set); got != overlaps {
		return fmt.Errorf("Overlaps(%s) = %v", other.set, got)
	}
	if got := c.set.Equal(other.set); got != (c.model == other.model) {
		return fmt.Errorf("Equal(%s) = %v", other.set, got)
	}
	return nil
}

// Index is the inverse of Nth: it returns how many members are smaller than a, or 2^128-1 if that is less. It is not ok if a is no member.
func (s Set) Index(a netip.Addr) (Count, bool) {
	i := s.search(a)
	if i == len(s.ranges) || !s.ranges[i].Contains(a) {
		return Count{}, false
	}
	before := Set{s.ranges[:i]}.Count()
	return before.Add(number(a).Sub(number(s.ranges[i].from))), true
}

// Uint64 returns c if it is below 2^64.
func (c Count) Uint64() (n uint64, ok bool) {
	if c.hi != 0 {
		return 0, false
	}
	return c.lo, true
}
