package controller

import (
	"math"
	"testing"
	"time"

	"golang.org/x/time/rate"
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
	for pods, want := range map[float64]rate.Limit{0: 60, 20: 40, 49.5: 10.5, 50: 10, 1000: 10} {
		if got := beside(pods); got != want {
			t.Errorf("beside %v pods a second %v, want %v", pods, got, want)
		}
	}
}

// TestSlowness: what a write counts for, which the limiter must be able to give.
func TestSlowness(t *testing.T) {
	for took, want := range map[time.Duration]int{0: 0, 14 * time.Millisecond: 0, 15 * time.Millisecond: 1, 100 * time.Millisecond: 6, time.Second: 8, time.Hour: 8} {
		if got := slowness(took); got != want || !newPace(nil).limiter.AllowN(time.Now(), got) {
			t.Errorf("%s: %d, want %d", took, got, want)
		}
	}
}
