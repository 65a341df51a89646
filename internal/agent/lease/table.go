package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/probe"
)

// Table holds the attachments and leases of one node.
type Table struct {
	node      string
	ledger    *ledger.Ledger
	durations timing.Durations
	metrics   *metrics.Metrics
	log       *slog.Logger

	mu          sync.Mutex
	attachments map[Key]*attachment
	interfaces  map[Owner]*Interface
	firstAdd    map[string]time.Time // of a container, over all its interfaces
}

// NewTable makes the table of a node.
func NewTable(node string, l *ledger.Ledger, d timing.Durations, m *metrics.Metrics, log *slog.Logger) *Table {
	return &Table{node: node, ledger: l, durations: d, metrics: m, log: log,
		attachments: map[Key]*attachment{}, interfaces: map[Owner]*Interface{}, firstAdd: map[string]time.Time{}}
}

// Owner names the interface of a pod that leases belong to: the pod's UID as CNI gave it, and the name of the interface.
// Two interfaces of one pod hold different addresses; containers of the pod follow each other as its owner.
type Owner struct{ PodUID, Interface string }

// Interface is what an interface of a pod holds. Who has locked it (Table.Lock) may use its fields and methods.
type Interface struct {
	Owner
	turn   chan struct{}
	leases []*Lease
	// dropped says that the table has forgotten it: who waited for it must look again.
	dropped bool
}

// Lock waits until nobody else has the interface, which is made if there is none, and gives it to the caller until unlock.
func (t *Table) Lock(ctx context.Context, o Owner) (_ *Interface, unlock func(), err error) {
	for {
		i := t.of(o, true)
		if err := Wait(ctx, i.turn); err != nil {
			return nil, nil, fmt.Errorf("interface %s of pod %s: %w: %w", o.Interface, o.PodUID, ErrBusy, err)
		}
		if !i.dropped {
			return i, func() { t.unlock(i) }, nil
		}
		i.turn <- struct{}{} // it was dropped while we waited: pass the token on, look again
	}
}

// TryLock locks an interface if nobody has it. One that holds nothing yet is made if that is wanted.
func (t *Table) TryLock(o Owner, made bool) (_ *Interface, unlock func(), ok bool) {
	i := t.of(o, made)
	if i == nil {
		return nil, nil, false
	}
	select {
	case <-i.turn:
		if !i.dropped {
			return i, func() { t.unlock(i) }, true
		}
		i.turn <- struct{}{}
	default:
	}
	return nil, nil, false
}

// of is what an interface holds, or nil; one that holds nothing yet is made if that is wanted.
func (t *Table) of(o Owner, made bool) *Interface {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.interfaces[o]
	if i == nil && made {
		i = &Interface{Owner: o, turn: make(chan struct{}, 1)}
		i.turn <- struct{}{}
		t.interfaces[o] = i
	}
	return i
}

// unlock ends a turn; an interface without leases is forgotten, and its attachments with it.
func (t *Table) unlock(i *Interface) {
	if len(i.leases) == 0 {
		i.dropped = true
		t.mu.Lock()
		delete(t.interfaces, i.Owner)
		for k, a := range t.attachments {
			if a.Owner == i.Owner {
				t.forgetIfEmpty(k, a)
			}
		}
		t.mu.Unlock()
	}
	i.turn <- struct{}{}
}

// Owners lists the interfaces that hold something.
func (t *Table) Owners() []Owner {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.interfaces))
}

// FirstAdd returns when the first ADD of a container came, over all its interfaces: its deadline is counted from there.
func (t *Table) FirstAdd(container string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(t.firstAdd, func(_ string, since time.Time) bool { return now.Sub(since) > t.durations.Remember })
	if _, ok := t.firstAdd[container]; !ok {
		t.firstAdd[container] = now
	}
	return t.firstAdd[container]
}

// Leases are what the interface holds, or may hold when a create without an answer happens.
func (i *Interface) Leases() []*Lease { return slices.Clone(i.leases) }

// Lease is the one of an address, or nil.
func (i *Interface) Lease(name string) *Lease {
	at := slices.IndexFunc(i.leases, func(l *Lease) bool { return l.Entry.Name == name })
	if at < 0 {
		return nil
	}
	return i.leases[at]
}

// Forget ends a lease of which nothing stands in the ledger.
func (i *Interface) Forget(l *Lease) {
	i.leases = slices.DeleteFunc(i.leases, func(o *Lease) bool { return o == l })
}

// Told says whether a container was told an address.
type Told int

// Unknown is what an entry is that was found in the ledger.
const (
	Unknown Told = iota
	No
	Yes
)

// Lease is one address of an interface of a pod.
type Lease struct {
	// Entry is what stands in the ledger, as this process knows it. Its UID is empty while nothing is known to stand there:
	// then the lease is a create without an answer.
	Entry *v2beta1.SpiderIP
	// Told says whether the container that the entry names was told the address.
	Told Told
	// Owned says that the pod was told the address, by whichever container: of its pool only the ranges count for it.
	Owned bool
	// Confirmed says that the fence admitted the entry as it is.
	Confirmed bool

	// inDoubtUntil is until when a create that was sent and not answered may still happen.
	inDoubtUntil time.Time
	// staleUntil is set when a write was not answered: the entry must be read before it is written again, and as long as the
	// late write may come.
	staleUntil time.Time
	// gone says that the audit has found the container's interface gone once.
	gone bool
	// contradicted is as in Contradicted.
	contradicted bool
	// written is when this process last wrote the entry: a LIST that was sent before says nothing of it.
	written time.Time
}

// Held reports whether the entry is known to stand in the ledger.
func (l *Lease) Held() bool { return l.Entry.UID != "" }

// Contradicted reports whether the ledger gave the address to another when its entry was last to be made again. That is tried at
// each look: the other's entry may have come back with an earlier state of the ledger, and goes.
func (l *Lease) Contradicted() bool { return l.contradicted }

// Key is the attachment that bears the address.
func (l *Lease) Key() Key { return Key{l.Entry.Spec.ContainerID, l.Entry.Spec.Interface} }

// Family is the family of the address.
func (l *Lease) Family() pool.Family { return pool.FamilyOf(AddressOf(l.Entry)) }

func (l *Lease) stale() bool { return !l.staleUntil.IsZero() }

func (l *Lease) unsettled() bool { return time.Now().Before(l.inDoubtUntil) }

// Silent reports to a container's call whether nothing else bears the address: its container was never told it, and no other
// call is about to tell it, or is deleted, or its interface or network namespace is gone.
func (t *Table) Silent(l *Lease, by Key) bool {
	state := t.Attachment(l.Key()).State
	return l.Told == No && (state != Adding || l.Key() == by) || state == Deleted || t.gone(l)
}

// gone reports whether the interface that bears an address is gone. One that is missing in a namespace that is there counts
// only when it must have been made: some main plugins call their IPAM before they make the interface.
func (t *Table) gone(l *Lease) bool {
	s := l.Entry.Spec
	return probe.NamespaceGone(s.Netns) || time.Since(l.written) > t.durations.Made && probe.Gone(s.Netns, s.Interface)
}

// Create claims an address for the interface. Errors: ledger.ErrTaken; ledger.ErrUnknown, and then the claim is in doubt
// and a lease of the interface that says so; or a refusal after which nothing stands in the ledger. A create of an address
// that is in doubt finds out whether it was the interface's own that took it.
func (t *Table) Create(ctx context.Context, i *Interface, entry *v2beta1.SpiderIP) (*Lease, error) {
	err := t.ledger.Claim(ctx, entry)
	l, unknown := i.Lease(entry.Name), errors.Is(err, ledger.ErrUnknown)
	switch {
	case errors.Is(err, ledger.ErrTaken) && l != nil:
		return t.own(ctx, i, l, entry.Spec, err)
	case err != nil && !unknown:
		return nil, err
	case l == nil:
		l = &Lease{Entry: entry, Told: No}
		i.leases = append(i.leases, l)
	}
	if unknown { // it happened, or may still
		t.log.Warn("the outcome of a claim is unknown", "address", entry.Spec.Address, "pod", entry.Spec.Pod.Namespace+"/"+entry.Spec.Pod.Name)
		t.doubt(l)
		return nil, err
	}
	l.Entry, l.Told, l.Owned, l.Confirmed, l.staleUntil, l.written = entry, No, false, false, time.Time{}, time.Now()
	return l, nil
}

// doubt keeps that a create of the entry was sent whose answer did not come.
func (t *Table) doubt(l *Lease) {
	t.metrics.InDoubt.Inc()
	l.inDoubtUntil = time.Now().Add(t.durations.Settle)
}

// own is a lease whose address is taken, if it is the interface's own entry of the same container and pool that took it;
// else the error is taken. An entry that was known is written again: a release without an answer may still be on its way, and
// must not find what it was sent for.
func (t *Table) own(ctx context.Context, i *Interface, l *Lease, spec v2beta1.IPSpec, taken error) (*Lease, error) {
	known := l.Held()
	err := t.refresh(ctx, i, l)
	if err == nil && (l.Key() != (Key{spec.ContainerID, spec.Interface}) || l.Entry.Spec.Pool != spec.Pool) {
		return nil, taken // a pool never changes: what is in the name of another is not what was asked for
	}
	if err == nil && known {
		err = t.rewrite(ctx, l, spec)
	}
	switch {
	case errors.Is(err, ledger.ErrLost):
		return nil, taken
	case err != nil:
		return nil, err
	}
	l.Told, l.Confirmed = No, false
	return l, nil
}

// Rewrite writes a container into an entry that the interface holds: one that asks again, or one that takes the address
// over from a container that is silent. Errors: ledger.ErrLost, and the lease is forgotten; ledger.ErrUnknown; or a
// refusal after which nothing was written.
func (t *Table) Rewrite(ctx context.Context, i *Interface, l *Lease, spec v2beta1.IPSpec) error {
	if l.stale() {
		if err := t.refresh(ctx, i, l); err != nil {
			return err
		}
	}
	err := t.rewrite(ctx, l, spec)
	if errors.Is(err, ledger.ErrLost) {
		if err = t.refresh(ctx, i, l); err == nil {
			err = t.rewrite(ctx, l, spec)
		}
	}
	return err
}

func (t *Table) rewrite(ctx context.Context, l *Lease, spec v2beta1.IPSpec) error {
	entry := l.Entry.DeepCopy()
	spec.Address, spec.Pool = entry.Spec.Address, entry.Spec.Pool
	entry.Spec = spec
	l.Confirmed = false
	err := t.ledger.Update(ctx, entry)
	switch {
	case err == nil:
		if l.Key() != (Key{spec.ContainerID, spec.Interface}) {
			l.Told = No
		}
		l.Entry, l.gone, l.written, l.staleUntil = entry, false, time.Now(), time.Time{}
	case errors.Is(err, ledger.ErrUnknown):
		t.metrics.InDoubt.Inc()
		l.staleUntil = time.Now().Add(t.durations.Settle)
	}
	return err
}

// Release removes the entry of a lease. freed says that this made the address free. An entry that has become somebody
// else's is left alone and the lease forgotten. ErrUnsettled means that a create in doubt may still happen.
func (t *Table) Release(ctx context.Context, i *Interface, l *Lease) (freed bool, err error) {
	return t.end(ctx, i, l, t.ledger.Release)
}

// end ends a lease by a last write of its entry.
func (t *Table) end(ctx context.Context, i *Interface, l *Lease, write func(context.Context, *v2beta1.SpiderIP) error) (written bool, err error) {
	bearer := l.Key()
	l.Confirmed = false
	read := !l.Held() || l.stale()
	for tries := 0; tries < 2; tries++ {
		if read {
			if err = t.refresh(ctx, i, l); err != nil {
				break
			}
			if l.Held() && l.Key() != bearer && !t.Silent(l, bearer) {
				return false, nil // a write without an answer happened after all: it is another container's
			}
		}
		if err = write(ctx, l.Entry); !errors.Is(err, ledger.ErrLost) {
			break
		}
		read = true
	}
	switch {
	case err == nil:
		t.lost(i, l)
		return true, l.settled()
	case errors.Is(err, ledger.ErrLost):
		return false, l.settled()
	case errors.Is(err, ledger.ErrUnknown):
		l.staleUntil = time.Now().Add(t.durations.Settle)
	}
	return false, err
}

// ErrUnsettled means that a create without an answer may still happen.
var ErrUnsettled = errors.New("it is not known yet whether a write happened")

func (l *Lease) settled() error {
	if l.unsettled() {
		return ErrUnsettled
	}
	return nil
}

// lost notes that the entry stands no more: what is left of the lease is its doubt.
func (t *Table) lost(i *Interface, l *Lease) {
	if !l.unsettled() {
		i.Forget(l)
		return
	}
	l.Entry = l.Entry.DeepCopy()
	l.Entry.UID, l.Entry.ResourceVersion = "", ""
	l.Told, l.Owned, l.Confirmed, l.staleUntil = No, false, false, time.Time{}
}

// refresh reads what stands in the ledger. ErrLost means that it is not this interface's: the lease is forgotten, or is
// only a doubt from now on.
func (t *Table) refresh(ctx context.Context, i *Interface, l *Lease) error {
	now, err := t.ledger.Get(ctx, l.Entry.Name)
	if err != nil {
		return fmt.Errorf("read SpiderIP %s: %w", l.Entry.Name, err)
	}
	if now == nil || ownerOf(now) != i.Owner || now.Spec.Node != t.node || !borne(now) || l.Held() && now.UID != l.Entry.UID && !same(now, l.Entry) && !l.unsettled() {
		t.lost(i, l)
		return fmt.Errorf("%s: %w", l.Entry.Name, ledger.ErrLost)
	}
	if !l.Held() || !same(now, l.Entry) {
		l.Told = No
	}
	l.Entry = now
	if time.Now().After(l.staleUntil) {
		l.staleUntil = time.Time{}
	}
	return nil
}

// Settle finds out about the creates in doubt and the writes without an answer of an interface, as far as that can be known
// now.
func (t *Table) Settle(ctx context.Context, i *Interface) error {
	for _, l := range i.Leases() {
		if l.Held() && !l.stale() {
			continue
		}
		if err := t.refresh(ctx, i, l); err != nil && !errors.Is(err, ledger.ErrLost) {
			return err
		}
	}
	return nil
}

// Stands reads whether the entry of a lease still stands as it is known.
func (t *Table) Stands(ctx context.Context, l *Lease) (bool, error) {
	now, err := t.ledger.Get(ctx, l.Entry.Name)
	if err != nil {
		return false, fmt.Errorf("read SpiderIP %s: %w", l.Entry.Name, err)
	}
	return now != nil && now.UID == l.Entry.UID && now.Spec.ContainerID == l.Entry.Spec.ContainerID && now.Spec.Use == l.Entry.Spec.Use, nil
}

// same reports whether two entries are in the name of one container: one that was made again is the same lease.
func same(a, b *v2beta1.SpiderIP) bool { return a.Spec.ContainerID == b.Spec.ContainerID }

// borne reports whether the container that an entry names may bear the address. None bears one that is kept, nor one for which
// another host answered when it was probed: the container was not told it.
func borne(e *v2beta1.SpiderIP) bool {
	return e.Spec.Use != v2beta1.IPUseKept && e.Spec.Conflict == ""
}

func ownerOf(e *v2beta1.SpiderIP) Owner { return Owner{e.Spec.Pod.UID, e.Spec.Interface} }

// AddressOf is the address of an entry; the CRD admits no entry without one.
func AddressOf(e *v2beta1.SpiderIP) netip.Addr {
	a, _ := addr.ParseAddr(e.Spec.Address)
	return a
}
