package autopool

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// maxRanges is how many ranges a pool may have (see the definition of its kind).
const maxRanges = 1000

// newPool is a pool without addresses. taken says which names are others'.
func newPool(k key, w *want, subnet *v2beta1.SpiderSubnet, taken func(name string) bool) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: nameOf(k, w.UID, taken)},
		Spec: v2beta1.IPPoolSpec{Subnet: subnet.Spec.Subnet, PodAffinity: w.Affinity()}}
	pool.DefaultPool(p, []v2beta1.SpiderSubnet{*subnet}) // it inherits gateway and routes
	label(p, k, w)
	return p
}

// nameOf is auto4-web-eth0-1a2b3: family, application and interface, and the beginning of the last part of the application's
// UID, more of which is taken where two would have one name. It is the same whoever makes it; afterwards a pool is recognised by
// what it is for.
func nameOf(k key, uid string, taken func(string) bool) string {
	part := uid[strings.LastIndexByte(uid, '-')+1:]
	for _, suffix := range []string{part[:min(5, len(part))], part, uid, k.Kind + "-" + uid} {
		end := strings.ToLower("-" + strings.ReplaceAll(k.Interface, "_", "-") + "-" + suffix)
		name := strings.ToLower(fmt.Sprintf("auto%d-%s", int(k.family), k.Name))
		name = strings.TrimRight(name[:min(len(name), validation.DNS1123SubdomainMaxLength-len(end))], "-.") + end
		if !taken(name) {
			return name
		}
	}
	return "" // never: of one UID there is one application
}

// label writes on a pool whom it is for, where people and tools look for that. What is too long for a label is left out.
func label(p *v2beta1.SpiderIPPool, k key, w *want) {
	gv, _ := schema.ParseGroupVersion(w.APIVersion)
	reclaim := "true"
	if w.Ask.Keep {
		reclaim = "false"
	}
	for name, value := range map[string]string{
		v2beta1.LabelOwnerApplicationGV:   strings.TrimPrefix(gv.Group+"_"+gv.Version, "_"),
		v2beta1.LabelOwnerApplicationKind: k.Kind, v2beta1.LabelOwnerApplicationNamespace: k.Namespace, v2beta1.LabelOwnerApplicationName: k.Name,
		v2beta1.LabelOwnerApplicationUID: w.UID, v2beta1.LabelInterface: k.Interface,
		v2beta1.LabelIPPoolReclaim: reclaim, v2beta1.LabelIPVersion: k.family.String(),
	} {
		if len(validation.IsValidLabelValue(value)) == 0 {
			metav1.SetMetaDataLabel(&p.ObjectMeta, name, value)
		}
	}
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, v2beta1.AnnotationIPPoolIPNumber, w.number)
}

// stays reports whether a pool is not deleted with its application.
func stays(p *v2beta1.SpiderIPPool) bool { return p.Labels[v2beta1.LabelIPPoolReclaim] == "false" }

// ranges are those of a pool as they are written, without those that nobody can read.
func ranges(p *v2beta1.SpiderIPPool) addr.Set {
	set, err := addr.ParseSet(p.Spec.IPs)
	if err != nil {
		return addr.Set{}
	}
	return set
}

// announce writes ranges that a pool is about to get.
func announce(p *v2beta1.SpiderIPPool, set addr.Set) {
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, v2beta1.AnnotationCarving, strings.Join(set.Strings(), ","))
}

// younger orders pools the same way for everybody.
func younger(a, b *v2beta1.SpiderIPPool) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID)) > 0
}
