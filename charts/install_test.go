package charts_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// cluster is a client of an API server, how it is reached, and the flags that lead helm to it.
func cluster(t *testing.T) (client.Client, *rest.Config, []string) {
	t.Helper()
	s := apiserver.ForTest(t)
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v2beta1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(s.Config(), client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	return c, s.Config(), []string{"--kubeconfig=" + s.Kubeconfig(), "--namespace=net"}
}

// TestLife installs an older chart, upgrades it, removes it and installs it again under another name: pools and addresses
// survive all of it, and the CRDs are upgraded.
func TestLife(t *testing.T) {
	t.Parallel()
	c, api, flags := cluster(t)
	ctx := t.Context()
	run := func(args ...string) string {
		t.Helper()
		out, err := helm(t, append(args, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}

	notes := run("install", "sp", olderChart(t), "--create-namespace")
	// No node is there to run the controller. Until it runs, what its webhooks judge waits for it.
	for _, o := range []client.Object{&admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}} {
		o.SetName("spiderpool-controller")
		if err := c.Delete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	pool := poolOf(t, notes)
	eventually(t, "the pool of the notes is accepted", func() error { return c.Create(ctx, pool, client.FieldValidation("Strict")) })
	ip := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "172.20.0.10"}, Spec: v2beta1.IPSpec{
		Address: "172.20.0.10", Pool: pool.GetName(), Node: "n1", Interface: "eth0", ContainerID: "c1", Pod: v2beta1.IPPod{Namespace: "a", Name: "b", UID: "c"},
	}}
	if err := c.Create(ctx, ip); err != nil {
		t.Fatal(err)
	}
	judgeRole(t, c)
	judgePriority(t, c, api)
	judgeFence(t, api)

	before := columns(t, c)
	// Helm takes the defaults of the chart before, which has not got what came later, and does so again.
	run("upgrade", "sp", "spiderpool", "--reuse-values", "--set=feature.enableIPv6=false")
	run("upgrade", "sp", "spiderpool", "--reuse-values", "--set=spiderpoolAgent.podLabels.a=b")
	after := columns(t, c)
	var config corev1.ConfigMap
	var agents appsv1.DaemonSet
	if err := c.Get(ctx, client.ObjectKey{Namespace: "net", Name: "spiderpool-conf"}, &config); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(config.Data["conf.yml"], "enableIPv6: false") {
		t.Errorf("after the upgrade: %s", config.Data["conf.yml"])
	}

	if err := c.Get(ctx, client.ObjectKey{Namespace: "net", Name: "spiderpool-agent"}, &agents); err != nil {
		t.Fatal(err)
	}
	if agents.Spec.Template.Labels["a"] != "b" {
		t.Errorf("after the second upgrade the pods have the labels %v", agents.Spec.Template.Labels)
	}
	if before == after {
		t.Errorf("the CRD has %d columns before and after the upgrade", after)
	}

	run("uninstall", "sp")
	if err := c.Get(ctx, client.ObjectKey{Namespace: "net", Name: "spiderpool-conf"}, &config); !apierrors.IsNotFound(err) {
		t.Errorf("the ConfigMap after removal: %v", err)
	}
	for _, o := range []client.Object{pool, ip} {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			t.Errorf("after removal: %v", err)
		}
	}
	if _, err := helm(t, append([]string{"install", "other", "spiderpool"}, flags...)...); err == nil || !strings.Contains(err.Error(), "CustomResourceDefinition") {
		t.Errorf("another release takes the CRDs that are left without being told: %v", err)
	}
	run("install", "other", "spiderpool", "--take-ownership")
}

// olderChart is the chart with the values of its first release, and with a CRD that lacks what today's has.
func olderChart(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spiderpool")
	if err := os.CopyFS(dir, os.DirFS("spiderpool")); err != nil {
		t.Fatal(err)
	}
	values, err := os.ReadFile(firstValues)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "values.yaml"), values, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "files/generated/crds/spiderpool.spidernet.io_spiderips.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		t.Fatal(err)
	}
	crd.Spec.Versions[0].AdditionalPrinterColumns = nil
	if data, err = yaml.Marshal(crd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// columns is how many columns kubectl shows of SpiderIPs beside their name.
func columns(t *testing.T, c client.Client) int {
	t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	if err := c.Get(t.Context(), client.ObjectKey{Name: "spiderips.spiderpool.spidernet.io"}, &crd); err != nil {
		t.Fatal(err)
	}
	return len(crd.Spec.Versions[0].AdditionalPrinterColumns)
}

// poolOf reads the pool that the notes of an installation propose.
func poolOf(t *testing.T, notes string) *unstructured.Unstructured {
	t.Helper()
	_, rest, _ := strings.Cut(notes, "<<POOL\n")
	text, _, found := strings.Cut(rest, "  POOL\n")
	if !found {
		t.Fatalf("no pool in the notes:\n%s", notes)
	}
	pool := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict([]byte(text), &pool.Object); err != nil {
		t.Fatal(err)
	}
	return pool
}

// judgeRole asks the API server what it lets the agent's ServiceAccount do.
func judgeRole(t *testing.T, c client.Client) {
	t.Helper()
	const ours = "spiderpool.spidernet.io"
	for _, tt := range []struct {
		group, resource, subresource, verb string
		want                               bool
	}{
		{ours, "spiderips", "", "create", true},
		{ours, "spiderips", "", "delete", true},
		{ours, "spiderips", "", "watch", false},
		{ours, "spiderips", "", "deletecollection", false},
		{ours, "spiderippools", "", "watch", true},
		{ours, "spiderippools", "", "update", false},
		{ours, "spiderippools", "status", "update", false},
		{ours, "spiderendpoints", "", "update", true},
		{ours, "spiderendpoints", "", "delete", true},
		{ours, "spiderendpoints", "", "deletecollection", false},
		{"", "pods", "", "watch", true},
		{"", "pods", "", "delete", false},
		{"", "secrets", "", "get", false},
		{"apps", "statefulsets", "", "get", true},
		{"apps", "statefulsets", "", "list", false},
		{"kubevirt.io", "virtualmachines", "", "get", true},
		{"kubevirt.io", "virtualmachineinstances", "", "watch", false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:net:spiderpool-agent",
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:net", "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: tt.group, Resource: tt.resource, Subresource: tt.subresource, Verb: tt.verb},
		}}
		if err := c.Create(t.Context(), review); err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != tt.want {
			t.Errorf("%s %s %s/%s: allowed %v, want %v", tt.verb, tt.group, tt.resource, tt.subresource, review.Status.Allowed, tt.want)
		}
	}
}

// judgePriority asks the API server which requests have the seats of claims: its answers name the FlowSchema and the
// priority level that served them.
func judgePriority(t *testing.T, c client.Client, config *rest.Config) {
	t.Helper()
	seats := func(name string) servedBy {
		var schema flowcontrolv1.FlowSchema
		var level flowcontrolv1.PriorityLevelConfiguration
		for _, o := range []client.Object{&schema, &level} {
			if err := c.Get(t.Context(), client.ObjectKey{Name: name}, o); err != nil {
				t.Fatal(err)
			}
		}
		return servedBy{string(schema.UID), string(level.UID)}
	}
	const agent, ours = "system:serviceaccount:net:spiderpool-agent", "/apis/spiderpool.spidernet.io/v2beta1/"
	claims := seats("spiderpool-claims")
	eventually(t, "what is counted has seats of its own", func() error {
		status := seats("spiderpool-status")
		if got := whoServes(t, config, "system:serviceaccount:net:spiderpool-controller", http.MethodPut, ours+"spiderippools/a/status"); got != status {
			return fmt.Errorf("served by %v, want %v", got, status)
		}
		return nil
	})
	eventually(t, "claims have seats of their own", func() error {
		if got := whoServes(t, config, agent, http.MethodPost, ours+"spiderips"); got != claims {
			return fmt.Errorf("served by %v, want %v", got, claims)
		}
		return nil
	})
	for _, tt := range []struct {
		user, method, path string
		want               bool
	}{
		{agent, http.MethodGet, ours + "spiderips/172.20.0.10", true},
		{agent, http.MethodGet, ours + "spiderips", true},
		{agent, http.MethodPut, ours + "spiderips/172.20.0.10", true},
		{agent, http.MethodDelete, ours + "spiderips/absent", true},
		{agent, http.MethodGet, ours + "spiderippools/absent", true},
		{agent, http.MethodGet, ours + "spiderippools", false},
		{agent, http.MethodPost, ours + "namespaces/net/spiderendpoints", false},
		{agent, http.MethodGet, "/api/v1/pods", false},
		{"system:serviceaccount:net:default", http.MethodGet, ours + "spiderips", false},
		{"system:serviceaccount:default:spiderpool-agent", http.MethodGet, ours + "spiderips", false},
	} {
		got := whoServes(t, config, tt.user, tt.method, tt.path)
		if (got == claims) != tt.want || got == (servedBy{}) {
			t.Errorf("%s %s by %s: served by %v, want %v of %v", tt.method, tt.path, tt.user, got, tt.want, claims)
		}
	}
}

// judgeFence asks whether the policies know the agent of this release.
func judgeFence(t *testing.T, config *rest.Config) {
	t.Helper()
	as := rest.CopyConfig(config)
	as.Impersonate.UserName = "system:serviceaccount:net:spiderpool-agent"
	types := runtime.NewScheme()
	if err := v2beta1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(as, client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an agent whose node is not known writes nothing", func() error {
		ip := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "172.20.0.11"}, Spec: v2beta1.IPSpec{
			Address: "172.20.0.11", Pool: "first", Node: "n1", Interface: "eth0", ContainerID: "c1", Pod: v2beta1.IPPod{Namespace: "a", Name: "b", UID: "c"}}}
		err := c.Create(t.Context(), ip, client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "names no node") {
			return errors.Join(errors.New("it is not refused for that"), err)
		}
		return nil
	})
}

// servedBy are the UIDs of the FlowSchema and the priority level under which the API server served a request.
type servedBy struct{ schema, level string }

// whoServes sends a request without a body, whatever becomes of it.
func whoServes(t *testing.T, config *rest.Config, user, method, path string) servedBy {
	t.Helper()
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	c, err := rest.HTTPClientFor(as)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, as.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	return servedBy{answer.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID),
		answer.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)}
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := try()
	for ; err != nil && ctx.Err() == nil; err = try() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
