package addr

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"go4.org/netipx"
)

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{
		"10.6.1.7", "10.6.1.7-10.6.1.9", "10.6.1.9-10.6.1.7", "fd00::10-fd00::1f", "FD00:0::A", "::ffff:1.2.3.4", "fe80::1%eth0",
		"10.0.0.0/24", "", "-", "a-b-c", "10.6.1.7 - 10.6.1.9", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "0.0.0.0-255.255.255.255",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			if r != (Range{}) || err.Error() == "" {
				t.Fatalf("ParseRange(%q) = %v, %v", s, r, err)
			}
			return
		}
		if made, ok := MakeRange(r.From(), r.To()); !ok || made != r {
			t.Errorf("MakeRange of the ends of %q = %v, %v", s, made, ok)
		}
		if again, err := ParseRange(r.String()); err != nil || again != r {
			t.Errorf("%q is printed as %q, which is read as %v, %v", s, r, again, err)
		}
		for _, a := range []netip.Addr{r.From(), r.To()} {
			if back, err := ParseName(Name(a)); err != nil || back != a {
				t.Errorf("ParseName(Name(%v)) = %v, %v", a, back, err)
			}
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"10.6.1.7", "fd00-0000-0000-0000-0000-0000-0000-0010", "fd00--10", "fd00::10", "::ffff-1.2.3.4", "010.6.1.7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseName(s); err == nil && Name(a) != s {
			t.Errorf("ParseName(%q) = %v, whose name is %q", s, a, Name(a))
		}
	})
}

// decodeRanges makes ranges of bytes, six for each: an anchor for either end, and how far from it the end is. The
// anchors are close to the edges of the families, of the mapped block, and of 64 bits.
func decodeRanges(data []byte) []Range {
	anchors := []netip.Addr{
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.6.0.0"), netip.MustParseAddr("255.255.0.0"),
		netip.MustParseAddr("::"), netip.MustParseAddr("::fffe:ffff:8000"), netip.MustParseAddr("::ffff:255.255.128.0"),
		netip.MustParseAddr("fd00::ffff:ffff:ffff:8000"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
	}
	var ranges []Range
	for ; len(data) >= 6; data = data[6:] {
		from := plus(anchors[data[0]%8], CountOf(uint64(binary.BigEndian.Uint16(data[2:]))))
		to := plus(anchors[data[1]%8], CountOf(uint64(binary.BigEndian.Uint16(data[4:]))))
		if r, ok := MakeRange(from, to); ok {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

func FuzzSetOps(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 1, 0, 10, 0, 20, 1, 1, 0, 21, 0, 30}, []byte{1, 1, 0, 15, 0, 25})
	f.Add([]byte{0, 2, 0, 0, 255, 255, 3, 7, 0, 0, 255, 255}, []byte{2, 2, 255, 255, 255, 255, 3, 3, 0, 0, 0, 0})
	f.Add([]byte{3, 7, 0, 0, 255, 255}, []byte{4, 4, 0, 0, 127, 255, 6, 6, 127, 0, 129, 0})
	f.Fuzz(func(t *testing.T, x, y []byte) {
		a, b := decodeRanges(x), decodeRanges(y)
		s, u := MakeSet(a...), MakeSet(b...)
		checkFuzzed(t, "union", s.Union(u), func(o *netipx.IPSetBuilder) { o.AddSet(oracleOf(b)) }, a)
		checkFuzzed(t, "minus", s.Minus(u), func(o *netipx.IPSetBuilder) { o.RemoveSet(oracleOf(b)) }, a)
		checkFuzzed(t, "intersect", s.Intersect(u), func(o *netipx.IPSetBuilder) { o.Intersect(oracleOf(b)) }, a)
		both := s.Intersect(u)
		if s.Overlaps(u) == both.IsEmpty() || s.ContainsSet(u) != both.Equal(u) {
			t.Errorf("{%s} and {%s}: Overlaps %v, ContainsSet %v, Intersect {%s}", s, u, s.Overlaps(u), s.ContainsSet(u), both)
		}
		if !s.Minus(u).Union(both).Equal(s) {
			t.Errorf("{%s} without and with its part in {%s} is {%s}", s, u, s.Minus(u).Union(both))
		}
	})
}

func checkFuzzed(t *testing.T, op string, got Set, apply func(*netipx.IPSetBuilder), ranges []Range) {
	t.Helper()
	var b netipx.IPSetBuilder
	b.AddSet(oracleOf(ranges))
	apply(&b)
	if err := checkForm(got); err != nil {
		t.Errorf("%s: %v", op, err)
	}
	if err := sameAsOracle(got, mustIPSet(&b)); err != nil {
		t.Errorf("%s = {%s}: %v", op, got, err)
	}
	size := CountOf(0)
	for r := range got.Ranges() {
		for _, a := range []netip.Addr{r.From(), r.To()} {
			index, ok := got.Index(a)
			if index == maxCount && got.Count() == maxCount {
				continue // perhaps stopped there: not the one index of a
			}
			if back, found := got.Nth(index); !ok || !found || back != a {
				t.Errorf("%s = {%s}: Index(%v) = %v, %v; Nth of it %v, %v", op, got, a, index, ok, back, found)
			}
		}
		size = size.Add(r.Count())
	}
	if got.Count() != size {
		t.Errorf("%s = {%s}: Count %v, its ranges %v", op, got, got.Count(), size)
	}
}
