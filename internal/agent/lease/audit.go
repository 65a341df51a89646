package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/probe"
)

// Verdict is what the audit does about a lease.
type Verdict int

// The verdicts.
const (
	// Keep: nothing.
	Keep Verdict = iota
	// Adopt: the entry is a lease of this node from now on, as it stands.
	Adopt
	// Release: the entry is removed, since nothing bears its address.
	Release
	// Recreate: the entry is made again, since its container lives and bears the address.
	Recreate
	// Restore: the entry is taken out of quarantine, since the pod is there and its container lives and bears the address.
	Restore
	// Forget: nothing stands in the ledger and nothing can come; the lease ends.
	Forget
	// Again: it cannot be told now; the next audit looks again.
	Again
)

// Finding is what the audit knows of one address: what the ledger says, what this process knows, and the container.
type Finding struct {
	// Listed says that the ledger was read for this audit, after the last write of the lease, or gave the address to another when
	// it was read last; Stands that the entry is in it.
	Listed, Stands bool
	// Known says that there is a lease; Told, Sibling and InDoubt are of it. Sibling is another lease of the same interface
	// and family that is confirmed in the name of the same container.
	Known            bool
	Told             Told
	Sibling, InDoubt bool
	// Quarantined says that the entry is in quarantine, written by somebody who could not prove that its container is gone;
	// PodThere that its pod is known to exist.
	Quarantined, PodThere bool
	// Attachment is the state of the container that the entry names.
	Attachment State
	// Gone says that its interface or namespace is gone; GoneBefore that the audit before found that too. Unlisted says that
	// the runtime does not list it (GC).
	Gone, GoneBefore, Unlisted bool
	// Settled says that nothing can come any more that an agent before this one has sent.
	Settled bool
}

// Decide is the audit of one address. An entry that no container of this node bears is not audited: one that is kept, or in
// quarantine because another host answered for its address. Of all others the first row that fits holds.
//
//	ledger         lease             container                    verdict
//	there          none              deleted                      release
//	there          none              beside a confirmed sibling   release: a claim of an agent before this one, once
//	                                                              nothing of that agent can come any more
//	there          none              any other                    adopt; the next look decides
//	any            any               adding, deleting             again: its ADD or DEL is in progress
//	not there      not told          any                          forget; again, as long as a create may still happen
//	not there      told or unknown   gone, or deleted             forget; again, as long as a create may still happen
//	not there      told or unknown   any other                    recreate, also if a create may still happen
//	there, or not  any               deleted                      release
//	looked at      not told, doubt   any                          again, as above
//	               not told          any                          release: nobody bears it
//	in quarantine  told or unknown   namespace and pod there      restore
//	there, or not  told or unknown   namespace there              keep
//	looked at
//	               told or unknown   gone in two looks, or gone
//	                                 and unlisted                 release
//	               told or unknown   gone in one look             again
func Decide(f Finding) Verdict {
	switch {
	case !f.Known && (f.Attachment == Deleted || f.Sibling && f.Settled):
		return Release
	case !f.Known:
		return Adopt
	case f.Attachment == Adding, f.Attachment == Deleting:
		return Again
	case f.Listed && !f.Stands:
		return f.vanished()
	case f.Attachment == Deleted:
		return Release
	case f.Told == No && f.InDoubt:
		return Again
	case f.Told == No:
		return Release
	case !f.Gone && f.Quarantined && f.PodThere:
		return Restore
	case !f.Gone:
		return Keep
	case f.GoneBefore, f.Unlisted:
		return Release
	}
	return Again
}

func (f Finding) vanished() Verdict {
	silent := f.Told == No || f.Gone || f.Attachment == Deleted
	switch {
	case silent && f.InDoubt:
		return Again
	case silent:
		return Forget
	}
	return Recreate
}

// Snapshot is a LIST of the entries of this node, and when it was sent.
type Snapshot struct {
	// Entries are by the interfaces of pods that hold them.
	Entries map[Owner][]*v2beta1.SpiderIP
	Sent    time.Time
	// First says that it is the first: nothing was served before it.
	First bool
	// Settled is as in Finding.
	Settled bool
}

// List reads what stands in the ledger for this node.
func (t *Table) List(ctx context.Context) (Snapshot, error) {
	s := Snapshot{Entries: map[Owner][]*v2beta1.SpiderIP{}, Sent: time.Now()}
	entries, err := t.ledger.OfNode(ctx, t.node)
	for i := range entries {
		if !borne(&entries[i]) {
			continue
		}
		o := ownerOf(&entries[i])
		s.Entries[o] = append(s.Entries[o], &entries[i])
	}
	return s, err
}

// Adopt makes the entries of a snapshot leases of an interface that it does not know yet. Those that Decide would release were
// told to nobody who lives: the audit, which comes next, releases them. The caller has locked the interface.
func (t *Table) Adopt(ctx context.Context, i *Interface, s *Snapshot) {
	for _, e := range s.Entries[i.Owner] {
		if l := i.Lease(e.Name); l != nil && (l.Held() || l.unsettled()) {
			continue
		}
		if !s.First { // it may have been released since the LIST was sent
			now, err := t.ledger.Get(ctx, e.Name)
			if err != nil || now == nil || now.UID != e.UID || !borne(now) {
				continue
			}
			e = now
		}
		l := &Lease{Entry: e, Owned: probe.Bears(e.Spec.Netns, e.Spec.Interface, AddressOf(e))}
		f := Finding{Listed: true, Stands: true, Attachment: t.Attachment(l.Key()).State, Settled: s.Settled, Sibling: i.sibling(e)}
		if i.leases = append(i.leases, l); Decide(f) == Release {
			l.Told = No
			continue
		}
		t.Bind(l.Key(), i.Owner)
	}
}

// sibling reports whether another address of the family is confirmed for the same container.
func (i *Interface) sibling(e *v2beta1.SpiderIP) bool {
	of := Lease{Entry: e}
	return slices.ContainsFunc(i.leases, func(o *Lease) bool {
		return o.Entry.Name != e.Name && o.Confirmed && o.Family() == of.Family() && o.Key() == of.Key()
	})
}

// Find is what the audit knows of a lease. s is nil if the ledger is not read; unlisted is as in Finding, and exists
// says whether a pod is known to exist.
func (t *Table) Find(i *Interface, l *Lease, s *Snapshot, unlisted bool, exists func(v2beta1.IPPod) bool) Finding {
	f := Finding{Quarantined: l.Entry.Spec.Use == v2beta1.IPUseQuarantine, Known: true, Told: l.Told, Sibling: i.sibling(l.Entry), InDoubt: l.unsettled(), Attachment: t.Attachment(l.Key()).State,
		Gone: t.gone(l), GoneBefore: l.gone, Unlisted: unlisted, Listed: l.contradicted}
	if s != nil && l.written.Before(s.Sent) {
		f.Listed = true
		at := slices.IndexFunc(s.Entries[i.Owner], func(e *v2beta1.SpiderIP) bool { return e.Name == l.Entry.Name })
		if f.Stands = at >= 0; f.Stands {
			f.Quarantined = s.Entries[i.Owner][at].Spec.Use == v2beta1.IPUseQuarantine
		}
	}
	if !l.Held() {
		f.Listed = true // refreshed before, by Settle
	}
	f.PodThere = f.Quarantined && exists(l.Entry.Spec.Pod)
	l.gone = f.Gone
	return f
}

// Recreate makes the entry of a living container again. The holder is who has the address now, if it is not the
// container itself. ledger.ErrUnknown leaves the lease in doubt; it may be called again at once.
func (t *Table) Recreate(ctx context.Context, i *Interface, l *Lease) (holder *v2beta1.SpiderIP, err error) {
	entry := &v2beta1.SpiderIP{Spec: l.Entry.Spec}
	err = t.ledger.Claim(ctx, entry)
	switch {
	case err == nil:
		l.Entry, l.contradicted, l.written = entry, false, time.Now()
		return nil, nil
	case errors.Is(err, ledger.ErrUnknown):
		t.doubt(l)
		return nil, err
	case !errors.Is(err, ledger.ErrTaken):
		return nil, err
	}
	now, err := t.ledger.Get(ctx, l.Entry.Name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read SpiderIP %s: %w", l.Entry.Name, err)
	case now == nil:
		return nil, ErrUnsettled
	case ownerOf(now) == i.Owner && now.Spec.ContainerID == l.Entry.Spec.ContainerID && now.Spec.Node == t.node && borne(now):
		l.Entry, l.contradicted = now, false
		if now.Spec.Use == v2beta1.IPUseQuarantine {
			return nil, t.Restore(ctx, i, l)
		}
		return nil, nil
	case fixed.Same(now.Spec.Owner, now.Spec.Pod, l.Entry.Spec.Owner, l.Entry.Spec.Pod):
		return nil, t.takeBack(ctx, l, now)
	}
	l.contradicted = true
	return now, nil
}
