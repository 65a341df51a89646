package agent

import (
	"context"
	"sync"
	"time"
)

// readTime bounds one shared read; it serves callers that come and go.
const readTime = 10 * time.Second

// shared lets callers share reads of the same thing, under one rule: what a
// caller gets was read by a request sent after it called. So at most one read
// of a name is in flight and one waits to follow it; who calls while one is in
// flight gets the next.
type shared[T any] struct {
	read func(ctx context.Context, name string) (T, error)

	mu    sync.Mutex
	turns map[string]*turn[T]
}

// turn is the reads of one name; it exists while one is in flight.
type turn[T any] struct{ next *reading[T] }

type reading[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func share[T any](read func(context.Context, string) (T, error)) *shared[T] {
	return &shared[T]{read: read, turns: map[string]*turn[T]{}}
}

// get returns what name reads as of a moment after the call.
func (s *shared[T]) get(ctx context.Context, name string) (T, error) {
	a := s.join(name)
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

func (s *shared[T]) join(name string) *reading[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, flying := s.turns[name]
	if !flying {
		t = &turn[T]{}
		s.turns[name] = t
		first := &reading[T]{done: make(chan struct{})}
		go s.fly(name, t, first)
		return first
	}
	if t.next == nil {
		t.next = &reading[T]{done: make(chan struct{})}
	}
	return t.next
}

// fly reads for a and then for whoever came meanwhile, until nobody did.
func (s *shared[T]) fly(name string, t *turn[T], a *reading[T]) {
	for a != nil {
		ctx, cancel := context.WithTimeout(context.Background(), readTime)
		a.value, a.err = s.read(ctx, name)
		cancel()
		close(a.done)
		s.mu.Lock()
		a, t.next = t.next, nil
		if a == nil {
			delete(s.turns, name)
		}
		s.mu.Unlock()
	}
}
