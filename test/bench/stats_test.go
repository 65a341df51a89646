package main

import (
	"math"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{30, 10, 20}, 20},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{5, 5, 1000, 5, 0}, 5},
	} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
	unsorted := []float64{3, 1, 2}
	if median(unsorted); unsorted[0] != 3 {
		t.Errorf("the values were sorted: %v", unsorted)
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for _, tc := range []struct {
		values []time.Duration
		p      int
		want   time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{8}, 1, 8},
		{[]time.Duration{8}, 100, 8},
		{[]time.Duration{2, 1}, 50, 1},
		{[]time.Duration{2, 1}, 51, 2},
		{[]time.Duration{5, 3, 1, 4, 2}, 50, 3},
		{[]time.Duration{5, 3, 1, 4, 2}, 90, 5},
		{hundred, 1, 1},
		{hundred, 50, 50},
		{hundred, 90, 90},
		{hundred, 99, 99},
		{hundred, 100, 100},
	} {
		if got := percentile(tc.values, tc.p); got != tc.want {
			t.Errorf("percentile %d of %d values is %d, want %d", tc.p, len(tc.values), got, tc.want)
		}
	}
}

func TestRepeated(t *testing.T) {
	for _, tc := range []struct {
		values []string
		want   int
	}{
		{nil, 0},
		{[]string{"10.6.0.1/16"}, 0},
		{[]string{"10.6.0.1/16", "10.6.0.2/16"}, 0},
		{[]string{"a", "b", "a"}, 1},
		{[]string{"a", "a", "a", "b", "b"}, 3},
	} {
		if got := repeated(tc.values); got != tc.want {
			t.Errorf("%v repeats %d, want %d", tc.values, got, tc.want)
		}
	}
}
