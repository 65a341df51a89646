// Package autopool decides about automatic pools: which applications want one and of what size, what it is named and
// labelled, which addresses of a SpiderSubnet it gets, and what becomes of it when the application changes or is gone. It only
// decides; the controller reads and writes.
package autopool

import (
	"errors"
	"fmt"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Workload is an application whose pods ask for SpiderSubnets.
type Workload struct {
	pool.Application
	UID types.UID
	// Pods is how many pods of it may exist at once, or Unknown or Uncounted.
	Pods int
	// Ask is what its pods ask for; nil if that cannot be read, and Wrong says why.
	Ask   *pool.Ask
	Wrong error
}

const (
	// Unknown is the number of pods of a workload of which nobody can know it, as of a kind of others.
	Unknown = -1
	// Uncounted is that of a DaemonSet whose controller has not told yet how many nodes it is for.
	Uncounted = -2
)

// errUncounted is why the size of a workload's pools is not known yet. It is no problem of anybody.
var errUncounted = errors.New("its nodes are not counted yet")

// WorkloadOf reads o, which is a Deployment, ReplicaSet, StatefulSet, DaemonSet, Job or CronJob; nil if its pods ask for no
// SpiderSubnet, are on the network of their host, or if another of these kinds made it, whose pods they are then. What a
// controller of another kind made is that one's.
func WorkloadOf(o client.Object, enabled []pool.Family) *Workload {
	template, pods := podsOf(o)
	if template == nil || template.Spec.HostNetwork || !pool.AsksForSubnets(template.Annotations) || o.GetDeletionTimestamp() != nil {
		return nil
	}
	w := &Workload{Application: pool.Application{Namespace: o.GetNamespace(), Name: o.GetName()}, UID: o.GetUID(), Pods: pods}
	w.APIVersion, w.Kind = kindOf(o)
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil && isBetween(w.Kind) {
		if IsKnown(owner.APIVersion, owner.Kind) {
			return nil
		}
		w.APIVersion, w.Kind, w.Name, w.UID, w.Pods = owner.APIVersion, owner.Kind, owner.Name, owner.UID, Unknown
	}
	w.Ask, w.Wrong = pool.AskOf(template.Annotations, enabled)
	return w
}

// WorkloadOfPod is the workload of a kind of others that made a pod with these annotations.
func WorkloadOfPod(namespace string, owner metav1.OwnerReference, annotations map[string]string, enabled []pool.Family) *Workload {
	w := &Workload{Application: pool.Application{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: namespace, Name: owner.Name}, UID: owner.UID, Pods: Unknown}
	w.Ask, w.Wrong = pool.AskOf(annotations, enabled)
	return w
}

// IsKnown reports whether workloads of a kind are watched, and not found by their pods.
func IsKnown(apiVersion, kind string) bool { return New(apiVersion, kind) != nil }

// Kinds are an empty object of each kind that is watched.
func Kinds() []client.Object {
	return []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}}
}

// New is an empty object of a kind that is watched, nil for any other.
func New(apiVersion, kind string) client.Object {
	for _, o := range Kinds() {
		if version, is := kindOf(o); version == apiVersion && is == kind {
			return o
		}
	}
	return nil
}

// kindOf is the kind of an object that is watched; empty for any other. What a watch brings does not say it.
func kindOf(o client.Object) (apiVersion, kind string) {
	switch o.(type) {
	case *appsv1.Deployment:
		return "apps/v1", "Deployment"
	case *appsv1.ReplicaSet:
		return "apps/v1", "ReplicaSet"
	case *appsv1.StatefulSet:
		return "apps/v1", "StatefulSet"
	case *appsv1.DaemonSet:
		return "apps/v1", "DaemonSet"
	case *batchv1.Job:
		return "batch/v1", "Job"
	case *batchv1.CronJob:
		return "batch/v1", "CronJob"
	}
	return "", ""
}

// isBetween reports whether others make workloads of a kind to run pods.
func isBetween(kind string) bool { return kind == "ReplicaSet" || kind == "Job" }

// TemplateOf is the template of a workload's pods; nil if its kind is not watched.
func TemplateOf(o client.Object) *corev1.PodTemplateSpec {
	template, _ := podsOf(o)
	return template
}

// podsOf is the template of a workload's pods, and how many of these may exist at once.
func podsOf(o client.Object) (*corev1.PodTemplateSpec, int) {
	switch w := o.(type) {
	case *appsv1.Deployment:
		n := number(w.Spec.Replicas, 1)
		if s := w.Spec.Strategy; n > 0 && s.Type != appsv1.RecreateDeploymentStrategyType && s.RollingUpdate != nil {
			n += scaled(s.RollingUpdate.MaxSurge, n)
		}
		return &w.Spec.Template, n
	case *appsv1.ReplicaSet:
		return &w.Spec.Template, number(w.Spec.Replicas, 1)
	case *appsv1.StatefulSet:
		return &w.Spec.Template, number(w.Spec.Replicas, 1)
	case *appsv1.DaemonSet:
		if w.Status.ObservedGeneration < w.Generation {
			return &w.Spec.Template, Uncounted
		}
		n := int(w.Status.DesiredNumberScheduled)
		if u := w.Spec.UpdateStrategy.RollingUpdate; u != nil {
			n += scaled(u.MaxSurge, n)
		}
		return &w.Spec.Template, n
	case *batchv1.Job:
		return &w.Spec.Template, ofJob(&w.Spec)
	case *batchv1.CronJob:
		return &w.Spec.JobTemplate.Spec.Template, ofJob(&w.Spec.JobTemplate.Spec) * max(1, len(w.Status.Active))
	}
	return nil, 0
}

// ofJob is how many pods a Job runs at once: no more than have to complete.
func ofJob(s *batchv1.JobSpec) int {
	return min(number(s.Parallelism, 1), number(s.Completions, math.MaxInt32))
}

func number(n *int32, unset int) int {
	if n == nil {
		return unset
	}
	return int(*n)
}

// scaled is a number or a part of n, rounded up as surges are.
func scaled(part *intstr.IntOrString, n int) int {
	if part == nil {
		return 0
	}
	out, err := intstr.GetScaledValueFromIntOrPercent(part, n, true)
	if err != nil {
		return 0
	}
	return max(0, out)
}

// size is how many addresses the pools of a workload have, or why that is not known. redundant are those more than pods where
// the workload does not say.
func (w *Workload) size(redundant int) (int, error) {
	s := w.Ask.Size
	switch {
	case s.Set && !s.Flexible:
		return s.Number, nil
	case w.Pods == Uncounted:
		return 0, errUncounted
	case w.Pods == Unknown:
		return 0, fmt.Errorf(`how many pods a %s has is not known: write how many addresses its pool has, as in ipam.spidernet.io/ippool-ip-number: "5"`, w.Kind)
	case !s.Set:
		s.Number = redundant
	}
	if n := w.Pods + s.Number; n <= pool.MaxAutomatic {
		return n, nil
	}
	return 0, fmt.Errorf("it may have %d pods at once and wants %d addresses more, and an automatic pool has at most %d", w.Pods, s.Number, pool.MaxAutomatic)
}
