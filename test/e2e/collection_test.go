package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// The scenarios of this file are about addresses of which no agent can prove that they are silent.

// usesOf waits until the SpiderIPs of pods have these uses, by name of the pod.
func (s *scenario) usesOf(want map[string]v2beta1.IPUse) {
	s.Helper()
	began := time.Now()
	s.eventually(func() string {
		var list v2beta1.SpiderIPList
		if err := s.List(s.Context(), &list); err != nil {
			return err.Error()
		}
		got := map[string]v2beta1.IPUse{}
		for _, e := range list.Items {
			if e.Spec.Pod.Namespace == s.namespace {
				got[e.Spec.Pod.Name] = e.Spec.Use
			}
		}
		for name, use := range want {
			if got[name] != use {
				return fmt.Sprintf("%v, want %v", got, want)
			}
		}
		return ""
	})
	s.Logf("%v after %s", want, time.Since(began).Round(100*time.Millisecond))
}

// followed are containers that may live on when their pods are gone.
type followed struct {
	*scenario
	entries *entryWatch
	stop    func()

	mu         sync.Mutex
	containers []*container
}

// container is one of them.
type container struct {
	pod     *corev1.Pod
	at      place
	address netip.Addr
	// silent is since when it is not there any more, free since when its address is not its pod's.
	silent, free time.Time
}

// follow looks at the containers of pods with one address each, and fails the test if one of these is not its pod's any more
// while the container bears it, or if two bear one. Each answers a ping of asker, which is a pod too.
func (s *scenario) follow(asker string, pods ...string) *followed {
	s.Helper()
	f := &followed{scenario: s, entries: s.watchEntries()}
	for _, name := range pods {
		p := &corev1.Pod{}
		if err := s.Get(s.Context(), client.ObjectKey{Namespace: s.namespace, Name: name}, p); err != nil {
			s.Fatal(err)
		}
		sandbox, err := s.PodSandbox(p.Spec.NodeName, p.UID)
		if err != nil {
			s.Fatal(err)
		}
		c := &container{pod: p, at: place{p.Spec.NodeName, sandbox.Netns}, address: netip.MustParseAddr(s.of(name)["eth0"][0])}
		s.eventually(func() string {
			if !f.entries.heldBy(c.address, p) {
				return "the watch has not brought the entry of " + name
			}
			return ""
		})
		if !s.answers(asker, c.address) {
			s.Fatalf("%s does not answer %s", name, asker)
		}
		f.containers = append(f.containers, c)
	}
	ctx, cancel := context.WithCancel(s.Context())
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			f.look()
			time.Sleep(20 * time.Millisecond)
		}
	})
	twice := s.observe()
	f.stop = func() { cancel(); group.Wait(); twice() }
	s.Cleanup(f.stop)
	return f
}

func (f *followed) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		held := f.entries.heldBy(c.address, c.pod) // before the interface is looked at, which goes first
		bears := slices.Contains(f.bears(c.at), c.address)
		now := time.Now()
		if !bears && c.silent.IsZero() {
			c.silent = now
		}
		if !held && c.free.IsZero() {
			if c.free = now; bears {
				f.Errorf("%s is not of %s any more, whose container bears it", c.address, c.pod.Name)
			}
		}
	}
}

// heldBy reports whether an address is a pod's, though it may be in quarantine, as far as the watch has told.
func (w *entryWatch) heldBy(a netip.Addr, p *corev1.Pod) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[addr.Name(a)]
	return e != nil && e.Spec.Pod.UID == string(p.UID)
}

// answers reports whether an address answers a ping of a pod.
func (s *scenario) answers(asker string, a netip.Addr) bool {
	s.Helper()
	_, err := s.Kubectl(s.Context(), "-n", s.namespace, "exec", asker, "--", "ping", "-c", "3", "-W", "2", a.String())
	return err == nil
}

// settled waits until the addresses of some of the pods are free or others'.
func (f *followed) settled(pods ...string) {
	f.Helper()
	began := time.Now()
	for _, name := range pods {
		f.eventually(func() string {
			if c := f.of(name); c.free.IsZero() {
				return fmt.Sprintf("%s is still of %s", c.address, name)
			}
			return ""
		})
		c := f.of(name)
		f.Logf("%s: silent after %s, not its address any more %s later", name, c.silent.Sub(began).Round(10*time.Millisecond), c.free.Sub(c.silent).Round(10*time.Millisecond))
	}
}

// of is what is known of the container of a pod.
func (f *followed) of(pod string) container {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.containers[slices.IndexFunc(f.containers, func(c *container) bool { return c.pod.Name == pod })]
}

// still checks that the interface of a pod answers, and its address is its own.
func (f *followed) still(asker, pod string) {
	f.Helper()
	if c := f.of(pod); !f.answers(asker, c.address) || !f.of(pod).free.IsZero() {
		f.Errorf("%s does not answer any more, and should, or %s is not its address", pod, c.address)
	}
}

// processesIn complains of the processes that are in a network namespace.
func (s *scenario) processesIn(at place) string {
	s.Helper()
	namespace, err := s.NetnsCommand(s.Context(), at.node, at.path, "readlink", "/proc/self/ns/net").Output()
	if err != nil {
		return err.Error()
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err.Error()
	}
	for _, link := range links {
		if in, err := os.Readlink(link); err == nil && in == strings.TrimSpace(string(namespace)) {
			return link + " is in " + at.path
		}
	}
	return ""
}

// lasting has a container live for so many seconds when its pod is deleted: it does not listen to signals.
func lasting(seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &seconds }
}

// newcomers are pods of node1 that want any address, and have to wait for it.
func (s *scenario) newcomers(names ...string) {
	s.Helper()
	for _, name := range names {
		s.asking(name, s.v4, "", at("node1"))
	}
}

// eachWay runs a scenario and, if there is time, once more with all controllers killed when the fault has happened.
func eachWay(t *testing.T, run func(t *testing.T, kill func(*scenario))) {
	t.Run("controllers live", func(t *testing.T) { run(t, func(*scenario) {}) })
	if *soak {
		t.Run("controllers killed", func(t *testing.T) {
			run(t, func(s *scenario) {
				for _, node := range []string{"node1", "node2", "node3"} {
					_ = s.KillController(t.Context(), node) // not every node has one
				}
			})
		})
	}
}

// TestDeletedByForce: the objects of pods are deleted while their containers run on. Of one the plugin is missing, so its
// interface lives on without any process until the plugin is back.
func TestDeletedByForce(t *testing.T) {
	eachWay(t, func(t *testing.T, kill func(*scenario)) {
		s := alone(t, 3)
		const plugin = "/opt/cni/bin/spiderpool"
		s.asking("asker", s.v4, "", at("node1"))
		s.asking("plain", s.v4, "", at("node2"), lasting(5))
		s.asking("unplugged", s.v4, "", at("node3"), lasting(5))
		s.running(3)
		f := s.follow("asker", "plain", "unplugged")
		if err := errors.Join(os.Remove(s.HostPath("node3", plugin)), os.MkdirAll(s.HostPath("node3", plugin+"/in/the/way"), 0o755)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(s.HostPath("node3", plugin)) })
		s.force("plain")
		s.force("unplugged")
		kill(s)
		s.newcomers("first", "second")
		f.settled("plain")
		s.eventually(func() string { // also when no process is left
			return s.processesIn(f.of("unplugged").at)
		})
		f.still("asker", "unplugged")
		if err := os.RemoveAll(s.HostPath("node3", plugin)); err != nil {
			t.Fatal(err)
		}
		f.settled("unplugged")
		s.running(3)
		f.stop()
		s.agree(3, 3)
	})
}

// TestNodesLost: a node is without power, and of another the kubelet alone: its containers live on. Of the first one pod is
// deleted by force, one was ended by the shutdown of the node and is still listed, and one belongs to a StatefulSet that is
// scaled in. The addresses that are silent are given to the next pods, and that whose container answers to nobody before it ends.
func TestNodesLost(t *testing.T) {
	eachWay(t, func(t *testing.T, kill func(*scenario)) {
		s := alone(t, 5)
		const alive, dead = "node2", "node3"
		s.asking("asker", s.v4, "", at("node1"))
		s.asking("alive", s.v4, "", at(alive))
		s.asking("dead", s.v4, "", at(dead))
		shut := s.asking("shut", s.v4, "", at(dead))
		set := s.statefulSet("web", 1, func(set *appsv1.StatefulSet) {
			set.Spec.Template.Annotations[v2beta1.AnnotationIPPool] = wants(s.v4, "")
			set.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: dead}
		})
		s.running(5)
		f := s.follow("asker", "alive", "dead", "shut", "web-0")
		t.Cleanup(func() {
			_ = s.StartKubelet(context.Background(), alive)
			_ = s.StartNode(context.Background(), dead)
		})
		if err := errors.Join(s.StopKubelet(t.Context(), alive), s.StopNode(t.Context(), dead)); err != nil {
			t.Fatal(err)
		}
		s.force("alive")
		s.force("dead")
		if err := s.Get(t.Context(), client.ObjectKeyFromObject(shut), shut); err != nil {
			t.Fatal(err)
		}
		shut.Status.Phase, shut.Status.Reason = corev1.PodFailed, "Terminated" // as the kubelet says when the node is shut down
		if err := s.Status().Update(t.Context(), shut); err != nil {
			t.Fatal(err)
		}
		s.scale(set, 0)
		kill(s)
		q := v2beta1.IPUseQuarantine
		s.usesOf(map[string]v2beta1.IPUse{"alive": q, "dead": q, "shut": q, "web-0": q})
		s.newcomers("first", "second", "third")
		f.settled("dead", "shut", "web-0")
		s.running(4)
		s.newcomers("last")
		s.refused("last", "IPAllocationWaiting", "all IP addresses used out: 0 free of 5, 1 in quarantine")
		f.still("asker", "alive")
		if err := s.StartKubelet(t.Context(), alive); err != nil {
			t.Fatal(err)
		}
		f.settled("alive")
		s.running(5)
		if err := s.StartNode(t.Context(), dead); err != nil {
			t.Fatal(err)
		}
		if err := s.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.stop()
		s.agree(5, 5)
	})
}

// TestNodesDeleted: the Node objects are deleted of a node without power and of one that knows nothing of it, where containers
// take their time to end.
func TestNodesDeleted(t *testing.T) {
	eachWay(t, func(t *testing.T, kill func(*scenario)) {
		s := alone(t, 3)
		const alive, dead = "node2", "node3"
		s.asking("asker", s.v4, "", at("node1"))
		s.asking("living", s.v4, "", at(alive), lasting(10))
		s.asking("dead", s.v4, "", at(dead))
		s.running(3)
		f := s.follow("asker", "living", "dead")
		t.Cleanup(func() {
			_ = s.StopKubelet(context.Background(), alive)
			_ = errors.Join(s.StartKubelet(context.Background(), alive), s.StartNode(context.Background(), dead), s.WaitReady(context.Background()))
		})
		if err := s.StopNode(t.Context(), dead); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{alive, dead} {
			if err := s.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
				t.Fatal(err)
			}
		}
		kill(s)
		s.newcomers("first", "second")
		f.settled("living", "dead")
		s.running(3)
		f.stop()
		s.agree(3, 3)
	})
}

// TestSquatter: a host that is no pod has three of eight addresses of each family. Five pods run, none on one of these, and all
// that were found are in quarantine with the hardware address of that host.
func TestSquatter(t *testing.T) {
	s := alone(t, 8)
	const mac = "02:00:5e:10:00:01"
	squatted := map[string]bool{}
	var bears []netip.Prefix
	for _, i := range []int{2, 5, 7} {
		v4 := netip.MustParseAddr(fmt.Sprintf("172.20.%d.%d", s.number, i))
		v6 := netip.MustParseAddr(fmt.Sprintf("fd00:172:20::%x:%x", s.number, i))
		squatted[v4.String()], squatted[v6.String()] = true, true
		bears = append(bears, netip.PrefixFrom(v4, 16), netip.PrefixFrom(v6, 64))
	}
	if err := s.PlugHost(t.Context(), "squatter", 0, mac, bears...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.UnplugHost("squatter") })
	s.upgrade("ipam: {enableIPConflictDetection: true}")
	restored := false
	restore := func() {
		restored = true
		s.upgrade("ipam: {enableIPConflictDetection: false}")
	}
	defer func() {
		if !restored {
			restore()
		}
	}()
	set := s.statefulSet("web", 5) // whose pods try neighbours first, of any five of which one is squatted on
	s.running(5)
	s.agree(5, 10)
	var list v2beta1.SpiderIPList
	if err := s.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	found := 0
	for i := range list.Items {
		e := &list.Items[i]
		switch quarantined := e.Spec.Use == v2beta1.IPUseQuarantine; {
		case !strings.HasPrefix(e.Spec.Pool, s.namespace+"-"):
		case squatted[e.Spec.Address] != quarantined, quarantined && e.Spec.Conflict != mac:
			t.Errorf("%s of pod %s is for use %s, conflict %q", e.Spec.Address, e.Spec.Pod.Name, e.Spec.Use, e.Spec.Conflict)
		case quarantined:
			found++
			if err := s.Delete(t.Context(), e); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d addresses were found in conflict", found)
	if found == 0 {
		t.Error("no address was found in conflict")
	}
	s.remove(set)
	s.held(0)
	restore()
}
