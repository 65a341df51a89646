package world

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

const wait = 30 * time.Second

// frost freezes the watch of the reservations: the connection stays, and
// nothing comes any more.
type frost struct {
	next   http.RoundTripper
	frozen atomic.Bool
}

func (f *frost) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(r)
	if err == nil && strings.Contains(r.URL.Path, "spiderreservedips") && r.URL.Query().Get("watch") != "" {
		resp.Body = &frosty{ReadCloser: resp.Body, frost: f, over: r.Context().Done()}
	}
	return resp, err
}

type frosty struct {
	io.ReadCloser
	*frost
	over <-chan struct{}
}

func (f *frosty) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if f.frozen.Load() {
		<-f.over
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestFreshReserved: reservations that a watch brings are read by nobody; when
// it has brought nothing for a time they are read once.
func TestFreshReserved(t *testing.T) {
	server := apiserver.ForTest(t)
	if _, err := envtest.InstallCRDs(server.Config(), envtest.CRDInstallOptions{
		Paths: []string{filepath.Join("..", "..", "charts", "spiderpool", "files", "generated", "crds")}, ErrorIfPathMissing: true,
	}); err != nil {
		t.Fatal(err)
	}
	var lists atomic.Int32
	live, err := client.NewWithWatch(server.Config(), client.Options{Scheme: Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	counted := interceptor.NewClient(live, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			lists.Add(1)
			return c.List(ctx, l, opts...)
		},
	})
	f := &frost{}
	config := rest.CopyConfig(server.Config())
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	w, err := New(config, counted, "n1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if !w.Synced(ctx) {
		t.Fatal("no first list")
	}
	reserve := func(name, ip string) {
		o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: name}}
		o.Spec.IPs = []string{ip}
		if err := live.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = live.Delete(context.Background(), o) })
	}
	reserve("first", "10.1.0.1")
	for late := time.Now().Add(wait); w.Reserved().IsEmpty(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the watch brings nothing")
		}
	}
	if err := w.FreshReserved(ctx); err != nil || lists.Load() != 0 {
		t.Fatalf("error %v, %d LISTs though the watch works", err, lists.Load())
	}
	f.frozen.Store(true)
	reserve("second", "10.1.0.2-10.1.0.9")
	if err := w.FreshReserved(ctx); err != nil || lists.Load() != 0 || w.Reserved().String() != "10.1.0.1" {
		t.Fatalf("error %v, %d LISTs, reserved %s: the watch was not frozen", err, lists.Load(), w.Reserved())
	}
	w.mu.Lock()
	w.heard = w.heard.Add(-reservedFor)
	w.mu.Unlock()
	for range 2 {
		if err := w.FreshReserved(ctx); err != nil || lists.Load() != 1 || w.Reserved().String() != "10.1.0.1-10.1.0.9" {
			t.Errorf("error %v, %d LISTs, reserved %s", err, lists.Load(), w.Reserved())
		}
	}
}
