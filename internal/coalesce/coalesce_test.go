package coalesce

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a group whose reads take a time each and return their number.
type counted struct {
	Group[int]
	mu              sync.Mutex
	reads, inFlight int
}

func slow(t *testing.T, takes time.Duration) *counted {
	c := &counted{}
	c.Read = func(ctx context.Context, _ string) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reads++
		n := c.reads
		if c.inFlight++; c.inFlight > 1 {
			t.Error("two reads of one key at once")
		}
		c.mu.Unlock()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
		c.mu.Lock()
		c.inFlight--
		return n, ctx.Err()
	}
	return c
}

// remembered is how many keys a group knows.
func (g *Group[T]) remembered() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.keys)
}

// TestFresh: what a caller gets was sent after it called, and however many
// call, one read is in flight and one follows.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, 10*time.Millisecond)
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				time.Sleep(time.Duration(i%20) * time.Millisecond)
				called := time.Now()
				if r, err := c.Fresh(t.Context(), "web"); err != nil || r.Sent.Before(called) {
					t.Errorf("read sent %s before the call (%v)", called.Sub(r.Sent), err)
				}
			})
		}
		group.Wait()
		synctest.Wait()
		if c.reads > 4 {
			t.Errorf("%d reads of 10 ms for calls within 20 ms", c.reads)
		}
		if n := c.remembered(); n != 0 {
			t.Errorf("%d keys are remembered", n)
		}
	})
}

// TestSameInstant: a read that was sent at the very time of the call may have
// been sent before it, so it does not count.
func TestSameInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, time.Second)
		go func() { _, _ = c.Fresh(t.Context(), "web") }()
		synctest.Wait() // it is in flight, and the clock stands
		if r, err := c.Fresh(t.Context(), "web"); err != nil || r.Value != 2 {
			t.Errorf("read %d, error %v; wanted the second", r.Value, err)
		}
	})
}

// TestKeysApart: a slow read of one key holds up none of another.
func TestKeysApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := Group[string]{Read: func(_ context.Context, key string) (string, error) {
			if key == "slow" {
				time.Sleep(time.Second)
			}
			return key, nil
		}}
		go func() { _, _ = g.Fresh(t.Context(), "slow") }()
		synctest.Wait()
		began := time.Now()
		if r, err := g.Fresh(t.Context(), "quick"); err != nil || r.Value != "quick" || time.Since(began) != 0 {
			t.Errorf("%q after %s, %v", r.Value, time.Since(began), err)
		}
		time.Sleep(time.Second) // the slow one ends
	})
}

// TestLeave: a caller that goes does not end the read of others; a pending read
// that all have left is not sent.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, time.Second)
		start := time.Now()
		time.Sleep(time.Millisecond)
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		other := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), "web", start, time.Time{})
			other <- err
		}()
		if _, err := c.Get(short, "web", start, time.Time{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if err := <-other; err != nil {
			t.Error(err)
		}
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Get(gone, "web", time.Now(), time.Now().Add(time.Minute)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		synctest.Wait()
		if n := c.remembered(); n != 0 || c.reads != 1 {
			t.Errorf("%d keys are remembered after %d reads", n, c.reads)
		}
	})
}

// TestTimeout: a read that does not end is ended, with an error for who waits,
// and the next one may succeed.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, time.Hour)
		began := time.Now()
		if _, err := c.Fresh(t.Context(), "web"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != Timeout {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
	})
}

// TestNotBefore: the next read waits for its time, and leaves earlier for a
// caller who asks for that; all get the same.
func TestNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, 0)
		began := time.Now()
		sent := make(chan time.Duration, 2)
		ask := func(after time.Duration) {
			r, err := c.Get(t.Context(), "web", began, began.Add(after))
			if err != nil || r.Value != 1 {
				t.Errorf("read %d, %v", r.Value, err)
			}
			sent <- r.Sent.Sub(began)
		}
		go ask(8 * time.Second)
		synctest.Wait()
		time.Sleep(time.Second)
		go ask(2 * time.Second)
		synctest.Wait()
		go ask(5 * time.Second) // a later time does not hold it up again
		for range 3 {
			if after := <-sent; after != 2*time.Second {
				t.Errorf("sent after %s", after)
			}
		}
	})
}

// TestSince: who accepts an older result gets the last one without a read, or
// joins the read in flight; a failure is no result.
func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slow(t, time.Second)
		c.Keep = time.Minute
		get := func(since time.Time, want int) {
			t.Helper()
			if r, err := c.Get(t.Context(), "web", since, time.Time{}); err != nil || r.Value != want {
				t.Errorf("read %d, %v; wanted %d", r.Value, err, want)
			}
		}
		start := time.Now()
		time.Sleep(time.Second)
		get(start, 1)
		get(start, 1)
		middle := time.Now()
		time.Sleep(time.Millisecond)
		go get(middle, 2)
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		get(middle, 2) // which is in flight
		get(start, 2)
		if c.reads != 2 {
			t.Errorf("%d reads", c.reads)
		}
		if c.remembered() != 1 {
			t.Error("the last result is not at hand")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := c.remembered(); n != 0 {
			t.Errorf("%d keys are remembered", n)
		}
	})
}

// TestError: all who wait for a read are told that it failed, and what was read
// before it stands.
func TestError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		var err error
		g := Group[int]{Keep: time.Minute, Read: func(context.Context, string) (int, error) { return 7, err }}
		start := time.Now()
		time.Sleep(time.Millisecond)
		if r, err := g.Fresh(t.Context(), "web"); err != nil || r.Value != 7 {
			t.Fatalf("read %d, %v", r.Value, err)
		}
		err = away
		if _, got := g.Fresh(t.Context(), "web"); !errors.Is(got, away) {
			t.Errorf("error %v", got)
		}
		if r, err := g.Get(t.Context(), "web", start, time.Time{}); err != nil || r.Value != 7 {
			t.Errorf("read %d, %v", r.Value, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := g.remembered(); n != 0 {
			t.Errorf("%d keys are remembered", n)
		}
	})
}
