package ctl

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// ownedBy makes a pod one of an owner.
func ownedBy(apiVersion, kind, name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, UID: "o1", Controller: ptr(true)}}
	}
}

// fixedEntry is an address of a pod, "" for the pod's UID meaning that of a pod before it.
func fixedEntry(address, poolName, owner, pod, uid string, use v2beta1.IPUse) *v2beta1.SpiderIP {
	kind, name, _ := strings.Cut(owner, " ")
	apiVersion := map[string]string{"StatefulSet": "apps/v1", "VirtualMachineInstance": "kubevirt.io/v1"}[kind]
	if uid == "" {
		uid = "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"
	}
	e := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: address}}
	e.Spec = v2beta1.IPSpec{Address: address, Pool: poolName, Node: "n2", Network: "main", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c1",
		Pod: v2beta1.IPPod{Namespace: "default", Name: pod, UID: uid}, Owner: &v2beta1.IPOwner{APIVersion: apiVersion, Kind: kind, Name: name, UID: "o0"}, Use: use}
	if use == v2beta1.IPUseKept {
		e.Spec.Reason = "until the end of the test"
	}
	return e
}

// endpointOf lists the IPv4 addresses that a pod gets again.
func endpointOf(name string, addresses ...string) *v2beta1.SpiderEndpoint {
	e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	e.Status.OwnerControllerType, e.Status.OwnerControllerName = "StatefulSet", "web"
	e.Status.Current.UID, e.Status.Current.Node = "u0", "n2"
	e.Status.Current.IPs = []v2beta1.EndpointInterface{}
	for _, a := range addresses {
		e.Status.Current.IPs = append(e.Status.Current.IPs, v2beta1.EndpointInterface{Interface: "eth0", IPv4: ptr(a + "/24")})
	}
	return e
}

// TestExplainFixed: what becomes of fixed addresses at the next start.
func TestExplainFixed(t *testing.T) {
	c := openConfigured(t)
	for name, edit := range map[string]func(*v2beta1.IPPoolSpec){
		"good":  func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.5.0.10-10.5.0.19"} },
		"tiny":  func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.5.0.20"} },
		"off":   func(s *v2beta1.IPPoolSpec) { s.IPs, s.Disable = []string{"10.5.0.30-10.5.0.39"}, ptr(true) },
		"spare": func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.5.0.40-10.5.0.49"} },
		"six":   func(s *v2beta1.IPPoolSpec) { s.Subnet, s.IPs = "fd05::/64", []string{"fd05::10"} },
	} {
		o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec.Subnet = "10.5.0.0/24"
		edit(&o.Spec)
		create(t, c, o)
	}
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
	reserved.Spec.IPs = []string{"10.5.0.19"}
	create(t, c, reserved)

	const web, vmi, kept, used = "StatefulSet web", "VirtualMachineInstance db", v2beta1.IPUseKept, v2beta1.IPUsePod
	uids := map[string]string{}
	pod := func(name, pools string, owner func(*corev1.Pod)) {
		p := newPod(name, map[string]string{v2beta1.AnnotationIPPool: pools}, owner)
		create(t, c, p)
		uids[name] = string(p.UID)
	}
	good, spare := `{"ipv4":["good"]}`, `{"ipv4":["off","spare"]}`
	sts := ownedBy("apps/v1", "StatefulSet", "web")
	for name, pools := range map[string]string{
		"web-0": good, "web-1": good, "web-2": good, "web-3": spare, "web-4": spare, "web-5": good, "web-6": good, "web-7": `{"ipv6":["six"]}`,
		"web-8": spare, "web-9": `{"ipv4":["tiny"]}`, "web-10": `nonsense`, "web-11": good, "web-12": spare,
	} {
		pod(name, pools, sts)
	}
	pod("virt-launcher-db-b", good, ownedBy("kubevirt.io/v1", "VirtualMachineInstance", "db"))
	pod("api", good, ownedBy("apps/v1", "ReplicaSet", "api-5d"))
	pod("alone", good, func(*corev1.Pod) {})
	create(t, c,
		fixedEntry("10.5.0.10", "good", web, "web-0", uids["web-0"], used),
		fixedEntry("10.5.0.11", "good", web, "web-1", "", kept), endpointOf("web-1", "10.5.0.11"),
		fixedEntry("10.5.0.12", "good", web, "web-2", "", used), endpointOf("web-2", "10.5.0.12"),
		fixedEntry("10.5.0.30", "off", web, "web-3", "", kept), endpointOf("web-3", "10.5.0.30"),
		fixedEntry("10.5.0.13", "good", web, "web-4", "", kept), endpointOf("web-4", "10.5.0.13"),
		fixedEntry("10.5.0.50", "good", web, "web-5", "", kept), endpointOf("web-5", "10.5.0.50"),
		fixedEntry("10.5.0.19", "good", web, "web-6", "", kept), endpointOf("web-6", "10.5.0.19"),
		fixedEntry("10.5.0.14", "good", web, "web-7", "", kept), endpointOf("web-7", "10.5.0.14"),
		fixedEntry("10.5.0.31", "off", web, "web-8", "", used), endpointOf("web-8", "10.5.0.31"),
		fixedEntry("10.5.0.20", "tiny", web, "web-9", "", kept), endpointOf("web-9", "10.5.0.20"),
		fixedEntry("10.5.0.15", "good", web, "web-10", "", kept), endpointOf("web-10", "10.5.0.15"),
		fixedEntry("10.5.0.16", "good", web, "web-11", "", kept),
		fixedEntry("10.5.0.32", "off", web, "web-12", uids["web-12"], used),
		fixedEntry("10.5.0.17", "good", vmi, "virt-launcher-db-a", "", used), endpointOf("db", "10.5.0.17"),
	)
	for _, tc := range []struct {
		pod  string
		says []string
		not  string
	}{
		{"web-0", []string{"holds 10.5.0.10 of pool good", "fixed: kept for pods of this name until StatefulSet web is deleted or wants no pod web-0\n",
			"1. pool good: 1 free of 9, 2 terminating, 5 kept for StatefulSet web, 1 more reserved\n", "  at its next start the pod gets 10.5.0.10 of pool good again\n"}, "the next address"},
		{"web-1", []string{"kept for it: 10.5.0.11 of pool good (until the end of the test)\n", "  the next address is 10.5.0.11 of pool good, which is kept for it\n"}, "comes from"},
		{"web-2", []string{"10.5.0.12 of pool good waits until the container of pod default/web-2 on node n2 is gone; an ADD fails until then\n"}, "comes from"},
		{"web-3", []string{"gets another address: pool off does not serve: it is disabled (spec.disable); the kept 10.5.0.30 is freed\n", "the next address comes from pool spare"}, ""},
		{"web-4", []string{"gets another address: pool good is not among the pod's; the kept 10.5.0.13 is freed\n", "the next address comes from pool spare"}, ""},
		{"web-5", []string{"gets another address: pool good does not have 10.5.0.50 any more; the kept 10.5.0.50 is freed\n", "the next address comes from pool good"}, ""},
		{"web-6", []string{"gets another address: 10.5.0.19 is reserved; the kept 10.5.0.19 is freed\n"}, ""},
		{"web-7", []string{"IPv4: no pool is named: the kept 10.5.0.14 is freed\n", "the next address comes from pool six"}, ""},
		{"web-8", []string{"pool off does not serve: it is disabled (spec.disable); 10.5.0.31 is freed when the container of pod default/web-8 on node n2 is gone\n"}, "kept for it"},
		{"web-9", []string{"1. pool tiny: 0 free of 1, 1 kept for StatefulSet web\n", "the next address is 10.5.0.20 of pool tiny"}, "an ADD waits"},
		{"web-10", []string{"kept for it: 10.5.0.15", "refused: wrong input"}, "freed"},
		{"web-11", []string{"gets another address: SpiderEndpoint default/web-11 does not list 10.5.0.16; the kept 10.5.0.16 is freed\n", "the next address comes from pool good"}, ""},
		{"web-12", []string{"holds 10.5.0.32", "gets another address: pool off does not serve: it is disabled (spec.disable); 10.5.0.32 is freed when this pod is gone\n"}, ""},
		{"virt-launcher-db-b", []string{"fixed: kept for the pods of this machine until VirtualMachineInstance db is deleted\n",
			"10.5.0.17 of pool good is with pod default/virt-launcher-db-a on node n2; the machine's next pod takes it over when its interface is made\n"}, "waits"},
		{"api", []string{"stateless: addresses are not fixed for pods of ReplicaSet api-5d (apps/v1)\n", "the next address comes from pool good"}, "fixed:"},
		{"alone", []string{"stateless: the pod has no controller that would make it again under its name\n"}, "fixed:"},
	} {
		t.Run(tc.pod, func(t *testing.T) { judge(t, c, tc.pod, tc.says, tc.not) })
	}
}

// TestExplainSwitchedOff: the rules are those of the installation.
func TestExplainSwitchedOff(t *testing.T) {
	c := open(t)
	node(t, c)
	for _, o := range []client.Object{&appsv1.DaemonSet{}, &corev1.ConfigMap{}} {
		if err := c.DeleteAllOf(t.Context(), o, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
	}
	installAgents(t, c, "enableStatefulSet: false\nfixedAddressKinds: [{apiVersion: apps.kruise.io/v1beta1, kind: StatefulSet}]\n")
	create(t, c, newPod("plain-0", nil, ownedBy("apps/v1", "StatefulSet", "plain")), newPod("more-0", nil, ownedBy("apps.kruise.io/v1beta1", "StatefulSet", "more")))
	judge(t, c, "plain-0", []string{"stateless: enableStatefulSet is false\n"}, "fixed:")
	judge(t, c, "more-0", []string{"fixed: kept for pods of this name until StatefulSet more is deleted or wants no pod more-0\n"}, "stateless")
}

// judge compares what is said of eth0 of a pod.
func judge(t *testing.T, c client.Client, pod string, says []string, not string) {
	t.Helper()
	var out strings.Builder
	if err := Explain(t.Context(), c, client.ObjectKey{Namespace: "default", Name: pod}, "eth0", &out); err != nil {
		t.Fatal(err)
	}
	for _, part := range says {
		if !strings.Contains(out.String(), part) {
			t.Errorf("does not say %q:\n%s", part, out.String())
		}
	}
	if not != "" && strings.Contains(out.String(), not) {
		t.Error(fmt.Sprintf("says %q:\n", not) + out.String())
	}
}
