package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// name is that of all objects, as the roles have it.
const (
	name       = "spiderpool-controller"
	secretName = "spiderpool-controller-server-certs"
)

// cluster is a namespace of a real API server, with an account that has the shipped roles, and webhooks for the
// ConfigMaps of the namespace, which are called by way of a balancer as by a Service.
type cluster struct {
	*testing.T
	server    *apiserver.Server
	admin     kubernetes.Interface
	config    *rest.Config
	namespace string
	balancer  balancer
	// annotations are put on the webhook configurations.
	annotations map[string]string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	s := apiserver.ForTest(t)
	c := &cluster{T: t, server: s, admin: must(kubernetes.NewForConfig(s.Config())), namespace: "certs-" + strings.ToLower(t.Name())}
	ctx := t.Context()
	must(c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}}, metav1.CreateOptions{}))
	must(c.admin.CoreV1().ServiceAccounts(c.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: c.namespace, Name: name}}
	role, clusterRole := &rbacv1.Role{}, &rbacv1.ClusterRole{}
	shipped(t, "controller-namespace.yaml", role)
	shipped(t, "controller.yaml", clusterRole)
	clusterRole.Name = c.namespace
	must(c.admin.RbacV1().Roles(c.namespace).Create(ctx, role, metav1.CreateOptions{}))
	must(c.admin.RbacV1().RoleBindings(c.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}, Subjects: subjects,
	}, metav1.CreateOptions{}))
	must(c.admin.RbacV1().ClusterRoles().Create(ctx, clusterRole, metav1.CreateOptions{}))
	must(c.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: c.namespace}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole.Name}, Subjects: subjects,
	}, metav1.CreateOptions{}))
	c.config = must(s.ServiceAccountConfig(ctx, c.namespace, name, nil))
	c.balancer.listen(t)
	return c
}

func shipped(t *testing.T, file string, into any) {
	t.Helper()
	text := must(os.ReadFile(filepath.Join("../../charts/spiderpool/files/roles", file)))
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// register makes the webhook configurations, with a bundle or without, and removes them at the end of the test.
func (c *cluster) register(bundle []byte) {
	c.Helper()
	client := admissionv1.WebhookClientConfig{URL: ptr.To("https://localhost:" + c.balancer.port() + "/"), CABundle: bundle}
	rules := []admissionv1.RuleWithOperations{{
		Operations: []admissionv1.OperationType{admissionv1.OperationAll},
		Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}
	here := &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: c.namespace}}
	versions, none := []string{"v1"}, ptr.To(admissionv1.SideEffectClassNone)
	mutating, validating := []admissionv1.MutatingWebhook{}, []admissionv1.ValidatingWebhook{}
	for _, n := range []string{"a.test.io", "b.test.io"} {
		mutating = append(mutating, admissionv1.MutatingWebhook{Name: n, ClientConfig: client, Rules: rules, NamespaceSelector: here, SideEffects: none, AdmissionReviewVersions: versions})
		validating = append(validating, admissionv1.ValidatingWebhook{Name: n, ClientConfig: client, Rules: rules, NamespaceSelector: here, SideEffects: none, AdmissionReviewVersions: versions})
	}
	api, ctx, meta := c.admin.AdmissionregistrationV1(), c.Context(), metav1.ObjectMeta{Name: name, Annotations: c.annotations}
	must(api.MutatingWebhookConfigurations().Create(ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: meta, Webhooks: mutating}, metav1.CreateOptions{}))
	must(api.ValidatingWebhookConfigurations().Create(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: meta, Webhooks: validating}, metav1.CreateOptions{}))
	c.Cleanup(c.unregister)
}

func (c *cluster) unregister() {
	ctx := context.Background()
	api := c.admin.AdmissionregistrationV1()
	for _, err := range []error{
		api.MutatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}),
		api.ValidatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}),
	} {
		if err != nil && !apierrors.IsNotFound(err) {
			c.Error(err)
		}
	}
}

func (c *cluster) options() Options {
	return Options{
		Config: rest.CopyConfig(c.config), Log: slog.New(slog.NewTextHandler(c.Output(), nil)), Namespace: c.namespace, Secret: secretName, Service: name, Webhooks: name, Deployment: name,
		ClusterDomain: "cluster.local", ExtraNames: []string{"localhost"}, Settle: 2 * time.Second,
	}
}

// deploy makes the Deployment of the controller, without pods.
func (c *cluster) deploy() *appsv1.Deployment {
	c.Helper()
	labels := map[string]string{"app": name}
	return must(c.admin.AppsV1().Deployments(c.namespace).Create(c.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "controller"}}},
		}},
	}, metav1.CreateOptions{}))
}

// replica starts a process that serves the webhooks. It gets calls once it is ready, as by a Service.
func (c *cluster) replica(o Options) *Certs {
	c.Helper()
	certs := must(New(o))
	ctx, stop := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := certs.Start(ctx); err != nil {
			c.Error(err)
		}
	})
	l := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: certs.GetCertificate}))
	server := &http.Server{Handler: http.HandlerFunc(allow), ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelInfo)}
	server.SetKeepAlivesEnabled(false) // each call sees the certificate of its time
	ended.Go(func() { _ = server.Serve(l) })
	c.Cleanup(func() { _ = server.Close(); stop(); ended.Wait() })
	go func() {
		for certs.Ready() != nil && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		c.balancer.add(l.Addr().String())
	}()
	return certs
}

func allow(w http.ResponseWriter, r *http.Request) {
	var review reviewv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &reviewv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	_ = json.NewEncoder(w).Encode(review)
}

// edit edits a ConfigMap once.
func (c *cluster) edit() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := c.admin.CoreV1().ConfigMaps(c.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "edit-"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// editing edits without pause until it is told to end, and fails the test for each refusal. It says how many there were.
func (c *cluster) editing() (end func() (edits int)) {
	stop, ended, edits := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(ended)
		for {
			if err := c.edit(); err != nil {
				c.Errorf("edit %d: %v", edits, err)
				return
			}
			edits++
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return func() int { close(stop); <-ended; return edits }
}

func (c *cluster) secret() *corev1.Secret { return c.secretNamed(secretName) }

func (c *cluster) secretNamed(name string) *corev1.Secret {
	s, err := c.admin.CoreV1().Secrets(c.namespace).Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		return &corev1.Secret{}
	}
	return s
}

// change writes the Secret as an administrator does.
func (c *cluster) change(data map[string][]byte) {
	c.Helper()
	s := c.secret()
	s.Data = data
	must(c.admin.CoreV1().Secrets(c.namespace).Update(c.Context(), s, metav1.UpdateOptions{}))
}

// steady waits until the certificate of the Secret is signed by its first authority, the webhooks have that, and all
// replicas serve it, none of these as before.
func (c *cluster) steady(before map[string][]byte, replicas ...*Certs) map[string][]byte {
	c.Helper()
	var data map[string][]byte
	c.eventually("a new certificate is served by all", func() error {
		data = c.secret().Data
		p := pairOf(data)
		if p == nil || string(p.certPEM) == string(before[corev1.TLSCertKey]) {
			return errors.New("the Secret has no new certificate")
		}
		if err := p.Leaf.CheckSignatureFrom(parse(data[caCert])[0]); err != nil {
			return err
		}
		for i, r := range replicas {
			if err := r.Ready(); err != nil {
				return err
			}
			if served := must(r.GetCertificate(nil)); !served.Leaf.Equal(p.Leaf) {
				return fmt.Errorf("replica %d serves another", i)
			}
		}
		return nil
	})
	return data
}

func (c *cluster) eventually(what string, try func() error) {
	c.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
}

// balancer hands each connection to the next of those that are ready, as kube-proxy does for a Service.
type balancer struct {
	net.Listener
	mu    sync.Mutex
	ready []string
	next  atomic.Uint64
}

func (b *balancer) listen(t *testing.T) {
	b.Listener = must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { b.Close() })
	go func() {
		for {
			client, err := b.Accept()
			if err != nil {
				return
			}
			go b.forward(client)
		}
	}()
}

func (b *balancer) forward(client net.Conn) {
	defer client.Close()
	b.mu.Lock()
	ready := b.ready
	b.mu.Unlock()
	if len(ready) == 0 {
		return
	}
	server, err := net.Dial("tcp", ready[b.next.Add(1)%uint64(len(ready))])
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(server, client) }()
	_, _ = io.Copy(client, server)
}

func (b *balancer) add(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = append(b.ready[:len(b.ready):len(b.ready)], address)
}

func (b *balancer) port() string {
	_, port, _ := net.SplitHostPort(b.Addr().String())
	return port
}
