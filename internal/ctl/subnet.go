package ctl

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// subnet says of the SpiderSubnet that the pod asks for, if it does, what there is for its automatic pool, and what the
// controller last said of that.
func (e *explanation) subnet(ctx context.Context, selection pool.Selection, f pool.Family) error {
	name := selection.Subnets[f]
	if name == "" {
		return nil
	}
	s := &v2beta1.SpiderSubnet{}
	switch err := e.client.Get(ctx, client.ObjectKey{Name: name}, s); {
	case apierrors.IsNotFound(err):
		e.say("%s: SpiderSubnet %s does not exist: make it, or correct the annotation", f, name)
	case err != nil:
		return fmt.Errorf("read SpiderSubnet %s: %w", name, err)
	default:
		e.say("%s: SpiderSubnet %s %s", f, name, e.state(s, f))
	}
	if len(selection.Names[f]) == 0 {
		e.say("  the automatic pool of %s is not made yet", selection.Application)
	}
	return e.lastWord(ctx, selection.Application)
}

// state is what a subnet has for pools of a family.
func (e *explanation) state(s *v2beta1.SpiderSubnet, f pool.Family) string {
	parsed, errs := pool.ParseSubnet(s)
	switch {
	case len(errs) > 0:
		return fmt.Sprintf("is malformed: %v", errs.ToAggregate())
	case s.DeletionTimestamp != nil:
		return "is being deleted"
	case parsed.Family != f:
		return fmt.Sprintf("is an %s subnet: name one of %s", parsed.Family, f)
	}
	var taken addr.Set
	for _, p := range e.facts.Pools() {
		if p.Subnet == parsed.Subnet {
			taken = taken.Union(p.Addresses.Intersect(parsed.Addresses))
		}
	}
	return fmt.Sprintf("has %s addresses, %s of them in pools", parsed.Addresses.Count(), taken.Count())
}

// lastWord says the last Event of the controller about an application, if there is one.
func (e *explanation) lastWord(ctx context.Context, app *pool.Application) error {
	var list corev1.EventList
	about := client.MatchingFields{"involvedObject.kind": app.Kind, "involvedObject.name": app.Name, "source": "spiderpool-controller"}
	if err := e.client.List(ctx, &list, client.InNamespace(app.Namespace), about); err != nil {
		return fmt.Errorf("list the Events of %s: %w", app, err)
	}
	var last *corev1.Event
	for i := range list.Items {
		if event := &list.Items[i]; last == nil || last.LastTimestamp.Before(&event.LastTimestamp) {
			last = event
		}
	}
	if last != nil {
		e.say("  the last Event of %s: %s: %s", app, last.Reason, last.Message)
	}
	return nil
}
