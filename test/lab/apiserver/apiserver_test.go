package apiserver_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

func client(t *testing.T, cfg *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestRolesAreEnforced(t *testing.T) {
	s, ctx := apiserver.ForTest(t), t.Context()
	admin := client(t, s.Config())
	must[*corev1.Namespace](t)(admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "roles"}}, metav1.CreateOptions{}))
	must[*corev1.ServiceAccount](t)(admin.CoreV1().ServiceAccounts("roles").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}, metav1.CreateOptions{}))
	must[*rbacv1.Role](t)(admin.RbacV1().Roles("roles").Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{}))
	must[*rbacv1.RoleBinding](t)(admin.RbacV1().RoleBindings("roles").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Name: "reader", Namespace: "roles"},
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "readers"},
		},
	}, metav1.CreateOptions{}))

	for name, cfg := range map[string]*rest.Config{
		"service account":  must[*rest.Config](t)(s.ServiceAccountConfig(ctx, "roles", "reader", nil)),
		"user in a group":  must[*rest.Config](t)(s.ConfigFor("anyone", "readers")),
		"file for kubectl": fromFile(t, must[*rest.Config](t)(s.ConfigFor("someone", "readers"))),
	} {
		c := client(t, cfg)
		eventually(t, name+" may list", func() error { // RBAC's caches follow by watch
			_, err := c.CoreV1().ConfigMaps("roles").List(ctx, metav1.ListOptions{})
			return err
		})
		if _, err := c.CoreV1().ConfigMaps("roles").Create(ctx, configMap("x"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%s creates: %v, want forbidden", name, err)
		}
	}
	stranger := client(t, must[*rest.Config](t)(s.ConfigFor("stranger")))
	if _, err := stranger.CoreV1().ConfigMaps("roles").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a stranger lists: %v, want forbidden", err)
	}
	wrong := s.Config()
	wrong.TLSClientConfig = rest.TLSClientConfig{CAData: wrong.CAData}
	wrong.BearerToken = "made up"
	if _, err := client(t, wrong).CoreV1().ConfigMaps("roles").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a made up token lists: %v, want unauthorized", err)
	}
	if _, err := s.ServiceAccountConfig(ctx, "roles", "absent", nil); !apierrors.IsNotFound(err) {
		t.Errorf("token of an absent service account: %v, want not found", err)
	}
}

// fromFile writes a kubeconfig and reads it as kubectl does.
func fromFile(t *testing.T, cfg *rest.Config) *rest.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, must[[]byte](t)(apiserver.Kubeconfig(cfg)), 0o600); err != nil {
		t.Fatal(err)
	}
	return must[*rest.Config](t)(clientcmd.BuildConfigFromFlags("", file))
}

// A token bound to a pod names its node, on which admission policies rest.
func TestTokenNamesTheNode(t *testing.T) {
	s, ctx := apiserver.ForTest(t), t.Context()
	admin := client(t, s.Config())
	must[*corev1.Namespace](t)(admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{}))
	must[*corev1.ServiceAccount](t)(admin.CoreV1().ServiceAccounts("bound").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}, metav1.CreateOptions{}))
	must[*corev1.Node](t)(admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a-node"}}, metav1.CreateOptions{}))
	pod := must[*corev1.Pod](t)(admin.CoreV1().Pods("bound").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec:       corev1.PodSpec{NodeName: "a-node", ServiceAccountName: "agent", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{}))
	cfg := must[*rest.Config](t)(s.ServiceAccountConfig(ctx, "bound", "agent", &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}))
	me := must[*authenticationv1.SelfSubjectReview](t)(client(t, cfg).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	if got := me.Status.UserInfo; got.Username != "system:serviceaccount:bound:agent" || strings.Join(got.Extra["authentication.kubernetes.io/node-name"], "") != "a-node" {
		t.Errorf("the token says %+v", got)
	}
}

func TestRestartKeepsDataAndAddress(t *testing.T) {
	ctx := t.Context()
	s, err := apiserver.Start(ctx, apiserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.Kubeconfig())
	t.Cleanup(func() {
		if err := s.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	})
	cfg, endpoint := s.Config(), s.Endpoint()
	cfg.Timeout = 5 * time.Second
	c := client(t, cfg)
	must[*corev1.ConfigMap](t)(c.CoreV1().ConfigMaps("default").Create(ctx, configMap("kept"), metav1.CreateOptions{}))
	if err := s.StopAPI(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err == nil {
		t.Error("a stopped server answers")
	}
	if err := s.StartAPI(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Endpoint() != endpoint {
		t.Errorf("endpoint is %s, was %s", s.Endpoint(), endpoint)
	}
	must[*corev1.ConfigMap](t)(c.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}))
}

func TestMetricsOfRequests(t *testing.T) {
	s := apiserver.ForTest(t)
	c := must[*http.Client](t)(rest.HTTPClientFor(s.Config()))
	resp, err := c.Get(s.Endpoint() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil || !strings.Contains(b.String(), "\napiserver_request_total{") {
		t.Errorf("no apiserver_request_total in the metrics: %v", err)
	}
}

// This test starts itself as a parent that starts a server and is killed.
func TestServerEndsWithItsParent(t *testing.T) {
	if file := os.Getenv("SERVER_DIR_FILE"); file != "" {
		s := apiserver.ForTest(t)
		if err := os.WriteFile(file, []byte(filepath.Dir(s.Kubeconfig())), 0o600); err != nil {
			t.Fatal(err)
		}
		select {} // until killed
	}
	file := filepath.Join(t.TempDir(), "dir")
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsParent$")
	cmd.Env = append(os.Environ(), "SERVER_DIR_FILE="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	eventually(t, "the server is ready", func() error {
		data, err := os.ReadFile(file)
		dir = string(data)
		return err
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "processes and data are gone", func() error {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			return os.ErrExist
		}
		return noProcessNames(dir)
	})
}

func noProcessNames(dir string) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), dir) {
			return os.ErrExist
		}
	}
	return nil
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
}

// TestRestore: etcd is put back to an earlier state, and versions go on from there or much later.
func TestRestore(t *testing.T) {
	for _, bump := range []uint64{0, 1_000_000_000} {
		t.Run(strconv.FormatUint(bump, 10), func(t *testing.T) {
			ctx := t.Context()
			s, err := apiserver.Start(ctx, apiserver.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(context.WithoutCancel(ctx)); err != nil {
					t.Error(err)
				}
			})
			maps := client(t, s.Config()).CoreV1().ConfigMaps("default")
			must[*corev1.ConfigMap](t)(maps.Create(ctx, configMap("before"), metav1.CreateOptions{}))
			file := filepath.Join(t.TempDir(), "snapshot")
			if err := s.Snapshot(ctx, file); err != nil {
				t.Fatal(err)
			}
			must[*corev1.ConfigMap](t)(maps.Create(ctx, configMap("after"), metav1.CreateOptions{}))
			if err := s.Restore(ctx, file, bump); err != nil {
				t.Fatal(err)
			}
			list := must[*corev1.ConfigMapList](t)(maps.List(ctx, metav1.ListOptions{}))
			for _, m := range list.Items {
				if m.Name == "after" {
					t.Error("what was made after the snapshot is there")
				}
			}
			must[*corev1.ConfigMap](t)(maps.Get(ctx, "before", metav1.GetOptions{}))
			version := must[uint64](t)(strconv.ParseUint(list.ResourceVersion, 10, 64))
			if version < bump {
				t.Errorf("version %d, %d later was asked for", version, bump)
			}
		})
	}
}
