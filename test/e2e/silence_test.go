package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/test/lab"
)

// The scenarios of this file are about when an address is silent: what lives is
// never given away, and what is gone is free, DEL or not.

// oneMinute is how long an address that the agent can prove silent stays held:
// its audit comes every minute, and a node needs a moment beside it.
const oneMinute = 80 * time.Second

// observe looks into all network namespaces of all nodes until the function
// that it returns is called, and fails the test if two bear one address.
func (s *scenario) observe() (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for told := map[netip.Addr]bool{}; ctx.Err() == nil; {
			s.duplicates(told)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// moving has the addresses of machines: two of their pods bear them while a machine moves, whichever scenario looks.
var moving sync.Map

// duplicates looks once; told are the addresses that it has complained of.
func (s *scenario) duplicates(told map[netip.Addr]bool) {
	nodes, err := s.Nodes()
	if err != nil {
		s.Error(err)
		return
	}
	on := map[netip.Addr]place{}
	for _, node := range nodes {
		namespaces, _ := s.PodNamespaces(node) // a node without power has none
		for _, path := range namespaces {
			for _, a := range s.bears(place{node, path}) {
				if _, moves := moving.Load(a); moves {
					continue
				}
				// An address that moved meanwhile is not where it was.
				if other, twice := on[a]; twice && !told[a] && slices.Contains(s.bears(other), a) {
					s.Errorf("%s is on living interfaces of %v and %v", a, other, place{node, path})
					told[a] = true
				}
				on[a] = place{node, path}
			}
		}
	}
}

// place is a network namespace of a node.
type place struct{ node, path string }

// bears are the addresses in a namespace; none if it is gone.
func (s *scenario) bears(at place) (out []netip.Addr) {
	byInterface, _ := s.Addresses(at.node, at.path)
	for _, prefixes := range byInterface {
		for _, p := range prefixes {
			out = append(out, p.Addr())
		}
	}
	return out
}

// TestNodeWiped: a runtime that lost its memory makes new sandboxes beside the old
// ones, which live on: their addresses stay held, though the new ones get DELs.
// When the node comes back without anything, all its addresses are free.
func TestNodeWiped(t *testing.T) {
	s := alone(t, 3)
	const node = "node2"
	s.asking("old", s.v4, "", at(node))
	kept := s.runs("old")
	var more []string
	for _, name := range []string{"more0", "more1"} {
		s.asking(name, "", s.v6, at(node))
		more = append(more, s.runs(name)...)
	}
	s.asking("elsewhere", "", s.v6, at("node1"))
	s.running(4)
	stays := s.of("elsewhere")["eth0"]
	stop := s.observe()
	defer stop()

	t.Cleanup(func() { // for those that come after a failure
		if t.Failed() {
			_ = errors.Join(s.WipeNode(context.Background(), node), s.StartNode(context.Background(), node))
		}
	})
	if err := s.WipeRuntime(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	s.refused("old", "FailedCreatePodSandBox", "image") // its new sandbox got an address and, without image, a DEL
	for _, name := range []string{"next0", "next1"} {
		s.asking(name, s.v4, "", at("node1"))
		s.runs(name)
	}
	s.asking("late", s.v4, "", at("node1"))
	s.refused("late", "IPAllocationFailed", s.v4+": all IP addresses used out: 0 free of 3")
	if got := s.of("old")["eth0"]; !slices.Contains(got, kept[0]) {
		t.Errorf("old bears %v, and %v is held", kept, got)
	}

	if err := s.WipeNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "more0", "more1"} {
		s.force(name)
	}
	if got := s.entriesOn(node); len(got) < 3 {
		t.Errorf("%v are held for %s, which is off: want 3 at least", got, node)
	}
	if err := s.StartNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.freed(node, kept[0], more[0], more[1])
	s.running(4)
	if got := s.of("elsewhere")["eth0"]; !slices.Equal(got, stays) {
		t.Errorf("elsewhere had %v, and has %v", stays, got)
	}
	s.agree(4, 4)
}

// freed waits until the scenario holds nothing on a node. Log and metrics of
// its agent tell that some of what it held was released without a DEL.
func (s *scenario) freed(node string, silent ...string) {
	s.Helper()
	began := time.Now()
	s.within(oneMinute, func() string {
		if held := s.entriesOn(node); len(held) > 0 {
			return fmt.Sprintf("%v are held on %s", held, node)
		}
		return ""
	})
	s.Logf("%v of %s were free after %s", silent, node, time.Since(began).Round(time.Second))
	said, err := s.Kubectl(s.Context(), "-n", "kube-system", "logs", s.agentOn(node))
	if err != nil {
		s.Error(err)
	}
	for _, a := range silent {
		if !regexp.MustCompile(`"released without a DEL.*"address":"` + regexp.QuoteMeta(a) + `"`).MatchString(said) {
			s.Errorf("the agent of %s does not tell that it released %s", node, a)
		}
	}
	counted, err := s.NodeCommand(s.Context(), node, "busybox", "wget", "-qO-", "http://127.0.0.1:5711/metrics").Output()
	if err != nil || !regexp.MustCompile(`(?m)^spiderpool_ipam_audit_released_counts(_total)?(\{.*\})? [1-9]`).Match(counted) {
		s.Errorf("the metrics of the agent of %s do not count it (%v)", node, err)
	}
}

// agentOn is the name of the agent's pod on a node.
func (s *scenario) agentOn(node string) string {
	s.Helper()
	var pods corev1.PodList
	if err := s.List(s.Context(), &pods, client.InNamespace("kube-system"), client.MatchingLabels{"app.kubernetes.io/component": "spiderpool-agent"}); err != nil {
		s.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName == node {
			return p.Name
		}
	}
	s.Fatalf("no agent on %s", node)
	return ""
}

// force deletes a pod's object, whatever runs of it.
func (s *scenario) force(name string) {
	s.Helper()
	p := &corev1.Pod{}
	p.Namespace, p.Name = s.namespace, name
	if err := s.Delete(s.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		s.Fatal(err)
	}
}

// byHand is a call of a plugin on a node, as a runtime makes it.
type byHand struct {
	plugin, verb, container, ifname string
	conf                            map[string]any
}

// call calls a plugin in the namespace of a pod. A node whose API server is
// away is asked too, so netns is given.
func (s *scenario) call(p *corev1.Pod, netns string, c byHand) (result string, err error) {
	s.Helper()
	conf, err := json.Marshal(c.conf)
	if err != nil {
		s.Fatal(err)
	}
	cmd := s.NodeCommand(s.Context(), p.Spec.NodeName, "env", "CNI_COMMAND="+c.verb, "CNI_CONTAINERID="+c.container, "CNI_NETNS="+netns,
		"CNI_IFNAME="+c.ifname, "CNI_PATH=/opt/cni/bin",
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s;K8S_POD_INFRA_CONTAINER_ID=%s", p.Namespace, p.Name, p.UID, c.container),
		"/opt/cni/bin/"+c.plugin)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = bytes.NewReader(conf), &out
	err = cmd.Run()
	return out.String(), err
}

// underlay is the network of the cluster, for a call by hand.
func underlay() map[string]any {
	return map[string]any{"cniVersion": "1.0.0", "name": "underlay", "type": "macvlan", "master": lab.Segments[0].Interface, "mode": "bridge",
		"ipam": map[string]any{"type": "spiderpool"}}
}

// TestAnotherContainerInARunningPod: ADD and DEL with another container ID for
// a running pod take nothing from it; an interface that is plugged into it so
// is freed with its namespace, for which nobody sends a DEL.
func TestAnotherContainerInARunningPod(t *testing.T) {
	s := begin(t, 3)
	p := s.asking("web", s.v4, "", at("node1"))
	own := s.runs("web")
	sandbox, err := s.PodSandbox("node1", p.UID)
	if err != nil {
		t.Fatal(err)
	}
	stop := s.observe()
	defer stop()
	try := func(c byHand) string {
		t.Helper()
		out, err := s.call(p, sandbox.Netns, c)
		if err != nil {
			t.Fatalf("%s of %s: %v: %s", c.verb, c.container, err, out)
		}
		return out
	}
	ip := byHand{plugin: "spiderpool", verb: "ADD", container: "by-hand", ifname: "eth0", conf: underlay()}
	if said := try(ip); strings.Contains(said, own[0]+"/") {
		t.Errorf("the pod bears %v, and the ADD of another container is answered %s", own, said)
	}
	ip.verb = "DEL"
	try(ip)
	s.eventually(func() string {
		if held := s.of("web")["eth0"]; len(held) != 1 {
			return fmt.Sprintf("%v are held after ADD and DEL of another container, want one", held)
		}
		return ""
	})
	if held := s.of("web")["eth0"]; !slices.Equal(held, own) {
		t.Errorf("the pod bears %v, and %v is held after ADD and DEL of another container", own, held)
	}
	try(byHand{plugin: "macvlan", verb: "ADD", container: "hotplug", ifname: "net9", conf: underlay()})
	s.agree(1, 2)
	plugged := s.of("web")["net9"]
	s.remove(p)
	s.freed("node1", plugged...)
}

// TestAPIServerAwayAtStart: an agent that is started while the API
// server is away answers, does not exit, and serves when the API server is back.
func TestAPIServerAwayAtStart(t *testing.T) {
	s := alone(t, 3)
	const node = "node1"
	p := s.asking("web", s.v4, "", at(node))
	s.runs("web")
	sandbox, err := s.PodSandbox(node, p.UID)
	if err != nil {
		t.Fatal(err)
	}
	hand := byHand{plugin: "macvlan", verb: "ADD", container: "by-hand", ifname: "net9", conf: underlay()}
	if out, err := s.call(p, sandbox.Netns, hand); err != nil {
		t.Fatalf("ADD by hand: %v: %s", err, out)
	}
	before := s.restarts(node)
	if err := s.API.StopAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.API.StartAPI(context.Background()) })
	if err := s.KillAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	young := byHand{plugin: "spiderpool", verb: "ADD", container: "young", ifname: "net8", conf: underlay()}
	s.within(time.Minute, func() string {
		out, err := s.call(p, sandbox.Netns, young)
		if err == nil {
			return "an ADD is served without an API server: " + out
		}
		var said struct{ Code int }
		if json.Unmarshal([]byte(out), &said) != nil || said.Code != 11 || strings.Contains(out, "unhealthy spiderpool-agent backend") {
			return "no agent says that it cannot serve yet: " + out
		}
		return ""
	})
	hand.verb = "DEL"
	if out, err := s.call(p, sandbox.Netns, hand); err != nil {
		t.Errorf("DEL without an API server: %v: %s", err, out)
	}
	if err := s.API.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.within(time.Minute, func() string {
		if out, err := s.call(p, sandbox.Netns, young); err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return ""
	})
	t.Logf("an ADD was served %s after the API server was ready", time.Since(began).Round(100*time.Millisecond))
	young.verb = "DEL"
	if out, err := s.call(p, sandbox.Netns, young); err != nil {
		t.Errorf("DEL: %v: %s", err, out)
	}
	s.held(1)
	s.eventually(func() string {
		if now := s.restarts(node); now == before {
			return "the kubelet has not told of the restart"
		}
		return ""
	})
	if now := s.restarts(node); now != before+1 {
		t.Errorf("the agent was started %d times, want once", now-before)
	}
	s.remove(p)
	s.held(0)
}

// restarts is how often the agent of a node was started again.
func (s *scenario) restarts(node string) (n int32) {
	s.Helper()
	p := &corev1.Pod{}
	if err := s.Get(s.Context(), client.ObjectKey{Namespace: "kube-system", Name: s.agentOn(node)}, p); err != nil {
		s.Fatal(err)
	}
	for _, c := range p.Status.ContainerStatuses {
		n += c.RestartCount
	}
	return n
}

// TestRemovedFromTheNode: socket, directory and plugin are put back without
// anybody doing anything.
func TestRemovedFromTheNode(t *testing.T) {
	s := alone(t, 3)
	const node = "node3"
	t.Cleanup(func() { // for those that come after a failure
		if t.Failed() {
			_ = s.KillAgent(context.Background(), node)
		}
	})
	for _, path := range []string{"/run/spidernet/spiderpool.sock", "/run/spidernet", "/opt/cni/bin/spiderpool"} {
		if err := os.RemoveAll(s.HostPath(node, path)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s.within(time.Minute, func() string {
			if _, err := os.Stat(s.HostPath(node, path)); err != nil {
				return err.Error()
			}
			return ""
		})
		t.Logf("%s was back after %s", path, time.Since(began).Round(100*time.Millisecond))
		p := s.asking("web", s.v4, "", at(node))
		s.runs("web")
		s.remove(p)
		s.held(0)
		s.eventually(func() string {
			if err := s.Get(s.Context(), client.ObjectKeyFromObject(p), p); client.IgnoreNotFound(err) != nil || err == nil {
				return fmt.Sprintf("pod web is still there (%v)", err)
			}
			return ""
		})
	}
}

// TestRebuild: all pods of a Deployment are deleted at once, on pools that have
// just their addresses, and use their whole grace period: the new ones wait,
// and no sandbox fails meanwhile.
func TestRebuild(t *testing.T) {
	n := 8
	if *soak {
		n = 40
	}
	s := begin(t, n)
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	d := s.deployment(int32(n), func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace })
	s.running(n)
	began := time.Now()
	if err := s.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(s.namespace)); err != nil {
		t.Fatal(err)
	}
	s.running(n)
	failed := s.failedSandboxes()
	t.Logf("%d pods on %d addresses of each family were rebuilt in %s; %d sandboxes failed", n, n, time.Since(began).Round(time.Second), failed)
	if failed > 0 {
		t.Errorf("%d sandboxes failed while addresses were awaited", failed)
	}
	s.agree(n, 2*n)
	if err := s.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(s.namespace), client.GracePeriodSeconds(1)); err != nil {
		t.Fatal(err)
	}
	s.held(0)
}

// failedSandboxes is how often the kubelets said that a sandbox failed.
func (s *scenario) failedSandboxes() (n int32) {
	s.Helper()
	var list corev1.EventList
	if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil {
		s.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == "FailedCreatePodSandBox" {
			n += max(e.Count, 1)
		}
	}
	return n
}
