package addr

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func (c Count) big() *big.Int {
	n, _ := new(big.Int).SetString(c.String(), 10)
	return n
}

func TestCountArithmetic(t *testing.T) {
	top := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))
	values := []Count{{}, {0, 1}, {0, math.MaxInt64}, {0, math.MaxInt64 + 1}, {0, math.MaxUint64}, {1, 0}, {1, 1}, {math.MaxUint64, 0}, maxCount}
	r := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		values = append(values, Count{r.Uint64() >> r.IntN(64), r.Uint64()})
	}
	for _, c := range values {
		for _, d := range values {
			sum := new(big.Int).Add(c.big(), d.big())
			if sum.Cmp(top) > 0 {
				sum = top
			}
			if got := c.Add(d); got.big().Cmp(sum) != 0 {
				t.Errorf("%v + %v = %v, want %v", c, d, got, sum)
			}
			diff := new(big.Int).Sub(c.big(), d.big())
			if diff.Sign() < 0 {
				diff.SetInt64(0)
			}
			if got := c.Sub(d); got.big().Cmp(diff) != 0 {
				t.Errorf("%v - %v = %v, want %v", c, d, got, diff)
			}
			if got, want := c.Cmp(d), c.big().Cmp(d.big()); got != want {
				t.Errorf("%v cmp %v = %d, want %d", c, d, got, want)
			}
		}
	}
}

func TestCountConversions(t *testing.T) {
	for _, tc := range []struct {
		c     Count
		text  string
		u     uint64
		fits  bool
		i     int64
		empty bool
	}{
		{Count{}, "0", 0, true, 0, true},
		{CountOf(1), "1", 1, true, 1, false},
		{CountOf(math.MaxInt64), "9223372036854775807", math.MaxInt64, true, math.MaxInt64, false},
		{CountOf(math.MaxInt64 + 1), "9223372036854775808", math.MaxInt64 + 1, true, math.MaxInt64, false},
		{CountOf(math.MaxUint64), "18446744073709551615", math.MaxUint64, true, math.MaxInt64, false},
		{Count{1, 0}, "18446744073709551616", 0, false, math.MaxInt64, false},
		{Count{1 << 16, 5}, "1208925819614629174706181", 0, false, math.MaxInt64, false},
		{maxCount, "340282366920938463463374607431768211455", 0, false, math.MaxInt64, false},
	} {
		u, fits := tc.c.Uint64()
		if tc.c.String() != tc.text || u != tc.u || fits != tc.fits || tc.c.Int64() != tc.i || tc.c.IsZero() != tc.empty {
			t.Errorf("%s: String %v, Uint64 %v, %v, Int64 %v, IsZero %v", tc.text, tc.c, u, fits, tc.c.Int64(), tc.c.IsZero())
		}
		exact, _ := new(big.Float).SetInt(tc.c.big()).Float64()
		if got := tc.c.Float64(); math.Abs(got-exact) > exact*1e-15 {
			t.Errorf("%s: Float64 %v", tc.text, got)
		}
	}
}
