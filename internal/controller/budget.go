package controller

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// perPool is the pause between two looks of which the first wrote: so there is at
	// most one status write per pool and second.
	perPool = time.Second
	// watchEvents is how many watch events a second all writes together may cause:
	// every agent watches pools, and the API server sends it each version.
	watchEvents = 10000
)

// budget bounds all writes of pools. Those of edits come first.
type budget struct {
	limiter *rate.Limiter
	edits   atomic.Int32 // that wait
}

func newBudget() *budget { return &budget{limiter: rate.NewLimiter(watchEvents, watchEvents/10)} }

// adjust sets the budget for a number of nodes.
func (b *budget) adjust(nodes int) {
	limit := watchEvents / float64(max(nodes, 1))
	if rate.Limit(limit) != b.limiter.Limit() {
		b.limiter.SetLimit(rate.Limit(limit))
		b.limiter.SetBurst(max(1, int(limit/10)))
	}
}

// take takes a write from the budget. An edit waits for it; another gets none
// while an edit waits, and the duration after which to try again.
func (b *budget) take(ctx context.Context, edit bool) (later time.Duration, err error) {
	if edit {
		b.edits.Add(1)
		defer b.edits.Add(-1)
		return 0, b.limiter.Wait(ctx)
	}
	if b.edits.Load() > 0 || !b.limiter.Allow() {
		return max(10*time.Millisecond, time.Duration(float64(time.Second)/float64(b.limiter.Limit()))), nil
	}
	return 0, nil
}
