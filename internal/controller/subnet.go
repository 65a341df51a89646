package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// subnets gives SpiderSubnets what admission adds, if they were stored without, shows in their status what pools have of them, and
// lets those go that are deleted once they have no pools any more.
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
		source.Kind(watches, &v2beta1.SpiderIPPool{}, ofPools()),
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
		return reconcile.Result{}, s.show(ctx, o)
	}
	err := s.Live.Patch(ctx, changed, client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{}))
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// maxControlled is how long controlledIPPools may be, in bytes: some 600 pools. Tools read it, and nothing decides by it.
const maxControlled = 64 << 10

// show writes what pools have of a SpiderSubnet into its status, unless it stands there.
func (s *subnets) show(ctx context.Context, o *v2beta1.SpiderSubnet) error {
	var all v2beta1.SpiderIPPoolList
	if err := s.watched.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list the SpiderIPPools: %w", err)
	}
	shown := o.DeepCopy()
	shown.Status = subnetStatus(o, all.Items)
	if equality.Semantic.DeepEqual(o.Status, shown.Status) {
		return nil
	}
	err := s.Live.Status().Update(ctx, shown)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the watch is about to bring what it is now
	}
	if err != nil {
		return fmt.Errorf("write the status of SpiderSubnet %s: %w", o.Name, err)
	}
	return nil
}

// controlledPool is what stands in controlledIPPools of a pool.
type controlledPool struct {
	IPs []string `json:"ips"`
	// Application is group, version, kind, namespace and name of an automatic pool, joined by underscores.
	Application string `json:"application,omitempty"`
}

// subnetStatus is what pools have of a subnet. Of one that is malformed nothing is known.
func subnetStatus(o *v2beta1.SpiderSubnet, pools []v2beta1.SpiderIPPool) (out v2beta1.SubnetStatus) {
	whole, errs := pool.ParseSubnet(o)
	if len(errs) > 0 {
		return out
	}
	controlled := map[string]controlledPool{}
	var ranges []addr.Range
	for i := range pools {
		p := &pools[i]
		set, ok := pool.AddressesOf(p)
		if !ok || pool.SubnetNameOf(p) != o.Name {
			continue
		}
		ranges = slices.AppendSeq(ranges, set.Ranges())
		one := controlledPool{IPs: set.Strings()}
		if of := pool.AutomaticOf(p); of != nil {
			gv, _ := schema.ParseGroupVersion(of.APIVersion)
			one.Application = strings.TrimPrefix(strings.Join([]string{gv.Group, gv.Version, of.Kind, of.Namespace, of.Name}, "_"), "_")
		}
		controlled[p.Name] = one
	}
	if text, err := json.Marshal(controlled); err == nil && len(controlled) > 0 && len(text) <= maxControlled {
		out.ControlledIPPools = new(string(text))
	}
	out.TotalIPCount = new(whole.Addresses.Count().Int64())
	out.AllocatedIPCount = new(addr.MakeSet(ranges...).Intersect(whole.Addresses).Count().Int64())
	return out
}

// subnetsGather is how long a change of a pool waits for others of its subnet.
const subnetsGather = time.Second

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
			if slices.Contains(subnetsOf(&all.Items[i]), o.Name) {
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
func subnetsOf(p *v2beta1.SpiderIPPool) (names []string) {
	if name, ok := p.Labels[v2beta1.LabelOwnerSpiderSubnet]; ok {
		names = append(names, name)
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil && owner.Kind == "SpiderSubnet" {
		names = append(names, owner.Name)
	}
	return names
}

// ofPools looks at the subnets of pools that change, of many at once.
func ofPools() handler.TypedEventHandler[*v2beta1.SpiderIPPool, reconcile.Request] {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	look := func(q queue, pools ...*v2beta1.SpiderIPPool) {
		for _, p := range pools {
			enqueue(q, ofCounts, subnetsGather, subnetsOf(p)...)
		}
	}
	return handler.TypedFuncs[*v2beta1.SpiderIPPool, reconcile.Request]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[*v2beta1.SpiderIPPool], q queue) { look(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[*v2beta1.SpiderIPPool], q queue) {
			if e.ObjectOld.Generation != e.ObjectNew.Generation || !slices.Equal(subnetsOf(e.ObjectOld), subnetsOf(e.ObjectNew)) {
				look(q, e.ObjectOld, e.ObjectNew)
			}
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*v2beta1.SpiderIPPool], q queue) { look(q, e.Object) },
	}
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
