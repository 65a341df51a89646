package pool

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// What follows adds what an object lacks and changes nothing that people wrote: who
// applies the same file again must find it unchanged, so lists are neither
// sorted nor merged, and a value that somebody wrote stays as he wrote it.

// DefaultPool adds to p its family, its label and its finalizer. subnets are all
// SpiderSubnets, nil where the feature is off: a pool that joins its subnet gets
// the label and the owner reference, and gateway and routes of the subnet where
// it has none (an empty list of routes is one). It reports whether it added
// anything. Admission calls it for each edit, and the controller for objects
// that were stored without admission.
func DefaultPool(p *v2beta1.SpiderIPPool, subnets []v2beta1.SpiderSubnet) (changed bool) {
	if p.DeletionTimestamp != nil {
		return false
	}
	changed = setFamily(&p.Spec.IPVersion, p.Spec.Subnet)
	changed = setLabel(p, v2beta1.LabelIPPoolCIDR, cidrLabel(p.Spec.Subnet)) || changed
	changed = setFinalizer(p) || changed
	if subnet := OwnerOf(p, subnets); subnet != nil {
		changed = join(p, subnet) || changed
	}
	return changed
}

// DefaultSubnet adds to s its family, its label and its finalizer, as DefaultPool
// does.
func DefaultSubnet(s *v2beta1.SpiderSubnet) (changed bool) {
	if s.DeletionTimestamp != nil {
		return false
	}
	changed = setFamily(&s.Spec.IPVersion, s.Spec.Subnet)
	changed = setLabel(s, v2beta1.LabelSubnetCIDR, cidrLabel(s.Spec.Subnet)) || changed
	return setFinalizer(s) || changed
}

// DefaultReserved adds to r its family, as DefaultPool does.
func DefaultReserved(r *v2beta1.SpiderReservedIP) (changed bool) {
	if r.DeletionTimestamp != nil || r.Spec.IPVersion != nil || len(r.Spec.IPs) == 0 {
		return false
	}
	first, err := addr.ParseRange(r.Spec.IPs[0])
	if err != nil {
		return false
	}
	r.Spec.IPVersion = new(int64(FamilyOf(first.From())))
	return true
}

// OwnerOf is the SpiderSubnet that p belongs to: the one that its label names,
// else the first by name, of those with p's CIDR that are not being deleted. nil
// if there is none.
func OwnerOf(p *v2beta1.SpiderIPPool, subnets []v2beta1.SpiderSubnet) (owner *v2beta1.SpiderSubnet) {
	named := p.Labels[v2beta1.LabelOwnerSpiderSubnet]
	for i := range subnets {
		s := &subnets[i]
		switch {
		case s.DeletionTimestamp != nil || s.Spec.Subnet != p.Spec.Subnet:
		case s.Name == named:
			return s
		case owner == nil || s.Name < owner.Name:
			owner = s
		}
	}
	return owner
}

// join makes p a pool of subnet. Gateway and routes are inherited only as long
// as it was none: afterwards who takes them out of the pool means it.
func join(p *v2beta1.SpiderIPPool, subnet *v2beta1.SpiderSubnet) (changed bool) {
	controller := metav1.GetControllerOfNoCopy(p)
	if _, labelled := p.Labels[v2beta1.LabelOwnerSpiderSubnet]; !labelled && (controller == nil || controller.UID != subnet.UID) {
		if p.Spec.Gateway == nil && subnet.Spec.Gateway != nil {
			p.Spec.Gateway, changed = new(*subnet.Spec.Gateway), true
		}
		if p.Spec.Routes == nil && len(subnet.Spec.Routes) > 0 {
			p.Spec.Routes, changed = slices.Clone(subnet.Spec.Routes), true
		}
	}
	changed = setLabel(p, v2beta1.LabelOwnerSpiderSubnet, subnet.Name) || changed
	switch {
	case controller == nil:
		// Without blockOwnerDeletion: to set it needs a right on the subnet that
		// who edits the pool may not have.
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{
			APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderSubnet",
			Name: subnet.Name, UID: subnet.UID, Controller: new(true),
		})
		changed = true
	case controller.Kind == "SpiderSubnet" && controller.Name == subnet.Name && controller.UID != subnet.UID:
		// Both were made again, as from a backup. The garbage collector would delete a
		// pool whose owner it does not find.
		controller.UID, changed = subnet.UID, true
	}
	return changed
}

func setFamily(version **int64, subnet string) bool {
	prefix, err := addr.ParsePrefix(subnet)
	if err != nil || *version != nil {
		return false
	}
	*version = new(int64(FamilyOf(prefix.Addr())))
	return true
}

// setLabel adds a label whose value is one: names may be longer than values, and
// an IPv6 prefix may begin with a dash.
func setLabel(o metav1.Object, key, value string) bool {
	labels := o.GetLabels()
	if _, ok := labels[key]; ok || value == "" || len(validation.IsValidLabelValue(value)) > 0 {
		return false
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	o.SetLabels(labels)
	return true
}

func setFinalizer(o metav1.Object) bool {
	if slices.Contains(o.GetFinalizers(), v2beta1.Finalizer) {
		return false
	}
	o.SetFinalizers(append(o.GetFinalizers(), v2beta1.Finalizer))
	return true
}

// cidrLabel is a CIDR as the value of a label.
func cidrLabel(cidr string) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(cidr)
}
