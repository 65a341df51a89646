package controller

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnover: what comes and goes evenly is counted as it is, and is forgotten when it ends.
func TestTurnover(t *testing.T) {
	var pods turnover
	now := time.Now()
	if got := pods.perSecond(now); got != 0 {
		t.Errorf("%v a second before any", got)
	}
	for range 800 {
		pods.count(now)
		now = now.Add(time.Second / 80)
	}
	for _, tt := range []struct {
		after time.Duration
		want  float64
	}{{0, 80}, {2 * time.Second, 80 / math.E}, {20 * time.Second, 0}} {
		if got := pods.perSecond(now.Add(tt.after)); math.Abs(got-tt.want) > 1 {
			t.Errorf("%s after 80 a second for ten seconds: %v a second, want %v", tt.after, got, tt.want)
		}
	}
}

// TestBeside: the more pods come and go, the fewer addresses are written, but never none.
func TestBeside(t *testing.T) {
	for pods, want := range map[float64]float64{0: 60, 20: 40, 49.5: 10.5, 50: 10, 1000: 10} {
		if got := 1 / beside(pods).Seconds(); math.Abs(got-want) > 1e-3 {
			t.Errorf("beside %v pods a second %v, want %v", pods, got, want)
		}
	}
}

// TestRestAfter: the longer a write took than the others, the longer is the rest, but it has an end.
func TestRestAfter(t *testing.T) {
	for _, tt := range []struct{ took, usual, want time.Duration }{
		{0, 10 * time.Millisecond, 0},
		{10 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond},
		{100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond},
		{50 * time.Millisecond, 10 * time.Millisecond, 250 * time.Millisecond},
		{time.Second, 10 * time.Millisecond, time.Second},
		{time.Minute, time.Minute, time.Second},
		{math.MaxInt64, time.Nanosecond, time.Second},
	} {
		if got := restAfter(tt.took, tt.usual); got != tt.want {
			t.Errorf("after %s of usually %s: %s, want %s", tt.took, tt.usual, got, tt.want)
		}
	}
}

// TestPace: how many are written by four at once, each of which takes as long as an API server does.
func TestPace(t *testing.T) {
	for _, tt := range []struct {
		name        string
		takes       func(at time.Duration) time.Duration
		pods        float64 // that come and go
		from, until time.Duration
		least, most int
	}{
		{"quick", always(5 * time.Millisecond), 0, 0, 10 * time.Second, 600, 601},
		{"quick, beside 40 pods a second", always(5 * time.Millisecond), 40, 0, 10 * time.Second, 200, 215},
		{"always slow", always(100 * time.Millisecond), 0, time.Minute, 70 * time.Second, 120, 200},
		{"always very slow", always(3 * time.Second), 0, time.Minute, 100 * time.Second, 30, 50},
		{"before a busy time", busy, 0, 10 * time.Second, 20 * time.Second, 590, 601},
		{"in a busy time", busy, 0, 20 * time.Second, 24 * time.Second, 5, 60},
		{"after it", busy, 0, 25 * time.Second, 35 * time.Second, 590, 601},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.until)
				defer cancel()
				p := newPace(&turnover{})
				written := make(chan time.Duration, 1e5)
				began := time.Now()
				for range workers {
					go func() {
						for p.wait(ctx) == nil {
							at := time.Since(began)
							p.pods.mu.Lock()
							p.pods.rate, p.pods.at = tt.pods, time.Now()
							p.pods.mu.Unlock()
							written <- at
							time.Sleep(tt.takes(at))
							p.wrote(began.Add(at), time.Now())
						}
					}()
				}
				<-ctx.Done()
				synctest.Wait()
				n := 0
				for len(written) > 0 {
					if at := <-written; at >= tt.from {
						n++
					}
				}
				if n < tt.least || n > tt.most {
					t.Errorf("%d writes in %s, want %d to %d", n, tt.until-tt.from, tt.least, tt.most)
				}
				time.Sleep(time.Minute) // until the last ones have ended
			})
		})
	}
}

// busy is an API server of which each third write meets the collection of its garbage from 20 to 24 s.
func busy(at time.Duration) time.Duration {
	if at >= 20*time.Second && at < 24*time.Second && at/time.Millisecond%3 == 0 {
		return 60 * time.Millisecond
	}
	return 6 * time.Millisecond
}

func always(d time.Duration) func(time.Duration) time.Duration {
	return func(time.Duration) time.Duration { return d }
}
