package agent

import (
	"net/http"
	"slices"
	"strings"
)

// Health answers the kubelet's probes. Startup succeeds when ADDs are served, readiness when moreover nothing is missing that
// the agent works with: its socket, watches, and what the problems, which say what else is wrong, find. Liveness succeeds
// while the process answers at all: restarting it because the API server is away would help nobody.
func (a *Agent) Health(problems ...func() string) http.Handler {
	mux := http.NewServeMux()
	answer := func(probe string, problem func() string) {
		mux.HandleFunc("GET /v1/runtime/"+probe, func(w http.ResponseWriter, _ *http.Request) {
			if why := problem(); why != "" {
				http.Error(w, why, http.StatusServiceUnavailable)
			}
		})
	}
	answer("startup", a.starting)
	answer("readiness", func() string { return a.problem(problems) })
	answer("liveness", func() string { return "" })
	return mux
}

// starting says why ADDs are not served, or returns an empty text if they are.
func (a *Agent) starting() string {
	if a.Ready() {
		return ""
	}
	return errStarting.Error()
}

// problem says what is wrong with the agent, for people who look why it is not ready.
func (a *Agent) problem(others []func() string) string {
	why := []string{a.starting()}
	if l := a.listener.Load(); l != nil {
		why = append(why, l.Problem())
	}
	if missing := a.Facts.Missing(); len(missing) > 0 {
		why = append(why, "watches have not brought their first lists: "+strings.Join(missing, ", "))
	}
	for _, other := range others {
		why = append(why, other())
	}
	return strings.Join(slices.DeleteFunc(why, func(text string) bool { return text == "" }), "; ")
}
