package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/test/owners"
)

// The scenarios of this file are about addresses that stay with the name of a pod.

// statefulSet makes one of n pods, which start side by side and go to any node.
func (s *scenario) statefulSet(name string, n int, edit ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s.Helper()
	replicas, labels := int32(n), map[string]string{"app": name}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: s.template(forever...), PodManagementPolicy: appsv1.ParallelPodManagement}}
	set.Spec.Template.Labels = labels
	spread := &set.Spec.Template.Spec.TopologySpreadConstraints[0]
	honor := corev1.NodeInclusionPolicyHonor // a node that is cordoned off does not count
	spread.LabelSelector.MatchLabels, spread.NodeTaintsPolicy = labels, &honor
	for _, e := range edit {
		e(set)
	}
	s.make(set)
	return set
}

// edit changes an object that others write too.
func (s *scenario) edit(o client.Object, change func()) {
	s.Helper()
	if err := s.Get(s.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		s.Fatal(err)
	}
	before := o.DeepCopyObject().(client.Object)
	change()
	if err := s.Patch(s.Context(), o, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
}

func (s *scenario) scale(set *appsv1.StatefulSet, n int) {
	s.Helper()
	replicas := int32(n)
	s.edit(set, func() { set.Spec.Replicas = &replicas })
}

// bear are the addresses that the running pods bear, by name of the pod.
func (s *scenario) bear() map[string][]string {
	s.Helper()
	pods, err := s.Running(s.Context(), s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	out := map[string][]string{}
	for i := range pods {
		for _, addresses := range s.inside(&pods[i]) {
			out[pods[i].Name] = append(out[pods[i].Name], addresses...)
		}
		slices.Sort(out[pods[i].Name])
	}
	return out
}

// restarted waits until n pods run of which none is among before, and ledger and interfaces agree on them.
func (s *scenario) restarted(n int, before ...corev1.Pod) {
	s.Helper()
	s.anew(n, before...)
	s.agree(n, 2*n)
}

// anew waits until n pods run of which none is among before.
func (s *scenario) anew(n int, before ...corev1.Pod) {
	s.Helper()
	s.eventually(func() string {
		pods, err := s.Running(s.Context(), s.namespace)
		if err != nil || len(pods) != n {
			return fmt.Sprintf("%d pods run, want %d (%v)", len(pods), n, err)
		}
		for _, p := range pods {
			if slices.ContainsFunc(before, func(b corev1.Pod) bool { return b.UID == p.UID }) {
				return p.Name + " was not made anew yet"
			}
		}
		return ""
	})
}

func (s *scenario) pods() []corev1.Pod {
	s.Helper()
	pods, err := s.Running(s.Context(), s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	return pods
}

// killing kills agents at random moments until the function that it returns is called. pause is the mean between two.
func (s *scenario) killing(pause time.Duration) (stop func()) {
	s.Helper()
	nodes, err := s.Nodes()
	if err != nil {
		s.Fatal(err)
	}
	return s.atRandom(pause, func(ctx context.Context) bool { // false while it is starting
		return s.KillAgent(ctx, nodes[rand.IntN(len(nodes))]) == nil
	})
}

// atRandom has kill called at random moments until the function that it returns is called. pause is the mean between two; the
// first comes sooner, lest what it should disturb be over.
func (s *scenario) atRandom(pause time.Duration, kill func(context.Context) bool) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var done sync.WaitGroup
	killed := 0
	done.Go(func() {
		for {
			wait := 2 * pause
			if killed == 0 {
				wait = pause / 2
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(rand.N(wait)):
			}
			if kill(ctx) {
				killed++
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
		s.Logf("%d were killed", killed)
		if killed == 0 {
			s.Error("none was killed")
		}
	}
}

// TestStatefulSetKeepsAddresses: whatever happens to the pods of a StatefulSet, each has its own addresses again.
func TestStatefulSetKeepsAddresses(t *testing.T) {
	n, rounds, pause := 5, 1, 40*time.Second
	if *soak {
		n, rounds, pause = 20, 20, 5*time.Minute
	}
	s := alone(t, 2*n)
	set := s.statefulSet("web", n)
	s.running(n)
	s.agree(n, 2*n)
	had := s.bear()
	defer s.observe()()
	stop := s.killing(pause)
	for round := range rounds {
		for _, step := range []struct {
			name string
			do   func(set *appsv1.StatefulSet)
		}{
			{"restarted pod by pod", s.rollPods},
			{"deleted at once", s.deleteAll},
			{"deleted by force", s.forceAll},
			{"moved", s.move},
			{"scaled in and out", s.scaleInAndOut},
			{"deleted and made again at once", s.replaceSet},
			{"orphaned and adopted", s.orphan},
			{"deleted, and made again when all was gone", s.makeAgain},
		} {
			began := time.Now()
			step.do(set)
			if diff := gocmp.Diff(had, s.bear()); diff != "" {
				t.Errorf("round %d, %s: addresses differ (-before +after):\n%s", round, step.name, diff)
			}
			t.Logf("round %d: %d pods %s in %s", round, n, step.name, time.Since(began).Round(time.Second))
		}
	}
	stop()
	s.remove(set)
	s.held(0)
	s.endpoints("", "", 0)
}

func (s *scenario) rollPods(set *appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	if text, err := s.Kubectl(s.Context(), "-n", s.namespace, "rollout", "restart", "statefulset/"+set.Name); err != nil {
		s.Fatal(text, err)
	}
	if text, err := s.Kubectl(s.Context(), "-n", s.namespace, "rollout", "status", "statefulset/"+set.Name, "--timeout=20m"); err != nil {
		s.Fatal(text, err)
	}
	s.restarted(len(before), before...)
}

func (s *scenario) deleteAll(set *appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	s.deletePods(set)
	s.restarted(len(before), before...)
}

func (s *scenario) forceAll(*appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	for _, p := range before {
		s.force(p.Name)
	}
	s.restarted(len(before), before...)
}

// move has the pods of a node start on others.
func (s *scenario) move(set *appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	from := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: before[0].Spec.NodeName}}
	s.edit(from, func() { from.Spec.Unschedulable = true })
	defer s.edit(from, func() { from.Spec.Unschedulable = false })
	leave := slices.DeleteFunc(slices.Clone(before), func(p corev1.Pod) bool { return p.Spec.NodeName != from.Name })
	for i := range leave {
		if err := s.Delete(s.Context(), &leave[i]); err != nil {
			s.Fatal(err)
		}
	}
	s.restarted(len(before), leave...)
	for _, p := range s.pods() {
		if p.Spec.NodeName == from.Name {
			s.Errorf("%s is still on %s", p.Name, from.Name)
		}
	}
}

func (s *scenario) scaleInAndOut(set *appsv1.StatefulSet) {
	s.Helper()
	n := int(*set.Spec.Replicas)
	s.scale(set, n*3/5)
	s.anew(n * 3 / 5)
	s.held(2 * (n * 3 / 5))
	s.scale(set, n)
	s.restarted(n)
}

// again is the same StatefulSet to be made once more.
func again(set *appsv1.StatefulSet) {
	set.ResourceVersion, set.UID = "", ""
}

// replaceSet makes the next StatefulSet while the pods of the last are there.
func (s *scenario) replaceSet(set *appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	if err := s.Delete(s.Context(), set, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		s.Fatal(err)
	}
	again(set)
	s.make(set)
	s.restarted(len(before), before...)
}

// orphan deletes the StatefulSet without its pods, which the next one adopts.
func (s *scenario) orphan(set *appsv1.StatefulSet) {
	s.Helper()
	before := s.pods()
	if err := s.Delete(s.Context(), set, client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		s.Fatal(err)
	}
	s.gone(set.DeepCopy())
	again(set)
	s.make(set)
	s.eventually(func() string {
		for _, p := range s.pods() {
			if owner := metav1.GetControllerOf(&p); owner == nil || owner.UID != set.UID {
				return p.Name + " is not adopted"
			}
		}
		return ""
	})
	for _, p := range before {
		if !slices.ContainsFunc(s.pods(), func(now corev1.Pod) bool { return now.UID == p.UID }) {
			s.Errorf("%s did not stay", p.Name)
		}
	}
	s.deleteAll(set)
}

// makeAgain makes the next StatefulSet when nothing is left of the last.
func (s *scenario) makeAgain(set *appsv1.StatefulSet) {
	s.Helper()
	n := len(s.pods())
	s.remove(set)
	s.gone(set.DeepCopy())
	s.held(0)
	s.endpoints("", "", 0)
	again(set)
	s.make(set)
	s.restarted(n)
}

// TestTwoStatefulSetsOneShort: two StatefulSets share a pool that lacks one address. However their pods are restarted, the
// same pod is without and is told why, until one scales in.
func TestTwoStatefulSetsOneShort(t *testing.T) {
	rounds := 1
	if *soak {
		rounds = 10
	}
	s := begin(t, 5)
	a := s.statefulSet("a", 3, func(set *appsv1.StatefulSet) { set.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
	s.running(3)
	s.statefulSet("b", 3)
	s.running(5)
	had := s.bear()
	defer s.observe()()
	var waits string
	for _, name := range []string{"b-0", "b-1", "b-2"} {
		if had[name] == nil {
			waits = name
		}
	}
	s.refused(waits, "IPAllocationWaiting", "all IP addresses used out: 0 free of 5")
	for range rounds {
		for _, p := range s.pods() {
			if err := s.Delete(t.Context(), &p); err != nil {
				t.Fatal(err)
			}
		}
		s.restarted(5)
		if diff := gocmp.Diff(had, s.bear()); diff != "" {
			t.Errorf("addresses differ (-before +after):\n%s", diff)
		}
	}

	// What nobody bears and is kept is told too.
	s.pause(a)
	s.keeps(6)
	s.refused(waits, "IPAllocationWaiting", "3 kept for StatefulSet a")
	if now := s.of(waits)["eth0"]; len(now) > 0 {
		t.Errorf("%s has %v", waits, now)
	}
	s.resume(a)
	s.restarted(5)
	if diff := gocmp.Diff(had, s.bear()); diff != "" {
		t.Errorf("addresses differ (-before +after):\n%s", diff)
	}

	s.scale(a, 2)
	s.runs(waits)
	s.running(5)
	s.agree(5, 10)
}

// keeps waits until n addresses of the scenario wait for next pods.
func (s *scenario) keeps(n int) {
	s.Helper()
	s.eventually(func() string {
		text, err := s.Kubectl(s.Context(), "get", "spiderips", "--field-selector", "spec.use=Kept", "-o", "wide", "--no-headers")
		if got := strings.Count(text, " "+s.namespace+"-"); err != nil || got != n {
			return fmt.Sprintf("%d addresses are kept, want %d (%v):\n%s", got, n, err, text)
		}
		return ""
	})
}

// TestNodeDownOfStatefulSet: a node is without power, and its pods are made anew elsewhere. Their addresses stay with the
// containers of which nobody knows whether they run, until somebody gives one up by hand, or the node is known to be lost and
// they are silent on the link.
func TestNodeDownOfStatefulSet(t *testing.T) {
	s := alone(t, 10)
	const node = "node2"
	set := s.statefulSet("web", 6)
	s.running(6)
	had := s.bear()
	away := slices.DeleteFunc(s.pods(), func(p corev1.Pod) bool { return p.Spec.NodeName != node })
	if len(away) != 2 {
		t.Fatalf("%d pods are on %s, want 2", len(away), node)
	}
	off := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	s.edit(off, func() { off.Spec.Unschedulable = true })
	t.Cleanup(func() {
		_ = s.StartNode(context.Background(), node)
		_, _ = s.Kubectl(context.Background(), "uncordon", node)
	})
	if err := s.StopNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, p := range away {
		s.force(p.Name)
	}
	for _, p := range away {
		s.refused(p.Name, "IPAllocationWaiting", "is still held by pod "+s.namespace+"/"+p.Name, "(UID "+string(p.UID), "on node "+node, "kubectl annotate --overwrite spiderip")
	}
	for _, address := range had[away[0].Name] {
		name := addr.Name(netip.MustParseAddr(address))
		if text, err := s.Kubectl(t.Context(), "delete", "spiderip", name); err == nil {
			t.Errorf("%s is deleted without a word that it may be: %s", name, text)
		}
		for _, args := range [][]string{{"annotate", "--overwrite", "spiderip", name, v2beta1.AnnotationAllowDelete + "=true"}, {"delete", "spiderip", name}} {
			if text, err := s.Kubectl(t.Context(), args...); err != nil {
				t.Fatal(text, err)
			}
		}
	}
	s.runs(away[0].Name)
	s.restarted(6, away...)
	t.Logf("%s ran again %s after its pod was deleted", away[1].Name, time.Since(began).Round(time.Second))
	if err := s.StartNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.agree(6, 12)
	if diff := gocmp.Diff(had, s.bear()); diff != "" {
		t.Errorf("addresses differ (-before +after):\n%s", diff)
	}
	s.remove(set)
	s.held(0)
}

// TestStatefulSetSwitchedOff: with enableStatefulSet=false pods are stateless, those that ran before too.
func TestStatefulSetSwitchedOff(t *testing.T) {
	s := alone(t, 10)
	set := s.statefulSet("web", 3, func(set *appsv1.StatefulSet) { set.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
	s.running(3)
	s.pause(set)
	s.keeps(6)
	s.upgrade("feature: {enableStatefulSet: false}")
	restored := false
	restore := func() {
		restored = true
		s.upgrade("feature: {enableStatefulSet: true}")
	}
	defer func() {
		if !restored {
			restore()
		}
	}()
	s.held(0)
	s.resume(set)
	s.restarted(3)
	s.pause(set)
	s.held(0)
	s.resume(set)
	s.restarted(3)
	restore()
	s.deleteAll(set) // what they have goes with them
	s.pause(set)
	s.keeps(6)
	s.remove(set)
	s.held(0)
}

// pause ends the pods of a StatefulSet. The next ones find no node before resume.
func (s *scenario) pause(set *appsv1.StatefulSet) {
	s.Helper()
	s.allowed(set, map[string]string{"no-such": "node"})
	s.deletePods(set)
}

func (s *scenario) resume(set *appsv1.StatefulSet) {
	s.Helper()
	s.allowed(set, nil)
	s.deletePods(set)
}

// allowed says on which nodes the next pods may be, and waits until that has arrived.
func (s *scenario) allowed(set *appsv1.StatefulSet, on map[string]string) {
	s.Helper()
	s.edit(set, func() { set.Spec.Template.Spec.NodeSelector = on })
	s.eventually(func() string {
		now := &appsv1.StatefulSet{}
		if err := s.Get(s.Context(), client.ObjectKeyFromObject(set), now); err != nil || now.Status.ObservedGeneration < set.Generation {
			return fmt.Sprintf("generation %d is not observed yet (%v)", set.Generation, err)
		}
		return ""
	})
}

func (s *scenario) deletePods(set *appsv1.StatefulSet) {
	s.Helper()
	if err := s.DeleteAllOf(s.Context(), &corev1.Pod{}, client.InNamespace(s.namespace), client.MatchingLabels(set.Spec.Template.Labels)); err != nil {
		s.Fatal(err)
	}
}

// launcher makes a pod of an instance of a virtual machine.
func (s *scenario) launcher(name, node string, instance *unstructured.Unstructured) *corev1.Pod {
	s.Helper()
	return s.asking(name, s.v4, "", at(node), owners.Of(instance))
}

// TestMachineMoves: while a virtual machine moves to another node both of its pods have its addresses, of which each has one
// entry throughout. The end of the source frees nothing, nor does an aborted move, and nobody else gets them before the
// machine is deleted. It has IPv4 alone: macvlan refuses an IPv6 address that another interface bears.
func TestMachineMoves(t *testing.T) {
	s := begin(t, 1)
	if err := owners.Install(t.Context(), s.Client); err != nil {
		t.Fatal(err)
	}
	machine := owners.Machine(s.namespace, "vm")
	s.make(machine)
	instance := owners.Instance(machine)
	s.make(instance)
	watch := s.watchEntries()
	source := s.launcher("virt-launcher-vm-1", "node1", instance)
	had := s.runs(source.Name)
	moving.Store(netip.MustParseAddr(had[0]), true)
	s.asking("newcomer", s.v4, "", at("node1"))
	s.refused("newcomer", "IPAllocationWaiting", "all IP addresses used out: 0 free of 1")

	target := s.launcher("virt-launcher-vm-2", "node2", instance)
	s.runs(target.Name)
	for _, p := range []*corev1.Pod{source, target} {
		if got := slices.Sorted(slices.Values(s.inside(p)["eth0"])); !slices.Equal(got, had) {
			t.Errorf("%s bears %v, want %v", p.Name, got, had)
		}
	}
	s.heldBy(target, had)
	s.remove(source)
	s.gone(source)
	s.heldBy(target, had)

	aborted := s.launcher("virt-launcher-vm-3", "node3", instance)
	s.runs(aborted.Name)
	s.heldBy(aborted, had)
	s.remove(aborted)
	s.gone(aborted)
	s.eventually(func() string { // it is the source's as soon as its agent sees that
		ip := &v2beta1.SpiderIP{}
		if err := s.Get(s.Context(), client.ObjectKey{Name: addr.Name(netip.MustParseAddr(had[0]))}, ip); err != nil {
			return err.Error()
		}
		if ip.Spec.Use == v2beta1.IPUsePod && ip.Spec.Pod.Name != target.Name {
			return ip.Spec.Address + " is held by " + ip.Spec.Pod.Name
		}
		return ""
	})
	if *soak {
		s.within(12*time.Minute, func() string {
			if got := s.of(target.Name)["eth0"]; !slices.Equal(got, had) {
				return fmt.Sprintf("%s has %v again, want %v", target.Name, got, had)
			}
			return ""
		})
	}
	if got := slices.Sorted(slices.Values(s.inside(target)["eth0"])); !slices.Equal(got, had) {
		t.Errorf("%s bears %v, want %v", target.Name, got, had)
	}
	if got := s.of("newcomer"); len(got) > 0 {
		t.Errorf("newcomer has %v", got)
	}

	s.remove(target)
	s.gone(target)
	s.keeps(1)
	next := s.launcher("virt-launcher-vm-4", "node3", instance)
	if got := s.runs(next.Name); !slices.Equal(got, had) {
		t.Errorf("after it was stopped the machine has %v, had %v", got, had)
	}
	if freed := watch.freed(had); len(freed) > 0 {
		t.Errorf("%v were freed while the machine was there", freed)
	}
	s.remove(machine)
	if got := s.runs("newcomer"); !slices.Equal(got, had) {
		t.Errorf("newcomer has %v, want %v", got, had)
	}
	s.agree(1, 1)
}

// freed are those of addresses whose entries were ever deleted.
func (w *entryWatch) freed(addresses []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(addresses), func(a string) bool {
		return !slices.Contains(w.deleted, addr.Name(netip.MustParseAddr(a)))
	})
}

// heldBy waits until a pod, and no other, is in the entries of addresses.
func (s *scenario) heldBy(p *corev1.Pod, addresses []string) {
	s.Helper()
	s.eventually(func() string {
		if got, all := s.of(p.Name)["eth0"], s.entries(); !slices.Equal(got, addresses) || len(all) != len(addresses) {
			return fmt.Sprintf("%s has %v of %v, want %v", p.Name, got, all, addresses)
		}
		return ""
	})
}

// gone waits until an object is.
func (s *scenario) gone(o client.Object) {
	s.Helper()
	s.eventually(func() string {
		if err := s.Get(s.Context(), client.ObjectKeyFromObject(o), o); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Sprintf("%s is still there (%v)", o.GetName(), err)
		}
		return ""
	})
}

// TestOpenKruise: pods of another kind that makes them again under their names keep addresses too, when it is configured. One
// with an ordinal that its owner passes over is not made again.
func TestOpenKruise(t *testing.T) {
	s := begin(t, 10)
	if err := owners.Install(t.Context(), s.Client); err != nil {
		t.Fatal(err)
	}
	set := owners.New("apps.kruise.io/v1beta1", "StatefulSet", s.namespace, "web", map[string]any{"replicas": int64(2), "reserveOrdinals": []any{int64(1)}}, nil)
	s.make(set)
	had := map[string][]string{}
	for _, name := range []string{"web-0", "web-2"} {
		s.asking(name, s.v4, s.v6, owners.Of(set))
		had[name] = s.runs(name)
	}
	for _, name := range []string{"web-0", "web-2"} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
		s.remove(p)
		s.gone(p)
	}
	s.keeps(4)
	s.asking("web-2", s.v4, s.v6, owners.Of(set))
	if got := s.runs("web-2"); !slices.Equal(got, had["web-2"]) {
		t.Errorf("web-2 has %v, had %v", got, had["web-2"])
	}
	s.edit(set, func() { _ = unstructured.SetNestedSlice(set.Object, []any{int64(0)}, "spec", "reserveOrdinals") })
	s.keeps(0)
	s.held(2)
	s.agree(1, 2)
}
