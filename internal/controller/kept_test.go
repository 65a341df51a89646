package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// keepAll are rules for all kinds of these tests: the role of the chart has no right to read the second, and there is no
// such kind as the third.
var keepAll = fixed.Rules{VirtualMachines: true, Kinds: []schema.GroupKind{
	{Group: "apps", Kind: "StatefulSet"}, {Group: "apps.kruise.io", Kind: "StatefulSet"}, {Group: "apps.example.com", Kind: "Unknown"},
}}

// ownerOf is the owner "web" of the pod "web-0".
func ownerOf(apiVersion, kind, pod string) v2beta1.IPOwner {
	name, _, _ := strings.Cut(pod, "-")
	return v2beta1.IPOwner{APIVersion: apiVersion, Kind: kind, Name: name, UID: "uid-" + name}
}

// keptEntryOf is an entry that is kept after a pod of a StatefulSet.
func keptEntryOf(address, pod string) Entry {
	e, _ := entryOf(keptIn("a", address, pod, ownerOf("apps/v1", "StatefulSet", pod)))
	return e
}

// keptIn is an entry that is kept after a pod, for an owner.
func keptIn(pool, address, pod string, owner v2beta1.IPOwner) *v2beta1.SpiderIP {
	ip := entryIn(pool, address)
	ip.Spec.Use, ip.Spec.Reason, ip.Spec.Owner = v2beta1.IPUseKept, "for the next", &owner
	ip.Spec.Pod.Name, ip.Spec.Pod.UID = pod, "last"
	return ip
}

// TestDecideOwned is the table of decideOwned.
func TestDecideOwned(t *testing.T) {
	set, kruise := ownerOf("apps/v1", "StatefulSet", "web-1"), ownerOf("apps.kruise.io/v1beta1", "StatefulSet", "web-1")
	vm := ownerOf("kubevirt.io/v1", "VirtualMachine", "web")
	object := func(replicas int64, changes ...func(*unstructured.Unstructured)) findings {
		o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": replicas}}}
		for _, change := range changes {
			change(o)
		}
		return findings{ownerRead: true, owner: o}
	}
	going := func(o *unstructured.Unstructured) { now := metav1.Now(); o.SetDeletionTimestamp(&now) }
	with := func(f findings, pod *corev1.Pod) findings { f.next = pod; return f }
	next := func(changes ...func(*corev1.Pod)) *corev1.Pod {
		p := nextPod("web-1", set)
		p.UID, p.Status.Phase = "next", corev1.PodRunning
		for _, change := range changes {
			change(p)
		}
		return p
	}
	gone := findings{ownerRead: true}
	for _, tt := range []struct {
		name    string
		owner   v2beta1.IPOwner
		found   findings
		rules   fixed.Rules
		release string
		why     string
		borne   bool
	}{
		{"the kind is not fixed any more", set, object(2), fixed.Rules{VirtualMachines: true}, reasonNotFixed, "pods of StatefulSet web have no fixed addresses any more", false},
		{"the kind is not fixed any more, and nothing was read", set, findings{}, fixed.Rules{}, reasonNotFixed, "no fixed addresses", false},
		{"the kind of another group is fixed", kruise, object(2), fixed.Rules{Kinds: keepAll.Kinds[:1]}, reasonNotFixed, "no fixed addresses", false},
		{"machines are not fixed any more", vm, gone, fixed.Rules{Kinds: keepAll.Kinds}, reasonNotFixed, "pods of VirtualMachine web", false},

		{name: "a container that the machine left may bear it", owner: vm, found: gone, rules: keepAll, borne: true},
		{name: "a container may bear it, and machines are not fixed any more", owner: vm, found: gone, rules: fixed.Rules{}, borne: true},

		{"nothing was read", set, findings{}, keepAll, "", "", false},
		{"only the pod was read", set, with(findings{}, next()), keepAll, "", "", false},

		{"the owner is gone", set, gone, keepAll, reasonOwnerGone, "StatefulSet web is gone", false},
		{"the owner is gone, its pod is not", set, with(gone, next()), keepAll, reasonOwnerGone, "StatefulSet web is gone", false},
		{"the owner is being deleted", set, object(2, going), keepAll, reasonOwnerGone, "StatefulSet web is being deleted", false},
		{"the machine is gone", vm, gone, keepAll, reasonOwnerGone, "VirtualMachine web is gone", false},
		{"the machine is being deleted", vm, object(0, going), keepAll, reasonOwnerGone, "VirtualMachine web is being deleted", false},

		{"scaled in", set, object(1), keepAll, reasonNotWanted, "StatefulSet web has 1 replicas and wants no pod web-1", false},
		{"scaled in to nothing", set, object(0), keepAll, reasonNotWanted, "wants no pod web-1", false},
		{"of another group, scaled in", kruise, object(1), keepAll, reasonNotWanted, "wants no pod web-1", false},

		{"a machine that is switched off", vm, object(0), keepAll, "", "", false},
		{"a machine with a pod of its name", vm, with(object(1), next()), keepAll, "", "", false},

		{"wanted", set, object(2), keepAll, "", "", false},
		{"an owner that was made anew", set, object(2, func(o *unstructured.Unstructured) { o.SetUID("other") }), keepAll, "", "", false},
		{"the next pod is not Running", set, with(object(2), next(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending })), keepAll, "", "", false},
		{"the next pod has failed", set, with(object(2), next(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })), keepAll, "", "", false},
		{"the next pod is being deleted", set, with(object(2), next(func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now })), keepAll, "", "", false},
		{"the pod is the last one", set, with(object(2), next(func(p *corev1.Pod) { p.UID = "last" })), keepAll, "", "", false},
		{"a pod without owner has the name", set, with(object(2), next(func(p *corev1.Pod) { p.OwnerReferences = nil })), keepAll, "", "", false},
		{"a pod of another owner has the name", set, with(object(2), nextRunning("web-1", kruise)), keepAll, "", "", false},
		{"another pod of the owner", set, with(object(2), next(func(p *corev1.Pod) { p.Name = "web-0" })), keepAll, "", "", false},
		{"the next pod is Running", set, with(object(2), next()), keepAll, reasonPodWithout, "pod shop/web-1 was made anew and runs without it", false},
		{"the next pod of an owner in another version is Running", set, with(object(2), nextRunning("web-1", ownerOf("apps/v2", "StatefulSet", "web-1"))), keepAll, reasonPodWithout, "runs without it", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, ok := entryOf(keptIn("a", "10.6.0.10", "web-1", tt.owner))
			if !ok || e.Use != v2beta1.IPUseKept {
				t.Fatal("the entry is not kept")
			}
			e.Borne = tt.borne
			for use, giveUp := range map[v2beta1.IPUse]action{v2beta1.IPUseKept: release, v2beta1.IPUseQuarantine: disown} {
				e.Use = use
				got := decideOwned(e, tt.found, tt.rules, collectAll)
				if got.reason != tt.release || (got.do == giveUp) != (tt.release != "") || !strings.Contains(got.why, tt.why) || (got.why == "") != (tt.why == "") ||
					got.proof() != (got.do == release) {
					t.Errorf("%s: %+v, want %q: %s", use, got, tt.release, tt.why)
				}
				if off := decideOwned(e, tt.found, tt.rules, config.GC{}); off != (verdict{}) {
					t.Errorf("%s, switched off: %+v", use, off)
				}
			}
		})
	}
}

// TestTrimmedEntry: what the watch brings and a list is cut down to are the same.
func TestTrimmedEntry(t *testing.T) {
	for _, use := range []v2beta1.IPUse{"", v2beta1.IPUsePod, v2beta1.IPUseQuarantine, v2beta1.IPUseKept} {
		ip := keptIn("a", "10.6.0.10", "web-0", ownerOf("apps/v1", "StatefulSet", "web-0"))
		ip.Annotations = map[string]string{v2beta1.AnnotationBearers: "one", "other": "long"}
		ip.Name, ip.UID, ip.ResourceVersion, ip.Spec.Use, ip.Spec.Conflict = "10.6.0.10", "u", "7", use, "02:00:5e:10:00:01"
		whole, _ := entryOf(ip)
		trimIP(ip)
		trimmed, _ := entryOf(ip)
		if diff := cmp.Diff(whole, trimmed, cmpopts.EquateComparable(netip.Addr{})); diff != "" || ip.Annotations["other"] != "" || ip.Spec.ContainerID != "" {
			t.Errorf("%+v (-want +got):\n%s", ip, diff)
		}
	}
}

// nextPod is a pod of an owner, as the API server takes it.
func nextPod(name string, owner v2beta1.IPOwner) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: types.UID(owner.UID), Controller: &yes},
	}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "localhost/c:1"}}
	return p
}

func nextRunning(name string, owner v2beta1.IPOwner) *corev1.Pod {
	p := nextPod(name, owner)
	p.UID, p.Status.Phase = "next", corev1.PodRunning
	return p
}

// keptTest are scans by hand, as the controller's account.
type keptTest struct {
	*cluster
	*keptAddresses
	requests *requests
	events   *record.FakeRecorder
	registry *prometheus.Registry
	// before is called before each request of a scan.
	before func(request string) error
}

func newKeptTest(t *testing.T) *keptTest {
	t.Helper()
	k := &keptTest{cluster: newCluster(t), requests: &requests{}, events: record.NewFakeRecorder(1000), registry: prometheus.NewRegistry()}
	clients := k.counted(k.requests, &k.before)
	a, err := newActor(Options{Live: clients.Live, Events: k.events, Metrics: k.registry, FixedAddresses: keepAll, GC: collectAll, keptScan: time.Hour,
		keptSettled: time.Hour, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, k.cluster, &turnover{})
	k.keptAddresses = newKeptAddresses(a, newUsage())
	if err == nil {
		_, err = envtest.InstallCRDs(k.server.Config(), envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{
			definition("kubevirt.io", "v1", "VirtualMachine"), definition("apps.kruise.io", "v1beta1", "StatefulSet"),
		}})
	}
	if err == nil {
		err = client.IgnoreAlreadyExists(k.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.tidy)
	k.usage.changed = func(string) {}
	return k
}

// tidy removes what newCluster does not.
func (k *keptTest) tidy() {
	ctx := context.Background()
	k.before = nil
	set := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "StatefulSet"}}
	vm := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"}}
	kruise := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps.kruise.io/v1beta1", "kind": "StatefulSet"}}
	for _, o := range []client.Object{set, vm, kruise, &v2beta1.SpiderEndpoint{}, &corev1.Pod{}} {
		if err := k.DeleteAllOf(ctx, o, client.InNamespace("shop"), client.GracePeriodSeconds(0)); err != nil {
			k.t.Error(err)
		}
	}
}

// definition is that of a kind of others.
func definition(group, version, kind string) *apiextensionsv1.CustomResourceDefinition {
	plural := strings.ToLower(kind) + "s"
	any := &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group, Annotations: map[string]string{"api-approved.kubernetes.io": "unapproved"}},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: version, Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: any}}},
		},
	}
}

// The paths of owners.
const (
	pathOfWeb       = "/apis/apps/v1/namespaces/shop/statefulsets/web"
	pathOfForbidden = "/apis/apps.kruise.io/v1beta1/namespaces/shop/statefulsets/forbidden"
	pathOfMachine   = "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/db"
)

// owner makes an owner of kept addresses.
func (k *keptTest) owner(apiVersion, kind, name string, replicas int64) {
	k.t.Helper()
	labels := map[string]any{"app": name}
	k.create(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": "shop", "name": name},
		"spec": map[string]any{
			"replicas": replicas, "selector": map[string]any{"matchLabels": labels}, "serviceName": name,
			"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
				"containers": []any{map[string]any{"name": "c", "image": "localhost/c:1"}},
			}},
		},
	}})
}

// keep holds an address that is kept after a pod.
func (k *keptTest) keep(address, pod string, owner v2beta1.IPOwner) *v2beta1.SpiderIP {
	k.t.Helper()
	ip := keptIn("a", address, pod, owner)
	if err := k.cluster.ledger.Claim(k.t.Context(), ip); err != nil {
		k.t.Fatal(err)
	}
	return ip
}

// endpoint makes that of a pod or machine.
func (k *keptTest) endpoint(name string, owners []metav1.OwnerReference, addresses ...string) {
	k.t.Helper()
	e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, OwnerReferences: owners}}
	e.Status.OwnerControllerType, e.Status.OwnerControllerName = "StatefulSet", "web"
	e.Status.Current = v2beta1.EndpointCurrent{UID: "last", Node: "n1", IPs: []v2beta1.EndpointInterface{}}
	for i, a := range addresses {
		text := a + "/16"
		e.Status.Current.IPs = append(e.Status.Current.IPs, v2beta1.EndpointInterface{Interface: fmt.Sprintf("eth%d", i), IPv4: &text})
	}
	k.create(e)
}

// scanNow scans what the ledger is now, and returns what was asked, without what kinds there are.
func (k *keptTest) scanNow() (asked []string) {
	k.t.Helper()
	var list v2beta1.SpiderIPList
	if err := k.List(k.t.Context(), &list); err != nil {
		k.t.Fatal(err)
	}
	var all []any
	for i := range list.Items {
		trimIP(&list.Items[i])
		all = append(all, &list.Items[i])
	}
	if err := k.usage.Replace(all, list.ResourceVersion); err != nil {
		k.t.Fatal(err)
	}
	k.requests.take()
	k.scan(k.t.Context())
	for _, line := range k.requests.take() {
		if !strings.Contains(line, " /") || strings.Contains(line, "/namespaces/") {
			asked = append(asked, line)
		}
	}
	slices.Sort(asked)
	return asked
}

// held is what the ledger has now, as "ADDRESS USE", and the endpoints.
func (k *keptTest) held() string {
	k.t.Helper()
	var list v2beta1.SpiderIPList
	var endpoints v2beta1.SpiderEndpointList
	if err := errors.Join(k.List(k.t.Context(), &list), k.List(k.t.Context(), &endpoints, client.InNamespace("shop"))); err != nil {
		k.t.Fatal(err)
	}
	var out []string
	for _, ip := range list.Items {
		out = append(out, fmt.Sprintf("%s %s", ip.Spec.Address, ip.Spec.Use))
	}
	for _, e := range endpoints.Items {
		out = append(out, e.Name)
	}
	return strings.Join(out, "\n")
}

// counts are the numbers of addresses that were freed, by reason, and of failures.
func (k *keptTest) counts() string {
	l := &leader{registry: k.registry}
	text := ""
	for _, reason := range []string{reasonNotFixed, reasonOwnerGone, reasonNotWanted, reasonPodWithout} {
		text += fmt.Sprintf("%s %v, ", reason, max(0, l.value(k.t, "spiderpool_controller_collected_total", "reason", reason, "action", "release", "kind", "proof")))
	}
	return text + fmt.Sprintf("failed %v", l.value(k.t, "spiderpool_ip_gc_failure_counts"))
}

func (k *keptTest) equal(what string, got, want any) {
	k.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		k.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestKeptForNobody: one scan over owners of all sorts, and what it asks.
func TestKeptForNobody(t *testing.T) {
	k := newKeptTest(t)
	k.pool("a", "10.6.0.10-10.6.0.99")
	k.owner("apps/v1", "StatefulSet", "web", 1)
	k.owner("apps.kruise.io/v1beta1", "StatefulSet", "forbidden", 0)
	k.owner("kubevirt.io/v1", "VirtualMachine", "db", 0)
	of := func(apiVersion, kind string) func(string, string) {
		return func(address, pod string) { k.keep(address, pod, ownerOf(apiVersion, kind, pod)) }
	}
	set, vm := of("apps/v1", "StatefulSet"), of("kubevirt.io/v1", "VirtualMachine")
	set("10.6.0.10", "web-0")
	set("10.6.0.11", "web-1")
	set("10.6.0.12", "web-2")
	set("10.6.0.13", "gone-0")
	of("apps.kruise.io/v1beta1", "StatefulSet")("10.6.0.14", "forbidden-0")
	of("apps.example.com/v1", "Unknown")("10.6.0.15", "what-0")
	of("apps/v1alpha7", "StatefulSet")("10.6.0.16", "unserved-0")
	of("apps.example.com/v1", "NotFixed")("10.6.0.17", "web-9")
	vm("10.6.0.18", "db")
	vm("10.6.0.19", "off")
	k.claim("a", "10.6.0.20")
	worn := keptIn("a", "10.6.0.21", "gone-1", ownerOf("apps/v1", "StatefulSet", "gone-1"))
	worn.Spec.Use = v2beta1.IPUsePod
	also := keptIn("a", "10.6.0.22", "web-2", ownerOf("apps/v1", "StatefulSet", "web-2"))
	also.Spec.Use, also.Spec.Interface = v2beta1.IPUsePod, "net1"
	for _, ip := range []*v2beta1.SpiderIP{worn, also} {
		if err := k.cluster.ledger.Claim(t.Context(), ip); err != nil {
			t.Fatal(err)
		}
	}
	k.endpoint("web-0", nil, "10.6.0.10")
	k.endpoint("web-1", nil, "10.6.0.11")
	k.endpoint("web-2", nil, "10.6.0.12", "10.6.0.22")
	k.endpoint("gone-0", nil, "10.6.0.13", "10.6.0.20") // another pod has the second by now
	k.endpoint("off", nil, "10.6.0.19")
	k.endpoint("web-9", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "web-9", UID: "u"}}, "10.6.0.17")

	k.equal("requests", k.scanNow(), []string{
		"DELETE namespaces/shop/spiderendpoints/gone-0", "DELETE namespaces/shop/spiderendpoints/off", "DELETE namespaces/shop/spiderendpoints/web-1",
		"DELETE spiderips/10.6.0.11", "DELETE spiderips/10.6.0.12", "DELETE spiderips/10.6.0.13", "DELETE spiderips/10.6.0.17", "DELETE spiderips/10.6.0.19",

		// Each owner once, but for that of which nothing can be kept any more.
		"GET " + pathOfForbidden, "GET /apis/apps/v1/namespaces/shop/statefulsets/gone", "GET " + pathOfWeb,
		"GET " + pathOfMachine, "GET /apis/kubevirt.io/v1/namespaces/shop/virtualmachines/off",

		"GET namespaces/shop/spiderendpoints/gone-0", "GET namespaces/shop/spiderendpoints/off", "GET namespaces/shop/spiderendpoints/web-1",
		"GET namespaces/shop/spiderendpoints/web-2", "GET namespaces/shop/spiderendpoints/web-9",

		// Those that an endpoint shows, before it is removed.
		"GET spiderips/10.6.0.11", "GET spiderips/10.6.0.12", "GET spiderips/10.6.0.13", "GET spiderips/10.6.0.19", "GET spiderips/10.6.0.20", "GET spiderips/10.6.0.22",
	})
	k.equal("held", k.held(), strings.Join([]string{
		"10.6.0.10 Kept", "10.6.0.14 Kept", "10.6.0.15 Kept", "10.6.0.16 Kept", "10.6.0.18 Kept", "10.6.0.20 Pod", "10.6.0.21 Pod", "10.6.0.22 Pod",
		"web-0", "web-2", "web-9",
	}, "\n"))
	k.equal("counts", k.counts(), "not_fixed 1, owner_gone 2, not_wanted 2, pod_without 0, failed 0")
	var events []string
	for len(k.events.Events) > 0 {
		events = append(events, <-k.events.Events)
	}
	slices.Sort(events)
	k.equal("an Event", events[0], "Normal KeptAddressReleased 10.6.0.11 was kept for StatefulSet web (pod shop/web-1) and is free: StatefulSet web has 1 replicas and wants no pod web-1")
	k.equal("Events", len(events), 5)
	k.equal("endpoints to look at again", len(k.endpoints), 0)

	k.equal("requests of the next scan", k.scanNow(), []string{"GET " + pathOfForbidden, "GET " + pathOfWeb, "GET " + pathOfMachine})
}

// TestQuarantineForNobody: of a node that is lost, what a StatefulSet wants no more belongs to nobody: any pod may have it.
func TestQuarantineForNobody(t *testing.T) {
	k := newKeptTest(t)
	k.pool("a", "10.6.0.10-10.6.0.99")
	k.owner("apps/v1", "StatefulSet", "web", 1)
	for address, pod := range map[string]string{"10.6.0.10": "web-0", "10.6.0.11": "web-1", "10.6.0.12": "gone-0"} {
		ip := keptIn("a", address, pod, ownerOf("apps/v1", "StatefulSet", pod))
		ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseQuarantine, "before"
		if err := k.cluster.ledger.Claim(t.Context(), ip); err != nil {
			t.Fatal(err)
		}
	}
	k.endpoint("web-1", nil, "10.6.0.11")
	const pathOfGone = "/apis/apps/v1/namespaces/shop/statefulsets/gone"
	k.equal("requests", k.scanNow(), []string{"GET " + pathOfGone, "GET " + pathOfWeb, "PATCH spiderips/10.6.0.11", "PATCH spiderips/10.6.0.12"})
	k.equal("requests of the next scan", k.scanNow(), []string{"GET " + pathOfWeb})
	k.equal("held", k.held(), "10.6.0.10 Quarantine\n10.6.0.11 Quarantine\n10.6.0.12 Quarantine\nweb-1")
	ip := &v2beta1.SpiderIP{}
	k.get("10.6.0.11", ip)
	const why = "StatefulSet web has 1 replicas and wants no pod web-1: any pod may have it once it is silent on the link"
	if ip.Spec.Owner != nil || ip.Spec.Reason != why || ip.Annotations[v2beta1.AnnotationWritten] == "" {
		t.Errorf("owner %v, reason %q", ip.Spec.Owner, ip.Spec.Reason)
	}
	told := []string{<-k.events.Events, <-k.events.Events}
	if want := "Normal AddressDisowned 10.6.0.11 of pod shop/web-1: " + why; !slices.Contains(told, want) {
		t.Errorf("Events %q, want %q", told, want)
	}
	l := &leader{registry: k.registry}
	k.equal("counted", l.value(t, "spiderpool_controller_collected_total", "reason", reasonNotWanted, "action", "disown", "kind", "policy"), 1.0)
}

// TestNothingKept: as long as nothing is kept nothing is asked.
func TestNothingKept(t *testing.T) {
	k := newKeptTest(t)
	ip := keptIn("a", "10.6.0.10", "gone-0", ownerOf("apps/v1", "StatefulSet", "gone-0"))
	ip.Spec.Use = v2beta1.IPUsePod
	if err := k.cluster.ledger.Claim(t.Context(), ip); err != nil {
		t.Fatal(err)
	}
	k.claim("a", "10.6.0.11")
	for range 3 {
		k.equal("requests", k.scanNow(), []string(nil))
	}
}

// TestKeptTakenOver: an entry that the next pod takes over between any two requests of a scan is that pod's, and so is its
// endpoint; no failure is counted.
func TestKeptTakenOver(t *testing.T) {
	for _, when := range []string{"GET " + pathOfWeb,
		"DELETE /apis/spiderpool.spidernet.io/v2beta1/spiderips/10.6.0.11"} {
		t.Run(when, func(t *testing.T) {
			k := newKeptTest(t)
			k.owner("apps/v1", "StatefulSet", "web", 1)
			ip := k.keep("10.6.0.11", "web-1", ownerOf("apps/v1", "StatefulSet", "web-1"))
			k.endpoint("web-1", nil, "10.6.0.11")
			agent, err := apiclient.New(apiserver.AgentConfig(t, k.server, "n2"))
			if err != nil {
				t.Fatal(err)
			}
			taken := false
			k.before = func(request string) error {
				if request == when && !taken {
					taken = true
					ip.Spec.Use, ip.Spec.Node, ip.Spec.Pod.UID, ip.Spec.ContainerID = v2beta1.IPUsePod, "n2", "next", "c2"
					return ledger.New(agent.Live).Update(context.Background(), ip)
				}
				return nil
			}
			k.scanNow()
			k.equal("held", k.held(), "10.6.0.11 Pod\nweb-1")
			k.equal("counts", k.counts(), "not_fixed 0, owner_gone 0, not_wanted 0, pod_without 0, failed 0")
			k.equal("taken over", taken, true)
			k.equal("requests of the next scan", k.scanNow(), []string(nil))
		})
	}
}

// TestKeptScaledOut: an owner that wants the pod again when it is read keeps its address, whatever it wanted before.
func TestKeptScaledOut(t *testing.T) {
	k := newKeptTest(t)
	k.owner("apps/v1", "StatefulSet", "web", 1)
	k.keep("10.6.0.11", "web-1", ownerOf("apps/v1", "StatefulSet", "web-1"))
	k.before = func(request string) error {
		if request != "GET "+pathOfWeb {
			return nil
		}
		set := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "StatefulSet",
			"metadata": map[string]any{"namespace": "shop", "name": "web"}}}
		return k.Patch(context.Background(), set, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":2}}`)))
	}
	k.equal("requests", k.scanNow(), []string{"GET " + pathOfWeb})
	k.equal("held", k.held(), "10.6.0.11 Kept")
}

// TestKeptReleaseFails: what could not be freed, or removed, is tried again.
func TestKeptReleaseFails(t *testing.T) {
	k := newKeptTest(t)
	k.keep("10.6.0.13", "gone-0", ownerOf("apps/v1", "StatefulSet", "gone-0"))
	k.endpoint("gone-0", nil, "10.6.0.13")
	fails := "DELETE /apis/spiderpool.spidernet.io/v2beta1/spiderips/"
	k.before = func(request string) error {
		if fails != "" && strings.HasPrefix(request, fails) {
			return errors.New("no answer")
		}
		return nil
	}
	k.scanNow()
	k.equal("held", k.held(), "10.6.0.13 Kept\ngone-0")
	k.equal("counts", k.counts(), "not_fixed 0, owner_gone 0, not_wanted 0, pod_without 0, failed 1")
	fails = "GET /apis/spiderpool.spidernet.io/v2beta1/namespaces/shop/spiderendpoints/"
	k.scanNow()
	k.equal("held", k.held(), "gone-0")
	fails = ""
	k.scanNow() // nothing is kept any more
	k.equal("held", k.held(), "")
	k.equal("counts", k.counts(), "not_fixed 0, owner_gone 1, not_wanted 0, pod_without 0, failed 1")
}

// TestKeptReleaseWithoutAnswer: the endpoint goes also if the address was freed and nobody said so.
func TestKeptReleaseWithoutAnswer(t *testing.T) {
	k := newKeptTest(t)
	ip := k.keep("10.6.0.13", "gone-0", ownerOf("apps/v1", "StatefulSet", "gone-0"))
	k.endpoint("gone-0", nil, "10.6.0.13")
	k.before = func(request string) error {
		if request == "DELETE /apis/spiderpool.spidernet.io/v2beta1/spiderips/10.6.0.13" {
			return errors.Join(k.Delete(context.Background(), ip), errors.New("no answer"))
		}
		return nil
	}
	k.scanNow()
	k.equal("held", k.held(), "gone-0")
	k.scanNow()
	k.equal("held", k.held(), "")
}

// TestKeptPodRunsWithout: the pod is looked at only when an address was seen kept twice, with enough time in between, and then
// once for all addresses of the pod.
func TestKeptPodRunsWithout(t *testing.T) {
	k := newKeptTest(t)
	k.owner("apps/v1", "StatefulSet", "web", 3)
	owner := ownerOf("apps/v1", "StatefulSet", "web-0")
	for address, pod := range map[string]string{"10.6.0.10": "web-0", "10.6.0.11": "web-0", "10.6.0.12": "web-1", "10.6.0.13": "web-2"} {
		k.keep(address, pod, owner)
	}
	for pod, phase := range map[string]corev1.PodPhase{"web-0": corev1.PodRunning, "web-1": corev1.PodPending} {
		p := nextPod(pod, owner)
		k.create(p)
		p.Status.Phase = phase
		if err := k.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	const ofOwner = "GET " + pathOfWeb
	for range 3 { // within the hour
		k.equal("requests before it has settled", k.scanNow(), []string{ofOwner})
	}
	k.keptSettled = 0
	k.equal("requests after it has settled", k.scanNow(), []string{
		"DELETE spiderips/10.6.0.10", "DELETE spiderips/10.6.0.11",
		"GET /api/v1/namespaces/shop/pods/web-0", "GET /api/v1/namespaces/shop/pods/web-1", "GET /api/v1/namespaces/shop/pods/web-2", ofOwner,
		"GET namespaces/shop/spiderendpoints/web-0",
	})
	k.equal("held", k.held(), "10.6.0.12 Kept\n10.6.0.13 Kept")
	k.equal("counts", k.counts(), "not_fixed 0, owner_gone 0, not_wanted 0, pod_without 2, failed 0")
	k.keptSettled = time.Hour
	k.equal("requests of the next scan", k.scanNow(), []string{ofOwner})
}

// TestOnlyTheLeaderReleases: a replica that does not lead frees nothing and asks for nobody; once it leads it does.
func TestOnlyTheLeaderReleases(t *testing.T) {
	k := newKeptTest(t)
	k.pool("a", "10.6.0.10-10.6.0.19")
	k.keep("10.6.0.13", "gone-0", ownerOf("apps/v1", "StatefulSet", "gone-0"))
	admin, err := kubernetes.NewForConfig(k.server.Config())
	if err != nil {
		t.Fatal(err)
	}
	const lease = "spiderpool-controller-leases"
	leases := admin.CoordinationV1().Leases("kube-system")
	now := metav1.NowMicro()
	if _, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: lease},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("another"), LeaseDurationSeconds: ptr.To(int32(3600)), AcquireTime: &now, RenewTime: &now}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = leases.Delete(context.Background(), lease, metav1.DeleteOptions{}) })
	l := leadAs(t, apiserver.ControllerConfig(t, k.server), func(m *manager.Options, o *Options) {
		m.LeaderElection, m.LeaderElectionID, m.LeaderElectionNamespace = true, lease, "kube-system"
		m.LeaseDuration, m.RenewDeadline, m.RetryPeriod = ptr.To(15*time.Second), ptr.To(10*time.Second), ptr.To(50*time.Millisecond)
		o.keptScan, o.GC = 10*time.Millisecond, collectAll
	})
	tries := func() (n int) {
		l.requests.mu.Lock()
		defer l.requests.mu.Unlock()
		for _, line := range l.requests.list {
			if !strings.Contains(line, "/leases") {
				t.Errorf("it does not lead, and asks %s", line)
				continue
			}
			n++
		}
		return n
	}
	k.eventually("it has tried to lead", func() bool { return tries() > 20 })
	k.equal("held", k.held(), "10.6.0.13 Kept")
	if err := leases.Delete(t.Context(), lease, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	k.eventually("it leads", func() bool { return k.held() == "" })
	if e := <-l.events.Events; !strings.HasPrefix(e, "Normal KeptAddressReleased 10.6.0.13 was kept for StatefulSet gone") {
		t.Error(e)
	}
	k.eventually("it is counted", func() bool {
		return l.value(t, "spiderpool_controller_collected_total", "reason", reasonOwnerGone) == 1
	})
	l.stop()
}
