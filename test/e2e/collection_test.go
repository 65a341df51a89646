package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
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

// TestNodesLost: a node is without power, and of another the kubelet alone: its containers live on. The pods of both are deleted.
// The address that is silent is given to the next pod, and the one whose container answers to nobody before that has ended.
func TestNodesLost(t *testing.T) {
	s := alone(t, 2)
	const alive, dead = "node2", "node3"
	s.asking("alive", s.v4, "", at(alive))
	s.asking("dead", s.v4, "", at(dead))
	living, silent := s.runs("alive")[0], s.runs("dead")[0]
	stop := s.observe()
	defer stop()
	t.Cleanup(func() {
		_ = s.StartKubelet(context.Background(), alive)
		_ = s.StartNode(context.Background(), dead)
	})
	if err := s.StopKubelet(t.Context(), alive); err != nil {
		t.Fatal(err)
	}
	if err := s.StopNode(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	s.force("alive")
	s.force("dead")
	s.usesOf(map[string]v2beta1.IPUse{"alive": v2beta1.IPUseQuarantine, "dead": v2beta1.IPUseQuarantine})
	began := time.Now()
	s.asking("first", s.v4, "", at("node1"))
	if got := s.runs("first"); len(got) != 1 || got[0] != silent {
		t.Errorf("first has %v, want %s", got, silent)
	}
	t.Logf("%s was given to another pod %s after it was put in quarantine", silent, time.Since(began).Round(100*time.Millisecond))
	s.asking("second", s.v4, "", at("node1"))
	s.refused("second", "IPAllocationFailed", "all IP addresses used out", "in quarantine: ")
	if text, err := s.Kubectl(t.Context(), "-n", s.namespace, "exec", "first", "--", "ping", "-c", "3", "-W", "2", living); err != nil {
		t.Errorf("%s does not answer any more, and it should live: %v\n%s", living, err, text)
	}
	if err := s.StartKubelet(t.Context(), alive); err != nil {
		t.Fatal(err)
	}
	if got := s.runs("second"); len(got) != 1 || got[0] != living {
		t.Errorf("second has %v, want %s", got, living)
	}
	if err := s.StartNode(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.agree(2, 2)
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
