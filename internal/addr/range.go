package addr

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Range is the addresses from its first to its last, both included, of one family. The zero Range is invalid and holds
// nothing. Ranges compare with ==.
type Range struct {
	// Both zero, or of one family, without zone, from <= to.
	from, to netip.Addr
}

// ParseRange reads "a" or "a-b", two addresses of one family, the lower first, no blanks: the grammar of every list of
// addresses in a pool, subnet or reservation. The error names s and what is wrong with it.
func ParseRange(s string) (Range, error) {
	if err := checkBlanks(s); err != nil {
		return Range{}, err
	}
	if strings.Contains(s, "/") {
		return Range{}, fmt.Errorf("%q is a subnet: write a range of addresses as first-last", s)
	}
	first, last, isPair := strings.Cut(s, "-")
	if !isPair {
		last = first
	}
	from, errFrom := ParseAddr(first)
	to, errTo := ParseAddr(last)
	err := cmp.Or(errFrom, errTo)
	switch {
	case err != nil && isPair:
		return Range{}, fmt.Errorf("%q is not a range of addresses: %w", s, err)
	case err != nil:
		return Range{}, err
	case from.Is4() != to.Is4():
		return Range{}, fmt.Errorf("%q mixes IPv4 and IPv6: write both addresses of one family", s)
	case to.Less(from):
		return Range{}, fmt.Errorf("%q has its higher address first: write %s-%s", s, to, from)
	}
	return Range{from, to}, nil
}

// MakeRange returns the range of both addresses and all between. It is not ok if their families differ, if to is below
// from, or if one of them is the zero Addr, IPv4-mapped or has a zone.
func MakeRange(from, to netip.Addr) (r Range, ok bool) {
	if !isPlain(from) || !isPlain(to) || from.Is4() != to.Is4() || to.Less(from) {
		return Range{}, false
	}
	return Range{from, to}, true
}

// PrefixRange returns all addresses of p, with the network and the broadcast address. A prefix that is not valid, or
// begins or ends in ::ffff:0:0/96, gives the zero Range.
func PrefixRange(p netip.Prefix) Range {
	if !p.IsValid() {
		return Range{}
	}
	first := p.Masked().Addr()
	r, _ := MakeRange(first, plus(first, hostMask(p)))
	return r
}

// hostMask is the number with all host bits of p set: its size less 1.
func hostMask(p netip.Prefix) Count {
	n := p.Addr().BitLen() - p.Bits()
	if n > 64 {
		return Count{^uint64(0) >> (128 - n), ^uint64(0)}
	}
	return Count{0, ^uint64(0) >> (64 - n)}
}

// Assignable returns the addresses of subnet p that a host may bear. Host bits of p do not matter.
//
//   - IPv4 up to /30: all but the network and the broadcast address (RFC 919 section 7, RFC 1122 section 3.2.1.3).
//   - IPv6 up to /126: all but the subnet-router anycast address, whose host part is zero (RFC 4291 section 2.6.1).
//   - /31 and /127: both (RFC 3021, RFC 6164). /32 and /128: the one.
//
// A prefix without a PrefixRange gives the zero Range.
func Assignable(p netip.Prefix) Range {
	r := PrefixRange(p)
	switch {
	case !r.IsValid() || p.Addr().BitLen()-p.Bits() <= 1:
		return r
	case r.Is4():
		return Range{r.from.Next(), r.to.Prev()}
	}
	return Range{r.from.Next(), r.to}
}

// From returns the first address, the zero Addr of the zero Range.
func (r Range) From() netip.Addr { return r.from }

// To returns the last address, the zero Addr of the zero Range.
func (r Range) To() netip.Addr { return r.to }

// IsValid reports whether r is other than the zero Range.
func (r Range) IsValid() bool { return r.from.IsValid() }

// Is4 reports whether r is a range of IPv4. A valid one that is not is of IPv6.
func (r Range) Is4() bool { return r.from.Is4() }

// Contains reports whether a is in r. An address with a zone is in none, and an IPv4-mapped one is in none of IPv4.
func (r Range) Contains(a netip.Addr) bool {
	return r.IsValid() && a.Zone() == "" && r.from.Compare(a) <= 0 && a.Compare(r.to) <= 0
}

// Count returns how many addresses r holds, 2^128-1 for ::/0.
func (r Range) Count() Count {
	if !r.IsValid() {
		return Count{}
	}
	return number(r.to).Sub(number(r.from)).Add(CountOf(1))
}

// String returns "a" or "a-b" in canonical text, as ParseRange reads it; "" for the zero Range.
func (r Range) String() string {
	switch {
	case !r.IsValid():
		return ""
	case r.from == r.to:
		return r.from.String()
	}
	return r.from.String() + "-" + r.to.String()
}

// compare orders ranges by their first address, then by their last.
func (r Range) compare(o Range) int {
	return cmp.Or(r.from.Compare(o.from), r.to.Compare(o.to))
}

// overlaps reports whether valid r and o share an address.
func (r Range) overlaps(o Range) bool {
	return r.from.Compare(o.to) <= 0 && o.from.Compare(r.to) <= 0
}
