package apiserver

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Valve holds back what the watches of one resource bring to a client: their
// connections stay, and nothing comes. It is open at first.
type Valve struct {
	resource string
	mu       sync.Mutex
	open     chan struct{} // closed while it flows
}

// NewValve makes a valve for a resource, as "spiderippools". It opens when the
// test ends, so that nothing that waits behind it outlives the test.
func NewValve(tb testing.TB, resource string) *Valve {
	v := &Valve{resource: resource, open: make(chan struct{})}
	close(v.open)
	tb.Cleanup(v.Open)
	return v
}

// Shut holds back what comes from now on.
func (v *Valve) Shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if isClosed(v.open) {
		v.open = make(chan struct{})
	}
}

// Open lets flow what was held back, and what comes from now on.
func (v *Valve) Open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !isClosed(v.open) {
		close(v.open)
	}
}

func (v *Valve) flows() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Wrap puts the valve into a client: pass it to rest.Config.Wrap.
func (v *Valve) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && IsWatch(r, v.resource) {
			resp.Body = &valved{ReadCloser: resp.Body, valve: v, closed: make(chan struct{})}
		}
		return resp, err
	})
}

// IsWatch reports whether a request is a watch of a resource.
func IsWatch(r *http.Request, resource string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+resource) && r.URL.Query().Get("watch") != ""
}

// roundTripper is a function as http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// valved is the answer to a watch.
type valved struct {
	io.ReadCloser
	valve  *Valve
	once   sync.Once
	closed chan struct{}
}

func (b *valved) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	select {
	case <-b.valve.flows():
	case <-b.closed:
	}
	return n, err
}

func (b *valved) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}
