package agent

import (
	"context"
	"fmt"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// check serves CHECK: the ledger says that the container bears the addresses that its ADD was answered. It changes nothing.
func (a *Agent) check(ctx context.Context, req *wire.Request) error {
	who := fmt.Sprintf("container %s, interface %s", req.ContainerID, req.Interface)
	owner := a.leases.Attachment(lease.Key{Container: req.ContainerID, Interface: req.Interface}).Owner
	if owner == (lease.Owner{}) {
		return fmt.Errorf("%s holds no address: %w", who, errNotHeld)
	}
	i, unlock, err := a.leases.Lock(ctx, owner)
	if err != nil {
		return err
	}
	defer unlock()
	for _, want := range req.Held {
		l := i.Lease(addr.Name(want))
		if l == nil || l.Entry.Spec.ContainerID != req.ContainerID {
			return fmt.Errorf("%s does not hold %s: %w", who, want, errNotHeld)
		}
		stands, err := a.leases.Stands(ctx, l)
		switch {
		case err != nil:
			return err
		case !stands:
			return fmt.Errorf("%s does not hold %s: SpiderIP %s is gone or another's: %w", who, want, l.Entry.Name, errNotHeld)
		}
	}
	return nil
}
