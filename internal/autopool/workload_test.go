package autopool

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

var both = []pool.Family{pool.IPv4, pool.IPv6}

// asking is a template whose pods ask for a subnet.
func asking(annotations ...string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v2beta1.AnnotationSubnet: `{"ipv4":["s4"]}`}}}
	for i := 0; i < len(annotations); i += 2 {
		t.Annotations[annotations[i]] = annotations[i+1]
	}
	return t
}

// TestWorkloadOf: which objects are applications, and how many pods of each may exist at once.
func TestWorkloadOf(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u"}
	ownedBy := func(apiVersion, kind string) metav1.ObjectMeta {
		m := meta
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: "top", UID: "t", Controller: ptr.To(true)}}
		return m
	}
	deployment := func(replicas *int32, surge *intstr.IntOrString, strategy appsv1.DeploymentStrategyType) *appsv1.Deployment {
		d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: replicas, Template: asking(), Strategy: appsv1.DeploymentStrategy{Type: strategy}}}
		if surge != nil {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: surge}
		}
		return d
	}
	job := func(parallelism, completions *int32) batchv1.JobSpec {
		return batchv1.JobSpec{Parallelism: parallelism, Completions: completions, Template: asking()}
	}
	hostNetwork := asking()
	hostNetwork.Spec.HostNetwork = true
	deleted := meta
	deleted.DeletionTimestamp = ptr.To(metav1.Now())
	n := ptr.To[int32]
	for _, tt := range []struct {
		name string
		o    client.Object
		want string // kind and name; empty for none
		pods int
	}{
		{"Deployment", deployment(n(4), ptr.To(intstr.FromString("25%")), appsv1.RollingUpdateDeploymentStrategyType), "Deployment shop/web", 5},
		{"surge rounded up", deployment(n(5), ptr.To(intstr.FromString("25%")), appsv1.RollingUpdateDeploymentStrategyType), "Deployment shop/web", 7},
		{"surge of a number", deployment(n(5), ptr.To(intstr.FromInt32(3)), appsv1.RollingUpdateDeploymentStrategyType), "Deployment shop/web", 8},
		{"no pods", deployment(n(0), ptr.To(intstr.FromInt32(3)), appsv1.RollingUpdateDeploymentStrategyType), "Deployment shop/web", 0},
		{"recreated", deployment(n(5), ptr.To(intstr.FromInt32(3)), appsv1.RecreateDeploymentStrategyType), "Deployment shop/web", 5},
		{"replicas not written", deployment(nil, nil, appsv1.RecreateDeploymentStrategyType), "Deployment shop/web", 1},
		{"StatefulSet", &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: n(3), Template: asking()}}, "StatefulSet shop/web", 3},
		{"StatefulSet of an operator", &appsv1.StatefulSet{ObjectMeta: ownedBy("x.io/v1", "Cluster"), Spec: appsv1.StatefulSetSpec{Replicas: n(3), Template: asking()}}, "StatefulSet shop/web", 3},
		{"ReplicaSet", &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Replicas: n(3), Template: asking()}}, "ReplicaSet shop/web", 3},
		{"ReplicaSet of a Deployment", &appsv1.ReplicaSet{ObjectMeta: ownedBy("apps/v1", "Deployment"), Spec: appsv1.ReplicaSetSpec{Replicas: n(3), Template: asking()}}, "", 0},
		{"ReplicaSet of others", &appsv1.ReplicaSet{ObjectMeta: ownedBy("argoproj.io/v1alpha1", "Rollout"), Spec: appsv1.ReplicaSetSpec{Replicas: n(3), Template: asking()}}, "Rollout shop/top", Unknown},
		{"DaemonSet", &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: asking()}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 7}}, "DaemonSet shop/web", 7},
		{"DaemonSet that is new", &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 1}, Spec: appsv1.DaemonSetSpec{Template: asking()}}, "DaemonSet shop/web", Uncounted},
		{"DaemonSet that surges", &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Template: asking(), UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(2))}}}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 7}}, "DaemonSet shop/web", 9},
		{"Job", &batchv1.Job{ObjectMeta: meta, Spec: job(n(5), n(3))}, "Job shop/web", 3},
		{"Job of a queue", &batchv1.Job{ObjectMeta: meta, Spec: job(n(5), nil)}, "Job shop/web", 5},
		{"Job that says nothing", &batchv1.Job{ObjectMeta: meta, Spec: job(nil, nil)}, "Job shop/web", 1},
		{"Job of a CronJob", &batchv1.Job{ObjectMeta: ownedBy("batch/v1", "CronJob"), Spec: job(n(5), n(3))}, "", 0},
		{"CronJob", &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: job(n(5), n(3))}}}, "CronJob shop/web", 3},
		{"CronJob whose Jobs overlap", &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: job(n(5), n(3))}},
			Status: batchv1.CronJobStatus{Active: make([]corev1.ObjectReference, 2)}}, "CronJob shop/web", 6},
		{"on the network of the host", &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Template: hostNetwork}}, "", 0},
		{"asks for nothing", &appsv1.StatefulSet{ObjectMeta: meta}, "", 0},
		{"being deleted", &appsv1.StatefulSet{ObjectMeta: deleted, Spec: appsv1.StatefulSetSpec{Template: asking()}}, "", 0},
		{"another kind", &corev1.Pod{ObjectMeta: meta}, "", 0},
	} {
		w := WorkloadOf(tt.o, both)
		got, pods := "", 0
		if w != nil {
			got, pods = w.String(), w.Pods
		}
		if got != tt.want || pods != tt.pods {
			t.Errorf("%s: %q with %d pods, want %q with %d", tt.name, got, pods, tt.want, tt.pods)
		}
	}
	if !IsKnown("apps/v1", "Deployment") || IsKnown("x.io/v1", "Deployment") || IsKnown("apps/v1", "CloneSet") || IsKnown("", "") {
		t.Error("which kinds are watched is not right")
	}
}
