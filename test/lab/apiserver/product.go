package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// Where the chart's files take the product to be installed, and the service accounts there.
const (
	productNamespace  = metav1.NamespaceSystem
	agentAccount      = "spiderpool-agent"
	controllerAccount = "spiderpool-controller"
)

// OwnForTest starts an API server with the product for one test, which may stop it and put it back; others share ForTest's. It
// ends with the test.
func OwnForTest(tb testing.TB) *Server {
	tb.Helper()
	s, err := Start(tb.Context(), Options{})
	if err != nil {
		tb.Fatalf("starting the API server: %v", err)
	}
	tb.Cleanup(func() { _ = s.Stop(context.Background()) })
	InstallProduct(tb, s)
	return s
}

// InstallProduct gives the server the kinds of the product, the service accounts
// with their roles and no other right, and the admission policies, all of them
// the chart's, and returns when they are enforced. It may be called again.
func InstallProduct(tb testing.TB, s *Server) {
	tb.Helper()
	ctx := context.Background()
	if _, err := envtest.InstallCRDs(s.Config(), envtest.CRDInstallOptions{
		Paths: []string{filepath.Join(chartFiles(), "generated", "crds")}, ErrorIfPathMissing: true,
	}); err != nil {
		tb.Fatalf("installing the CRDs of the chart: %v", err)
	}
	c, err := client.New(s.Config(), client.Options{})
	if err == nil {
		err = errors.Join(installPolicies(ctx, c), installAccount(ctx, c, agentAccount), installAccount(ctx, c, controllerAccount))
	}
	if err != nil {
		tb.Fatalf("installing the product: %v", err)
	}
	if err := s.AwaitPolicies(ctx); err != nil {
		tb.Fatal(err)
	}
}

func installPolicies(ctx context.Context, c client.Client) error {
	files, err := filepath.Glob(filepath.Join(chartFiles(), "policies", "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		for decoder := yamlstream.NewYAMLOrJSONDecoder(f, 4096); ; {
			o := &unstructured.Unstructured{}
			if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			err := c.Create(ctx, o, client.FieldValidation("Strict"))
			if client.IgnoreAlreadyExists(err) != nil {
				return err
			}
		}
	}
	return nil
}

// installAccount makes the service account of a program, with the roles of the chart.
func installAccount(ctx context.Context, c client.Client, name string) error {
	role := &rbacv1.ClusterRole{}
	if err := readShipped(filepath.Join("roles", strings.TrimPrefix(name, "spiderpool-")+".yaml"), role); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: productNamespace, Name: name}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
	all := []client.Object{role, account, binding}
	here := &rbacv1.Role{}
	switch err := readShipped(filepath.Join("roles", strings.TrimPrefix(name, "spiderpool-")+"-namespace.yaml"), here); {
	case err == nil:
		here.Namespace = account.Namespace
		all = append(all, here, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: account.Namespace, Name: here.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: here.Name}, Subjects: binding.Subjects,
		})
	case !errors.Is(err, fs.ErrNotExist): // the agent writes nothing in its namespace
		return err
	}
	for _, o := range all {
		if err := c.Create(ctx, o); client.IgnoreAlreadyExists(err) != nil {
			return err
		}
	}
	return nil
}

// AwaitPolicies returns when the server enforces the admission policies of the
// chart and lets agents do what their role says, both of which it learns of by
// watch: it refuses an agent whose node it does not know.
func (s *Server) AwaitPolicies(ctx context.Context) error {
	cfg := s.Config()
	cfg.Impersonate.UserName = "system:serviceaccount:" + productNamespace + ":" + agentAccount
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return err
	}
	ip, endpoint := &unstructured.Unstructured{}, &unstructured.Unstructured{}
	ip.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderIP"))
	ip.SetName("0.0.0.0")
	ip.Object["spec"] = map[string]any{"address": "0.0.0.0", "pool": "p", "node": "n", "network": "", "interface": "i", "netns": "",
		"containerID": "c", "pod": map[string]any{"namespace": "n", "name": "p", "uid": "u"}}
	endpoint.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderEndpoint"))
	endpoint.SetNamespace(metav1.NamespaceDefault)
	endpoint.SetName("p")
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, o := range []*unstructured.Unstructured{ip, endpoint} {
		for {
			err := c.Create(ctx, o.DeepCopy(), client.DryRunAll)
			if err != nil && strings.Contains(err.Error(), "names no node") {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the policy of %ss is not enforced, the last answer was: %w", o.GetKind(), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

// ControllerConfig is for the controller's service account. The product must be installed.
func ControllerConfig(tb testing.TB, s *Server) *rest.Config {
	tb.Helper()
	cfg, err := s.ServiceAccountConfig(context.Background(), productNamespace, controllerAccount, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// AgentConfig is for the agent of a node: a token of its service account that
// is bound to the agent's pod of that node, which is made if it is not there.
// The product must be installed. Calls for one node share a token, which lasts
// an hour.
func AgentConfig(tb testing.TB, s *Server, node string) *rest.Config {
	tb.Helper()
	if cfg, ok := s.agents.Load(node); ok {
		return rest.CopyConfig(cfg.(*rest.Config))
	}
	c, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: agentAccount + "-" + node}}
	pod.Spec.NodeName, pod.Spec.ServiceAccountName, pod.Spec.HostNetwork = node, agentAccount, true
	pod.Spec.Containers = []corev1.Container{{Name: agentAccount, Image: "localhost/agent:1"}}
	pods := c.CoreV1().Pods(productNamespace)
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = pods.Get(ctx, pod.Name, metav1.GetOptions{})
	}
	if err != nil {
		tb.Fatalf("making the agent's pod of node %s: %v", node, err)
	}
	cfg, err := s.ServiceAccountConfig(ctx, productNamespace, agentAccount,
		&authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: made.Name, UID: made.UID})
	if err != nil {
		tb.Fatal(err)
	}
	s.agents.Store(node, cfg)
	return rest.CopyConfig(cfg)
}

// DeleteSpiderIP deletes a SpiderIP as a person does who knows that its
// container is gone: the policy asks for an annotation.
func DeleteSpiderIP(ctx context.Context, c client.Client, ip *v2beta1.SpiderIP) error {
	text := fmt.Sprintf(`{"metadata":{"annotations":{%q:"true"}}}`, v2beta1.AnnotationAllowDelete)
	if err := c.Patch(ctx, ip, client.RawPatch("application/merge-patch+json", []byte(text))); err != nil {
		return err
	}
	return c.Delete(ctx, ip)
}

// chartFiles is where the chart keeps what is not a template.
func chartFiles() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "charts", "spiderpool", "files")
}
