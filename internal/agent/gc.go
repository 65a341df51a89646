package agent

import (
	"context"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// gc serves GC: it releases what this node holds for attachments of this network that the runtime does not list and whose
// namespace is gone. One that is alive is left alone, whatever the list says: lists of several users of one network name are
// known to be partial.
func (a *Agent) gc(ctx context.Context, req *wire.Request) error {
	valid := map[lease.Key]bool{}
	for _, at := range req.Attachments {
		valid[lease.Key{Container: at.ContainerID, Interface: at.Interface}] = true
	}
	return a.auditInterfaces(ctx, a.leases.Owners(), nil, func(l *lease.Lease) bool {
		return l.Entry.Spec.Network == req.Network && !valid[l.Key()]
	})
}
