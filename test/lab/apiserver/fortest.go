package apiserver

import (
	"context"
	"sync"
	"testing"
)

// ForTest returns the one server that all tests of a test binary share; it
// ends with the binary. Tests keep apart by namespaces and names. A test that
// restarts the server starts its own.
func ForTest(t testing.TB) *Server {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	return s
}

// shared has no test's context: it outlives the test that came first.
var shared = sync.OnceValues(func() (*Server, error) { return Start(context.Background(), Options{}) })
