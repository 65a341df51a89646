package pool

import (
	"fmt"
	"strings"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Usage is how many addresses a pool has, as people are told.
type Usage struct {
	// Size are those that may be given to the pod that asks, Free those of them
	// that nobody holds.
	Size, Free addr.Count
	// Terminating are those held by pods that are being deleted: they come free
	// next. Where says which pods were looked at; empty for all.
	Terminating int
	Where       string
	// Reserved is how many more the pool has that are given to nobody.
	Reserved addr.Count
}

// String is "3 free of 50, 2 terminating, 5 more reserved".
func (u Usage) String() string {
	text := fmt.Sprintf("%s free of %s", u.Free, u.Size)
	if u.Terminating > 0 {
		text += fmt.Sprintf(", %d terminating%s", u.Terminating, u.Where)
	}
	if u.Reserved != (addr.Count{}) {
		text += fmt.Sprintf(", %s more reserved", u.Reserved)
	}
	return text
}

// UsedOut is why a full pool does not serve.
func (u Usage) UsedOut() string { return "all IP addresses used out: " + u.String() }

// Unserved is the error of an interface that no pool serves: which were tried
// and why each did not.
type Unserved struct {
	Interface string
	Family    Family
	Selection Selection
	Why       []Refusal
}

func (e *Unserved) Error() string {
	var why []string
	for _, r := range e.Why {
		why = append(why, fmt.Sprintf("pool %s: %s", r.Pool, r.Why))
	}
	return fmt.Sprintf("no IPPool available, interface %s gets no %s address from %v (%s): %s",
		e.Interface, e.Family, e.Selection.Names[e.Family], e.Selection.Source, strings.Join(why, "; "))
}
