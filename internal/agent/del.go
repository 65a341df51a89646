package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/probe"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// del serves DEL: it is noted on disk, answered, and done in the background. So it succeeds at once whatever the API server
// does, and a crash forgets nothing. Only if it cannot be noted is it done before it is answered.
func (a *Agent) del(ctx context.Context, req *wire.Request) error {
	note := wire.Note{Network: req.Network, ContainerID: req.ContainerID, Interface: req.Interface, Netns: req.Netns, Pod: req.Pod}
	k := keyOf(note)
	allKnown := a.Ready() && a.settled.Load() && a.launcher(ctx, req.Pod) == nil
	if a.leases.Delete(k, allKnown) {
		return nil
	}
	err := wire.WriteNote(wire.NotesDir(a.Socket), note)
	a.leases.Noted(k)
	if err != nil {
		a.Log.Error("a DEL cannot be noted, it is done before it is answered", "container", note.ContainerID, "error", err)
		if err := a.carryOut(ctx, note, false); err != nil {
			return &wire.Error{Code: wire.CodeIO, Msg: fmt.Sprintf("the addresses of container %s cannot be released now, nor noted for later: %v", note.ContainerID, err)}
		}
		return nil
	}
	if a.Ready() {
		a.carryOutLater(note)
	}
	return nil
}

func keyOf(n wire.Note) lease.Key { return lease.Key{Container: n.ContainerID, Interface: n.Interface} }

// carryOut releases what a deleted container bears and, if it is noted, removes the notes that ask for it. lease.ErrBusy means
// that another call is at it.
func (a *Agent) carryOut(ctx context.Context, note wire.Note, noted bool) error {
	k := keyOf(note)
	for removed := false; ; noted = true { // another DEL came meanwhile, and left its note
		dels, ok := a.leases.BeginRelease(k)
		if !ok {
			return lease.ErrBusy
		}
		began := time.Now()
		err := a.release(ctx, note, noted)
		if err == nil && !removed { // once, however often its note was found meanwhile
			a.metrics.Ended(a.metrics.Release, time.Since(began), 0, metrics.Served)
		}
		switch {
		case err == nil && noted:
			err = a.removeNotes(note)
			removed = err == nil
		case err != nil && removed: // that was the note of the later DEL too
			err = errors.Join(err, wire.WriteNote(wire.NotesDir(a.Socket), note))
		}
		if !a.leases.EndRelease(k, dels, err == nil) {
			return err
		}
	}
}

// removeNotes removes the notes of a DEL, wherever plugins may have left them.
func (a *Agent) removeNotes(note wire.Note) (err error) {
	for _, dir := range a.notesDirs() {
		err = errors.Join(err, wire.RemoveNote(dir, note))
	}
	return err
}

// release releases what a container bears, when its interface is silent: main plugins call the DEL of IPAM before they remove
// it, and are answered before this if the DEL is noted. A container that holds nothing, or is no longer the one that an entry
// names, is no error.
func (a *Agent) release(ctx context.Context, note wire.Note, noted bool) error {
	k := keyOf(note)
	if err := a.leases.AwaitAdd(ctx, k); err != nil {
		return err
	}
	at := a.leases.Attachment(k)
	settled := a.settled.Load() || !at.Admitted.IsZero() // before that, what an agent before this one sent for the container may still come
	if at.Owner != (lease.Owner{}) {
		if err := a.awaitSilence(ctx, at.Owner, k); err != nil && noted {
			return err
		}
		if err := a.releaseOf(ctx, at.Owner, k); err != nil {
			return err
		}
	} else if err := a.silence(ctx, note); err != nil {
		return err
	}
	if !settled {
		return lease.ErrUnsettled
	}
	return nil
}

func (a *Agent) releaseOf(ctx context.Context, owner lease.Owner, k lease.Key) error {
	i, unlock, err := a.leases.Lock(ctx, owner)
	if err != nil {
		return err
	}
	defer unlock()
	errs := []error{a.leases.Settle(ctx, i)}
	for _, l := range i.Leases() {
		if l.Key() == k {
			errs = append(errs, a.giveUp(ctx, i, l))
		}
	}
	a.republish(ctx, i, false)
	return errors.Join(errs...)
}

// awaitSilence waits until the interfaces are gone that bear the container's addresses by the ledger, or for the time that a
// main plugin has to remove them. It fails if one is seen to bear an address even then: who gets that is not alone.
func (a *Agent) awaitSilence(ctx context.Context, owner lease.Owner, k lease.Key) error {
	i, unlock, err := a.leases.Lock(ctx, owner)
	if err != nil {
		return err
	}
	at := map[netip.Addr]string{}
	for _, l := range i.Leases() {
		if l.Key() == k && l.Told != lease.No {
			at[lease.AddressOf(l.Entry)] = l.Entry.Spec.Netns
		}
	}
	unlock()
	limited, cancel := context.WithTimeout(ctx, a.Durations.Release)
	defer cancel()
	for address, netns := range at {
		probe.AwaitGone(limited, netns, k.Interface, a.Durations.Release)
		if probe.Bears(netns, k.Interface, address) {
			return fmt.Errorf("%s in %s still has %s: delete the interface there if nothing else does", k.Interface, netns, address)
		}
	}
	return nil
}

// deleteNoted carries out what is noted: DELs that the plugin left while no agent was there, those of an agent before this
// one, and those that failed.
func (a *Agent) deleteNoted() {
	left := 0
	for _, dir := range a.notesDirs() {
		at := time.Now()
		notes, err := wire.ReadNotes(dir)
		if err != nil && a.isNews(dir, err.Error()) {
			a.Log.Warn("notes of DELs cannot all be read", "directory", dir, "error", err)
		}
		left += len(notes)
		for _, note := range notes {
			a.leases.DeleteAsNoted(keyOf(note), at)
			a.carryOutLater(note)
		}
	}
	a.metrics.PendingReleases.Set(float64(left))
}

// notesDirs are where notes may lie: beside the socket, and beside former ones that plugins knew before an upgrade.
func (a *Agent) notesDirs() (dirs []string) {
	dirs = append(dirs, wire.NotesDir(a.Socket))
	for _, socket := range a.FormerSockets {
		if socket != a.Socket {
			dirs = append(dirs, wire.NotesDir(socket))
		}
	}
	return dirs
}

// deleteAsNoted carries out what is noted of a container that is about to be served, so that no note is left that would be
// carried out when it is.
func (a *Agent) deleteAsNoted(k lease.Key) {
	for _, dir := range a.notesDirs() {
		for outdated := true; outdated; {
			outdated = a.deleteAsNotedIn(dir, k)
		}
	}
}

// deleteAsNotedIn looks into one directory. What it has found there may be outdated: then it is to look again.
func (a *Agent) deleteAsNotedIn(dir string, k lease.Key) (outdated bool) {
	at := time.Now()
	note, found, err := wire.ReadNote(dir, k.Container, k.Interface)
	if err != nil {
		a.Log.Warn("a note of a DEL cannot be read", "container", k.Container, "interface", k.Interface, "error", err)
	}
	if !found {
		return false
	}
	if a.leases.DeleteAsNoted(k, at) {
		return true
	}
	a.carryOutLater(note)
	return false
}

// carryOutLater carries out in the background a DEL that is noted, unless that is under way or the agent stops before. What
// keeps it from being done is logged once.
func (a *Agent) carryOutLater(note wire.Note) {
	a.background.Go(func() {
		if a.life.Err() != nil {
			return
		}
		err := a.carryOut(a.life, note, true)
		switch k := note.ContainerID + "/" + note.Interface; {
		case err == nil:
			a.logged.Delete(k)
		case a.life.Err() == nil && !errors.Is(err, lease.ErrBusy) && a.isNews(k, err.Error()):
			a.Log.Info("a DEL is not done yet", "container", note.ContainerID, "interface", note.Interface, "why", err)
		}
	})
}

// isNews reports whether a text about a note, or a directory of notes, was not the last that was logged of it.
func (a *Agent) isNews(note, why string) bool {
	before, _ := a.logged.Swap(note, why)
	return before != why
}
