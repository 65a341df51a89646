package ctl

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// openConfigured is open with the node of the pods and agents that have the plainest configuration, and no others.
func openConfigured(t *testing.T) client.WithWatch {
	t.Helper()
	c := open(t)
	node(t, c)
	for _, o := range []client.Object{&appsv1.DaemonSet{}, &corev1.ConfigMap{}} {
		if err := c.DeleteAllOf(t.Context(), o, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
	}
	installAgents(t, c, "enableIPv4: true\nenableIPv6: true\n")
	return c
}

func open(t *testing.T) client.WithWatch {
	t.Helper()
	server := apiserver.ForTest(t)
	apiserver.InstallProduct(t, server)
	scheme := apiclient.Scheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(server.Config(), client.Options{Scheme: scheme})
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
			ctx := context.Background()
			var err error
			if ip, ok := o.(*v2beta1.SpiderIP); ok {
				err = apiserver.DeleteSpiderIP(ctx, c, ip)
			} else {
				err = c.Delete(ctx, o, client.GracePeriodSeconds(0))
			}
			if client.IgnoreNotFound(err) != nil {
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
			"1. pool full: 0 free of 2, 1 terminating; held by default/has on node n1 (running)\n", "2. pool half: 2 free of 3, 1 more reserved\n", "pool none does not serve: no such IPPool",
			"pool z* does not serve: no IPv4 IPPool has such a name", "the next address comes from pool half"}, "IPv6"},
		{"has", "eth0", []string{"holds 10.1.0.10 of pool full (container c1)"}, "10.1.0.20"},
		{"has", "net2", []string{"holds 10.1.0.20 of pool half"}, "10.1.0.10"},
		{"bound", "eth0", []string{`unmatched Node labels of IPPool bound: spec.nodeAffinity is "zone=b"`, "an ADD is refused: no IPPool available, interface eth0 gets no IPv4 address from [bound]"}, ""},
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

// TestExplainCases: what is particular about a pod, its network or its pools.
func TestExplainCases(t *testing.T) {
	c := openConfigured(t)
	v4 := func(names string) map[string]string {
		return map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":[` + names + `]}`}
	}
	with := func(m map[string]string, key, text string) map[string]string {
		m[key] = text
		return m
	}
	for name, edit := range map[string]func(*v2beta1.IPPoolSpec){
		"off":  func(s *v2beta1.IPPoolSpec) { s.IPs, s.Disable = []string{"10.3.0.10"}, ptr(true) },
		"one":  func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.3.0.20"} },
		"free": func(s *v2beta1.IPPoolSpec) { s.IPs = []string{"10.3.0.30"} },
		"routed": func(s *v2beta1.IPPoolSpec) {
			s.IPs, s.Gateway, s.Routes = []string{"10.3.0.40"}, ptr("10.3.0.1"), []v2beta1.Route{{Dst: "10.20.1.0/16", Gw: "10.3.0.1"}}
		},
		"six": func(s *v2beta1.IPPoolSpec) {
			s.Subnet, s.IPs, s.Gateway = "fd03::/64", []string{"fd03::10"}, ptr("fe80::1")
		},
	} {
		o := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec.Subnet = "10.3.0.0/24"
		edit(&o.Spec)
		create(t, c, o)
	}
	const hash = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	more := v2beta1.AnnotationMultusNetworks
	create(t, c,
		newPod("disabled", v4(`"off"`)), newPod("done", v4(`"free"`)),
		newPod("parent", with(map[string]string{}, more, "default/strict")), newPod("conf", with(map[string]string{}, more, "default/named")),
		newPod("static", map[string]string{corev1.MirrorPodAnnotationKey: hash}),
		newPod("old", v4(`"one"`), deployed("web")), newPod("new", v4(`"one"`), deployed("web")),
		newPod("two", with(v4(`"routed"`), more, "a,b@data0")),
		newPod("clean", map[string]string{more: "a", v2beta1.AnnotationIPPools: `[{"interface":"eth0","ipv4":["routed"],"cleangateway":true},{"interface":"net1","ipv4":["free"]}]`}),
		newPod("routes", map[string]string{v2beta1.AnnotationIPPool: `{"ipv4":["routed"],"ipv6":["six"]}`, more: "a",
			v2beta1.AnnotationRoutes: `[{"dst":"10.9.1.0/16","gw":"10.3.0.9"},{"dst":"10.8.0.0/16","gw":"10.99.0.1"},{"dst":"fd09::/64","gw":"fe80::9"}]`}))
	pod := func(name string) *corev1.Pod {
		p := &corev1.Pod{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	done := pod("done")
	done.Status.Phase = corev1.PodSucceeded
	if err := c.Status().Update(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	for address, h := range map[string]struct{ pod, uid string }{"10.3.0.20": {"old", string(pod("old").UID)}, "10.3.0.50": {"static", hash}} {
		e := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: address}}
		e.Spec = v2beta1.IPSpec{Address: address, Pool: "one", Node: "n2", Network: "main", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c9",
			Pod: v2beta1.IPPod{Namespace: "default", Name: h.pod, UID: h.uid}, Use: v2beta1.IPUsePod}
		create(t, c, e)
	}
	nads := networks(c, map[string]string{
		"strict": `{"name":"strict","type":"macvlan","ipam":{"type":"spiderpool","match_master_subnet":true,"default_ipv4_ippool":["free"]}}`,
		"named":  `{"name":"named","plugins":[{"type":"macvlan","ipam":{"type":"spiderpool","default_ipv4_ippool":["one","free"]}}]}`,
	})
	for _, tc := range []struct {
		pod, ifname string
		says        []string
		not         string
	}{
		{"disabled", "eth0", []string{"pool off does not serve: it is disabled (spec.disable)", "an ADD is refused: no IPPool available"}, ""},
		{"done", "eth0", []string{"gets no address: it has finished (Succeeded)"}, "pool free"},
		{"parent", "net1", []string{"pools from the CNI configuration", "note: match_master_subnet is set", "the next address comes from pool free"}, ""},
		{"conf", "net1", []string{"pools from the CNI configuration", "1. pool one: 0 free of 1", "2. pool free: 1 free of 1", "the next address comes from pool free"}, "note: the CNI configuration is on the node"},
		{"static", "eth0", []string{"holds 10.3.0.50 of pool one (container c9)"}, ""},
		{"new", "eth0", []string{"1. pool one: 0 free of 1; held by default/old on node n2 (running, of the same Deployment web, which keeps it until the new pod is ready", "maxSurge: 0"}, ""},
		{"two", "eth0", []string{"warning: spec.routes[0].dst: 10.20.1.0/16 has host bits and counts as 10.20.0.0/16",
			"note: this interface gets an IPv4 default route by 10.3.0.1, of pool routed; the pod has eth0, net1, data0, and one default route is enough", `"cleangateway":true`}, ""},
		{"two", "data0", []string{"the next address comes from pool routed", "default route by 10.3.0.1"}, ""},
		{"two", "data7", []string{"note: nothing says that the pod has an interface data7, it has eth0, net1, data0"}, "pool routed"},
		{"two", "net7", []string{"note: nothing says that the pod has an interface net7", "defaultNetworks", "the next address comes from pool routed"}, ""},
		{"clean", "eth0", []string{"the next address comes from pool routed"}, "default route"},
		{"routes", "eth0", []string{"warning: Pod annotation ipam.spidernet.io/routes, route 1: 10.9.1.0/16 has host bits", "this interface does not get the pod's route to 10.8.0.0/16: the next hop 10.99.0.1"}, "fd09::"},
		{"routes", "net1", []string{"this interface does not get the pod's route to fd09::/64: the next hop fe80::9"}, ""},
	} {
		t.Run(fmt.Sprint(tc.pod, " ", tc.ifname), func(t *testing.T) {
			var out strings.Builder
			if err := Explain(t.Context(), nads, client.ObjectKey{Namespace: "default", Name: tc.pod}, tc.ifname, &out); err != nil {
				t.Fatal(err)
			}
			for _, part := range tc.says {
				if !strings.Contains(out.String(), part) {
					t.Errorf("does not say %q:\n%s", part, out.String())
				}
			}
			if tc.not != "" && strings.Contains(out.String(), tc.not) {
				t.Errorf("says %q:\n%s", tc.not, out.String())
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// networks is a client that also knows some NetworkAttachmentDefinitions, by name.
func networks(c client.WithWatch, confs map[string]string) client.Client {
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if u, ok := o.(*unstructured.Unstructured); ok && confs[key.Name] != "" {
				return unstructured.SetNestedField(u.Object, confs[key.Name], "spec", "config")
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
}
