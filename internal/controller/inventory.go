package controller

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// inventory is what the watches brought of pools, reservations and nodes, as values.
type inventory struct {
	mu    sync.Mutex
	pools map[string]outline
	// reserved and nodes are sets of addresses by the names of SpiderReservedIPs and Nodes; subnets are names.
	reserved, nodes map[string]addr.Set
	subnets         map[string]struct{}
	// unions are of reserved and nodes, unless stale.
	allReserved, allNodes addr.Set
	stale                 bool
	// states are of the nodes, by name. changed wakes the collection: also of what others bring.
	states  map[string]nodeState
	changed signal
	synced  chan struct{} // closed when all watches have brought their first list
}

// outline is what can be read of a pool, also of a malformed one.
type outline struct {
	family    pool.Family
	addresses addr.Set
	known     bool // addresses
	malformed bool
	deleting  bool
	automatic bool // made for an application
}

func newInventory() *inventory {
	return &inventory{pools: map[string]outline{}, reserved: map[string]addr.Set{}, nodes: map[string]addr.Set{}, subnets: map[string]struct{}{},
		states: map[string]nodeState{}, changed: newSignal(), synced: make(chan struct{})}
}

// setPool takes a pool.
func (i *inventory) setPool(o *v2beta1.SpiderIPPool) {
	out := outline{deleting: o.DeletionTimestamp != nil, automatic: pool.AutomaticOf(o) != nil}
	if p := pool.Outline(o); p != nil {
		out.family = p.Family
	}
	out.addresses, out.known = pool.AddressesOf(o)
	_, errs := pool.Parse(o)
	out.malformed = len(errs) > 0
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pools[o.Name] = out
}

func (i *inventory) dropPool(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.pools, name)
}

// setReserved takes what a SpiderReservedIP reserves, and returns the pools that a
// change cuts.
func (i *inventory) setReserved(o *v2beta1.SpiderReservedIP) []string {
	return i.replace(i.reserved, o.Name, pool.Reservation(o))
}

// setNode takes a node, and returns the pools that a change cuts.
func (i *inventory) setNode(o *corev1.Node) []string {
	var set addr.Set
	for _, a := range o.Status.Addresses {
		if parsed, err := addr.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			set = set.With(parsed)
		}
	}
	i.setState(o.Name, stateOfNode(o))
	return i.replace(i.nodes, o.Name, set)
}

// setState takes whether a node is ready; nodeDeleted takes it out.
func (i *inventory) setState(name string, s nodeState) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.states[name] == s {
		return
	}
	i.states[name] = s
	if s == nodeDeleted {
		delete(i.states, name)
	}
	i.changed.raise()
}

// nodeStates are those of all nodes that there are.
type nodeStates map[string]nodeState

// of is the state of a node.
func (s nodeStates) of(name string) nodeState {
	if state, ok := s[name]; ok {
		return state
	}
	return nodeDeleted
}

func (i *inventory) nodeStates() nodeStates {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.states)
}

func (i *inventory) dropReserved(name string) []string { return i.drop(i.reserved, name) }

func (i *inventory) dropNode(name string) []string {
	i.setState(name, nodeDeleted)
	return i.drop(i.nodes, name)
}

func (i *inventory) drop(sets map[string]addr.Set, name string) []string {
	cut := i.replace(sets, name, addr.Set{})
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(sets, name)
	return cut
}

// replace sets what one object keeps from pods, and returns the pools that have
// an address in which the new set differs from the old one.
func (i *inventory) replace(sets map[string]addr.Set, name string, set addr.Set) (cut []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := sets[name]
	sets[name] = set
	if old.Equal(set) {
		return nil
	}
	i.stale = true
	change := old.Minus(set).Union(set.Minus(old))
	for name, p := range i.pools {
		if p.addresses.Overlaps(change) {
			cut = append(cut, name)
		}
	}
	return cut
}

// kept are all addresses that SpiderReservedIPs keep from pods, and all that nodes have.
func (i *inventory) kept() (reserved, nodes addr.Set) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.unions()
}

func (i *inventory) unions() (reserved, nodes addr.Set) {
	if i.stale {
		i.allReserved, i.allNodes, i.stale = union(i.reserved), union(i.nodes), false
	}
	return i.allReserved, i.allNodes
}

func union(sets map[string]addr.Set) addr.Set {
	var ranges []addr.Range
	for _, s := range sets {
		ranges = slices.AppendSeq(ranges, s.Ranges())
	}
	return addr.MakeSet(ranges...)
}

func (i *inventory) nodeCount() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.nodes)
}

func (i *inventory) setSubnet(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.subnets[name] = struct{}{}
}

func (i *inventory) dropSubnet(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.subnets, name)
}

// complete takes that all watches have brought their first list.
func (i *inventory) complete() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.whole() {
		close(i.synced)
	}
}

func (i *inventory) whole() bool {
	select {
	case <-i.synced:
		return true
	default:
		return false
	}
}

// snapshot is what there is now: pools by name, the number of subnets, and what is
// kept from pods. It is not ok before it is complete.
func (i *inventory) snapshot() (pools map[string]outline, subnets int, kept addr.Set, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	reserved, nodes := i.unions()
	return maps.Clone(i.pools), len(i.subnets), reserved.Union(nodes), i.whole()
}

// drains reports whether an address held in the name of the pool is one that it
// does not cover. Of a pool that is gone, or whose addresses are malformed, that
// is not known.
func (p outline) drains(a netip.Addr) bool {
	return p.known && !p.addresses.Contains(a) || p.deleting
}
