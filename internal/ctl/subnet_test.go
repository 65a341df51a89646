package ctl

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// deployed makes a pod one of an application.
func deployed(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: app, UID: "d1", Controller: ptr(true)}}
	}
}

// TestExplainSubnets: the path from the annotation by way of SpiderSubnet and automatic pool to the address, and where it ends.
func TestExplainSubnets(t *testing.T) {
	c := openConfigured(t)
	for name, s := range map[string]v2beta1.SubnetSpec{
		"s4": {Subnet: "10.4.0.0/24", IPs: []string{"10.4.0.10-10.4.0.59"}}, "s6": {Subnet: "fd04::/64", IPs: []string{"fd04::10-fd04::19"}},
	} {
		o := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec = s
		create(t, c, o)
	}
	for _, p := range []struct {
		name, app, subnet, cidr string
		ips                     []string
		disabled                bool
	}{
		{"auto4-web", "web", "s4", "10.4.0.0/24", []string{"10.4.0.10-10.4.0.12"}, false}, {"auto6-web", "web", "s6", "fd04::/64", []string{"fd04::10"}, false},
		{"auto4-full", "full", "s4", "10.4.0.0/24", []string{"10.4.0.20"}, false}, {"auto4-early", "early", "s4", "10.4.0.0/24", []string{"10.4.0.30"}, true},
	} {
		o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: p.name, Labels: map[string]string{v2beta1.LabelOwnerSpiderSubnet: p.subnet}}}
		o.Spec.Subnet, o.Spec.IPs, o.Spec.Disable = p.cidr, p.ips, &p.disabled
		o.Spec.PodAffinity = pool.Application{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "default", Name: p.app}.Affinity()
		create(t, c, o)
	}
	asks := func(text string) map[string]string { return map[string]string{v2beta1.AnnotationSubnet: text} }
	create(t, c, newPod("both", asks(`{"ipv4":["s4"],"ipv6":["s6"]}`), deployed("web")), newPod("full", asks(`{"ipv4":["s4"]}`), deployed("full")),
		newPod("early", asks(`{"ipv4":["s4"]}`), deployed("early")), newPod("waits", asks(`{"ipv4":["s4"]}`), deployed("waits")),
		newPod("nowhere", asks(`{"ipv4":["s9"]}`), deployed("waits")), newPod("family", asks(`{"ipv4":["s6"]}`), deployed("waits")),
		newPod("alone", asks(`{"ipv4":["s4"]}`)), newPod("other", asks(`{"interface":"net1","ipv4":["s4"]}`), deployed("web")))
	e := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.4.0.20"}}
	e.Spec = v2beta1.IPSpec{Address: "10.4.0.20", Pool: "auto4-full", Node: "n1", Network: "main", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c1",
		Pod: v2beta1.IPPod{Namespace: "default", Name: "gone", UID: "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"}, Use: v2beta1.IPUsePod}
	create(t, c, e)
	for i, said := range []struct{ component, text string }{{"spiderpool-controller", "before"}, {"spiderpool-controller", "SpiderSubnet s4 has 3 free addresses, 5 are wanted"}, {"deployment-controller", "scaled up"}} {
		create(t, c, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("said", i)}, Type: corev1.EventTypeWarning, Reason: "NoAddresses", Message: said.text,
			InvolvedObject: corev1.ObjectReference{Kind: "Deployment", Namespace: "default", Name: "waits"}, Source: corev1.EventSource{Component: said.component},
			LastTimestamp: metav1.NewTime(time.Now().Add(time.Duration(i) * time.Minute))})
	}
	const source = "pools from Pod annotation ipam.spidernet.io/subnet\n"
	const notMade = "  the automatic pool of Deployment default/waits is not made yet\n"
	for _, tc := range []struct {
		pod  string
		says []string
		not  string
	}{
		{"both", []string{source + "IPv4: SpiderSubnet s4 has 50 addresses, 5 of them in pools\nIPv4, in the order in which pools are tried:\n" +
			"  1. pool auto4-web: 3 free of 3\n  the next address comes from pool auto4-web\nIPv6: SpiderSubnet s6 has 10 addresses, 1 of them in pools\n",
			"  the next address comes from pool auto6-web\n"}, "not made"},
		{"full", []string{"1. pool auto4-full: 0 free of 1", "an ADD waits for an address, and is then told: no IPPool available, interface eth0 gets no IPv4 address from SpiderSubnet s4",
			"'kubectl describe deployment -n default full' says why"}, "refused"},
		{"early", []string{"pool auto4-early does not serve: it is disabled (spec.disable)", "an ADD waits for an address"}, "refused"},
		{"waits", []string{notMade + "  the last Event of Deployment default/waits: NoAddresses: SpiderSubnet s4 has 3 free addresses, 5 are wanted\n  an ADD waits for an address, and is then told: no IPPool available, " +
			"interface eth0 gets no IPv4 address from SpiderSubnet s4 (Pod annotation ipam.spidernet.io/subnet): the controller has not made the automatic pool"}, "before"},
		{"nowhere", []string{"IPv4: SpiderSubnet s9 does not exist: make it, or correct the annotation\n" + notMade}, "scaled"},
		{"family", []string{"IPv4: SpiderSubnet s6 is an IPv6 subnet: name one of IPv4\n" + notMade}, "auto6"},
		{"alone", []string{"refused: wrong input, Pod annotation ipam.spidernet.io/subnet: SpiderSubnet feature doesn't support no-controller pod"}, "SpiderSubnet s4"},
		{"other", []string{"refused: wrong input, Pod annotation ipam.spidernet.io/subnet: interface eth0 must be specified"}, "auto4"},
	} {
		t.Run(tc.pod, func(t *testing.T) { judge(t, c, tc.pod, tc.says, tc.not) })
	}
	for _, o := range []client.Object{&appsv1.DaemonSet{}, &corev1.ConfigMap{}} {
		if err := c.DeleteAllOf(t.Context(), o, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
	}
	installAgents(t, c, "enableAutoPoolForApplication: false\n")
	judge(t, c, "both", []string{"refused: it's invalid to use", "annotation when Auto-Pool feature is disabled"}, "auto4")
}
