package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// del serves DEL. It succeeds whatever is known of the container: what cannot
// be released now is noted on disk and done later.
func (a *Agent) del(ctx context.Context, req *wire.Request) error {
	note := wire.Note{Network: req.Network, ContainerID: req.ContainerID, Interface: req.Interface, Netns: req.Netns, Pod: req.Pod}
	err := errStarting
	if a.Ready() {
		err = a.drop(ctx, note)
	}
	if err == nil {
		return nil
	}
	a.log.Info("the release is noted and will be done later", "container", note.ContainerID, "interface", note.Interface, "why", err)
	if err := wire.WriteNote(wire.NotesDir(a.socket), note); err != nil {
		return &wire.Error{Code: wire.CodeIO, Msg: fmt.Sprintf("the addresses of container %s cannot be released now, nor noted for later: %v", note.ContainerID, err)}
	}
	return nil
}

// drop releases what a container holds; a container that holds nothing, or is
// no longer the one recorded, is no error. An ADD of it in progress is
// cancelled first.
func (a *Agent) drop(ctx context.Context, note wire.Note) error {
	c := container{note.ContainerID, note.Interface}
	if err := a.table.kill(ctx, c); err != nil {
		return err
	}
	key, ok := a.table.boundTo(c)
	if !ok {
		return nil
	}
	at, give, err := a.table.take(ctx, key)
	if err != nil {
		return err
	}
	defer give()
	if at.container != c.id {
		return nil
	}
	at.reply = nil
	var errs []error
	for _, h := range slices.Clone(at.held) {
		h.pool = nil
		errs = append(errs, a.release(ctx, at, h))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.publish.drop(key.pod, key.ifname)
	return nil
}

// check serves CHECK: the container's attachment holds the addresses that its
// ADD was answered, as far as this agent knows.
func (a *Agent) check(ctx context.Context, req *wire.Request) error {
	if !a.Ready() {
		return errStarting
	}
	key, ok := a.table.boundTo(container{req.ContainerID, req.Interface})
	if !ok {
		return fmt.Errorf("container %s, interface %s holds no address: %w", req.ContainerID, req.Interface, errNotHeld)
	}
	at, give, err := a.table.take(ctx, key)
	if err != nil {
		return err
	}
	defer give()
	for _, want := range req.Held {
		if !slices.ContainsFunc(at.held, func(h *holding) bool { return addressOf(h.entry) == want }) {
			return fmt.Errorf("container %s, interface %s does not hold %s: %w", req.ContainerID, req.Interface, want, errNotHeld)
		}
	}
	return nil
}

// recover learns what the node holds, does what notes ask for, and then lets
// ADDs in. Notes are read again at once, for a plugin that wrote one while the
// socket was being opened, and from time to time.
func (a *Agent) recover(ctx context.Context) error {
	for !a.load(ctx) {
		if err := wait(ctx, time.After(time.Second)); err != nil {
			return nil
		}
	}
	a.applyNotes(ctx)
	a.ready.Store(true)
	a.log.Info("serving", "socket", a.socket, "node", a.node)
	a.applyNotes(ctx)
	tick := time.NewTicker(rereadNotes)
	defer tick.Stop()
	for wait(ctx, tick.C) == nil {
		a.applyNotes(ctx)
	}
	return nil
}

// load fills the table from the ledger. What it finds is unconfirmed.
func (a *Agent) load(ctx context.Context) bool {
	if !a.world.Synced(ctx) {
		return false
	}
	entries, err := a.ledger.OfNode(ctx, a.node)
	if err != nil {
		a.log.Warn("cannot list what this node holds, trying again", "error", err)
		return false
	}
	for i := range entries {
		e := &entries[i]
		key := keyOf(e)
		at, give, err := a.table.take(ctx, key)
		if err != nil {
			return false
		}
		if !slices.ContainsFunc(at.held, func(h *holding) bool { return h.entry.Name == e.Name }) {
			at.held = append(at.held, &holding{entry: e})
		}
		at.container = e.Spec.ContainerID
		give()
		a.table.bind(container{e.Spec.ContainerID, e.Spec.Interface}, key)
	}
	a.publishFound(ctx, entries)
	return true
}

func (a *Agent) applyNotes(ctx context.Context) {
	dir := wire.NotesDir(a.socket)
	notes, err := wire.ReadNotes(dir)
	if err != nil {
		a.log.Warn("notes of released addresses cannot all be read", "directory", dir, "error", err)
	}
	for _, note := range notes {
		if err := a.applyNote(ctx, dir, note); err != nil {
			a.log.Warn("a noted release is not done yet", "container", note.ContainerID, "interface", note.Interface, "error", err)
		}
	}
}

func (a *Agent) applyNote(ctx context.Context, dir string, note wire.Note) error {
	ctx, cancel := context.WithTimeout(ctx, afterwards)
	defer cancel()
	if err := a.drop(ctx, note); err != nil {
		return err
	}
	return wire.RemoveNote(dir, note)
}
