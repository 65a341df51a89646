package lease

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// ErrMoved means that another launcher of the same virtual machine has the address by now: the machine moves.
var ErrMoved = errors.New("the virtual machine moves, and another pod of it has the address")

// Keep writes that nothing bears a fixed address any more and that it waits for the next pod of its owner; reason says until
// when. The lease ends. An entry that has become somebody else's is left alone. Errors as of Release.
func (t *Table) Keep(ctx context.Context, i *Interface, l *Lease, reason string) error {
	_, err := t.end(ctx, i, l, func(ctx context.Context, entry *v2beta1.SpiderIP) error {
		kept := entry.DeepCopy()
		kept.Spec.Use, kept.Spec.Reason = v2beta1.IPUseKept, reason
		return t.ledger.Update(ctx, kept)
	})
	return err
}

// TakeOver writes a container into an entry that an earlier pod of its owner had, or one that is in quarantine. former is the entry as it was read: if it
// has changed since, the error is ledger.ErrLost. ledger.ErrUnknown leaves a lease in doubt.
func (t *Table) TakeOver(ctx context.Context, i *Interface, former *v2beta1.SpiderIP, spec v2beta1.IPSpec) (*Lease, error) {
	entry := former.DeepCopy()
	spec.Address, spec.Pool = former.Spec.Address, former.Spec.Pool
	entry.Spec = spec
	if former.Spec.Use == v2beta1.IPUsePod {
		setBearers(entry, append(Bearers(former), former.Spec.ContainerID))
	}
	err := t.ledger.Update(ctx, entry)
	unknown := errors.Is(err, ledger.ErrUnknown)
	if err != nil && !unknown {
		return nil, err
	}
	l := i.Lease(entry.Name)
	if l == nil {
		l = &Lease{}
		i.leases = append(i.leases, l)
	}
	l.Entry, l.Told, l.Owned, l.Confirmed, l.staleUntil, l.gone, l.written = entry, No, false, false, time.Time{}, false, time.Now()
	if unknown {
		l.Entry.UID, l.Entry.ResourceVersion = "", ""
		t.doubt(l)
		return nil, err
	}
	return l, nil
}

// Found makes an entry of this interface and node a lease that the table does not know yet: a write of an agent before this
// one, or one without an answer, happened late.
func (t *Table) Found(i *Interface, entry *v2beta1.SpiderIP) {
	if l := i.Lease(entry.Name); l != nil {
		l.Entry = entry
		return
	}
	l := &Lease{Entry: entry}
	i.leases = append(i.leases, l)
	t.Bind(l.Key(), i.Owner)
}

// takeBack writes a living container into the entry of its address, which another pod of the same owner had meanwhile and
// does not bear any more.
func (t *Table) takeBack(ctx context.Context, l *Lease, now *v2beta1.SpiderIP) error {
	if now.Spec.Use != v2beta1.IPUseKept {
		return ErrMoved
	}
	entry := now.DeepCopy()
	entry.Spec = l.Entry.Spec
	setBearers(entry, without(Bearers(now), l.Entry.Spec.ContainerID))
	err := t.ledger.Update(ctx, entry)
	if err == nil {
		l.Entry, l.contradicted, l.written = entry, false, time.Now()
	}
	return err
}

// Silenced notes in the entry of a virtual machine's address, which has moved to another pod, that a container that bore it
// as well is gone.
func (t *Table) Silenced(ctx context.Context, name, container string) error {
	for {
		now, err := t.ledger.Get(ctx, name)
		if err != nil || now == nil || !slices.Contains(Bearers(now), container) {
			return err
		}
		setBearers(now, without(Bearers(now), container))
		if err := t.ledger.Update(ctx, now); !errors.Is(err, ledger.ErrLost) {
			return err
		}
	}
}

// Bearers are the containers that may bear an address beside the one that its entry names: launchers from which a virtual
// machine moved away.
func Bearers(entry *v2beta1.SpiderIP) []string {
	return strings.Fields(entry.Annotations[v2beta1.AnnotationBearers])
}

func setBearers(entry *v2beta1.SpiderIP, containers []string) {
	if len(containers) == 0 {
		delete(entry.Annotations, v2beta1.AnnotationBearers)
		return
	}
	metav1.SetMetaDataAnnotation(&entry.ObjectMeta, v2beta1.AnnotationBearers, strings.Join(containers, " "))
}

func without(list []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == one })
}
