package controller

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// trimWorkload keeps of a workload what decides about its automatic pools, which of most is nothing: there are as many as
// ReplicaSets and Jobs in the cluster.
func trimWorkload(o any) (any, error) {
	w, ok := o.(client.Object)
	if !ok {
		return o, nil
	}
	meta := metav1.ObjectMeta{Namespace: w.GetNamespace(), Name: w.GetName(), UID: w.GetUID(), ResourceVersion: w.GetResourceVersion(),
		DeletionTimestamp: w.GetDeletionTimestamp(), OwnerReferences: w.GetOwnerReferences()}
	switch w := w.(type) {
	case *appsv1.Deployment:
		if template, asks := trimTemplate(&w.Spec.Template); asks {
			return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: template, Replicas: w.Spec.Replicas, Strategy: w.Spec.Strategy}}, nil
		}
		return &appsv1.Deployment{ObjectMeta: meta}, nil
	case *appsv1.ReplicaSet:
		if template, asks := trimTemplate(&w.Spec.Template); asks {
			return &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Template: template, Replicas: w.Spec.Replicas}}, nil
		}
		return &appsv1.ReplicaSet{ObjectMeta: meta}, nil
	case *appsv1.StatefulSet:
		if template, asks := trimTemplate(&w.Spec.Template); asks {
			return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: template, Replicas: w.Spec.Replicas}}, nil
		}
		return &appsv1.StatefulSet{ObjectMeta: meta}, nil
	case *appsv1.DaemonSet:
		if template, asks := trimTemplate(&w.Spec.Template); asks {
			return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: template, UpdateStrategy: w.Spec.UpdateStrategy},
				Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: w.Status.DesiredNumberScheduled}}, nil
		}
		return &appsv1.DaemonSet{ObjectMeta: meta}, nil
	case *batchv1.Job:
		if template, asks := trimTemplate(&w.Spec.Template); asks {
			return &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: template, Parallelism: w.Spec.Parallelism, Completions: w.Spec.Completions}}, nil
		}
		return &batchv1.Job{ObjectMeta: meta}, nil
	case *batchv1.CronJob:
		job := w.Spec.JobTemplate.Spec
		if template, asks := trimTemplate(&job.Template); asks {
			return &batchv1.CronJob{ObjectMeta: meta, Status: batchv1.CronJobStatus{Active: w.Status.Active},
				Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template, Parallelism: job.Parallelism, Completions: job.Completions}}}}, nil
		}
		return &batchv1.CronJob{ObjectMeta: meta}, nil
	}
	return o, nil
}

func trimTemplate(t *corev1.PodTemplateSpec) (trimmed corev1.PodTemplateSpec, asks bool) {
	trimmed.Annotations, trimmed.Spec.HostNetwork = subnetAnnotations(t.Annotations), t.Spec.HostNetwork
	return trimmed, pool.AsksForSubnets(t.Annotations)
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
		for _, o := range objectsOf(list) {
			if one := autopool.WorkloadOf(o, w.enabled); one != nil {
				out = append(out, *one)
			}
		}
	}
	return out, nil
}

// objectsOf are pointers to the items of a list of workloads.
func objectsOf(list client.ObjectList) []client.Object {
	switch l := list.(type) {
	case *appsv1.DeploymentList:
		return pointers[appsv1.Deployment](l.Items)
	case *appsv1.ReplicaSetList:
		return pointers[appsv1.ReplicaSet](l.Items)
	case *appsv1.StatefulSetList:
		return pointers[appsv1.StatefulSet](l.Items)
	case *appsv1.DaemonSetList:
		return pointers[appsv1.DaemonSet](l.Items)
	case *batchv1.JobList:
		return pointers[batchv1.Job](l.Items)
	case *batchv1.CronJobList:
		return pointers[batchv1.CronJob](l.Items)
	}
	return nil
}

func pointers[T any, P interface {
	*T
	client.Object
}](items []T) []client.Object {
	out := make([]client.Object, len(items))
	for i := range items {
		out[i] = P(&items[i])
	}
	return out
}
