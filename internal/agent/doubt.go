package agent

import (
	"context"
	"errors"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// settled is how long after a claim was sent it is certain whether it happened:
// the API server gives it up before, by the timeout that each request carries.
const settled = 20 * time.Second

// doubt looks after a claim whose answer did not come. When its outcome is
// certain, the entry is released if it exists and its attachment does not hold
// it.
func (a *Agent) doubt(claim *v2beta1.SpiderIP) {
	a.log.Warn("the outcome of a claim is unknown", "address", claim.Spec.Address)
	time.AfterFunc(settled, func() {
		ctx, cancel := context.WithTimeout(context.Background(), afterwards)
		defer cancel()
		if err := a.settle(ctx, claim); err != nil {
			a.doubt(claim)
		}
	})
}

func (a *Agent) settle(ctx context.Context, claim *v2beta1.SpiderIP) error {
	at, give, err := a.table.take(ctx, keyOf(claim))
	if err != nil {
		return err
	}
	defer give()
	for _, h := range at.held {
		if h.entry.Name == claim.Name {
			return nil
		}
	}
	found, err := a.reread(ctx, claim, at.key)
	if errors.Is(err, ledger.ErrLost) {
		return nil
	}
	if err == nil {
		err = a.ledger.Release(ctx, found)
	}
	if errors.Is(err, ledger.ErrLost) {
		return nil
	}
	return err
}
