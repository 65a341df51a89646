package pool

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Application is a workload for which automatic pools are made: the controller
// at the top of a pod's owners.
type Application struct {
	APIVersion, Kind, Namespace, Name string
}

// String is "Deployment shop/web".
func (a Application) String() string { return fmt.Sprintf("%s %s/%s", a.Kind, a.Namespace, a.Name) }

// Describe is the command that shows its Events, which say what becomes of its
// automatic pools.
func (a Application) Describe() string {
	kind := strings.ToLower(a.Kind)
	gv, _ := schema.ParseGroupVersion(a.APIVersion)
	if !slices.Contains([]string{"", "apps", "batch"}, gv.Group) { // others may have a kind of the same name
		kind += "." + gv.Group
	}
	return fmt.Sprintf("kubectl describe %s -n %s %s", kind, a.Namespace, a.Name)
}

// Affinity is the podAffinity of its pools. A pool is recognised by it, and not
// by labels, whose values are too short for some names.
func (a Application) Affinity() *metav1.LabelSelector {
	gv, _ := schema.ParseGroupVersion(a.APIVersion)
	return &metav1.LabelSelector{MatchLabels: map[string]string{
		v2beta1.AffinityAppAPIGroup: gv.Group, v2beta1.AffinityAppAPIVersion: gv.Version, v2beta1.AffinityAppKind: a.Kind,
		v2beta1.AffinityAppNamespace: a.Namespace, v2beta1.AffinityAppName: a.Name,
	}}
}

// Same reports whether two are the same workload, whatever the version of their
// kind that somebody wrote.
func (a Application) Same(b Application) bool {
	ga, _ := schema.ParseGroupVersion(a.APIVersion)
	gb, _ := schema.ParseGroupVersion(b.APIVersion)
	return ga.Group == gb.Group && a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name
}

// Automatic is what an automatic pool is made for: an interface of the pods of
// an application that ask for a SpiderSubnet.
type Automatic struct {
	Application
	Interface, Subnet string
}

// AutomaticOf reads it from p, nil if p is not automatic.
func AutomaticOf(p *v2beta1.SpiderIPPool) *Automatic {
	if !hasApplicationKey(p) {
		return nil
	}
	of := p.Spec.PodAffinity.MatchLabels
	return &Automatic{
		Application: Application{
			APIVersion: schema.GroupVersion{Group: of[v2beta1.AffinityAppAPIGroup], Version: of[v2beta1.AffinityAppAPIVersion]}.String(),
			Kind:       of[v2beta1.AffinityAppKind], Namespace: of[v2beta1.AffinityAppNamespace], Name: of[v2beta1.AffinityAppName],
		},
		Interface: cmp.Or(p.Labels[v2beta1.LabelInterface], firstInterface),
		Subnet:    SubnetNameOf(p),
	}
}

// SubnetNameOf is the name of the SpiderSubnet that p belongs to, empty if to
// none: that of its label, or of its owner if the name is too long for a label.
func SubnetNameOf(p *v2beta1.SpiderIPPool) string {
	if name, ok := p.Labels[v2beta1.LabelOwnerSpiderSubnet]; ok {
		return name
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil && owner.Kind == "SpiderSubnet" {
		return owner.Name
	}
	return ""
}

// Announced are the ranges that the controller is about to give an automatic
// pool. Nobody else may take them, and who edits the subnet has to leave them.
func Announced(p *v2beta1.SpiderIPPool) addr.Set {
	text := p.Annotations[v2beta1.AnnotationCarving]
	if text == "" {
		return addr.Set{}
	}
	set, err := addr.ParseSet(strings.Split(text, ","))
	if err != nil {
		return addr.Set{}
	}
	return set
}

// refuses says why an automatic pool does not serve s.
func (a *Automatic) refuses(s *PodContext) string {
	switch {
	case s.Application == nil:
		return fmt.Sprintf("it is the automatic pool of %s, whose pods get it by their annotation %s", a.Application, v2beta1.AnnotationSubnet)
	case !a.Same(*s.Application):
		return fmt.Sprintf("it is the automatic pool of %s, and the pod is of %s", a.Application, *s.Application)
	case a.Interface != s.Interface:
		return fmt.Sprintf("it is the automatic pool of interface %s", a.Interface)
	}
	return ""
}

// automaticNames are the automatic pools that serve what s asks for, by family.
func automaticNames(s *PodContext, subnets map[Family]string, pools []*Pool) map[Family][]string {
	names := map[Family][]string{}
	for f := range maps.Keys(subnets) {
		names[f] = nil
	}
	for _, p := range pools {
		if subnet, asked := subnets[p.Family]; asked && p.Automatic != nil && p.Automatic.Subnet == subnet && p.Automatic.refuses(s) == "" {
			names[p.Family] = append(names[p.Family], p.Name)
		}
	}
	return names
}
