// Package fixed says whose addresses are fixed: when the container of a pod ends they are kept for the next pod that the
// owner makes under the same name, a StatefulSet's web-0 or the launcher of a virtual machine. It only decides; who asks
// reads the objects.
package fixed

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// The kinds of KubeVirt. The pods of one machine have names of their own; what lasts is the machine's.
var (
	virtualMachine         = schema.GroupKind{Group: "kubevirt.io", Kind: "VirtualMachine"}
	virtualMachineInstance = schema.GroupKind{Group: "kubevirt.io", Kind: "VirtualMachineInstance"}
)

// Rules say which pods have fixed addresses. The zero value says none.
type Rules struct {
	// Kinds are those of owners that make pods under the same names again, whatever their version.
	Kinds []schema.GroupKind
	// VirtualMachines says that those of KubeVirt keep their addresses.
	VirtualMachines bool
}

// Owner returns what the addresses of a pod belong to, or nil and why they go with the pod. top is the topmost controller of
// the pod: a virtual machine above its instance.
func (r Rules) Owner(pod metav1.Object, top metav1.OwnerReference) (owner *v2beta1.IPOwner, why string) {
	direct := metav1.GetControllerOfNoCopy(pod)
	if direct == nil {
		return nil, "the pod has no controller that would make it again under its name"
	}
	instance := ""
	if kindOf(direct.APIVersion, direct.Kind) == virtualMachineInstance {
		instance = string(direct.UID)
		if kindOf(top.APIVersion, top.Kind) == virtualMachine {
			direct = &top
		}
	}
	owner = &v2beta1.IPOwner{APIVersion: direct.APIVersion, Kind: direct.Kind, Name: direct.Name, UID: string(direct.UID), Instance: instance}
	if why := r.excludes(owner); why != "" {
		return nil, why
	}
	return owner, ""
}

// Cover reports whether the addresses of an owner are fixed by the rules as they are now.
func (r Rules) Cover(owner *v2beta1.IPOwner) bool { return r.excludes(owner) == "" }

// excludes says why the pods of an owner have no fixed addresses.
func (r Rules) excludes(owner *v2beta1.IPOwner) string {
	kind := kindOf(owner.APIVersion, owner.Kind)
	switch {
	case IsMachine(owner) && !r.VirtualMachines:
		return "enableKubevirtStaticIP is false"
	case IsMachine(owner), slices.Contains(r.Kinds, kind):
		return ""
	case kind == schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		return "enableStatefulSet is false"
	}
	return fmt.Sprintf("addresses are not fixed for pods of %s %s (%s)", owner.Kind, owner.Name, owner.APIVersion)
}

func kindOf(apiVersion, kind string) schema.GroupKind {
	return schema.FromAPIVersionAndKind(apiVersion, kind).GroupKind()
}

// IsMachine reports whether an owner is a virtual machine: two of its pods may run at once, while it moves to another node.
func IsMachine(owner *v2beta1.IPOwner) bool {
	kind := kindOf(owner.APIVersion, owner.Kind)
	return kind == virtualMachine || kind == virtualMachineInstance
}

// IsLauncher reports whether a pod is one in which a virtual machine runs.
func IsLauncher(pod metav1.Object) bool {
	c := metav1.GetControllerOfNoCopy(pod)
	return c != nil && kindOf(c.APIVersion, c.Kind) == virtualMachineInstance
}

// Name is what the pods that follow each other have in common, and what their SpiderEndpoint is named: the name of the pod,
// or that of the virtual machine.
func Name(owner *v2beta1.IPOwner, pod string) string {
	if owner != nil && IsMachine(owner) {
		return owner.Name
	}
	return pod
}

// Recorded are the addresses that a SpiderEndpoint lists for an interface, or for all if none is named; none if it is nil. What
// is no address with its prefix length is left out.
func Recorded(e *v2beta1.SpiderEndpoint, ifname string) (out []netip.Addr) {
	if e == nil {
		return nil
	}
	for _, i := range e.Status.Current.IPs {
		for _, text := range []*string{i.IPv4, i.IPv6} {
			if text == nil || ifname != "" && i.Interface != ifname {
				continue
			}
			if prefix, err := netip.ParsePrefix(*text); err == nil {
				out = append(out, prefix.Addr())
			}
		}
	}
	return out
}

// Same reports whether an address that is kept for one owner and pod is that of another: both have the same names. An owner
// that was deleted and made again under its name has the addresses of the former that are not free yet.
func Same(a *v2beta1.IPOwner, podA v2beta1.IPPod, b *v2beta1.IPOwner, podB v2beta1.IPPod) bool {
	return a != nil && b != nil && kindOf(a.APIVersion, a.Kind) == kindOf(b.APIVersion, b.Kind) && a.Name == b.Name &&
		podA.Namespace == podB.Namespace && Name(a, podA.Name) == Name(b, podB.Name)
}

// Wanted reports whether an owner, as it was read, will make a pod of that name again, and if not, why. A nil object is one
// that does not exist. What cannot be told of an object counts as wanted.
func Wanted(owner *v2beta1.IPOwner, object *unstructured.Unstructured, pod string) (wanted bool, why string) {
	name := owner.Kind + " " + owner.Name
	switch {
	case object == nil:
		return false, name + " is gone"
	case object.GetDeletionTimestamp() != nil:
		return false, name + " is being deleted"
	}
	replicas, counts, err := unstructured.NestedInt64(object.Object, "spec", "replicas")
	ordinal, numbered := Ordinal(owner, pod)
	if err != nil || !counts || !numbered || IsMachine(owner) {
		return true, ""
	}
	start, _, _ := unstructured.NestedInt64(object.Object, "spec", "ordinals", "start")
	skipped, reserved := skips(object, start, ordinal)
	if ordinal < start || reserved || ordinal-start-skipped >= replicas {
		return false, fmt.Sprintf("%s has %d replicas and wants no pod %s", name, replicas, pod)
	}
	return true, ""
}

// Until says until when an address is kept for the next pod of that name.
func Until(owner *v2beta1.IPOwner, pod string) string {
	if IsMachine(owner) {
		return fmt.Sprintf("until %s %s is deleted", owner.Kind, owner.Name)
	}
	return fmt.Sprintf("until %s %s is deleted or wants no pod %s", owner.Kind, owner.Name, pod)
}

// Ordinal is the number at the end of the name of a pod, 3 of "web-3" of owner "web", from 0 to 2^31-1. It is not ok for the
// name of a pod that has none.
func Ordinal(owner *v2beta1.IPOwner, pod string) (n int64, ok bool) {
	text, ok := strings.CutPrefix(pod, owner.Name+"-")
	n, err := strconv.ParseInt(text, 10, 32)
	return n, ok && err == nil && strconv.FormatInt(n, 10) == text
}

// skips counts the ordinals from start to before one that an OpenKruise StatefulSet passes over, and reports whether that one
// is passed over too. Its spec.reserveOrdinals has numbers, and ranges as "3-5".
func skips(object *unstructured.Unstructured, start, ordinal int64) (before int64, reserved bool) {
	list, _, _ := unstructured.NestedSlice(object.Object, "spec", "reserveOrdinals")
	type span struct{ from, to int64 }
	var spans []span
	for _, entry := range list {
		low, high, isRange := strings.Cut(fmt.Sprint(entry), "-")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseInt(low, 10, 32)
		to, err2 := strconv.ParseInt(high, 10, 32)
		if err == nil && err2 == nil {
			spans = append(spans, span{max(from, start), to})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from - b.from) })
	next := start // those below are counted
	for _, s := range spans {
		reserved = reserved || s.from <= ordinal && ordinal <= s.to
		if from, to := max(s.from, next), min(s.to, ordinal-1); from <= to {
			before += to - from + 1
			next = to + 1
		}
	}
	return before, reserved
}
