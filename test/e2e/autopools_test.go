package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// ownPools waits until the automatic pools of the scenario are these, as "Kind name interface IPv4 size", and returns how they are
// known, their addresses, and whether they go with their application.
func (s *scenario) ownPools(want ...string) (pools []string) {
	s.Helper()
	slices.Sort(want)
	s.eventually(func() string {
		var list v2beta1.SpiderIPPoolList
		if err := s.List(s.Context(), &list); err != nil {
			return err.Error()
		}
		got := []string{}
		pools = nil
		for i := range list.Items {
			p := &list.Items[i]
			if of := pool.AutomaticOf(p); of != nil && of.Namespace == s.namespace {
				set, _ := pool.AddressesOf(p)
				pools = append(pools, fmt.Sprintf("%s %s %s reclaim %s", p.Name, p.UID, p.Spec.IPs, p.Labels[v2beta1.LabelIPPoolReclaim]))
				got = append(got, fmt.Sprintf("%s %s %s %s %s", of.Kind, of.Name, of.Interface, pool.FamilyOfSubnet(p.Spec.Subnet), set.Count()))
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Sprintf("the automatic pools are %q, want %q", got, want)
		}
		return ""
	})
	return pools
}

// application is one whose pods ask for the subnets of a test, and run until they are ended.
type application struct {
	client.Object
	template *corev1.PodTemplateSpec
	// scale sets how many pods it should have.
	scale func(n int)
	// more is how many addresses its pools have beside one for each pod.
	more int
	// replace replaces its pods by as many as it should have; nil if it does so by itself when its template changes.
	replace func()
	// manual says that nobody else makes its pods.
	manual bool
}

// applications makes one of each kind, by the kind.
func (s *scenario) applications() map[string]func() *application {
	meta, round := s.meta(), 0
	template := func() corev1.PodTemplateSpec {
		t := s.template(forever...)
		t.Spec.TopologySpreadConstraints = nil
		return t
	}
	return map[string]func() *application{
		"Deployment": func() *application {
			surge := intstr.FromInt32(1)
			d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template(),
				Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge}}}}
			return &application{Object: d, template: &d.Spec.Template, scale: func(n int) { d.Spec.Replicas = ptr.To(int32(n)) }, more: 2}
		},
		"StatefulSet": func() *application {
			set := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template(), PodManagementPolicy: appsv1.ParallelPodManagement}}
			return &application{Object: set, template: &set.Spec.Template, scale: func(n int) { set.Spec.Replicas = ptr.To(int32(n)) }, more: 1}
		},
		"ReplicaSet": func() *application {
			rs := &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template()}}
			return &application{Object: rs, template: &rs.Spec.Template, scale: func(n int) { rs.Spec.Replicas = ptr.To(int32(n)) }, more: 1, replace: s.deletePodsOfAll}
		},
		"DaemonSet": func() *application {
			ds := &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template()}}
			return &application{Object: ds, template: &ds.Spec.Template, scale: func(n int) { ds.Spec.Template.Spec.Affinity = onNodes([]string{"node1", "node2", "node3"}[:n]) }, more: 1}
		},
		"Job": func() *application {
			job := &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Completions: ptr.To[int32](10), BackoffLimit: ptr.To[int32](100), Template: template()}}
			job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
			return &application{Object: job, template: &job.Spec.Template, scale: func(n int) { job.Spec.Parallelism = ptr.To(int32(n)) }, more: 1, replace: s.deletePodsOfAll}
		},
		"CronJob": func() *application {
			cron := &batchv1.CronJob{ObjectMeta: meta, Spec: batchv1.CronJobSpec{Schedule: "0 0 1 1 *"}}
			job := &cron.Spec.JobTemplate.Spec
			job.Completions, job.Template = ptr.To[int32](10), template()
			job.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
			return &application{Object: cron, template: &job.Template, scale: func(n int) { job.Parallelism = ptr.To(int32(n)) }, more: 1, manual: true, replace: func() {
				round++
				if err := s.DeleteAllOf(s.Context(), &batchv1.Job{}, client.InNamespace(s.namespace), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
					s.Fatal(err)
				}
				if out, err := s.Kubectl(s.Context(), "-n", s.namespace, "create", "job", fmt.Sprintf("web-%d", round), "--from=cronjob/web"); err != nil {
					s.Fatalf("%v: %s", err, out)
				}
			}}
		},
		"StatefulSet of OpenKruise": func() *application {
			clone := owners.New("apps.kruise.io/v1beta1", "StatefulSet", s.namespace, meta.Name, map[string]any{"replicas": int64(0)}, nil)
			t, want := template(), 0
			return &application{Object: clone, template: &t, scale: func(n int) {
				want, t.Annotations[v2beta1.AnnotationIPPoolIPNumber] = n, fmt.Sprint(n)
				clone.Object["spec"] = map[string]any{"replicas": int64(n)}
			}, manual: true, replace: func() {
				round++
				s.deletePodsOfAll()
				for i := range want {
					s.asking(fmt.Sprintf("web-%d", 10*round+i), "", "", owners.Of(clone), func(p *corev1.Pod) { p.Annotations = t.Annotations })
				}
			}}
		},
	}
}

// onNodes has pods run on any of these.
func onNodes(names []string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: names}}}}}}}
}

// deletePodsOfAll deletes all pods of the scenario.
func (s *scenario) deletePodsOfAll() {
	s.Helper()
	if err := s.DeleteAllOf(s.Context(), &corev1.Pod{}, client.InNamespace(s.namespace)); err != nil {
		s.Fatal(err)
	}
}

// TestAutomaticPools: applications of all kinds ask for a subnet of each family, are scaled, rolled, deleted and made again, with
// pools that go with them and pools that stay; with -soak while the controllers are killed.
func TestAutomaticPools(t *testing.T) {
	if *soak {
		defer alone(t, 1).killingControllers(8 * time.Second)()
	} else {
		t.Parallel()
	}
	all := on(t, shared, 1)
	if err := owners.Install(t.Context(), all.Client); err != nil {
		t.Fatal(err)
	}
	s4 := all.subnet("s4", "172.30.0.0/16", "172.30.0.10-172.30.0.109")
	s6 := all.subnet("s6", "fd00:172:30::/64", "fd00:172:30::10-fd00:172:30::ffff:ffff")
	ask := fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, s4, s6)
	t.Run("kinds", func(t *testing.T) {
		for kind := range all.applications() {
			t.Run(kind, func(t *testing.T) {
				s := begin(t, 1)
				s.lives(kind, ask)
			})
		}
	})
	for _, name := range []string{s4, s6} {
		o := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
		all.eventually(func() string {
			if err := all.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || ptr.Deref(o.Status.AllocatedIPCount, -1) != 0 {
				return fmt.Sprintf("%s shows %+v (%v)", name, o.Status, err)
			}
			return ""
		})
		all.remove(o)
		all.gone(o)
	}
}

// life is that of an application of a kind, which asks for the subnets of ask.
type life struct {
	*scenario
	kind, ask string
	app       *application
}

// create makes the application with n pods, and pools that go with it or stay.
func (l *life) create(n int, reclaim bool) {
	l.Helper()
	l.app = l.applications()[l.kind]()
	l.asksFor(l.app.template, "subnet", l.ask, "ippool-reclaim", fmt.Sprint(reclaim))
	l.app.scale(n)
	l.make(l.app.Object)
	if l.app.manual {
		l.app.replace()
	}
}

func (l *life) scaleTo(n int) {
	l.Helper()
	l.edit(l.app.Object, func() { l.app.scale(n) })
	if l.app.manual {
		l.app.replace()
	}
}

// roll replaces all n pods.
func (l *life) roll(n int) {
	l.Helper()
	before := l.pods()
	if l.kind != "Job" { // of which nobody may edit the template
		l.edit(l.app.Object, func() { l.app.template.Labels["rolled"] = "once" })
	}
	if l.app.replace != nil {
		l.app.replace()
	}
	l.anew(n, before...)
}

func (l *life) end(how metav1.DeletionPropagation) {
	l.Helper()
	if err := l.Delete(l.Context(), l.app.Object, client.PropagationPolicy(how)); err != nil {
		l.Fatal(err)
	}
}

// poolsFor waits until the pools are right for n pods, and go with the application or stay as it says: of an application that is
// gone the controllers know only what they have read.
func (l *life) poolsFor(n int, reclaim bool) (pools []string) {
	l.Helper()
	kind, _, _ := strings.Cut(l.kind, " ")
	l.eventually(func() string {
		pools = l.ownPools(fmt.Sprintf("%s web eth0 IPv4 %d", kind, n+l.app.more), fmt.Sprintf("%s web eth0 IPv6 %d", kind, n+l.app.more))
		for i := range pools {
			var labelled bool
			if pools[i], labelled = strings.CutSuffix(pools[i], fmt.Sprint(" reclaim ", reclaim)); !labelled {
				return fmt.Sprintf("the pools are not labelled yet: %q", pools)
			}
		}
		return ""
	})
	return pools
}

// lives has an application of a kind live through all that may happen to it.
func (s *scenario) lives(kind, ask string) {
	s.Helper()
	l := &life{scenario: s, kind: kind, ask: ask}
	l.create(2, true)
	l.running(2)
	l.poolsFor(2, true)
	l.scaleTo(3)
	l.running(3)
	l.poolsFor(3, true)
	l.roll(3)
	l.poolsFor(3, true)
	l.agree(3, 6)

	before := l.pods()
	l.end(metav1.DeletePropagationBackground)
	l.create(3, false) // at once
	l.anew(3, before...)
	kept := l.poolsFor(3, false)
	l.end(metav1.DeletePropagationForeground)
	l.running(0)
	l.gone(l.app.Object)
	l.create(3, true)
	l.running(3)
	if now := l.poolsFor(3, true); !slices.Equal(now, kept) {
		l.Errorf("the pools that were kept are %q, and now they are %q", kept, now)
	}
	l.agree(3, 6)
	l.end(metav1.DeletePropagationForeground)
	l.ownPools()
}

// killingControllers kills one of the controllers at random moments until the function that it returns is called. Its pod is
// deleted after it, for the kubelet would wait longer and longer before it started it again.
func (s *scenario) killingControllers(pause time.Duration) (stop func()) {
	s.Helper()
	nodes, err := s.Nodes()
	if err != nil {
		s.Fatal(err)
	}
	return s.atRandom(pause, func(ctx context.Context) bool {
		node := nodes[rand.IntN(len(nodes))]
		if s.KillController(ctx, node) != nil { // not every node has one
			return false
		}
		_, err := s.Kubectl(ctx, "-n", "kube-system", "delete", "pod", "--force", "--grace-period=0", "-l", "app.kubernetes.io/component=spiderpool-controller", "--field-selector=spec.nodeName="+node)
		return err == nil
	})
}

// TestAutomaticPoolOfFixedSize: a Deployment that may have more pods at once than its pool has addresses is rolled all the same.
// explain tells the way to its addresses.
func TestAutomaticPoolOfFixedSize(t *testing.T) {
	s := begin(t, 1)
	name := s.subnet("fixed", "172.28.0.0/16", "172.28.0.10-172.28.0.13")
	surge := intstr.FromInt32(2)
	d := s.deployment(4, func(d *appsv1.Deployment) {
		s.asksFor(&d.Spec.Template, "subnet", fmt.Sprintf(`{"ipv4":[%q]}`, name), "ippool-ip-number", "4")
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge}
	})
	s.running(4)
	if failed := s.failedSandboxes(); failed > 0 {
		t.Errorf("%d sandboxes failed though pods wait for their pool", failed)
	}
	s.rollTo(d, 4)
	s.ownPools("Deployment web eth0 IPv4 4")
	s.agree(4, 4)
	said := s.explain(s.pods()[0].Name, "eth0")
	for _, part := range []string{name, "auto4-web-eth0-", "Deployment " + s.namespace + "/web"} {
		if !strings.Contains(said, part) {
			t.Errorf("explain does not say %q:\n%s", part, said)
		}
	}
	s.remove(d)
	s.ownPools()
}

// rollTo replaces all pods of a Deployment, and waits until so many new ones run.
func (s *scenario) rollTo(d *appsv1.Deployment, n int) {
	s.Helper()
	before := s.pods()
	s.edit(d, func() { d.Spec.Template.Labels["rolled"] = fmt.Sprint(time.Now().UnixNano()) })
	s.anew(n, before...)
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
	s.refusedEdit(o, func() { o.Spec.IPs = []string{"172.31.0.10-172.31.0.12"} }, "172.31.0.13")
	s.edit(o, func() { o.Spec.IPs = []string{"172.31.0.10-172.31.0.20"} })
	s.edit(o, func() { o.Spec.IPs = []string{"172.31.0.10-172.31.0.13"} }) // what nobody has
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

// refusedEdit makes a change that must be refused, and the refusal name this.
func (s *scenario) refusedEdit(o client.Object, change func(), naming string) {
	s.Helper()
	if err := s.Get(s.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		s.Fatal(err)
	}
	change()
	if err := s.Update(s.Context(), o); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), naming) {
		s.Errorf("the edit of %s is not refused for %s: %v", o.GetName(), naming, err)
	}
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
