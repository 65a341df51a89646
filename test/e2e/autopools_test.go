package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/test/lab"
	"github.com/spidernet-io/spiderpool/test/owners"
)

// The scenarios of this file are about pools that are made for applications.

// subnet makes a SpiderSubnet and returns its name.
func (s *scenario) subnet(name, cidr string, ips ...string) string {
	s.Helper()
	o := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-" + name}, Spec: v2beta1.SubnetSpec{Subnet: cidr, IPs: ips}}
	s.make(o)
	return o.Name
}

// asksFor has pods of a template ask for SpiderSubnets, by annotations without their prefix in pairs of keys and values.
func (s *scenario) asksFor(t *corev1.PodTemplateSpec, annotations ...string) {
	t.Annotations = map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		t.Annotations["ipam.spidernet.io/"+annotations[i]] = annotations[i+1]
	}
}

// ownPools waits until the automatic pools of the scenario are these, as "Kind name interface IPv4 size".
func (s *scenario) ownPools(want ...string) {
	s.Helper()
	slices.Sort(want)
	s.eventually(func() string {
		var list v2beta1.SpiderIPPoolList
		if err := s.List(s.Context(), &list); err != nil {
			return err.Error()
		}
		got := []string{}
		for i := range list.Items {
			p := &list.Items[i]
			if of := pool.AutomaticOf(p); of != nil && of.Namespace == s.namespace {
				set, _ := pool.AddressesOf(p)
				got = append(got, fmt.Sprintf("%s %s %s %s %s", of.Kind, of.Name, of.Interface, pool.FamilyOfSubnet(p.Spec.Subnet), set.Count()))
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Sprintf("the automatic pools are %q, want %q", got, want)
		}
		return ""
	})
}

// bothFamilies asks for the scenario's two subnets.
func (s *scenario) bothFamilies() string {
	return fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, s.namespace+"-s4", s.namespace+"-s6")
}

// TestAutomaticPools: applications of all kinds ask for a subnet of each family, are scaled, rolled, deleted and made again.
func TestAutomaticPools(t *testing.T) {
	s := begin(t, 1)
	s4 := s.subnet("s4", "172.30.0.0/16", "172.30.0.10-172.30.0.79")
	s6 := s.subnet("s6", "fd00:172:30::/64", "fd00:172:30::10-fd00:172:30::ffff:ffff")
	ask := s.bothFamilies()

	surge := intstr.FromInt32(1)
	d := s.deployment(3, func(d *appsv1.Deployment) {
		s.asksFor(&d.Spec.Template, "subnet", ask)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge}
	})
	s.running(3)
	s.ownPools("Deployment web eth0 IPv4 5", "Deployment web eth0 IPv6 5")
	s.sound(3)
	if failed := s.failedSandboxes(); failed > 0 {
		t.Errorf("%d sandboxes failed though pods wait for their pool", failed)
	}
	s.edit(d, func() { d.Spec.Replicas = ptr.To[int32](6) })
	s.running(6)
	s.ownPools("Deployment web eth0 IPv4 8", "Deployment web eth0 IPv6 8")
	s.rollTo(d, 6)
	s.edit(d, func() { d.Spec.Replicas = ptr.To[int32](2) })
	s.ownPools("Deployment web eth0 IPv4 4", "Deployment web eth0 IPv6 4")
	s.running(2)
	// As many addresses as pods: one pod goes before the next one comes.
	s.edit(d, func() {
		d.Spec.Replicas = ptr.To[int32](4)
		d.Spec.Template.Annotations[v2beta1.AnnotationIPPoolIPNumber] = "4"
	})
	s.ownPools("Deployment web eth0 IPv4 4", "Deployment web eth0 IPv6 4")
	s.rollTo(d, 4)
	said := s.explain(s.pods()[0].Name, "eth0")
	for _, part := range []string{s4, s6, "auto4-web-eth0-", "Deployment " + s.namespace + "/web"} {
		if !strings.Contains(said, part) {
			t.Errorf("explain does not say %q:\n%s", part, said)
		}
	}
	s.agree(4, 8)

	// Deleted and made again at once, and then with what stays.
	for _, reclaim := range []string{"true", "false"} {
		set := s.statefulSet("set", 3, func(set *appsv1.StatefulSet) {
			s.asksFor(&set.Spec.Template, "subnet", ask, "ippool-ip-number", "3", "ippool-reclaim", reclaim)
		})
		s.running(7)
		had := s.bearOf("set-")
		if err := s.Delete(t.Context(), set, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
		if reclaim == "false" {
			s.running(4)
		}
		set = s.statefulSet("set", 3, func(set *appsv1.StatefulSet) { s.asksFor(&set.Spec.Template, "subnet", ask, "ippool-ip-number", "3") })
		s.eventually(func() string {
			if now := s.bearOf("set-"); !slices.Equal(now, had) {
				return fmt.Sprintf("the pods have %v, had %v", now, had)
			}
			return ""
		})
		s.running(7)
		s.remove(set)
		s.ownPools("Deployment web eth0 IPv4 4", "Deployment web eth0 IPv6 4")
	}
	s.remove(d)
	s.ownPools()

	daemons := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "daemons"}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: s.template(forever...)}}
	s.asksFor(&daemons.Spec.Template, "subnet", ask)
	replicas := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "replicas"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2),
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "replicas"}}, Template: s.template(forever...)}}
	replicas.Spec.Template.Labels = map[string]string{"app": "replicas"}
	s.asksFor(&replicas.Spec.Template, "subnet", ask, "ippool-ip-number", "+0")
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "job"}, Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](4), Template: s.template("sleep", "1")}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.asksFor(&job.Spec.Template, "subnet", ask)
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "cron"}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *"}}
	cron.Spec.JobTemplate.Spec.Template = s.template("sleep", "1")
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.asksFor(&cron.Spec.JobTemplate.Spec.Template, "subnet", ask)
	for _, o := range []client.Object{daemons, replicas, job, cron} {
		s.make(o)
	}
	s.ownPools("DaemonSet daemons eth0 IPv4 4", "DaemonSet daemons eth0 IPv6 4", "ReplicaSet replicas eth0 IPv4 2", "ReplicaSet replicas eth0 IPv6 2",
		"Job job eth0 IPv4 3", "Job job eth0 IPv6 3", "CronJob cron eth0 IPv4 2", "CronJob cron eth0 IPv6 2")
	if err := owners.Install(t.Context(), s.Client); err != nil {
		t.Fatal(err)
	}
	clone := owners.New("apps.kruise.io/v1beta1", "StatefulSet", s.namespace, "clone", map[string]any{"replicas": int64(1)}, nil)
	s.make(clone)
	s.asking("clone-0", "", "", owners.Of(clone), func(p *corev1.Pod) {
		template := corev1.PodTemplateSpec{}
		s.asksFor(&template, "subnet", ask, "ippool-ip-number", "2")
		p.Annotations = template.Annotations
	})
	s.runs("clone-0")
	s.eventually(func() string { // also of those that the CronJob ran
		var all batchv1.JobList
		if err := s.List(t.Context(), &all, client.InNamespace(s.namespace)); err != nil {
			return err.Error()
		}
		done := 0
		for _, j := range all.Items {
			done += int(j.Status.Succeeded)
		}
		if done < 5 {
			return fmt.Sprintf("%d pods of Jobs have succeeded, want 4 and some of the CronJob", done)
		}
		return ""
	})
	for _, o := range []client.Object{daemons, replicas, job, cron, clone} {
		s.remove(o)
	}
	s.remove(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "clone-0"}})
	s.ownPools()
	for _, name := range []string{s4, s6} {
		o := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
		s.eventually(func() string {
			if err := s.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || ptr.Deref(o.Status.AllocatedIPCount, -1) != 0 {
				return fmt.Sprintf("%s shows %+v (%v)", name, o.Status, err)
			}
			return ""
		})
		s.remove(o)
		s.gone(o)
	}
}

// rollTo replaces all pods of a Deployment, and waits until so many new ones run.
func (s *scenario) rollTo(d *appsv1.Deployment, n int) {
	s.Helper()
	before := s.pods()
	s.edit(d, func() { d.Spec.Template.Labels["rolled"] = fmt.Sprint(time.Now().UnixNano()) })
	s.anew(n, before...)
}

// bearOf are the addresses of pods whose names begin so, sorted.
func (s *scenario) bearOf(prefix string) (out []string) {
	s.Helper()
	for name, addresses := range s.bear() {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name+" "+strings.Join(addresses, " "))
		}
	}
	slices.Sort(out)
	return out
}

// TestSubnetTooSmall: an application that asks for more than there is gets nothing, and is told how much is missing; when the
// subnet has more its pods run. Another subnet takes its pods away from the first.
func TestSubnetTooSmall(t *testing.T) {
	s := begin(t, 1)
	small := s.subnet("small", "172.31.0.0/16", "172.31.0.10-172.31.0.12")
	large := s.subnet("large", "172.29.0.0/16", "172.29.0.10-172.29.0.29")
	d := s.deployment(4, func(d *appsv1.Deployment) {
		s.asksFor(&d.Spec.Template, "subnet", fmt.Sprintf(`{"ipv4":[%q]}`, small), "ippool-ip-number", "4")
	})
	s.refused("web", "AutomaticPoolProblem", "SpiderSubnet "+small+" has 3 of the 4 addresses")
	s.ownPools()
	var pods corev1.PodList
	s.eventually(func() string {
		if err := s.List(t.Context(), &pods, client.InNamespace(s.namespace)); err != nil || len(pods.Items) == 0 {
			return fmt.Sprintf("there are no pods (%v)", err)
		}
		return ""
	})
	s.refused(pods.Items[0].Name, "IPAllocationWaiting", "from SpiderSubnet "+small, "the controller has not made the automatic pool of Deployment "+s.namespace+"/web yet")
	o := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: small}}
	s.edit(o, func() { o.Spec.IPs = []string{"172.31.0.10-172.31.0.13"} })
	s.running(4)
	s.agree(4, 4)
	if text, err := s.Kubectl(t.Context(), "get", "spidersubnet", small); err != nil || !strings.Contains(text, "4") {
		t.Errorf("%v\n%s", err, text)
	}
	before := s.pods()
	s.edit(d, func() { s.asksFor(&d.Spec.Template, "subnet", fmt.Sprintf(`{"ipv4":[%q]}`, large)) })
	s.anew(4, before...)
	s.ownPools("Deployment web eth0 IPv4 6")
	for name, addresses := range s.bear() {
		if len(addresses) != 1 || !strings.HasPrefix(addresses[0], "172.29.") {
			t.Errorf("%s has %v", name, addresses)
		}
	}
	orphan := s.asking("orphan", "", "", func(p *corev1.Pod) {
		p.Annotations = map[string]string{v2beta1.AnnotationSubnet: fmt.Sprintf(`{"ipv4":[%q]}`, large)}
	})
	s.refused("orphan", "FailedCreatePodSandBox", "SpiderSubnet feature doesn't support no-controller pod")
	s.remove(orphan)
	s.remove(d)
	s.ownPools()
}

// twoSubnets: each interface of a Deployment's pods has a pool of its own, of another SpiderSubnet.
func twoSubnets(s *scenario) {
	s.attachment("a", lab.Segments[1], map[string]any{})
	first := s.subnet("first", "172.30.0.0/16", "172.30.0.10-172.30.0.29")
	second := s.subnet("second", "172.31.0.0/16", "172.31.0.10-172.31.0.29")
	d := s.deployment(2, func(d *appsv1.Deployment) {
		s.asksFor(&d.Spec.Template, "subnets", fmt.Sprintf(`[{"interface":"eth0","ipv4":[%q]},{"interface":"net1","ipv4":[%q]}]`, first, second))
		d.Spec.Template.Annotations[v2beta1.AnnotationMultusNetworks] = "a"
		d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "node1"} // the default network of the other is another
		d.Spec.Template.Spec.TopologySpreadConstraints = nil
		none := intstr.FromInt32(0)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &none}
	})
	s.running(2)
	s.ownPools("Deployment web eth0 IPv4 3", "Deployment web net1 IPv4 3")
	for _, p := range s.pods() {
		held := s.of(p.Name)
		if len(held["eth0"]) != 1 || len(held["net1"]) != 1 || !strings.HasPrefix(held["eth0"][0], "172.30.") || !strings.HasPrefix(held["net1"][0], "172.31.") {
			s.Errorf("%s has %v", p.Name, held)
		}
	}
	s.rollTo(d, 2)
	s.agree(2, 4)
	s.remove(d)
	s.ownPools()
}
