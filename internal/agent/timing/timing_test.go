package timing

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/internal/apiclient"
)

// check says which durations are at odds with each other.
func check(d Durations) error {
	var errs []error
	for _, rule := range []struct {
		name          string
		longer, short time.Duration
	}{
		{"Wait must be longer than a pod's default grace period", d.Wait, 30 * time.Second},
		{"Call must be longer than Wait", d.Call, d.Wait},
		{"the plugin gives a call up after 60 s, Call must be shorter", 60 * time.Second, d.Call},
		{"Settle must be at least twice Request", d.Settle, 2*d.Request - 1},
		{"Rescan must be longer than Settle", d.Rescan, d.Settle},
		{"Wait must be longer than Rescan", d.Wait, d.Rescan},
		{"Remember must be longer than Call", d.Remember, d.Call},
		{"two Looks must pass within a minute", time.Minute, 2 * d.Look},
		{"Reassert must be longer than three Looks and a Request", d.Reassert, 3*d.Look + d.Request},
	} {
		if rule.longer <= rule.short {
			errs = append(errs, fmt.Errorf("%s: %s, %s", rule.name, rule.longer, rule.short))
		}
	}
	return errors.Join(errs...)
}

// TestProduction holds the durations to the rules among them, and to what the client and the plugin do.
func TestProduction(t *testing.T) {
	d := Production()
	if err := check(d); err != nil {
		t.Error(err)
	}
	if d.Request != apiclient.RequestTimeout {
		t.Errorf("Request is %s, the client's timeout %s", d.Request, apiclient.RequestTimeout)
	}
	if d.Settle < 2*apiclient.RequestTimeout {
		t.Errorf("Settle is %s, and what was not answered may happen until %s after it was sent", d.Settle, 2*apiclient.RequestTimeout)
	}
}

// TestCheck breaks each rule alone, by the least that breaks it, and looks for its name.
func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		rule   string
		change func(*Durations)
	}{
		{"Wait must be longer than a pod's default grace period", func(d *Durations) { d.Wait, d.Rescan = 30*time.Second, 25*time.Second }},
		{"Call must be longer than Wait", func(d *Durations) { d.Call = d.Wait }},
		{"the plugin gives a call up after 60 s", func(d *Durations) { d.Call = time.Minute }},
		{"Settle must be at least twice Request", func(d *Durations) { d.Settle = 2*d.Request - 1 }},
		{"Rescan must be longer than Settle", func(d *Durations) { d.Rescan = d.Settle }},
		{"Wait must be longer than Rescan", func(d *Durations) { d.Rescan = d.Wait }},
		{"Remember must be longer than Call", func(d *Durations) { d.Remember = d.Call }},
		{"two Looks must pass within a minute", func(d *Durations) { d.Look, d.Reassert = 30*time.Second, 2*time.Minute }},
		{"Reassert must be longer than three Looks and a Request", func(d *Durations) { d.Reassert = 3*d.Look + d.Request }},
	} {
		d := Production()
		tc.change(&d)
		err := check(d)
		if err == nil || !strings.Contains(err.Error(), tc.rule) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is broken, and check says %v", tc.rule, err)
		}
	}
	if err := check(Durations{}); err == nil || len(strings.Split(err.Error(), "\n")) < 4 {
		t.Errorf("of no durations at all check says %v", err)
	}
}

func TestJitter(t *testing.T) {
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, 3, 4, 5, time.Second, math.MaxInt64} {
		seen := map[time.Duration]bool{}
		for range 100 {
			got := Jitter(d)
			if got > d || d >= 4 && got < d-d/4 || d < 4 && got != d {
				t.Fatalf("of %d it is %d", d, got)
			}
			seen[got] = true
		}
		if d >= time.Second && len(seen) < 50 {
			t.Errorf("100 times %s: only %d different", d, len(seen))
		}
	}
}
