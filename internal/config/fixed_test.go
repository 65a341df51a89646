package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/internal/fixed"
)

var (
	kruise = FixedAddressKind{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Resource: "statefulsets"}
	proxy  = FixedAddressKind{APIVersion: "db.example.com/v1", Kind: "Proxy", Resource: "proxies"}
)

// TestFixedAddresses: which owners the switches and the list come to.
func TestFixedAddresses(t *testing.T) {
	statefulSet := schema.GroupKind{Group: "apps", Kind: "StatefulSet"}
	for content, want := range map[string]fixed.Rules{
		"":                              {Kinds: []schema.GroupKind{statefulSet}, VirtualMachines: true},
		"enableStatefulSet: false":      {VirtualMachines: true},
		"enableKubevirtStaticIP: false": {Kinds: []schema.GroupKind{statefulSet}},
		"enableStatefulSet: false\nenableKubevirtStaticIP: false\nfixedAddressKinds: [{apiVersion: apps.kruise.io/v1beta1, kind: StatefulSet}]": {
			Kinds: []schema.GroupKind{{Group: "apps.kruise.io", Kind: "StatefulSet"}}},
		"fixedAddressKinds: [{apiVersion: db.example.com/v1, kind: Proxy, resource: proxies}]": {
			Kinds: []schema.GroupKind{statefulSet, {Group: "db.example.com", Kind: "Proxy"}}, VirtualMachines: true},
	} {
		c, err := Parse([]byte(content))
		if err != nil {
			t.Errorf("%s: %v", content, err)
		}
		if diff := cmp.Diff(want, c.FixedAddresses()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", content, diff)
		}
	}
}

func TestFixedAddressKindsRefused(t *testing.T) {
	const usual = "apiVersion: a.example/v1, kind: A"
	var many []string
	for i := range 33 {
		many = append(many, fmt.Sprintf("{apiVersion: a.example/v1, kind: A%d}", i))
	}
	for _, tc := range []struct{ list, want string }{
		{"{" + usual + "}", "want a list of {apiVersion, kind, resource}"},
		{"[a]", "entry 1: want the texts apiVersion, kind and"},
		{"[{apiVersion: a.example/v1, kind: 1}]", "entry 1: want the texts apiVersion, kind and"},
		{"[null]", "entry 1: want apiVersion and kind"},
		{"[{" + usual + ", plural: as}]", `entry 1: unknown field "plural": want apiVersion, kind and resource`},
		{"[{apiversion: a.example/v1, kind: A}]", `entry 1: unknown field "apiversion"`},
		{"[{" + usual + `, resource: ""}]`, "entry 1: resource is empty: fill it in or remove it"},
		{`[{apiVersion: "", kind: A}]`, "entry 1: apiVersion is empty"},
		{"[{kind: A}]", "entry 1: want apiVersion and kind"},
		{"[{apiVersion: a.example/v1}]", "entry 1: want apiVersion and kind"},
		{"[{apiVersion: a.example/v1/x, kind: A}]", `entry 1: apiVersion "a.example/v1/x": want a group and a version, apps.kruise.io/v1beta1`},
		{"[{apiVersion: a.example/, kind: A}]", `entry 1: apiVersion "a.example/": want a group and a version`},
		{`[{apiVersion: "*/v1", kind: A}]`, `entry 1: apiVersion "*/v1": want a group and a version`},
		{"[{apiVersion: a.example/v1, kind: a/b}]", `entry 1: kind "a/b": want the name of a kind`},
		{"[{" + usual + `, resource: "*"}]`, `entry 1: resource "*": want the plural of the kind in lower case`},
		{"[{" + usual + ", resource: as/status}]", `entry 1: resource "as/status": want the plural`},
		{"[{apiVersion: apps/v1, kind: StatefulSet}]", "entry 1: StatefulSets of apps have the key enableStatefulSet: remove it here"},
		{"[{apiVersion: kubevirt.io/v1, kind: VirtualMachine}]", "entry 1: machines of kubevirt.io have the key enableKubevirtStaticIP: remove it here"},
		{"[{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance}]", "enableKubevirtStaticIP"},
		{"[{apiVersion: apps/v1, kind: ReplicaSet}]", "entry 1: pods of a ReplicaSet of apps/v1 never come back under their names, and would keep addresses for nobody: remove it"},
		{"[{apiVersion: apps/v1, kind: Deployment}]", "pods of a Deployment of apps/v1 never come back"},
		{"[{apiVersion: apps/v1, kind: DaemonSet}]", "pods of a DaemonSet of apps/v1 never come back"},
		{"[{apiVersion: batch/v1, kind: Job}]", "pods of a Job of batch/v1 never come back"},
		{"[{apiVersion: batch/v1beta1, kind: CronJob}]", "pods of a CronJob of batch/v1beta1 never come back"},
		{"[{apiVersion: v1, kind: Pod}]", "pods of a Pod of v1 never come back"},
		{"[{apiVersion: v1, kind: ReplicationController}]", "pods of a ReplicationController of v1 never come back"},
		{"[{" + usual + "}, {" + usual + "}]", "entry 2: it is the kind of entry 1, whatever the version: remove one"},
		{"[{" + usual + "}, {apiVersion: a.example/v2, kind: A, resource: x}]", "entry 2: it is the kind of entry 1"},
		{"[" + strings.Join(many, ", ") + "]", "it has 33 entries, want at most 32"},
		{"[{kind: A}, {" + usual + "}, {apiVersion: v1, kind: Pod}]", "entry 1: want apiVersion and kind; entry 3: pods of a Pod of v1"},
	} {
		if c, err := Parse([]byte("fixedAddressKinds: " + tc.list)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s\n%v, error %v\nwant  %s", tc.list, c.FixedAddressKinds, err, tc.want)
		}
	}
	if _, err := Parse([]byte("fixedAddressKinds: [" + strings.Join(many[:32], ", ") + "]")); err != nil {
		t.Errorf("32 kinds: %v", err)
	}
}
