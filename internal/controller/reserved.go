package controller

import (
	"slices"
	"strings"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

const (
	// reservedLimit bounds the annotation, and with it status.observedReserved, in bytes.
	reservedLimit = 128 << 10
	// annotationsLimit is what the API server takes of all annotations together
	// (k8s.io/apimachinery/pkg/api/validation, TotalAnnotationSizeLimitB).
	annotationsLimit = 256 << 10
)

// Reserved is the text of the annotation of a pool with these addresses: those
// that SpiderReservedIPs keep from pods and those that nodes have, as ranges with
// commas between them; empty if there are none. If that is longer than room, what
// nodes have comes first, for the agents do not see it otherwise; cut is how many
// addresses are left out.
func Reserved(addresses, reserved, nodes addr.Set, room int) (text string, cut addr.Count) {
	ofNodes := addresses.Intersect(nodes)
	all := ofNodes.Union(addresses.Intersect(reserved))
	text = strings.Join(all.Strings(), ",")
	if len(text) <= room {
		return text, cut
	}
	var kept []addr.Range
	for _, r := range slices.AppendSeq(slices.Collect(ofNodes.Ranges()), all.Minus(ofNodes).Ranges()) {
		if room -= len(r.String()) + len(","); room < 0 {
			break
		}
		kept = append(kept, r)
	}
	set := addr.MakeSet(kept...)
	return strings.Join(set.Strings(), ","), all.Count().Sub(set.Count())
}

// roomForReserved is how long the annotation of a pool may be beside its others.
func roomForReserved(o *v2beta1.SpiderIPPool) int {
	room := annotationsLimit - len(v2beta1.AnnotationReserved)
	for key, value := range o.Annotations {
		if key != v2beta1.AnnotationReserved {
			room -= len(key) + len(value)
		}
	}
	return max(0, min(room, reservedLimit))
}
