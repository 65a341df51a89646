package controller

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// collectRate is how many addresses a second are written at most, evenly but for collectBurst at once: those of a full node in
// two seconds. There is no hurry, and each write is work for the API server as a pod's ADD is. So one less is written for each
// pod that comes or goes meanwhile, which is work for it too, and ADDs that wait; but collectLeast in any case. A write that takes
// an API server collectSlow counts twice, and so on up to collectBurst more: it has as much to do as it can.
const (
	collectRate, collectLeast, collectBurst = 60, 10, 8
	collectSlow                             = 15 * time.Millisecond
)

// pace has writes wait for their turn.
type pace struct {
	limiter *rate.Limiter
	pods    *turnover
}

func newPace(pods *turnover) *pace { return &pace{rate.NewLimiter(collectRate, collectBurst), pods} }

// wait returns when it is the turn of the next write, or ctx ends.
func (p *pace) wait(ctx context.Context) error {
	p.limiter.SetLimit(beside(p.pods.perSecond(time.Now())))
	return p.limiter.Wait(ctx)
}

// took is told how long a write took.
func (p *pace) took(d time.Duration) { p.limiter.ReserveN(time.Now(), slowness(d)) }

// beside is how many addresses are written a second while so many pods come and go.
func beside(pods float64) rate.Limit { return rate.Limit(max(collectLeast, collectRate-pods)) }

// slowness is for how many more writes one counts that took so long.
func slowness(took time.Duration) int { return int(min(took/collectSlow, collectBurst)) }

// turnover is how many pods come and go a second.
type turnover struct {
	mu   sync.Mutex
	rate float64
	at   time.Time
}

// turnoverTime is after how long a pod that came or went counts a third of what it did.
const turnoverTime = 2 * time.Second

// count takes that a pod came or went.
func (t *turnover) count(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rate, t.at = t.faded(now)+1/turnoverTime.Seconds(), now
}

func (t *turnover) perSecond(now time.Time) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.faded(now)
}

func (t *turnover) faded(now time.Time) float64 {
	return t.rate * math.Exp(-now.Sub(t.at).Seconds()/turnoverTime.Seconds())
}
