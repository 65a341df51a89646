package apiclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// server answers every request by a function and keeps what it was asked.
func server(t *testing.T, answer http.HandlerFunc) (*Clients, func() []*http.Request) {
	t.Helper()
	var mu sync.Mutex
	var seen []*http.Request
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Clone(context.Background()))
		mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	clients, err := New(&rest.Config{Host: s.URL, Timeout: time.Hour, QPS: 1, Burst: 1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	return clients, func() []*http.Request {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func status(code int32, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(int(code))
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: code})
	}
}

// TestRequests: what every request says, and that none is sent before the first
// that is asked for: no kind that the daemons use has to be discovered.
func TestRequests(t *testing.T) {
	clients, seen := server(t, status(http.StatusNotFound))
	if n := len(seen()); n != 0 {
		t.Fatalf("New sent %d requests", n)
	}
	ofKind := func(version, kind string) client.Object {
		m := &metav1.PartialObjectMetadata{}
		m.SetGroupVersionKind(schema.FromAPIVersionAndKind(version, kind))
		return m
	}
	for _, tc := range []struct {
		object client.Object
		path   string
	}{
		{&v2beta1.SpiderIPPool{}, "/apis/spiderpool.spidernet.io/v2beta1/spiderippools/x"},
		{&v2beta1.SpiderIP{}, "/apis/spiderpool.spidernet.io/v2beta1/spiderips/x"},
		{&v2beta1.SpiderReservedIP{}, "/apis/spiderpool.spidernet.io/v2beta1/spiderreservedips/x"},
		{&v2beta1.SpiderSubnet{}, "/apis/spiderpool.spidernet.io/v2beta1/spidersubnets/x"},
		{&v2beta1.SpiderEndpoint{}, "/apis/spiderpool.spidernet.io/v2beta1/namespaces/n/spiderendpoints/x"},
		{&corev1.Pod{}, "/api/v1/namespaces/n/pods/x"},
		{&corev1.Node{}, "/api/v1/nodes/x"},
		{ofKind("v1", "Namespace"), "/api/v1/namespaces/x"},
		{ofKind("apps/v1", "ReplicaSet"), "/apis/apps/v1/namespaces/n/replicasets/x"},
		{ofKind("batch/v1", "Job"), "/apis/batch/v1/namespaces/n/jobs/x"},
	} {
		before := len(seen())
		if err := clients.Live.Get(t.Context(), client.ObjectKey{Namespace: "n", Name: "x"}, tc.object); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", tc.path, err)
		}
		asked := seen()[before:]
		if len(asked) != 1 || asked[0].URL.Path != tc.path {
			t.Fatalf("%s: %d requests, the first for %s", tc.path, len(asked), asked[0].URL.Path)
		}
		if got := asked[0].URL.Query().Get("timeout"); got != RequestTimeout.String() {
			t.Errorf("%s: the API server is told %q for a timeout", tc.path, got)
		}
		if got := asked[0].Header.Get("Accept-Encoding"); got != "" {
			t.Errorf("%s: accepts %s", tc.path, got)
		}
	}
	if clients.Watch.Timeout != 0 || clients.Watch.QPS >= 0 {
		t.Errorf("watches have a timeout of %s and %v requests a second", clients.Watch.Timeout, clients.Watch.QPS)
	}
}

// TestOtherKinds: a kind that is not known is discovered when it is read.
func TestOtherKinds(t *testing.T) {
	clients, err := New(apiserver.ForTest(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(schema.FromAPIVersionAndKind("rbac.authorization.k8s.io/v1", "ClusterRole"))
	if err := clients.Live.Get(t.Context(), client.ObjectKey{Name: "cluster-admin"}, m); err != nil || m.UID == "" {
		t.Errorf("UID %q, %v", m.UID, err)
	}
}

// TestRepeats: a write is repeated by itself only if the API server has said
// that it did nothing; reads are.
func TestRepeats(t *testing.T) {
	ip := func() *v2beta1.SpiderIP {
		return &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.1.0.9", ResourceVersion: "1"}}
	}
	writes := map[string]func(context.Context, client.Client) error{
		"create": func(ctx context.Context, c client.Client) error {
			e := ip()
			e.ResourceVersion = ""
			return c.Create(ctx, e)
		},
		"update": func(ctx context.Context, c client.Client) error { return c.Update(ctx, ip()) },
		"delete": func(ctx context.Context, c client.Client) error { return c.Delete(ctx, ip()) },
		"patch": func(ctx context.Context, c client.Client) error {
			return c.Patch(ctx, ip(), client.RawPatch("application/merge-patch+json", []byte("{}")))
		},
	}
	get := func(ctx context.Context, c client.Client) error {
		return c.Get(ctx, client.ObjectKey{Name: "10.1.0.9"}, ip())
	}
	try := func(t *testing.T, do func(context.Context, client.Client) error, code int32) int {
		first := true
		clients, seen := server(t, func(w http.ResponseWriter, r *http.Request) {
			if !first {
				status(http.StatusNotFound)(w, r)
				return
			}
			first = false
			status(code, "Retry-After", "0")(w, r)
		})
		if err := do(t.Context(), clients.Live); err == nil {
			t.Error("no error")
		}
		return len(seen())
	}
	for verb, write := range writes {
		for code, want := range map[int32]int{503: 1, 500: 1, 504: 1, 429: 2} {
			if got := try(t, write, code); got != want {
				t.Errorf("%s answered %d: %d requests, want %d", verb, code, got, want)
			}
		}
	}
	if got := try(t, get, 503); got != 2 {
		t.Errorf("get answered 503: %d requests", got)
	}
}

// TestBounded: so many requests are under way and no more; who is not let
// through is told that nothing was sent, also by clients made of the same
// configuration, and later requests pass.
func TestBounded(t *testing.T) {
	var inFlight, most atomic.Int32
	release := make(chan struct{})
	clients, seen := server(t, func(w http.ResponseWriter, r *http.Request) {
		if n := inFlight.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		inFlight.Add(-1)
		status(http.StatusNotFound)(w, r)
	})
	open := sync.OnceFunc(func() { close(release) })
	t.Cleanup(open)
	var group sync.WaitGroup
	for range 2 * MaxInFlight {
		group.Go(func() { _ = clients.Live.Get(t.Context(), client.ObjectKey{Name: "x"}, &v2beta1.SpiderIP{}) })
	}
	for inFlight.Load() < MaxInFlight {
		if t.Context().Err() != nil {
			t.Fatal("too few requests came")
		}
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := clients.Live.Create(ctx, &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "late"}}); !errors.Is(err, ErrNotSent) {
		t.Errorf("a request without a slot: %v", err)
	}
	if _, err := clients.Events.Events("n").Get(ctx, "x", metav1.GetOptions{}); err == nil {
		t.Error("Events have slots of their own")
	}
	open()
	group.Wait()
	if n := most.Load(); n != MaxInFlight {
		t.Errorf("%d requests were under way", n)
	}
	for _, r := range seen() {
		if r.Method != http.MethodGet {
			t.Errorf("%s %s was sent", r.Method, r.URL.Path)
		}
	}
}

// tripper is a function as http.RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body tells whether it was closed.
type body struct {
	io.Reader
	closed atomic.Bool
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// TestNotSent: a request that gets no slot ends before the client's own timeout,
// which would hide that it was not sent, and its body is closed.
func TestNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bounded{slots: make(chan struct{}, 1), next: tripper(func(*http.Request) (*http.Response, error) {
			t.Error("it was sent")
			return nil, errors.New("sent")
		})}
		b.slots <- struct{}{}
		c := &http.Client{Transport: b, Timeout: RequestTimeout}
		for _, patience := range []time.Duration{time.Second, time.Hour} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			content := &body{Reader: strings.NewReader("{}")}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x", content)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(r)
			if err == nil {
				resp.Body.Close()
			}
			if !errors.Is(err, ErrNotSent) || !content.closed.Load() {
				t.Errorf("error %v, body closed: %t", err, content.closed.Load())
			}
		}
	})
}

// TestDeadConnection: a watch whose connection died without a word ends.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	var dead atomic.Bool
	clients, err := New(&rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &mute{c, &dead}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := rest.HTTPClientFor(clients.Watch)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Get(s.URL) //nolint:bodyclose // by the defer below
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dead.Store(true)
	ended := make(chan error, 1)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(25 * time.Second):
		t.Error("a dead connection is taken for a living one")
	}
	s.CloseClientConnections()
}

// mute is a connection on which nothing passes any more once it is dead.
type mute struct {
	net.Conn
	dead *atomic.Bool
}

func (m *mute) Write(b []byte) (int, error) {
	if m.dead.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// TestLoadingRoles: a missing role may come, a missing right does not.
func TestLoadingRoles(t *testing.T) {
	refused := func(text string) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New(text))
	}
	const plain = `User "system:serviceaccount:kube-system:spiderpool-agent" cannot get resource "pods" in API group "" in the namespace "shop"`
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{refused(plain + `: RBAC: clusterrole.rbac.authorization.k8s.io "spiderpool-agent" not found`), true},
		{refused(plain + `: RBAC: [clusterrole.rbac.authorization.k8s.io "a" not found, role.rbac.authorization.k8s.io "b" not found]`), true},
		{refused(plain), false},
		{apierrors.NewNotFound(schema.GroupResource{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, "x"), false},
		{errors.New(`clusterrole.rbac.authorization.k8s.io "x" not found`), false},
		{nil, false},
	} {
		if got := LoadingRoles(tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}
