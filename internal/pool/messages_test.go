package pool

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// count is n as a number of addresses.
func count(n int) addr.Count {
	if n == 0 {
		return addr.Count{}
	}
	last := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
	r, _ := addr.MakeRange(netip.MustParseAddr("10.0.0.1"), last)
	return addr.MakeSet(r).Count()
}

// TestUsage: what people are told of a pool's addresses.
func TestUsage(t *testing.T) {
	const hint = "which keeps it until the new pod is ready: add an address, or set strategy.rollingUpdate.maxSurge: 0 and maxUnavailable: 1"
	old := Holder{Pod: "shop/web-1", Node: "n2", State: "running", Owner: "Deployment web", SameOwner: true}
	other := Holder{Pod: "bank/db-0", Node: "n1", State: "running", Owner: "StatefulSet db"}
	for _, tc := range []struct {
		usage Usage
		want  string
	}{
		{Usage{Size: count(50), Free: count(3)}, "3 free of 50"},
		{Usage{Size: count(50), Terminating: 2, Where: " on this node", Reserved: count(5)}, "0 free of 50, 2 terminating on this node, 5 more reserved"},
		{Usage{}, "0 free of 0"},
		{Usage{Size: count(9), Kept: map[string]int{"StatefulSet web": 3}}, "0 free of 9, 3 kept for StatefulSet web"},
		{Usage{Size: count(50), Terminating: 2, Reserved: count(5), Kept: map[string]int{"StatefulSet b": 1, "VirtualMachine a": 1, "StatefulSet a": 12}},
			"0 free of 50, 2 terminating, 12 kept for StatefulSet a, 1 kept for StatefulSet b, 1 kept for VirtualMachine a, 5 more reserved"},
		{Usage{Size: count(9), Kept: map[string]int{"S 5": 1, "S 4": 1, "S 3": 1, "S 2": 1, "S 1": 1}}, "0 free of 9, 1 kept for S 1, 1 kept for S 2, 1 kept for S 3, and 2 more"},
		{Usage{Size: count(9), Kept: map[string]int{"StatefulSet b": 1, "StatefulSet a": 4}, AtLeast: true}, "0 free of 9, at least 4 kept for StatefulSet a, at least 1 kept for StatefulSet b"},
		{Usage{Size: count(9), AtLeast: true}, "0 free of 9"},
		{Usage{Size: count(9), Quarantined: 2, Reserved: count(1)}, "0 free of 9, 2 in quarantine, 1 more reserved"},
		{Usage{Size: count(9), Kept: map[string]int{"StatefulSet a": 1}, Quarantined: 2, AtLeast: true}, "0 free of 9, at least 1 kept for StatefulSet a, at least 2 in quarantine"},
		{Usage{Size: count(1), Holders: []Holder{{Pod: "shop/web-1", State: "kept for StatefulSet web"}}}, "0 free of 1; held by shop/web-1 (kept for StatefulSet web)"},
		{Usage{Size: count(1), Holders: []Holder{old}}, "0 free of 1; held by shop/web-1 on node n2 (running, of the same Deployment web, " + hint + ")"},
		{Usage{Size: count(1), Holders: []Holder{{Pod: "a/b", Node: "n", State: "being deleted", Owner: "Deployment web", SameOwner: true}}},
			"0 free of 1; held by a/b on node n (being deleted, of the same Deployment web)"},
		{Usage{Size: count(2), Holders: []Holder{other, {Pod: "a/b"}}}, "0 free of 2; held by bank/db-0 on node n1 (running, of StatefulSet db), a/b"},
		{Usage{Size: count(9), Holders: []Holder{{Pod: "a/1"}, {Pod: "a/2"}, {Pod: "a/3"}, {Pod: "a/4"}, {Pod: "a/5"}}}, "0 free of 9; held by a/1, a/2, a/3, 2 more"},
	} {
		if got := tc.usage.String(); got != tc.want {
			t.Errorf("says %q, want %q", got, tc.want)
		}
		if got := tc.usage.UsedOut(); got != "all IP addresses used out: "+tc.want {
			t.Errorf("says %q", got)
		}
	}
}

// TestCountWithoutPod: what is kept is counted by its owner, who is named with the namespace if that is not the asker's.
func TestCountWithoutPod(t *testing.T) {
	web, db := &v2beta1.IPOwner{Kind: "StatefulSet", Name: "web"}, &v2beta1.IPOwner{Kind: "VirtualMachine", Name: "db"}
	var u Usage
	for _, tc := range []struct {
		namespace string
		owner     *v2beta1.IPOwner
		use       v2beta1.IPUse
		want      bool
	}{
		{"shop", web, v2beta1.IPUseKept, true},
		{"shop", web, v2beta1.IPUseKept, true},
		{"bank", web, v2beta1.IPUseKept, true},
		{"shop", db, v2beta1.IPUseKept, true},
		{"shop", web, v2beta1.IPUsePod, false},
		{"shop", web, v2beta1.IPUseQuarantine, true},
		{"shop", nil, v2beta1.IPUseKept, false},
	} {
		s := &v2beta1.IPSpec{Pod: v2beta1.IPPod{Namespace: tc.namespace}, Owner: tc.owner, Use: tc.use}
		if got := u.CountWithoutPod(s, "shop"); got != tc.want {
			t.Errorf("%+v is counted: %t", tc, got)
		}
	}
	if want := map[string]int{"StatefulSet web": 2, "StatefulSet bank/web": 1, "VirtualMachine db": 1}; !maps.Equal(u.Kept, want) || u.Quarantined != 1 {
		t.Errorf("counted %+v, want %v and one in quarantine", u, want)
	}
}

// TestHeldRequest: an address that was asked for is held by somebody.
func TestHeldRequest(t *testing.T) {
	for _, tc := range []struct {
		address string
		holder  Holder
		want    string
	}{
		{"10.1.0.9", Holder{Pod: "shop/web-1", Node: "n2", State: "running"}, "the address 10.1.0.9 that was asked for is held by shop/web-1 on node n2 (running)"},
		{"fd00::9", Holder{}, "the address fd00::9 that was asked for is held by another pod: 'kubectl get spiderip fd00-0000-0000-0000-0000-0000-0000-0009' shows by whom"},
	} {
		if got := HeldRequest(netip.MustParseAddr(tc.address), tc.holder); got != tc.want {
			t.Errorf("says %q", got)
		}
	}
}
