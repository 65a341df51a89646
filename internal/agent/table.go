package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// remembered is how long a container whose DEL was served is known as dead: an
// ADD that began before that DEL and arrives after it, from a plugin process
// that outlived its caller, must not claim anything.
const remembered = 10 * time.Minute

// table is what this process knows of the attachments of its node. It can be
// made again from the ledger at any time.
type table struct {
	mu          sync.Mutex
	attachments map[attachmentKey]*attachment
	bound       map[container]binding
	calls       map[container]*call
	dead        map[container]*death
	first       map[string]time.Time // when the first ADD of a sandbox came, by container ID
}

// container is one sandbox's side of an attachment, as CNI names it.
type container struct{ id, ifname string }

// attachmentKey names an attachment: the pod's UID as CNI gave it, and the
// interface. Two interfaces of one pod are two attachments.
type attachmentKey struct{ pod, ifname string }

// attachment is what one interface of one pod holds. Its calls are served one
// after the other: who has the token of turn may touch the other fields.
type attachment struct {
	key  attachmentKey
	turn chan struct{}

	held   []*holding
	doubts doubts
	// answered is the container that was told reply.
	answered string
	reply    *wire.Reply
}

// holding is an address that an attachment holds, in the name of the container
// that its entry tells. It is confirmed by the fence: pool is then the pool as
// it was read after the entry was written.
type holding struct {
	entry *v2beta1.SpiderIP
	pool  *pool.Pool
	// unanswered says that nobody was told the address yet: it is no address that
	// the pod has, and all rules of the pool count.
	unanswered bool
	// unsure is when an update of the entry was sent whose answer did not come,
	// or zero.
	unsure time.Time
}

func (h *holding) confirmed() bool { return h.pool != nil }

// binding is the attachment of a container, and when its last ADD began to be
// served.
type binding struct {
	key   attachmentKey
	since time.Time
}

// death is a DEL of a container, or several: when the last came, and whether
// what the container held is released.
type death struct {
	since   time.Time
	done    chan struct{} // closed when it is, and no note asks for it any more
	busy    bool          // somebody is at it
	writing int           // notes of DELs that are being written
}

func (d *death) isDone() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// call is an ADD in progress, since it entered.
type call struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	since  time.Time
}

func newTable() *table {
	return &table{
		attachments: map[attachmentKey]*attachment{},
		bound:       map[container]binding{},
		calls:       map[container]*call{},
		dead:        map[container]*death{},
		first:       map[string]time.Time{},
	}
}

// enter begins an ADD of c whose plugin was started at began: the context it
// returns is cancelled by a DEL of c. It waits for another ADD of c to end, and
// for what an earlier DEL of c has to release; it refuses with errDeleted if a
// DEL of c came after began. leave must be called at the end.
func (t *table) enter(ctx context.Context, c container, began time.Time) (_ context.Context, leave func(), err error) {
	for {
		t.mu.Lock()
		before := t.dead[c]
		other, busy := t.calls[c]
		switch {
		case before != nil && before.since.After(began):
			t.mu.Unlock()
			return nil, nil, errDeleted
		case before != nil && !before.isDone():
			t.mu.Unlock()
			err = wait(ctx, before.done)
		case busy:
			t.mu.Unlock()
			err = wait(ctx, other.done)
		default:
			defer t.mu.Unlock()
			delete(t.dead, c)
			ctx, cancel := context.WithCancelCause(ctx)
			mine := &call{cancel: cancel, done: make(chan struct{}), since: time.Now()}
			t.calls[c] = mine
			return ctx, func() { t.leave(c, mine) }, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("container %s: %w: %w", c.id, errBusy, err)
		}
	}
}

func (t *table) leave(c container, mine *call) {
	t.mu.Lock()
	delete(t.calls, c)
	t.mu.Unlock()
	mine.cancel(nil)
	close(mine.done)
}

// kill marks c as dead, so that no ADD that began before begins now, and
// cancels one in progress. It reports whether anything is known of c, which is
// then to be disposed of. The caller writes a note, and noted must follow, or
// spare if there is nothing to note.
func (t *table) kill(c container) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.die(c)
	d.writing++
	_, busy := t.calls[c]
	_, bound := t.bound[c]
	return busy || bound || d.busy
}

// noted ends the writing of a note.
func (t *table) noted(c container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dead[c].writing--
}

// obey marks c as dead because a note says so that was there at a time, unless
// that is known, or an ADD of c was let in later: then what the note asked for
// was done before.
func (t *table) obey(c container, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.dead[c]; d != nil && !d.isDone() {
		return
	}
	if running, busy := t.calls[c]; busy && running.since.After(at) || t.bound[c].since.After(at) {
		return
	}
	t.die(c)
}

// die begins the death of c, or its next. The caller has the lock.
func (t *table) die(c container) *death {
	now := time.Now()
	for other, d := range t.dead {
		if d.isDone() && now.Sub(d.since) > remembered {
			delete(t.dead, other)
		}
	}
	if running, busy := t.calls[c]; busy {
		running.cancel(errDeleted)
	}
	d := t.dead[c]
	if d == nil || d.isDone() {
		d = &death{done: make(chan struct{})}
		t.dead[c] = d
	}
	d.since = now
	return d
}

// spare ends a death that has nothing to release.
func (t *table) spare(c container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dead[c]
	if d.writing--; d.writing == 0 && !d.busy && !d.isDone() {
		close(d.done)
	}
}

// isBuried reports whether a DEL of c was served lately, and all is released
// that was known.
func (t *table) isBuried(c container) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dead[c] != nil && t.dead[c].isDone()
}

// disposing begins the disposal of a dead container, unless one is under way
// or done. end says whether it succeeded. The death is over with it unless a DEL
// came meanwhile, whose note it may not have seen: then again is true, or that
// DEL disposes itself.
func (t *table) disposing(c container) (end func(bool) (again bool), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dead[c]
	if d == nil || d.busy || d.isDone() {
		return nil, false
	}
	d.busy = true
	began := d.since
	return func(done bool) (again bool) {
		t.mu.Lock()
		defer t.mu.Unlock()
		d.busy = false
		switch {
		case !done || d.isDone() || d.writing > 0:
		case !d.since.Equal(began):
			return true
		default:
			close(d.done)
		}
		return false
	}, true
}

// calling reports whether an ADD of c is in progress.
func (t *table) calling(c container) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, busy := t.calls[c]
	return busy
}

// inProgress is how many ADDs are.
func (t *table) inProgress() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.calls)
}

// ended waits until no ADD of c is in progress.
func (t *table) ended(ctx context.Context, c container) error {
	t.mu.Lock()
	running, busy := t.calls[c]
	t.mu.Unlock()
	if !busy {
		return nil
	}
	return wait(ctx, running.done)
}

// since returns when the first ADD of a sandbox came, over all its interfaces:
// what it may wait is counted from there.
func (t *table) since(id string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for other, since := range t.first {
		if now.Sub(since) > remembered {
			delete(t.first, other)
		}
	}
	if _, ok := t.first[id]; !ok {
		t.first[id] = now
	}
	return t.first[id]
}

// keys lists the attachments.
func (t *table) keys() []attachmentKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.attachments))
}

// try takes the turn of an attachment if nobody has it.
func (t *table) try(key attachmentKey) (_ *attachment, give func(), ok bool) {
	t.mu.Lock()
	at, ok := t.attachments[key]
	t.mu.Unlock()
	if !ok {
		return nil, nil, false
	}
	select {
	case <-at.turn:
		if t.current(at) {
			return at, func() { t.give(at) }, true
		}
		at.turn <- struct{}{}
	default:
	}
	return nil, nil, false
}

// take waits for the turn of an attachment, which is made if there is none, and
// gives it to the caller until give is called.
func (t *table) take(ctx context.Context, key attachmentKey) (_ *attachment, give func(), err error) {
	for {
		t.mu.Lock()
		at, ok := t.attachments[key]
		if !ok {
			at = &attachment{key: key, turn: make(chan struct{}, 1)}
			at.turn <- struct{}{}
			t.attachments[key] = at
		}
		t.mu.Unlock()
		if err := wait(ctx, at.turn); err != nil {
			return nil, nil, err
		}
		if t.current(at) {
			return at, func() { t.give(at) }, nil
		}
		at.turn <- struct{}{} // dropped while we waited: pass the token on, look again
	}
}

func (t *table) current(at *attachment) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attachments[at.key] == at
}

// give ends a turn; an attachment that holds nothing is forgotten.
func (t *table) give(at *attachment) {
	if len(at.held) == 0 && len(at.doubts) == 0 {
		t.mu.Lock()
		delete(t.attachments, at.key)
		for c, b := range t.bound {
			if b.key == at.key {
				delete(t.bound, c)
			}
		}
		t.mu.Unlock()
	}
	at.turn <- struct{}{}
}

// bind records that c is a sandbox of the attachment key.
func (t *table) bind(c container, key attachmentKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bound[c] = binding{key, time.Now()}
}

// boundTo returns the attachment that c belongs to.
func (t *table) boundTo(c container) (attachmentKey, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.bound[c]
	return b.key, ok
}

// of returns what the attachment holds of family f.
func (at *attachment) of(f pool.Family) []*holding {
	var out []*holding
	for _, h := range at.held {
		if familyOf(h.entry) == f {
			out = append(out, h)
		}
	}
	return out
}

func wait[T any](ctx context.Context, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
