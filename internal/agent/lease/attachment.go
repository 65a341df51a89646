// Package lease keeps what the agent knows of the addresses of its node. It has two nouns. An Attachment is CNI's: one
// container and one interface of it, from its ADD to its DEL. A Lease is one address that an interface of a pod holds: the
// entry in the ledger, and what this process knows of it. All of it can be made again from the ledger and the notes of DELs.
//
// The rule that the package keeps: an entry names the one container and network namespace that bear the address. It is
// released, or written to the name of another container of the same pod, only when that namespace or interface is gone,
// that container had its DEL and the time for it, or nobody was ever told the address. That it had its DEL is not enough to
// release what its interface is seen to have.
package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// Attachment is what the table tells of one container's side of an interface; the zero value if it knows nothing of it.
type Attachment struct {
	State State
	// Owner is the pod's interface, zero until an ADD has found out or an entry told.
	Owner Owner
	// Admitted is when this process has let the last ADD in, zero if none: what the container holds is then known here.
	Admitted time.Time
	// Answer is what the last ADD was answered by this process, nil if nothing or if the container was deleted since.
	Answer *wire.Reply
}

// attachment is what the table keeps of it. The lock of its table guards it.
type attachment struct {
	// State is Held also while an ADD is in progress: that it is Adding follows from ended.
	Attachment
	// since is when the last DEL came, and done when the last one was done.
	since, done time.Time
	// cancel and ended are of the ADD in progress, nil if there is none: also of a container that is being deleted.
	cancel context.CancelCauseFunc
	ended  chan struct{}
	// gone is closed when a container that is being deleted is deleted.
	gone chan struct{}
	// dels counts DELs, noted those whose note is written; releasing says that one is being carried out.
	dels, noted int
	releasing   bool
}

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
	a := t.attachment(k)
	switch {
	case a.State >= Deleting && a.since.After(began):
		return nil, nil, nil, ErrDeleted
	case a.State == Deleting:
		return nil, nil, a.gone, nil
	case a.ended != nil:
		return nil, nil, a.ended, nil
	}
	inside, cancel := context.WithCancelCause(ctx)
	a.State, a.Admitted, a.cancel, a.ended = Held, time.Now(), cancel, make(chan struct{})
	return inside, func() { t.leave(k, a) }, nil, nil
}

// leave ends an ADD. One that was not answered leaves nothing, unless a lease of it is in doubt: then its owner keeps it.
func (t *Table) leave(k Key, a *attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.cancel(nil)
	close(a.ended)
	a.ended = nil
	t.forgetIfEmpty(k, a)
}

// forgetIfEmpty drops an attachment whose owner has nothing. The caller has the lock.
func (t *Table) forgetIfEmpty(k Key, a *attachment) {
	if _, has := t.interfaces[a.Owner]; !has && a.State == Held && a.ended == nil {
		delete(t.attachments, k)
	}
}

// Delete begins a DEL: an ADD in progress is cancelled, and none that began before is let in from now on. If nothing is known
// of the attachment, and all that its node holds is, the DEL has ended: there is nothing to release. Else Noted must follow
// when its note is written.
func (t *Table) Delete(k Key, allKnown bool) (ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	known := a != nil && a.State != Deleted
	a = t.delete(k)
	if !known && allKnown {
		a.end()
		return true
	}
	a.dels++
	return false
}

// delete brings an attachment into the state Deleting. The caller has the lock.
func (t *Table) delete(k Key) *attachment {
	now := time.Now()
	maps.DeleteFunc(t.attachments, func(_ Key, a *attachment) bool {
		return a.State == Deleted && now.Sub(a.since) > t.durations.Remember
	})
	a := t.attachment(k)
	if a.ended != nil {
		a.cancel(ErrDeleted)
	}
	if a.State != Deleting {
		a.State, a.gone = Deleting, make(chan struct{})
	}
	a.since, a.Answer = now, nil
	return a
}

// Noted says that the note of a DEL is written.
func (t *Table) Noted(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attachments[k].noted++
}

// end brings an attachment from Deleting to Deleted. The caller has the lock.
func (a *attachment) end() {
	a.State, a.done = Deleted, time.Now()
	close(a.gone)
}

// DeleteAsNoted begins a DEL of which a note was found that was read after a time. outdated means that a DEL was done since
// or an ADD was let in: then what the note asks for may be done, which another look tells.
func (t *Table) DeleteAsNoted(k Key, at time.Time) (outdated bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	switch {
	case a == nil:
	case a.State == Deleting:
		if a.releasing { // it may have removed its own note already, and this be the next one
			a.dels, a.noted = a.dels+1, a.noted+1
		}
		return false
	case a.done.After(at), a.Admitted.After(at):
		return true
	}
	t.delete(k)
	return false
}

// BeginRelease begins to release what a deleted container bears, unless another call is at it or nothing is left to do. It
// returns how many DELs there were, for EndRelease.
func (t *Table) BeginRelease(k Key) (dels int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attachments[k]
	if a == nil || a.State != Deleting || a.releasing {
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
	var ended chan struct{}
	if a := t.attachments[k]; a != nil {
		ended = a.ended
	}
	t.mu.Unlock()
	if ended == nil {
		return nil
	}
	return Wait(ctx, ended)
}

// Attachment is what is known of an attachment now.
func (t *Table) Attachment(k Key) (out Attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attachments[k]; a != nil {
		out = a.Attachment
		if a.ended != nil && a.State == Held {
			out.State = Adding
		}
	}
	return out
}

// attachment is that of a key, made if there is none. The caller has the lock.
func (t *Table) attachment(k Key) *attachment {
	a := t.attachments[k]
	if a == nil {
		a = &attachment{Attachment: Attachment{State: Held}}
		t.attachments[k] = a
	}
	return a
}

// Bind says to which interface of which pod an attachment belongs.
func (t *Table) Bind(k Key, o Owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attachment(k).Owner = o
}

// SetAnswer remembers what an ADD is answered, unless its container was deleted meanwhile; nil forgets it.
func (t *Table) SetAnswer(k Key, reply *wire.Reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attachments[k]; a != nil && a.State < Deleting {
		a.Answer = reply
	}
}

// Adds is how many ADDs are in progress.
func (t *Table) Adds() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.attachments {
		if a.ended != nil {
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
