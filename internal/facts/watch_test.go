package facts

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// tripper is a function as http.RoundTripper.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestAway: facts are made and run while the API server is away, say what is
// missing, and find it when it is back.
func TestAway(t *testing.T) {
	server, live := serverWith(t)
	var away atomic.Bool
	away.Store(true)
	config := server.Config()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if away.Load() {
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
			return next.RoundTrip(r)
		})
	})
	w, err := New(config, live, "n1")
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"pods", "spiderippools", "spiderreservedips", "nodes", "namespaces"}
	if got := w.Missing(); !slices.Equal(got, all) {
		t.Errorf("missing before Run: %v", got)
	}
	ctx := running(t, w)
	if got := w.Await(ctx, 100*time.Millisecond); !slices.Equal(got, all) {
		t.Errorf("missing: %v", got)
	}
	if w.CachedPod(ctx, client.ObjectKey{Namespace: "default", Name: "x"}, "u") != nil { // and it does not wait
		t.Error("a pod is known")
	}
	if _, err := w.metadata(ctx, ofNamespaces, namespaceKind, "default"); err != nil {
		t.Errorf("a namespace is not read live: %v", err)
	}
	away.Store(false)
	if got := w.Await(ctx, timeout); len(got) > 0 {
		t.Errorf("missing when the API server is back: %v", got)
	}
}

// TestEatenBookmarks: a proxy that holds back bookmarks keeps no first list away.
func TestEatenBookmarks(t *testing.T) {
	server, live := serverWith(t)
	config := server.Config()
	config.ContentType = "application/json" // so that they can be told
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && r.URL.Query().Get("watch") != "" {
				resp.Body = withoutBookmarks(resp.Body)
			}
			return resp, err
		})
	})
	w, err := New(config, live, "n1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := running(t, w)
	if missing := w.Await(ctx, timeout); len(missing) > 0 {
		t.Errorf("no first list of %v", missing)
	}
}

func withoutBookmarks(body io.ReadCloser) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		lines := bufio.NewReader(body)
		for {
			line, err := lines.ReadString('\n')
			if !strings.Contains(line, `"type":"BOOKMARK"`) {
				_, _ = io.WriteString(w, line)
			}
			if err != nil {
				w.CloseWithError(err)
				return
			}
		}
	}()
	return struct {
		io.Reader
		io.Closer
	}{r, body}
}

// TestPoolsWithoutWatch: while the watch of the pools is missing they are read
// now and then, so that default pools and patterns work; then no more.
func TestPoolsWithoutWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &reader{pools: map[string]*v2beta1.SpiderIPPool{"a": object("a", "u1", "5", 1)}}
		w := empty(api, "n1")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go w.readPoolsUntilWatched(ctx)
		edited := w.PoolsChanged()
		time.Sleep(2*poolsFor + time.Second)
		synctest.Wait()
		if api.lists != 2 || len(w.Pools()) != 1 {
			t.Errorf("%d LISTs, pools %v", api.lists, w.Pools())
		}
		select {
		case <-edited:
		default:
			t.Error("nobody was told of the pool")
		}
		api.mu.Lock()
		delete(api.pools, "a")
		api.mu.Unlock()
		time.Sleep(poolsFor)
		synctest.Wait()
		if len(w.Pools()) != 0 {
			t.Error("a pool that is gone is still there")
		}
		w.handled.Store(ofPools, toolscache.InformerSynced(func() bool { return true }))
		time.Sleep(10 * poolsFor)
		synctest.Wait()
		if api.lists != 3 {
			t.Errorf("%d LISTs though the watch is there", api.lists)
		}
	})
}

// TestAwaitedIsHandled: a watch whose first list came is missing until that is
// known here.
func TestAwaitedIsHandled(t *testing.T) {
	server, live := serverWith(t)
	p := object("handled", "", "", 7)
	if err := live.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = live.Delete(context.Background(), p) })
	w, err := New(server.Config(), live, "n1")
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock() // the handler cannot go on
	ctx := running(t, w)
	informer, err := w.cache.GetInformer(ctx, &v2beta1.SpiderIPPool{}, cache.BlockUntilSynced(false))
	for late := time.Now().Add(timeout); err == nil && !informer.HasSynced(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			err = errors.New("no first list")
		}
	}
	early := w.has(ofPools)
	w.mu.Unlock()
	if err != nil || early {
		t.Fatalf("error %v; not missing before it was handled: %t", err, early)
	}
	if missing := w.Await(ctx, timeout); len(missing) > 0 || w.knownPool("handled").pool == nil {
		t.Errorf("missing %v, the pool is %v", missing, w.knownPool("handled"))
	}
}
