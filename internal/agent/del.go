package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/probe"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// del serves DEL: it is noted on disk, answered, and done in the background. So
// it succeeds at once whatever the API server does, and a crash forgets
// nothing. Only if it cannot be noted is it done before it is answered.
func (a *Agent) del(ctx context.Context, req *wire.Request) error {
	note := wire.Note{Network: req.Network, ContainerID: req.ContainerID, Interface: req.Interface, Netns: req.Netns, Pod: req.Pod}
	c := container{note.ContainerID, note.Interface}
	if known := a.table.kill(c); !known && a.Ready() && a.looked.Load() {
		a.table.spare(c)
		return nil // nothing is known of it, and nothing will come
	}
	err := wire.WriteNote(wire.NotesDir(a.socket), note)
	a.table.noted(c)
	if err != nil {
		a.log.Error("a DEL cannot be noted, it is done before it is answered", "container", note.ContainerID, "error", err)
		if err := a.bury(ctx, note, false); err != nil {
			return &wire.Error{Code: wire.CodeIO, Msg: fmt.Sprintf("the addresses of container %s cannot be released now, nor noted for later: %v", note.ContainerID, err)}
		}
		return nil
	}
	if a.Ready() {
		a.later(0, func(ctx context.Context) { a.applyNote(ctx, note) })
	}
	return nil
}

// dispose releases what a container holds, when its interface is silent: main
// plugins call the DEL of IPAM before they remove it. A container that holds
// nothing, or is no longer the one recorded, is no error.
func (a *Agent) dispose(ctx context.Context, note wire.Note) error {
	c := container{note.ContainerID, note.Interface}
	if err := a.table.ended(ctx, c); err != nil {
		return err
	}
	// Until the second look, what an agent before this one sent for the
	// container may still come.
	over := a.looked.Load()
	key, ok := a.table.boundTo(c)
	switch {
	case !ok && over:
		return nil
	case !ok:
		return errUnsettled
	}
	probe.AwaitGone(ctx, note.Netns, note.Interface, a.timing.silent)
	at, give, err := a.table.take(ctx, key)
	if err != nil {
		return err
	}
	defer give()
	over = over || at.answered == c.id // this agent served its ADD
	if err := a.empty(ctx, at, c); err != nil || over {
		return err
	}
	return errUnsettled
}

// empty releases what an attachment holds in the name of a container. An error
// means that not all is released, or that some may still have to be.
func (a *Agent) empty(ctx context.Context, at *attachment, c container) error {
	if at.answered == c.id {
		at.reply = nil
	}
	errs := []error{a.resolve(ctx, at)}
	for _, h := range slices.Clone(at.held) {
		errs = append(errs, a.ensure(ctx, at, h))
		if h.entry.Spec.ContainerID == c.id && at.holds(h.entry.Name) {
			h.pool = nil
			errs = append(errs, a.release(ctx, at, h))
		}
	}
	if len(at.held) == 0 {
		a.publish.drop(at.key.pod, at.key.ifname)
	}
	return errors.Join(errs...)
}

// ensure finds out in whose name a holding is, if an answer to an update of it
// did not come. errUnsettled means that the update may still happen.
func (a *Agent) ensure(ctx context.Context, at *attachment, h *holding) error {
	if h.unsure.IsZero() {
		return nil
	}
	var err error
	h.entry, err = a.reread(ctx, h.entry, at.key)
	switch {
	case errors.Is(err, ledger.ErrLost):
		at.forget(h)
		return nil
	case err != nil:
		return err
	case time.Since(h.unsure) < a.timing.settled:
		return errUnsettled
	}
	h.unsure = time.Time{}
	return nil
}

// applyNotes does what is noted: DELs that the plugin left while no agent was
// there, those of an agent before this one, and those that failed.
func (a *Agent) applyNotes() {
	dir := wire.NotesDir(a.socket)
	at := time.Now()
	notes, err := wire.ReadNotes(dir)
	if err != nil {
		a.log.Warn("notes of DELs cannot all be read", "directory", dir, "error", err)
	}
	for _, note := range notes {
		a.table.obey(container{note.ContainerID, note.Interface}, at)
		a.later(0, func(ctx context.Context) { a.applyNote(ctx, note) })
	}
}

// applyNoteOf does what is noted of a container that is about to be served.
func (a *Agent) applyNoteOf(c container) {
	at := time.Now()
	note, found, err := wire.ReadNote(wire.NotesDir(a.socket), c.id, c.ifname)
	switch {
	case err != nil:
		a.log.Warn("a note of a DEL cannot be read", "container", c.id, "interface", c.ifname, "error", err)
	case found:
		a.table.obey(c, at)
		a.later(0, func(ctx context.Context) { a.applyNote(ctx, note) })
	}
}

// applyNote does one, unless that is under way.
func (a *Agent) applyNote(ctx context.Context, note wire.Note) {
	if err := a.bury(ctx, note, true); err != nil && ctx.Err() == nil && !errors.Is(err, errBusy) {
		a.log.Info("a DEL is not done yet", "container", note.ContainerID, "interface", note.Interface, "why", err)
	}
}

// bury disposes of a dead container and removes the note that asks for it, if
// one was written; errBusy means that another call is at it.
func (a *Agent) bury(ctx context.Context, note wire.Note, written bool) error {
	end, ok := a.table.disposing(container{note.ContainerID, note.Interface})
	if !ok {
		return errBusy
	}
	began := time.Now()
	err := a.dispose(ctx, note)
	a.metrics.ended(a.metrics.release, time.Since(began), 0, err)
	if err == nil && written {
		err = wire.RemoveNote(wire.NotesDir(a.socket), note)
	}
	if end(err == nil) {
		return a.bury(ctx, note, true)
	}
	return err
}

// check serves CHECK: the ledger says that the container's attachment holds the
// addresses that its ADD was answered.
func (a *Agent) check(ctx context.Context, req *wire.Request) error {
	if !a.Ready() {
		return errStarting
	}
	who := fmt.Sprintf("container %s, interface %s", req.ContainerID, req.Interface)
	key, ok := a.table.boundTo(container{req.ContainerID, req.Interface})
	if !ok {
		return fmt.Errorf("%s holds no address: %w", who, errNotHeld)
	}
	at, give, err := a.table.take(ctx, key)
	if err != nil {
		return err
	}
	defer give()
	for _, want := range req.Held {
		i := slices.IndexFunc(at.held, func(h *holding) bool { return addressOf(h.entry) == want })
		if i < 0 {
			return fmt.Errorf("%s does not hold %s: %w", who, want, errNotHeld)
		}
		now, err := a.reread(ctx, at.held[i].entry, key)
		if errors.Is(err, ledger.ErrLost) || err == nil && now.Spec.ContainerID != req.ContainerID {
			return fmt.Errorf("%s does not hold %s: SpiderIP %s is gone or another's: %w", who, want, at.held[i].entry.Name, errNotHeld)
		} else if err != nil {
			return away(err)
		}
	}
	return nil
}

// gc serves GC: it frees what this node holds for attachments of this network
// that the runtime does not list, if no call of theirs is in progress and their
// namespace is gone. One that is alive is left alone, whatever the list says:
// lists of several users of one network name are known to be partial.
func (a *Agent) gc(ctx context.Context, req *wire.Request) error {
	if !a.Ready() {
		return errStarting
	}
	valid := map[container]bool{}
	for _, at := range req.Attachments {
		valid[container{at.ContainerID, at.Interface}] = true
	}
	var errs []error
	for _, key := range a.table.keys() {
		errs = append(errs, a.collect(ctx, key, req.Network, valid))
	}
	return errors.Join(errs...)
}

func (a *Agent) collect(ctx context.Context, key attachmentKey, network string, valid map[container]bool) error {
	at, give, ok := a.table.try(key)
	if !ok {
		return nil // a call is in progress
	}
	defer give()
	var errs []error
	for _, h := range slices.Clone(at.held) {
		s := h.entry.Spec
		c := container{s.ContainerID, s.Interface}
		if s.Network != network || s.Owner != nil || valid[c] || a.table.calling(c) || !probe.Gone(s.Netns, s.Interface) {
			continue
		}
		a.log.Info("collected: the runtime does not list it and its namespace is gone", "container", c.id, "interface", c.ifname)
		errs = append(errs, a.empty(ctx, at, c))
	}
	return errors.Join(errs...)
}

// recover learns what the node holds, does what notes ask for, and then lets
// ADDs in. Notes are read again at once, for a plugin that wrote one while the
// socket was being opened, and from time to time. What an agent before this one
// claimed may appear in the ledger a little later: so there is a second look.
func (a *Agent) recover(ctx context.Context) error {
	for !a.load(ctx) {
		if wait(ctx, time.After(time.Second)) != nil {
			return nil
		}
	}
	a.applyNotes()
	a.ready.Store(true)
	a.log.Info("serving", "socket", a.socket, "node", a.node)
	a.later(a.timing.second, func(ctx context.Context) { a.lookAgain(ctx) })
	tick := time.NewTicker(a.timing.notes)
	defer tick.Stop()
	for {
		a.applyNotes()
		if wait(ctx, tick.C) != nil {
			return nil
		}
	}
}

// load fills the table from the ledger. What it finds is unconfirmed.
func (a *Agent) load(ctx context.Context) bool {
	if a.facts.Await(ctx, time.Minute); ctx.Err() != nil {
		return false
	}
	entries, err := a.ledger.OfNode(ctx, a.node)
	if err != nil {
		a.log.Warn("cannot list what this node holds, trying again", "error", err)
		return false
	}
	for i := range entries {
		e := &entries[i]
		at, give, err := a.table.take(ctx, keyOf(e))
		if err != nil {
			return false
		}
		if at.learn(e) {
			a.table.bind(container{e.Spec.ContainerID, e.Spec.Interface}, at.key)
		}
		give()
	}
	a.publishFound(ctx, entries)
	return true
}

// learn makes the attachment hold an entry as it was read, if that is news:
// what this process has confirmed is not, nor what it has a doubt of.
func (at *attachment) learn(e *v2beta1.SpiderIP) bool {
	known := at.holding(e.Name)
	switch {
	case known == nil && !at.doubts.has(e.Spec.Address):
		at.hold(&holding{entry: e})
	case known != nil && !known.confirmed() && isNewer(e, known.entry):
		known.entry = e
	default:
		return false
	}
	return true
}

func isNewer(a, than *v2beta1.SpiderIP) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, than.ResourceVersion)
	return err == nil && order > 0
}

// lookAgain loads once more and puts right what came late: an entry beside a
// confirmed one, and one whose container was disposed of in the meantime.
func (a *Agent) lookAgain(ctx context.Context) {
	if !a.load(ctx) {
		a.later(a.timing.notes, a.lookAgain)
		return
	}
	for _, key := range a.table.keys() {
		at, give, err := a.table.take(ctx, key)
		if err != nil {
			return
		}
		err = a.trim(ctx, at)
		for _, h := range slices.Clone(at.held) {
			if c := (container{h.entry.Spec.ContainerID, key.ifname}); a.table.isBuried(c) {
				err = errors.Join(err, a.empty(ctx, at, c))
			}
		}
		give()
		if err != nil {
			a.later(a.timing.notes, a.lookAgain)
			return
		}
	}
	a.looked.Store(true)
	a.applyNotes()
}
