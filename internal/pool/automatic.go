package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// affinityOfApplication are the keys by which an automatic pool is bound to its
// application.
var affinityOfApplication = []string{
	v2beta1.AffinityAppAPIGroup, v2beta1.AffinityAppAPIVersion, v2beta1.AffinityAppKind,
	v2beta1.AffinityAppName, v2beta1.AffinityAppNamespace,
}

// IsAutomatic reports whether p is made for an application: by its labels, or by
// the keys of its podAffinity.
func IsAutomatic(p *v2beta1.SpiderIPPool) bool {
	for key := range p.Labels {
		if strings.HasPrefix(key, "ipam.spidernet.io/owner-application-") {
			return true
		}
	}
	return hasApplicationKey(p)
}

func hasApplicationKey(p *v2beta1.SpiderIPPool) bool {
	return p.Spec.PodAffinity != nil && slices.ContainsFunc(affinityOfApplication, func(key string) bool {
		_, ok := p.Spec.PodAffinity.MatchLabels[key]
		return ok
	})
}

// checkAutomatic leaves the ranges of automatic pools to the controller, which
// counts on them when it makes others.
func (e *poolEdit) checkAutomatic() {
	before := e.before
	if before == nil {
		before = &v2beta1.SpiderIPPool{}
	}
	if e.ByController || !IsAutomatic(before) && !IsAutomatic(e.after) {
		return
	}
	for _, list := range []struct {
		name    string
		was, is []string
	}{{"ips", before.Spec.IPs, e.after.Spec.IPs}, {"excludeIPs", before.Spec.ExcludeIPs, e.after.Spec.ExcludeIPs}} {
		if !equality.Semantic.DeepEqual(list.was, list.is) {
			e.refuse(field.Forbidden(specPath.Child(list.name), fmt.Sprintf("IPPool %s is automatic, only the controller changes its ranges: "+
				"scale the application, or change its annotation %s", e.after.Name, v2beta1.AnnotationIPPoolIPNumber)))
		}
	}
}

// checkAffinity refuses a podAffinity that says nothing, and one that names an
// application by halves.
func (e *poolEdit) checkAffinity() {
	affinity, path := e.after.Spec.PodAffinity, specPath.Child("podAffinity")
	switch {
	case affinity == nil, e.before != nil && equality.Semantic.DeepEqual(e.before.Spec.PodAffinity, affinity):
	case len(affinity.MatchLabels)+len(affinity.MatchExpressions) == 0:
		e.refuse(field.Invalid(path, "", "must select something: an empty selector is not accepted, leave it out to serve all pods"))
	case !hasApplicationKey(e.after):
	case len(affinity.MatchExpressions) > 0 || !slices.Equal(slices.Sorted(maps.Keys(affinity.MatchLabels)), affinityOfApplication):
		e.refuse(field.Invalid(path, Few(slices.Sorted(maps.Keys(affinity.MatchLabels))),
			fmt.Sprintf("a pool of an application has the matchLabels %s and nothing else", strings.Join(affinityOfApplication, ", "))))
	}
}
