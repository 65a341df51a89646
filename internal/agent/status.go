package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// status serves STATUS: whether an ADD would be served now. The kubelet takes a failure for a node without a network, so an
// API server that is away, or that refuses what the agent asks, counts only when ADDs must fail of it: when it has done so for
// as long as an ADD waits.
func (a *Agent) status() error {
	err := a.api.trouble(time.Now(), a.Durations.Wait)
	if !a.Ready() {
		err = errStarting
	}
	if err != nil {
		return &wire.Error{Code: wire.CodeNotReady, Msg: err.Error()}
	}
	return nil
}

// apiHealth is what calls tell of the API server: since when it has refused or not answered, without one success.
type apiHealth struct {
	mu             sync.Mutex
	failed, looked time.Time
	err            error
}

// observe takes how a call ended that asked the API server. An error that says nothing of that is left out.
func (h *apiHealth) observe(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.failed = time.Time{}
	case !allocation.Transient(err) && !errors.Is(err, allocation.ErrAway) && !apierrors.IsForbidden(err):
		return
	case h.failed.IsZero():
		h.failed = now
	}
	h.looked, h.err = now, err
}

// failing is for how long nothing has succeeded; 0 if the last did.
func (h *apiHealth) failing(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed.IsZero() {
		return 0
	}
	return now.Sub(h.failed)
}

// trouble is the last error if nothing has succeeded for a time.
func (h *apiHealth) trouble(now time.Time, lasting time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed.IsZero() || now.Sub(h.failed) < lasting {
		return nil
	}
	return fmt.Errorf("no ADD can be served since %s: %w", now.Sub(h.failed).Round(time.Second), h.err)
}

// askAPI finds out whether the API server was put back to an earlier state and, if no call has asked it lately, whether it answers.
func (a *Agent) askAPI(ctx context.Context) {
	known := a.Facts.Revision()
	version, err := a.ledger.Revision(ctx)
	if err == nil {
		a.Facts.Learn(known, version)
	}
	a.api.mu.Lock()
	idle := time.Since(a.api.looked) > a.Durations.Look
	a.api.mu.Unlock()
	if idle {
		a.api.observe(time.Now(), err)
	}
}
