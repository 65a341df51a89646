package fixed_test

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

var (
	statefulSet = schema.GroupKind{Group: "apps", Kind: "StatefulSet"}
	kruise      = schema.GroupKind{Group: "apps.kruise.io", Kind: "StatefulSet"}
)

func controlledBy(apiVersion, kind, name string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: "u", Controller: new(true)}
}

func TestOwner(t *testing.T) {
	all := fixed.Rules{Kinds: []schema.GroupKind{statefulSet, kruise}, VirtualMachines: true}
	usual := fixed.Rules{Kinds: []schema.GroupKind{statefulSet}, VirtualMachines: true}
	vmi, vm := controlledBy("kubevirt.io/v1", "VirtualMachineInstance", "db"), controlledBy("kubevirt.io/v1", "VirtualMachine", "db")
	sts := controlledBy("apps/v1", "StatefulSet", "web")
	for name, tc := range map[string]struct {
		rules       fixed.Rules
		direct, top metav1.OwnerReference
		want        string // kind and name of the owner, or why there is none
	}{
		"StatefulSet":                         {usual, sts, sts, "StatefulSet web"},
		"StatefulSet of an operator":          {usual, sts, controlledBy("redis.io/v1", "RedisCluster", "cache"), "StatefulSet web"},
		"StatefulSet, switched off":           {fixed.Rules{}, sts, sts, "enableStatefulSet is false"},
		"OpenKruise, not named":               {usual, controlledBy("apps.kruise.io/v1beta1", "StatefulSet", "web"), sts, "not fixed for pods of StatefulSet web (apps.kruise.io/v1beta1)"},
		"OpenKruise":                          {all, controlledBy("apps.kruise.io/v1beta1", "StatefulSet", "web"), sts, "StatefulSet web"},
		"OpenKruise, another version":         {all, controlledBy("apps.kruise.io/v1alpha1", "StatefulSet", "web"), sts, "StatefulSet web"},
		"machine":                             {usual, vmi, vm, "VirtualMachine db"},
		"instance without a machine":          {usual, vmi, vmi, "VirtualMachineInstance db"},
		"instance of a replica set":           {usual, vmi, controlledBy("kubevirt.io/v1", "VirtualMachineInstanceReplicaSet", "many"), "VirtualMachineInstance db"},
		"machine, switched off":               {fixed.Rules{Kinds: usual.Kinds}, vmi, vm, "enableKubevirtStaticIP is false"},
		"Deployment":                          {all, controlledBy("apps/v1", "ReplicaSet", "api-5d"), controlledBy("apps/v1", "Deployment", "api"), "not fixed for pods of ReplicaSet api-5d"},
		"a kind of the name in another group": {all, controlledBy("example.com/v1", "StatefulSet", "web"), sts, "not fixed for pods of StatefulSet web (example.com/v1)"},
	} {
		pod := &metav1.ObjectMeta{Name: "p", OwnerReferences: []metav1.OwnerReference{tc.direct}}
		owner, why := tc.rules.Owner(pod, tc.top)
		got := why
		if owner != nil {
			got = owner.Kind + " " + owner.Name
			if !tc.rules.Cover(owner) {
				t.Errorf("%s: its owner is not covered", name)
			}
		}
		if owner != nil && got != tc.want || owner == nil && !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if owner, why := all.Owner(&metav1.ObjectMeta{Name: "p"}, metav1.OwnerReference{Kind: "Pod"}); owner != nil || why == "" {
		t.Errorf("a pod without a controller: %v, %q", owner, why)
	}
}

func TestWanted(t *testing.T) {
	owner := &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u"}
	machine := &v2beta1.IPOwner{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "web", UID: "u"}
	for name, tc := range map[string]struct {
		owner  *v2beta1.IPOwner
		object string // YAML; empty: gone
		pods   string // of the names from web-0 to web-9, which are wanted
	}{
		"gone":                         {owner, "", ""},
		"being deleted":                {owner, "{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {replicas: 9}}", ""},
		"three":                        {owner, "{spec: {replicas: 3}}", "012"},
		"scaled to zero":               {owner, "{spec: {replicas: 0}}", ""},
		"ordinals.start":               {owner, "{spec: {replicas: 3, ordinals: {start: 4}}}", "456"},
		"reserveOrdinals":              {owner, "{spec: {replicas: 3, reserveOrdinals: [1, 3]}}", "024"},
		"reserveOrdinals after":        {owner, "{spec: {replicas: 2, reserveOrdinals: [5]}}", "01"},
		"reserveOrdinals, and a start": {owner, "{spec: {replicas: 3, ordinals: {start: 2}, reserveOrdinals: [0, 3]}}", "245"},
		"reserveOrdinals, ranges":      {owner, "{spec: {replicas: 3, reserveOrdinals: ['1-3', 2, '3-4', x]}}", "056"},
		"reserveOrdinals, huge":        {owner, "{spec: {replicas: 3, reserveOrdinals: ['0-2000000000']}}", ""},
		"a kind without replicas":      {owner, "{spec: {size: 1}}", "0123456789"},
		"replicas of another form":     {owner, "{spec: {replicas: many}}", "0123456789"},
		"machine":                      {machine, "{spec: {running: false, replicas: 1}}", "0123456789"},
	} {
		var object *unstructured.Unstructured
		if tc.object != "" {
			data, err := yaml.YAMLToJSON([]byte(tc.object))
			if err != nil {
				t.Fatal(err)
			}
			object = &unstructured.Unstructured{}
			if err := object.UnmarshalJSON([]byte(`{"apiVersion":"v1","kind":"X",` + string(data[1:]))); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		for _, n := range "0123456789" {
			wanted, why := fixed.Wanted(tc.owner, object, "web-"+string(n))
			if wanted {
				got += string(n)
			}
			if wanted != (why == "") {
				t.Errorf("%s: pod %c: %t, %q", name, n, wanted, why)
			}
		}
		if got != tc.pods {
			t.Errorf("%s: wanted are %q, want %q", name, got, tc.pods)
		}
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": int64(1)}}}
	for _, pod := range []string{"web", "web-", "web-01", "web-x", "web-0-1", "other-7", "web-99999999999999"} {
		if wanted, _ := fixed.Wanted(owner, object, pod); !wanted {
			t.Errorf("a pod %s that no replica is counts as not wanted", pod)
		}
	}
}

func TestSame(t *testing.T) {
	sts := &v2beta1.IPOwner{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "StatefulSet", Name: "web", UID: "1"}
	again := *sts
	again.UID = "2"
	other := *sts
	other.Name = "db"
	vm := &v2beta1.IPOwner{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "web"}
	pod := func(namespace, name string) v2beta1.IPPod { return v2beta1.IPPod{Namespace: namespace, Name: name} }
	for name, tc := range map[string]struct {
		a, b       *v2beta1.IPOwner
		podA, podB v2beta1.IPPod
		want       bool
	}{
		"the next pod":                {sts, sts, pod("a", "web-0"), pod("a", "web-0"), true},
		"of an owner made again":      {sts, &again, pod("a", "web-0"), pod("a", "web-0"), true},
		"another pod":                 {sts, sts, pod("a", "web-0"), pod("a", "web-1"), false},
		"another namespace":           {sts, sts, pod("a", "web-0"), pod("b", "web-0"), false},
		"another owner":               {sts, &other, pod("a", "web-0"), pod("a", "web-0"), false},
		"another kind":                {sts, vm, pod("a", "web-0"), pod("a", "web-0"), false},
		"a machine's next launcher":   {vm, vm, pod("a", "virt-launcher-web-x"), pod("a", "virt-launcher-web-y"), true},
		"no owner":                    {nil, nil, pod("a", "web-0"), pod("a", "web-0"), false},
		"an owner, and none any more": {sts, nil, pod("a", "web-0"), pod("a", "web-0"), false},
	} {
		if got := fixed.Same(tc.a, tc.podA, tc.b, tc.podB); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestRecorded: what a SpiderEndpoint lists, of one interface or of all.
func TestRecorded(t *testing.T) {
	e := &v2beta1.SpiderEndpoint{}
	e.Status.Current.IPs = []v2beta1.EndpointInterface{
		{Interface: "eth0", IPv4: new("10.6.0.10/24"), IPv6: new("fd00::10/64")},
		{Interface: "net1", IPv6: new("fd00::11/64")},
		{Interface: "net2", IPv4: new("nonsense")},
	}
	for _, tc := range []struct {
		endpoint     *v2beta1.SpiderEndpoint
		ifname, want string
	}{
		{e, "eth0", "[10.6.0.10 fd00::10]"},
		{e, "net1", "[fd00::11]"},
		{e, "net2", "[]"},
		{e, "net3", "[]"},
		{e, "", "[10.6.0.10 fd00::10 fd00::11]"},
		{nil, "eth0", "[]"},
	} {
		if got := fmt.Sprint(fixed.Recorded(tc.endpoint, tc.ifname)); got != tc.want {
			t.Errorf("%q: %s, want %s", tc.ifname, got, tc.want)
		}
	}
}
