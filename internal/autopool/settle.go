package autopool

import (
	"net/netip"
	"slices"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Settle decides what becomes of the ranges that are announced, after all pools and subnets were read live. Announced ranges
// become the pool's if they lie in its subnet and nobody else has or announces them. They are withdrawn if another pool has
// them; of two that announce them the younger withdraws, and the elder waits until the next look. So nobody gets a range while
// another is in sight, and of two who announce it one at least sees the other, for each looks after it has announced. waits
// says that some have to.
func Settle(pools []v2beta1.SpiderIPPool, subnets []v2beta1.SpiderSubnet) (changes []Change, waits bool) {
	lose, wait := conflicts(pools)
	for i := range pools {
		o := &pools[i]
		set := pool.Announced(o)
		if _, announces := o.Annotations[v2beta1.AnnotationCarving]; !announces || o.DeletionTimestamp != nil {
			continue
		}
		after := o.DeepCopy()
		delete(after.Annotations, v2beta1.AnnotationCarving)
		switch {
		case lose[i] || !inside(o, set, subnets):
		case wait[i]:
			waits = true
			continue
		default:
			after.Spec.IPs = ranges(o).Union(set).Strings()
		}
		changes = append(changes, Change{o, after})
	}
	return changes, waits
}

// inside reports whether ranges lie in the subnet of a pool, as it is now.
func inside(o *v2beta1.SpiderIPPool, set addr.Set, subnets []v2beta1.SpiderSubnet) bool {
	i := slices.IndexFunc(subnets, func(s v2beta1.SpiderSubnet) bool { return s.Name == pool.SubnetNameOf(o) })
	if i < 0 || subnets[i].DeletionTimestamp != nil || subnets[i].Spec.Subnet != o.Spec.Subnet {
		return false
	}
	parsed, _ := pool.ParseSubnet(&subnets[i])
	return parsed != nil && parsed.Addresses.ContainsSet(set)
}

// claim is a range that a pool has or announces.
type claim struct {
	addr.Range
	pool      int
	announced bool
}

// conflicts are the pools that have to withdraw what they announce, and those that have to wait.
func conflicts(pools []v2beta1.SpiderIPPool) (lose, wait map[int]bool) {
	lose, wait = map[int]bool{}, map[int]bool{}
	var claims []claim
	for i := range pools {
		has, _ := pool.AddressesOf(&pools[i])
		for r := range has.Ranges() {
			claims = append(claims, claim{r, i, false})
		}
		for r := range pool.Announced(&pools[i]).Ranges() {
			claims = append(claims, claim{r, i, true})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int { return a.From().Compare(b.From()) })
	var open []claim // those that reach as far as the next begins
	for _, c := range claims {
		open = slices.DeleteFunc(open, func(o claim) bool { return before(o.To(), c.From()) })
		for _, o := range open {
			if o.pool != c.pool {
				o.meets(c, pools, lose, wait)
			}
		}
		open = append(open, c)
	}
	return lose, wait
}

func before(a, b netip.Addr) bool { return a.Compare(b) < 0 }

// meets decides between two that overlap.
func (c claim) meets(o claim, pools []v2beta1.SpiderIPPool, lose, wait map[int]bool) {
	switch {
	case c.announced && !o.announced:
		lose[c.pool] = true
	case o.announced && !c.announced:
		lose[o.pool] = true
	case c.announced && younger(&pools[c.pool], &pools[o.pool]):
		lose[c.pool], wait[o.pool] = true, true
	case c.announced:
		lose[o.pool], wait[c.pool] = true, true
	}
}
