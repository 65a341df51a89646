package ctl

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

func open(t *testing.T) client.Client {
	t.Helper()
	server := apiserver.ForTest(t)
	apiserver.InstallProduct(t, server)
	scheme := apiclient.Scheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// installAgents makes what of the chart Explain looks at.
func installAgents(t *testing.T, c client.Client, conf string) {
	t.Helper()
	labels := map[string]string{"a": "b"}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agents"}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	set.Spec.Template.Labels = labels
	set.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: nodeName}, {Name: "MULTUS_CLUSTER_NETWORK", Value: "main"}}}}
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}}}
	create(t, c, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "conf"}, Data: map[string]string{"conf.yml": conf}}, set)
}

// node makes what pods need.
func node(t *testing.T, c client.Client) {
	t.Helper()
	for _, o := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a"}}},
	} {
		if err := c.Create(t.Context(), o); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
}

// create makes objects that go with the test: all tests share one API server, and run in any order.
func create(t *testing.T, c client.Client, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
	}
}

func newPod(name string, annotations map[string]string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations}}
	p.Spec.NodeName = "n1"
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for _, e := range edit {
		e(p)
	}
	return p
}

func TestExplain(t *testing.T) {
	c := open(t)
	node(t, c)
	explain := func(pod, ifname string) (string, error) {
		var out strings.Builder
		err := Explain(t.Context(), c, client.ObjectKey{Namespace: "default", Name: pod}, ifname, &out)
		return out.String(), err
	}
	create(t, c, newPod("web", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["full","half","none","z*"],"ipv6":["six"]}`}))
	if _, err := explain("web", "eth0"); err == nil || !strings.Contains(err.Error(), "is Spiderpool installed?") {
		t.Errorf("without an installation: %v", err)
	}
	installAgents(t, c, "enableIPv4: true\nenableIPv6: false\n")
	for _, p := range []struct {
		name string
		edit func(*v2beta1.IPPoolSpec)
	}{
		{"full", func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.1.0.10-10.1.0.11"} }},
		{"half", func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.1.0.20-10.1.0.23"} }},
		{"bound", func(s *v2beta1.IPPoolSpec) {
			s.IPs, s.NodeAffinity = []string{"10.1.0.30"}, &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "b"}}
		}},
	} {
		o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: p.name}}
		o.Spec.Subnet = "10.1.0.0/24"
		p.edit(&o.Spec)
		create(t, c, o)
	}
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
	reserved.Spec.IPs = []string{"10.1.0.23-10.1.0.24"}
	create(t, c, reserved,
		newPod("has", nil), newPod("host", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		newPod("bound", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["bound"]}`}),
		newPod("busy", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["full","bound"]}`}),
		newPod("plain", nil), newPod("crooked", map[string]string{v2beta1.AnnotationIPPool: `full`}),
		newPod("early", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["half"]}`}, func(p *corev1.Pod) { p.Spec.NodeName = "" }))
	has := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "has"}, has); err != nil {
		t.Fatal(err)
	}
	for i, address := range []string{"10.1.0.10", "10.1.0.11", "10.1.0.20"} {
		e := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: address}}
		e.Spec = v2beta1.IPSpec{Address: address, Pool: "full", Node: "n1", Network: "main", Interface: []string{"eth0", "net1", "net2"}[i], Netns: "/run/netns/x", ContainerID: "c1",
			Pod: v2beta1.IPPod{Namespace: "default", Name: "has", UID: string(has.UID)}, Use: v2beta1.IPUsePod}
		if i == 1 {
			e.Spec.Pod.Name, e.Spec.Pod.UID = "gone", "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"
		}
		if i == 2 {
			e.Spec.Pool = "half"
		}
		create(t, c, e)
	}
	for _, tc := range []struct {
		pod, ifname string
		says        []string
		not         string
	}{
		{"web", "eth0", []string{"pod default/web, interface eth0, node n1", "pools from Pod annotation ipam.spidernet.io/ippool", "IPv4, in the order",
			"1. pool full: 0 free of 2, 1 terminating\n", "2. pool half: 2 free of 3, 1 more reserved\n", "pool none does not serve: no such IPPool",
			"pool z* does not serve: no IPv4 IPPool has such a name", "the next address comes from pool half"}, "IPv6"},
		{"has", "eth0", []string{"holds 10.1.0.10 of pool full (container c1)"}, "10.1.0.20"},
		{"has", "net2", []string{"holds 10.1.0.20 of pool half"}, "10.1.0.10"},
		{"bound", "eth0", []string{`unmatched Node labels of IPPool: spec.nodeAffinity is "zone=b"`, "an ADD is refused: no IPPool available, interface eth0 gets no IPv4 address from [bound]"}, ""},
		{"busy", "eth0", []string{"an ADD waits for an address, and is then told: no IPPool available", "pool full: all IP addresses used out: 0 free of 2, 1 terminating"}, ""},
		{"plain", "eth0", []string{"refused: no IPPool available", "note: the CNI configuration is on the node"}, ""},
		{"crooked", "eth0", []string{"refused: wrong input, invalid format of Pod annotation 'ipam.spidernet.io/ippool'"}, ""},
		{"early", "eth0", []string{"node none yet", "the next address comes from pool half"}, ""},
	} {
		t.Run(fmt.Sprint(tc.pod, " ", tc.ifname), func(t *testing.T) {
			said, err := explain(tc.pod, tc.ifname)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range tc.says {
				if !strings.Contains(said, part) {
					t.Errorf("does not say %q:\n%s", part, said)
				}
			}
			if tc.not != "" && strings.Contains(said, tc.not) {
				t.Errorf("says %q:\n%s", tc.not, said)
			}
		})
	}
	for pod, part := range map[string]string{"nobody": `pods "nobody" not found`, "host": "uses the node's network"} {
		if _, err := explain(pod, "eth0"); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", pod, err)
		}
	}
	if n := count(t, c); n != 3 {
		t.Errorf("%d addresses are held, 3 were", n)
	}
}

func count(t *testing.T, c client.Client) int {
	t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

func TestParsePod(t *testing.T) {
	if key, err := ParsePod("shop/web-0"); err != nil || key.String() != "shop/web-0" {
		t.Errorf("%s, %v", key, err)
	}
	for _, text := range []string{"", "web", "/web", "shop/", "a/b/c"} {
		if _, err := ParsePod(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// TestExplainSharedAddresses: an address that is held in the name of another
// pool is not free.
func TestExplainSharedAddresses(t *testing.T) {
	c := open(t)
	node(t, c)
	if err := c.DeleteAllOf(t.Context(), &appsv1.DaemonSet{}, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteAllOf(t.Context(), &corev1.ConfigMap{}, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	installAgents(t, c, "enableIPv4: true\nenableIPv6: false\n")
	for _, name := range []string{"a", "b"} {
		o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec.Subnet, o.Spec.IPs = "10.2.0.0/24", []string{"10.2.0.10"}
		create(t, c, o)
	}
	create(t, c, newPod("shares", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["b"]}`}))
	e := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.2.0.10"}}
	e.Spec = v2beta1.IPSpec{Address: "10.2.0.10", Pool: "a", Node: "n2", Network: "main", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c1",
		Pod: v2beta1.IPPod{Namespace: "default", Name: "other", UID: "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01"}, Use: v2beta1.IPUsePod}
	create(t, c, e)
	var out strings.Builder
	if err := Explain(t.Context(), c, client.ObjectKey{Namespace: "default", Name: "shares"}, "eth0", &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "pool b: 0 free of 1") {
		t.Errorf("says:\n%s", out.String())
	}
}
