package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// healthTime bounds what a probe looks at; the kubelet gives it a second.
const healthTime = 900 * time.Millisecond

// health answers the kubelet's probes. Readiness succeeds when this replica admits edits and some replica leads; startup and
// liveness while the process answers at all: to kill it because the API server is away, or its certificate is late, would
// leave edits unanswered for the time of the kubelet's back-off when they are back.
type health struct {
	// webhook is the port on which this replica admits edits.
	webhook string
	// leads looks whether some replica leads.
	leads *leaderWatch
	// problems say what else is wrong.
	problems []func() string
}

func (h *health) handler() http.Handler {
	ready := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTime)
		defer cancel()
		if why := h.problem(ctx); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
		}
	}
	mux := http.NewServeMux()
	alive := func(http.ResponseWriter, *http.Request) {}
	mux.HandleFunc("GET /v1/runtime/startup", alive)
	mux.HandleFunc("GET /v1/runtime/readiness", ready)
	mux.HandleFunc("GET /v1/runtime/liveness", alive)
	return mux
}

func (h *health) problem(ctx context.Context) string {
	var why []string
	if err := h.askWebhook(ctx); err != nil {
		why = append(why, "edits are not admitted: "+err.Error())
	}
	if text := h.leads.problem(ctx); text != "" {
		why = append(why, text)
	}
	for _, problem := range h.problems {
		if text := problem(); text != "" {
			why = append(why, text)
		}
	}
	return strings.Join(why, "; ")
}

// askWebhook asks this process as the API server would. The certificate is looked at elsewhere: its names are not localhost.
func (h *health) askWebhook(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+h.webhook+"/webhook-health-check", nil)
	if err != nil {
		return err
	}
	answer, err := webhookClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("webhook-health-check answers %s", answer.Status)
	}
	return nil
}

var webhookClient = &http.Client{Transport: &http.Transport{
	TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // this very process, over loopback
	DisableKeepAlives: true,
}}

// leaderWatch looks whether the lease of the leader is held and renewed, by this process's own clock: those of other nodes may
// be wrong.
type leaderWatch struct {
	client client.Reader
	lease  client.ObjectKey
	// lasting is for how long a lease may stay as it is.
	lasting time.Duration

	mu   sync.Mutex
	seen coordinationv1.LeaseSpec
	// since is when the lease was last seen held and renewed, or first looked at.
	since time.Time
}

// problem is empty as long as nothing proves that no replica leads.
func (l *leaderWatch) problem(ctx context.Context) string {
	lease := &coordinationv1.Lease{}
	err := l.client.Get(ctx, l.lease, lease)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if err == nil && held(lease) && !lease.Spec.RenewTime.Equal(l.seen.RenewTime) || l.since.IsZero() {
		l.seen, l.since = lease.Spec, now
	}
	if now.Sub(l.since) <= l.lasting {
		return ""
	}
	if err != nil {
		return "" // missing knowledge proves nothing, and nobody else could know more
	}
	return fmt.Sprintf("no replica leads: the lease %s has not been renewed for %s", l.lease, now.Sub(l.since).Round(time.Second))
}

func held(lease *coordinationv1.Lease) bool {
	return lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != ""
}
