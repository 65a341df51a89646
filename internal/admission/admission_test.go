package admission_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/admission"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

func init() { log.SetLogger(logr.Discard()) }

const controllerUser = "system:serviceaccount:spiderpool:spiderpool-controller"

// objects of the types that rules are made of.
var kinds = map[string]func() client.Object{
	"SpiderIPPool":     func() client.Object { return &v2beta1.SpiderIPPool{} },
	"SpiderSubnet":     func() client.Object { return &v2beta1.SpiderSubnet{} },
	"SpiderReservedIP": func() client.Object { return &v2beta1.SpiderReservedIP{} },
	"Node":             func() client.Object { return &corev1.Node{} },
}

// object reads one object of a rule, nil if text is empty.
func object(t *testing.T, text string) client.Object {
	t.Helper()
	if text == "" {
		return nil
	}
	kind, rest, _ := strings.Cut(text, " ")
	name, body, _ := strings.Cut(rest, " ")
	if kind == "held" {
		return entry(t, name, body)
	}
	o := kinds[kind]()
	if err := yaml.UnmarshalStrict([]byte(body), o); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	o.SetName(name)
	return o
}

// entry is a SpiderIP; rest is "POOL NAMESPACE/POD". It is in quarantine if the
// pod's name begins with "lost", and kept for a StatefulSet if with "kept".
func entry(t *testing.T, name, rest string) *v2beta1.SpiderIP {
	t.Helper()
	a, err := addr.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	in, holder, _ := strings.Cut(rest, " ")
	namespace, pod, _ := strings.Cut(holder, "/")
	ip := &v2beta1.SpiderIP{Spec: v2beta1.IPSpec{
		Address: a.String(), Pool: in, Node: "n1", Network: "net", Interface: "eth0", Netns: "/run/netns/a", ContainerID: "c",
		Pod: v2beta1.IPPod{Namespace: namespace, Name: pod, UID: "u"}, Use: v2beta1.IPUsePod,
	}}
	ip.Name = name
	if strings.HasPrefix(pod, "lost") {
		ip.Spec.Use = v2beta1.IPUseQuarantine
	}
	if owner, _, ok := strings.Cut(pod, "-"); ok && owner == "kept" {
		ip.Spec.Use, ip.Spec.Owner = v2beta1.IPUseKept, &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: owner, UID: "s"}
	}
	return ip
}

// judge compares what was said with what a rule wants.
func judge(t *testing.T, what, got, want string) {
	t.Helper()
	if (got == "") != (want == "") || !strings.Contains(got, want) {
		t.Errorf("%s is\n\t%q\nwant\n\t%q", what, got, want)
	}
}

// TestRules runs the table on the pure functions.
func TestRules(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			before, after := object(t, r.before), object(t, r.after)
			if before != nil && strings.HasPrefix(before.GetName(), "going") {
				terminate(before, after)
			}
			v := r.verdict(t, before, after)
			refusal := ""
			if err := v.Errors.ToAggregate(); err != nil {
				refusal = err.Error()
			}
			judge(t, "the refusal", refusal, r.want)
			judge(t, "the warnings", strings.Join(v.Warnings, "\n"), r.warn)
			for _, w := range v.Warnings {
				if len(w) > 256 {
					t.Errorf("the API server may cut off a warning of %d characters: %s", len(w), w)
				}
			}
		})
	}
}

func terminate(objects ...client.Object) {
	now := metav1.Now()
	for _, o := range objects {
		if o != nil {
			o.SetDeletionTimestamp(&now)
		}
	}
}

// verdict does on values what the webhooks do.
func (r *rule) verdict(t *testing.T, before, after client.Object) pool.Verdict {
	around := r.world(t, before)
	keep := strings.Contains(r.set, "keep")
	was, is := asPool(before), asPool(after)
	switch {
	case was != nil && is == nil:
		around.Held = r.held(t, was.Name, everything)
		if !keep {
			return pool.Verdict{}
		}
		return pool.CheckPoolDeletion(was, around.Held)
	case is != nil:
		if was == nil || !equality.Semantic.DeepEqual(was.Spec, is.Spec) {
			pool.DefaultPool(is, around.Subnets)
		}
		around.Held = r.held(t, is.Name, pool.ChangeOfPool(was, is).Removed)
		return pool.CheckPool(was, is, around)
	}
	if now, ok := after.(*v2beta1.SpiderReservedIP); ok {
		old, _ := before.(*v2beta1.SpiderReservedIP)
		around.Held = r.held(t, "", everything)
		return pool.CheckReserved(old, now, around)
	}
	old, _ := before.(*v2beta1.SpiderSubnet)
	if now, ok := after.(*v2beta1.SpiderSubnet); ok {
		return pool.CheckSubnet(old, now, around)
	}
	if old != nil && keep {
		return pool.CheckSubnetDeletion(old, around)
	}
	return pool.Verdict{}
}

var everything = addr.MakeSet(addr.PrefixRange(netip.MustParsePrefix("0.0.0.0/0")), addr.PrefixRange(netip.MustParsePrefix("::/0")))

func asPool(o client.Object) *v2beta1.SpiderIPPool {
	p, _ := o.(*v2beta1.SpiderIPPool)
	return p
}

// world is what stands around an edit.
func (r *rule) world(t *testing.T, before client.Object) pool.Around {
	around := pool.Around{IPv4: !strings.Contains(r.set, "-IPv4"), IPv6: !strings.Contains(r.set, "-IPv6"), ByController: r.controller}
	all := []client.Object{}
	if before != nil {
		all = append(all, before)
	}
	for _, text := range r.around {
		all = append(all, object(t, text))
	}
	for _, o := range all {
		if strings.HasPrefix(o.GetName(), "going") {
			terminate(o)
		}
		switch o := o.(type) {
		case *v2beta1.SpiderIPPool:
			around.Pools = append(around.Pools, *o)
		case *v2beta1.SpiderSubnet:
			if !strings.Contains(r.set, "-SpiderSubnet") {
				around.Subnets = append(around.Subnets, *o)
			}
		case *v2beta1.SpiderReservedIP:
			around.Reserved = append(around.Reserved, *o)
		case *corev1.Node:
			around.Nodes = append(around.Nodes, pool.NodeAddress{Node: o.Name, Address: netip.MustParseAddr(o.Status.Addresses[0].Address)})
		}
	}
	return around
}

// held is what the ledger would say.
func (r *rule) held(t *testing.T, name string, set addr.Set) (h pool.Held) {
	for _, text := range r.around {
		ip, ok := object(t, text).(*v2beta1.SpiderIP)
		if !ok {
			continue
		}
		if a := netip.MustParseAddr(ip.Spec.Address); set.Contains(a) && (name == "" || ip.Spec.Pool == name) {
			h.Addresses = h.Addresses.With(a)
			if len(h.Some) < pool.MaxHolders {
				h.Some = append(h.Some, *ip)
			}
		}
	}
	return h
}

// TestRulesThroughAPIServer runs the table on an API server that calls the
// webhooks as the chart installs them.
func TestRulesThroughAPIServer(t *testing.T) {
	w := newWorld(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			w.hooks.choose(r.set)
			w.unseen(func() {
				for _, text := range r.around {
					w.create(t, object(t, text))
				}
				if r.before != "" {
					w.create(t, object(t, r.before))
				}
			})
			err := w.edit(t, &r)
			refusal, want := "", r.want
			if err != nil {
				refusal = err.Error()
			}
			if r.crd != "" {
				want = r.crd
			}
			judge(t, "the refusal", refusal, want)
			if r.crd == "" { // else the webhooks were not asked
				judge(t, "the warnings", strings.Join(w.warnings.take(), "\n"), r.warn)
			}
		})
	}
}

// world is an API server with the product, and the clients of those who edit.
type world struct {
	server                *apiserver.Server
	served                *apiserver.Webhooks
	hooks                 *hooks
	admin, user, operator client.Client
	warnings              *warnings
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{server: apiserver.ForTest(t), warnings: &warnings{}}
	apiserver.InstallProduct(t, w.server)
	w.admin = w.clientFor(t, "admin", nil)
	w.user = w.clientFor(t, "somebody", w.warnings)
	w.operator = w.clientFor(t, controllerUser, w.warnings)
	w.hooks = newHooks(w.account(t))
	w.served = apiserver.ServeWebhooks(t, w.server, w.hooks.register)
	return w
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v2beta1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	return types
}

func (w *world) clientFor(t *testing.T, user string, warnings rest.WarningHandler) client.Client {
	t.Helper()
	cfg, err := w.server.ConfigFor(user, "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	cfg.WarningHandler = warnings
	c, err := client.New(cfg, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// account is the controller's own, with the roles of the chart and no other right.
func (w *world) account(t *testing.T) client.Client {
	t.Helper()
	c, err := client.New(apiserver.ControllerConfig(t, w.server), client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// unseen does something that no webhook has a say in.
func (w *world) unseen(do func()) {
	w.hooks.off.Store(true)
	defer w.hooks.off.Store(false)
	do()
}

// create makes an object with its status, and takes it away at the end. One
// whose name begins with "going" is being deleted.
func (w *world) create(t *testing.T, o client.Object) {
	t.Helper()
	ctx := t.Context()
	wanted := o.DeepCopyObject().(client.Object)
	if err := w.admin.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.unseen(func() { w.remove(t, o) }) })
	if p := asPool(wanted); p != nil && p.Status.AllocatedIPs != nil {
		wanted.SetResourceVersion(o.GetResourceVersion())
		if err := w.admin.Status().Update(ctx, wanted); err != nil {
			t.Fatal(err)
		}
	}
	if strings.HasPrefix(o.GetName(), "going") {
		if err := w.admin.Delete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) remove(t *testing.T, o client.Object) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	without := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null,"annotations":{"ipam.spidernet.io/allow-delete":"true"}}}`))
	if err := client.IgnoreNotFound(w.admin.Patch(ctx, o, without)); err != nil {
		t.Error(err)
	}
	if err := client.IgnoreNotFound(w.admin.Delete(ctx, o)); err != nil {
		t.Error(err)
	}
}

// edit does what a rule is about.
func (w *world) edit(t *testing.T, r *rule) error {
	t.Helper()
	ctx, c := t.Context(), w.user
	if r.controller {
		c = w.operator
	}
	w.warnings.take()
	before, after := object(t, r.before), object(t, r.after)
	switch {
	case after == nil:
		return c.Delete(ctx, before)
	case before == nil:
		t.Cleanup(func() { w.unseen(func() { w.remove(t, after) }) })
		return c.Create(ctx, after)
	}
	now := before.DeepCopyObject().(client.Object)
	if err := w.admin.Get(ctx, client.ObjectKeyFromObject(after), now); err != nil {
		t.Fatal(err)
	}
	after.SetResourceVersion(now.GetResourceVersion())
	return c.Update(ctx, after)
}

// warnings are those that a client was given.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.Contains(text, "prefer a domain-qualified finalizer name") { // the API server's own, of a name that installations have
		w.said = append(w.said, text)
	}
}

func (w *warnings) take() (said []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	said, w.said = w.said, nil
	return said
}

// hooks are the webhooks with all that can be switched, of which one is chosen.
type hooks struct {
	live   client.Client
	off    atomic.Bool // lets everything pass
	calls  atomic.Int64
	chosen atomic.Pointer[recorder]
	made   map[string]*recorder
}

// recorder keeps what is registered.
type recorder struct {
	webhook.Server
	served map[string]http.Handler
}

func (r *recorder) Register(path string, h http.Handler) { r.served[path] = h }

func newHooks(live client.Client) *hooks {
	h := &hooks{live: live, made: map[string]*recorder{}}
	h.choose("")
	return h
}

func (h *hooks) choose(set string) {
	r := h.made[set]
	if r == nil {
		r = &recorder{served: map[string]http.Handler{}}
		admission.Register(r, admission.Options{
			Live: h.live, Ledger: ledger.New(h.live), Username: controllerUser,
			EnableIPv4: !strings.Contains(set, "-IPv4"), EnableIPv6: !strings.Contains(set, "-IPv6"),
			EnableSpiderSubnet:                      !strings.Contains(set, "-SpiderSubnet"),
			EnableValidatingResourcesDeletedWebhook: strings.Contains(set, "keep"),
		})
		h.made[set] = r
	}
	h.chosen.Store(r)
}

func (h *hooks) register(s webhook.Server) {
	for path := range h.chosen.Load().served {
		s.Register(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.calls.Add(1)
			if h.off.Load() {
				letPass(w, r)
				return
			}
			h.chosen.Load().served[path].ServeHTTP(w, r)
		}))
	}
}

func letPass(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	_ = json.NewEncoder(w).Encode(review)
}
