package agent

import (
	"net/netip"
	"slices"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// answer is what CNI is told: addresses with the prefix, gateway and routes of the pools as the fence read them, and those of
// the pod's routes whose next hops are on this interface. A route to everything among these stands in for the one by the
// gateway.
func answer(r *allocation.Request, grants []*allocation.Grant) *wire.Reply {
	reply := &wire.Reply{}
	for _, g := range grants {
		p := g.Pool
		reply.IPs = append(reply.IPs, wire.IP{Address: p.Prefix(lease.AddressOf(g.Lease.Entry)), Gateway: p.Gateway, Pool: p.Name})
		wanted := slices.Concat(p.Routes, r.Routes)
		if p.Gateway.IsValid() && !cleanGateway(r) {
			wanted = append(wanted, pool.Route{Dst: everything(p.Family), GW: p.Gateway})
		}
		for _, route := range wanted {
			// Main plugins fail if a route is there, and the first says what counts.
			known := slices.ContainsFunc(reply.Routes, func(o wire.Route) bool { return o.Dst == route.Dst })
			if p.Subnet.Contains(route.GW) && !known {
				reply.Routes = append(reply.Routes, wire.Route{Dst: route.Dst, GW: route.GW})
			}
		}
	}
	return reply
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
	for _, route := range reply.Routes {
		out.Routes = append(out.Routes, v2beta1.Route{Dst: route.Dst.String(), Gw: route.GW.String()})
	}
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
