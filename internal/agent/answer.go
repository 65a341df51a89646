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
		reply.IPs = append(reply.IPs, wire.IP{Address: p.Prefix(lease.AddressOf(g.Lease.Entry)), Gateway: p.Gateway, Pool: p.Name})
		routes := slices.Clone(p.Routes)
		for _, route := range r.Routes {
			if p.TakesRoute(r.Interface, route) {
				taken[route] = true
				routes = append(routes, route)
			}
		}
		if p.Gateway.IsValid() && !cleanGateway(r) {
			routes = append(routes, pool.Route{Dst: everything(p.Family), GW: p.Gateway})
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

func everything(f pool.Family) netip.Prefix {
	if f == pool.IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// cleanGateway reports whether the interface gets no default route.
func cleanGateway(r *allocation.Request) bool {
	if r.Selection.CleanGateway != nil {
		return *r.Selection.CleanGateway
	}
	return r.Context.Conf.CleanGateway
}

// endpointOf is what people read of an interface.
func endpointOf(r *allocation.Request, grants []*allocation.Grant, reply *wire.Reply) v2beta1.EndpointInterface {
	out := newEndpoint(r.Interface, cleanGateway(r))
	for _, g := range grants {
		setAddress(&out, lease.AddressOf(g.Lease.Entry), g.Pool)
	}
	out.Routes = routesOf(reply)
	return out
}

func newEndpoint(ifname string, cleanGateway bool) v2beta1.EndpointInterface {
	return v2beta1.EndpointInterface{Interface: ifname, CleanGateway: &cleanGateway, Vlan: new(int64)}
}

func setAddress(out *v2beta1.EndpointInterface, a netip.Addr, p *pool.Pool) {
	address, name := p.Prefix(a).String(), p.Name
	var gateway *string
	if p.Gateway.IsValid() {
		text := p.Gateway.String()
		gateway = &text
	}
	if p.Family == pool.IPv4 {
		out.IPv4, out.IPv4Pool, out.IPv4Gateway = &address, &name, gateway
	} else {
		out.IPv6, out.IPv6Pool, out.IPv6Gateway = &address, &name, gateway
	}
}

// republish shows what an interface still has after something of it was released.
func (a *Agent) republish(ctx context.Context, i *lease.Interface) {
	if !i.Answered() {
		a.publish.Drop(i.PodUID, i.Owner.Interface)
		return
	}
	if out, pod, ok := a.held(ctx, i); ok {
		a.publish.Set(pod, i.PodUID, out)
	}
}

// publishFound makes sure that what was found in the ledger has an endpoint.
func (a *Agent) publishFound(ctx context.Context, i *lease.Interface) {
	if out, pod, ok := a.held(ctx, i); ok {
		a.publish.Found(pod, i.PodUID, out)
	}
}

// held is what people read of what an interface holds, as far as the ledger and this process know. It is not ok if the pool of
// an address cannot be known: then its prefix is not, and the next ADD publishes what it gives.
func (a *Agent) held(ctx context.Context, i *lease.Interface) (out v2beta1.EndpointInterface, pod client.ObjectKey, ok bool) {
	out = newEndpoint(i.Owner.Interface, false)
	for _, l := range i.Leases() {
		if !l.Held() || l.Told == lease.No {
			continue
		}
		p, err := a.facts.Pool(ctx, l.Entry.Spec.Pool)
		if err != nil {
			return out, pod, false
		}
		setAddress(&out, lease.AddressOf(l.Entry), p)
		if reply := a.leases.AnswerOf(l.Key()); reply != nil {
			out.Routes = routesOf(reply)
		}
		pod, ok = client.ObjectKey{Namespace: l.Entry.Spec.Pod.Namespace, Name: l.Entry.Spec.Pod.Name}, true
	}
	return out, pod, ok
}

func routesOf(reply *wire.Reply) (out []v2beta1.Route) {
	for _, route := range reply.Routes {
		out = append(out, v2beta1.Route{Dst: route.Dst.String(), Gw: route.GW.String()})
	}
	return out
}
