package v2beta1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// held is a SpiderIP as an agent makes it.
func held(name, address string, change ...func(*v2beta1.SpiderIP)) *v2beta1.SpiderIP {
	ip := &v2beta1.SpiderIP{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v2beta1.IPSpec{
			Address: address, Pool: "a", Node: "n1", Network: "macvlan", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c1",
			Pod: v2beta1.IPPod{Namespace: "default", Name: "web-0", UID: "u1"},
		},
	}
	for _, f := range change {
		f(ip)
	}
	return ip
}

func TestNameIsTheAddress(t *testing.T) {
	const (
		full  = "fd00-0010-0000-0000-0000-0000-0000-000a"
		wrong = ": the name must be the address, IPv6 in full with dashes"
	)
	for _, tt := range []struct{ name, address, want string }{
		{"10.6.0.10", "10.6.0.10", ""},
		{"0.0.0.0", "0.0.0.0", ""},
		{"255.255.255.255", "255.255.255.255", ""},
		{full, "fd00:10::a", ""},
		{"0000-0000-0000-0000-0000-0000-0000-0001", "::1", ""},
		{"fd00-0010-0000-0000-0000-0000-0000-000b", "fd00:10::b", ""},

		{"10.6.0.11", "10.6.0.10", "the object is named 10.6.0.11 and holds 10.6.0.10" + wrong},
		{"web-0", "10.6.0.10", wrong},
		{"10-6-0-10", "10.6.0.10", wrong},
		{full, "10.6.0.10", wrong},
		{"10.6.0.10", "fd00:10::a", wrong},
		{"fd00-0010-0000-0000-0000-0000-0000-000b", "fd00:10::a", wrong},
		{"fd00-10--a", "fd00:10::a", wrong},
		{"fd00-10-0-0-0-0-0-a", "fd00:10::a", wrong},
		{"fd00-0010-0000-0000-0000-0000-0000-000a.x", "fd00:10::a", wrong},
		{"x-" + full, "fd00:10::a", wrong},

		{"10.6.0.10", "10.6.0.10/16", `spec.address: Invalid value: "10.6.0.10/16": must be an IP address`},
		{"10.6.0.10", "10.6.0.010", `must be an IP address`},
		{full, "FD00:10::A", `spec.address: Invalid value: "FD00:10::A": must be in canonical form: write fd00:10::a`},
		{full, "fd00:10:0:0::a", `must be in canonical form: write fd00:10::a`},
		{"10.6.0.10", "::ffff:10.6.0.10", `spec.address: Invalid value: "::ffff:10.6.0.10": must be an IP address`},
		{"10.6.0.10", "", `must be an IP address`},
	} {
		t.Run(tt.name+" "+tt.address, func(t *testing.T) {
			judge(t, create(t.Context(), api(t), held(tt.name, tt.address), client.DryRunAll), tt.want)
		})
	}
}

func TestSpiderIPFields(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(*v2beta1.SpiderIP)
	}{
		{"fixed, in quarantine", "", func(ip *v2beta1.SpiderIP) {
			ip.Spec.Owner = &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u2"}
			ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseQuarantine, "node n1 does not answer"
		}},
		{"fixed, kept", "", func(ip *v2beta1.SpiderIP) {
			ip.Spec.Owner = &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u2"}
			ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseKept, "until StatefulSet web is deleted"
		}},
		{"borne by another host", "", func(ip *v2beta1.SpiderIP) {
			ip.Spec.Use, ip.Spec.Conflict = v2beta1.IPUseQuarantine, "02:00:5e:10:00:01"
		}},
		{"borne by another host, and a pod's", "is of use Quarantine alone", func(ip *v2beta1.SpiderIP) { ip.Spec.Conflict = "02:00:5e:10:00:01" }},
		{"borne by a host without name", "spec.conflict", func(ip *v2beta1.SpiderIP) {
			ip.Spec.Use, ip.Spec.Conflict = v2beta1.IPUseQuarantine, "somebody"
		}},
		{"kept for nobody", `is required for use Kept: an address is kept for somebody`, func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUseKept }},
		{"no netns and network known", "", func(ip *v2beta1.SpiderIP) { ip.Spec.Netns, ip.Spec.Network = "", "" }},
		{"no pool", `spec.pool: Invalid value: ""`, func(ip *v2beta1.SpiderIP) { ip.Spec.Pool = "" }},
		{"no node", `spec.node: Invalid value: ""`, func(ip *v2beta1.SpiderIP) { ip.Spec.Node = "" }},
		{"no interface", `spec.interface: Invalid value: ""`, func(ip *v2beta1.SpiderIP) { ip.Spec.Interface = "" }},
		{"no container", `spec.containerID: Invalid value: ""`, func(ip *v2beta1.SpiderIP) { ip.Spec.ContainerID = "" }},
		{"no pod", `spec.pod.uid: Invalid value: ""`, func(ip *v2beta1.SpiderIP) { ip.Spec.Pod = v2beta1.IPPod{} }},
		{"another use", `spec.use: Unsupported value: "Free": supported values: "Pod", "Kept", "Quarantine"`, func(ip *v2beta1.SpiderIP) { ip.Spec.Use = "Free" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			judge(t, create(t.Context(), api(t), held("10.6.0.10", "10.6.0.10", tt.change), client.DryRunAll), tt.want)
		})
	}
	t.Run("every field is required", func(t *testing.T) {
		err := create(t.Context(), api(t), object(t, "SpiderIP", "10.6.0.10", `spec: {}`), client.DryRunAll)
		for _, field := range []string{"address", "pool", "node", "network", "interface", "netns", "containerID", "pod"} {
			judge(t, err, "spec."+field+": Required value")
		}
	})
}

func TestTakeOver(t *testing.T) {
	c, ctx := agentOf(t, "n1"), t.Context()
	ip := held("10.60.0.1", "10.60.0.1")
	if err := create(ctx, c, ip); err != nil {
		t.Fatal(err)
	}
	if ip.Spec.Use != v2beta1.IPUsePod {
		t.Errorf("use is %q, want the default Pod", ip.Spec.Use)
	}
	if err := create(ctx, c, held("10.60.0.1", "10.60.0.1")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("claimed twice: %v", err)
	}
	stale := ip.DeepCopy()
	for _, tt := range []struct {
		name, want string
		change     func(*v2beta1.SpiderIP)
	}{
		{"new holder", "", func(ip *v2beta1.SpiderIP) {
			s := &ip.Spec
			s.Network, s.Interface, s.Netns, s.ContainerID = "vlan", "net1", "/run/netns/y", "c2"
			s.Pod = v2beta1.IPPod{Namespace: "default", Name: "web-1", UID: "u3"}
			s.Owner = &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u2"}
			s.Use, s.Reason = v2beta1.IPUseQuarantine, "x"
		}},
		{"kept for nobody", `is required for use Kept`, func(ip *v2beta1.SpiderIP) { ip.Spec.Use, ip.Spec.Owner = v2beta1.IPUseKept, nil }},
		{"kept", "", func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUseKept }},
		{"pool", `spec.pool: Invalid value: "b": is immutable and was a: release the address and claim it from the other pool`, func(ip *v2beta1.SpiderIP) { ip.Spec.Pool = "b" }},
		{"address", `the object is named 10.60.0.1 and holds 10.60.0.2`, func(ip *v2beta1.SpiderIP) { ip.Spec.Address = "10.60.0.2" }},
	} {
		changed := ip.DeepCopy()
		tt.change(changed)
		err := c.Update(ctx, changed)
		judge(t, err, tt.want)
		if err == nil {
			ip = changed
		}
	}
	if err := c.Update(ctx, stale); !apierrors.IsConflict(err) {
		t.Errorf("taken over by who has not seen the present holder: %v", err)
	}
	if err := c.Delete(ctx, ip); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(ip), ip); !apierrors.IsNotFound(err) {
		t.Errorf("after its release: %v", err)
	}
}

func TestNoFinalizers(t *testing.T) {
	lingering := held("10.60.1.1", "10.60.1.1", func(ip *v2beta1.SpiderIP) { ip.Finalizers = []string{"example.com/stay"} })
	judge(t, create(t.Context(), api(t), lingering, client.DryRunAll), "metadata.finalizers: must be empty")
}

func TestSelectableFields(t *testing.T) {
	c, ctx := api(t), t.Context()
	for i, at := range []struct {
		pool, node string
		use        v2beta1.IPUse
	}{{"left", "n1", ""}, {"left", "n2", v2beta1.IPUseKept}, {"right", "n1", v2beta1.IPUseQuarantine}} {
		address := fmt.Sprintf("10.60.2.%d", i)
		ip := held(address, address, fixed("u2"), func(ip *v2beta1.SpiderIP) { ip.Spec.Pool, ip.Spec.Node, ip.Spec.Use = at.pool, at.node, at.use })
		if err := create(ctx, c, ip); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = apiserver.DeleteSpiderIP(ctx, c, ip) }()
	}
	for _, tt := range []struct {
		fields client.MatchingFields
		want   string
	}{
		{client.MatchingFields{"spec.pool": "left"}, "10.60.2.0 10.60.2.1"},
		{client.MatchingFields{"spec.pool": "left", "spec.node": "n2"}, "10.60.2.1"},
		{client.MatchingFields{"spec.pool": "right", "spec.node": "n2"}, ""},
		{client.MatchingFields{"spec.pool": "left", "spec.use": "Kept"}, "10.60.2.1"},
		{client.MatchingFields{"spec.pool": "left", "spec.use": "Pod"}, "10.60.2.0"},
		{client.MatchingFields{"spec.use": "Quarantine"}, "10.60.2.2"},
	} {
		var metadata metav1.PartialObjectMetadataList // names alone are enough to know what is taken
		metadata.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderIPList"))
		if err := c.List(ctx, &metadata, tt.fields); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range metadata.Items {
			names = append(names, m.Name)
		}
		if diff := cmp.Diff(tt.want, strings.Join(names, " ")); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.fields, diff)
		}
	}
}
