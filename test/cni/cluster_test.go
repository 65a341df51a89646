package cni_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// cluster is the API server that the tests share, as its administrator sees it,
// with the chart in it as far as no controllers are needed.
type cluster struct {
	client.Client
	server *apiserver.Server
	conf   map[string]any // conf.yml of the chart
}

// system is the namespace of the chart, account its agent's ServiceAccount.
const (
	system  = "kube-system"
	account = "spiderpool-agent"
)

func theCluster(t *testing.T) *cluster {
	t.Helper()
	server := apiserver.ForTest(t)
	installed.Do(func() { shared, installErr = install(server) })
	if installErr != nil {
		t.Fatalf("installing the chart: %v", installErr)
	}
	return shared
}

var (
	installed  sync.Once
	shared     *cluster
	installErr error
)

func install(server *apiserver.Server) (*cluster, error) {
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v2beta1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			return nil, err
		}
	}
	c, err := client.New(server.Config(), client.Options{Scheme: types})
	if err != nil {
		return nil, err
	}
	cl := &cluster{Client: c, server: server}
	objects, err := render(types)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if err := cl.put(o); err != nil {
			return nil, err
		}
	}
	if cl.conf == nil {
		return nil, errors.New("the chart has no ConfigMap with conf.yml")
	}
	return cl, server.AwaitPolicies(context.Background())
}

// put makes an object of the chart, unless it needs a controller or a node.
func (c *cluster) put(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "CustomResourceDefinition":
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, crd); err != nil {
			return err
		}
		_, err := envtest.InstallCRDs(c.server.Config(), envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}})
		return err
	case "ConfigMap":
		text, ok, err := unstructured.NestedString(o.Object, "data", "conf.yml")
		if err != nil || !ok {
			return err
		}
		return yaml.Unmarshal([]byte(text), &c.conf)
	case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
		return c.Create(context.Background(), o)
	}
	return nil
}

// render is what helm makes of the chart.
func render(types *runtime.Scheme) (objects []*unstructured.Unstructured, err error) {
	var out, complaints bytes.Buffer
	cmd := exec.Command(filepath.Join(programs.helm, "helm"), "template", "spiderpool", filepath.Join("..", "..", "charts", "spiderpool"), "--namespace="+system)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+programs.ours, "HELM_CONFIG_HOME="+programs.ours, "HELM_DATA_HOME="+programs.ours)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("helm template: %w: %s", err, complaints.String())
	}
	decoder := yamlstream.NewYAMLOrJSONDecoder(&out, 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func (c *cluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s%s: %v", o, o.GetName(), o.GetGenerateName(), err)
	}
	t.Cleanup(func() {
		err := c.Delete(context.Background(), o, client.GracePeriodSeconds(0))
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting %T %s: %v", o, o.GetName(), err)
		}
	})
}

// pool makes a pool with the second address of the subnet as its gateway and a
// route by way of the third.
func (c *cluster) pool(t *testing.T, subnet string, ips ...string) *v2beta1.SpiderIPPool {
	t.Helper()
	prefix := netip.MustParsePrefix(subnet)
	gateway := prefix.Addr().Next()
	text := gateway.String()
	elsewhere := "10.99.0.0/16"
	if prefix.Addr().Is6() {
		elsewhere = "fd00:99::/64"
	}
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{GenerateName: "pool-"}}
	p.Spec = v2beta1.IPPoolSpec{Subnet: subnet, IPs: ips, Gateway: &text,
		Routes: []v2beta1.Route{{Dst: elsewhere, Gw: gateway.Next().String()}}}
	c.create(t, p)
	t.Cleanup(func() { // what a test that failed left
		ctx := context.Background()
		var list v2beta1.SpiderIPList
		err := c.List(ctx, &list, client.MatchingFields{"spec.pool": p.Name})
		for i := range list.Items {
			err = errors.Join(err, client.IgnoreNotFound(apiserver.DeleteSpiderIP(ctx, c, &list.Items[i])))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// holders are the SpiderIPs of a pool, by address.
func (c *cluster) holders(t *testing.T, pool *v2beta1.SpiderIPPool) map[string]v2beta1.IPSpec {
	t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(t.Context(), &list, client.MatchingFields{"spec.pool": pool.Name}); err != nil {
		t.Fatal(err)
	}
	held := map[string]v2beta1.IPSpec{}
	for _, ip := range list.Items {
		if want := objectName(netip.MustParseAddr(ip.Spec.Address)); ip.Name != want {
			t.Errorf("the SpiderIP of %s is named %s, want %s", ip.Spec.Address, ip.Name, want)
		}
		held[ip.Spec.Address] = ip.Spec
	}
	return held
}

// wantHolders waits until exactly these sandboxes hold addresses of the pool.
// An address is free soon after its DEL, not necessarily at once.
func (c *cluster) wantHolders(t *testing.T, pool *v2beta1.SpiderIPPool, sandboxes ...*sandbox) {
	t.Helper()
	want := map[string]v2beta1.IPSpec{}
	for _, s := range sandboxes {
		for _, a := range s.addresses {
			if a.Is4() == netip.MustParsePrefix(pool.Spec.Subnet).Addr().Is4() {
				want[a.String()] = s.entry(a, pool)
			}
		}
	}
	eventually(t, "the ledger of pool "+pool.Spec.Subnet, func() error {
		if diff := cmp.Diff(want, c.holders(t, pool)); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
}

// objectName is the name of an address's SpiderIP.
func objectName(a netip.Addr) string { return strings.ReplaceAll(a.StringExpanded(), ":", "-") }

// pod makes the object of a pod that a node runs.
func (c *cluster) pod(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, GenerateName: "pod-"},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}}}
	c.create(t, p)
	return p
}

// eventually waits until try returns nil. The wait is long, since the machine
// may be busy, and none of the tests measures time by it.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	late := time.Now().Add(time.Minute)
	err := try()
	for ; err != nil && time.Now().Before(late); err = try() {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
