package controller

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/autopool"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// subnetAnnotations are those of a pod that ask for SpiderSubnets.
func subnetAnnotations(all map[string]string) map[string]string {
	out := map[string]string{}
	for _, key := range []string{v2beta1.AnnotationSubnet, v2beta1.AnnotationSubnets, v2beta1.AnnotationIPPoolIPNumber, v2beta1.AnnotationIPPoolReclaim} {
		if text, ok := all[key]; ok {
			out[key] = text
		}
	}
	return out
}

// trimWorkload keeps of a workload's pods what decides about its automatic pools, and drops what may be long: there are as many
// as ReplicaSets and Jobs in the cluster.
func trimWorkload(o any) (any, error) {
	w, ok := o.(client.Object)
	if !ok {
		return o, nil
	}
	if template := autopool.TemplateOf(w); template != nil {
		annotations, hostNetwork := subnetAnnotations(template.Annotations), template.Spec.HostNetwork
		*template = corev1.PodTemplateSpec{}
		template.Annotations, template.Spec.HostNetwork = annotations, hostNetwork
	}
	w.SetManagedFields(nil)
	w.SetAnnotations(nil)
	w.SetLabels(nil)
	return w, nil
}

// workloads are the applications that the watches know, of all kinds.
type workloads struct {
	watches cache.Cache
	enabled []pool.Family
}

// start begins to watch, and has changed raised whenever a workload that asks for SpiderSubnets, or did, comes, goes or
// changes. It returns when each watch has brought its first list.
func (w *workloads) start(ctx context.Context, changed signal) error {
	asks := func(o any) bool {
		object, ok := o.(client.Object)
		return ok && autopool.WorkloadOf(object, w.enabled) != nil
	}
	for _, kind := range autopool.Kinds() {
		informer, err := w.watches.GetInformer(ctx, kind)
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) {
				if asks(o) {
					changed.raise()
				}
			},
			UpdateFunc: func(before, after any) {
				if asks(before) || asks(after) {
					changed.raise()
				}
			},
			DeleteFunc: func(any) { changed.raise() },
		}); err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	return nil
}

// list returns all that ask for SpiderSubnets, in no order.
func (w *workloads) list(ctx context.Context) (out []autopool.Workload, err error) {
	for _, list := range []client.ObjectList{&appsv1.DeploymentList{}, &appsv1.ReplicaSetList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{},
		&batchv1.JobList{}, &batchv1.CronJobList{}} {
		if err := w.watches.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list the workloads: %w", err)
		}
		_ = apimeta.EachListItem(list, func(o runtime.Object) error { // never fails
			if one := autopool.WorkloadOf(o.(client.Object), w.enabled); one != nil {
				out = append(out, *one)
			}
			return nil
		})
	}
	return out, nil
}
