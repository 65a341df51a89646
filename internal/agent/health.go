package agent

import (
	"net/http"
	"slices"
	"strings"
)

// Health answers the kubelet's probes. Readiness succeeds when ADDs are served and nothing is missing that the agent works
// with: its socket, watches, and what the Problems find. Startup and liveness succeed while the
// process answers at all: to kill an agent that waits for the API server would only add the kubelet's back-off to that.
func (a *Agent) Health() http.Handler {
	mux := http.NewServeMux()
	answer := func(probe string, problem func() string) {
		mux.HandleFunc("GET /v1/runtime/"+probe, func(w http.ResponseWriter, _ *http.Request) {
			if why := problem(); why != "" {
				http.Error(w, why, http.StatusServiceUnavailable)
			}
		})
	}
	answer("readiness", a.problem)
	for _, probe := range []string{"startup", "liveness"} {
		answer(probe, func() string { return "" })
	}
	return mux
}

// problem says what is wrong with the agent, for people who look why it is not ready.
func (a *Agent) problem() string {
	var why []string
	if !a.Ready() {
		why = append(why, errStarting.Error())
	}
	if l := a.listener.Load(); l != nil {
		why = append(why, l.Problem())
	}
	if missing := a.Facts.Missing(); len(missing) > 0 {
		why = append(why, "watches have not brought their first lists: "+strings.Join(missing, ", "))
	}
	for _, other := range a.Problems {
		why = append(why, other())
	}
	return strings.Join(slices.DeleteFunc(why, func(text string) bool { return text == "" }), "; ")
}
