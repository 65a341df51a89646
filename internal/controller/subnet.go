package controller

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// subnets gives SpiderSubnets what admission adds, if they were stored without, and lets those go that are deleted once they
// have no pools any more.
type subnets struct {
	Options
	watched client.Reader
}

// addSubnets registers the controller of SpiderSubnets.
func addSubnets(mgr manager.Manager, watches cache.Cache, o Options) error {
	s := &subnets{Options: o, watched: watches}
	c, err := controller.New("subnet", mgr, controller.Options{Reconciler: s, RateLimiter: retries()})
	if err != nil {
		return fmt.Errorf("make the controller of subnets: %w", err)
	}
	for _, watch := range []source.Source{
		source.Kind(watches, &v2beta1.SpiderSubnet{}, &handler.TypedEnqueueRequestForObject[*v2beta1.SpiderSubnet]{}),
		source.Kind(watches, &v2beta1.SpiderIPPool{}, handler.TypedEnqueueRequestsFromMapFunc(subnetsOf)),
	} {
		if err := c.Watch(watch); err != nil {
			return fmt.Errorf("register a watch: %w", err)
		}
	}
	return nil
}

// Reconcile looks at one SpiderSubnet.
func (s *subnets) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	o := &v2beta1.SpiderSubnet{}
	if err := s.watched.Get(ctx, req.NamespacedName, o); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	changed := o.DeepCopy()
	switch {
	case o.DeletionTimestamp != nil:
		if empty, err := s.empty(ctx, o); !empty || !controllerutil.RemoveFinalizer(changed, v2beta1.Finalizer) {
			return reconcile.Result{}, err // the last pool wakes it
		}
	case pool.DefaultSubnet(changed):
		s.Events.Event(o, corev1.EventTypeWarning, "NotAdmitted", "it was stored without the webhook of Spiderpool, which may have refused it: "+
			"finalizer, label and ipVersion are added now; see whether it overlaps another SpiderSubnet")
	default:
		return reconcile.Result{}, nil
	}
	err := s.Live.Patch(ctx, changed, client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{}))
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// empty reports whether no pool belongs to a SpiderSubnet, and tells those that do. The watch may be late, so a LIST must say
// so too; but nothing is asked of the API server while the watch knows of pools.
func (s *subnets) empty(ctx context.Context, o *v2beta1.SpiderSubnet) (bool, error) {
	for _, from := range []client.Reader{s.watched, s.Live} {
		var all v2beta1.SpiderIPPoolList
		if err := from.List(ctx, &all); err != nil {
			return false, fmt.Errorf("list the SpiderIPPools: %w", err)
		}
		var names []string
		for i := range all.Items {
			if slices.ContainsFunc(subnetsOf(ctx, &all.Items[i]), func(r reconcile.Request) bool { return r.Name == o.Name }) {
				names = append(names, all.Items[i].Name)
			}
		}
		if slices.Sort(names); len(names) > 0 {
			s.Events.Eventf(o, corev1.EventTypeNormal, "Deleting", "it goes when its pools are gone: %s", pool.Few(names))
			return false, nil
		}
	}
	return true, nil
}

// subnetsOf are the SpiderSubnets that a pool says it belongs to, by its label or its owner reference: one of the two may be
// missing, for a name may be too long for a label, and a pool may have been stored without the webhook.
func subnetsOf(_ context.Context, p *v2beta1.SpiderIPPool) (all []reconcile.Request) {
	if name, ok := p.Labels[v2beta1.LabelOwnerSpiderSubnet]; ok {
		all = append(all, reconcile.Request{NamespacedName: client.ObjectKey{Name: name}})
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil && owner.Kind == "SpiderSubnet" {
		all = append(all, reconcile.Request{NamespacedName: client.ObjectKey{Name: owner.Name}})
	}
	return all
}

// reservations gives SpiderReservedIPs what admission adds, if they were stored without.
type reservations struct {
	Options
	watched client.Reader
}

// addReservations registers the controller of SpiderReservedIPs.
func addReservations(mgr manager.Manager, watches cache.Cache, o Options) error {
	c, err := controller.New("reservedip", mgr, controller.Options{Reconciler: &reservations{o, watches}, RateLimiter: retries()})
	if err == nil {
		err = c.Watch(source.Kind(watches, &v2beta1.SpiderReservedIP{}, &handler.TypedEnqueueRequestForObject[*v2beta1.SpiderReservedIP]{}))
	}
	if err != nil {
		return fmt.Errorf("make the controller of reservations: %w", err)
	}
	return nil
}

// Reconcile looks at one SpiderReservedIP.
func (r *reservations) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	o := &v2beta1.SpiderReservedIP{}
	if err := r.watched.Get(ctx, req.NamespacedName, o); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	changed := o.DeepCopy()
	if !pool.DefaultReserved(changed) {
		return reconcile.Result{}, nil
	}
	err := r.Live.Patch(ctx, changed, client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{}))
	return reconcile.Result{}, client.IgnoreNotFound(err)
}
