package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// doubt is a claim whose answer did not come. It happened, or may still happen
// until it is settled: the API server gives a request up by the timeout that it
// carries.
type doubt struct {
	claim *v2beta1.SpiderIP
	sent  time.Time // not before the request was
}

type doubts []doubt

func (d doubts) has(address string) bool {
	return slices.ContainsFunc(d, func(d doubt) bool { return d.claim.Spec.Address == address })
}

func (d *doubts) clear(address string) {
	*d = slices.DeleteFunc(*d, func(d doubt) bool { return d.claim.Spec.Address == address })
}

// doubt makes a claim a doubt of its attachment, whose turn the caller has. The
// attachment's next ADD and its DEL look at it first; when it is settled it is
// looked at for the last time.
func (a *Agent) doubt(at *attachment, claim *v2beta1.SpiderIP) {
	a.log.Warn("the outcome of a claim is unknown", "address", claim.Spec.Address, "pod", claim.Spec.Pod.Namespace+"/"+claim.Spec.Pod.Name)
	a.metrics.doubts.Inc()
	at.doubts.clear(claim.Spec.Address)
	claim = claim.DeepCopy()
	claim.UID = "" // if it happens, it is another entry than one that was won
	at.doubts = append(at.doubts, doubt{claim, time.Now()})
	a.later(a.timing.settled, func(ctx context.Context) { a.settle(ctx, at.key) })
}

// settle ends the doubts of an attachment that are settled: an entry that is
// there after all and was not taken up is released.
func (a *Agent) settle(ctx context.Context, key attachmentKey) {
	at, give, err := a.table.take(ctx, key)
	if err != nil {
		return
	}
	defer give()
	if err = a.resolve(ctx, at); err == nil {
		err = a.trim(ctx, at)
	}
	if err != nil {
		a.later(a.timing.settled, func(ctx context.Context) { a.settle(ctx, key) })
	}
}

// resolve looks at every doubt of an attachment. An entry that is there is held
// from now on, unconfirmed. errUnsettled means that some may still happen.
func (a *Agent) resolve(ctx context.Context, at *attachment) error {
	var unsettled error
	for _, d := range slices.Clone(at.doubts) {
		found, err := a.reread(ctx, d.claim, at.key)
		switch {
		case err == nil:
			if known := at.holding(found.Name); known == nil || known.entry.UID != found.UID {
				at.hold(&holding{entry: found, unanswered: true})
			}
		case !errors.Is(err, ledger.ErrLost):
			return err
		}
		if time.Since(d.sent) < a.timing.settled {
			unsettled = errUnsettled
			continue
		}
		at.doubts.clear(d.claim.Spec.Address)
	}
	return unsettled
}

// trim releases what the attachment holds beside a confirmed address of the
// same family.
func (a *Agent) trim(ctx context.Context, at *attachment) error {
	var errs []error
	for _, h := range slices.Clone(at.held) {
		rivals := at.of(familyOf(h.entry))
		if !h.confirmed() && slices.ContainsFunc(rivals, (*holding).confirmed) {
			errs = append(errs, a.release(ctx, at, h))
		}
	}
	return errors.Join(errs...)
}

// hold makes the attachment hold an entry. One that it held of the same name is
// gone: the ledger has each name once.
func (at *attachment) hold(h *holding) {
	at.held = slices.DeleteFunc(at.held, func(o *holding) bool { return o.entry.Name == h.entry.Name })
	at.held = append(at.held, h)
}

// holds reports whether the attachment holds the entry of that name.
func (at *attachment) holds(name string) bool { return at.holding(name) != nil }

// holding returns what the attachment holds by the entry of that name, or nil.
func (at *attachment) holding(name string) *holding {
	i := slices.IndexFunc(at.held, func(h *holding) bool { return h.entry.Name == name })
	if i < 0 {
		return nil
	}
	return at.held[i]
}
