// Package lease keeps what the agent knows of the addresses of its node. It has two nouns. An Attachment is CNI's: one
// container and one interface of it, from its ADD to its DEL. A Lease is one address that an interface of a pod holds: the
// entry in the ledger, and what this process knows of it. All of it can be made again from the ledger and the notes of DELs.
//
// The rule that the package keeps: an entry names the one container and network namespace that bear the address. It is
// released, or written to the name of another container of the same pod, only when that namespace or interface is gone,
// that container had its DEL and the time for it, or nobody was ever told the address.
package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	// ErrDeleted ends an ADD whose container was deleted after it began.
	ErrDeleted = errors.New("the container was deleted while its addresses were being assigned")
	// ErrBusy means that another call of the container, or of the pod's interface, is not done yet.
	ErrBusy = errors.New("another call of the container is not done yet")
)

// Key names an attachment as CNI does, by CNI_CONTAINERID and CNI_IFNAME.
type Key struct{ Container, Interface string }

// State is where an attachment is between its ADD and the end of its memory.
//
//	          ADD             served               DEL or note             released, note removed
//	absent ────────▶ adding ─────────▶ held ─────────────────▶ deleting ───────────────────────────▶ deleted
//	   ▲  ▲            │  failed         │ holds nothing more      ▲                                    │
//	   │  └────────────┘◀────────────────┘                         │ DEL: its ADD is cancelled          │
//	   │               └───────────────────────────────────────────┘                                    │
//	   └──────────────────────────────────── after Durations.Remember, or an ADD that began later ──────┘
type State int

// The states of an attachment.
const (
	Absent State = iota
	Adding
	Held
	Deleting
	Deleted
)

// attachment is one container's side of an interface. The lock of its table guards it.
type attachment struct {
	state State
	// owner is the pod's interface, once an ADD has found out or an entry told.
	owner Owner
	// since is when the last DEL came, admitted when the last ADD was let in.
	since, admitted time.Time
	// add is the ADD in progress, if there is one: also of a container that is being deleted.
	add *addInProgress
	// gone is closed when a container that is being deleted is deleted.
	gone chan struct{}
	// dels counts DELs, noted those whose note is written; releasing says that one is being carried out.
	dels, noted int
	releasing   bool
	// answer is what its ADD was answered by this process.
	answer *wire.Reply
}

type addInProgress struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

func (a *attachment) adding() bool { return a != nil && a.add != nil }

// Admit lets an ADD in whose plugin was started at began. It waits for another ADD of the attachment to end, and for what a
// DEL before it has to release. The context that it returns is cancelled by a DEL. leave must be called at the end. Errors:
// ErrDeleted if a DEL came after began, or ErrBusy.
func (t *Table) Admit(ctx context.Context, k Key, began time.Time) (_ context.Context, leave func(), err error) {
	for {
		inside, leave, blocked, err := t.tryAdmit(ctx, k, began)
		if err != nil || blocked == nil {
			return inside, leave, err
		}
		if err := Wait(ctx, blocked); err != nil {
			return nil, nil, fmt.Errorf("container %s: %w: %w", k.Container, ErrBusy, err)
		}
	}
}

// tryAdmit lets an ADD in, or says what it has to wait for.
func (t *Table) tryAdmit(ctx context.Context, k Key, began time.Time) (_ context.Context, leave func(), blocked <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	switch {
	case a == nil:
		a = &attachment{}
		t.attachments[k] = a
	case a.state >= Deleting && a.since.After(began):
		return nil, nil, nil, ErrDeleted
	case a.state == Deleting:
		return nil, nil, a.gone, nil
	case a.add != nil:
		return nil, nil, a.add.ended, nil
	}
	inside, cancel := context.WithCancelCause(ctx)
	mine := &addInProgress{cancel, make(chan struct{})}
	if a.state != Held {
		a.state = Adding
	}
	a.add, a.admitted = mine, time.Now()
	return inside, func() { t.leave(k, a) }, nil, nil
}

// leave ends an ADD. One that was not answered leaves nothing, unless a lease of it is in doubt: then its owner keeps it.
func (t *Table) leave(k Key, a *attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.add.cancel(nil)
	close(a.add.ended)
	a.add = nil
	if a.state == Adding {
		a.state = Held
	}
	t.forgetIfEmpty(k, a)
}

// forgetIfEmpty drops an attachment whose owner has nothing. The caller has the lock.
func (t *Table) forgetIfEmpty(k Key, a *attachment) {
	if _, has := t.interfaces[a.owner]; !has && a.state == Held && a.add == nil {
		delete(t.attachments, k)
	}
}

// Delete begins a DEL: an ADD in progress is cancelled, and none that began before is let in from now on. It reports
// whether anything is known of the attachment. Noted must follow when its note is written, or NothingToRelease.
func (t *Table) Delete(k Key) (known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	known = a != nil && a.state != Deleted
	a = t.delete(k)
	a.dels++
	return known
}

// delete brings an attachment into the state Deleting. The caller has the lock.
func (t *Table) delete(k Key) *attachment {
	now := time.Now()
	t.forgetDeleted(now)
	a := t.attachments[k]
	if a == nil {
		a = &attachment{}
		t.attachments[k] = a
	}
	if a.add != nil {
		a.add.cancel(ErrDeleted)
	}
	if a.state != Deleting {
		a.state, a.gone = Deleting, make(chan struct{})
	}
	a.since, a.answer = now, nil
	return a
}

func (t *Table) forgetDeleted(now time.Time) {
	for k, a := range t.attachments {
		if a.state == Deleted && now.Sub(a.since) > t.durations.Remember {
			delete(t.attachments, k)
		}
	}
}

// Noted says that the note of a DEL is written.
func (t *Table) Noted(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attachments[k].noted++
}

// NothingToRelease ends a DEL of which nothing is known, without a note.
func (t *Table) NothingToRelease(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	if a.noted++; a.noted == a.dels && !a.releasing && a.state == Deleting {
		a.end()
	}
}

// end brings an attachment from Deleting to Deleted. The caller has the lock.
func (a *attachment) end() {
	a.state = Deleted
	close(a.gone)
}

// DeleteAsNoted begins a DEL of which a note was there at a time, unless it is known, or an ADD was let in later: then what
// the note asks for was done before.
func (t *Table) DeleteAsNoted(k Key, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attachments[k]; a != nil && (a.state == Deleting || a.admitted.After(at)) {
		return
	}
	t.delete(k)
}

// BeginRelease begins to release what a deleted container bears, unless another call is at it or nothing is left to do. It
// returns how many DELs there were, for EndRelease.
func (t *Table) BeginRelease(k Key) (dels int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	if a == nil || a.state != Deleting || a.releasing {
		return 0, false
	}
	a.releasing = true
	return a.dels, true
}

// EndRelease ends it. Once all is released and the note removed, the container is deleted, unless a DEL came meanwhile whose
// note may still be there: then again is true, or that DEL, which is writing its note, releases by itself.
func (t *Table) EndRelease(k Key, dels int, done bool) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	a.releasing = false
	switch {
	case !done || a.noted < a.dels:
		return false
	case a.dels != dels:
		return true
	}
	a.end()
	return false
}

// AwaitAdd waits until no ADD of the attachment is in progress.
func (t *Table) AwaitAdd(ctx context.Context, k Key) error {
	t.mu.Lock()
	a := t.attachments[k]
	if !a.adding() {
		t.mu.Unlock()
		return nil
	}
	ended := a.add.ended
	t.mu.Unlock()
	return Wait(ctx, ended)
}

// StateOf is the state of an attachment.
func (t *Table) StateOf(k Key) State {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	switch {
	case a == nil:
		return Absent
	case a.state == Held && a.add != nil:
		return Adding
	}
	return a.state
}

// Bind says to which interface of which pod an attachment belongs.
func (t *Table) Bind(k Key, o Owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	if a == nil {
		a = &attachment{state: Held}
		t.attachments[k] = a
	}
	a.owner = o
}

// Admitted reports whether this process has let an ADD of the attachment in: what it holds is then known here.
func (t *Table) Admitted(k Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	return a != nil && !a.admitted.IsZero()
}

// OwnerOf returns the pod's interface that an attachment belongs to.
func (t *Table) OwnerOf(k Key) (Owner, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	if a == nil || a.owner == (Owner{}) {
		return Owner{}, false
	}
	return a.owner, true
}

// SetAnswer remembers what an ADD is answered, unless its container was deleted meanwhile; nil forgets it.
func (t *Table) SetAnswer(k Key, reply *wire.Reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attachments[k]; a != nil && a.state < Deleting {
		a.answer = reply
		if reply != nil && a.state == Adding {
			a.state = Held
		}
	}
}

// AnswerOf is what the last ADD of an attachment was answered by this process, or nil.
func (t *Table) AnswerOf(k Key) *wire.Reply {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attachments[k]; a != nil {
		return a.answer
	}
	return nil
}

// Adds is how many ADDs are in progress.
func (t *Table) Adds() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.attachments {
		if a.adding() {
			n++
		}
	}
	return n
}

// Wait waits for a channel or the end of ctx, whose cause it returns.
func Wait[T any](ctx context.Context, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
