package pool

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// maxOverlaps is how many other objects the answer to an edit names.
const maxOverlaps = 3

// overlap is another object that the one being edited overlaps with.
type overlap struct {
	kind, name string
	leaving    bool // it is being deleted, and gives no address any more
}

// overlaps judges them. Two pools may have an address where somebody says so,
// for the ledger still gives it to one pod only; by default it is taken for a
// slip.
type overlaps struct {
	*Verdict
	allowed         bool
	refused, warned int
}

func allowsOverlap(o metav1.Object) bool {
	return o.GetAnnotations()[v2beta1.AnnotationAllowOverlap] == "true"
}

func (o *overlaps) ofSubnets(found overlap, ours, theirs netip.Prefix) {
	o.judge(found, specPath.Child("subnet"), fmt.Sprintf("%s overlaps with %s of %s %s", ours, theirs, found.kind, found.name), "write another subnet, or the very same")
}

func (o *overlaps) ofRanges(found overlap, shared addr.Set) {
	if !shared.IsEmpty() {
		o.judge(found, specPath.Child("ips"), fmt.Sprintf("overlap with %s %s in IP ranges [%s]", found.kind, found.name, Few(shared.Strings())), "take them out of one of the two")
	}
}

func (o *overlaps) judge(found overlap, path *field.Path, text, way string) {
	if !found.leaving && !o.allowed {
		if o.refused++; o.refused <= maxOverlaps {
			o.refuse(field.Forbidden(path, fmt.Sprintf(`%s: %s, or set the annotation %s: "true"`, text, way, v2beta1.AnnotationAllowOverlap)))
		}
		return
	}
	why := "the annotation " + v2beta1.AnnotationAllowOverlap + " allows it"
	if found.leaving {
		why = "that one is being deleted"
	}
	if o.warned++; o.warned <= maxOverlaps {
		o.warn(path, "%s: %s, and each address is still given to one pod only", text, why)
	}
}

// end tells how many were not named.
func (o *overlaps) end() {
	if more := o.refused - maxOverlaps; more > 0 {
		o.refuse(field.Forbidden(specPath, fmt.Sprintf("and overlaps with %d more", more)))
	}
	if more := o.warned - maxOverlaps; more > 0 {
		o.warn(specPath, "and overlaps with %d more", more)
	}
}
