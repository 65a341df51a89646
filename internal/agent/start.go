package agent

import (
	"context"
	"time"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
)

// start learns what the node holds, carries out what notes ask for, and then lets ADDs in. It never ends because the API
// server is away. Afterwards it reads notes, from time to time and at once, for a plugin that wrote one while the socket was
// being opened, and audits: what an agent before this one claimed may appear in the ledger a little later, so the second LIST
// comes when all of that is settled.
func (a *Agent) start(ctx context.Context) error {
	if missing := a.facts.Await(ctx, a.durations.Sync); len(missing) > 0 {
		a.log.Warn("watches have not brought their first lists: the agent serves, and reads from the API server what they lack", "missing", missing)
	}
	if !a.listUntilDone(ctx) {
		return nil
	}
	a.deleteNoted()
	a.ready.Store(true)
	a.log.Info("serving", "socket", a.socket, "node", a.node)
	a.deleteNoted()
	a.keepLooking(ctx)
	return nil
}

// listUntilDone lists what the node holds, again and again until the API server answers; false at the end of ctx.
func (a *Agent) listUntilDone(ctx context.Context) bool {
	for pause := 250 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 4*time.Second) {
		err := a.list(ctx)
		if err == nil {
			return true
		}
		a.log.Warn("cannot list what this node holds, trying again", "error", err)
		_ = lease.Wait(ctx, time.After(pause)) // the loop looks at ctx
	}
	return false
}

// keepLooking reads notes and audits until ctx ends.
func (a *Agent) keepLooking(ctx context.Context) {
	notes, look := time.NewTicker(a.durations.Notes), time.NewTicker(a.durations.Look)
	defer notes.Stop()
	defer look.Stop()
	rescan := time.NewTimer(a.durations.Rescan)
	defer rescan.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-notes.C:
			a.deleteNoted()
		case <-rescan.C:
			if a.rescan(ctx) {
				a.deleteNoted()
			} else {
				rescan.Reset(a.durations.Notes)
			}
		case <-look.C:
			a.look(ctx)
		}
	}
}

// rescan reads the ledger when nothing can come any more that an agent before this one has sent.
func (a *Agent) rescan(ctx context.Context) bool {
	if err := a.list(ctx); err != nil {
		a.log.Warn("cannot audit what this node holds, trying again", "error", err)
		return false
	}
	a.settled.Store(true)
	return true
}

// look audits, with a LIST when it is time for one or the ledger may have lost entries.
func (a *Agent) look(ctx context.Context) {
	audit := a.audit
	if listed, epoch := a.audits.last(); time.Since(listed) > a.durations.List || epoch != a.facts.Epoch() {
		audit = a.list
	}
	if err := audit(ctx); err != nil {
		a.log.Warn("the audit of this node's addresses is not complete, it is done again", "error", err)
	}
	a.allocation.Tidy()
	a.askAPI(ctx)
}
