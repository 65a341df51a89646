package pool

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Usage is how many addresses a pool has, as people are told.
type Usage struct {
	// Size are those that may be given to the pod that asks, Free those of them
	// that nobody holds.
	Size, Free addr.Count
	// Terminating are those held by pods that are being deleted: they come free
	// next. Where says which pods were looked at; empty for all.
	Terminating int
	Where       string
	// Kept are fixed addresses that nobody bears and that wait for the next pod of
	// an owner, by owner as KeptFor names it; Quarantined are those that no pod has
	// though somebody may bear them. AtLeast says that there may be more of both.
	Kept        map[string]int
	Quarantined int
	AtLeast     bool
	// Reserved is how many more the pool has that are given to nobody.
	Reserved addr.Count
	// Holders are pods that hold addresses, those first that people should see
	// first; MaxHolders of them are shown.
	Holders []Holder
}

// MaxHolders is how many holders a message names.
const MaxHolders = 3

// Holder is a pod that holds an address which somebody else wants.
type Holder struct {
	// Pod is "namespace/name", Node the node it is on.
	Pod, Node string
	// State says how the pod is: "running", "being deleted", "gone", or of one that
	// was the last "kept for StatefulSet web"; empty if it is not known.
	State string
	// Owner is the topmost controller, "Deployment web"; empty if it is not known.
	Owner string
	// SameOwner says that the pod that asks has the same: a rolling update may have
	// made it before this one is to go.
	SameOwner bool
}

// String is "shop/web-1 on node n2 (running, of Deployment web)", and what to do
// if an update waits for itself.
func (h Holder) String() string {
	text := h.Pod
	if h.Node != "" {
		text += " on node " + h.Node
	}
	var more []string
	if h.State != "" {
		more = append(more, h.State)
	}
	if h.Owner != "" && h.SameOwner {
		more = append(more, "of the same "+h.Owner)
	} else if h.Owner != "" {
		more = append(more, "of "+h.Owner)
	}
	if h.SameOwner && h.State == "running" && strings.HasPrefix(h.Owner, "Deployment ") { // a rolling update waits for itself
		more = append(more, "which keeps it until the new pod is ready: add an address, or set strategy.rollingUpdate.maxSurge: 0 and maxUnavailable: 1")
	}
	if len(more) > 0 {
		text += " (" + strings.Join(more, ", ") + ")"
	}
	return text
}

// KeptFor is the owner for whose next pod an address is kept, as somebody in a
// namespace is told: "StatefulSet web", or of another namespace "StatefulSet
// shop/web". It is empty if a pod has the address.
func KeptFor(s *v2beta1.IPSpec, namespace string) string {
	switch of := s.Pod.Namespace; {
	case s.Use != v2beta1.IPUseKept || s.Owner == nil:
		return ""
	case of != namespace:
		return s.Owner.Kind + " " + of + "/" + s.Owner.Name
	}
	return s.Owner.Kind + " " + s.Owner.Name
}

// FreeKept is how people free an address that is kept for an owner; name is that
// of its SpiderIP.
func FreeKept(owner, name string) string {
	return fmt.Sprintf("scale in or delete %s, or run 'kubectl delete spiderip %s'", owner, name)
}

// CountWithoutPod counts an address among those that are kept, for somebody in a
// namespace, or in quarantine, and reports whether it is one.
func (u *Usage) CountWithoutPod(s *v2beta1.IPSpec, namespace string) bool {
	if s.Use == v2beta1.IPUseQuarantine {
		u.Quarantined++
		return true
	}
	owner := KeptFor(s, namespace)
	if owner == "" {
		return false
	}
	if u.Kept == nil {
		u.Kept = map[string]int{}
	}
	u.Kept[owner]++
	return true
}

// Few lists the first of the texts: what people write may be long.
func Few(texts []string) string {
	const shown = 3
	if more := len(texts) - shown; more > 0 {
		texts = append(texts[:shown:shown], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

// HeldRequest is why an address that was asked for is not given: who holds it. A
// holder without a name is one of whom only the ledger's word is known.
func HeldRequest(a netip.Addr, h Holder) string {
	if h.Pod == "" {
		return fmt.Sprintf("the address %s that was asked for is held by another pod: 'kubectl get spiderip %s' shows by whom", a, addr.Name(a))
	}
	return fmt.Sprintf("the address %s that was asked for is held by %s", a, h)
}

// String is "3 free of 50, 2 terminating, 4 kept for StatefulSet db, 1 in
// quarantine, 5 more reserved; held by shop/web-1 on node n2 (running, of Deployment web)".
func (u Usage) String() string {
	text := fmt.Sprintf("%s free of %s", u.Free, u.Size)
	if u.Terminating > 0 {
		text += fmt.Sprintf(", %d terminating%s", u.Terminating, u.Where)
	}
	var kept []string
	atLeast := ""
	if u.AtLeast {
		atLeast = "at least "
	}
	for _, owner := range slices.Sorted(maps.Keys(u.Kept)) {
		kept = append(kept, fmt.Sprintf("%s%d kept for %s", atLeast, u.Kept[owner], owner))
	}
	if len(kept) > 0 {
		text += ", " + Few(kept)
	}
	if u.Quarantined > 0 {
		text += fmt.Sprintf(", %s%d in quarantine", atLeast, u.Quarantined)
	}
	if !u.Reserved.IsZero() {
		text += fmt.Sprintf(", %s more reserved", u.Reserved)
	}
	var holders []string
	for _, h := range u.Holders[:min(len(u.Holders), MaxHolders)] {
		holders = append(holders, h.String())
	}
	if more := len(u.Holders) - MaxHolders; more > 0 {
		holders = append(holders, fmt.Sprintf("%d more", more))
	}
	if len(holders) > 0 {
		text += "; held by " + strings.Join(holders, ", ")
	}
	return text
}

// UsedOut is why a full pool does not serve.
func (u Usage) UsedOut() string { return "all IP addresses used out: " + u.String() }

// Unserved is the error of an interface that no pool serves: which were tried
// and why each did not.
type Unserved struct {
	Interface string
	Family    Family
	Selection Selection
	Why       []Refusal
}

func (e *Unserved) Error() string {
	from := fmt.Sprint(e.Selection.Names[e.Family])
	var why []string
	for _, r := range e.Why {
		why = append(why, fmt.Sprintf("pool %s: %s", r.Pool, r.Why))
	}
	if subnet := e.Selection.Subnets[e.Family]; subnet != "" {
		from = "SpiderSubnet " + subnet
		if len(why) == 0 {
			why = append(why, fmt.Sprintf("the controller has not made the automatic pool of %s yet", e.Selection.Application))
		}
		why = append(why, fmt.Sprintf("'%s' says why", e.Selection.Application.Describe()))
	}
	return fmt.Sprintf("no IPPool available, interface %s gets no %s address from %s (%s): %s", e.Interface, e.Family, from, e.Selection.Source, strings.Join(why, "; "))
}
