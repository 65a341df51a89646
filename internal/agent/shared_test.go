package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestShared: what a caller gets was read by a request sent after it called,
// and however many call, one read is in flight and one follows.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		reads, flying := 0, 0
		s := share(func(context.Context, string) (time.Time, error) {
			mu.Lock()
			reads++
			if flying++; flying > 1 {
				t.Error("two reads of one name at once")
			}
			mu.Unlock()
			sent := time.Now()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			flying--
			mu.Unlock()
			return sent, nil
		})
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				time.Sleep(time.Duration(i%20) * time.Millisecond)
				called := time.Now()
				if sent, err := s.get(t.Context(), "web"); err != nil || sent.Before(called) {
					t.Errorf("read sent %s before the call (%v)", called.Sub(sent), err)
				}
			})
		}
		group.Wait()
		synctest.Wait()
		if reads > 4 {
			t.Errorf("%d reads of 10 ms for calls within 20 ms", reads)
		}
		if len(s.turns) != 0 {
			t.Errorf("%d names are remembered", len(s.turns))
		}
	})
}

// TestSharedAlone: a caller that goes does not end the read of the others.
func TestSharedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(func(ctx context.Context, _ string) (int, error) {
			time.Sleep(time.Second)
			return 1, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(100 * time.Millisecond)
			cancel()
		}()
		other := make(chan error)
		go func() {
			_, err := s.get(t.Context(), "web")
			other <- err
		}()
		if _, err := s.get(ctx, "web"); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if err := <-other; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}
