package agent

import (
	"context"
	"errors"
	"time"

	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// claim gives the attachment a new address of family f. If every pool of the
// selection that would serve it is full, it waits in line: for an address that this
// node releases, for an edit of a pool, and for the time to look again.
func (a *Agent) claim(ctx context.Context, at *attachment, ask *asker, f pool.Family) (*holding, error) {
	h, err := a.round(ctx, at, ask, f)
	var refused *refusedError
	for errors.As(err, &refused) && len(refused.full) > 0 && ask.patient() {
		if len(at.doubts) > 0 { // what was sent late may have come
			if h, err := a.keep(ctx, at, ask, f); h != nil || err != nil {
				return h, err
			}
		}
		h, err = a.inLine(ctx, at, ask, f, refused)
	}
	if errors.As(err, &refused) {
		a.countTerminating(refused.full)
	}
	return h, err
}

// countTerminating counts of full pools which addresses come free next.
func (a *Agent) countTerminating(full map[string]*fullError) {
	if len(full) == 0 {
		return
	}
	for _, key := range a.table.keys() {
		at, give, ok := a.table.try(key)
		if !ok {
			continue // it is being served, or released
		}
		for _, h := range at.held {
			if e := full[h.entry.Spec.Pool]; e != nil && e.candidates.Contains(addressOf(h.entry)) && a.facts.Terminating(h.entry.Spec.Pod.Namespace, h.entry.Spec.Pod.Name, key.pod) {
				e.usage.Terminating++
				e.usage.Where = " on this node"
			}
		}
		give()
	}
}

// inLine waits in line until something may have changed, then searches again,
// or takes what it was called out for.
func (a *Agent) inLine(ctx context.Context, at *attachment, ask *asker, f pool.Family, refused *refusedError) (*holding, error) {
	w := a.waiters.join(at, ask, refused.wants())
	joined := time.Now()
	defer func() { ask.waited += time.Since(joined) }()
	var h *holding
	err := a.idle(ctx, w)
	switch {
	case err == nil && ask.patient():
		ask.called = w.called
		h, err = a.round(ctx, at, ask, f)
		ask.called = nil
	case err == nil:
		err = refused
	}
	if a.waiters.leave(w) {
		return h, err
	}
	handed := a.receive(ctx, at, ask, <-w.offer)
	if handed == nil || h != nil || ctx.Err() != nil { // nothing came, or one address is enough, or nobody needs it
		a.putBack(ctx, at, []*holding{handed})
		return h, orElse(err, errCalled, refused)
	}
	h, err = a.fence(ctx, at, ask, handed, f)
	if passedOver(err) {
		return nil, refused
	}
	return h, err
}

// receive makes the attachment hold what it was offered. If nobody knows whether
// that was written, it is looked for, and a doubt of the attachment from now on.
func (a *Agent) receive(ctx context.Context, at *attachment, ask *asker, o offer) *holding {
	switch {
	case o.err == nil:
		at.hold(&holding{entry: o.entry, unanswered: true})
	case errors.Is(o.err, ledger.ErrUnknown):
		a.doubt(at, o.entry)
		_ = ask.hold(ctx, func() error { return a.resolve(ctx, at) }) // what it does not tell now stays a doubt
	}
	return at.holding(o.entry.Name)
}

// orElse is err, but for one that stands for another.
func orElse(err, one, other error) error {
	if errors.Is(err, one) {
		return other
	}
	return err
}

// idle returns when a pool was edited, when it is time to look again, and when
// patience is over; with errCalled if w was called out, errStopping if the agent
// is to stop, or the end of ctx.
func (a *Agent) idle(ctx context.Context, w *waiter) error {
	pause := time.Until(w.ask.patience)
	for name, wants := range w.wants {
		scout := a.scouts.of(name)
		taken, foreign := scout.unlikely()
		if !wants.Minus(taken).Minus(foreign).IsEmpty() {
			return nil // it was released while this ADD was joining the line
		}
		pause = min(pause, scout.pause())
	}
	select {
	case <-w.called:
		return errCalled
	case <-w.ask.edited:
	case <-time.After(max(pause, minPause)):
	case <-a.life.Done():
		return errStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// minPause keeps a waiter from turning in a loop while others send the LIST
// that is due.
const minPause = 10 * time.Millisecond

// round tries the pools that serve the selection, once. Only a pool that is proven
// full is passed over for the next, or one that refuses meanwhile.
func (a *Agent) round(ctx context.Context, at *attachment, ask *asker, f pool.Family) (*holding, error) {
	ask.edited = a.facts.PoolsChanged()
	a.selectAgain(ask, f)
	var candidates []pool.Candidate
	err := ask.hold(ctx, func() (err error) {
		candidates, err = a.facts.Candidates(ctx, ask.selection, f)
		return err
	})
	if err != nil {
		return nil, away(err)
	}
	serve, refusals := pool.Choose(ask.podContext, f, candidates)
	refused := newRefused(ask, f, refusals)
	for _, p := range serve {
		h, err := a.claimIn(ctx, at, ask, p, f)
		if err == nil {
			return h, nil
		}
		if !refused.add(p.Name, err) {
			return nil, err
		}
	}
	return nil, refused
}

// selectAgain looks which pools are defaults now, if those are what the ADD takes
// from.
func (a *Agent) selectAgain(ask *asker, f pool.Family) {
	if ask.selection.Source != pool.FromDefaults {
		return
	}
	if now, err := pool.SelectionOf(ask.podContext, a.facts.Pools(), a.families); err == nil && len(now.Names[f]) > 0 {
		ask.selection.Names[f] = now.Names[f]
	}
}

// claimIn claims an address of family f in one pool.
func (a *Agent) claimIn(ctx context.Context, at *attachment, ask *asker, p *pool.Pool, f pool.Family) (*holding, error) {
	for {
		h, err := a.find(ctx, at, ask, p, f)
		if err != nil {
			return nil, err
		}
		confirmed, err := a.fence(ctx, at, ask, h, f)
		var moved *movedError
		if !errors.As(err, &moved) {
			return confirmed, err
		}
		p = moved.to // the pool was edited meanwhile: search in what it is now
	}
}

// fence follows every write that gives the attachment an address: the pool is
// read live, after the API server answered the write, and must still serve the
// pod and give the address. Who was told the address before has it: then the
// pool must have it, and nothing else. If not, the address is put back, and the
// error is unservedError or movedError.
func (a *Agent) fence(ctx context.Context, at *attachment, ask *asker, h *holding, f pool.Family) (*holding, error) {
	live, err := a.liveOf(ctx, ask, h.entry.Spec.Pool)
	switch {
	case errors.Is(err, facts.ErrNoPool):
		err = &unservedError{err.Error()}
	case err != nil && !h.unanswered:
		return nil, err // it stays what the pod has
	case err == nil && h.unanswered:
		err = a.admits(ctx, live, ask, h, f)
	case err == nil && !live.Addresses.Contains(addressOf(h.entry)):
		err = &movedError{to: live}
	}
	if err != nil {
		a.putBack(ctx, at, []*holding{h})
		return nil, err
	}
	h.pool = live
	return h, nil
}

// admits says why a pool does not give an address to one who never had it.
func (a *Agent) admits(ctx context.Context, live *pool.Pool, ask *asker, h *holding, f pool.Family) error {
	if err := ask.hold(ctx, func() error { return a.facts.FreshReserved(ctx) }); err != nil {
		return err
	}
	if why := live.Refuses(ask.podContext, f); why != "" {
		return &unservedError{why}
	}
	if !a.facts.Gives(live).Contains(addressOf(h.entry)) {
		return &movedError{to: live}
	}
	return nil
}

// liveOf is the pool as of a moment after the call.
func (a *Agent) liveOf(ctx context.Context, ask *asker, name string) (live *pool.Pool, err error) {
	err = ask.hold(ctx, func() error {
		live, err = a.live.get(ctx, name)
		return err
	})
	return live, err
}
