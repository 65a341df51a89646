package controller

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// poolObject is a pool of 10.6.0.0/24 as admission lets it in, of generation 3.
func poolObject(edit ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 3}}
	o.Spec.Subnet, o.Spec.IPs = "10.6.0.0/24", []string{"10.6.0.10-10.6.0.19"}
	for _, e := range edit {
		e(o)
	}
	return o
}

// entries are held by pods that are named after their addresses.
func entries(from string, n int) (out []Entry) {
	for a := netip.MustParseAddr(from); len(out) < n; a = a.Next() {
		out = append(out, Entry{Address: a, Pod: "ns/p" + a.String(), UID: "u"})
	}
	return out
}

func number(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}

// summary is a status as a line of text.
func summary(s v2beta1.IPPoolStatus) string {
	line := fmt.Sprintf("%s of %s, draining %s %v", number(s.AllocatedIPCount), number(s.TotalIPCount), number(s.DrainingIPCount), s.Draining)
	for _, c := range s.Conditions {
		line += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
	}
	return line
}

const fine = " Ready=True/Serving Draining=False/NothingDrains Malformed=False/ValidSpec"

func TestJudge(t *testing.T) {
	edit := func(f func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool { return poolObject(f) }
	yes := true
	now := metav1.Now()
	var odd []string
	for i := range 2 * drainingShown {
		odd = append(odd, netip.AddrFrom4([4]byte{10, 7, byte(i >> 7), byte(i<<1) | 1}).String())
	}
	var scattered []Entry
	for _, text := range odd {
		scattered = append(scattered, Entry{Address: netip.MustParseAddr(text)})
	}
	for _, tc := range []struct {
		name string
		pool *v2beta1.SpiderIPPool
		held []Entry
		cut  uint64
		want string
		// says are parts of messages, by condition.
		says map[string]string
	}{
		{"empty", poolObject(), nil, 0, "0 of 10, draining 0 []" + fine, nil},
		{"in use", poolObject(), entries("10.6.0.10", 3), 0, "3 of 10, draining 0 []" + fine, nil},
		{"gateway, excluded and unassignable", edit(func(o *v2beta1.SpiderIPPool) {
			gateway := "10.6.0.1"
			o.Spec.IPs, o.Spec.ExcludeIPs, o.Spec.Gateway = []string{"10.6.0.0-10.6.0.255"}, []string{"10.6.0.9"}, &gateway
		}), nil, 0, "0 of 252, draining 0 []" + fine, nil},
		{"a /64", edit(func(o *v2beta1.SpiderIPPool) {
			o.Spec.Subnet, o.Spec.IPs = "fd00::/48", []string{"fd00::-fd00::ffff:ffff:ffff:ffff"}
		}), nil, 0, fmt.Sprintf("0 of %d, draining 0 []", uint64(math.MaxInt64)) + fine, nil},
		{"outside", poolObject(), entries("10.6.0.18", 5), 0,
			"5 of 10, draining 3 [10.6.0.20-10.6.0.22] Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec",
			map[string]string{v2beta1.ConditionDraining: "3 addresses are held that the pool no longer covers, 10.6.0.20-10.6.0.22: they are free when their pods are gone, which `kubectl get spiderips --field-selector spec.pool=a` shows"}},
		{"outside, one of them kept", poolObject(), append(entries("10.6.0.18", 4), keptEntryOf("10.6.0.22", "web-0"), keptEntryOf("10.6.0.17", "web-1")), 0,
			"6 of 10, draining 3 [10.6.0.20-10.6.0.22] Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec",
			map[string]string{v2beta1.ConditionDraining: "`kubectl get spiderips --field-selector spec.pool=a` shows; no pod has 1 of them, which are kept for the next pod of a StatefulSet"}},
		{"disabled", edit(func(o *v2beta1.SpiderIPPool) { o.Spec.Disable = &yes }), entries("10.6.0.10", 1), 0,
			"1 of 10, draining 0 [] Ready=False/Disabled Draining=False/NothingDrains Malformed=False/ValidSpec",
			map[string]string{v2beta1.ConditionReady: "set it to false"}},
		{"being deleted", edit(func(o *v2beta1.SpiderIPPool) { o.DeletionTimestamp = &now }), entries("10.6.0.10", 2), 0,
			"2 of 10, draining 2 [10.6.0.10-10.6.0.11] Ready=False/Deleting Draining=True/Deleting Malformed=False/ValidSpec", nil},
		{"no address", edit(func(o *v2beta1.SpiderIPPool) { o.Spec.IPs = nil }), nil, 0,
			"0 of 0, draining 0 [] Ready=False/NoAddresses Draining=False/NothingDrains Malformed=False/ValidSpec",
			map[string]string{v2beta1.ConditionReady: "spec.ips"}},
		{"all reserved", edit(func(o *v2beta1.SpiderIPPool) {
			o.Annotations = map[string]string{v2beta1.AnnotationReserved: "10.6.0.1-10.6.0.50"}
		}), nil, 0, "0 of 10, draining 0 [] Ready=False/NoAddresses Draining=False/NothingDrains Malformed=False/ValidSpec",
			map[string]string{v2beta1.ConditionReady: "all 10 addresses are reserved"}},
		{"malformed addresses", edit(func(o *v2beta1.SpiderIPPool) { o.Spec.IPs = []string{"10.6.0.9", "10.6.0.1-10.6.0.20"} }), entries("10.6.0.10", 2), 0,
			"2 of ?, draining ? [] Ready=False/InvalidSpec Draining=False/NothingDrains Malformed=True/InvalidSpec",
			map[string]string{v2beta1.ConditionMalformed: `spec.ips: [1]: "10.6.0.1-10.6.0.20" overlaps [0] "10.6.0.9": list every address once`}},
		{"malformed otherwise", edit(func(o *v2beta1.SpiderIPPool) { o.Spec.Routes = []v2beta1.Route{{Dst: "10.7.0.0/16", Gw: "10.9.0.1"}} }), entries("10.6.0.19", 2), 0,
			"2 of 10, draining 1 [10.6.0.20] Ready=False/InvalidSpec Draining=True/OutsidePool Malformed=True/InvalidSpec",
			map[string]string{v2beta1.ConditionMalformed: "spec.routes[0].gw"}},
		{"reserved ranges cut", poolObject(), nil, 7, "0 of 10, draining 0 []" + fine,
			map[string]string{v2beta1.ConditionReady: "7 more reserved addresses"}},
		{"many draining ranges", poolObject(), scattered, 0,
			fmt.Sprintf("%d of 10, draining %d %v Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec", len(odd), len(odd), odd[:drainingShown]),
			map[string]string{v2beta1.ConditionDraining: fmt.Sprintf("10.7.0.1 and %d more ranges", len(odd)-1)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Judge(tc.pool, tc.held, Circumstances{Nodes: 1, Cut: addr.CountOf(tc.cut), Now: now})
			if diff := cmp.Diff(tc.want, summary(got)); diff != "" {
				t.Error(diff)
			}
			for condition, want := range tc.says {
				if c := meta.FindStatusCondition(got.Conditions, condition); !strings.Contains(c.Message, want) {
					t.Errorf("%s says %q, not %q", condition, c.Message, want)
				}
			}
			if got.ObservedGeneration != 3 || got.ObservedReserved != tc.pool.Annotations[v2beta1.AnnotationReserved] {
				t.Errorf("observed %d and %q", got.ObservedGeneration, got.ObservedReserved)
			}
			again := tc.pool.DeepCopy()
			again.Status = got
			if diff := cmp.Diff(got, Judge(again, tc.held, Circumstances{Nodes: 1, Cut: addr.CountOf(tc.cut), Now: metav1.NewTime(now.Add(time.Hour))})); diff != "" {
				t.Errorf("judged again: %s", diff)
			}
		})
	}
}

// TestTransitionTime: a condition keeps its time until its status changes.
func TestTransitionTime(t *testing.T) {
	first, second := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	o := poolObject()
	o.Status = Judge(o, nil, Circumstances{Now: first})
	o.Status = Judge(o, entries("10.6.0.19", 2), Circumstances{Now: second})
	for _, c := range o.Status.Conditions {
		want := first
		if c.Type == v2beta1.ConditionDraining {
			want = second
		}
		if !c.LastTransitionTime.Equal(&want) {
			t.Errorf("%s changed at %s", c.Type, c.LastTransitionTime)
		}
	}
	o.Status.Conditions = append(o.Status.Conditions, metav1.Condition{Type: "Alien"})
	if got := Judge(o, nil, Circumstances{Now: second}); len(got.Conditions) != 3 {
		t.Errorf("conditions %v", got.Conditions)
	}
}

func TestAllocatedIPs(t *testing.T) {
	before := "{}"
	for _, tc := range []struct {
		shown bool
		held  int
		nodes int
		want  bool
	}{
		{false, 0, 1, false}, {true, 0, 1, false},
		{false, 1, 1, true}, {false, 100, 1000, true}, {false, 101, 1, false},
		{true, 101, 1, true}, {true, 120, 1, true}, {true, 121, 1, false},
		{true, 1, 1001, false},
	} {
		o := poolObject()
		if tc.shown {
			o.Status.AllocatedIPs = &before
		}
		got := Judge(o, entries("10.6.0.10", tc.held), Circumstances{Nodes: tc.nodes})
		if (got.AllocatedIPs != nil) != tc.want || *got.AllocatedIPCount != int64(tc.held) {
			t.Errorf("%+v: %v, count %d", tc, got.AllocatedIPs, *got.AllocatedIPCount)
		}
		if got.AllocatedIPs != nil {
			var holders map[string]map[string]string
			if err := json.Unmarshal([]byte(*got.AllocatedIPs), &holders); err != nil || len(holders) != tc.held {
				t.Errorf("%+v: %d holders, %v", tc, len(holders), err)
			}
		}
	}
	o := poolObject()
	if got := Judge(o, entries("10.6.0.10", 1), Circumstances{}); *got.AllocatedIPs != `{"10.6.0.10":{"pod":"ns/p10.6.0.10","podUid":"u"}}` {
		t.Error(*got.AllocatedIPs)
	}
}

func TestReserved(t *testing.T) {
	set := func(texts ...string) addr.Set {
		s, err := addr.ParseSet(texts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	pool := set("10.6.0.10-10.6.0.50", "10.6.0.60")
	for _, tc := range []struct {
		reserved, nodes addr.Set
		room            int
		want            string
		cut             uint64
	}{
		{set(), set(), 100, "", 0},
		{set("10.6.1.1"), set("10.6.0.9"), 100, "", 0},
		{set("10.6.0.1-10.6.0.12", "10.6.0.55-10.6.0.70"), set("10.6.0.13"), 100, "10.6.0.10-10.6.0.13,10.6.0.60", 0},
		{set("10.6.0.10", "10.6.0.12", "10.6.0.14-10.6.0.19"), set("10.6.0.50"), 35, "10.6.0.10,10.6.0.12,10.6.0.50", 6},
		{set("10.6.0.10"), set(), 0, "", 1},
	} {
		got, cut := Reserved(pool, tc.reserved, tc.nodes, tc.room)
		if got != tc.want || cut != addr.CountOf(tc.cut) {
			t.Errorf("%v and %v in %d: %q without %s, want %q without %d", tc.reserved, tc.nodes, tc.room, got, cut, tc.want, tc.cut)
		}
	}
	o := poolObject(func(o *v2beta1.SpiderIPPool) {
		o.Annotations = map[string]string{"x": strings.Repeat("x", annotationsLimit-100), v2beta1.AnnotationReserved: "10.6.0.1"}
	})
	if room := roomForReserved(o); room != 99-len(v2beta1.AnnotationReserved) {
		t.Errorf("%d bytes of room", room)
	}
}
