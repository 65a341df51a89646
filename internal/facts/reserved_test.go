package facts

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

const timeout = 30 * time.Second

// TestFreshReserved: reservations that a watch brings are read by nobody; when
// it has brought nothing for a time they are read once.
func TestFreshReserved(t *testing.T) {
	server, live := serverWith(t)
	var lists atomic.Int32
	counted := interceptor.NewClient(live, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			lists.Add(1)
			return c.List(ctx, l, opts...)
		},
	})
	valve := apiserver.NewValve(t, "spiderreservedips")
	config := server.Config()
	config.Wrap(valve.Wrap)
	w, err := New(config, counted, "n1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := running(t, w)
	if missing := w.Await(ctx, timeout); len(missing) > 0 {
		t.Fatalf("no first list of %v", missing)
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
	for late := time.Now().Add(timeout); w.Reserved().IsEmpty(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the watch brings nothing")
		}
	}
	if err := w.FreshReserved(ctx); err != nil || lists.Load() != 0 {
		t.Fatalf("error %v, %d LISTs though the watch works", err, lists.Load())
	}
	valve.Shut()
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
	t.Helper()
	server := apiserver.ForTest(t)
	apiserver.InstallProduct(t, server)
	clients, err := apiclient.New(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	return server, clients.Live
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
	if missing := w.Await(ctx, timeout); len(missing) > 0 {
		t.Fatalf("no first list of %v", missing)
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
	for late := time.Now().Add(timeout); !strings.Contains(w.Reserved().String(), "10.1.0.1"); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the watch brings nothing")
		}
	}
	close(answer)
	if err := <-fresh; err != nil {
		t.Fatal(err)
	}
	if got := w.Reserved().String(); got != "10.1.0.1" {
		t.Errorf("reserved %q, the watch has brought 10.1.0.1", got)
	}
}
