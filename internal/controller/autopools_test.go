package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// autoTest is a cluster in which a leader makes automatic pools.
type autoTest struct{ *cluster }

func newAutoTest(t testing.TB) *autoTest {
	t.Helper()
	c := &autoTest{newCluster(t)}
	if err := client.IgnoreAlreadyExists(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.removeApplications)
	return c
}

// leads starts a leader that makes automatic pools.
func (c *autoTest) leads() *leader {
	c.t.Helper()
	return leadAs(c.t, apiserver.ControllerConfig(c.t, c.server), func(_ *manager.Options, o *Options) {
		o.AutomaticPools = AutomaticPools{Enabled: true, Redundant: 1, Families: []pool.Family{pool.IPv4, pool.IPv6}}
	})
}

func (c *autoTest) removeApplications() {
	for _, o := range []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}, &corev1.Pod{}} {
		if err := c.DeleteAllOf(context.Background(), o, client.InNamespace("shop"), client.GracePeriodSeconds(0), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *autoTest) subnet(name, cidr string, ips ...string) {
	c.t.Helper()
	c.create(&v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SubnetSpec{Subnet: cidr, IPs: ips, Gateway: new(firstOf(cidr))}})
}

// firstOf is the first host of a network.
func firstOf(cidr string) string {
	network, _, _ := strings.Cut(cidr, "/")
	if strings.HasSuffix(network, ".0") {
		return strings.TrimSuffix(network, "0") + "1"
	}
	return network + "1"
}

// template is that of pods which ask for SpiderSubnets, as annotations in pairs of keys and values.
func template(annotations ...string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}, Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		t.Annotations["ipam.spidernet.io/"+annotations[i]] = annotations[i+1]
	}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: "localhost/c:1"}}
	return t
}

var selectsX = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}

func (c *autoTest) deployment(name string, replicas int32, annotations ...string) *appsv1.Deployment {
	c.t.Helper()
	none := intstr.FromInt32(0)
	one := intstr.FromInt32(1)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selectsX,
		Template: template(annotations...), Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &one}}}}
	c.create(d)
	return d
}

// pools are all automatic pools, as "Kind name interface IPv4 count".
func (c *autoTest) pools() string {
	c.t.Helper()
	var list v2beta1.SpiderIPPoolList
	if err := c.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for i := range list.Items {
		p := &list.Items[i]
		if of := pool.AutomaticOf(p); of != nil {
			set, _ := pool.AddressesOf(p)
			out = append(out, fmt.Sprintf("%s %s %s %s %s", of.Kind, of.Name, of.Interface, of.Subnet, set.Count()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// poolsPatience is five times what 200 applications may take.
const poolsPatience = 100 * time.Second

func (c *autoTest) poolsAre(what string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	text, last := strings.Join(want, "\n"), ""
	for deadline := time.Now().Add(poolsPatience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if last = c.pools(); last == text {
			return
		}
	}
	c.t.Fatalf("%s: the pools are\n%s\nwant\n%s", what, last, text)
}

// said waits for an Event of a leader that begins so.
func (l *leader) said(t testing.TB, beginning string) {
	t.Helper()
	var all []string
	for deadline := time.After(wait); ; {
		select {
		case e := <-l.events.Events:
			if strings.HasPrefix(e, beginning) {
				return
			}
			all = append(all, e)
		case <-deadline:
			t.Fatalf("no Event %q; there are %q", beginning, all)
		}
	}
}

const asksS4 = `{"ipv4":["s4"]}`

// TestAutomaticPools: each kind of application gets its pool, which follows it until it goes.
func TestAutomaticPools(t *testing.T) {
	c := newAutoTest(t)
	c.subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.0.99")
	c.subnet("t4", "10.7.0.0/16", "10.7.0.10-10.7.0.99")
	c.subnet("s6", "fd00:6::/64", "fd00:6::10-fd00:6::ffff:ffff:ffff")
	l := c.leads()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }

	d := c.deployment("web", 2, "subnet", `{"ipv4":["s4"],"ipv6":["s6"]}`)
	set := &appsv1.StatefulSet{ObjectMeta: meta("web"), Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3), Selector: selectsX,
		Template: template("subnets", `[{"interface":"eth0","ipv4":["s4"]},{"interface":"net1","ipv4":["t4"]}]`, "ippool-ip-number", "+0")}}
	daemons := &appsv1.DaemonSet{ObjectMeta: meta("daemons"), Spec: appsv1.DaemonSetSpec{Selector: selectsX, Template: template("subnet", asksS4)}}
	job := &batchv1.Job{ObjectMeta: meta("job"), Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](9), Template: template("subnet", asksS4)}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	cron := &batchv1.CronJob{ObjectMeta: meta("cron"), Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *", JobTemplate: batchv1.JobTemplateSpec{Spec: *job.Spec.DeepCopy()}}}
	replicas := &appsv1.ReplicaSet{ObjectMeta: meta("replicas"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1), Selector: selectsX, Template: template("subnet", asksS4, "ippool-ip-number", "4")}}
	others := c.podOn("n1", "clone-1")
	others.Annotations = map[string]string{v2beta1.AnnotationSubnet: asksS4, v2beta1.AnnotationIPPoolIPNumber: "3"}
	others.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps.example.com/v1", Kind: "CloneSet", Name: "clone", UID: "clone", Controller: ptr.To(true)}}
	if err := c.Update(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{set, daemons, job, cron, replicas} {
		c.create(o)
	}
	daemons.Status.DesiredNumberScheduled, daemons.Status.ObservedGeneration = 5, daemons.Generation
	if err := c.Status().Update(t.Context(), daemons); err != nil {
		t.Fatal(err)
	}
	rest := []string{"StatefulSet web eth0 s4 3", "StatefulSet web net1 t4 3", "DaemonSet daemons eth0 s4 6", "Job job eth0 s4 3", "CronJob cron eth0 s4 3",
		"ReplicaSet replicas eth0 s4 4", "CloneSet clone eth0 s4 3"}
	with := func(more ...string) []string { return append(more, rest...) }
	c.poolsAre("made", with("Deployment web eth0 s4 3", "Deployment web eth0 s6 3")...)
	l.said(t, "Normal AutomaticPool IPPool auto")
	var list v2beta1.SpiderIPPoolList
	if err := c.List(t.Context(), &list, client.MatchingLabels{v2beta1.LabelOwnerApplicationKind: "Deployment", v2beta1.LabelIPVersion: "IPv4"}); err != nil || len(list.Items) != 1 {
		t.Fatal(err, len(list.Items))
	}
	p := list.Items[0]
	if ptr.Deref(p.Spec.Gateway, "") != "10.6.0.1" || !strings.HasPrefix(p.Name, "auto4-web-eth0-") || p.Labels[v2beta1.LabelOwnerApplicationUID] != string(d.UID) {
		t.Errorf("%+v", p)
	}
	l.quiet()
	l.requests.take()
	d.Annotations = map[string]string{"a": "b"}
	if err := c.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	l.quiet()
	c.equal("requests as long as nothing changes", l.requests.take(), []string(nil))

	d.Spec.Replicas = ptr.To[int32](5)
	if err := c.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	c.poolsAre("scaled out", with("Deployment web eth0 s4 6", "Deployment web eth0 s6 6")...)
	first := pool4(t, &p)
	c.holdIn(p.Name, first)
	d.Spec.Replicas = ptr.To[int32](0)
	if err := c.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	c.poolsAre("scaled in", with("Deployment web eth0 s4 1", "Deployment web eth0 s6 1")...)
	d.Spec.Template.Annotations = template("subnet", `{"ipv4":["t4"]}`).Annotations
	if err := c.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	c.poolsAre("another subnet, while a pod has an address of the first", with("Deployment web eth0 s4 1", "Deployment web eth0 t4 1")...)
	c.clearEntries()
	c.poolsAre("another subnet", with("Deployment web eth0 t4 1")...)
	d.Spec.Template.Annotations = template("subnet", `{"ipv4":["t4"]}`, "ippool-reclaim", "false").Annotations
	if err := c.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	c.eventually("that it stays is written", func() bool {
		err := c.List(t.Context(), &list, client.MatchingLabels{v2beta1.LabelIPPoolReclaim: "false"})
		return err == nil && len(list.Items) == 1
	})
	kept := list.Items[0].Spec.IPs
	c.removeApplications()
	c.poolsAre("no applications", "Deployment web eth0 t4 1", "CloneSet clone eth0 s4 3") // of the second nobody may read whether it is there
	c.deployment("web", 2, "subnet", `{"ipv4":["t4"]}`, "ippool-ip-number", "1")
	l.quiet()
	c.poolsAre("adopted", "Deployment web eth0 t4 1", "CloneSet clone eth0 s4 3")
	c.get(list.Items[0].Name, &p)
	if !slices.Equal(p.Spec.IPs, kept) || p.Labels[v2beta1.LabelOwnerApplicationUID] == string(d.UID) {
		t.Errorf("it was adopted as %+v", p)
	}
}

// TestApplicationsOfPods: a pod of a kind that is not watched has its pool under the name that agents look for, that of what is
// above its owner; a static pod, which its node controls, has none.
func TestApplicationsOfPods(t *testing.T) {
	c := newAutoTest(t)
	c.subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.0.99")
	if _, err := envtest.InstallCRDs(c.server.Config(), envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{
		definition("kubevirt.io", "v1", "VirtualMachine"), definition("kubevirt.io", "v1", "VirtualMachineInstance"),
	}}); err != nil {
		t.Fatal(err)
	}
	instance := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": map[string]any{
		"namespace": "shop", "name": "db-1", "ownerReferences": []any{map[string]any{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "db", "uid": "vm", "controller": true}}}}}
	c.create(instance)
	t.Cleanup(func() { _ = c.cluster.Delete(context.Background(), instance) })
	for name, owner := range map[string]metav1.OwnerReference{
		"launcher": {APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "db-1", UID: instance.GetUID(), Controller: ptr.To(true)},
		"static":   {APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node", Controller: ptr.To(true)},
	} {
		p := c.podOn("n1", name)
		p.Annotations = map[string]string{v2beta1.AnnotationSubnet: asksS4, v2beta1.AnnotationIPPoolIPNumber: "1"}
		p.OwnerReferences = []metav1.OwnerReference{owner}
		if err := c.Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	l := c.leads()
	c.poolsAre("made", "VirtualMachine db eth0 s4 1")
	l.quiet()
	c.poolsAre("in the end", "VirtualMachine db eth0 s4 1")
}

// pool4 is the first address of a pool.
func pool4(t *testing.T, p *v2beta1.SpiderIPPool) string {
	t.Helper()
	set, ok := pool.AddressesOf(p)
	a, some := set.Nth(addr.Count{})
	if !ok || !some {
		t.Fatalf("pool %s has no addresses", p.Name)
	}
	return a.String()
}

// holdIn holds an address in the name of a pool.
func (c *cluster) holdIn(pool, address string) {
	c.t.Helper()
	c.claim(pool, address)
}

// TestNoAutomaticPools: what cannot be made is told once, and nothing is made; when it can be, it is.
func TestNoAutomaticPools(t *testing.T) {
	c := newAutoTest(t)
	c.subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.0.12")
	l := c.leads()
	for _, tt := range []struct {
		name        string
		annotations []string
		want        string
	}{
		{"missing", []string{"subnet", `{"ipv4":["none"]}`}, "there is no SpiderSubnet none"},
		{"family", []string{"subnet", `{"ipv6":["s4"]}`}, "the SpiderSubnet s4 is an IPv4 one (10.6.0.0/16), and stands under ipv6"},
		{"both", []string{"subnet", asksS4, "subnets", `[]`}, "wrong input, the Pod has both annotations"},
		{"json", []string{"subnet", `{`}, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/subnet'"},
		{"number", []string{"subnet", asksS4, "ippool-ip-number", "x"}, "wrong input, invalid format of Pod annotation 'ipam.spidernet.io/ippool-ip-number'"},
		{"small", []string{"subnet", asksS4, "ippool-ip-number", "4"}, "SpiderSubnet s4 has 3 of the 4 addresses that the pool of interface eth0 wants"},
	} {
		d := c.deployment(tt.name, 1, tt.annotations...)
		deadline := time.After(wait)
		for told := ""; !strings.Contains(told, tt.want); {
			select {
			case told = <-l.events.Events:
			case <-deadline:
				t.Fatalf("%s: no Event says %q", tt.name, tt.want)
			}
		}
		if c.pools() != "" {
			t.Errorf("%s: there are pools:\n%s", tt.name, c.pools())
		}
		if tt.name != "small" {
			c.delete(d)
		}
	}
	l.quiet()
	if n := l.value(t, "spiderpool_controller_automatic_pool_problems"); n != 1 {
		t.Errorf("%v applications have no pool, by the metric", n)
	}
	for len(l.events.Events) > 0 {
		t.Errorf("it is told again: %s", <-l.events.Events)
	}
	s := &v2beta1.SpiderSubnet{}
	c.get("s4", s)
	s.Spec.IPs = []string{"10.6.0.10-10.6.0.13"}
	if err := c.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	c.poolsAre("the subnet has more", "Deployment small eth0 s4 4")
	c.eventually("the metrics tell of it", func() bool {
		return l.value(t, "spiderpool_controller_automatic_pool_problems") == 0 && l.value(t, "spiderpool_pool_automatic") == 1
	})
}

// TestManyAutomaticPools: many applications come and go at once, while two leaders believe that they lead. Never has an address
// two pools.
func TestManyAutomaticPools(t *testing.T) {
	sizes := []int{20}
	if *soak {
		sizes = []int{200, 1000}
	}
	for _, n := range sizes {
		for _, leaders := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d applications, %d leaders", n, leaders), func(t *testing.T) {
				c := newAutoTest(t)
				c.subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.255.254")
				stop := c.neverTwice()
				for range leaders {
					c.leads()
				}
				var want []string
				for i := range n {
					want = append(want, fmt.Sprintf("Deployment web-%d eth0 s4 6", i))
				}
				parallel(n, func(i int) { c.deployment(fmt.Sprint("web-", i), 5, "subnet", asksS4) })
				began := time.Now()
				c.poolsAre("made", want...)
				t.Logf("%d applications of 5 pods have their pools %s after they were made", n, time.Since(began).Round(100*time.Millisecond))
				c.removeApplications()
				began = time.Now()
				c.poolsAre("gone")
				t.Logf("all addresses are back %s after they were deleted", time.Since(began).Round(100*time.Millisecond))
				stop()
			})
		}
	}
}

// neverTwice watches that no address is in two pools, until stop is called.
func (c *autoTest) neverTwice() (stop func()) {
	c.t.Helper()
	events, err := c.Watch(c.t.Context(), &v2beta1.SpiderIPPoolList{})
	if err != nil {
		c.t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		all, whose := map[string]addr.Set{}, addr.Set{}
		for e := range events.ResultChan() {
			p, ok := e.Object.(*v2beta1.SpiderIPPool)
			if !ok {
				continue
			}
			set, _ := pool.AddressesOf(p)
			if e.Type == "DELETED" {
				set = addr.Set{}
			}
			before := all[p.Name]
			whose = whose.Minus(before)
			if whose.Overlaps(set) {
				c.t.Errorf("IPPool %s has %v, of which another has %v", p.Name, set, whose.Intersect(set))
			}
			whose, all[p.Name] = whose.Union(set), set
		}
	})
	return func() { events.Stop(); done.Wait() }
}
