package pool

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Reservation is what r keeps from everybody. Each range counts on its own: one
// that is malformed does not set the others free. r may be nil.
func Reservation(r *v2beta1.SpiderReservedIP) addr.Set {
	if r == nil {
		return addr.Set{}
	}
	var ranges []addr.Range
	for _, text := range r.Spec.IPs {
		if one, err := addr.ParseRange(text); err == nil {
			ranges = append(ranges, one)
		}
	}
	return addr.MakeSet(ranges...)
}

// CheckReserved judges what shall become of a reservation; before is nil for a
// new one. Nothing forbids to reserve an address that is held: who holds it keeps
// it, which a warning tells. around.Held is all that is held of what is newly
// reserved.
func CheckReserved(before, after *v2beta1.SpiderReservedIP, around Around) (v Verdict) {
	var known field.ErrorList
	if before != nil {
		if equality.Semantic.DeepEqual(before.Spec, after.Spec) {
			return v
		}
		if err := checkFrozen("SpiderReservedIP", before, "", ""); err != nil {
			v.refuse(err)
			return v
		}
		known = parseReservation(before)
	}
	v.refuseNew(parseReservation(after), known)
	was, is := Reservation(before), Reservation(after)
	a, someBefore := was.Nth(addr.Count{})
	b, someAfter := is.Nth(addr.Count{})
	if someBefore && someAfter && FamilyOf(a) != FamilyOf(b) {
		v.refuse(field.Invalid(specPath.Child("ips"), Few(after.Spec.IPs), "the family is immutable: make another object for the other family"))
	}
	if held := around.Held.in(is.Minus(was)); !held.Addresses.IsEmpty() {
		text := "who holds a reserved address keeps it"
		if kept := held.freeKept(); kept != "" {
			text += "; of what is kept, " + kept
		}
		v.warn(specPath.Child("ips"), "%s: %s", held, text)
	}
	return v
}

func parseReservation(r *v2beta1.SpiderReservedIP) (errs field.ErrorList) {
	ips := specPath.Child("ips")
	if len(r.Spec.IPs) == 0 {
		return field.ErrorList{field.Required(ips, "name at least one address")}
	}
	set, err := addr.ParseSet(r.Spec.IPs)
	if err != nil {
		return field.ErrorList{field.Invalid(ips, Few(r.Spec.IPs), err.Error())}
	}
	first, _ := set.Nth(addr.Count{})
	for one := range set.Ranges() {
		if one.Is4() != first.Is4() {
			errs = append(errs, field.Invalid(ips, one.String(), "must be of one family: make one object for IPv4 and one for IPv6"))
			break
		}
	}
	if v := r.Spec.IPVersion; v != nil && Family(*v) != FamilyOf(first) {
		errs = append(errs, field.Invalid(specPath.Child("ipVersion"), *v, fmt.Sprintf("does not fit %s: write %d or leave it out", first, FamilyOf(first))))
	}
	return errs
}
