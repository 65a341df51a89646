package addr

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParseAddr(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: "10.6.1.7", want: "10.6.1.7"},
		{in: "0.0.0.0", want: "0.0.0.0"},
		{in: "FD00::A", want: "fd00::a"},
		{in: "fd00:0000:0:0::0010", want: "fd00::10"},
		{in: "::", want: "::"},
		{in: "64:ff9b::1.2.3.4", want: "64:ff9b::102:304"},
		{in: "::1.2.3.4", want: "::102:304"},
		{in: "", err: `"" is not an IP address such as 10.6.1.7 or fd00::10: unable to parse IP`},
		{in: "10.0.0.300", err: `"10.0.0.300" is not an IP address such as 10.6.1.7 or fd00::10: IPv4 field has value >255`},
		{in: "010.0.0.1", err: `"010.0.0.1" is not an IP address such as 10.6.1.7 or fd00::10: IPv4 field has octet with leading zero`},
		{in: "10.0.0", err: `"10.0.0" is not an IP address`},
		{in: " 10.0.0.1", err: `" 10.0.0.1" has blanks in it: leave them out`},
		{in: "::ffff:1.2.3.4", err: `"::ffff:1.2.3.4" is an IPv4-mapped IPv6 address: write it as the IPv4 address 1.2.3.4`},
		{in: "::FFFF:0102:0304", err: `"::FFFF:0102:0304" is an IPv4-mapped IPv6 address: write it as the IPv4 address 1.2.3.4`},
		{in: "fe80::1%eth0", err: `"fe80::1%eth0" has the zone "eth0": leave the zone out`},
		{in: "::ffff:1.2.3.4%eth0", err: `has the zone "eth0"`},
	} {
		got, err := ParseAddr(tc.in)
		compareParsed(t, "ParseAddr", tc.in, got, err, tc.want, tc.err)
	}
}

func TestParsePrefix(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: "10.1.0.0/16", want: "10.1.0.0/16"},
		{in: "0.0.0.0/0", want: "0.0.0.0/0"},
		{in: "10.1.2.3/32", want: "10.1.2.3/32"},
		{in: "FD00:0::/64", want: "fd00::/64"},
		{in: "::/0", want: "::/0"},
		{in: "::1/128", want: "::1/128"},
		{in: "10.1.2.3/16", err: `"10.1.2.3/16" is not in network form: write 10.1.0.0/16`},
		{in: "fd00::1/64", err: `"fd00::1/64" is not in network form: write fd00::/64`},
		{in: "10.1.0.0", err: `"10.1.0.0" is not a subnet such as 10.6.0.0/16 or fd00::/64: no '/'`},
		{in: "10.1.0.0/33", err: `"10.1.0.0/33" is not a subnet such as 10.6.0.0/16 or fd00::/64: prefix length out of range`},
		{in: "10.1.0.0/016", err: `bad bits after slash: "016"`},
		{in: "10.300.0.0/16", err: `"10.300.0.0/16" is not a subnet such as 10.6.0.0/16 or fd00::/64: IPv4 field has value >255`},
		{in: "10.1.0.0 /16", err: `"10.1.0.0 /16" has blanks in it: leave them out`},
		{in: "fe80::%eth0/64", err: `IPv6 zones cannot be present in a prefix`},
		{in: "::ffff:10.0.0.0/104", err: `"::ffff:10.0.0.0/104" reaches into ::ffff:0:0/96, the IPv4-mapped addresses: write an IPv4 subnet`},
		{in: "::ffff:10.1.2.3/104", err: `reaches into ::ffff:0:0/96`},
		{in: "::fffe:0:0/95", err: `reaches into ::ffff:0:0/96`},
	} {
		got, err := ParsePrefix(tc.in)
		compareParsed(t, "ParsePrefix", tc.in, got, err, tc.want, tc.err)
	}
}

// compareParsed compares a parser's result with the text that the value should have, or with a part of the error.
func compareParsed[T interface {
	comparable
	String() string
}](t *testing.T, parser, in string, got T, err error, want, wantErr string) {
	t.Helper()
	var zero T
	switch {
	case wantErr == "" && (err != nil || got.String() != want):
		t.Errorf("%s(%q) = %v, %v, want %s", parser, in, got, err, want)
	case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Errorf("%s(%q): error %v, want one with %s", parser, in, err, wantErr)
	case wantErr != "" && got != zero:
		t.Errorf("%s(%q) = %v beside an error", parser, in, got)
	}
}

func TestName(t *testing.T) {
	for address, want := range map[string]string{
		"10.6.1.7":        "10.6.1.7",
		"0.0.0.0":         "0.0.0.0",
		"fd00::10":        "fd00-0000-0000-0000-0000-0000-0000-0010",
		"::":              "0000-0000-0000-0000-0000-0000-0000-0000",
		"2001:DB8::abc:1": "2001-0db8-0000-0000-0000-0000-0abc-0001",
		"::1.2.3.4":       "0000-0000-0000-0000-0000-0000-0102-0304",
	} {
		a := netip.MustParseAddr(address)
		if got := Name(a); got != want {
			t.Errorf("Name(%s) = %q, want %q", a, got, want)
		}
		if got, err := ParseName(want); err != nil || got != a {
			t.Errorf("ParseName(%q) = %v, %v, want %s", want, got, err, a)
		}
	}
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("::ffff:1.2.3.4"), netip.MustParseAddr("fe80::1%eth0")} {
		if got := Name(a); got != "" {
			t.Errorf("Name(%s) = %q, want none", a, got)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                    `"" is not the name of an IP address such as 10.6.1.7 or fd00-0000-`,
		"pool-1":              `"pool-1" is not the name of an IP address such as`,
		"10-6-1-7":            `is not the name of an IP address such as`,
		"010.6.1.7":           `is not the name of an IP address such as`,
		"fe80--1%eth0":        `is not the name of an IP address such as`,
		"fd00::10":            `"fd00::10" is not the name of an IP address: the name of fd00::10 is fd00-0000-0000-0000-0000-0000-0000-0010`,
		"fd00--10":            `the name of fd00::10 is fd00-0000-0000-0000-0000-0000-0000-0010`,
		"fd00-0-0-0-0-0-0-10": `the name of fd00::10 is fd00-0000-0000-0000-0000-0000-0000-0010`,
		"FD00-0000-0000-0000-0000-0000-0000-0010": `the name of fd00::10 is fd00-0000-0000-0000-0000-0000-0000-0010`,
		"fd00:0000:0000:0000:0000:0000:0000:0010": `the name of fd00::10 is fd00-0000-0000-0000-0000-0000-0000-0010`,
		"0000-0000-0000-0000-0000-ffff-0102-0304": `the name of 1.2.3.4 is 1.2.3.4`,
		"::ffff:1.2.3.4": `the name of 1.2.3.4 is 1.2.3.4`,
	} {
		if a, err := ParseName(in); err == nil || !strings.Contains(err.Error(), want) || a.IsValid() {
			t.Errorf("ParseName(%q) = %v, %v, want an error with %s", in, a, err, want)
		}
	}
}

func TestParseRange(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: "10.6.1.7", want: "10.6.1.7"},
		{in: "10.6.1.7-10.6.1.7", want: "10.6.1.7"},
		{in: "10.6.1.7-10.6.2.0", want: "10.6.1.7-10.6.2.0"},
		{in: "0.0.0.0-255.255.255.255", want: "0.0.0.0-255.255.255.255"},
		{in: "FD00::A-fd00:0::00ff", want: "fd00::a-fd00::ff"},
		{in: "::-FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF", want: "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{in: "", err: `"" is not an IP address`},
		{in: "-", err: `"-" is not a range of addresses: "" is not an IP address`},
		{in: "10.6.1.7-", err: `"10.6.1.7-" is not a range of addresses: "" is not an IP address`},
		{in: "-10.6.1.7", err: `"-10.6.1.7" is not a range of addresses: "" is not an IP address`},
		{in: "10.6.1.7-9", err: `"10.6.1.7-9" is not a range of addresses: "9" is not an IP address`},
		{in: "10.6.1.7-10.6.1.8-10.6.1.9", err: `"10.6.1.8-10.6.1.9" is not an IP address`},
		{in: "10.6.1.7 - 10.6.1.9", err: `"10.6.1.7 - 10.6.1.9" has blanks in it: leave them out`},
		{in: "10.6.1.7-10.6.1.9\n", err: `has blanks in it`},
		{in: "10.6.1.0/24", err: `"10.6.1.0/24" is a subnet: write a range of addresses as first-last`},
		{in: "10.6.1.9-10.6.1.7", err: `"10.6.1.9-10.6.1.7" has its higher address first: write 10.6.1.7-10.6.1.9`},
		{in: "10.6.1.7-fd00::1", err: `"10.6.1.7-fd00::1" mixes IPv4 and IPv6: write both addresses of one family`},
		{in: "fd00::1-10.6.1.7", err: `mixes IPv4 and IPv6`},
		{in: "::ffff:10.0.0.1", err: `write it as the IPv4 address 10.0.0.1`},
		{in: "::1-::ffff:10.0.0.1", err: `write it as the IPv4 address 10.0.0.1`},
		{in: "fe80::1%a-fe80::2%a", err: `has the zone "a"`},
	} {
		got, err := ParseRange(tc.in)
		compareParsed(t, "ParseRange", tc.in, got, err, tc.want, tc.err)
	}
}

func TestMakeRange(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		ok       bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.9", true},
		{"::", "ffff::", true},
		{"10.0.0.9", "10.0.0.1", false},
		{"10.0.0.1", "::1", false},
		{"::ffff:10.0.0.1", "::ffff:10.0.0.9", false},
		{"10.0.0.1", "::ffff:10.0.0.9", false},
		{"fe80::1%a", "fe80::2%a", false},
		{"fe80::1", "fe80::2%a", false},
		{"", "10.0.0.1", false},
		{"", "", false},
	} {
		from, _ := netip.ParseAddr(tc.from)
		to, _ := netip.ParseAddr(tc.to)
		r, ok := MakeRange(from, to)
		if ok != tc.ok || r.IsValid() != tc.ok || ok && (r.From() != from || r.To() != to) {
			t.Errorf("MakeRange(%s, %s) = %v, %v", tc.from, tc.to, r, ok)
		}
	}
}

func TestZeroRange(t *testing.T) {
	var r Range
	if r.IsValid() || r.Is4() || !r.Count().IsZero() || r.String() != "" || r.Contains(netip.Addr{}) || r.From().IsValid() || r.To().IsValid() {
		t.Errorf("the zero Range is not empty: %#v", r)
	}
}

func TestRangeContainsOnlyItsKind(t *testing.T) {
	for _, tc := range []struct {
		r, a string
		want bool
	}{
		{"10.0.0.1-10.0.0.9", "10.0.0.5", true},
		{"10.0.0.1-10.0.0.9", "::ffff:10.0.0.5", false},
		{"10.0.0.1-10.0.0.9", "::a00:5", false},
		{"fe80::1-fe80::9", "fe80::5", true},
		{"fe80::1-fe80::9", "fe80::5%eth0", false},
		{"::-ffff::", "10.0.0.5", false},
		{"::-ffff::", "::ffff:10.0.0.5", true},
	} {
		a := netip.MustParseAddr(tc.a)
		if got := mustRange(tc.r).Contains(a); got != tc.want {
			t.Errorf("%s contains %s: %v", tc.r, a, got)
		}
		if got := mustSet(tc.r).Contains(a); got != tc.want {
			t.Errorf("set of %s contains %s: %v", tc.r, a, got)
		}
	}
}

func TestPrefixRanges(t *testing.T) {
	for _, tc := range []struct{ prefix, all, assignable, count string }{
		{"10.1.0.0/16", "10.1.0.0-10.1.255.255", "10.1.0.1-10.1.255.254", "65536"},
		{"10.1.2.3/16", "10.1.0.0-10.1.255.255", "10.1.0.1-10.1.255.254", "65536"},
		{"0.0.0.0/0", "0.0.0.0-255.255.255.255", "0.0.0.1-255.255.255.254", "4294967296"},
		{"255.255.255.252/30", "255.255.255.252-255.255.255.255", "255.255.255.253-255.255.255.254", "4"},
		{"255.255.255.254/31", "255.255.255.254-255.255.255.255", "255.255.255.254-255.255.255.255", "2"},
		{"0.0.0.0/31", "0.0.0.0-0.0.0.1", "0.0.0.0-0.0.0.1", "2"},
		{"10.1.2.3/32", "10.1.2.3", "10.1.2.3", "1"},
		{"fd00::/64", "fd00::-fd00::ffff:ffff:ffff:ffff", "fd00::1-fd00::ffff:ffff:ffff:ffff", "18446744073709551616"},
		{"fd00::/63", "fd00::-fd00::1:ffff:ffff:ffff:ffff", "fd00::1-fd00::1:ffff:ffff:ffff:ffff", "36893488147419103232"},
		{"fd00::/48", "fd00::-fd00::ffff:ffff:ffff:ffff:ffff", "fd00::1-fd00::ffff:ffff:ffff:ffff:ffff", "1208925819614629174706176"},
		{"::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "340282366920938463463374607431768211455"},
		{"fd00::4/126", "fd00::4-fd00::7", "fd00::5-fd00::7", "4"},
		{"fd00::4/127", "fd00::4-fd00::5", "fd00::4-fd00::5", "2"},
		{"fd00::4/128", "fd00::4", "fd00::4", "1"},
		{"::ffff:1.2.3.0/120", "", "", "0"},
	} {
		p := netip.MustParsePrefix(tc.prefix)
		if got := PrefixRange(p); got.String() != tc.all || got.Count().String() != tc.count {
			t.Errorf("PrefixRange(%s) = %v of %v, want %s of %s", p, got, got.Count(), tc.all, tc.count)
		}
		if got := Assignable(p); got.String() != tc.assignable {
			t.Errorf("Assignable(%s) = %v, want %s", p, got, tc.assignable)
		}
	}
	if PrefixRange(netip.Prefix{}).IsValid() || Assignable(netip.Prefix{}).IsValid() {
		t.Error("an invalid prefix has addresses")
	}
}

func TestParseSet(t *testing.T) {
	for _, tc := range []struct {
		in            []string
		want, err     string
		errIfDisjoint string
	}{
		{in: nil, want: ""},
		{in: []string{"10.0.0.9", "10.0.0.1-10.0.0.8"}, want: "10.0.0.1-10.0.0.9"},
		{in: []string{"fd00::1", "255.255.255.255", "::", "10.0.0.1"}, want: "10.0.0.1, 255.255.255.255, ::, fd00::1"},
		{in: []string{"10.0.0.1", "", "x"}, err: `[1]: "" is not an IP address`},
		{in: []string{"10.0.0.1-10.0.0.0"}, err: `[0]: "10.0.0.1-10.0.0.0" has its higher address first`},
		{
			in: []string{"10.0.0.5", "10.0.0.5"}, want: "10.0.0.5",
			errIfDisjoint: `[1]: "10.0.0.5" overlaps [0] "10.0.0.5": list every address once`,
		},
		{
			in: []string{"10.0.0.50", "10.0.0.1", "10.0.0.7-10.0.0.9", "10.0.0.2-10.0.0.7"}, want: "10.0.0.1-10.0.0.9, 10.0.0.50",
			errIfDisjoint: `[3]: "10.0.0.2-10.0.0.7" overlaps [2] "10.0.0.7-10.0.0.9": list every address once`,
		},
		{
			in: []string{"fd00::1-fd00::f", "fd00::3-fd00::4", "fd00::7"}, want: "fd00::1-fd00::f",
			errIfDisjoint: `[1]: "fd00::3-fd00::4" overlaps [0] "fd00::1-fd00::f": list every address once`,
		},
	} {
		got, err := ParseSet(tc.in)
		compareSet(t, "ParseSet", tc.in, got, err, tc.want, tc.err)
		if tc.errIfDisjoint != "" {
			tc.want, tc.err = "", tc.errIfDisjoint
		}
		got, err = ParseDisjoint(tc.in)
		compareSet(t, "ParseDisjoint", tc.in, got, err, tc.want, tc.err)
	}
}

func compareSet(t *testing.T, parser string, in []string, got Set, err error, want, wantErr string) {
	t.Helper()
	switch {
	case wantErr == "" && err != nil, got.String() != want:
		t.Errorf("%s(%q) = {%v}, %v, want {%s}", parser, in, got, err, want)
	case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Errorf("%s(%q): error %v, want one with %s", parser, in, err, wantErr)
	}
}

func TestSetNextLeavesZonesOut(t *testing.T) {
	s := mustSet("10.0.0.1", "fe80::3-fe80::5")
	for in, want := range map[string]string{"": "10.0.0.1", "10.0.0.2": "fe80::3", "fe80::4%eth0": "fe80::4", "fe80::6": "invalid IP"} {
		a, _ := netip.ParseAddr(in)
		if got, ok := s.Next(a); got.String() != want || ok != got.IsValid() {
			t.Errorf("Next(%q) = %v, %v, want %s", in, got, ok, want)
		}
	}
}

func TestSetWithOddAddresses(t *testing.T) {
	s := mustSet("::-ffff::", "10.0.0.1")
	mapped := netip.MustParseAddr("::ffff:1.2.3.4")
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0"), mapped} {
		if got := s.With(a); !got.Equal(s) {
			t.Errorf("With(%s) = {%s}", a, got)
		}
		if got, empty := (Set{}).With(a), (Set{}); !got.Equal(empty) {
			t.Errorf("the empty set with %s = {%s}", a, got)
		}
		if got := s.Without(a); got.Contains(a) || !got.Equal(s) && a != mapped {
			t.Errorf("Without(%s) = {%s}", a, got)
		}
	}
}

func TestSetRanges(t *testing.T) {
	s := mustSet("fd00::1", "10.0.0.1-10.0.0.2")
	want := []Range{mustRange("10.0.0.1-10.0.0.2"), mustRange("fd00::1")}
	if got := slices.Collect(s.Ranges()); !slices.Equal(got, want) || s.Len() != 2 {
		t.Errorf("Ranges = %v, Len = %d, want %v", got, s.Len(), want)
	}
	if (Set{}).Strings() != nil || (Set{}).Len() != 0 || !(Set{}).IsEmpty() {
		t.Error("the zero Set is not empty")
	}
}

func TestMakeSetKeepsItsArgument(t *testing.T) {
	ranges := []Range{mustRange("10.0.0.9"), {}, mustRange("10.0.0.1-10.0.0.8")}
	before := slices.Clone(ranges)
	s := MakeSet(ranges...)
	if !slices.Equal(ranges, before) {
		t.Errorf("MakeSet changed its argument to %v", ranges)
	}
	clear(ranges)
	if s.String() != "10.0.0.1-10.0.0.9" {
		t.Errorf("the set follows its argument: {%s}", s)
	}
}
