package agent

import "net/http"

// Health answers the kubelet's probes. Startup and readiness succeed when ADDs
// are served; liveness while the process answers at all: restarting it because
// the API server is away would help nobody.
func (a *Agent) Health() http.Handler {
	mux := http.NewServeMux()
	ready := func(w http.ResponseWriter, _ *http.Request) {
		if !a.Ready() {
			http.Error(w, errStarting.Error(), http.StatusServiceUnavailable)
		}
	}
	mux.HandleFunc("GET /v1/runtime/startup", ready)
	mux.HandleFunc("GET /v1/runtime/readiness", ready)
	mux.HandleFunc("GET /v1/runtime/liveness", func(http.ResponseWriter, *http.Request) {})
	return mux
}
