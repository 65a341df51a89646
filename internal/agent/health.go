package agent

import (
	"net/http"
	"strings"
)

// Health answers the kubelet's probes. Startup succeeds when ADDs are served, readiness when moreover nothing is missing that
// the agent works with: its socket, watches, and what the problems, which say what else is wrong, find. Liveness succeeds
// while the process answers at all: restarting it because the API server is away would help nobody.
func (a *Agent) Health(problems ...func() string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/runtime/startup", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.unready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /v1/runtime/readiness", func(w http.ResponseWriter, _ *http.Request) {
		if why := a.problem(problems); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /v1/runtime/liveness", func(http.ResponseWriter, *http.Request) {})
	return mux
}

// problem says what is wrong with the agent, for people who look why it is not ready.
func (a *Agent) problem(others []func() string) string {
	var why []string
	if err := a.unready(); err != nil {
		why = append(why, err.Error())
	}
	if l := a.listener.Load(); l != nil && l.Problem() != "" {
		why = append(why, l.Problem())
	}
	if missing := a.Facts.Missing(); len(missing) > 0 {
		why = append(why, "watches have not brought their first lists: "+strings.Join(missing, ", "))
	}
	for _, other := range others {
		if text := other(); text != "" {
			why = append(why, text)
		}
	}
	return strings.Join(why, "; ")
}
