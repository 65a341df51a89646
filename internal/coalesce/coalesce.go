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

// entry is the reads of one key. A goroutine runs for it as long as the group
// remembers the key.
type entry[T any] struct {
	inFlight *read[T]
	pending  *read[T]
	last     Result[T]     // of those that succeeded
	changed  chan struct{} // something about the pending read
}

// read is one read that is pending, in flight or done.
type read[T any] struct {
	due     time.Time     // when it is to be sent
	callers int           // who wait for it
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
	g.mu.Unlock()
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		g.leave(e, r)
		return Result[T]{}, context.Cause(ctx)
	}
}

func (g *Group[T]) entry(key string) *entry[T] {
	if g.keys == nil {
		g.keys = map[string]*entry[T]{}
	}
	e, ok := g.keys[key]
	if !ok {
		e = &entry[T]{changed: make(chan struct{}, 1)}
		g.keys[key] = e
		go g.run(key, e)
	}
	return e
}

// next returns the pending read, which is due at a time at the latest.
func (e *entry[T]) next(due time.Time) *read[T] {
	if e.pending == nil {
		e.pending = &read[T]{due: due, done: make(chan struct{})}
	} else if due.Before(e.pending.due) {
		e.pending.due = due
	}
	e.signal()
	return e.pending
}

func (e *entry[T]) signal() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// leave takes a caller off a read. A pending one is not sent for nobody.
func (g *Group[T]) leave(e *entry[T], r *read[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.callers--; r.callers == 0 {
		e.signal()
	}
}

// run reads a key until nobody waits for it and its result is too old.
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

// depart waits until the pending read is due and makes it the one in flight. If
// there is none, or nobody waits for it any more, it waits until the last result
// is too old, forgets the key and returns nil.
func (g *Group[T]) depart(key string, e *entry[T]) *read[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		r, due := e.pending, e.last.Sent.Add(g.Keep)
		if r != nil && r.callers == 0 {
			r, e.pending = nil, nil
		}
		if r != nil {
			due = r.due
		}
		pause := time.Until(due)
		switch {
		case pause > 0:
			g.mu.Unlock()
			select {
			case <-time.After(pause):
			case <-e.changed:
			}
			g.mu.Lock()
		case r == nil:
			delete(g.keys, key)
			return nil
		default:
			e.inFlight, e.pending = r, nil
			r.result.Sent = time.Now()
			return r
		}
	}
}
