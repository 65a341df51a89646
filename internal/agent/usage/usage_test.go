package usage

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

// brings is a LIST that is sent now; as real ones it takes time, or two would be sent at the same moment.
func brings(u *Pool, taken addr.Set) (sent time.Time) {
	time.Sleep(time.Millisecond)
	sent = time.Now()
	u.Brought(taken, sent)
	return sent
}

func set(t testing.TB, texts ...string) addr.Set {
	t.Helper()
	s, err := addr.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestListsArePaced: while a pool looks full its LISTs become rare, by 1, 2, 4 and then 8 s less jitter; a free address ends
// that. A hurried ADD waits 1 s at most.
func TestListsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newPool()
		if !u.Next(false).Before(time.Now()) {
			t.Error("the first LIST has to wait")
		}
		look := func(full bool) time.Duration {
			sent := brings(u, addr.Set{})
			u.Judge(sent, full)
			u.Judge(sent, !full) // who comes second has no say
			if hurried := u.Next(true).Sub(sent); hurried > FirstGap || hurried > u.Next(false).Sub(sent) {
				t.Errorf("a hurried ADD waits %s", hurried)
			}
			return u.Next(false).Sub(sent)
		}
		last := time.Duration(0)
		for n := range 8 {
			most := max(FirstGap, min(2*last, LastGap))
			if n == 0 {
				most = FirstGap
			}
			if last = look(true); last < most*3/4 || last > most {
				t.Errorf("pause %d is %s, want %s to %s", n, last, most*3/4, most)
			}
		}
		if gap := look(false); gap != 0 {
			t.Errorf("the pool had a free address, and the next LIST waits %s", gap)
		}
		if gap := look(true); gap < FirstGap*3/4 || gap > FirstGap {
			t.Errorf("then it was full, and the next LIST waits %s", gap)
		}
	})
}

// TestOldLists: one that was sent before the last says nothing, and no more does who judges by it.
func TestOldLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newPool()
		first := brings(u, set(t, "10.1.0.1"))
		second := brings(u, set(t, "10.1.0.2"))
		u.Brought(set(t, "10.1.0.3"), first)
		if !u.listed.Equal(set(t, "10.1.0.2")) || !u.sent.Equal(second) {
			t.Errorf("it goes by %s", u.listed)
		}
		if u.Judge(first, true); !u.Next(false).Equal(second) {
			t.Error("what an old LIST showed counts")
		}
		if u.Judge(second, true); !u.Next(false).After(second) {
			t.Error("what the last LIST showed does not count")
		}
	})
}

// TestFailedLists: the next keeps a distance from one that failed, also for those in a hurry; what was known stays.
func TestFailedLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newPool()
		brings(u, set(t, "10.1.0.1"))
		time.Sleep(time.Minute)
		u.Failed()
		for _, hurried := range []bool{false, true} {
			if got := time.Until(u.Next(hurried)); got != FirstGap {
				t.Errorf("hurried %t: the next LIST is in %s", hurried, got)
			}
		}
		if !u.isTaken(netip.MustParseAddr("10.1.0.1")) {
			t.Error("what was known is forgotten")
		}
		if sent := brings(u, addr.Set{}); u.isTaken(netip.MustParseAddr("10.1.0.1")) || u.Next(true).Sub(sent) > FirstGap {
			t.Error("the LIST after that does not count")
		}
	})
}

// foreignText prints what is known to be held in the name of other pools.
func (u *Pool) foreignText(from addr.Set) (out []string) {
	for r := range from.Ranges() {
		for a := r.From(); a.IsValid() && a.Compare(r.To()) <= 0; a = a.Next() {
			if u.isUnlikely(a) {
				out = append(out, a.String())
			}
		}
	}
	return out
}

// TestForeign: an address that a LIST of its pool calls free and a create calls taken is tried last for 60 s, or until it is
// seen free, won, or in a LIST in the pool's own name; a LIST that calls it free does not end that.
func TestForeign(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	all := set(t, "10.1.0.1-10.1.0.3")
	for _, tc := range []struct {
		name string
		do   func(u *Pool)
		want string
	}{
		{"taken, as far as this node knows", func(u *Pool) { u.Lost(a, false) }, "[]"},
		{"free in a LIST", func(u *Pool) { u.Lost(a, true) }, "[10.1.0.1]"},
		{"taken, and then free in a LIST", func(u *Pool) { u.Lost(a, false); u.Lost(a, true) }, "[10.1.0.1]"},
		{"foreign, and seen taken by one without a LIST", func(u *Pool) { u.Lost(a, true); u.Lost(a, false) }, "[10.1.0.1]"},
		{"two, after 60 s of the first", func(u *Pool) {
			u.Lost(a, true)
			time.Sleep(foreignFor / 2)
			u.Lost(b, true)
			time.Sleep(foreignFor/2 + 1)
		}, "[10.1.0.2]"},
		{"seen again after 60 s less 1 ns", func(u *Pool) {
			u.Lost(a, true)
			time.Sleep(foreignFor - 1)
			u.Lost(a, true)
			time.Sleep(foreignFor - 1)
		}, "[10.1.0.1]"},
		{"won", func(u *Pool) { u.Lost(a, true); u.Won(a) }, "[]"},
		{"released", func(u *Pool) { u.Lost(a, true); u.Release(a) }, "[]"},
		{"in a LIST", func(u *Pool) { u.Lost(a, true); u.Lost(b, true); brings(u, set(t, "10.1.0.1")) }, "[10.1.0.2]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newPool()
				brings(u, addr.Set{})
				tc.do(u)
				if got := fmt.Sprint(u.foreignText(all)); got != tc.want {
					t.Errorf("foreign are %s, want %s", got, tc.want)
				}
				random := seeded()
				for range 20 { // what is likely is always tried first
					got, ok := u.Pick(all, nil, random)
					if _, foreign := u.foreign[got]; !ok || foreign {
						t.Errorf("picked %s, %t", got, ok)
					}
					u.Tried(got)
				}
			})
		})
	}
	u := newPool()
	u.Lost(a, true)
	u.Won(b)
	if got, ok := u.Pick(set(t, "10.1.0.1-10.1.0.2"), nil, seeded()); !ok || got != a {
		t.Errorf("nothing but a foreign address is left, and it picked %s, %t", got, ok)
	}
	if got, ok := u.Pick(all, map[netip.Addr]bool{a: true, c: true}, seeded()); ok {
		t.Errorf("all were tried or are taken, and it picked %s", got)
	}
}

// slow is usage as plain as it can be: a map of all addresses.
type slow struct {
	listed, taken map[netip.Addr]bool
	foreign       map[netip.Addr]time.Time
	trying        map[netip.Addr]int
	free          map[netip.Addr]time.Time // since when, of those that came free
}

// rested reports whether an address did not come free within a time.
func (s *slow) rested(a netip.Addr, within time.Duration) bool {
	since, came := s.free[a]
	return !came || time.Since(since) > within
}

func (s *slow) likely(a netip.Addr) bool {
	since, foreign := s.foreign[a]
	return !s.taken[a] && s.trying[a] == 0 && (!foreign || time.Since(since) > foreignFor)
}

// step does one random thing to both.
func (s *slow) step(u *Pool, random *rand.Rand, all []netip.Addr) string {
	a := all[random.IntN(len(all))]
	switch op := random.IntN(20); {
	case op < 6:
		u.Won(a)
		s.taken[a] = true
		delete(s.foreign, a)
		return "won " + a.String()
	case op < 12:
		u.Release(a)
		s.taken[a] = false
		s.free[a] = time.Now()
		delete(s.foreign, a)
		return "released " + a.String()
	case op < 16:
		free := random.IntN(2) == 0
		u.Lost(a, free)
		if _, foreign := s.foreign[a]; free || foreign {
			s.foreign[a] = time.Now()
			s.taken[a] = s.taken[a] && s.listed[a] // a LIST that has it knows better
		} else {
			s.taken[a] = true
		}
		return fmt.Sprintf("lost %s, free in a LIST: %t", a, free)
	case op < 18:
		time.Sleep(time.Duration(random.Int64N(int64(foreignFor / 2))))
		return "time passed"
	}
	var listed []addr.Range
	before := s.listed
	s.listed = map[netip.Addr]bool{}
	for _, b := range all {
		if random.IntN(3) > 0 {
			r, _ := addr.MakeRange(b, b)
			listed = append(listed, r)
			s.listed[b] = true
			delete(s.foreign, b)
		}
		s.taken[b] = s.listed[b]
		if before[b] && !s.listed[b] {
			s.free[b] = time.Now()
		}
	}
	brings(u, addr.MakeSet(listed...))
	return "a LIST"
}

// TestUsageModel compares usage with the slow one after each of many random steps.
func TestUsageModel(t *testing.T) {
	for _, texts := range [][]string{{"10.1.0.0-10.1.0.5", "10.1.0.8-10.1.0.30"}, {"fd01::fffe-fd01::1:8"}} {
		for seed := range uint64(20) {
			synctest.Test(t, func(t *testing.T) { compareUsage(t, set(t, texts...), rand.New(rand.NewPCG(seed, 7))) })
		}
	}
}

func compareUsage(t *testing.T, whole addr.Set, random *rand.Rand) {
	var all []netip.Addr
	for r := range whole.Ranges() {
		for a := r.From(); a.Compare(r.To()) <= 0; a = a.Next() {
			all = append(all, a)
		}
	}
	u := newPool()
	s := &slow{listed: map[netip.Addr]bool{}, taken: map[netip.Addr]bool{}, foreign: map[netip.Addr]time.Time{}, trying: map[netip.Addr]int{}, free: map[netip.Addr]time.Time{}}
	for range 300 {
		did := s.step(u, random, all)
		for _, a := range all {
			if u.isTaken(a) != s.taken[a] {
				t.Fatalf("after %q %s is taken: %t, want %t", did, a, u.isTaken(a), s.taken[a])
			}
			if since, ok := s.foreign[a]; ok && time.Since(since) > foreignFor {
				delete(s.foreign, a)
			}
			if _, foreign := s.foreign[a]; u.isUnlikely(a) != (foreign || s.trying[a] > 0) {
				t.Fatalf("after %q %s is unlikely: %t", did, a, u.isUnlikely(a))
			}
		}
		candidates, tried := whole, map[netip.Addr]bool{}
		for range random.IntN(4) {
			a := all[random.IntN(len(all))]
			candidates = candidates.Without(a) // an edit, or what is asked for
			tried[all[random.IntN(len(all))]] = true
		}
		s.compare(t, u, did, all, candidates, tried, random)
		for a, n := range s.trying {
			if n > 0 && random.IntN(3) == 0 {
				u.Tried(a)
				s.trying[a]--
			}
		}
	}
	for a, n := range s.trying {
		for range n {
			u.Tried(a)
		}
	}
	if len(u.trying) != 0 {
		t.Errorf("%d are still being tried", len(u.trying))
	}
}

// compare picks, and holds what it gets and what is left to what a look at each address says.
func (s *slow) compare(t *testing.T, u *Pool, did string, all []netip.Addr, candidates addr.Set, tried map[netip.Addr]bool, random *rand.Rand) {
	t.Helper()
	possible, likely, rested, unlisted, unlistedLikely := 0, 0, 0, 0, false
	for _, a := range all {
		if tried[a] || !candidates.Contains(a) {
			continue
		}
		if !s.taken[a] {
			possible++
		}
		if s.likely(a) {
			likely++
			if s.rested(a, 2*restFor) {
				rested++
			}
		}
		if !s.listed[a] {
			unlisted++
			_, foreign := s.foreign[a]
			unlistedLikely = unlistedLikely || !foreign
		}
	}
	if left, ok := u.Left(candidates, u.listed, tried); left.Count() != addr.CountOf(uint64(unlisted)) || ok != unlistedLikely {
		t.Fatalf("after %q %s are left, some likely: %t; want %d, %t", did, left, ok, unlisted, unlistedLikely)
	}
	if got := u.LikelyFree(candidates, tried, random); got != (likely > 0) {
		t.Fatalf("after %q some are likely free: %t, and there are %d", did, got, likely)
	}
	a, ok := u.Pick(candidates, tried, random)
	if ok != (possible > 0) {
		t.Fatalf("after %q of %s it picked %s, %t, and %d are possible", did, candidates, a, ok, possible)
	}
	if !ok {
		return
	}
	if tried[a] || s.taken[a] || !candidates.Contains(a) || likely > 0 && !s.likely(a) {
		t.Fatalf("after %q of %s it picked %s: taken %t, likely %t of %d", did, candidates, a, s.taken[a], s.likely(a), likely)
	}
	if rested > 0 && !s.rested(a, restFor) {
		t.Fatalf("after %q it picked %s, which came free %s ago, and %d others are free for longer", did, a, time.Since(s.free[a]), rested)
	}
	s.trying[a]++
}

// TestRest: what came free is picked last for a minute, and picked all the same if nothing else is free.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := set(t, "10.1.0.1-10.1.0.9")
		u, random := newPool(), seeded()
		freed := netip.MustParseAddr("10.1.0.5")
		listed := netip.MustParseAddr("10.1.0.6")
		u.Won(freed)
		u.Release(freed)
		brings(u, set(t, "10.1.0.6"))
		brings(u, set(t, "10.1.0.9")) // another node has released 10.1.0.6
		for _, want := range []int{6, 2} {
			for range want {
				a, ok := u.Pick(all, nil, random)
				if rests := a == freed || a == listed; !ok || rests != (want == 2) {
					t.Errorf("%s is picked, and of %d one should be", a, want)
				}
				u.Won(a)
				u.Tried(a)
			}
		}
		if a, ok := u.Pick(all, nil, random); ok {
			t.Errorf("%s is picked, and all are taken", a)
		}
		u.Release(freed)
		time.Sleep(2*restFor + time.Second)
		u.Release(listed)
		if a, _ := u.Pick(all, nil, random); a != freed {
			t.Errorf("%s is picked, and %s has been free for longer", a, freed)
		}
	})
}

// TestHugeUsage: of 2^64 addresses one is found that is free, also if it is the only one, and also if what is taken is only
// known to this node.
func TestHugeUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		huge := addr.MakeSet(addr.PrefixRange(netip.MustParsePrefix("fd01::/64")))
		only := netip.MustParseAddr("fd01::dead:beef")
		for name, tc := range map[string]struct {
			listed addr.Set
			taken  int
			want   netip.Addr
		}{
			"empty":           {addr.Set{}, 0, netip.Addr{}},
			"all but one":     {huge.Without(only), 0, only},
			"all":             {huge, 0, netip.Addr{}},
			"all but a known": {huge.Minus(set(t, "fd01::1:0-fd01::1:fff", "fd01::dead:beef")), 1 << 12, only},
		} {
			u, random := newPool(), seeded()
			brings(u, tc.listed)
			for n, a := 0, netip.MustParseAddr("fd01::1:0"); n < tc.taken; n, a = n+1, a.Next() {
				u.Won(a)
			}
			a, ok := u.Pick(huge, nil, random)
			if ok != !tc.listed.Equal(huge) || tc.want.IsValid() && a != tc.want {
				t.Errorf("%s: picked %s, %t", name, a, ok)
			}
			if left, likely := u.Left(huge, u.listed, nil); likely == left.IsEmpty() {
				t.Errorf("%s: %s is left, likely: %t", name, left.Count(), likely)
			}
		}
	})
}

// TestChangesKept: what is remembered beside the LIST is bounded, whatever the node tries.
func TestChangesKept(t *testing.T) {
	u := newPool()
	a := netip.MustParseAddr("fd01::")
	for range 2*changesKept + 10 {
		u.Won(a)
		u.Lost(a.Next(), false)
		u.Lost(a, true)
		u.Release(a.Next())
		u.Lost(a.Next(), false)
		if len(u.taken) > changesKept || len(u.foreign) > changesKept || len(u.freed) > 0 {
			t.Fatalf("%d taken, %d foreign and %d freed are remembered", len(u.taken), len(u.foreign), len(u.freed))
		}
		a = a.Next().Next()
	}
	if len(u.taken) == 0 || len(u.foreign) == 0 {
		t.Error("nothing is remembered")
	}
	brings(u, addr.Set{})
	if len(u.taken) != 0 {
		t.Errorf("%d are remembered beside a new LIST", len(u.taken))
	}
}

// TestUsagesOfPoolsThatExist forgets the others.
func TestUsagesOfPoolsThatExist(t *testing.T) {
	s := &Pools{}
	kept := s.Of("a")
	s.Of("b")
	s.KeepOnly(func(pool string) bool { return pool == "a" })
	var names []any
	s.pools.Range(func(name, _ any) bool { names = append(names, name); return true })
	if len(names) != 1 || s.Of("a") != kept {
		t.Errorf("%v are remembered", names)
	}
}

// knownPool is a pool of which some addresses are taken at random, as a LIST said.
type knownPool struct {
	usage      *Pool
	candidates addr.Set
}

func newKnownPool(subnet string, taken int) *knownPool {
	candidates := addr.MakeSet(addr.PrefixRange(netip.MustParsePrefix(subnet)))
	random := rand.New(rand.NewPCG(3, 4)) // not those that an ADD draws
	var ranges []addr.Range
	seen := map[netip.Addr]bool{}
	for len(ranges) < taken {
		if a, _ := candidates.Random(random); !seen[a] {
			seen[a] = true
			r, _ := addr.MakeRange(a, a)
			ranges = append(ranges, r)
		}
	}
	p := &knownPool{newPool(), candidates}
	p.usage.Brought(addr.MakeSet(ranges...), time.Now())
	p.usage.freeOf(candidates)
	return p
}

// add is what an ADD and its DEL do to the usage of a pool.
func (p *knownPool) add(tb testing.TB, random *rand.Rand) {
	a, ok := p.usage.Pick(p.candidates, nil, random)
	if !ok {
		tb.Fatal("nothing is free")
	}
	p.usage.Tried(a)
	p.usage.Won(a)
	p.usage.Release(a)
}

// The pools of the benchmark: one of a cluster, one of a team, and one so full that most draws meet a taken address.
var knownPools = []struct {
	name, subnet string
	taken        int
}{
	{"50 taken of a 24", "10.1.0.0/24", 50},
	{"50000 taken of a 15", "10.2.0.0/15", 50000},
	{"65000 taken of a 16", "10.4.0.0/16", 65000},
	{"50000 taken of an IPv6 112", "fd01::/112", 50000},
}

func BenchmarkSearch(b *testing.B) {
	for _, k := range knownPools {
		b.Run(k.name, func(b *testing.B) {
			p, random := newKnownPool(k.subnet, k.taken), seeded()
			b.ReportMetric(float64(p.usage.listed.Len()), "ranges")
			b.ReportAllocs()
			for b.Loop() {
				p.add(b, random)
			}
		})
	}
}

// TestSearchAllocations: what an ADD allocates to find a free address does not depend on how large its pool is.
func TestSearchAllocations(t *testing.T) {
	var small float64
	for n, k := range knownPools {
		p, random := newKnownPool(k.subnet, k.taken), seeded()
		got := testing.AllocsPerRun(1000, func() { p.add(t, random) })
		if n == 0 {
			small = got
		}
		if got > small {
			t.Errorf("%s: %v allocations, and %v of the small pool", k.name, got, small)
		}
	}
}
