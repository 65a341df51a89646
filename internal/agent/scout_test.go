package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spidernet-io/spiderpool/internal/addr"
)

// lister stands for the API server: it keeps when LISTs were sent. As real ones
// they take time, or two would be sent at the same moment.
type lister struct {
	takes time.Duration
	taken addr.Set
	err   error

	mu     sync.Mutex
	sent   []time.Time
	flying int
	most   int // at once
}

func (l *lister) list(ctx context.Context, _ string) (addr.Set, error) {
	l.mu.Lock()
	l.sent = append(l.sent, time.Now())
	l.flying++
	l.most = max(l.most, l.flying)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.flying--
	}()
	return l.taken, errors.Join(l.err, context.Cause(ctx), wait(ctx, time.After(l.takes)))
}

func (l *lister) scout() *scout { return newScouts(l.list, func() {}).of("v4") }

// gaps are the pauses between the LISTs.
func (l *lister) gaps() (out []time.Duration) {
	for i := range l.sent[1:] {
		out = append(out, l.sent[i+1].Sub(l.sent[i]))
	}
	return out
}

// about is between which bounds a pause of d is drawn.
func about(d time.Duration) (least, most time.Duration) { return d * 3 / 4, d }

// TestListIsShared: whoever asks gets a LIST that was sent after it asked; there
// is one at a time, and one for all who wait.
func TestListIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: 100 * time.Millisecond, taken: set(t, "10.1.0.1")}
		s := l.scout()
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				time.Sleep(time.Duration(i%4) * 40 * time.Millisecond)
				asked := time.Now()
				got, err := s.list(t.Context(), nil, asked, true)
				if err != nil || got.sent.Before(asked) || !got.taken.Equal(l.taken) {
					t.Errorf("sent %s before it was asked for, says %s, error %v", asked.Sub(got.sent), got.taken, err)
				}
			})
		}
		group.Wait()
		if len(l.sent) != 3 || l.most != 1 { // at 0, 100 and 200 ms
			t.Errorf("%d LISTs, %d at once", len(l.sent), l.most)
		}
		if got, err := s.list(t.Context(), nil, l.sent[2], true); err != nil || !got.sent.Equal(l.sent[2]) || len(l.sent) != 3 {
			t.Errorf("a LIST that is new enough was not used: %v, %v, %d LISTs", got, err, len(l.sent))
		}
		if taken, _ := s.unlikely(); !taken.Equal(l.taken) {
			t.Errorf("taken are %s", taken)
		}
	})
}

// TestListsArePaced: while the pool looks full they become rare; a free address
// ends that.
func TestListsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Millisecond}
		s := l.scout()
		since := time.Now()
		look := func(full bool) {
			got, err := s.list(t.Context(), nil, since, false)
			if err != nil {
				t.Fatal(err)
			}
			since = got.sent.Add(1)
			s.judge(got, full)
			s.judge(got, !full) // who comes second has no say
		}
		for range 8 {
			look(true)
		}
		want := firstGap
		for i, gap := range l.gaps() {
			if least, most := about(want); gap < least || gap > most {
				t.Errorf("pause %d is %s, want %s to %s", i, gap, least, most)
			}
			want = min(2*gap, lastGap)
		}
		look(false)
		look(true)
		look(true)
		gaps := l.gaps()[8:]
		if gaps[0] != l.takes {
			t.Errorf("the pool had a free address, and the next LIST waited %s", gaps[0])
		}
		if least, most := about(firstGap); gaps[1] < least || gaps[1] > most {
			t.Errorf("then the pool was full, and the next LIST waited %s", gaps[1])
		}
	})
}

// TestListInAHurry: who has not had a LIST yet is not kept for more than 1 s,
// and those who waited get that one too.
func TestListInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Millisecond}
		s := l.scout()
		since := time.Now()
		for range 5 {
			got, _ := s.list(t.Context(), nil, since, false)
			s.judge(got, true)
			since = got.sent.Add(1)
		}
		last := l.sent[4]
		var patient listing
		var group sync.WaitGroup
		group.Go(func() { patient, _ = s.list(t.Context(), nil, since, false) })
		time.Sleep(100 * time.Millisecond)
		hurried, err := s.list(t.Context(), nil, time.Now(), true)
		group.Wait()
		if pause := hurried.sent.Sub(last); err != nil || pause != firstGap {
			t.Errorf("the LIST came %s after the one before (%v), want %s", pause, err, firstGap)
		}
		if !patient.sent.Equal(hurried.sent) || len(l.sent) != 6 {
			t.Errorf("the patient one had its own LIST, %s later", patient.sent.Sub(hurried.sent))
		}
	})
}

// TestJudgeOfAnOldList: what it showed does not count any more.
func TestJudgeOfAnOldList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Millisecond}
		s := l.scout()
		first, _ := s.list(t.Context(), nil, time.Now(), false)
		time.Sleep(time.Millisecond)
		second, _ := s.list(t.Context(), nil, time.Now(), false)
		s.judge(first, true)
		if s.pause() > 0 {
			t.Errorf("the next LIST is in %s", s.pause())
		}
		s.judge(second, true)
		if s.pause() <= 0 {
			t.Error("the next LIST is due at once")
		}
	})
}

// TestListGivenUp: whoever is called out of the line, or ends, does not wait for
// the LIST; the others get it.
func TestListGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Second}
		s := l.scout()
		began := time.Now()
		called := make(chan struct{})
		ctx, cancel := context.WithCancelCause(t.Context())
		var group sync.WaitGroup
		for _, c := range []struct {
			ctx    context.Context
			called chan struct{}
			want   error
		}{{t.Context(), called, errCalled}, {ctx, nil, errDeleted}, {t.Context(), nil, nil}} {
			group.Go(func() {
				if _, err := s.list(c.ctx, c.called, began, true); !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if c.want != nil && time.Since(began) > 100*time.Millisecond {
					t.Errorf("%v after %s", c.want, time.Since(began))
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		close(called)
		cancel(errDeleted)
		group.Wait()
		if len(l.sent) != 1 {
			t.Errorf("%d LISTs", len(l.sent))
		}
	})
}

// TestListError: all who waited are told, what was known stays, and the next
// LIST keeps a distance.
func TestListError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: 100 * time.Millisecond, taken: set(t, "10.1.0.1")}
		s := l.scout()
		if _, err := s.list(t.Context(), nil, time.Now(), true); err != nil {
			t.Fatal(err)
		}
		l.err = errNoReply
		asked := time.Now()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if _, err := s.list(t.Context(), nil, asked, true); !errors.Is(err, errNoReply) {
					t.Errorf("error %v", err)
				}
			})
		}
		group.Wait()
		if taken, _ := s.unlikely(); !taken.Equal(l.taken) {
			t.Errorf("taken are %s", taken)
		}
		l.err = nil
		if _, err := s.list(t.Context(), nil, time.Now(), true); err != nil {
			t.Error(err)
		}
		if gaps := l.gaps(); len(gaps) != 2 || gaps[1] != firstGap {
			t.Errorf("LISTs at distances %v, want %s after the failed one", gaps, firstGap)
		}
	})
}

// TestListIsBounded: a LIST that is never answered fails after 10 s, and does
// not keep the next one.
func TestListIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Hour}
		s := l.scout()
		began := time.Now()
		if _, err := s.list(t.Context(), nil, began, true); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != readTime {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
		l.takes = time.Millisecond
		if _, err := s.list(t.Context(), nil, time.Now(), true); err != nil {
			t.Error(err)
		}
	})
}

// TestStrangers: an address that is held in the name of another pool is
// remembered for a minute, or until it is seen free.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := (&lister{takes: time.Millisecond}).scout()
		foreign := func(want ...string) {
			t.Helper()
			if _, got := s.unlikely(); !got.Equal(set(t, want...)) {
				t.Errorf("foreign are %s, want %v", got, want)
			}
		}
		a, b := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
		s.lost(a, true)
		time.Sleep(foreignFor / 2)
		s.lost(b, true)
		foreign("10.1.0.1-10.1.0.2")
		time.Sleep(foreignFor/2 + 1)
		foreign("10.1.0.2")
		s.use(b)
		s.free(b)
		foreign()
		if taken, _ := s.unlikely(); !taken.IsEmpty() {
			t.Errorf("taken are %s", taken)
		}
	})
}

// TestListAfterError: who comes after a LIST that failed, or was aboard and asks
// again, gets another one.
func TestListAfterError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Millisecond, err: errNoReply}
		s := l.scout()
		asked := time.Now()
		if _, err := s.list(t.Context(), nil, asked, true); !errors.Is(err, errNoReply) {
			t.Errorf("error %v", err)
		}
		l.err = nil
		if got, err := s.list(t.Context(), nil, asked, true); err != nil || len(l.sent) != 2 || !got.sent.Equal(l.sent[1]) {
			t.Errorf("error %v, %d LISTs", err, len(l.sent))
		}
	})
}

// TestStrangersAndLists: a LIST that shows an address as held in the pool's own
// name ends its being a stranger; one that calls it free does not. It is tried
// all the same, last.
func TestStrangersAndLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lister{takes: time.Millisecond, taken: set(t, "10.1.0.1")}
		s := l.scout()
		own, other := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
		s.lost(own, true)
		s.lost(other, true)
		s.lost(other, false) // by an ADD that has not seen a LIST
		if _, err := s.list(t.Context(), nil, time.Now(), true); err != nil {
			t.Fatal(err)
		}
		if taken, foreign := s.unlikely(); !taken.Equal(l.taken) || !foreign.Equal(set(t, "10.1.0.2")) {
			t.Errorf("taken are %s, foreign %s", taken, foreign)
		}
		random := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			if a, ok := s.pick(set(t, "10.1.0.1-10.1.0.3"), random); !ok || a != netip.MustParseAddr("10.1.0.3") {
				t.Errorf("picked %s, %t", a, ok)
			} else {
				s.tried(a)
			}
		}
		if a, ok := s.pick(set(t, "10.1.0.1-10.1.0.2"), random); !ok || a != other {
			t.Errorf("picked %s, %t", a, ok)
		}
	})
}
