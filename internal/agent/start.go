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
	if missing := a.Facts.Await(ctx, a.Durations.Sync); len(missing) > 0 {
		a.Log.Warn("watches have not brought their first lists: the agent serves, and reads from the API server what they lack", "missing", missing)
	}
	if !a.listUntilDone(ctx) {
		return nil
	}
	a.deleteNoted()
	a.ready.Store(true)
	a.Log.Info("serving", "socket", a.Socket, "node", a.Node)
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
		a.Log.Warn("cannot list what this node holds, trying again", "error", err)
		_ = lease.Wait(ctx, time.After(pause)) // the loop looks at ctx
	}
	return false
}

// keepLooking reads notes and audits until ctx ends.
func (a *Agent) keepLooking(ctx context.Context) {
	notes, look := time.NewTicker(a.Durations.Notes), time.NewTicker(a.Durations.Look)
	defer notes.Stop()
	defer look.Stop()
	rescan := time.NewTimer(a.Durations.Rescan)
	defer rescan.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-notes.C:
			a.deleteNoted()
		case <-rescan.C:
			// Nothing can come any more that an agent before this one has sent.
			if err := a.list(ctx); err != nil {
				a.Log.Warn("cannot audit what this node holds, trying again", "error", err)
				rescan.Reset(a.Durations.Notes)
				continue
			}
			a.settled.Store(true)
			a.deleteNoted()
		case <-look.C:
			a.look(ctx)
		}
	}
}

// look audits, with a LIST when it is time for one or the ledger may have lost entries.
func (a *Agent) look(ctx context.Context) {
	a.askAPI(ctx)
	var err error
	if last := a.audited.Load(); time.Since(last.listed) > a.Durations.List || last.epoch != a.Facts.Epoch() {
		err = a.list(ctx)
	} else {
		err = a.auditInterfaces(ctx, a.leases.Owners(), nil, nil)
	}
	if err != nil {
		a.Log.Warn("the audit of this node's addresses is not complete, it is done again", "error", err)
	}
	a.allocation.Tidy()
}
