package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/probe"
)

// reasonConflict is the reason of the Events on a pod and on a pool of whose addresses another host has one.
const reasonConflict = "IPConflict"

// maxConflicts is how many addresses one ADD finds in conflict before it gives up: a router that answers for whatever it is
// asked (proxy ARP) would else have the whole pool put into quarantine by the first pod.
const maxConflicts = 16

// conflictError is the error of an ADD after other hosts answered for addresses that it tried.
type conflictError struct {
	// found are the addresses with the hosts that answered.
	found []string
	// why says what keeps the ADD from another address, or err is the error that does.
	why string
	err error
}

// Error names the addresses and the hosts.
func (e *conflictError) Error() string {
	text := "another host answers for " + strings.Join(e.found, ", ")
	if e.err != nil {
		return e.err.Error() + "; " + text
	}
	return text + ": " + e.why
}

// Unwrap returns the error that keeps the ADD from another address, if it is not the conflict itself.
func (e *conflictError) Unwrap() error { return e.err }

// answered is an address for which another host answered.
type answered struct {
	*allocation.Grant
	host net.HardwareAddr
}

// allocate grants the interface one address of each family that is selected. As far as the link tells, none of them is another
// host's: one for which another host answers is put into quarantine, and another is taken. What stays claimed is returned with
// an error, too.
func (a *Agent) allocate(ctx context.Context, r *allocation.Request) (grants []*allocation.Grant, _ error) {
	var found []string
	for {
		claimed, err := a.claimMissing(ctx, r, grants)
		grants = append(grants, claimed...)
		if err != nil {
			return grants, explain(err, found)
		}
		taken, err := a.probe(ctx, r, claimed)
		for _, t := range taken {
			found = append(found, fmt.Sprintf("%s (%s)", t.Address(), t.host))
			quarantined, why, failed := a.conflict(ctx, r, t)
			if quarantined {
				grants = slices.DeleteFunc(grants, func(g *allocation.Grant) bool { return g == t.Grant })
			}
			if err = cmp.Or(err, failed); err == nil && why != "" {
				err = &conflictError{found: found, why: why}
			}
		}
		switch {
		case err != nil:
			return grants, err
		case len(taken) == 0:
			slices.SortFunc(grants, func(a, b *allocation.Grant) int { return cmp.Compare(a.Lease.Family(), b.Lease.Family()) })
			return grants, nil
		case len(found) >= maxConflicts, !time.Now().Before(r.Deadline):
			return grants, &conflictError{found: found, why: "these are in quarantine now, and others are tried with the next call"}
		}
	}
}

// explain adds to an error which addresses were found in conflict before.
func explain(err error, found []string) error {
	if len(found) == 0 {
		return err
	}
	return &conflictError{found: found, err: err}
}

// claimMissing claims an address of each family that is selected and of which none is granted yet.
func (a *Agent) claimMissing(ctx context.Context, r *allocation.Request, granted []*allocation.Grant) (claimed []*allocation.Grant, _ error) {
	for _, f := range pool.Families {
		has := slices.ContainsFunc(granted, func(g *allocation.Grant) bool { return g.Lease.Family() == f })
		if has || !r.Selection.Has(f) {
			continue
		}
		g, err := a.allocation.Allocate(ctx, r, f)
		if err != nil {
			return claimed, err
		}
		claimed = append(claimed, g)
	}
	return claimed, nil
}

// conflict puts an address for which another host answers into quarantine, unless it is fixed and had before: that stays its
// owner's. why says what keeps the ADD from taking another one.
func (a *Agent) conflict(ctx context.Context, r *allocation.Request, t answered) (quarantined bool, why string, _ error) {
	address, host := t.Address(), t.host.String()
	text := fmt.Sprintf("the host %s answered for %s of IPPool %s when the address was probed from interface %s of pod %s/%s on node %s",
		host, address, t.Pool.Name, r.Interface, r.Pod.Namespace, r.Pod.Name, a.Node)
	a.metrics.Conflicts.Inc()
	a.Log.Warn("an address is in conflict", "address", address, "host", host, "pool", t.Pool.Name, "pod", r.Pod.Namespace+"/"+r.Pod.Name, "interface", r.Interface)
	a.Events.Event(r.Pod, corev1.EventTypeWarning, reasonConflict, text)
	a.Events.Event(poolReference(t.Pool), corev1.EventTypeWarning, reasonConflict, text)
	if r.FixedFor != nil && r.Recorded[t.Lease.Family()] == address {
		return false, "it is fixed and stays the pod's: take the address from that host", nil
	}
	err := r.Retry(ctx, func() error { return a.leases.Quarantine(ctx, r.Holding(), t.Lease, host, text) })
	if err != nil && !errors.Is(err, ledger.ErrLost) {
		return false, "", fmt.Errorf("put %s into quarantine: %w", address, err)
	}
	if slices.Contains(r.RequestedIPs, address) {
		why = "it was asked for, and no other can be given: take the address from that host, or ask for another"
	}
	return true, why, nil
}

func poolReference(p *pool.Pool) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderIPPool", Name: p.Name, UID: p.UID}
}

// probe asks on the link for addresses that were claimed, all at once: whether another host answers, and whether the gateways
// of their pools do. The addresses for which another host answered are returned with an error, too; that is of a gateway, or the
// end of ctx. What cannot be probed is granted.
func (a *Agent) probe(ctx context.Context, r *allocation.Request, claimed []*allocation.Grant) (taken []answered, failed error) {
	wanted := func(g *allocation.Grant) bool { return a.probesAddress(g) || a.probesGateway(r, g) }
	if !slices.ContainsFunc(claimed, wanted) {
		return nil, nil
	}
	link, err := probe.Open(ctx, r.Netns, r.Interface)
	if err != nil {
		return nil, a.unprobed(r, err)
	}
	hosts, errs := make([]net.HardwareAddr, len(claimed)), make([]error, len(claimed))
	var all sync.WaitGroup
	for i, g := range claimed {
		all.Go(func() { hosts[i], errs[i] = a.probeGrant(ctx, r, link, g) })
	}
	all.Wait()
	if err := link.Close(); err != nil {
		a.Log.Warn("an interface is not set down again after the probe", "interface", r.Interface, "netns", r.Netns, "error", err)
	}
	for i, g := range claimed {
		if hosts[i] != nil {
			taken = append(taken, answered{g, hosts[i]})
		}
	}
	return taken, cmp.Or(errs...)
}

// probesAddress reports whether it is asked for an address, probesGateway whether for its gateway: that of an interface without
// a default route is not needed.
func (a *Agent) probesAddress(g *allocation.Grant) bool { return a.DetectConflicts && g.Unproven() }

func (a *Agent) probesGateway(r *allocation.Request, g *allocation.Grant) bool {
	return a.DetectGateways && g.Pool.Gateway.IsValid() && !cleanGateway(r)
}

// probeGrant returns the other host that answers for an address, nil if none does. Then it asks for the gateway.
func (a *Agent) probeGrant(ctx context.Context, r *allocation.Request, link *probe.Link, g *allocation.Grant) (host net.HardwareAddr, err error) {
	var silent netip.Addr
	if a.probesAddress(g) {
		host, err = link.Conflict(ctx, g.Address())
		switch {
		case err != nil:
			if err = a.unprobed(r, err); err != nil {
				return nil, err
			}
		case host != nil:
			return host, nil
		default:
			silent = g.Address()
		}
	}
	if !a.probesGateway(r, g) {
		return nil, nil
	}
	gateway, err := link.Gateway(ctx, g.Pool.Gateway, silent)
	if err == nil && gateway == nil {
		return nil, fmt.Errorf("the gateway %s of IPPool %s does not answer on interface %s: connect the interface to the network of the pool, or switch "+
			"enableGatewayDetection off", g.Pool.Gateway, g.Pool.Name, r.Interface)
	}
	return nil, a.unprobed(r, err)
}

// unprobed counts a probe that could not be made, and logs each reason once. It returns any other error.
func (a *Agent) unprobed(r *allocation.Request, err error) error {
	u, ok := errors.AsType[*probe.Unprobed](err)
	if !ok {
		return err
	}
	a.metrics.Unprobed.Inc()
	if _, known := a.unprobedWhy.LoadOrStore(u.Why, true); !known {
		a.Log.Warn("what pods get cannot be probed on the link, and they get it all the same; this is logged once",
			"why", u, "network", r.Network, "interface", r.Interface, "pod", r.Pod.Namespace+"/"+r.Pod.Name)
	}
	return nil
}

// announce tells neighbours of addresses that another container bore before, in the background, once the interface has them.
func (a *Agent) announce(r *allocation.Request, grants []*allocation.Grant) {
	for _, g := range grants {
		if !g.Moved {
			continue
		}
		address := g.Address()
		a.background.Go(func() {
			err := probe.Announce(a.life, r.Netns, r.Interface, address, a.Durations.Announce)
			if err = a.unprobed(r, err); err != nil {
				a.Log.Debug("an address that moved is not announced", "address", address, "interface", r.Interface, "why", err)
			}
		})
	}
}
