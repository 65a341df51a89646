package admission

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// everything is all addresses there are.
var everything = addr.MakeSet(addr.PrefixRange(netip.MustParsePrefix("0.0.0.0/0")), addr.PrefixRange(netip.MustParsePrefix("::/0")))

// around is what is known without reading.
func (o Options) around(user string) pool.Around {
	return pool.Around{IPv4: o.EnableIPv4, IPv6: o.EnableIPv6, ByController: user == o.Username}
}

// list reads all objects of a kind.
func (o Options) list(ctx context.Context, into client.ObjectList, what string, options ...client.ListOption) error {
	if err := o.Live.List(ctx, into, options...); err != nil {
		return fmt.Errorf("list the %s: %w", what, err)
	}
	return nil
}

func (o Options) pools(ctx context.Context) ([]v2beta1.SpiderIPPool, error) {
	var all v2beta1.SpiderIPPoolList
	err := o.list(ctx, &all, "SpiderIPPools")
	return all.Items, err
}

// subnets are those that own pools: none where the feature is off.
func (o Options) subnets(ctx context.Context) ([]v2beta1.SpiderSubnet, error) {
	if !o.EnableSpiderSubnet {
		return nil, nil
	}
	return o.allSubnets(ctx)
}

func (o Options) allSubnets(ctx context.Context) ([]v2beta1.SpiderSubnet, error) {
	var all v2beta1.SpiderSubnetList
	err := o.list(ctx, &all, "SpiderSubnets")
	return all.Items, err
}

// held reads who holds which of the addresses, in the name of a pool or of any.
func (o Options) held(ctx context.Context, addresses addr.Set, name string) (h pool.Held, err error) {
	h.Addresses, h.Some, err = o.Ledger.Held(ctx, addresses, name, pool.MaxHolders)
	return h, err
}

// readAdvice reads what an edit is not refused for. What cannot be read is told.
func (o Options) readAdvice(ctx context.Context, around *pool.Around) (missing []string) {
	var reserved v2beta1.SpiderReservedIPList
	if err := o.list(ctx, &reserved, "SpiderReservedIPs"); err != nil {
		missing = append(missing, notRead(err))
	}
	around.Reserved = reserved.Items
	var err error
	if around.Nodes, err = o.nodes(ctx); err != nil {
		missing = append(missing, notRead(err))
	}
	return missing
}

// nodes reads the addresses of all nodes, page by page. They may be a moment
// old: who joins later is kept from the pool by the controller.
func (o Options) nodes(ctx context.Context) (nodes []pool.NodeAddress, err error) {
	const page = 500
	for next := ""; ; {
		var all corev1.NodeList
		if err := o.list(ctx, &all, "Nodes", client.Limit(page), client.Continue(next)); err != nil {
			return nodes, err
		}
		for i := range all.Items {
			nodes = append(nodes, addressesOf(&all.Items[i])...)
		}
		if next = all.Continue; next == "" {
			return nodes, nil
		}
	}
}

func addressesOf(n *corev1.Node) (all []pool.NodeAddress) {
	for _, address := range n.Status.Addresses {
		if a, err := addr.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP {
			all = append(all, pool.NodeAddress{Node: n.Name, Address: a})
		}
	}
	return all
}

// notRead is a warning: the edit is stored without what it tells.
func notRead(err error) string { return fmt.Sprintf("not looked at: %v", err) }
