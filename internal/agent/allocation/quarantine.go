package allocation

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/probe"
)

// probesOf is how many addresses of a pool one search finds answered at most: each takes probe.Tries × probe.Interval.
const probesOf = 3

// fromQuarantine gives the interface an address in quarantine, if all pools that serve it are full and nobody answers for the
// address on the link of the interface itself. It returns nil if there is none, or the interface cannot be probed.
func (a *Allocator) fromQuarantine(ctx context.Context, r *Request, f pool.Family, serve []*pool.Pool, full map[string]*Full) (*Grant, error) {
	looked := 0
	for _, p := range serve {
		if looked == poolsOf || full[p.Name] == nil || full[p.Name].Candidates.IsEmpty() {
			continue
		}
		looked++
		l, err := a.silentOf(ctx, r, p.Name, full[p.Name].Candidates)
		if err != nil {
			return nil, err
		}
		if l == nil {
			continue
		}
		switch v, err := a.confirm(ctx, r, l, f); {
		case err != nil:
			return nil, err
		case v.admitted():
			return &Grant{Lease: l, Pool: v.live, Moved: true}, nil
		}
	}
	return nil, nil
}

// silentOf writes the interface into an entry of a pool that is in quarantine and silent. What another host was found to bear, or
// is fixed, is left alone.
func (a *Allocator) silentOf(ctx context.Context, r *Request, pool string, candidates addr.Set) (*lease.Lease, error) {
	read, err := a.podless.Get(ctx, pool, time.Now().Add(-podlessAge), time.Time{})
	if err != nil {
		return nil, away(err)
	}
	answered := 0
	for _, i := range rand.Perm(len(read.Value.entries)) { // so that nodes seldom meet
		entry := &read.Value.entries[i]
		if answered == probesOf || entry.Spec.Owner != nil || !inQuarantine(entry) || !candidates.Contains(lease.AddressOf(entry)) {
			continue
		}
		silent, err := a.silent(ctx, r, entry)
		if err != nil {
			return nil, err
		}
		if !silent {
			answered++
			continue
		}
		l, err := a.Leases.TakeOver(ctx, r.iface, entry, r.spec(a.Node))
		if !errors.Is(err, ledger.ErrLost) {
			a.usages.Of(pool).Answered(lease.AddressOf(entry)) // what is known of it is old: its new pod would answer the next ADD
			return l, away(err)
		}
	}
	return nil, nil
}

// inQuarantine reports whether an address may be taken over by whoever finds it silent.
func inQuarantine(entry *v2beta1.SpiderIP) bool {
	return entry.Spec.Use == v2beta1.IPUseQuarantine && entry.Spec.Conflict == ""
}

// silent reports whether nobody answers for an address in quarantine on the link of the interface. One that answered lately, or
// that another ADD of the node is asking for, is not asked for, and from some interfaces nobody can be asked: then it is not
// known to be silent. The error is the cause of ctx's end.
func (a *Allocator) silent(ctx context.Context, r *Request, entry *v2beta1.SpiderIP) (bool, error) {
	address, known := lease.AddressOf(entry), a.usages.Of(entry.Spec.Pool)
	if r.unprobed || !known.Ask(address) {
		return false, nil
	}
	defer known.Tried(address)
	host, err := a.answers(ctx, r, address)
	if host != nil {
		known.Answered(address)
		a.Log.Info("an address stays in quarantine: a host answers for it", "address", address, "host", host.String(),
			"pod", entry.Spec.Pod.Namespace+"/"+entry.Spec.Pod.Name, "node", entry.Spec.Node)
	}
	if _, unprobed := errors.AsType[*probe.Unprobed](err); unprobed {
		r.unprobed = true
		return false, nil
	}
	return host == nil && err == nil, err
}

// answers is the hardware address of the host that answers for an address, nil if there is none.
func (a *Allocator) answers(ctx context.Context, r *Request, address netip.Addr) (net.HardwareAddr, error) {
	link, err := probe.Open(ctx, r.Netns, r.Interface)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := link.Close(); err != nil {
			a.Log.Warn("an interface is not set down again after a probe", "interface", r.Interface, "netns", r.Netns, "error", err)
		}
	}()
	return link.Conflict(ctx, address)
}
