// Package addr holds IP addresses, ranges, sets of ranges and 128-bit counts as values on net/netip.
//
// Nothing here lists the members of a range: every operation costs what the number of ranges costs, so that a /64, or a
// /48 with 2^60 addresses taken out, is as cheap as a /28.
//
// IPv4-mapped IPv6 addresses (::ffff:0:0/96) and addresses with a zone are refused wherever an address enters: as text,
// and as an end of a range. An IPv6 range that spans the mapped block holds it as plain numbers.
package addr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// ParseAddr reads one IP address. Any spelling of RFC 4291 section 2.2 is accepted; the value has only one. Refused are
// IPv4-mapped IPv6 addresses, zones, and IPv4 numbers with leading zeros. The error names s.
func ParseAddr(s string) (netip.Addr, error) {
	if err := checkBlanks(s); err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address such as 10.6.1.7 or fd00::10: %s", s, reason(err))
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has the zone %q: leave the zone out", s, a.Zone())
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an IPv4-mapped IPv6 address: write it as the IPv4 address %s", s, a.Unmap())
	}
	return a, nil
}

// ParsePrefix reads a prefix in network form, that is without host bits: 10.1.0.0/16, fd00::/64. The error names s and,
// for a prefix with host bits, its network form.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, exact, err := ParseMasked(s)
	if err == nil && !exact {
		return netip.Prefix{}, fmt.Errorf("%q is not in network form: write %s", s, p)
	}
	return p, err
}

// ParseMasked reads a prefix that may have host bits, 10.1.2.3/16, and returns its network form, 10.1.0.0/16. exact says
// that it had none.
func ParseMasked(s string) (p netip.Prefix, exact bool, err error) {
	if err := checkBlanks(s); err != nil {
		return netip.Prefix{}, false, err
	}
	p, err = netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, false, fmt.Errorf("%q is not a subnet such as 10.6.0.0/16 or fd00::/64: %s", s, reason(err))
	case !PrefixRange(p).IsValid():
		return netip.Prefix{}, false, fmt.Errorf("%q reaches into ::ffff:0:0/96, the IPv4-mapped addresses: write an IPv4 subnet", s)
	}
	return p.Masked(), p == p.Masked(), nil
}

// Name returns the name of the SpiderIP object of a: IPv4 as it is written, 10.6.1.7; IPv6 with all 32 digits, and dashes
// where colons stand, for a Kubernetes name must be an RFC 1123 subdomain. The zero Addr, an IPv4-mapped one and one with
// a zone have no name: the result is "".
func Name(a netip.Addr) string {
	switch {
	case !isPlain(a):
		return ""
	case a.Is4():
		return a.String()
	}
	return strings.ReplaceAll(a.StringExpanded(), ":", "-")
}

// ParseName returns the address whose Name is s. Every other spelling of that address is refused, with the right one in
// the error.
func ParseName(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not the name of an IP address such as 10.6.1.7 or fd00-0000-0000-0000-0000-0000-0000-0010", s)
	}
	if name := Name(a.Unmap()); s != name {
		return netip.Addr{}, fmt.Errorf("%q is not the name of an IP address: the name of %s is %s", s, a.Unmap(), name)
	}
	return a, nil
}

// isPlain reports whether a may be an end of a range: IPv4, or IPv6 neither mapped nor with a zone.
func isPlain(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == ""
}

// checkBlanks gives the commonest slip its own message.
func checkBlanks(s string) error {
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%q has blanks in it: leave them out", s)
	}
	return nil
}

// reason is what net/netip says is wrong, without the names of calls and the quoted texts that it puts before.
func reason(err error) string {
	msg := err.Error()
	const end = `"): `
	if i := strings.LastIndex(msg, end); i >= 0 {
		return msg[i+len(end):]
	}
	return msg
}

// number returns a as a 128-bit number. The numbers of two addresses of one family differ by their distance.
func number(a netip.Addr) Count {
	b := a.As16()
	return Count{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// plus returns the address n after a, which the caller knows to be within a's family.
func plus(a netip.Addr, n Count) netip.Addr {
	n = number(a).Add(n)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
