package admission_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/admission"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// manifest is an object as somebody keeps it in a file: with no more than it has
// there.
func manifest(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	kind, rest, _ := strings.Cut(text, " ")
	name, body, _ := strings.Cut(rest, " ")
	o := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSONStrict([]byte(body))
	if err == nil {
		err = json.Unmarshal(data, &o.Object)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
	o.SetName(name)
	return o
}

// files are manifests as administrators write them, and what is stored of spec
// and metadata beside what they wrote.
var files = []struct {
	name, file string
	around     []string
	spec       string // as it is stored
	labels     map[string]string
	finalizer  bool
	owner      string
}{
	{name: "pool", file: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.30, 10.6.0.10-10.6.0.20, 10.6.0.21], excludeIPs: [10.6.0.12, 10.6.0.11]}}`,
		spec:   `{"default":false,"disable":false,"excludeIPs":["10.6.0.12","10.6.0.11"],"ipVersion":4,"ips":["10.6.0.30","10.6.0.10-10.6.0.20","10.6.0.21"],"subnet":"10.6.0.0/16"}`,
		labels: map[string]string{v2beta1.LabelIPPoolCIDR: "10-6-0-0-16"}, finalizer: true},
	{name: "pool with labels and finalizers of its own", file: `SpiderIPPool a {metadata: {labels: {team: a}, finalizers: [example.com/a]}, spec: {subnet: "fd00:10::/64", ips: ["FD00:10:0:0::A"]}}`,
		spec:   `{"default":false,"disable":false,"ipVersion":6,"ips":["FD00:10:0:0::A"],"subnet":"fd00:10::/64"}`,
		labels: map[string]string{"team": "a", v2beta1.LabelIPPoolCIDR: "fd00-10---64"}, finalizer: true},
	{name: "pool whose CIDR is no label", file: `SpiderIPPool a {spec: {subnet: "::/64"}}`,
		spec: `{"default":false,"disable":false,"ipVersion":6,"subnet":"::/64"}`, finalizer: true},
	{name: "pool that inherits", around: []string{`SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.99], gateway: 10.6.0.1, routes: [{dst: 10.7.0.0/16, gw: 10.6.0.2}]}}`},
		file:   `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`,
		spec:   `{"default":false,"disable":false,"gateway":"10.6.0.1","ipVersion":4,"ips":["10.6.0.10"],"routes":[{"dst":"10.7.0.0/16","gw":"10.6.0.2"}],"subnet":"10.6.0.0/16"}`,
		labels: map[string]string{v2beta1.LabelIPPoolCIDR: "10-6-0-0-16", v2beta1.LabelOwnerSpiderSubnet: "net"}, finalizer: true, owner: "net"},
	{name: "pool with gateway and no routes of its own", around: []string{`SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.99], gateway: 10.6.0.1, routes: [{dst: 10.7.0.0/16, gw: 10.6.0.2}]}}`},
		file:   `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10], gateway: 10.6.0.3, routes: []}}`,
		spec:   `{"default":false,"disable":false,"gateway":"10.6.0.3","ipVersion":4,"ips":["10.6.0.10"],"routes":[],"subnet":"10.6.0.0/16"}`,
		labels: map[string]string{v2beta1.LabelIPPoolCIDR: "10-6-0-0-16", v2beta1.LabelOwnerSpiderSubnet: "net"}, finalizer: true, owner: "net"},
	{name: "subnet", file: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.30, 10.6.0.10], gateway: 10.6.0.1}}`,
		spec:   `{"gateway":"10.6.0.1","ipVersion":4,"ips":["10.6.0.30","10.6.0.10"],"subnet":"10.6.0.0/16"}`,
		labels: map[string]string{v2beta1.LabelSubnetCIDR: "10-6-0-0-16"}, finalizer: true},
	{name: "reservation", file: `SpiderReservedIP printers {spec: {ips: [10.6.0.30, 10.6.0.10]}}`, spec: `{"ipVersion":4,"ips":["10.6.0.30","10.6.0.10"]}`},
}

// TestSpecIsNotRewritten: what somebody wrote is stored as it is, only what is
// missing is added.
func TestSpecIsNotRewritten(t *testing.T) {
	w := newWorld(t)
	for _, tt := range files {
		t.Run(tt.name, func(t *testing.T) {
			for _, text := range tt.around {
				w.create(t, object(t, text))
			}
			o := manifest(t, tt.file)
			t.Cleanup(func() { w.unseen(func() { w.remove(t, o) }) })
			if err := w.user.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			spec, err := json.Marshal(o.Object["spec"])
			if err != nil {
				t.Fatal(err)
			}
			if string(spec) != tt.spec {
				t.Errorf("spec is\n\t%s\nwant\n\t%s", spec, tt.spec)
			}
			if diff := cmp.Diff(tt.labels, o.GetLabels()); diff != "" {
				t.Errorf("labels: %s", diff)
			}
			if has := strings.Contains(fmt.Sprint(o.GetFinalizers()), v2beta1.Finalizer); has != tt.finalizer {
				t.Errorf("finalizers are %v", o.GetFinalizers())
			}
			owner := ""
			if ref := metav1.GetControllerOf(o); ref != nil {
				owner = ref.Name
			}
			if owner != tt.owner {
				t.Errorf("owners are %v", o.GetOwnerReferences())
			}
		})
	}
}

// TestSameFileAgain: whoever applies a file that is stored changes nothing, on
// the server's side or on the client's, and tools that show what an apply would
// change show nothing.
func TestSameFileAgain(t *testing.T) {
	w := newWorld(t)
	for _, tt := range files {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			for _, text := range tt.around {
				w.create(t, object(t, text))
			}
			apply := func(options ...client.ApplyOption) *unstructured.Unstructured {
				t.Helper()
				o := manifest(t, tt.file)
				options = append(options, client.FieldOwner("gitops"))
				if err := w.user.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), options...); err != nil {
					t.Fatal(err)
				}
				return o
			}
			stored := apply()
			t.Cleanup(func() { w.unseen(func() { w.remove(t, stored) }) })
			for name, again := range map[string]*unstructured.Unstructured{
				"dry run": apply(client.DryRunAll), "apply": apply(), "apply by force": apply(client.ForceOwnership),
			} {
				if diff := cmp.Diff(stored.Object, again.Object); diff != "" {
					t.Errorf("%s changes: %s", name, diff)
				}
			}
			file, err := json.Marshal(manifest(t, tt.file).Object)
			if err != nil {
				t.Fatal(err)
			}
			live, err := json.Marshal(stored.Object)
			if err != nil {
				t.Fatal(err)
			}
			if patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(file, file, live); err != nil || string(patch) != "{}" && stored.GetFinalizers()[0] == v2beta1.Finalizer {
				t.Errorf("kubectl apply would send %s, %v", patch, err)
			}
			replaced := manifest(t, tt.file)
			replaced.SetResourceVersion(stored.GetResourceVersion())
			if err := w.user.Update(ctx, replaced); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(stored.Object["spec"], replaced.Object["spec"]); diff != "" {
				t.Errorf("replace changes: %s", diff)
			}
		})
	}
}

// TestWrongType: what cannot be read at all is refused by the field's name.
func TestWrongType(t *testing.T) {
	w := newWorld(t)
	err := w.user.Create(t.Context(), manifest(t, `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: 10.6.0.1}}`))
	if err == nil || !strings.Contains(err.Error(), `spec.ips: Invalid value: "string"`) {
		t.Errorf("a text for a list: %v", err)
	}
}

// TestInheritedOnce: who takes an inherited gateway out of a pool means it.
func TestInheritedOnce(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.create(t, object(t, network))
	w.create(t, object(t, office))
	p := &v2beta1.SpiderIPPool{}
	if err := w.user.Get(ctx, client.ObjectKey{Name: "office"}, p); err != nil || p.Spec.Gateway == nil {
		t.Fatalf("inherited %v, %v", p.Spec.Gateway, err)
	}
	p.Spec.Gateway = nil
	if err := w.user.Update(ctx, p); err != nil || p.Spec.Gateway != nil {
		t.Errorf("the gateway is %v, %v", p.Spec.Gateway, err)
	}
}

// TestOneApplyAfterTheOther: an edit sees what was stored the moment before.
func TestOneApplyAfterTheOther(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	for i := range 5 {
		subnet := object(t, fmt.Sprintf(`SpiderSubnet net-%d {spec: {subnet: 10.%d.0.0/16, ips: [10.%d.0.1-10.%d.0.9]}}`, i, i, i, i))
		w.create(t, subnet)
		w.create(t, object(t, fmt.Sprintf(`SpiderIPPool a-%d {spec: {subnet: 10.%d.0.0/16, ips: [10.%d.0.1]}}`, i, i, i)))
		err := w.user.Create(ctx, object(t, fmt.Sprintf(`SpiderIPPool b-%d {spec: {subnet: 10.%d.0.0/16, ips: [10.%d.0.1]}}`, i, i, i)))
		if err == nil || !strings.Contains(err.Error(), "overlap with IPPool a-") {
			t.Errorf("a pool like the one before: %v", err)
		}
	}
}

// TestNothingElseIsAsked: what agents and controllers write goes past webhooks.
func TestNothingElseIsAsked(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	o := object(t, office)
	w.create(t, o)
	before := w.hooks.calls.Load()
	w.create(t, object(t, held10))
	w.aside(t, ctx)
	if calls := w.hooks.calls.Load() - before; calls != 0 {
		t.Errorf("webhooks were called %d times", calls)
	}
}

// aside writes what the product writes by itself: an endpoint, the status of a
// pool, its metadata, and at last its finalizers.
func (w *world) aside(t *testing.T, ctx context.Context) {
	t.Helper()
	endpoint := &v2beta1.SpiderEndpoint{}
	endpoint.Name, endpoint.Namespace = "web-0", metav1.NamespaceDefault
	endpoint.Status.Current.IPs = []v2beta1.EndpointInterface{}
	w.create(t, endpoint)
	p := &v2beta1.SpiderIPPool{}
	if err := w.admin.Get(ctx, client.ObjectKey{Name: "office"}, p); err != nil {
		t.Fatal(err)
	}
	p.Status.TotalIPCount, p.Status.ObservedGeneration = new(int64(11)), p.Generation
	if err := w.admin.Status().Update(ctx, p); err != nil {
		t.Errorf("the status: %v", err)
	}
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, v2beta1.AnnotationReserved, "10.6.0.12")
	if err := w.admin.Update(ctx, p); err != nil {
		t.Errorf("an annotation: %v", err)
	}
	p.Finalizers = nil
	if err := w.admin.Update(ctx, p); err != nil {
		t.Errorf("the finalizer: %v", err)
	}
}

// TestWebhooksCannotBeReached: edits wait, and all that runs runs on.
func TestWebhooksCannotBeReached(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	w.create(t, object(t, office))
	w.create(t, object(t, `SpiderIPPool going {spec: {subnet: 10.7.0.0/16}}`))
	w.served.Stop()
	err := w.user.Create(ctx, object(t, `SpiderIPPool other {spec: {subnet: 10.8.0.0/16}}`))
	if err == nil || !strings.Contains(err.Error(), `failed calling webhook "spiderippool.spiderpool.spidernet.io"`) {
		t.Errorf("a pool is made: %v", err)
	}
	w.create(t, object(t, held10))
	w.aside(t, ctx)
	going := &v2beta1.SpiderIPPool{}
	if err := w.admin.Get(ctx, client.ObjectKey{Name: "going"}, going); err != nil {
		t.Fatal(err)
	}
	going.Finalizers = nil
	if err := w.admin.Update(ctx, going); err != nil {
		t.Errorf("the finalizer of a pool that is being deleted: %v", err)
	}
	if err := w.admin.Get(ctx, client.ObjectKey{Name: "going"}, going); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted pool: %v", err)
	}
	w.served.Start(t)
	w.create(t, object(t, `SpiderIPPool other {spec: {subnet: 10.8.0.0/16}}`))
}

// TestLongestPool: to compare the longest spec does not cost the API server more
// than it allows a webhook's conditions.
func TestLongestPool(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	p := &v2beta1.SpiderIPPool{}
	p.Name, p.Spec.Subnet = "long", "fd00:1000:2000:3000:4000:5000::/96"
	for i := range 1000 {
		address := fmt.Sprintf("fd00:1000:2000:3000:4000:5000:%04x:%04x", i, 1)
		p.Spec.IPs = append(p.Spec.IPs, address+"-"+address)
		p.Spec.NodeName = append(p.Spec.NodeName, strings.Repeat("n", 253))
		p.Spec.NamespaceName = append(p.Spec.NamespaceName, strings.Repeat("n", 63))
		p.Spec.MultusName = append(p.Spec.MultusName, strings.Repeat("n", 317))
	}
	p.Spec.ExcludeIPs = p.Spec.IPs
	for i := range 100 {
		p.Spec.Routes = append(p.Spec.Routes, v2beta1.Route{Dst: fmt.Sprintf("fd01:1000:2000:3000:4000:5000:6000:%04x/128", i), Gw: "fd00:1000:2000:3000:4000:5000:6000:7000"})
	}
	w.create(t, p)
	before := w.hooks.calls.Load()
	metav1.SetMetaDataLabel(&p.ObjectMeta, "a", "b")
	if err := w.user.Update(ctx, p); err != nil || w.hooks.calls.Load() != before {
		t.Errorf("a label: %v, %d calls", err, w.hooks.calls.Load()-before)
	}
	p.Spec.Disable = new(true)
	if err := w.user.Update(ctx, p); err != nil || w.hooks.calls.Load() == before {
		t.Errorf("spec: %v, %d calls", err, w.hooks.calls.Load()-before)
	}
}

// TestReads: what an edit needs and cannot be read refuses it, so that it is
// tried again; what it does not need is not read, or told to be missing.
func TestReads(t *testing.T) {
	server := apiserver.ForTest(t)
	apiserver.InstallProduct(t, server)
	w := &world{server: server, warnings: &warnings{}}
	w.admin = w.clientFor(t, "admin", nil)
	live, err := client.NewWithWatch(apiserver.ControllerConfig(t, server), client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	var broken string
	var reads []string
	failing := interceptor.NewClient(live, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			kind := strings.TrimSuffix(fmt.Sprintf("%T", list), "List")
			if m, ok := list.(*metav1.PartialObjectMetadataList); ok {
				kind = strings.TrimSuffix(m.Kind, "List")
			}
			kind = kind[strings.LastIndex(kind, ".")+1:]
			reads = append(reads, kind)
			if kind == broken {
				return errors.New("no answer")
			}
			return c.List(ctx, list, opts...)
		},
	})
	w.hooks = newHooks(failing)
	w.user = w.clientFor(t, "somebody", w.warnings)
	w.served = apiserver.ServeWebhooks(t, server, w.hooks.register)
	long := `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.99]}}`
	for _, tt := range []struct {
		name, before, after string
		broken, want, warn  string
		reads               string
	}{
		{name: "pools", after: office, broken: "SpiderIPPool", want: "spiderpool-controller cannot judge this edit now, try again: list the SpiderIPPools: no answer", reads: "SpiderSubnet SpiderIPPool"},
		{name: "subnets", after: office, broken: "SpiderSubnet", want: "try again: list the SpiderSubnets: no answer", reads: "SpiderSubnet"},
		{name: "holders", before: long, after: office, broken: "SpiderIP", want: "try again: list the SpiderIPs of pool office: no answer", reads: "SpiderSubnet SpiderIP"},
		{name: "nodes", after: office, broken: "Node", warn: "not looked at: list the Nodes: no answer", reads: "SpiderSubnet SpiderIPPool SpiderSubnet SpiderReservedIP Node"},
		{name: "reservations", after: office, broken: "SpiderReservedIP", warn: "not looked at: list the SpiderReservedIPs: no answer", reads: "SpiderSubnet SpiderIPPool SpiderSubnet SpiderReservedIP Node"},
		{name: "holders of what is reserved", after: `SpiderReservedIP all {spec: {ips: [10.0.0.0-10.255.255.255]}}`, broken: "SpiderIP", warn: "not looked at: list the SpiderIPs: no answer", reads: "SpiderIP"},
		{name: "disable", before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], disable: true}}`, reads: "SpiderSubnet"},
		{name: "a few addresses less", before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.19]}}`, reads: "SpiderSubnet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken = ""
			w.unseen(func() {
				if tt.before != "" {
					w.create(t, object(t, tt.before))
				}
			})
			broken, reads = tt.broken, nil
			err := w.edit(t, &rule{before: tt.before, after: tt.after})
			refusal := ""
			if err != nil {
				refusal = err.Error()
			}
			judge(t, "the refusal", refusal, tt.want)
			judge(t, "the warnings", strings.Join(w.warnings.take(), "\n"), tt.warn)
			if tt.want != "" && !apierrors.IsServiceUnavailable(err) {
				t.Errorf("%v does not say that it may be tried again", err)
			}
			if got := strings.Join(reads, " "); got != tt.reads {
				t.Errorf("read %q, want %q", got, tt.reads)
			}
		})
	}
}

// TestMetadataIsNotJudged: without the conditions of the webhooks too, nothing is
// read for an update that leaves spec as it is, and nothing refuses it.
func TestMetadataIsNotJudged(t *testing.T) {
	h := newHooks(nil) // whoever reads panics
	for _, tt := range []struct {
		name, before, after string
		allowed             bool
	}{
		{"a finalizer", `{"metadata":{"finalizers":["a"]},"spec":{"subnet":"10.6.0.0/16","ips":["10.6.0.1","10.6.0.1"]}}`, `{"metadata":{},"spec":{"ips":["10.6.0.1","10.6.0.1"],"subnet":"10.6.0.0/16"}}`, true},
		{"status", `{"spec":{"subnet":"?"}}`, `{"spec":{"subnet":"?"},"status":{"totalIPCount":1}}`, true},
		{"spec", `{"spec":{"subnet":"10.6.0.0/16"}}`, `{"spec":{"subnet":"10.6.0.0/16","ips":["10.6.0.1"]}}`, false},
	} {
		for _, path := range []string{"mutate", "validate"} {
			t.Run(tt.name+" "+path, func(t *testing.T) {
				review := admissionv1.AdmissionReview{
					TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
					Request: &admissionv1.AdmissionRequest{
						UID: "1", Operation: admissionv1.Update,
						OldObject: runtime.RawExtension{Raw: []byte(tt.before)}, Object: runtime.RawExtension{Raw: []byte(tt.after)},
					},
				}
				body, err := json.Marshal(review)
				if err != nil {
					t.Fatal(err)
				}
				req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(string(body)))
				req.Header.Set("Content-Type", "application/json")
				resp := httptest.NewRecorder()
				h.chosen.Load().served["/"+path+"-spiderpool-spidernet-io-v2beta1-spiderippool"].ServeHTTP(resp, req)
				if err := json.Unmarshal(resp.Body.Bytes(), &review); err != nil {
					t.Fatal(err)
				}
				if review.Response.Allowed != tt.allowed || len(review.Response.Patch) > 0 {
					t.Errorf("%+v", review.Response)
				}
			})
		}
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	ca := x509.NewCertPool()
	ca.AppendCertsFromPEM(w.served.CA)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca}}}
	for method, want := range map[string]int{http.MethodGet: 200, http.MethodPost: 405} {
		req, err := http.NewRequestWithContext(t.Context(), method, w.served.URL+admission.HealthPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", method, resp.Status, want)
		}
	}
}
