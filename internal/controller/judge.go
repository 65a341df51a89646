package controller

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

const (
	// allocatedShown and allocatedHidden bound status.allocatedIPs: it appears with
	// at most the one number of addresses in use, and stays up to the other, so that
	// a pool at the bound does not blink.
	allocatedShown, allocatedHidden = 100, 120
	// allocatedNodes is the size of a cluster beyond which it is left out: each of
	// its nodes is sent each status.
	allocatedNodes = 1000
	// drainingShown bounds status.draining. The count is exact.
	drainingShown = 1000
	// messageLimit bounds the message of a condition in bytes; the API has 32768.
	messageLimit = 2000
)

// Reasons of the conditions of a pool.
const (
	reasonServing   = "Serving"
	reasonDeleting  = "Deleting"
	reasonMalformed = "InvalidSpec"
	reasonDisabled  = "Disabled"
	reasonEmpty     = "NoAddresses"
	reasonOutside   = "OutsidePool"
	reasonInside    = "NothingDrains"
	reasonValid     = "ValidSpec"
)

// Circumstances are what Judge looks at beside a pool and what is held in its name.
type Circumstances struct {
	// Nodes is the number of nodes of the cluster.
	Nodes int
	// Cut is how many reserved addresses of the pool its annotation has no room for.
	Cut addr.Count
	// Now is the time of conditions that change.
	Now metav1.Time
}

// Judge is the status of a pool, of this version of it, when these entries are
// held in its name, in order of their addresses. It is pure: what it does not
// change of the status before is when conditions changed last, and whether
// allocatedIPs is shown at its bound.
//
// A pool that is being deleted covers nothing any more, so all that is held
// drains. Of a malformed pool the counts are left out that cannot be known.
func Judge(o *v2beta1.SpiderIPPool, held []Entry, c Circumstances) v2beta1.IPPoolStatus {
	used := int64(len(held))
	s := v2beta1.IPPoolStatus{
		ObservedGeneration: o.Generation,
		ObservedReserved:   o.Annotations[v2beta1.AnnotationReserved],
		AllocatedIPs:       allocatedIPs(o.Status.AllocatedIPs != nil, held, c.Nodes),
		AllocatedIPCount:   &used,
	}
	has, known := pool.AddressesOf(o)
	var draining addr.Set
	if known {
		total := has.Count().Int64()
		s.TotalIPCount = &total
	}
	if known || o.DeletionTimestamp != nil {
		draining = outside(o, has, held)
		count := draining.Count().Int64()
		s.DrainingIPCount, s.Draining = &count, draining.Strings()
		s.Draining = s.Draining[:min(len(s.Draining), drainingShown)]
	}
	for _, condition := range []metav1.Condition{ready(o, has, c.Cut), drains(o, draining, held), malformed(o)} {
		condition.ObservedGeneration, condition.LastTransitionTime = o.Generation, c.Now
		for _, before := range o.Status.Conditions {
			if before.Type == condition.Type && before.Status == condition.Status && !before.LastTransitionTime.IsZero() {
				condition.LastTransitionTime = before.LastTransitionTime
			}
		}
		condition.Message = shorten(condition.Message)
		s.Conditions = append(s.Conditions, condition)
	}
	return s
}

// outside are the addresses held in the name of a pool that has not got them.
func outside(o *v2beta1.SpiderIPPool, has addr.Set, held []Entry) addr.Set {
	var ranges []addr.Range
	for _, e := range held {
		if o.DeletionTimestamp != nil || !has.Contains(e.Address) {
			r, _ := addr.MakeRange(e.Address, e.Address)
			ranges = append(ranges, r)
		}
	}
	return addr.MakeSet(ranges...)
}

// allocatedIPs is the JSON text that tools of before read. Its keys are sorted.
func allocatedIPs(shown bool, held []Entry, nodes int) *string {
	limit := allocatedShown
	if shown {
		limit = allocatedHidden
	}
	if len(held) == 0 || len(held) > limit || nodes > allocatedNodes {
		return nil
	}
	type holder struct {
		Pod string `json:"pod"`
		UID string `json:"podUid"`
	}
	holders := map[string]holder{}
	for _, e := range held {
		holders[e.Address.String()] = holder{e.Pod, e.UID}
	}
	text, _ := json.Marshal(holders) // of texts only, which never fails
	allocated := string(text)
	return &allocated
}

// ready says whether a pool gives addresses, and what to do if not.
func ready(o *v2beta1.SpiderIPPool, has addr.Set, cut addr.Count) metav1.Condition {
	p, errs := pool.Parse(o)
	no := func(reason, message string) metav1.Condition {
		return metav1.Condition{Type: v2beta1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	switch {
	case o.DeletionTimestamp != nil:
		return no(reasonDeleting, "it is being deleted: it gives no address, and goes when none is held in its name any more")
	case len(errs) > 0:
		return no(reasonMalformed, "its spec cannot be understood, so it gives no address: the condition Malformed says what to correct")
	case o.Spec.Disable != nil && *o.Spec.Disable:
		return no(reasonDisabled, "spec.disable: it gives no address, and pods keep those that they have; set it to false to give addresses")
	case has.IsEmpty():
		return no(reasonEmpty, "spec.ips: nothing is left to give without excludeIPs, the gateway and what no host may bear; add ranges")
	case p.Reserved.ContainsSet(has):
		return no(reasonEmpty, fmt.Sprintf("spec.ips: all %s addresses are reserved by SpiderReservedIPs or are those of nodes; add ranges", has.Count()))
	}
	message := "it gives addresses to the pods that it serves"
	if !cut.IsZero() {
		message += fmt.Sprintf("; %s more reserved addresses have no room in its annotation %s and are kept from pods by the watches of the agents alone: "+
			"reserve fewer and longer ranges, or take them out of the pool with excludeIPs", cut, v2beta1.AnnotationReserved)
	}
	return metav1.Condition{Type: v2beta1.ConditionReady, Status: metav1.ConditionTrue, Reason: reasonServing, Message: message}
}

// drains says which addresses pods have that the pool has no longer.
func drains(o *v2beta1.SpiderIPPool, draining addr.Set, held []Entry) metav1.Condition {
	c := metav1.Condition{Type: v2beta1.ConditionDraining, Status: metav1.ConditionFalse, Reason: reasonInside}
	if draining.IsEmpty() {
		return c
	}
	c.Status, c.Reason = metav1.ConditionTrue, reasonOutside
	if o.DeletionTimestamp != nil {
		c.Reason = reasonDeleting
	}
	ranges := draining.Strings()
	first := ranges[0]
	if len(ranges) > 1 {
		first += fmt.Sprintf(" and %d more ranges", len(ranges)-1)
	}
	c.Message = fmt.Sprintf("%s addresses are held that the pool no longer covers, %s: they are free when their pods are gone, which "+
		"`kubectl get spiderips --field-selector spec.pool=%s` shows", draining.Count(), first, o.Name)
	kept := 0
	for _, e := range held {
		if e.Use == v2beta1.IPUseKept && draining.Contains(e.Address) {
			kept++
		}
	}
	if kept > 0 {
		c.Message += fmt.Sprintf("; no pod has %d of them, which are kept for the next pod of a StatefulSet or virtual machine (USE is Kept): "+
			"they are free when that is scaled in or deleted", kept)
	}
	return c
}

// malformed says which field of a pool cannot be understood.
func malformed(o *v2beta1.SpiderIPPool) metav1.Condition {
	c := metav1.Condition{Type: v2beta1.ConditionMalformed, Status: metav1.ConditionFalse, Reason: reasonValid}
	if _, errs := pool.Parse(o); len(errs) > 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonMalformed, describe(errs)
	}
	return c
}

// describe is what is wrong with fields, without their values, which may be
// lists of a thousand ranges: each error names what is wrong in it.
func describe(errs field.ErrorList) (text string) {
	for i, err := range errs {
		if i > 0 {
			text += "; "
		}
		text += err.Field + ": " + err.Detail
	}
	return text
}

func shorten(text string) string {
	if len(text) <= messageLimit {
		return text
	}
	return strings.ToValidUTF8(text[:messageLimit], "") + " ..."
}
