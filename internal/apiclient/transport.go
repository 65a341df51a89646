package apiclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// ErrNotSent means that a request was not sent: what it asks for has not
// happened and will not.
var ErrNotSent = errors.New("the request was not sent")

// bounded lets a number of requests through at once.
type bounded struct {
	next  http.RoundTripper
	slots chan struct{}
}

// RoundTrip waits for a slot, for SlotTimeout or the end of the request's
// context. ErrNotSent says that it got none.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := b.enter(r.Context()); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as http.RoundTripper must, also when it fails
		}
		return nil, err
	}
	defer func() { <-b.slots }()
	return b.next.RoundTrip(r)
}

func (b *bounded) enter(ctx context.Context) error {
	select {
	case b.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotSent, context.Cause(ctx))
	case <-time.After(SlotTimeout):
		return fmt.Errorf("%w: %d others are under way and none ended for %s", ErrNotSent, cap(b.slots), SlotTimeout)
	}
}

// once keeps client-go from repeating a write by itself: it does so for each 5xx
// with Retry-After, but a proxy may answer 503 for a write that the API server
// carried out, and the second try would find its own object and take it for
// another's. 429 stays: the API server has done nothing then.
type once struct{ next http.RoundTripper }

// RoundTrip drops Retry-After from the answers that make client-go repeat.
func (o once) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(r)
	if err == nil && resp.StatusCode >= 500 && r.Method != http.MethodGet && r.Method != http.MethodHead {
		resp.Header.Del("Retry-After")
	}
	return resp, err
}

// noticeDeadConnections makes client-go find out within ten seconds that a
// connection is dead of which nobody told it, instead of 45: until then every
// request on it hangs. The environment is the one way in which apimachinery lets
// that be set (k8s.io/apimachinery/pkg/util/net); what is set already stands.
func noticeDeadConnections() {
	for _, name := range []string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "HTTP2_PING_TIMEOUT_SECONDS"} {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, "5") // fails only for a malformed name
		}
	}
}
