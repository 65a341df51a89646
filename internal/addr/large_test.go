package addr

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// A /48 is 2^80 addresses. Of it 2^60 are excluded, in one piece.
var (
	slash48   = MakeSet(PrefixRange(netip.MustParsePrefix("fd00:6::/48")))
	excluded  = MakeSet(PrefixRange(netip.MustParsePrefix("fd00:6:0:0:1000::/68")))
	remaining = slash48.Minus(excluded)
)

func TestLargeSets(t *testing.T) {
	if got, want := remaining.Count().String(), "1208924666693124567859200"; got != want { // 2^80 - 2^60
		t.Fatalf("Count = %s, want %s", got, want)
	}
	if got, want := remaining.String(), "fd00:6::-fd00:6::fff:ffff:ffff:ffff, fd00:6:0:0:2000::-fd00:6:0:ffff:ffff:ffff:ffff:ffff"; got != want {
		t.Errorf("ranges %s, want %s", got, want)
	}
	last := remaining.Count().Sub(CountOf(1))
	for _, tc := range []struct {
		n    Count
		want string
	}{
		{Count{}, "fd00:6::"},
		{CountOf(1<<60 - 1), "fd00:6::fff:ffff:ffff:ffff"},
		{CountOf(1 << 60), "fd00:6:0:0:2000::"},
		{Count{1, 0}, "fd00:6:0:1:1000::"},
		{last, "fd00:6:0:ffff:ffff:ffff:ffff:ffff"},
	} {
		a, ok := remaining.Nth(tc.n)
		if !ok || a.String() != tc.want {
			t.Errorf("Nth(%v) = %v, %v, want %s", tc.n, a, ok, tc.want)
		}
		if n, ok := remaining.Index(a); !ok || n != tc.n {
			t.Errorf("Index(%v) = %v, %v, want %v", a, n, ok, tc.n)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		if a, ok := remaining.Random(r); !ok || !remaining.Contains(a) || excluded.Contains(a) || !slash48.Contains(a) {
			t.Fatalf("Random = %v, %v", a, ok)
		}
	}
	if !remaining.Union(excluded).Equal(slash48) || remaining.Overlaps(excluded) || !slash48.ContainsSet(remaining) {
		t.Error("a /48 less a part, and the part, do not make the /48")
	}
	if got := sparseSlash8().Count().String(); got != "838861" {
		t.Errorf("a /8 with 95%% excluded holds %s", got)
	}
}

// sparseSlash8 is 10.0.0.0/8 without all but its first twentieth.
func sparseSlash8() Set {
	return MakeSet(PrefixRange(netip.MustParsePrefix("10.0.0.0/8"))).Minus(mustSet("10.12.204.205-10.255.255.255"))
}

// A set of both whole families holds 2^32 + 2^128 addresses, more than a Count.
func TestWholeFamilies(t *testing.T) {
	all := MakeSet(PrefixRange(netip.MustParsePrefix("0.0.0.0/0")), PrefixRange(netip.MustParsePrefix("::/0")))
	if all.Len() != 2 || all.Count() != maxCount {
		t.Errorf("{%s} counts %v", all, all.Count())
	}
	first, ok := all.Nth(CountOf(1 << 32))
	if !ok || first != netip.IPv6Unspecified() {
		t.Errorf("after IPv4 comes %v, %v", first, ok)
	}
	v6 := mustSet("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	if last, ok := v6.Nth(maxCount); !ok || last.Next().IsValid() {
		t.Errorf("Nth(2^128-1) of all IPv6 = %v, %v", last, ok)
	}
	if a, ok := all.Random(rand.New(rand.NewPCG(7, 8))); !ok || !all.Contains(a) {
		t.Errorf("Random = %v, %v", a, ok)
	}
	if got := all.Minus(all); !got.IsEmpty() {
		t.Errorf("all less all = {%s}", got)
	}
}

// The mapped block inside a wide range counts as numbers, and cutting at its edges loses nothing.
func TestRangeAcrossMappedBlock(t *testing.T) {
	wide := mustSet("::fffe:0:0-::1:0:0:0")
	if got := wide.Count().String(); got != "8589934593" {
		t.Errorf("Count = %s", got)
	}
	a, ok := wide.Nth(CountOf(1<<32 + 5))
	if !ok || a != netip.MustParseAddr("::ffff:0.0.0.5") {
		t.Errorf("Nth in the block = %v, %v", a, ok)
	}
	left := wide.Minus(mustSet("::fffe:0:0-::fffe:ffff:ffff"))
	if left.Count().String() != "4294967297" || !left.Contains(a) || !left.Union(mustSet("::fffe:0:0-::fffe:ffff:ffff")).Equal(wide) {
		t.Errorf("left = {%s}", left)
	}
}

// Every member is drawn as often as any other: a chi-squared test that a fixed seed makes repeatable.
func TestRandomIsUniform(t *testing.T) {
	s := mustSet("0.0.0.0-0.0.0.2", "255.255.255.250-255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff9")
	const members, draws = 20, 200_000
	seen := map[netip.Addr]int{}
	r := rand.New(rand.NewPCG(9, 10))
	for range draws {
		a, _ := s.Random(r)
		seen[a]++
	}
	var chi float64
	for _, n := range seen {
		d := float64(n) - draws/members
		chi += d * d / (draws / members)
	}
	// 43.8 is passed by one fair source in a thousand (19 degrees of freedom).
	if len(seen) != members || chi > 43.8 {
		t.Errorf("%d members drawn, chi-squared %.1f", len(seen), chi)
	}
	if a, ok := (Set{}).Random(r); ok {
		t.Errorf("the empty set gave %v", a)
	}
}

// A sampler draws what its set would, and the set's other questions are answered as before.
func TestSampler(t *testing.T) {
	for _, s := range []Set{{}, dense(1000), MakeSet(PrefixRange(netip.MustParsePrefix("::/0"))),
		mustSet("0.0.0.0-0.0.0.2", "255.255.255.250-255.255.255.255", "::", "fd00::-fd00:0:0:2:ffff:ffff:ffff:ffff")} {
		p := MakeSampler(s)
		ours, its := rand.New(rand.NewPCG(9, 10)), rand.New(rand.NewPCG(9, 10))
		for range 1000 {
			got, ok := p.Random(ours)
			if want, wantOK := s.Random(its); got != want || ok != wantOK {
				t.Fatalf("of %d ranges it drew %v, %t; want %v, %t", s.Len(), got, ok, want, wantOK)
			}
		}
		if !p.Equal(s) || p.Count() != s.Count() {
			t.Errorf("of %s it is %s", s, p)
		}
	}
	if a, ok := (Sampler{}).Random(nil); ok {
		t.Errorf("the zero sampler drew %v", a)
	}
}

// Above 2^64 a number is drawn in two halves; each eighth of a range of 3*2^64 must get its share.
func TestRandomAbove64Bits(t *testing.T) {
	s := mustSet("fd00::-fd00:0:0:2:ffff:ffff:ffff:ffff")
	r := rand.New(rand.NewPCG(11, 12))
	var seen [24]int
	const draws = 240_000
	for range draws {
		a, _ := s.Random(r)
		n, _ := s.Index(a)
		seen[n.hi*8+n.lo>>61]++
	}
	var chi float64
	for _, n := range seen {
		d := float64(n) - draws/24
		chi += d * d / (draws / 24)
	}
	if chi > 49.7 { // one in a thousand, 23 degrees of freedom
		t.Errorf("chi-squared %.1f: %v", chi, seen)
	}
}

func TestQuestionsAllocateNothing(t *testing.T) {
	s := dense(1000)
	a := netip.MustParseAddr("10.0.1.1")
	r := rand.New(rand.NewPCG(13, 14))
	p := MakeSampler(s)
	for name, ask := range map[string]func(){
		"Sampler":     func() { p.Random(r) },
		"Contains":    func() { s.Contains(a) },
		"ContainsSet": func() { s.ContainsSet(s) },
		"Overlaps":    func() { s.Overlaps(s) },
		"Next":        func() { s.Next(a) },
		"Nth":         func() { s.Nth(CountOf(500)) },
		"Index":       func() { s.Index(a) },
		"Count":       func() { s.Count() },
		"Random":      func() { s.Random(r) },
	} {
		if n := testing.AllocsPerRun(100, ask); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// dense returns a set of n ranges of one address each.
func dense(n int) Set {
	ranges := make([]Range, n)
	a := netip.MustParseAddr("10.0.0.0")
	for i := range ranges {
		one := plus(a, CountOf(uint64(2*i)))
		ranges[i] = Range{one, one}
	}
	return MakeSet(ranges...)
}

func BenchmarkSlash48(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	a, _ := remaining.Random(r)
	n, _ := remaining.Index(a)
	benchmark(b, map[string]func(){
		"Contains": func() { remaining.Contains(a) },
		"Count":    func() { remaining.Count() },
		"Nth":      func() { remaining.Nth(n) },
		"Random":   func() { remaining.Random(r) },
		"Minus":    func() { slash48.Minus(excluded) },
		"Without":  func() { remaining.Without(a) },
	})
}

// Ten thousand ranges are a pool of 20,000 addresses whose every second one is taken.
func BenchmarkTenThousandRanges(b *testing.B) {
	s, t := dense(10_000), dense(10_000).Without(netip.MustParseAddr("10.0.20.0"))
	r := rand.New(rand.NewPCG(1, 1))
	a := netip.MustParseAddr("10.0.16.0")
	benchmark(b, map[string]func(){
		"Contains": func() { s.Contains(a) },
		"Next":     func() { s.Next(a) },
		"Count":    func() { s.Count() },
		"Random":   func() { s.Random(r) },
		"Minus":    func() { s.Minus(t) },
		"Union":    func() { s.Union(t) },
		"Without":  func() { s.Without(a) },
		"Strings":  func() { _ = s.Strings() },
	})
}

func benchmark(b *testing.B, ops map[string]func()) {
	for name, op := range ops {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				op()
			}
		})
	}
}
