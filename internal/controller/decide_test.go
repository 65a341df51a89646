package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// collectAll is the collection as it is by default.
var collectAll = config.GC{Enabled: true, TerminatingOnReadyNode: true, TerminatingOnNotReadyNode: true, Evicted: true, Interval: 10 * time.Minute}

// states name what became of a pod, and of a node.
var (
	podNames  = map[podState]string{podUnknown: "unknown", podLiving: "living", podTerminating: "terminating", podFinished: "finished", podEvicted: "evicted", podGone: "gone", podNoMirror: "no mirror"}
	nodeNames = map[nodeState]string{nodeUnknown: "unknown", nodeReady: "ready", nodeNotReady: "not ready", nodeDeleted: "deleted"}
)

// TestDecide is the table of decide for addresses that are not kept: for each use, owner and state of the pod what follows in
// the end with a node that is unknown, ready, not ready, deleted, and how long that takes. The grace period is 30 s, the
// delay 5 s, that of evicted pods 7 s.
func TestDecide(t *testing.T) {
	const none = "keep"
	gc := collectAll
	gc.GraceDelay, gc.EvictedDelay = 5*time.Second, 7*time.Second
	set, vm := ownerOf("apps/v1", "StatefulSet", "web-0"), ownerOf("kubevirt.io/v1", "VirtualMachine", "web-0")
	entry := func(use v2beta1.IPUse, owner *v2beta1.IPOwner) Entry {
		return Entry{Pod: "shop/web-0", UID: "u", Node: "n1", Use: use, Owner: owner}
	}
	borne := entry(v2beta1.IPUsePod, &vm)
	borne.Borne = true
	borneInQuarantine := borne
	borneInQuarantine.Use = v2beta1.IPUseQuarantine
	conflict := entry(v2beta1.IPUseQuarantine, nil)
	conflict.Conflict = true
	const over = "release quarantine_over 10m0s"
	type four [4]string
	keepAlways := four{none, none, none, none}
	for _, tt := range []struct {
		name  string
		entry Entry
		want  map[podState]four
	}{
		{"of a pod", entry(v2beta1.IPUsePod, nil), map[podState]four{
			podUnknown: keepAlways, podLiving: keepAlways,
			podTerminating: {none, "quarantine pod_terminating 1m35s", "quarantine pod_terminating 35s", "quarantine node_deleted 35s"},
			podFinished:    {none, "quarantine pod_finished 1m5s", "quarantine pod_finished 5s", "quarantine node_deleted 5s"},
			podEvicted:     {none, "quarantine pod_evicted 1m7s", "quarantine pod_evicted 7s", "quarantine node_deleted 7s"},
			podGone:        {none, "quarantine pod_gone 1m5s", "quarantine pod_gone 5s", "quarantine node_deleted 5s"},
			podNoMirror:    {none, none, none, "quarantine node_deleted 5s"},
		}},
		{"fixed", entry(v2beta1.IPUsePod, &set), map[podState]four{
			podUnknown: keepAlways, podLiving: keepAlways,
			podTerminating: {none, "quarantine pod_terminating 1m35s", "quarantine pod_terminating 35s", "quarantine node_deleted 35s"},
			podFinished:    {none, "quarantine pod_finished 1m5s", "quarantine pod_finished 5s", "quarantine node_deleted 5s"},
			podEvicted:     {none, "quarantine pod_evicted 1m7s", "quarantine pod_evicted 7s", "quarantine node_deleted 7s"},
			podGone:        {none, "quarantine pod_gone 1m5s", "quarantine pod_gone 5s", "quarantine node_deleted 5s"},
			podNoMirror:    {none, none, none, "quarantine node_deleted 5s"},
		}},
		{"of a machine that moved", borne, map[podState]four{
			podLiving: keepAlways,
			podGone:   {none, "quarantine pod_gone 1m5s", "quarantine pod_gone 5s", "quarantine node_deleted 5s"},
		}},
		{"in quarantine", entry(v2beta1.IPUseQuarantine, nil), map[podState]four{
			podUnknown: keepAlways, podLiving: keepAlways,
			podTerminating: {none, none, none, "release node_deleted 10m35s"},
			podFinished:    {none, none, none, "release node_deleted 10m5s"},
			podEvicted:     {none, none, none, "release node_deleted 10m7s"},
			podGone:        {none, none, none, "release node_deleted 10m5s"},
			podNoMirror:    {none, none, none, "release node_deleted 10m5s"},
		}},
		{"fixed, in quarantine", entry(v2beta1.IPUseQuarantine, &set), map[podState]four{
			podLiving: keepAlways, podGone: {none, none, none, "keep node_deleted 10m5s"},
		}},
		{"of a machine that moved, in quarantine", borneInQuarantine, map[podState]four{podGone: keepAlways}},
		{"a host bears it", conflict, map[podState]four{
			podUnknown: {over, over, over, over}, podLiving: {over, over, over, over}, podGone: {over, over, over, over}, podEvicted: {over, over, over, over},
		}},
	} {
		for pod, row := range tt.want {
			for node, want := range row {
				f := findings{pod: pod, node: nodeState(node), grace: 30 * time.Second}
				what := fmt.Sprintf("%s, pod %s, node %s", tt.name, podNames[pod], nodeNames[f.node])
				if got := inTheEnd(t, what, tt.entry, f, keepAll, gc); got != want {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
				if got := inTheEnd(t, what, tt.entry, f, keepAll, config.GC{DryRun: true}); got != none {
					t.Errorf("%s, switched off: %s", what, got)
				}
				if notFixed := inTheEnd(t, what, tt.entry, f, fixed.Rules{}, gc); notFixed != strings.Replace(want, "keep node", "release node", 1) {
					t.Errorf("%s, no kind is fixed: %s, want %s", what, notFixed, want)
				}
			}
		}
	}
}

// inTheEnd is what follows once every duration is over, and how long that takes; "keep" if nothing does.
func inTheEnd(t *testing.T, what string, e Entry, f findings, rules fixed.Rules, gc config.GC) string {
	t.Helper()
	v := decide(e, f, rules, gc)
	wait := v.after
	if v.do == again {
		f.seen, f.ready = wait-1, wait-1
		if early := decide(e, f, rules, gc); early.do != again || early.after != 1 {
			t.Errorf("%s, too early: %+v", what, early)
		}
		f.seen, f.ready = wait, wait
		v = decide(e, f, rules, gc)
	}
	if v.do == keep {
		return "keep"
	}
	if v.proof() || v.why == "" || len(v.why) > 1024 {
		t.Errorf("%s: %+v", what, v)
	}
	return fmt.Sprintf("%s %s %s", v.do, v.reason, wait)
}

// TestReadyAgain: the agent of a node that was not ready gets its time from when it is.
func TestReadyAgain(t *testing.T) {
	for _, tt := range []struct{ seen, ready, wait time.Duration }{
		{0, 0, agentTime}, {time.Hour, 0, agentTime}, {time.Hour, agentTime - 1, 1}, {time.Hour, agentTime, 0}, {agentTime, agentTime, 0},
	} {
		v := decide(Entry{Use: v2beta1.IPUsePod}, findings{pod: podGone, node: nodeReady, seen: tt.seen, ready: tt.ready}, keepAll, collectAll)
		if v.after != tt.wait || (v.do == again) != (tt.wait > 0) {
			t.Errorf("%+v: %+v", tt, v)
		}
	}
}

// TestSwitches: each switch leaves alone what it names, and nothing else.
func TestSwitches(t *testing.T) {
	without := func(change func(*config.GC)) config.GC { gc := collectAll; change(&gc); return gc }
	for _, tt := range []struct {
		name string
		gc   config.GC
		off  string
	}{
		{"all", collectAll, ""},
		{"terminating, ready", without(func(gc *config.GC) { gc.TerminatingOnReadyNode = false }), "terminating ready"},
		{"terminating, not ready", without(func(gc *config.GC) { gc.TerminatingOnNotReadyNode = false }), "terminating not ready, terminating deleted"},
		{"evicted", without(func(gc *config.GC) { gc.Evicted = false }), "evicted ready, evicted not ready, evicted deleted"},
	} {
		var off []string
		for _, pod := range []podState{podTerminating, podFinished, podEvicted, podGone} {
			for _, node := range []nodeState{nodeReady, nodeNotReady, nodeDeleted} {
				if decide(Entry{Use: v2beta1.IPUsePod}, findings{pod: pod, node: node, seen: time.Hour, ready: time.Hour}, keepAll, tt.gc).do == keep {
					off = append(off, podNames[pod]+" "+nodeNames[node])
				}
			}
		}
		if got := strings.Join(off, ", "); got != tt.off {
			t.Errorf("%s: %q is left alone, want %q", tt.name, got, tt.off)
		}
	}
}
