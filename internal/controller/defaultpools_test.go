package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/controller"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// release is an installation in a namespace of its own, with a Deployment and the shipped roles.
type release struct {
	*testing.T
	admin     client.Client
	kube      kubernetes.Interface
	config    *rest.Config
	namespace string
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newRelease(t *testing.T) *release {
	t.Helper()
	s := apiserver.ForTest(t)
	apiserver.InstallProduct(t, s)
	const name = "spiderpool-controller"
	r := &release{T: t, admin: must(apiclient.New(s.Config())).Live, kube: must(kubernetes.NewForConfig(s.Config())), namespace: "defaults-" + strings.ToLower(t.Name())}
	role, clusterRole := &rbacv1.Role{}, &rbacv1.ClusterRole{}
	for file, into := range map[string]any{"controller-namespace.yaml": role, "controller.yaml": clusterRole} {
		if err := yaml.UnmarshalStrict(must(os.ReadFile(filepath.Join("../../charts/spiderpool/files/roles", file))), into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	clusterRole.Name = r.namespace
	ctx, here := t.Context(), metav1.ObjectMeta{Name: name}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: r.namespace, Name: name}}
	must(r.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.namespace}}, metav1.CreateOptions{}))
	must(r.kube.CoreV1().ServiceAccounts(r.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: here}, metav1.CreateOptions{}))
	must(r.kube.RbacV1().Roles(r.namespace).Create(ctx, role, metav1.CreateOptions{}))
	must(r.kube.RbacV1().RoleBindings(r.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: here, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}, Subjects: subjects,
	}, metav1.CreateOptions{}))
	must(r.kube.RbacV1().ClusterRoles().Create(ctx, clusterRole, metav1.CreateOptions{}))
	must(r.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: r.namespace}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole.Name}, Subjects: subjects,
	}, metav1.CreateOptions{}))
	r.config = must(s.ServiceAccountConfig(ctx, r.namespace, name, nil))
	r.deploy()
	return r
}

// deploy makes the controller's Deployment.
func (r *release) deploy() *appsv1.Deployment {
	r.Helper()
	labels := map[string]string{"app": "c"}
	return must(r.kube.AppsV1().Deployments(r.namespace).Create(r.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-controller"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}, metav1.CreateOptions{}))
}

// leader is a new leader with these pools.
func (r *release) leader(pools ...config.DefaultPool) *controller.DefaultPools {
	r.Helper()
	clients := must(apiclient.New(r.config))
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.Events.Events("")})
	r.Cleanup(broadcaster.Shutdown)
	r.Cleanup(func() {
		for _, p := range pools {
			_ = r.admin.Delete(context.Background(), &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: p.Name}})
		}
	})
	return &controller.DefaultPools{
		Client: clients.Live, Namespace: r.namespace, Deployment: "spiderpool-controller", Pools: pools, Subnets: true,
		Events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "spiderpool-controller"}), Log: slog.New(slog.NewTextHandler(r.Output(), nil)),
	}
}

// lead runs leaders until each has nothing to do any more.
func (r *release) lead(leaders ...*controller.DefaultPools) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, l := range leaders {
		all.Go(func() {
			if err := l.Start(ctx); err != nil {
				r.Error(err)
			}
		})
	}
	if all.Wait(); ctx.Err() != nil {
		r.Fatal("the leader has something to do after a minute")
	}
}

func (r *release) pool(name string) *v2beta1.SpiderIPPool {
	r.Helper()
	p := &v2beta1.SpiderIPPool{}
	err := r.admin.Get(r.Context(), client.ObjectKey{Name: name}, p)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *release) delete(o client.Object) {
	r.Helper()
	if err := r.admin.Delete(r.Context(), o); err != nil {
		r.Fatal(err)
	}
}

func (r *release) record() *corev1.ConfigMap {
	r.Helper()
	return must(r.kube.CoreV1().ConfigMaps(r.namespace).Get(r.Context(), controller.DefaultPoolsRecord, metav1.GetOptions{}))
}

// event waits for an Event on the Deployment that says all this.
func (r *release) event(reason string, parts ...string) {
	r.Helper()
	r.eventually("Event "+reason, func() error {
		list, err := r.kube.CoreV1().Events(r.namespace).List(r.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Deployment,reason=" + reason})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if all := func() bool {
				for _, p := range parts {
					if !strings.Contains(e.Message, p) {
						return false
					}
				}
				return true
			}(); all {
				return nil
			}
			err = errors.New(e.Message)
		}
		return errors.Join(errors.New("none says it"), err)
	})
}

func (r *release) eventually(what string, try func() error) {
	r.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("not within a minute: %s: %v", what, err)
		}
	}
}

func four(name string) config.DefaultPool {
	return config.DefaultPool{Version: 4, Name: name, Subnet: "10.6.0.0/16", IPRanges: `["10.6.0.10-10.6.0.20","10.6.1.1"]`, Gateway: "10.6.0.1"}
}

func six(name string) config.DefaultPool {
	return config.DefaultPool{Version: 6, Name: name, Subnet: "fd00:6::/64", IPRanges: "fd00:6::10-fd00:6::20"}
}

func TestDefaultPoolsAreMadeOnce(t *testing.T) {
	r := newRelease(t)
	p4, p6 := four("once-v4"), six("once-v6")
	p4.SubnetName = "once-subnet"
	r.lead(r.leader(p4, p6))
	a, b := r.pool("once-v4"), r.pool("once-v6")
	if a == nil || b == nil {
		t.Fatal("not made")
	}
	if s := a.Spec; s.Subnet != "10.6.0.0/16" || strings.Join(s.IPs, " ") != "10.6.0.10-10.6.0.20 10.6.1.1" || *s.Gateway != "10.6.0.1" || !*s.Default || *s.IPVersion != 4 {
		t.Errorf("the pool is %+v", s)
	}
	if s := b.Spec; s.Subnet != "fd00:6::/64" || strings.Join(s.IPs, " ") != "fd00:6::10-fd00:6::20" || s.Gateway != nil || !*s.Default {
		t.Errorf("the pool is %+v", s)
	}
	subnet := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "once-subnet"}}
	r.delete(subnet)
	r.event("DefaultPoolMade", "made SpiderIPPool once-v4")

	record := r.record()
	if owners := record.OwnerReferences; len(owners) != 1 || owners[0].Kind != "Deployment" || owners[0].Name != "spiderpool-controller" {
		t.Errorf("the record belongs to %v", owners)
	}
	a.Spec.IPs = []string{"10.6.0.99"}
	if err := r.admin.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	r.delete(b)
	r.lead(r.leader(p4, p6))
	r.lead(r.leader(p4, p6))
	if got := r.pool("once-v4"); got.ResourceVersion != a.ResourceVersion {
		t.Error("the edited pool was written")
	}
	if r.pool("once-v6") != nil || r.admin.Get(t.Context(), client.ObjectKeyFromObject(subnet), subnet) == nil {
		t.Error("what was deleted is back")
	}
	if again := r.record(); again.ResourceVersion != record.ResourceVersion {
		t.Error("the record was written for nothing")
	}

	p6.IPRanges = `["fd00:6::30"]`
	r.lead(r.leader(p4, p6))
	if got := r.pool("once-v6"); got == nil || strings.Join(got.Spec.IPs, " ") != "fd00:6::30" {
		t.Errorf("for changed values there is %+v", got)
	}
	p4.Gateway = ""
	r.lead(r.leader(p4, p6))
	if got := r.pool("once-v4"); got.ResourceVersion != a.ResourceVersion {
		t.Error("the pool that is there was written for changed values")
	}
	r.event("DefaultPoolLeftAlone", "SpiderIPPool once-v4 exists and is left alone", "spec.ips, spec.gateway")
	r.delete(r.pool("once-v4"))
	r.lead(r.leader(p4, p6))
	if r.pool("once-v4") != nil {
		t.Error("what was deleted is back, though nothing changed since it was left alone")
	}
}

// A release that is made anew makes its pools anew, also if the record of that before is still there.
func TestDefaultPoolsOfANewRelease(t *testing.T) {
	r := newRelease(t)
	p := four("anew-v4")
	r.lead(r.leader(p))
	r.delete(r.pool("anew-v4"))
	if err := r.kube.AppsV1().Deployments(r.namespace).Delete(t.Context(), "spiderpool-controller", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.lead(r.leader(p)) // without a Deployment, the record counts
	if r.pool("anew-v4") != nil {
		t.Error("what was deleted is back")
	}
	uid := r.deploy().UID
	r.lead(r.leader(p))
	if r.pool("anew-v4") == nil {
		t.Error("a new release has not made its pool")
	}
	if owners := r.record().OwnerReferences; len(owners) != 1 || owners[0].UID != uid {
		t.Errorf("the record belongs to %v", owners)
	}
}

func TestNameTakenByAnotherPool(t *testing.T) {
	r := newRelease(t)
	other := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "taken-v4"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.7.0.0/16"}}
	if err := r.admin.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	r.lead(r.leader(four("taken-v4")))
	if got := r.pool("taken-v4"); got.ResourceVersion != other.ResourceVersion {
		t.Error("the pool was written")
	}
	r.event("DefaultPoolLeftAlone", "taken-v4", "spec.subnet, spec.ips, spec.gateway, spec.default")
}

// A pool that is being deleted is in the way until it is gone.
func TestDefaultPoolBeingDeleted(t *testing.T) {
	r := newRelease(t)
	leaving := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "leaving-v4", Finalizers: []string{v2beta1.Finalizer}}, Spec: v2beta1.IPPoolSpec{Subnet: "10.7.0.0/16"}}
	if err := r.admin.Create(t.Context(), leaving); err != nil {
		t.Fatal(err)
	}
	r.delete(leaving)
	ended := make(chan struct{})
	go func() { defer close(ended); r.lead(r.leader(four("leaving-v4"))) }()
	r.event("DefaultPoolFailed", "leaving-v4 is being deleted")
	leaving = r.pool("leaving-v4")
	leaving.Finalizers = nil
	if err := r.admin.Update(t.Context(), leaving); err != nil {
		t.Fatal(err)
	}
	<-ended
	if got := r.pool("leaving-v4"); got == nil || got.Spec.Subnet != "10.6.0.0/16" {
		t.Errorf("there is %+v", got)
	}
}

func TestTwoLeadersMakeDefaultPools(t *testing.T) {
	r := newRelease(t)
	var leaders []*controller.DefaultPools
	for range 4 {
		leaders = append(leaders, r.leader(four("two-v4"), six("two-v6")))
	}
	r.lead(leaders...)
	if r.pool("two-v4") == nil || r.pool("two-v6") == nil || len(r.record().Data) != 2 {
		t.Errorf("the record is %v", r.record().Data)
	}
}

// A value that cannot be is told with its variable, and keeps the other pool from nothing.
func TestMalformedDefaultPool(t *testing.T) {
	r := newRelease(t)
	for want, p := range map[string]config.DefaultPool{
		"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET: spec.subnet":   {Version: 4, Name: "bad", Subnet: "10.6.0.1/16"},
		"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET":                {Version: 4, Name: "bad", Subnet: "fd00::/64"},
		"SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES: spec.ips":    {Version: 6, Name: "bad", Subnet: "fd00::/64", IPRanges: "fd01::1"},
		"SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES is no list":   {Version: 6, Name: "bad", Subnet: "fd00::/64", IPRanges: "[fd00::1]"},
		"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY: spec.gateway": {Version: 4, Name: "bad", Subnet: "10.6.0.0/16", Gateway: "10.7.0.1"},
		"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME is empty":         {Version: 4, Subnet: "10.6.0.0/16"},
	} {
		r.lead(r.leader(p, config.DefaultPool{Version: 4, Name: "unused"}, six("good-v6")))
		r.event("DefaultPoolFailed", want)
	}
	if r.pool("good-v6") == nil || r.pool("bad") != nil || r.pool("unused") != nil {
		t.Error("other pools than the good one")
	}
}

// A webhook that does not answer, or refuses, is tried again, and so is an API server that is away.
func TestDefaultPoolsAreTriedAgain(t *testing.T) {
	r := newRelease(t)
	var back atomic.Bool
	cfg := rest.CopyConfig(r.config)
	r.config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(req *http.Request) (*http.Response, error) {
			if !back.Load() {
				return nil, errors.New("the network is gone")
			}
			return next.RoundTrip(req)
		})
	})
	deaf := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: r.namespace},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "deaf.test.io", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionv1.SideEffectClassNone),
			ClientConfig:    admissionv1.WebhookClientConfig{URL: ptr.To("https://localhost:1/")},
			MatchConditions: []admissionv1.MatchCondition{{Name: "mine", Expression: "object.metadata.name == 'again-v4'"}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"spiderippools"}},
			}},
		}},
	}
	api := r.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	must(api.Create(t.Context(), deaf, metav1.CreateOptions{}))
	t.Cleanup(func() { _ = api.Delete(context.Background(), deaf.Name, metav1.DeleteOptions{}) })
	other := must(apiclient.New(cfg)).Live
	r.eventually("the webhook is in force", func() error {
		err := other.Create(t.Context(), &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "again-v4"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16"}}, client.DryRunAll)
		if err == nil {
			return errors.New("a pool is let through")
		}
		return nil
	})
	ended := make(chan struct{})
	go func() { defer close(ended); r.lead(r.leader(four("again-v4"))) }()
	back.Store(true)
	r.event("DefaultPoolFailed", "make SpiderIPPool again-v4", "deaf.test.io")
	if err := api.Delete(t.Context(), deaf.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-ended
	if r.pool("again-v4") == nil {
		t.Error("not made")
	}
}

type tripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
