package lease

import (
	"context"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// Quarantine writes that another host bears an address that the interface claimed and its container was not told: no pod gets
// it until somebody finds it silent. host is the hardware address of that host, reason says who found it. The lease ends, and
// the address belongs to no owner any more. Errors as of Release.
func (t *Table) Quarantine(ctx context.Context, i *Interface, l *Lease, host, reason string) error {
	_, err := t.end(ctx, i, l, func(ctx context.Context, entry *v2beta1.SpiderIP) error {
		found := entry.DeepCopy()
		s := &found.Spec
		s.Use, s.Conflict, s.Reason, s.Owner = v2beta1.IPUseQuarantine, host, reason, nil
		return t.ledger.Update(ctx, found)
	})
	return err
}

// Restore takes the entry of a living container out of quarantine. Errors as of Rewrite.
func (t *Table) Restore(ctx context.Context, i *Interface, l *Lease) error {
	s := l.Entry.Spec
	s.Use, s.Reason = v2beta1.IPUsePod, ""
	return t.Rewrite(ctx, i, l, s)
}
