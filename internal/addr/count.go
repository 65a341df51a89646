package addr

import (
	"cmp"
	"math"
	"math/big"
	"math/bits"
)

// Count is a number of addresses, 0 to 2^128-1. The zero value is 0; counts compare with ==.
//
// All of IPv6 is 2^128 addresses, one more than a Count can hold: sums stop at 2^128-1, so only a set that holds the
// whole of ::/0 is counted short.
type Count struct{ hi, lo uint64 }

// maxCount is 2^128-1, where sums stop.
var maxCount = Count{math.MaxUint64, math.MaxUint64}

// CountOf returns n as a Count.
func CountOf(n uint64) Count { return Count{lo: n} }

// Add returns c+d, or 2^128-1 if that is less.
func (c Count) Add(d Count) Count {
	lo, carry := bits.Add64(c.lo, d.lo, 0)
	hi, carry := bits.Add64(c.hi, d.hi, carry)
	if carry != 0 {
		return maxCount
	}
	return Count{hi, lo}
}

// Sub returns c-d, or 0 if d is the greater.
func (c Count) Sub(d Count) Count {
	lo, borrow := bits.Sub64(c.lo, d.lo, 0)
	hi, borrow := bits.Sub64(c.hi, d.hi, borrow)
	if borrow != 0 {
		return Count{}
	}
	return Count{hi, lo}
}

// Cmp returns -1, 0 or 1 as c is less than, equal to or greater than d.
func (c Count) Cmp(d Count) int {
	return cmp.Or(cmp.Compare(c.hi, d.hi), cmp.Compare(c.lo, d.lo))
}

// IsZero reports whether c is 0.
func (c Count) IsZero() bool { return c == Count{} }

// Int64 returns c, or math.MaxInt64 if that is less: what the int64 fields of a status hold.
func (c Count) Int64() int64 {
	if c.hi != 0 || c.lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(c.lo)
}

// Float64 returns c, rounded to what a float64 holds.
func (c Count) Float64() float64 { return math.Ldexp(float64(c.hi), 64) + float64(c.lo) }

// String returns c in decimal.
func (c Count) String() string {
	n := new(big.Int).SetUint64(c.hi)
	n.Lsh(n, 64)
	return n.Or(n, new(big.Int).SetUint64(c.lo)).String()
}
