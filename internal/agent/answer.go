package agent

import (
	"context"
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// answer is what CNI is told: addresses with the prefix, gateway and routes of the pools as the fence read them, and those of
// the pod's routes whose next hops are on this interface; left are the others. A route to everything among these stands in
// for the one by the gateway.
func answer(r *allocation.Request, grants []*allocation.Grant) (reply *wire.Reply, left []pool.Route) {
	reply = &wire.Reply{}
	taken := map[pool.Route]bool{}
	for _, g := range grants {
		p := g.Pool
		reply.IPs = append(reply.IPs, ipOf(g.Lease, p))
		routes := slices.Clone(p.Routes)
		for _, route := range r.Routes {
			if p.TakesRoute(r.Interface, route) {
				taken[route] = true
				routes = append(routes, route)
			}
		}
		if p.Gateway.IsValid() && !cleanGateway(r) {
			routes = append(routes, pool.Route{Dst: netip.PrefixFrom(p.Gateway, 0).Masked(), GW: p.Gateway}) // to everything
		}
		for _, route := range routes {
			// Main plugins fail if a route is there, and the first says what counts.
			if !slices.ContainsFunc(reply.Routes, func(o wire.Route) bool { return o.Dst == route.Dst }) {
				reply.Routes = append(reply.Routes, wire.Route{Dst: route.Dst, GW: route.GW})
			}
		}
	}
	return reply, slices.DeleteFunc(slices.Clone(r.Routes), func(route pool.Route) bool { return taken[route] })
}

// cleanGateway reports whether the interface gets no default route.
func cleanGateway(r *allocation.Request) bool {
	if r.Selection.CleanGateway != nil {
		return *r.Selection.CleanGateway
	}
	return r.Context.Conf.CleanGateway
}

// ipOf is the address of a lease as its pool says it.
func ipOf(l *lease.Lease, p *pool.Pool) wire.IP {
	return wire.IP{Address: p.Prefix(lease.AddressOf(l.Entry)), Gateway: p.Gateway, Pool: p.Name}
}

// endpointOf is what people read of an interface.
func endpointOf(ifname string, cleanGateway bool, ips []wire.IP, routes []wire.Route) v2beta1.EndpointInterface {
	out := v2beta1.EndpointInterface{Interface: ifname, CleanGateway: &cleanGateway, Vlan: new(int64)}
	for _, ip := range ips {
		address, name := ip.Address.String(), ip.Pool
		var gateway *string
		if ip.Gateway.IsValid() {
			gateway = new(ip.Gateway.String())
		}
		if pool.FamilyOf(ip.Address.Addr()) == pool.IPv4 {
			out.IPv4, out.IPv4Pool, out.IPv4Gateway = &address, &name, gateway
		} else {
			out.IPv6, out.IPv6Pool, out.IPv6Gateway = &address, &name, gateway
		}
	}
	for _, route := range routes {
		out.Routes = append(out.Routes, v2beta1.Route{Dst: route.Dst.String(), Gw: route.GW.String()})
	}
	return out
}

// republish shows what an interface still has after something of it was released, or was found to have at the start, as far as
// the ledger and this process know. Fixed addresses are shown as they were recorded.
func (a *Agent) republish(ctx context.Context, i *lease.Interface, found bool) {
	var ips []wire.IP
	var routes []wire.Route
	var pod client.ObjectKey
	var owner *v2beta1.IPOwner
	for _, l := range i.Leases() {
		if !l.Held() || l.Told == lease.No {
			continue
		}
		p, err := a.Facts.Pool(ctx, l.Entry.Spec.Pool)
		if err != nil {
			return // the prefix of the address is not known: the next ADD publishes what it gives
		}
		ips = append(ips, ipOf(l, p))
		if reply := a.leases.Attachment(l.Key()).Answer; reply != nil {
			routes = reply.Routes
		}
		pod = client.ObjectKey{Namespace: l.Entry.Spec.Pod.Namespace, Name: l.Entry.Spec.Pod.Name}
		owner = l.Entry.Spec.Owner
	}
	if len(ips) == 0 {
		a.publish.Drop(i.PodUID, i.Owner.Interface)
		return
	}
	a.publish.Set(pod, i.PodUID, owner, endpointOf(i.Owner.Interface, false, ips, routes), found)
}
