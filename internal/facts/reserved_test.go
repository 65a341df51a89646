package facts

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
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
	live, err := client.NewWithWatch(server.Config(), client.Options{Scheme: apiclient.Scheme()})
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

func serverWith(t *testing.T) (*apiserver.Server, client.WithWatch) {
	server := apiserver.ForTest(t)
	if _, err := envtest.InstallCRDs(server.Config(), envtest.CRDInstallOptions{
		Paths: []string{filepath.Join("..", "..", "charts", "spiderpool", "files", "generated", "crds")}, ErrorIfPathMissing: true,
	}); err != nil {
		t.Fatal(err)
	}
	live, err := client.NewWithWatch(server.Config(), client.Options{Scheme: apiclient.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return server, live
}

func running(t *testing.T, w *Facts) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ctx
}

// TestSyncedKnowsTheReservations: when the first lists have come, what they
// bring counts.
func TestSyncedKnowsTheReservations(t *testing.T) {
	const objects, ranges = 60, 500
	server, live := serverWith(t)
	var group sync.WaitGroup
	next := make(chan int)
	for range 8 {
		group.Go(func() {
			for i := range next {
				o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("r%03d", i)}}
				for j := range ranges {
					o.Spec.IPs = append(o.Spec.IPs, fmt.Sprintf("10.%d.%d.%d", i, j/100, 2*(j%100)))
				}
				if err := live.Create(t.Context(), o); err != nil {
					t.Error(err)
				}
				t.Cleanup(func() { _ = live.Delete(context.Background(), o) })
			}
		})
	}
	for i := range objects {
		next <- i
	}
	close(next)
	group.Wait()
	w, err := New(server.Config(), live, "n1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := running(t, w)
	if !w.Synced(ctx) {
		t.Fatal("no first list")
	}
	synced := time.Now()
	if err := w.FreshReserved(ctx); err != nil {
		t.Fatal(err)
	}
	first := w.Reserved().Count().String()
	want := fmt.Sprint(objects * ranges)
	if first == want {
		return
	}
	for w.Reserved().Count().String() != want {
		time.Sleep(time.Millisecond)
	}
	t.Errorf("synced and fresh, and %s addresses are reserved; %s later they are %s", first, time.Since(synced), want)
}

// TestListDoesNotUndoTheWatch: a LIST of the reservations is on its way when the
// watch brings a new one.
func TestListDoesNotUndoTheWatch(t *testing.T) {
	server, live := serverWith(t)
	var hold atomic.Bool
	read, answer := make(chan struct{}), make(chan struct{})
	slow := interceptor.NewClient(live, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			err := c.List(ctx, l, opts...)
			if _, ok := l.(*v2beta1.SpiderReservedIPList); ok && hold.CompareAndSwap(true, false) {
				close(read)
				<-answer
			}
			return err
		},
	})
	w, err := New(server.Config(), slow, "n1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := running(t, w)
	if !w.Synced(ctx) {
		t.Fatal("no first list")
	}
	if err := w.FreshReserved(ctx); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.heard = time.Now().Add(-reservedFor) // the watch was silent
	w.mu.Unlock()
	hold.Store(true)
	fresh := make(chan error, 1)
	go func() { fresh <- w.FreshReserved(ctx) }()
	<-read
	o := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "late"}}
	o.Spec.IPs = []string{"10.1.0.1"}
	if err := live.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = live.Delete(context.Background(), o) })
	for late := time.Now().Add(wait); !strings.Contains(w.Reserved().String(), "10.1.0.1"); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the watch brings nothing")
		}
	}
	close(answer)
	if err := <-fresh; err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if got := w.Reserved().String(); got != "10.1.0.1" {
		t.Errorf("reserved %q, the watch has brought 10.1.0.1", got)
	}
}
