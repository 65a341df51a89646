// Package coalesce lets many callers share few reads of the same thing, without
// any of them being given what was read before it asked.
package coalesce

import (
	"context"
	"sync"
	"time"
)

// Timeout bounds each read. A read serves callers that come and go, so it has
// this time of its own and not that of the caller who was first.
const Timeout = 10 * time.Second

// Group shares the reads of values by key. Of a key at most one read is in
// flight and at most one waits to follow it. Read must be set before the first
// use; the methods may be called at once by many.
type Group[T any] struct {
	// Read reads a key. Its context ends after Timeout.
	Read func(ctx context.Context, key string) (T, error)
	// Keep is how long a result is at hand after it was sent, for callers of Get
	// that accept an older one. Until then the group remembers the key; with 0
	// it remembers none of which no read is in flight or pending.
	Keep time.Duration

	mu   sync.Mutex
	keys map[string]*entry[T]
}

// Result is what a read brought.
type Result[T any] struct {
	Value T
	// Sent is when the read was sent: Value is not older than this.
	Sent time.Time
}

// entry is the reads of one key. A goroutine runs for it while there is one in
// flight or pending.
type entry[T any] struct {
	running  bool
	inFlight *read[T]
	pending  *read[T]
	last     Result[T] // of those that succeeded
	forget   *time.Timer
}

// read is one read that is pending, in flight or done.
type read[T any] struct {
	due     time.Time     // when it is to be sent
	callers int           // who wait for it
	changed chan struct{} // due or callers, while it is pending
	done    chan struct{} // closed when result and err are there
	result  Result[T]
	err     error
}

// Fresh returns what key reads as of a moment after the call.
func (g *Group[T]) Fresh(ctx context.Context, key string) (Result[T], error) {
	return g.Get(ctx, key, time.Now(), time.Time{})
}

// Get returns a result that was sent after since, which must not lie in the
// future: the last one if that will do, else that of the read in flight, else
// that of the next. The next read is not sent before notBefore, or the earliest
// such time that a caller gives who waits for it; the zero time is at once.
//
// An error is that of the read, or the cause of the end of ctx. A caller that
// leaves does not end a read in flight; a pending read is dropped when the last
// of its callers has left.
func (g *Group[T]) Get(ctx context.Context, key string, since, notBefore time.Time) (Result[T], error) {
	g.mu.Lock()
	e := g.entry(key)
	if e.last.Sent.After(since) {
		defer g.mu.Unlock()
		return e.last, nil
	}
	r := e.inFlight
	if r == nil || !r.result.Sent.After(since) {
		r = e.next(notBefore)
	}
	r.callers++
	if !e.running {
		e.running = true
		go g.run(key, e)
	}
	g.mu.Unlock()
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		g.leave(r)
		return Result[T]{}, context.Cause(ctx)
	}
}

func (g *Group[T]) entry(key string) *entry[T] {
	if g.keys == nil {
		g.keys = map[string]*entry[T]{}
	}
	e, ok := g.keys[key]
	if !ok {
		e = &entry[T]{}
		g.keys[key] = e
	}
	return e
}

// next returns the pending read, which is due at a time at the latest.
func (e *entry[T]) next(due time.Time) *read[T] {
	if e.pending == nil {
		e.pending = &read[T]{due: due, changed: make(chan struct{}, 1), done: make(chan struct{})}
	} else if due.Before(e.pending.due) {
		e.pending.due = due
		e.pending.signal()
	}
	return e.pending
}

func (r *read[T]) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// leave takes a caller off a read. A pending one is not sent for nobody.
func (g *Group[T]) leave(r *read[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.callers--; r.callers == 0 {
		r.signal()
	}
}

// run reads a key until nobody waits for the next.
func (g *Group[T]) run(key string, e *entry[T]) {
	for {
		r := g.depart(key, e)
		if r == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), Timeout)
		value, err := g.Read(ctx, key)
		cancel()
		g.mu.Lock()
		e.inFlight = nil
		if r.err = err; err == nil {
			r.result.Value = value
			e.last = r.result
		}
		close(r.done)
		g.mu.Unlock()
	}
}

// depart waits until the pending read is due and makes it the one in flight;
// nil if there is none, or nobody waits for it any more.
func (g *Group[T]) depart(key string, e *entry[T]) *read[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	for e.pending != nil && e.pending.callers > 0 {
		r := e.pending
		pause := time.Until(r.due)
		if pause <= 0 {
			e.inFlight, e.pending = r, nil
			r.result.Sent = time.Now()
			return r
		}
		g.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.changed:
		}
		timer.Stop()
		g.mu.Lock()
	}
	e.running, e.pending = false, nil
	g.expire(key, e)
	return nil
}

// expire forgets a key of which no read runs when its result is too old.
func (g *Group[T]) expire(key string, e *entry[T]) {
	left := g.Keep - time.Since(e.last.Sent)
	if left <= 0 {
		delete(g.keys, key)
		return
	}
	if e.forget != nil {
		e.forget.Stop()
	}
	e.forget = time.AfterFunc(left, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !e.running && g.keys[key] == e {
			g.expire(key, e)
		}
	})
}
