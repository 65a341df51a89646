package controller

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/test/exposition"
)

// scrape prints all series of pools, a line each.
func (l *leader) scrape(t *testing.T) string {
	t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			line := strings.TrimPrefix(f.GetName(), "spiderpool_")
			for _, p := range m.Label {
				line += " " + p.GetValue()
			}
			out = append(out, fmt.Sprintf("%s %v", line, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestMetrics(t *testing.T) {
	c := newCluster(t)
	c.create(&v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: v2beta1.SubnetSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.1"}}})
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.pool("b", "10.6.0.15-10.6.0.24") // overlaps
	six := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "six"}}
	six.Spec.Subnet, six.Spec.IPs = "fd00::/64", []string{"fd00::-fd00::ffff:ffff:ffff:ffff"}
	c.create(six)
	c.reserve("r", "10.6.0.10-10.6.0.11")
	for _, address := range []string{"10.6.0.10", "10.6.0.15", "10.6.0.30"} {
		c.claim("a", address)
	}
	c.claim("gone", "10.6.0.16")
	quarantined := entryIn("six", "fd00::5")
	quarantined.Spec.Use = v2beta1.IPUseQuarantine
	if err := c.ledger.Claim(t.Context(), quarantined); err != nil {
		t.Fatal(err)
	}
	kept := entryIn("gone", "10.6.0.40")
	kept.Spec.Use, kept.Spec.Owner = v2beta1.IPUseKept, &v2beta1.IPOwner{APIVersion: "apps.example.com/v1", Kind: "Unknown", Name: "web", UID: "s"}
	if err := c.ledger.Claim(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	l := c.lead()
	c.eventually("the pools are judged", func() bool { return l.value(t, "spiderpool_pool_used_ips", "pool", "six") == 1 })
	want := `controller_collection_vetoes_total entry 0
controller_collection_vetoes_total node 0
controller_collection_vetoes_total pod 0
debug_ippool_available_ip_counts 4 a 6
debug_ippool_available_ip_counts 4 b 8
debug_ippool_available_ip_counts 4 gone 0
debug_ippool_available_ip_counts 6 six 1.8446744073709552e+19
debug_ippool_total_ip_counts 4 a 10
debug_ippool_total_ip_counts 4 b 10
debug_ippool_total_ip_counts 4 gone 0
debug_ippool_total_ip_counts 6 six 1.8446744073709552e+19
ip_gc_counts 0
ip_gc_failure_counts 0
pool_automatic 4 a 0
pool_automatic 4 b 0
pool_automatic 6 six 0
pool_draining_ips 4 a 1
pool_draining_ips 4 b 0
pool_draining_ips 4 gone 0
pool_draining_ips 6 six 0
pool_free_ips 4 a 6
pool_free_ips 4 b 8
pool_free_ips 4 gone 0
pool_free_ips 6 six 1.8446744073709552e+19
pool_kept_ips 4 a 0
pool_kept_ips 4 b 0
pool_kept_ips 4 gone 1
pool_kept_ips 6 six 0
pool_malformed 4 a 0
pool_malformed 4 b 0
pool_malformed 6 six 0
pool_quarantined_ips 4 a 0
pool_quarantined_ips 4 b 0
pool_quarantined_ips 4 gone 0
pool_quarantined_ips 6 six 1
pool_reserved_ips 4 a 2
pool_reserved_ips 4 b 0
pool_reserved_ips 4 gone 0
pool_reserved_ips 6 six 0
pool_total_ips 4 a 10
pool_total_ips 4 b 10
pool_total_ips 4 gone 0
pool_total_ips 6 six 1.8446744073709552e+19
pool_used_ips 4 a 3
pool_used_ips 4 b 0
pool_used_ips 4 gone 2
pool_used_ips 6 six 1
total_ippool_counts 3
total_subnet_counts 1`
	if diff := cmp.Diff(want, l.scrape(t)); diff != "" {
		t.Error(diff)
	}
	c.delete(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	c.eventually("the series of a deleted pool vanish", func() bool { return !strings.Contains(l.scrape(t), " b ") })
	l.stop()
}

// TestNoMetricsWithoutLead: a process that does not lead tells nothing.
func TestNoMetricsWithoutLead(t *testing.T) {
	l := &leader{registry: newRegistry(t, newUsage(), newInventory())}
	if got := l.scrape(t); got != "" {
		t.Error(got)
	}
}

// TestFree: how many addresses of a set are taken, against counting them one by one.
func TestFree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		var set addr.Set
		var taken []netip.Addr
		for range r.IntN(20) {
			set = set.With(netip.AddrFrom4([4]byte{10, 6, 0, byte(r.IntN(30))}))
		}
		for range r.IntN(20) {
			taken = append(taken, netip.AddrFrom4([4]byte{10, 6, 0, byte(r.IntN(30))}))
		}
		slices.SortFunc(taken, netip.Addr.Compare)
		taken = slices.Compact(taken)
		want := 0
		for _, a := range taken {
			if set.Contains(a) {
				want++
			}
		}
		if got := within(taken, set); got != want {
			t.Fatalf("%v in %v: %d, want %d", taken, set, got, want)
		}
	}
}

func newRegistry(t *testing.T, u *usage, i *inventory) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(newCollector(u, i, true)); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDocumented: docs/metrics.md has what the leader exposes.
func TestDocumented(t *testing.T) {
	i := newInventory()
	i.setPool(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.10"}}})
	i.complete()
	u := newUsage()
	r := newRegistry(t, u, i)
	a, err := newActor(Options{Metrics: r}, nil, nil)
	if err == nil {
		_, err = newAutomaticPools(Options{Metrics: r}, nil, newPods(nil, newSignal()), u, i)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*prometheus.CounterVec{a.collected, a.dryRun} { // which have series once something was collected
		v.WithLabelValues(string(release), "pod_gone", "proof")
	}
	exposition.Compare(t, "Leader of the controllers", r)
}
