package ctl

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// readFixed reads whose the pod's addresses are, and which of them it gets again.
func (e *explanation) readFixed(ctx context.Context) (err error) {
	if e.owner, e.stateless, err = e.facts.FixedOwner(ctx, e.pod, e.installed.fixed); err != nil || e.owner == nil {
		return err
	}
	key := client.ObjectKey{Namespace: e.pod.Namespace, Name: fixed.Name(e.owner, e.pod.Name)}
	endpoint := &v2beta1.SpiderEndpoint{}
	if err := e.client.Get(ctx, key, endpoint); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("read SpiderEndpoint %s: %w", key, err)
	}
	for _, address := range fixed.Recorded(endpoint, e.podContext.Interface) {
		e.listed = append(e.listed, address.String())
	}
	return nil
}

// fixation says whether the pod's addresses are fixed.
func (e *explanation) fixation() {
	switch {
	case e.owner == nil:
		e.say("stateless: %s", e.stateless)
	case fixed.IsMachine(e.owner):
		e.say("fixed: kept for the pods of this machine %s", fixed.Until(e.owner, e.pod.Name))
	default:
		e.say("fixed: kept for pods of this name %s", fixed.Until(e.owner, e.pod.Name))
	}
}

// owns reports whether an entry is the pod's own.
func (e *explanation) owns(s *v2beta1.IPSpec) bool {
	return s.Pod.UID == uidOf(e.pod) && s.Interface == e.podContext.Interface && s.Use != v2beta1.IPUseKept
}

// inherits reports whether an entry is that of a pod before this one, whose addresses it gets again.
func (e *explanation) inherits(s *v2beta1.IPSpec) bool {
	me := v2beta1.IPPod{Namespace: e.pod.Namespace, Name: e.pod.Name}
	return s.Interface == e.podContext.Interface && !e.owns(s) && fixed.Same(s.Owner, s.Pod, e.owner, me)
}

// fixedOf returns the entry whose address the interface has at the next start of the pod if nothing is against it, nil if
// there is none.
func (e *explanation) fixedOf(f pool.Family) (found *v2beta1.IPSpec) {
	if e.owner == nil {
		return nil
	}
	for i := range e.entries {
		s := &e.entries[i].Spec
		a, err := addr.ParseAddr(s.Address)
		if err != nil || pool.FamilyOf(a) != f || !e.owns(s) && !e.inherits(s) {
			continue
		}
		if found == nil || e.rank(s) > e.rank(found) {
			found = s
		}
	}
	return found
}

// rank puts the pod's own entry before those that the SpiderEndpoint lists, and of two what is kept before what a container
// still bears.
func (e *explanation) rank(s *v2beta1.IPSpec) (rank int) {
	if e.owns(s) {
		return 4
	}
	if slices.Contains(e.listed, s.Address) {
		rank = 2
	}
	if s.Use == v2beta1.IPUseKept {
		rank++
	}
	return rank
}

// again says what becomes of a fixed address of a family at the next start of the pod, and returns its pool if the pod gets
// it again.
func (e *explanation) again(s *v2beta1.IPSpec, serve []*pool.Pool, refused []pool.Refusal) *pool.Pool {
	if why := e.whyAnother(s, serve, refused); why != "" {
		e.say("  at its next start the pod gets another address: %s; %s", why, e.release(s))
		return nil
	}
	switch {
	case e.owns(s):
		e.say("  at its next start the pod gets %s of pool %s again", s.Address, s.Pool)
	case s.Use == v2beta1.IPUseKept:
		e.say("  the next address is %s of pool %s, which is kept for it", s.Address, s.Pool)
	case fixed.IsMachine(e.owner):
		e.say("  %s of pool %s is with pod %s; the machine's next pod takes it over when its interface is made", s.Address, s.Pool, bearer(s))
	default:
		e.say("  %s of pool %s waits until the container of pod %s is gone; an ADD fails until then", s.Address, s.Pool, bearer(s))
	}
	return serve[slices.IndexFunc(serve, func(p *pool.Pool) bool { return p.Name == s.Pool })]
}

func bearer(s *v2beta1.IPSpec) string {
	return fmt.Sprintf("%s/%s on node %s", s.Pod.Namespace, s.Pod.Name, s.Node)
}

// release says when an address that the pod does not get again is free.
func (e *explanation) release(s *v2beta1.IPSpec) string {
	switch {
	case e.owns(s):
		return s.Address + " is freed when this pod is gone"
	case s.Use == v2beta1.IPUseKept:
		return "the kept " + s.Address + " is freed"
	}
	return fmt.Sprintf("%s is freed when the container of pod %s is gone", s.Address, bearer(s))
}

// whyAnother says why the pod does not get a fixed address again, "" if it does.
func (e *explanation) whyAnother(s *v2beta1.IPSpec, serve []*pool.Pool, refused []pool.Refusal) string {
	if !e.owns(s) && !slices.Contains(e.listed, s.Address) {
		return fmt.Sprintf("SpiderEndpoint %s/%s does not list %s", e.pod.Namespace, fixed.Name(e.owner, e.pod.Name), s.Address)
	}
	for _, r := range refused {
		if r.Pool == s.Pool {
			return fmt.Sprintf("pool %s does not serve: %s", r.Pool, r.Why)
		}
	}
	i := slices.IndexFunc(serve, func(p *pool.Pool) bool { return p.Name == s.Pool })
	if i < 0 {
		return fmt.Sprintf("pool %s is not among the pod's", s.Pool)
	}
	a, _ := addr.ParseAddr(s.Address) // fixedOf parsed it
	switch {
	case e.facts.Gives(serve[i]).Contains(a):
		return ""
	case serve[i].Addresses.Contains(a):
		return s.Address + " is reserved"
	}
	return fmt.Sprintf("pool %s does not have %s any more", s.Pool, s.Address)
}

// unnamed says what becomes of the fixed address of a family for which no pool is named. A selection that is refused frees
// nothing.
func (e *explanation) unnamed(selection pool.Selection, f pool.Family) {
	if s := e.fixedOf(f); s != nil && selection.Source != "" {
		e.say("%s: no pool is named: %s", f, e.release(s))
	}
}
