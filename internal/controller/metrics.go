package controller

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// collector tells the numbers of all pools, computed when they are asked for. A
// process that does not lead tells none, so sums over replicas are right.
type collector struct {
	usage     *usage
	inventory *inventory
	debug     bool
}

func newCollector(u *usage, i *inventory, debug bool) *collector { return &collector{u, i, debug} }

var perPoolLabels = []string{"pool", "ip_version"}

func describeIPs(what, help string) *prometheus.Desc {
	return prometheus.NewDesc("spiderpool_pool_"+what+"_ips", help, perPoolLabels, nil)
}

var (
	totalIPs      = describeIPs("total", "Addresses that the pool has: ips without excludeIPs, the gateway and what no host may bear")
	usedIPs       = describeIPs("used", "Addresses held in the name of the pool; the sum over all pools is the number of SpiderIPs")
	freeIPs       = describeIPs("free", "Addresses of the pool that are not reserved and that nobody holds, in whichever pool's name")
	reservedIPs   = describeIPs("reserved", "Addresses of the pool that SpiderReservedIPs or nodes keep from pods")
	drainingIPs   = describeIPs("draining", "Addresses held in the name of the pool that it no longer covers")
	keptIPs       = describeIPs("kept", "Addresses held in the name of the pool that no pod has, for the next pod of a StatefulSet or virtual machine")
	quarantineIPs = describeIPs("quarantined", "Addresses held in the name of the pool whose pod is gone, but perhaps not its container")

	malformedPool = prometheus.NewDesc("spiderpool_pool_malformed", "1 if the pool cannot be understood and serves nobody", perPoolLabels, nil)
	automaticPool = prometheus.NewDesc("spiderpool_pool_automatic", "1 if the pool was made for an application, and so is full on purpose, else 0", perPoolLabels, nil)
	totalPools    = prometheus.NewDesc("spiderpool_total_ippool_counts", "Number of SpiderIPPools", nil, nil)
	totalSubnets  = prometheus.NewDesc("spiderpool_total_subnet_counts", "Number of SpiderSubnets", nil, nil)
	debugTotal    = prometheus.NewDesc("spiderpool_debug_ippool_total_ip_counts", "spiderpool_pool_total_ips", perPoolLabels, nil)
	debugFree     = prometheus.NewDesc("spiderpool_debug_ippool_available_ip_counts", "spiderpool_pool_free_ips", perPoolLabels, nil)
)

// Describe says nothing: which series there are depends on the pools.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// series are the labels of one: a pool that was made again may have entries of
// either family in its name.
type series struct {
	pool   string
	family pool.Family
}

// numbers are those of one pool and family. Counts of a /64 are finite as floats.
type numbers struct {
	total, free, reserved addr.Count
	used, draining        int
	quarantined, kept     int
	malformed, automatic  bool
	exists                bool
}

// Collect tells all numbers as they are.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	outlines, subnets, reserved, ok := c.inventory.snapshot()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(totalPools, float64(len(outlines)))
	gauge(totalSubnets, float64(subnets))
	for s, n := range c.count(outlines, reserved) {
		labels := []string{s.pool, strconv.Itoa(int(s.family))}
		gauge(totalIPs, n.total.Float64(), labels...)
		gauge(usedIPs, float64(n.used), labels...)
		gauge(freeIPs, n.free.Float64(), labels...)
		gauge(reservedIPs, n.reserved.Float64(), labels...)
		gauge(drainingIPs, float64(n.draining), labels...)
		gauge(quarantineIPs, float64(n.quarantined), labels...)
		gauge(keptIPs, float64(n.kept), labels...)
		if n.exists {
			gauge(malformedPool, oneIf(n.malformed), labels...)
			gauge(automaticPool, oneIf(n.automatic), labels...)
		}
		if c.debug {
			gauge(debugTotal, n.total.Float64(), labels...)
			gauge(debugFree, n.free.Float64(), labels...)
		}
	}
}

// oneIf is a boolean as a value.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// count computes the numbers of all pools, and of names of pools that are gone
// and in which addresses are held. It costs what is held and how many ranges
// there are, not their product.
func (c *collector) count(outlines map[string]outline, reserved addr.Set) map[series]*numbers {
	all := map[series]*numbers{}
	of := func(s series) *numbers {
		if all[s] == nil {
			all[s] = &numbers{}
		}
		return all[s]
	}
	var taken []netip.Addr
	c.usage.each(func(e Entry) {
		n := of(series{e.Pool, pool.FamilyOf(e.Address)})
		n.used++
		switch e.Use {
		case v2beta1.IPUseQuarantine:
			n.quarantined++
		case v2beta1.IPUseKept:
			n.kept++
		}
		if outlines[e.Pool].drains(e.Address) {
			n.draining++
		}
		taken = append(taken, e.Address)
	})
	slices.SortFunc(taken, netip.Addr.Compare)
	taken = slices.Compact(taken)
	for name, p := range outlines {
		n := of(series{name, p.family})
		n.exists, n.malformed, n.automatic = true, p.malformed, p.automatic
		n.total = p.addresses.Count()
		gives := p.addresses.Minus(reserved)
		n.reserved = n.total.Sub(gives.Count())
		n.free = gives.Count().Sub(addr.CountOf(uint64(within(taken, gives))))
	}
	return all
}

// within is how many of sorted addresses are in a set.
func within(sorted []netip.Addr, set addr.Set) (n int) {
	for r := range set.Ranges() {
		from, _ := slices.BinarySearchFunc(sorted, r.From(), netip.Addr.Compare)
		to, found := slices.BinarySearchFunc(sorted, r.To(), netip.Addr.Compare)
		if n += to - from; found {
			n++
		}
	}
	return n
}
