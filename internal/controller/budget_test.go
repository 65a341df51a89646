package controller

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestBudget: all writes together stay within the budget, and edits come first.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		b.adjust(5000) // two writes a second
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		var counts, edits atomic.Int32
		for range 50 {
			go func() {
				for ctx.Err() == nil {
					later, err := b.take(ctx, false)
					if later == 0 && err == nil {
						counts.Add(1)
						later = perPool
					}
					time.Sleep(later)
				}
			}()
		}
		time.Sleep(10*time.Second - time.Millisecond)
		if n := counts.Load(); n < 19 || n > 21 {
			t.Errorf("%d writes of counts in 10 s", n)
		}
		counts.Store(0)
		for range 10 {
			go func() {
				if later, err := b.take(ctx, true); later != 0 || err != nil {
					t.Errorf("an edit is put off for %s, %v", later, err)
				}
				edits.Add(1)
			}()
		}
		time.Sleep(5 * time.Second)
		if edits.Load() != 10 || counts.Load() > 1 {
			t.Errorf("%d edits of 10, and %d counts, in 5 s", edits.Load(), counts.Load())
		}
		time.Sleep(10 * time.Second)
		if n := counts.Load(); n < 18 {
			t.Errorf("%d writes of counts after the edits", n)
		}
		cancel()
		time.Sleep(10 * time.Second)
	})
	small := newBudget()
	small.adjust(1)
	if later, err := small.take(t.Context(), false); later != 0 || err != nil {
		t.Errorf("a small cluster waits %s, %v", later, err)
	}
}
