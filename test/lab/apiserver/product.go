package apiserver

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// InstallProduct gives the server the kinds of the product, from the chart's
// CRDs. It may be called again.
func InstallProduct(tb testing.TB, s *Server) {
	tb.Helper()
	if _, err := envtest.InstallCRDs(s.Config(), envtest.CRDInstallOptions{
		Paths: []string{filepath.Join(chartFiles(), "generated", "crds")}, ErrorIfPathMissing: true,
	}); err != nil {
		tb.Fatalf("installing the CRDs of the chart: %v", err)
	}
}

// AgentConfig is for the agent's service account, with the role that the chart
// ships and no other right. It makes both if they are not there.
func AgentConfig(tb testing.TB, s *Server) *rest.Config {
	tb.Helper()
	return accountConfig(tb, s, "agent")
}

// ControllerConfig is AgentConfig for the controller.
func ControllerConfig(tb testing.TB, s *Server) *rest.Config {
	tb.Helper()
	return accountConfig(tb, s, "controller")
}

// accountConfig is for the service account of a program.
func accountConfig(tb testing.TB, s *Server, program string) *rest.Config {
	tb.Helper()
	role := &rbacv1.ClusterRole{}
	readShipped(tb, filepath.Join("roles", program+".yaml"), role)
	ctx := context.Background()
	c, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		tb.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "spiderpool-" + program}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}
	_, roleErr := c.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	_, accountErr := c.CoreV1().ServiceAccounts(account.Namespace).Create(ctx, account, metav1.CreateOptions{})
	_, bindingErr := c.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	for _, err := range []error{roleErr, accountErr, bindingErr} {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			tb.Fatalf("making the account of the %s: %v", program, err)
		}
	}
	cfg, err := s.ServiceAccountConfig(ctx, account.Namespace, account.Name, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// chartFiles is where the chart keeps what is not a template.
func chartFiles() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "charts", "spiderpool", "files")
}
