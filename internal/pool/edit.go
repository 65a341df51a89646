package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Around is what an edit is judged by beside the object itself. What an edit
// does not need may be left out: see Change.
type Around struct {
	// IPv4 and IPv6 say which families pools may have.
	IPv4, IPv6 bool
	// ByController says that the controller's own account makes the edit.
	ByController bool
	// Pools, Subnets and Reserved are all of their kind, with or without the object
	// that is edited. Subnets are nil where the feature is off.
	Pools    []v2beta1.SpiderIPPool
	Subnets  []v2beta1.SpiderSubnet
	Reserved []v2beta1.SpiderReservedIP
	// Nodes are the addresses that nodes have (InternalIP).
	Nodes []NodeAddress
	// Held is who holds addresses that the edit takes away.
	Held Held
}

// NodeAddress is an address that a node has.
type NodeAddress struct {
	Node    string
	Address netip.Addr
}

// Held are addresses that are held.
type Held struct {
	Addresses addr.Set
	// Some are the entries of the first of them, to be named.
	Some []v2beta1.SpiderIP
}

// in is what of h is in set.
func (h Held) in(set addr.Set) Held {
	some := slices.DeleteFunc(slices.Clone(h.Some), func(ip v2beta1.SpiderIP) bool {
		a, err := addr.ParseAddr(ip.Spec.Address)
		return err != nil || !set.Contains(a)
	})
	return Held{h.Addresses.Intersect(set), some}
}

// String is "10.6.1.7 is being used by Pod shop/web-0, and 4 more".
func (h Held) String() string {
	var texts []string
	for _, ip := range h.Some {
		pod := ip.Spec.Pod.Namespace + "/" + ip.Spec.Pod.Name
		switch owner := keptFor(ip); {
		case owner != "":
			texts = append(texts, fmt.Sprintf("%s is kept for %s (pod %s)", ip.Spec.Address, owner, pod))
		case ip.Spec.Use == v2beta1.IPUseQuarantine:
			texts = append(texts, fmt.Sprintf("%s is in quarantine after Pod %s", ip.Spec.Address, pod))
		default:
			texts = append(texts, fmt.Sprintf("%s is being used by Pod %s", ip.Spec.Address, pod))
		}
	}
	if more := h.Addresses.Count().Sub(addr.CountOf(uint64(len(texts)))); !more.IsZero() {
		texts = append(texts, fmt.Sprintf("and %s more", more))
	}
	return strings.Join(texts, ", ")
}

// keptFor is the owner that an address is kept for, beside whose pod it is named; empty if a pod has it.
func keptFor(ip v2beta1.SpiderIP) string { return KeptFor(&ip.Spec, ip.Spec.Pod.Namespace) }

// freeKept is how to free the first of those that no pod has and that are kept; empty if there is none.
func (h Held) freeKept() string {
	for _, ip := range h.Some {
		if owner := keptFor(ip); owner != "" {
			return FreeKept(owner, ip.Name)
		}
	}
	return ""
}

// takeDown is what to do before addresses are taken away from who holds them.
func (h Held) takeDown() string {
	pods := slices.ContainsFunc(h.Some, func(ip v2beta1.SpiderIP) bool { return keptFor(ip) == "" }) ||
		h.Addresses.Count().Cmp(addr.CountOf(uint64(len(h.Some)))) > 0
	switch kept := h.freeKept(); {
	case kept == "":
		return "take these pods down first"
	case !pods:
		return "first " + kept
	default:
		return "take these pods down first; of what is kept, " + kept
	}
}

// Verdict says whether an edit may be stored: not if there is an error. Each
// error names its field. Warnings are for who makes the edit.
type Verdict struct {
	Errors   field.ErrorList
	Warnings []string
}

func (v *Verdict) refuse(errs ...*field.Error) { v.Errors = append(v.Errors, errs...) }

func (v *Verdict) warn(path *field.Path, format string, args ...any) {
	v.Warnings = append(v.Warnings, path.String()+": "+fmt.Sprintf(format, args...))
}

// An edit is judged by what it changes. A fault that was there before, be it an
// overlap or a malformed list that was stored while no webhook was there, is no
// reason to refuse an unrelated edit: an administrator who disables a pool at
// night must not have to mend it first, and the controller must be able to take
// its finalizer away. So addresses count if they are new to the pool, and errors
// if the object as it was did not have them.

// Change is what an edit changes of the addresses that a pool can give, or that
// a subnet can give to pools. Added must be compared with what others have, and
// Removed with what is held.
type Change struct{ Added, Removed addr.Set }

// ChangeOfPool compares two versions of a pool; before is nil for a new one. One
// that is malformed gives no address, so all are new when it is mended. But pods
// may hold some of it, and lose those that its lists no longer have, whatever
// else is malformed.
func ChangeOfPool(before, after *v2beta1.SpiderIPPool) (c Change) {
	was, _ := parseSpec(before)
	is, _ := parseSpec(after)
	if is != nil {
		c.Added = is.Addresses
	}
	if was != nil {
		c.Added = c.Added.Minus(was.Addresses)
	}
	had, ok := AddressesOf(before)
	has, known := AddressesOf(after)
	if ok && known {
		c.Removed = had.Minus(has)
	}
	return c
}

// parseSpec reads what people write of a pool, nil if there is none. What the
// controller recorded as reserved is not part of it: a slip there passes, and the
// addresses are the pool's after it.
func parseSpec(p *v2beta1.SpiderIPPool) (*Pool, field.ErrorList) {
	if p == nil {
		return nil, nil
	}
	bare := *p
	bare.Annotations = nil
	return Parse(&bare)
}

// poolEdit is an edit of a pool while it is judged. is is nil if after is malformed.
type poolEdit struct {
	Around
	Change
	Verdict
	before, after *v2beta1.SpiderIPPool
	is            *Pool
}

var specPath = field.NewPath("spec")

// CheckPool judges what shall become of a pool; before is nil for a new one.
// after is what would be stored, that is with what DefaultPool adds.
func CheckPool(before, after *v2beta1.SpiderIPPool, around Around) Verdict {
	e := &poolEdit{Around: around, before: before, after: after}
	if before != nil {
		if equality.Semantic.DeepEqual(before.Spec, after.Spec) {
			return Verdict{} // labels, finalizers, status
		}
		if err := checkFrozen("IPPool", before, before.Spec.Subnet, after.Spec.Subnet); err != nil {
			e.refuse(err)
			return e.Verdict
		}
	}
	e.parse()
	e.checkAffinity()
	e.checkAutomatic()
	e.checkHeld()
	if e.is != nil {
		e.checkFamily()
		e.checkOverlaps()
		e.checkSubnet()
		e.warnOfTaken()
	}
	return e.Verdict
}

// CheckPoolDeletion refuses to delete a pool of which addresses are held. For
// those who want that: a pool that is deleted stays until it is empty anyway.
func CheckPoolDeletion(p *v2beta1.SpiderIPPool, held Held) (v Verdict) {
	switch {
	case p.DeletionTimestamp != nil:
	case IsForeign(p):
		v.refuse(field.Forbidden(field.NewPath("status", "allocatedIPs"), foreign))
	case !held.Addresses.IsEmpty():
		v.refuse(field.Forbidden(specPath.Child("ips"), fmt.Sprintf("the IPPool is in use: %s: %s, %s", held, held.takeDown(), holders(p.Name))))
	}
	return v
}

// checkFrozen refuses what no edit may do, whatever else it does.
func checkFrozen(kind string, before metav1.Object, was, is string) *field.Error {
	switch {
	case before.GetDeletionTimestamp() != nil:
		return field.Forbidden(specPath, fmt.Sprintf("cannot update a terminating %s: it is being deleted and serves nobody", kind))
	case was != is:
		return field.Invalid(specPath.Child("subnet"), is, fmt.Sprintf("is immutable and was %s: make another object for another subnet", was))
	}
	return nil
}

// parse reads both versions and refuses what is newly malformed.
func (e *poolEdit) parse() {
	was, known := parseSpec(e.before)
	is, errs := parseSpec(e.after)
	var old []string
	if was != nil {
		old = was.Warnings
	}
	e.is, e.Change = is, ChangeOfPool(e.before, e.after)
	e.refuseNew(errs, known)
	if is != nil {
		e.warnNew(is.Warnings, old)
	}
}

// refuseNew refuses for those errors that were not known before, and warns of
// the others.
func (v *Verdict) refuseNew(errs, known field.ErrorList) {
	for _, err := range errs {
		if slices.ContainsFunc(known, func(k *field.Error) bool { return k.Error() == err.Error() }) {
			v.Warnings = append(v.Warnings, "malformed as before, serves nobody: "+err.Error())
		} else {
			v.refuse(err)
		}
	}
}

func (v *Verdict) warnNew(warnings, known []string) {
	const shown = 5 // API servers cut off what is too long
	fresh := slices.DeleteFunc(slices.Clone(warnings), func(w string) bool { return slices.Contains(known, w) })
	if more := len(fresh) - shown; more > 0 {
		fresh = append(fresh[:shown], fmt.Sprintf("and %d more warnings: see 'spiderpoolctl explain'", more))
	}
	v.Warnings = append(v.Warnings, fresh...)
}

// checkFamily refuses a new pool of a family that is switched off. One that is
// there may be edited.
func (e *poolEdit) checkFamily() {
	if e.before == nil {
		e.refuseDisabled(e.Around, e.is.Family)
	}
}

func (v *Verdict) refuseDisabled(a Around, f Family) {
	if f == IPv4 && !a.IPv4 || f == IPv6 && !a.IPv6 {
		v.refuse(field.Forbidden(specPath.Child("ipVersion"), fmt.Sprintf("%s is disabled: enable%s in conf.yml is false (feature.enable%s of the chart)", f, f, f)))
	}
}

// checkOverlaps keeps an address from being in two pools, unless somebody says
// that he means it.
func (e *poolEdit) checkOverlaps() {
	overlaps := &overlaps{Verdict: &e.Verdict, allowed: allowsOverlap(e.after)}
	for i := range e.Pools {
		other := &e.Pools[i]
		subnet, err := addr.ParsePrefix(other.Spec.Subnet)
		if other.Name == e.after.Name || err != nil || !subnet.Overlaps(e.is.Subnet) {
			continue
		}
		found := overlap{kind: "IPPool", name: other.Name, leaving: other.DeletionTimestamp != nil}
		if subnet != e.is.Subnet && e.before == nil {
			overlaps.ofSubnets(found, e.is.Subnet, subnet)
			continue
		}
		// One that is malformed gives no address, and is judged when it is mended.
		if parsed, _ := parseSpec(other); parsed != nil {
			overlaps.ofRanges(found, e.Added.Intersect(parsed.Addresses.Union(Announced(other))))
		}
	}
	overlaps.end()
}

// checkHeld refuses to take away addresses that pods hold of this pool. Those
// that they hold in the name of another pool are not taken from them.
func (e *poolEdit) checkHeld() {
	switch held := e.Held.in(e.Removed); {
	case e.Removed.IsEmpty():
	case IsForeign(e.before):
		e.refuse(field.Forbidden(takenBy(e.after, e.Removed), foreign))
	case !held.Addresses.IsEmpty():
		e.refuse(field.Forbidden(takenBy(e.after, held.Addresses),
			fmt.Sprintf("remove an IP address that is being used: %s: reserve it by a SpiderReservedIP, so that nobody gets it anew, and %s, %s",
				held, held.takeDown(), holders(e.after.Name))))
	}
}

// takenBy is the field by which a pool does not have the first of addresses.
func takenBy(p *v2beta1.SpiderIPPool, addresses addr.Set) *field.Path {
	first, _ := addresses.Nth(addr.Count{})
	excluded, _ := addr.ParseSet(p.Spec.ExcludeIPs)
	gateway, _ := addr.ParseAddr(deref(p.Spec.Gateway))
	switch {
	case first == gateway:
		return specPath.Child("gateway")
	case excluded.Contains(first):
		return specPath.Child("excludeIPs")
	}
	return specPath.Child("ips")
}

// warnOfTaken tells which of the new addresses nobody will get.
func (e *poolEdit) warnOfTaken() {
	ips := specPath.Child("ips")
	var nodes []string
	for _, n := range e.Nodes {
		if e.Added.Contains(n.Address) {
			nodes = append(nodes, fmt.Sprintf("%s of node %s", n.Address, n.Node))
		}
	}
	if len(nodes) > 0 {
		e.warn(ips, "addresses of nodes are given to nobody: %s", Few(nodes))
	}
	var reserved []string
	for i := range e.Reserved {
		if both := Reservation(&e.Reserved[i]).Intersect(e.Added); !both.IsEmpty() {
			reserved = append(reserved, fmt.Sprintf("%s by %s", Few(both.Strings()), e.Reserved[i].Name))
		}
	}
	if len(reserved) > 0 {
		e.warn(ips, "addresses that a SpiderReservedIP reserves are given to nobody: %s", Few(reserved))
	}
}

// foreign is why nothing may be taken from a pool whose holders are not in the
// ledger.
const foreign = "the status holds addresses of an older Spiderpool: run 'spiderpoolctl migrate' first"

// IsForeign reports whether a pool still is the ledger of an older Spiderpool:
// its status names addresses, and nothing in it is from here. Agents give no
// address of it, and nothing of it is touched until it is moved over.
func IsForeign(p *v2beta1.SpiderIPPool) bool {
	return p.Status.AllocatedIPs != nil && p.Status.ObservedGeneration == 0 && len(p.Status.Conditions) == 0
}

// holders is how to see who has addresses of a pool.
func holders(pool string) string {
	return fmt.Sprintf("'kubectl get spiderips --field-selector spec.pool=%s' lists all", pool)
}
