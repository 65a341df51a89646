package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// wait bounds what the tests wait for; nothing should come near it.
const wait = 30 * time.Second

// cluster is an API server seen by an administrator, with no other pool than the
// test's.
type cluster struct {
	client.WithWatch
	t      testing.TB
	server *apiserver.Server
	ledger *ledger.Ledger
}

var installed sync.Once

func newCluster(t testing.TB) *cluster {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	server := apiserver.ForTest(t)
	installed.Do(func() { apiserver.InstallProduct(t, server) })
	c := clusterOf(t, server)
	c.clear() // of what tests of default pools left
	t.Cleanup(c.clear)
	return c
}

func clusterOf(t testing.TB, server *apiserver.Server) *cluster {
	t.Helper()
	admin, err := client.NewWithWatch(server.Config(), client.Options{Scheme: apiclient.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := apiclient.New(apiserver.AgentConfig(t, server, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{admin, t, server, ledger.New(agent.Live)}
}

// counted are clients with the rights of the controller. Their requests are counted, and before each of them before is called,
// unless it points to nil then.
func (c *cluster) counted(r *requests, before *func(request string) error) *apiclient.Clients {
	c.t.Helper()
	cfg := apiserver.ControllerConfig(c.t, c.server)
	cfg.Wrap(r.wrap)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if *before != nil {
				if err := (*before)(r.Method + " " + r.URL.Path); err != nil {
					return nil, err
				}
			}
			return next.RoundTrip(r)
		})
	})
	clients, err := apiclient.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return clients
}

// clear removes what the test has left. Controllers have ended by then.
func (c *cluster) clear() {
	ctx := context.Background()
	var pools v2beta1.SpiderIPPoolList
	var subnets v2beta1.SpiderSubnetList
	if err := errors.Join(c.List(ctx, &pools), c.List(ctx, &subnets)); err != nil {
		c.t.Fatal(err)
	}
	var kept []client.Object
	for i := range pools.Items {
		kept = append(kept, &pools.Items[i])
	}
	for i := range subnets.Items {
		kept = append(kept, &subnets.Items[i])
	}
	for _, o := range kept {
		if err := c.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
			c.t.Error(err)
		}
	}
	var held v2beta1.SpiderIPList
	if err := c.List(ctx, &held); err != nil {
		c.t.Fatal(err)
	}
	parallel(len(held.Items), func(i int) {
		if err := client.IgnoreNotFound(apiserver.DeleteSpiderIP(ctx, c, &held.Items[i])); err != nil {
			c.t.Error(err)
		}
	})
	for _, o := range []client.Object{&v2beta1.SpiderIPPool{}, &v2beta1.SpiderReservedIP{}, &v2beta1.SpiderSubnet{}, &corev1.Node{}} {
		if err := c.DeleteAllOf(ctx, o); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) create(o client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) delete(o client.Object) {
	c.t.Helper()
	if err := c.Delete(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

// pool makes a pool of 10.6.0.0/16, as admission lets it in.
func (c *cluster) pool(name string, ips ...string) *v2beta1.SpiderIPPool {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Subnet, p.Spec.IPs = "10.6.0.0/16", ips
	pool.DefaultPool(p, nil)
	c.create(p)
	return p
}

// edit changes a pool as it is now.
func (c *cluster) edit(name string, edit func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{}
	c.get(name, p)
	before := p.DeepCopy()
	edit(p)
	if err := c.Patch(c.t.Context(), p, client.MergeFrom(before)); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// editStatus changes the status of a pool as it is now.
func (c *cluster) editStatus(name string, edit func(*v2beta1.IPPoolStatus)) {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{}
	c.get(name, p)
	before := p.DeepCopy()
	edit(&p.Status)
	if err := c.Status().Patch(c.t.Context(), p, client.MergeFrom(before)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) get(name string, o client.Object) {
	c.t.Helper()
	if err := c.Get(c.t.Context(), client.ObjectKey{Name: name}, o); err != nil {
		c.t.Fatal(err)
	}
}

// entryIn is an entry of an address in the name of a pool.
func entryIn(pool, address string) *v2beta1.SpiderIP {
	return &v2beta1.SpiderIP{Spec: v2beta1.IPSpec{
		Address: address, Pool: pool, Node: "n1", Network: "net", Interface: "eth0", Netns: "/run/netns/x", ContainerID: "c",
		Pod: v2beta1.IPPod{Namespace: "shop", Name: "web-" + address, UID: "uid-" + address},
	}}
}

// claim holds an address in the name of a pool.
func (c *cluster) claim(pool, address string) *v2beta1.SpiderIP {
	c.t.Helper()
	e := entryIn(pool, address)
	if err := c.ledger.Claim(c.t.Context(), e); err != nil {
		c.t.Fatal(err)
	}
	return e
}

func (c *cluster) release(e *v2beta1.SpiderIP) {
	c.t.Helper()
	if err := c.ledger.Release(c.t.Context(), e); err != nil {
		c.t.Fatal(err)
	}
}

// node makes a node with addresses.
func (c *cluster) node(name string, addresses ...string) *corev1.Node {
	c.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.create(n)
	c.address(n, addresses...)
	return n
}

func (c *cluster) address(n *corev1.Node, addresses ...string) {
	c.t.Helper()
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "10.6.0.19"}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	if err := c.Status().Update(c.t.Context(), n); err != nil {
		c.t.Fatal(err)
	}
}

// reserve makes a reservation, as admission lets it in.
func (c *cluster) reserve(name string, ips ...string) *v2beta1.SpiderReservedIP {
	c.t.Helper()
	o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec.IPs = ips
	pool.DefaultReserved(o)
	c.create(o)
	return o
}

// eventually waits until a condition holds.
func (c *cluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	for late := time.Now().Add(wait); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			c.t.Fatalf("it did not happen in %s: %s", wait, what)
		}
	}
}

// status waits until the status of a pool reads so and is of the pool's present
// version.
func (c *cluster) status(name, want string) *v2beta1.SpiderIPPool {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{}
	for late := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		c.get(name, p)
		got := summary(p.Status)
		if got == want && observed(p) {
			return p
		}
		if time.Now().After(late) {
			c.t.Fatalf("pool %s: %s\nof generation %d and %q\n want\n%s\nof generation %d and %q", name,
				got, p.Status.ObservedGeneration, p.Status.ObservedReserved, want, p.Generation, p.Annotations[v2beta1.AnnotationReserved])
		}
	}
}

func observed(p *v2beta1.SpiderIPPool) bool {
	return p.Status.ObservedGeneration == p.Generation && p.Status.ObservedReserved == p.Annotations[v2beta1.AnnotationReserved]
}

// unused is the status of a pool of n addresses of which none is held.
func unused(n int) string { return inUse(0, n) }

func inUse(used, n int) string { return fmt.Sprintf("%d of %d, draining 0 []", used, n) + fine }

// requests counts what a controller asks of the API server, by verb and path.
type requests struct {
	mu   sync.Mutex
	list []string
}

func (r *requests) wrap(next http.RoundTripper) http.RoundTripper {
	return tripper(func(q *http.Request) (*http.Response, error) {
		verb := q.Method
		if q.URL.Query().Get("watch") != "" {
			verb = "WATCH"
		}
		path := strings.TrimPrefix(q.URL.Path, "/apis/spiderpool.spidernet.io/v2beta1/")
		if selector := q.URL.Query().Get("fieldSelector"); selector != "" {
			path += "?" + selector
		}
		r.mu.Lock()
		r.list = append(r.list, verb+" "+path)
		r.mu.Unlock()
		return next.RoundTrip(q)
	})
}

// take returns what was asked since the last call, but for watches, Events and leases.
func (r *requests) take() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.list {
		if !strings.HasPrefix(line, "WATCH") && !strings.Contains(line, "/events") {
			out = append(out, line)
		}
	}
	r.list = nil
	return out
}

// tripper is a function as http.RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// leader is a controller that leads.
type leader struct {
	requests *requests
	registry *prometheus.Registry
	events   *record.FakeRecorder
	stop     func()
}

// lead starts a controller under the role that the chart ships. wrap stands between
// it and the API server.
func (c *cluster) lead(wrap ...func(http.RoundTripper) http.RoundTripper) *leader {
	c.t.Helper()
	return leadWith(c.t, apiserver.ControllerConfig(c.t, c.server), wrap...)
}

func leadWith(t testing.TB, cfg *rest.Config, wrap ...func(http.RoundTripper) http.RoundTripper) *leader {
	t.Helper()
	return leadAs(t, cfg, func(*manager.Options, *Options) {}, wrap...)
}

// leadAs starts a controller with other options.
func leadAs(t testing.TB, cfg *rest.Config, change func(*manager.Options, *Options), wrap ...func(http.RoundTripper) http.RoundTripper) *leader {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	l := &leader{requests: &requests{}, registry: prometheus.NewRegistry(), events: record.NewFakeRecorder(10000)}
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(l.requests.wrap)
	for _, w := range wrap {
		cfg.Wrap(w)
	}
	clients, err := apiclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	m := manager.Options{
		Scheme: apiclient.Scheme(), MapperProvider: apiclient.Mapper, Metrics: metricsserver.Options{BindAddress: "0"},
		Controller: ctrlconfig.Controller{SkipNameValidation: &yes}, Logger: logr.Discard(),
	}
	o := Options{Live: clients.Live, Watch: clients.Watch, Events: l.events, Metrics: l.registry, DebugMetrics: true,
		FixedAddresses: keepAll, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	change(&m, &o)
	mgr, err := manager.New(clients.Watch, m)
	if err == nil {
		err = Setup(mgr, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var stopped atomic.Bool
	done.Go(func() {
		if err := mgr.Start(ctx); err != nil && !stopped.Load() {
			t.Errorf("the controller ended: %v", err)
		}
	})
	l.stop = sync.OnceFunc(func() { stopped.Store(true); cancel(); done.Wait() })
	t.Cleanup(l.stop)
	return l
}

// count is how many requests take would return.
func (l *leader) count() (n int) {
	l.requests.mu.Lock()
	defer l.requests.mu.Unlock()
	return len(l.requests.list)
}

// quiet waits until a controller asks nothing for longer than it would put off
// what it has to do.
func (l *leader) quiet() {
	for last := -1; last != l.count(); time.Sleep(gather + perPool + 500*time.Millisecond) {
		last = l.count()
	}
}

// value is that of one series, or -1.
func (l *leader) value(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			matches := f.GetName() == name
			for i := 0; i+1 < len(labels); i += 2 {
				has := false
				for _, p := range m.Label {
					has = has || p.GetName() == labels[i] && p.GetValue() == labels[i+1]
				}
				matches = matches && has
			}
			if matches {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// nth is an address of 10.6.0.0/16.
func nth(n int) string { return netip.AddrFrom4([4]byte{10, 6, byte(n >> 8), byte(n)}).String() }
