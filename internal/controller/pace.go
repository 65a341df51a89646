package controller

import (
	"context"
	"math"
	"sync"
	"time"
)

// collectRate is how many addresses a second are written at most, evenly: those of a full node in two seconds. There is no
// hurry, and each write is work for the API server as a pod's ADD is. So one less is written for each pod that comes or goes
// meanwhile, which is work for it too, and ADDs that wait; but collectLeast in any case.
const collectRate, collectLeast = 60, 10

// A write that takes long is followed by a rest: as long as the write, times how much longer it took than the others, restMost at
// most. So an API server that is busy for a while, with its garbage too, is left alone until it is not, and one that always
// takes its time is written to half of the time. Usual is the mean of some usualWrites, in which none counts more than twice the
// mean, lest the busy times become usual; it is usualTime at first, and never less.
const usualTime, usualWrites, restMost = 5 * time.Millisecond, 64, time.Second

// pace has writes wait for their turn.
type pace struct {
	pods *turnover

	mu sync.Mutex
	// next is when the next write may begin.
	next  time.Time
	usual time.Duration
}

func newPace(pods *turnover) *pace { return &pace{pods: pods, usual: usualTime} }

// wait returns when it is the turn of the next write, or ctx ends.
func (p *pace) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		d := p.turn(time.Now())
		if d <= 0 {
			return nil
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// turn takes the turn if it is time, or says how long it is until then.
func (p *pace) turn(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.next.Sub(now); d > 0 {
		return d
	}
	p.next = now.Add(beside(p.pods.perSecond(now)))
	return 0
}

// wrote is told when a write began and ended.
func (p *pace) wrote(began, ended time.Time) {
	took := ended.Sub(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	if rested := ended.Add(restAfter(took, p.usual)); rested.After(p.next) {
		p.next = rested
	}
	p.usual = max(usualTime, p.usual+(min(took, 2*p.usual)-p.usual)/usualWrites)
}

// beside is the time from one write to the next while so many pods come and go a second.
func beside(pods float64) time.Duration {
	return time.Duration(float64(time.Second) / max(collectLeast, collectRate-pods))
}

// restAfter is how long none is written after one that took so long.
func restAfter(took, usual time.Duration) time.Duration {
	return time.Duration(min(float64(restMost), float64(took)*float64(took)/float64(usual)))
}

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
