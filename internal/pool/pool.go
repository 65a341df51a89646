// Package pool says what a SpiderIPPool means: its addresses as a set, which
// pods it serves and why not, and which pools an ADD may take from. It is pure:
// the agent, admission and the command line share its one parser and its one
// set of rules.
package pool

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Family is an IP version, 4 or 6, as spec.ipVersion spells it.
type Family int

// The two families, in the order in which an ADD serves them.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both in serving order.
var Families = [...]Family{IPv4, IPv6}

// String is "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// FamilyOfSubnet returns the family of a network in its text form, 0 if it is
// none.
func FamilyOfSubnet(subnet string) Family {
	prefix, err := addr.ParsePrefix(subnet)
	if err != nil {
		return 0
	}
	return FamilyOf(prefix.Addr())
}

// Route is a route that pods of a pool get: Dst through GW.
type Route struct {
	Dst netip.Prefix
	GW  netip.Addr
}

// Pool is one SpiderIPPool, parsed. It is immutable.
type Pool struct {
	Name   string
	UID    types.UID
	Family Family
	Subnet netip.Prefix
	// Addresses are those that the pool has: ips without excludeIPs, the gateway
	// and what no host of the subnet may bear (see addr.Assignable).
	Addresses addr.Set
	// Reserved are addresses that the controller recorded as reserved: they are
	// given to nobody, and who has one keeps it.
	Reserved addr.Set
	// Gateway is the zero Addr when the pool has none.
	Gateway netip.Addr
	Routes  []Route
	Default bool
	// Automatic is what an automatic pool is made for; nil for any other.
	Automatic *Automatic
	// Warnings tell an administrator what was not taken as it is written.
	Warnings []string

	spec          v2beta1.IPPoolSpec // as written
	terminating   bool
	foreign       bool
	malformed     bool
	node, ns, pod labels.Selector
}

// Parse reads p. A pool with any error serves nobody; the errors name the
// field and what is wrong with it. It catches also what the CRD cannot say:
// the order of IPv6 bounds and overlaps within a list.
func Parse(p *v2beta1.SpiderIPPool) (*Pool, field.ErrorList) {
	spec := field.NewPath("spec")
	out := &Pool{
		Name:        p.Name,
		UID:         p.UID,
		Default:     deref(p.Spec.Default),
		Automatic:   AutomaticOf(p),
		spec:        p.Spec,
		terminating: p.DeletionTimestamp != nil,
		foreign:     IsForeign(p),
	}
	subnet, err := addr.ParsePrefix(p.Spec.Subnet)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(spec.Child("subnet"), p.Spec.Subnet, err.Error())}
	}
	out.Subnet, out.Family = subnet, FamilyOf(subnet.Addr())
	var errs field.ErrorList
	if v := p.Spec.IPVersion; v != nil && Family(*v) != out.Family {
		errs = append(errs, field.Invalid(spec.Child("ipVersion"), *v, fmt.Sprintf("subnet %s is %s", subnet, out.Family)))
	}
	errs = append(errs, out.parseAddresses(spec)...)
	if text := p.Annotations[v2beta1.AnnotationReserved]; text != "" {
		if out.Reserved, err = addr.ParseSet(strings.Split(text, ",")); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(v2beta1.AnnotationReserved), text, err.Error()))
		}
	}
	errs = append(errs, out.parseRoutes(spec.Child("routes"))...)
	errs = append(errs, out.parseSelectors(spec)...)
	if len(errs) > 0 {
		return nil, errs
	}
	return out, nil
}

// AddressesOf are those that a pool has: ips without excludeIPs, the gateway and
// what no host may bear. They do not depend on its other fields, of which one may
// be malformed; they are not ok if one of these is, or p is nil.
func AddressesOf(p *v2beta1.SpiderIPPool) (all addr.Set, ok bool) {
	if p == nil {
		return all, false
	}
	parsed, _ := Parse(&v2beta1.SpiderIPPool{Spec: v2beta1.IPPoolSpec{
		Subnet: p.Spec.Subnet, IPs: p.Spec.IPs, ExcludeIPs: p.Spec.ExcludeIPs, Gateway: p.Spec.Gateway,
	}})
	if parsed == nil {
		return all, false
	}
	return parsed.Addresses, true
}

// Outline is what can be read of a malformed pool: its name, family, whether it
// is a default and for whom it is automatic. It has no addresses. nil if not even
// the subnet can be read.
func Outline(p *v2beta1.SpiderIPPool) *Pool {
	subnet, err := addr.ParsePrefix(p.Spec.Subnet)
	if err != nil {
		return nil
	}
	return &Pool{Name: p.Name, Family: FamilyOf(subnet.Addr()), Default: deref(p.Spec.Default), Automatic: AutomaticOf(p), malformed: true}
}

func (p *Pool) parseAddresses(spec *field.Path) (errs field.ErrorList) {
	whole := addr.MakeSet(addr.PrefixRange(p.Subnet))
	list := func(name string, texts []string) addr.Set {
		set, err := addr.ParseDisjoint(texts)
		if err != nil {
			errs = append(errs, field.Invalid(spec.Child(name), Few(texts), err.Error()))
		} else if outside := set.Minus(whole); !outside.IsEmpty() {
			errs = append(errs, field.Invalid(spec.Child(name), Few(outside.Strings()), fmt.Sprintf("outside the subnet %s", p.Subnet)))
		}
		return set
	}
	ips := list("ips", p.spec.IPs)
	excluded := list("excludeIPs", p.spec.ExcludeIPs)
	p.Addresses = ips.Minus(excluded).Intersect(addr.MakeSet(addr.Assignable(p.Subnet)))

	if text := deref(p.spec.Gateway); text != "" {
		gateway, err := addr.ParseAddr(text)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(spec.Child("gateway"), text, err.Error()))
		case !p.Reaches(gateway):
			errs = append(errs, field.Invalid(spec.Child("gateway"), text, p.unreachable()))
		default:
			p.Gateway = gateway
			if p.Addresses.Contains(gateway) {
				p.Warnings = append(p.Warnings, fmt.Sprintf("%s: %s is in ips and is given to nobody", spec.Child("gateway"), gateway))
			}
			p.Addresses = p.Addresses.Without(gateway)
		}
	}
	return errs
}

func (p *Pool) parseRoutes(routes *field.Path) (errs field.ErrorList) {
	seen := map[netip.Prefix]bool{}
	for i, r := range p.spec.Routes {
		path := routes.Index(i)
		route, warning, err := ParseRoute(r.Dst, r.Gw)
		if warning != "" {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s: %s", path.Child("dst"), warning))
		}
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(path, r.Dst+" via "+r.Gw, err.Error()))
		case FamilyOf(route.GW) != p.Family:
			errs = append(errs, field.Invalid(path.Child("gw"), r.Gw, fmt.Sprintf("the pool is %s", p.Family)))
		case !p.Reaches(route.GW):
			errs = append(errs, field.Invalid(path.Child("gw"), r.Gw, p.unreachable()))
		case route.Dst.Bits() == 0:
			errs = append(errs, field.Invalid(path.Child("dst"), r.Dst, "the default route is not written here: set the gateway"))
		case seen[route.Dst]:
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s: %s is the destination of an earlier route, which counts", path, route.Dst))
		default:
			seen[route.Dst] = true
			p.Routes = append(p.Routes, route)
		}
	}
	return errs
}

// Reaches reports whether a next hop is on the link of the pool's interfaces: in
// the subnet, or a link-local IPv6 address, which is what routers announce
// (RFC 4861, section 4.2).
func (p *Pool) Reaches(hop netip.Addr) bool {
	return p.Subnet.Contains(hop) || p.Family == IPv6 && hop.Is6() && hop.IsLinkLocalUnicast()
}

// TakesRoute reports whether a route of a pod belongs to an interface that this
// pool serves: the one whose subnet holds the next hop. A link-local next hop
// says nothing of the interface; its route belongs to the first, eth0, so that
// no two interfaces get it.
func (p *Pool) TakesRoute(ifname string, r Route) bool {
	return p.Subnet.Contains(r.GW) || ifname == firstInterface && p.Reaches(r.GW)
}

// unreachable is why a next hop is refused.
func (p *Pool) unreachable() string {
	if p.Family == IPv6 {
		return fmt.Sprintf("outside the subnet %s: write an address of the router inside it, or its link-local address (fe80::/10)", p.Subnet)
	}
	return fmt.Sprintf("outside the subnet %s: write the router's address inside it", p.Subnet)
}

// ParseRoute reads one route; destination and gateway must be of one family.
// Host bits of the destination are masked, which a warning says.
func ParseRoute(dst, gw string) (r Route, warning string, err error) {
	prefix, exact, err := addr.ParseMasked(dst)
	var gateway netip.Addr
	if err == nil {
		gateway, err = addr.ParseAddr(gw)
	}
	switch {
	case err != nil:
		return Route{}, "", err
	case FamilyOf(prefix.Addr()) != FamilyOf(gateway):
		return Route{}, "", fmt.Errorf("destination %s and gateway %s are of different families", dst, gw)
	case !exact:
		warning = fmt.Sprintf("%s has host bits and counts as %s: write that", dst, prefix)
	}
	return Route{Dst: prefix, GW: gateway}, warning, nil
}

func (p *Pool) parseSelectors(spec *field.Path) (errs field.ErrorList) {
	selector := func(name string, s *metav1.LabelSelector) labels.Selector {
		if s == nil {
			return nil
		}
		parsed, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			errs = append(errs, field.Invalid(spec.Child(name), s, err.Error()))
		}
		return parsed
	}
	p.node = selector("nodeAffinity", p.spec.NodeAffinity)
	p.ns = selector("namespaceAffinity", p.spec.NamespaceAffinity)
	if p.Automatic == nil { // its podAffinity names the application
		p.pod = selector("podAffinity", p.spec.PodAffinity)
	}
	return errs
}

// Prefix is a with the length of the pool's subnet, as a pod's interface bears it.
func (p *Pool) Prefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, p.Subnet.Bits()) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
