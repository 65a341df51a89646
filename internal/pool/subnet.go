package pool

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// ParseSubnet reads s as Parse reads a pool: Addresses are those that it can
// give to pools.
func ParseSubnet(s *v2beta1.SpiderSubnet) (*Pool, field.ErrorList) {
	return parseSpec(asPool(s))
}

// asPool is a pool with all that a subnet has; nil of nil.
func asPool(s *v2beta1.SpiderSubnet) *v2beta1.SpiderIPPool {
	if s == nil {
		return nil
	}
	return &v2beta1.SpiderIPPool{Spec: v2beta1.IPPoolSpec{
		IPVersion: s.Spec.IPVersion, Subnet: s.Spec.Subnet, IPs: s.Spec.IPs, ExcludeIPs: s.Spec.ExcludeIPs,
		Gateway: s.Spec.Gateway, Routes: s.Spec.Routes,
	}}
}

// CheckSubnet judges what shall become of a subnet, as CheckPool does.
func CheckSubnet(before, after *v2beta1.SpiderSubnet, around Around) (v Verdict) {
	if before != nil {
		if equality.Semantic.DeepEqual(before.Spec, after.Spec) {
			return v
		}
		if err := checkFrozen("SpiderSubnet", before, before.Spec.Subnet, after.Spec.Subnet); err != nil {
			v.refuse(err)
			return v
		}
	}
	was, known := ParseSubnet(before)
	is, errs := ParseSubnet(after)
	v.refuseNew(errs, known)
	if is == nil {
		return v
	}
	var old []string
	if was != nil {
		old = was.Warnings
	}
	v.warnNew(is.Warnings, old)
	if before == nil {
		v.refuseDisabled(around, is.Family)
		v.checkNewSubnet(after, is, around)
	}
	v.checkTakenFromPools(after, ChangeOfPool(asPool(before), asPool(after)).Removed, around.Pools)
	return v
}

// CheckSubnetDeletion refuses to delete a subnet that has pools, for those who
// want that.
func CheckSubnetDeletion(s *v2beta1.SpiderSubnet, around Around) (v Verdict) {
	var names []string
	for i := range around.Pools {
		if belongs(&around.Pools[i], s) {
			names = append(names, around.Pools[i].Name)
		}
	}
	if s.DeletionTimestamp == nil && len(names) > 0 {
		v.refuse(field.Forbidden(specPath.Child("subnet"), fmt.Sprintf("the SpiderSubnet is in use by IPPool %s: delete the pools first", Few(names))))
	}
	return v
}

// belongs reports whether p is a pool of s.
func belongs(p *v2beta1.SpiderIPPool, s *v2beta1.SpiderSubnet) bool {
	named, ok := p.Labels[v2beta1.LabelOwnerSpiderSubnet]
	return p.Spec.Subnet == s.Spec.Subnet && (!ok || named == s.Name)
}

// checkNewSubnet keeps subnets apart from each other, and lets in only pools
// that are wholly inside.
func (v *Verdict) checkNewSubnet(s *v2beta1.SpiderSubnet, is *Pool, around Around) {
	overlaps := &overlaps{Verdict: v, allowed: allowsOverlap(s)}
	for i := range around.Subnets {
		other := &around.Subnets[i]
		if prefix, err := addr.ParsePrefix(other.Spec.Subnet); err == nil && other.Name != s.Name && prefix.Overlaps(is.Subnet) {
			overlaps.ofSubnets(overlap{"SpiderSubnet", other.Name, other.DeletionTimestamp != nil}, is.Subnet, prefix)
		}
	}
	outside := 0
	for i := range around.Pools {
		p := &around.Pools[i]
		prefix, err := addr.ParsePrefix(p.Spec.Subnet)
		if err != nil || !prefix.Overlaps(is.Subnet) {
			continue
		}
		if prefix != is.Subnet {
			overlaps.ofSubnets(overlap{"IPPool", p.Name, p.DeletionTimestamp != nil}, is.Subnet, prefix)
			continue
		}
		if parsed, _ := parseSpec(p); parsed != nil && belongs(p, s) {
			if missing := parsed.Addresses.Minus(is.Addresses); !missing.IsEmpty() && outside < maxOverlaps {
				outside++
				v.refuse(field.Forbidden(specPath.Child("ips"), fmt.Sprintf("IPPool %s of this subnet has IP ranges [%s] that the SpiderSubnet does not: add them",
					p.Name, Few(missing.Strings()))))
			}
		}
	}
	overlaps.end()
}

// checkTakenFromPools refuses to take away what pools of the subnet have.
func (v *Verdict) checkTakenFromPools(s *v2beta1.SpiderSubnet, removed addr.Set, pools []v2beta1.SpiderIPPool) {
	var used []string
	var shared addr.Set
	for i := range pools {
		p := &pools[i]
		if parsed, _ := parseSpec(p); parsed != nil && belongs(p, s) {
			if both := parsed.Addresses.Union(Announced(p)).Intersect(removed); !both.IsEmpty() {
				used = append(used, fmt.Sprintf("[%s] of IPPool %s", Few(both.Strings()), p.Name))
				shared = shared.Union(both)
			}
		}
	}
	if len(used) > 0 {
		v.refuse(field.Forbidden(takenBy(asPool(s), shared),
			fmt.Sprintf("remove IP ranges that are being used: %s: take them out of the pools first", Few(used))))
	}
}

// checkSubnet keeps the pools of a SpiderSubnet inside it.
func (e *poolEdit) checkSubnet() {
	if owner := OwnerOf(e.after, e.Subnets); owner != nil {
		e.checkInside(owner)
		return
	}
	for i := range e.Subnets {
		other := &e.Subnets[i]
		if prefix, err := addr.ParsePrefix(other.Spec.Subnet); e.before == nil && err == nil && prefix.Overlaps(e.is.Subnet) {
			e.warn(specPath.Child("subnet"), "%s overlaps with %s of SpiderSubnet %s, and the pool does not belong to it", e.is.Subnet, prefix, other.Name)
		}
	}
}

func (e *poolEdit) checkInside(owner *v2beta1.SpiderSubnet) {
	if e.Added.IsEmpty() {
		return
	}
	ips := specPath.Child("ips")
	whole, errs := ParseSubnet(owner)
	if whole == nil {
		e.refuse(field.Forbidden(ips, fmt.Sprintf("the SpiderSubnet %s of this pool is malformed, mend it first: %v", owner.Name, errs.ToAggregate())))
		return
	}
	if outside := e.Added.Minus(whole.Addresses); !outside.IsEmpty() {
		e.refuse(field.Forbidden(ips, fmt.Sprintf("IP ranges [%s] are not in SpiderSubnet %s: add them to it first", Few(outside.Strings()), owner.Name)))
	}
}
