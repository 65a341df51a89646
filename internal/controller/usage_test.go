package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// truth is a ledger that remembers what it was at each version.
type truth struct {
	now     map[string]*v2beta1.SpiderIP
	past    []map[string]*v2beta1.SpiderIP // by version
	changes []change
	offset  int // of versions: an etcd that was put back begins below
}

type change struct {
	object  *v2beta1.SpiderIP
	deleted bool
}

func newTruth() *truth {
	none := map[string]*v2beta1.SpiderIP{}
	return &truth{now: none, past: []map[string]*v2beta1.SpiderIP{none}, changes: []change{{}}, offset: 100000}
}

func (w *truth) version() int { return len(w.past) - 1 }

func (w *truth) text(version int) string { return strconv.Itoa(w.offset + version) }

// step creates, updates or deletes an entry of one of two pools.
func (w *truth) step(r *rand.Rand) {
	address := fmt.Sprintf("10.6.0.%d", r.IntN(6))
	next := maps.Clone(w.now)
	var c change
	if old, ok := next[address]; ok && r.IntN(3) > 0 {
		c = change{old.DeepCopy(), true}
		delete(next, address)
	} else {
		ip := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: address}}
		ip.Spec.Address, ip.Spec.Pool = address, []string{"a", "b"}[r.IntN(2)]
		if ok {
			ip.Spec.Pool = old.Spec.Pool
		}
		ip.Spec.Pod.UID = fmt.Sprint(r.Uint32())
		c = change{ip, false}
		next[address] = ip
	}
	w.now, w.past = next, append(w.past, next)
	c.object.ResourceVersion = w.text(w.version())
	w.changes = append(w.changes, c)
}

// at prints what a pool holds at a version.
func (w *truth) at(pool string, version int) string {
	var out []string
	for _, address := range slices.Sorted(maps.Keys(w.past[version])) {
		if ip := w.past[version][address]; ip.Spec.Pool == pool {
			out = append(out, address+" "+ip.Spec.Pod.UID)
		}
	}
	return strings.Join(out, ", ")
}

func (u *usage) print(pool string) string {
	var out []string
	for _, e := range u.in(pool) {
		out = append(out, e.Address.String()+" "+e.UID)
	}
	return strings.Join(out, ", ")
}

// TestUsage: whatever comes first, the watch or a LIST, what is known of a pool is
// what the ledger was at the later of both; also when the watch begins anew, while
// a LIST is under way, and after etcd was put back.
func TestUsage(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		w, u := newTruth(), newUsage()
		u.changed = func(string) {}
		watched := 0
		listed := map[string]int{}
		watch := func() {
			if watched == w.version() {
				return
			}
			watched++
			c := w.changes[watched]
			err := u.Add(c.object)
			if c.deleted {
				err = u.Delete(c.object)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		relist := func() {
			u.relisting()
			var all []any
			for _, ip := range w.now {
				all = append(all, ip)
			}
			watched = w.version()
			if err := u.Replace(all, w.text(watched)); err != nil {
				t.Fatal(err)
			}
		}
		relist()
		some := func() {
			for range r.IntN(4) {
				w.step(r)
			}
			for range r.IntN(4) {
				watch()
			}
		}
		for step := range 100 {
			some()
			pool := []string{"a", "b"}[r.IntN(2)]
			switch r.IntN(12) {
			case 0:
				relist()
			case 1: // put back: versions begin anew, and the watch does
				if w.offset > 5000 {
					w.offset -= 5000
					for _, ip := range w.now {
						ip.ResourceVersion = w.text(1)
					}
					last := w.now
					w.past, w.changes = []map[string]*v2beta1.SpiderIP{{}, last}, []change{{}, {}}
					clear(listed)
					relist()
				}
			case 2, 3, 4, 5:
				at := 0
				fails := r.IntN(5) == 0
				err := u.refresh(t.Context(), pool, func(_ context.Context, pool string, each func(*v2beta1.SpiderIP)) (string, error) {
					some() // the LIST is under way
					at = w.version()
					for _, ip := range w.past[at] {
						if ip.Spec.Pool == pool {
							each(ip)
						}
					}
					some()
					if r.IntN(8) == 0 {
						relist()
					}
					if fails {
						return "", errors.New("away")
					}
					return w.text(at), nil
				})
				if (err != nil) != fails {
					t.Fatal(err)
				}
				if err == nil {
					listed[pool] = max(listed[pool], at)
				}
			}
			for _, pool := range []string{"a", "b"} {
				if got, want := u.print(pool), w.at(pool, max(watched, listed[pool])); got != want {
					t.Fatalf("seed %d, step %d, pool %s: watch at %d, list at %d:\n%s, want\n%s", seed, step, pool, watched, listed[pool], got, want)
				}
			}
		}
		u.forget("a")
		u.forget("b")
		for pool, h := range u.pools {
			if len(h.entries) == 0 {
				t.Errorf("seed %d: pool %s is kept", seed, pool)
			}
		}
	}
}
