// Package metrics counts what the agent does. The names of calls and durations are those that dashboards of Spiderpool
// query.
package metrics

import (
	"iter"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// Metrics are all counters of one agent.
type Metrics struct {
	// Allocation counts ADDs, Release counts DELs that had something to release.
	Allocation, Release *Calls
	// Lists counts the LISTs of the addresses in use of a pool.
	Lists prometheus.Counter
	// InDoubt counts writes to the ledger whose answer did not come.
	InDoubt prometheus.Counter
	// Released counts addresses that the audit released without a DEL, Recreated entries that it made again, Contradictions
	// addresses that a container of this node bears and the ledger gives to another.
	Released, Recreated, Contradictions prometheus.Counter
	// Conflicts counts addresses that another host answered for when they were probed, Unprobed probes that could not be made.
	Conflicts, Unprobed prometheus.Counter
	// PendingReleases is the number of DELs that are noted and not yet done.
	PendingReleases prometheus.Gauge

	registry        *prometheus.Registry
	noPool, usedOut prometheus.Counter
	fullPools       *prometheus.CounterVec // by pool
}

// State is what is asked when metrics are read.
type State struct {
	// Waiting is the number of ADDs that wait for an address.
	Waiting func() int
	// Ready is what the readiness probe says.
	Ready func() bool
	// APIFailing is for how long the API server has refused or not answered, without one success; 0 if it answers.
	APIFailing func() time.Duration
}

// Outcome is how a call ended.
type Outcome int

// The outcomes of a call. Served is success; Cancelled is an ADD that its caller gave up or that a DEL ended, and no failure.
const (
	Served Outcome = iota
	Cancelled
	NoPool    // no pool may serve it
	UsedOut   // its pools stayed full
	Exhausted // the API server did not answer in time
	Internal  // any other reason
)

// Calls counts one kind of call.
type Calls struct {
	// Conflicts counts writes that lost to another one and were done again.
	Conflicts prometheus.Counter

	all, failures, internal, exhausted prometheus.Counter
	// took is the whole call; waited is the part of it spent in line: behind another call of the interface, or for an address
	// of a full pool.
	took, waited *durations
}

// durations are the average, extremes and latest of a time, and its histogram.
type durations struct {
	histogram                     prometheus.Histogram
	average, most, least, current prometheus.Gauge

	mu              sync.Mutex
	n               int
	total, max, min time.Duration
}

// buckets are in seconds.
var buckets = []float64{0.1, 0.3, 0.5, 1, 3, 5, 7, 10, 15}

// New makes the counters.
func New(s State) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.Allocation = m.calls("allocation", "assign addresses to an interface (ADD)")
	m.Release = m.calls("release", "release the addresses of an interface (DEL)")
	m.noPool = m.counter("allocation_err_no_available_pool_counts", "ADDs that no pool may serve")
	m.usedOut = m.counter("allocation_err_ip_used_out_counts", "ADDs whose pools stayed full")
	m.Lists = m.counter("pool_list_counts", "LISTs of the addresses in use of a pool")
	m.InDoubt = m.counter("allocation_unknown_outcome_counts", "writes to the ledger whose answer did not come")
	m.Released = m.counter("audit_released_counts", "addresses released without a DEL, because their namespace is gone")
	m.Recreated = m.counter("audit_recreated_counts", "SpiderIPs of living containers that were gone and made again")
	m.Contradictions = m.counter("audit_contradiction_counts", "addresses of living containers that the ledger gives to others")
	m.Conflicts = m.counter("conflict_counts", "addresses that another host answered for")
	m.Unprobed = m.counter("unprobed_counts", "probes of addresses and gateways that could not be made")
	m.PendingReleases = m.gauge("pending_releases", "DELs that are noted and not yet done")
	m.fullPools = promauto.With(m.registry).NewCounterVec(prometheus.CounterOpts{Name: prefix + "allocation_err_pool_used_out_counts",
		Help: "ADDs that failed and for which this pool was full"}, []string{"pool"})
	m.computed(prefix+"waiters", "ADDs that wait for an address of a full pool, or for an automatic pool", func() float64 { return float64(s.Waiting()) })
	m.computed("spiderpool_agent_ready", "1 if the readiness probe succeeds, else 0", func() float64 {
		if s.Ready() {
			return 1
		}
		return 0
	})
	m.computed("spiderpool_agent_api_failing_seconds", "Seconds for which the API server has refused or not answered, without one success; 0 if it answers",
		func() float64 { return s.APIFailing().Seconds() })
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

const prefix = "spiderpool_ipam_"

func (m *Metrics) calls(kind, what string) *Calls {
	return &Calls{
		all:       m.counter(kind+"_counts", "Calls to "+what),
		failures:  m.counter(kind+"_failure_counts", "Those that failed"),
		Conflicts: m.counter(kind+"_update_ippool_conflict_counts", "Writes that lost to another one and were done again"),
		internal:  m.counter(kind+"_err_internal_counts", "Failures for a reason of their own"),
		exhausted: m.counter(kind+"_err_retries_exhausted_counts", "Failures because the API server did not answer in time"),
		took:      m.durations(kind, "duration_seconds", "Seconds to "+what),
		waited:    m.durations(kind, "limit_duration_seconds", "Seconds spent in line to "+what),
	}
}

func (m *Metrics) durations(kind, unit, help string) *durations {
	gauge := func(statistic string) prometheus.Gauge {
		return m.gauge(kind+"_"+statistic+"_"+unit, help+": "+statistic)
	}
	return &durations{
		average: gauge("average"), most: gauge("max"), least: gauge("min"), current: gauge("latest"), min: math.MaxInt64,
		histogram: promauto.With(m.registry).NewHistogram(prometheus.HistogramOpts{Name: prefix + kind + "_" + unit, Help: help, Buckets: buckets}),
	}
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	return promauto.With(m.registry).NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	return promauto.With(m.registry).NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
}

// computed is a gauge whose value is asked for when metrics are read; name is the whole one.
func (m *Metrics) computed(name, help string, value func() float64) {
	promauto.With(m.registry).NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

func (d *durations) observe(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	d.total += took
	d.max = max(d.max, took)
	d.min = min(d.min, took)
	d.histogram.Observe(took.Seconds())
	d.average.Set((d.total / time.Duration(d.n)).Seconds())
	d.most.Set(d.max.Seconds())
	d.least.Set(d.min.Seconds())
	d.current.Set(took.Seconds())
}

// Ended counts a call that has ended; a DEL that is tried again has not.
func (m *Metrics) Ended(kind *Calls, took, waited time.Duration, outcome Outcome) {
	kind.all.Inc()
	kind.took.observe(took)
	kind.waited.observe(waited)
	if outcome > Cancelled {
		kind.failures.Inc()
	}
	switch outcome {
	case NoPool:
		m.noPool.Inc()
	case UsedOut:
		m.usedOut.Inc()
	case Exhausted:
		kind.exhausted.Inc()
	case Internal:
		kind.internal.Inc()
	}
}

// Full counts an ADD that failed for each pool that was full.
func (m *Metrics) Full(pools iter.Seq[string]) {
	for name := range pools {
		m.fullPools.WithLabelValues(name).Inc()
	}
}

// Gather reads all metrics.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) { return m.registry.Gather() }

// Handler serves the counters in the Prometheus text format at /metrics.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}
