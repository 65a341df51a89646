package lease

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	c1    = Key{"c1", "eth0"}
	owner = Owner{"pod-1", "eth0"}
)

func newTestTable(l *ledger.Ledger) *Table {
	return NewTable("n1", l, timing.Production(), metrics.New(metrics.State{}), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// admits begins an ADD of k in a bubble of synctest. One that is let in stays in progress until leave; blocked says that it
// would have to wait, which it does not.
func admits(t *testing.T, table *Table, k Key, began time.Time) (ctx context.Context, leave func(), blocked bool, err error) {
	t.Helper()
	wait, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	type answer struct {
		ctx   context.Context
		leave func()
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		ctx, leave, err := table.Admit(wait, k, began)
		done <- answer{ctx, leave, err}
	}()
	synctest.Wait()
	select {
	case a := <-done:
		return a.ctx, a.leave, false, a.err
	default:
	}
	cancel(errors.New("given up"))
	if a := <-done; !errors.Is(a.err, ErrBusy) || table.Attachment(k).State == Absent {
		t.Errorf("an ADD that was given up: %v", a.err)
	}
	return nil, nil, true, nil
}

// hold gives an interface a lease, or takes it away.
func hold(t *testing.T, table *Table, o Owner, k Key, has bool) {
	t.Helper()
	i, unlock, err := table.Lock(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if i.leases = nil; has {
		table.Bind(k, o)
		i.leases = []*Lease{{Entry: &v2beta1.SpiderIP{Spec: v2beta1.IPSpec{ContainerID: k.Container, Interface: k.Interface}}, Told: Yes}}
	}
}

// world is an attachment in a state, and the ends of the calls that are in progress.
type world struct {
	*Table
	t *testing.T
	// admitted is when the last ADD was let in, inside its context and leave its end.
	admitted time.Time
	inside   context.Context
	leave    func()
}

// tryAdd begins an ADD and reports whether it is let in at once.
func (w *world) tryAdd(began time.Time) bool {
	w.t.Helper()
	ctx, leave, blocked, err := admits(w.t, w.Table, c1, began)
	if err != nil && !errors.Is(err, ErrDeleted) {
		w.t.Error(err)
	}
	if blocked || err != nil {
		return false
	}
	w.admitted, w.inside, w.leave = time.Now(), ctx, leave
	return true
}

func (w *world) add() {
	w.t.Helper()
	if !w.tryAdd(time.Now()) {
		w.t.Fatal("not let in")
	}
}

func (w *world) served() {
	hold(w.t, w.Table, owner, c1, true)
	w.SetAnswer(c1, &wire.Reply{})
	w.failed()
}

func (w *world) failed() {
	w.leave()
	w.leave = nil
}

// ends ends the ADD in progress, if there is one.
func (w *world) ends(how func()) bool {
	if w.leave == nil {
		return false
	}
	how()
	return true
}

func (w *world) del() {
	w.Delete(c1, false)
	w.Noted(c1)
}

// noteFound is a note that was read at a time: it begins its DEL, or is outdated.
func (w *world) noteFound(at time.Time) bool {
	w.t.Helper()
	if outdated := w.DeleteAsNoted(c1, at); outdated == (w.Attachment(c1).State == Deleting) {
		w.t.Errorf("the container is in state %d, and that the note is outdated is %t", w.Attachment(c1).State, outdated)
	}
	return true
}

func (w *world) release(done bool) bool {
	dels, ok := w.BeginRelease(c1)
	if ok && done {
		hold(w.t, w.Table, owner, c1, false)
	}
	if ok && w.EndRelease(c1, dels, done) {
		w.t.Error("to be released again")
	}
	return ok
}

// reach are the ways into each state of the diagram.
var reach = []struct {
	name  string
	state State
	steps func(w *world)
}{
	{"absent", Absent, func(*world) {}},
	{"adding", Adding, func(w *world) { w.add() }},
	{"held", Held, func(w *world) { w.add(); w.served() }},
	{"held, asking again", Adding, func(w *world) { w.add(); w.served(); w.add() }},
	{"found in the ledger", Held, func(w *world) { hold(w.t, w.Table, owner, c1, true) }},
	{"deleting", Deleting, func(w *world) { w.add(); w.served(); w.del() }},
	{"deleting, its ADD is not done", Deleting, func(w *world) { w.add(); w.del() }},
	{"deleted", Deleted, func(w *world) { w.add(); w.served(); w.del(); w.release(true) }},
	{"deleted without an ADD", Deleted, func(w *world) { w.del(); w.release(true) }},
}

// TestAttachmentStates goes from each state of the diagram by each event.
func TestAttachmentStates(t *testing.T) {
	const refused = -1 // the event does not apply and must be refused
	for _, event := range []struct {
		name string
		do   func(w *world) bool
		want [9]State // in the order of reach
	}{
		{"ADD", func(w *world) bool { return w.tryAdd(time.Now()) },
			[9]State{Adding, refused, Adding, refused, Adding, refused, refused, Adding, Adding}},
		{"an ADD that began before all this", func(w *world) bool { return w.tryAdd(time.Now().Add(-time.Hour)) },
			[9]State{Adding, refused, Adding, refused, Adding, refused, refused, refused, refused}},
		{"DEL", func(w *world) bool { w.del(); return true },
			[9]State{Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting}},
		{"DEL of which nothing may be known", func(w *world) bool {
			if !w.Delete(c1, true) {
				w.Noted(c1)
			}
			return true
		}, [9]State{Deleted, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleted, Deleted}},
		{"note", func(w *world) bool { return w.noteFound(time.Now()) },
			[9]State{Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting, Deleting}},
		{"note from before its ADD", func(w *world) bool {
			at := w.admitted.Add(-1)
			if w.admitted.IsZero() {
				at = time.Now()
			}
			return w.noteFound(at)
		},
			[9]State{Deleting, Adding, Held, Adding, Deleting, Deleting, Deleting, Deleted, Deleting}},
		{"note from before it was deleted", func(w *world) bool { return w.noteFound(time.Now().Add(-1500 * time.Millisecond)) },
			[9]State{Deleting, Adding, Held, Adding, Deleting, Deleting, Deleting, Deleted, Deleted}},
		{"released", func(w *world) bool { return w.release(true) },
			[9]State{refused, refused, refused, refused, refused, Deleted, Deleted, refused, refused}},
		{"not released", func(w *world) bool { return w.release(false) },
			[9]State{refused, refused, refused, refused, refused, Deleting, Deleting, refused, refused}},
		{"served", func(w *world) bool { return w.ends(w.served) },
			[9]State{refused, Held, refused, Held, refused, refused, Deleting, refused, refused}},
		{"failed", func(w *world) bool { return w.ends(w.failed) },
			[9]State{refused, Absent, refused, Held, refused, refused, Deleting, refused, refused}},
		{"holds nothing more", func(w *world) bool { hold(w.t, w.Table, owner, c1, false); return true },
			[9]State{Absent, Adding, Absent, Adding, Absent, Deleting, Deleting, Deleted, Deleted}},
		{"its ADD fails, and it holds nothing more", func(w *world) bool {
			return w.ends(func() { hold(w.t, w.Table, owner, c1, false); w.failed() })
		}, [9]State{refused, Absent, refused, Absent, refused, refused, Deleting, refused, refused}},
		{"time passes", func(w *world) bool {
			time.Sleep(w.durations.Remember + 1)
			w.Delete(Key{"another", "eth0"}, true)
			return true
		}, [9]State{Absent, Adding, Held, Adding, Held, Deleting, Deleting, Absent, Absent}},
	} {
		for at, from := range reach {
			t.Run(event.name+"/"+from.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &world{Table: newTestTable(nil), t: t}
					from.steps(w)
					time.Sleep(time.Second)
					before := w.Attachment(c1).State
					if before != from.state {
						t.Fatalf("it begins in state %d, want %d", before, from.state)
					}
					applied, want := event.do(w), event.want[at]
					if applied != (want != refused) {
						t.Errorf("the event applied: %t", applied)
					}
					if want == refused {
						want = before
					}
					if got := w.Attachment(c1).State; got != want {
						t.Errorf("from state %d to %d, want %d", before, got, want)
					}
					if w.Attachment(c1).State >= Deleting && w.Attachment(c1).Answer != nil {
						t.Error("what a deleted container was answered is remembered")
					}
					w.end()
				})
			})
		}
	}
}

// end ends all that is in progress, deletes the attachment, and holds the table to forgetting everything.
func (w *world) end() {
	w.t.Helper()
	if deleting := w.Attachment(c1).State >= Deleting; w.leave != nil {
		if cause := context.Cause(w.inside); errors.Is(cause, ErrDeleted) != deleting {
			w.t.Errorf("the container is deleted: %t, and the context of its ADD says %v", deleting, cause)
		}
		w.failed()
	}
	w.del()
	w.release(true)
	if got := w.Attachment(c1).State; got != Deleted || w.Adds() != 0 || w.Attachment(c1).Answer != nil {
		w.t.Errorf("at the end it is in state %d, %d ADDs are in progress, its answer is %v", got, w.Adds(), w.Attachment(c1).Answer)
	}
	time.Sleep(w.durations.Remember + 1)
	w.Delete(Key{"other", "eth0"}, true)
	if len(w.attachments) != 1 || len(w.interfaces) != 0 {
		w.t.Errorf("%d attachments and %d interfaces are remembered", len(w.attachments)-1, len(w.interfaces))
	}
}

// TestSecondDelWhileTheFirstIsReleased: a container is not let in again before the notes of all its DELs are written and
// carried out, whatever their order.
func TestSecondDelWhileTheFirstIsReleased(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps func(w *world, end func(done bool) (again bool))
		ends  bool // with the first release
	}{
		{"the second comes after it", func(_ *world, end func(bool) bool) { end(true) }, true},
		{"it fails", func(_ *world, end func(bool) bool) { end(false) }, false},
		{"the second's note is being written", func(w *world, end func(bool) bool) {
			w.Delete(c1, true)
			if end(true) {
				w.t.Error("it is released again, before there is a note")
			}
			w.Noted(c1)
		}, false},
		{"the second's note is written", func(w *world, end func(bool) bool) {
			w.del()
			if !end(true) {
				w.t.Error("it is not released again")
			}
		}, false},
		{"the second's note is there, and it fails", func(w *world, end func(bool) bool) {
			w.del()
			if end(false) {
				w.t.Error("it is released again at once, though it failed")
			}
		}, false},
		{"the second is a note that was found", func(w *world, end func(bool) bool) {
			if w.DeleteAsNoted(c1, time.Now()); !end(true) { // it may be of a later DEL
				w.t.Error("it is not released again")
			}
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{Table: newTestTable(nil), t: t}
				w.del()
				dels, ok := w.BeginRelease(c1)
				if _, twice := w.BeginRelease(c1); !ok || twice || w.tryAdd(time.Now()) {
					t.Fatal("a container that is being released is let in, or released twice at once")
				}
				tc.steps(w, func(done bool) bool { return w.EndRelease(c1, dels, done) })
				if got := w.tryAdd(time.Now()); got != tc.ends {
					t.Fatalf("let in: %t", got)
				}
				if !tc.ends && (!w.release(true) || !w.tryAdd(time.Now())) {
					t.Error("it is not let in when all is released")
				}
				w.end()
			})
		})
	}
}

// TestUnknownAndKnownDelAtOnce: of two DELs at once of a container of which nothing is known, one that comes before all of the
// node is known writes a note, and one that comes after ends at once unless the first is not done; whichever ends last ends
// both.
func TestUnknownAndKnownDelAtOnce(t *testing.T) {
	early := func(w *world) (ended bool) { return w.Delete(c1, false) }
	late := func(w *world) (ended bool) { return w.Delete(c1, true) }
	for name, tc := range map[string]struct {
		dels  [2]func(w *world) bool
		ended [2]bool
	}{
		"all is known":         {[2]func(w *world) bool{late, late}, [2]bool{true, true}},
		"all is known at last": {[2]func(w *world) bool{early, late}, [2]bool{false, false}},
		"the first is ended":   {[2]func(w *world) bool{late, early}, [2]bool{true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{Table: newTestTable(nil), t: t}
				notes := 0
				for i, del := range tc.dels {
					if ended := del(w); ended != tc.ended[i] {
						t.Errorf("DEL %d has ended: %t", i+1, ended)
					} else if !ended {
						notes++
					}
				}
				for ; notes > 0; notes-- {
					if w.release(true); w.Attachment(c1).State != Deleting {
						t.Errorf("state %d while one of two is not done", w.Attachment(c1).State)
					}
					w.Noted(c1)
				}
				if w.release(true); w.Attachment(c1).State != Deleted {
					t.Errorf("state %d at the end", w.Attachment(c1).State)
				}
			})
		})
	}
}

// TestWaitingAdds: of many ADDs of one attachment one is in progress at a time; a DEL refuses all that began before it, also
// those that wait, and those that began after it come in when all is released.
func TestWaitingAdds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const adds = 20
		table := newTestTable(nil)
		var in, most, refused, served int
		done := make(chan error, 2*adds)
		add := func() {
			began := time.Now()
			ctx, leave, err := table.Admit(t.Context(), c1, began)
			if err == nil {
				defer leave()
				table.mu.Lock()
				in++
				most = max(most, in)
				table.mu.Unlock()
				err = Wait(ctx, time.After(time.Second))
				table.mu.Lock()
				in--
				table.mu.Unlock()
			}
			done <- err
		}
		count := func() {
			for range adds {
				switch err := <-done; {
				case errors.Is(err, ErrDeleted):
					refused++
				case err == nil:
					served++
				default:
					t.Error(err)
				}
			}
		}
		for range adds {
			go add()
		}
		time.Sleep(3500 * time.Millisecond)
		table.Delete(c1, true)
		table.Noted(c1)
		count()
		if served != 3 || refused != adds-3 || most != 1 {
			t.Errorf("%d served and %d refused, %d at once", served, refused, most)
		}
		time.Sleep(time.Nanosecond)
		for range adds {
			go add()
		}
		if synctest.Wait(); table.Adds() != 0 {
			t.Errorf("%d ADDs are let in before the release", table.Adds())
		}
		if dels, ok := table.BeginRelease(c1); !ok || table.EndRelease(c1, dels, true) {
			t.Error("not released")
		}
		if count(); served != 3+adds || most != 1 || table.Attachment(c1).State != Absent || len(table.attachments) != 0 {
			t.Errorf("%d served, %d at once, then state %d", served, most, table.Attachment(c1).State)
		}
	})
}

// TestAwaitAdd: a DEL waits for the ADD of its attachment, and for none if there is none.
func TestAwaitAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{Table: newTestTable(nil), t: t}
		if err := w.AwaitAdd(t.Context(), c1); err != nil {
			t.Error(err)
		}
		w.add()
		w.del()
		done := make(chan error, 1)
		go func() { done <- w.AwaitAdd(t.Context(), c1) }()
		if synctest.Wait(); len(done) != 0 {
			t.Error("it does not wait")
		}
		w.failed()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.release(true)
		w.add()
		cancel()
		if err := w.AwaitAdd(ctx, c1); !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		w.end()
	})
}

// TestFirstAdd: the deadline of a container is counted from the first ADD of any of its interfaces, and forgotten with it.
func TestFirstAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTestTable(nil)
		first := table.FirstAdd("c1")
		time.Sleep(table.durations.Remember)
		if got := table.FirstAdd("c1"); !got.Equal(first) {
			t.Errorf("the second came %s later", got.Sub(first))
		}
		time.Sleep(time.Nanosecond)
		if got := table.FirstAdd("c2"); !got.Equal(time.Now()) || len(table.firstAdd) != 1 {
			t.Errorf("%s, %d containers are remembered", got, len(table.firstAdd))
		}
	})
}

// TestLockIsExclusive: one at a time has an interface; one without leases is forgotten, also while others wait for it.
func TestLockIsExclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTestTable(nil)
		in, done := 0, make(chan int, 50)
		for range cap(done) {
			go func() {
				_, unlock, err := table.Lock(t.Context(), owner)
				if err != nil {
					t.Error(err)
				}
				in++ // the race detector sees it if two have the interface
				if _, _, ok := table.TryLock(owner, true); ok {
					t.Error("two have the interface")
				}
				time.Sleep(time.Millisecond)
				unlock()
				done <- 1
			}()
		}
		for range cap(done) {
			<-done
		}
		if in != cap(done) || len(table.Owners()) != 0 {
			t.Errorf("%d had it, %d interfaces are left", in, len(table.Owners()))
		}
		if _, _, ok := table.TryLock(owner, false); ok {
			t.Error("an interface that holds nothing was made")
		}
	})
}
