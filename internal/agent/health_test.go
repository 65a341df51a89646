package agent

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/facts"
)

// TestHealthWithoutAPIServer: an agent that has not reached the API server yet is not ready, and nothing lets the kubelet kill it.
func TestHealthWithoutAPIServer(t *testing.T) {
	known, err := facts.New(&rest.Config{Host: "127.0.0.1:1"}, nil, "n1")
	if err != nil {
		t.Fatal(err)
	}
	a := New(Options{Node: "n1", Facts: known, Durations: timing.Production(), Log: slog.New(slog.DiscardHandler),
		Problems: []func() string{func() string { return "the plugin is missing" }, func() string { return "" }}})
	health := a.Health()
	for probe, want := range map[string]int{"startup": http.StatusOK, "liveness": http.StatusOK, "readiness": http.StatusServiceUnavailable} {
		w := httptest.NewRecorder()
		health.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/runtime/"+probe, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s", probe, w.Code, w.Body)
		}
		for _, why := range []string{errStarting.Error(), "spiderippools", "the plugin is missing"} {
			if want != http.StatusOK && !strings.Contains(w.Body.String(), why) {
				t.Errorf("%s does not say %q: %s", probe, why, w.Body)
			}
		}
	}
}
