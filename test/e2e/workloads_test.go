package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

var selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}

// remove deletes a workload with its pods.
func (s *scenario) remove(o client.Object) {
	s.Helper()
	if err := s.Delete(s.Context(), o, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		s.Fatal(err)
	}
}

func TestDeployment(t *testing.T) {
	s := begin(t, 50)
	replicas := int32(6)
	d := &appsv1.Deployment{ObjectMeta: s.meta(), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: s.template(forever...)}}
	s.make(d)
	s.running(6)
	s.sound(6)
	s.endpoints("Deployment", "web", 6)
	before := d.DeepCopy()
	fewer := int32(2)
	d.Spec.Replicas = &fewer
	if err := s.Patch(s.Context(), d, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	s.held(4)
	s.remove(d)
	s.held(0)
	s.endpoints("", "", 0)
}

func TestStatefulSet(t *testing.T) {
	s := begin(t, 50)
	replicas := int32(3)
	d := &appsv1.StatefulSet{ObjectMeta: s.meta(), Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: selector, Template: s.template(forever...), PodManagementPolicy: appsv1.ParallelPodManagement}}
	s.make(d)
	s.running(3)
	s.sound(3)
	s.endpoints("StatefulSet", "web", 3)
	s.remove(d)
	s.held(0)
}

func TestDaemonSet(t *testing.T) {
	s := begin(t, 50)
	template := s.template(forever...)
	template.Spec.TopologySpreadConstraints = nil
	d := &appsv1.DaemonSet{ObjectMeta: s.meta(), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	s.make(d)
	s.running(3)
	s.sound(3)
	s.endpoints("DaemonSet", "web", 3)
	s.remove(d)
	s.held(0)
}

// TestJob: pods that finished, well or not, give their addresses back while they are still listed, and their endpoints show
// none.
func TestJob(t *testing.T) {
	s := begin(t, 50)
	const n = 3
	for _, exit := range []int{0, 1} {
		template := s.template("sh", "-c", fmt.Sprintf("ip -o addr show scope global; sleep 2; exit %d", exit))
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		indexed := batchv1.IndexedCompletion
		j := &batchv1.Job{ObjectMeta: s.meta(), Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](n), Completions: ptr.To[int32](n), Template: template,
			CompletionMode: &indexed, BackoffLimitPerIndex: ptr.To[int32](0)}}
		s.make(j)
		s.eventually(func() string {
			if err := s.Get(s.Context(), client.ObjectKeyFromObject(j), j); err != nil {
				return err.Error()
			}
			if want := [2]int32{n * int32(1-exit), n * int32(exit)}; [2]int32{j.Status.Succeeded, j.Status.Failed} != want {
				return fmt.Sprintf("%d have succeeded and %d failed, want %v", j.Status.Succeeded, j.Status.Failed, want)
			}
			return ""
		})
		s.held(0)
		s.endpoints("Job", "web", n)
		s.eventually(func() string {
			var list v2beta1.SpiderEndpointList
			if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil {
				return err.Error()
			}
			for _, e := range list.Items {
				if len(e.Status.Current.IPs) > 0 {
					return e.Name + " still shows an address"
				}
			}
			return ""
		})
		s.remove(j)
		s.gone(j)
		s.endpoints("", "", 0)
	}
}

// TestRefusedPod: the reason stands in the pod's events, and the pod starts by
// itself when the administrator has mended it.
func TestRefusedPod(t *testing.T) {
	s := begin(t, 50)
	template := s.template(forever...)
	template.Annotations[v2beta1.AnnotationIPPool] = `{"ipv4":["` + s.namespace + `-late"]}`
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Namespace, p.Name = s.namespace, "web"
	s.make(p)
	s.eventually(func() string {
		var list corev1.EventList
		if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			if e.Reason == "FailedCreatePodSandBox" && strings.Contains(e.Message, "no IPPool available") && strings.Contains(e.Message, s.namespace+"-late: no such IPPool") {
				return ""
			}
		}
		return "no event says that the pool is missing"
	})
	s.held(0)
	s.pool("late", "172.20.0.0/16", "172.20.250.1-172.20.250.9", "172.20.0.1")
	s.running(1)
	s.held(1)
	s.remove(p)
	s.held(0)
}
