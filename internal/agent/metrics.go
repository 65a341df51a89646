package agent

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/spidernet-io/spiderpool/internal/pool"
)

// metrics are what the agent counts. The names of calls and durations are those
// that dashboards of Spiderpool query.
type metrics struct {
	registry   *prometheus.Registry
	allocation *meter
	release    *meter

	noPool, usedOut prometheus.Counter // of allocations
	lists, doubts   prometheus.Counter
}

// meter is what is known of one kind of call.
type meter struct {
	calls, failures, conflicts, internal, exhausted prometheus.Counter
	// took is the whole call; waited is the part of it spent in line: behind
	// another call of the attachment, or for an address of a full pool.
	took, waited *durations
}

// durations are the average, extremes and latest of a time, and its histogram.
type durations struct {
	histogram                     prometheus.Histogram
	average, most, least, current prometheus.Gauge

	mu    sync.Mutex
	n     int
	total time.Duration
	max   time.Duration
	min   time.Duration
}

// buckets are in seconds.
var buckets = []float64{0.1, 0.3, 0.5, 1, 3, 5, 7, 10, 15}

func newMetrics(waiting func() int) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.allocation = m.meter("allocation", "assign addresses to an interface (ADD)")
	m.release = m.meter("release", "release the addresses of an interface (DEL)")
	m.noPool = m.counter("spiderpool_ipam_allocation_err_no_available_pool_counts", "ADDs that no pool may serve")
	m.usedOut = m.counter("spiderpool_ipam_allocation_err_ip_used_out_counts", "ADDs whose pools stayed full")
	m.lists = m.counter("spiderpool_ipam_pool_list_counts", "LISTs of the addresses in use of a pool")
	m.doubts = m.counter("spiderpool_ipam_allocation_unknown_outcome_counts", "claims whose answer did not come")
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "spiderpool_ipam_waiters", Help: "ADDs that wait for an address of a full pool"},
			func() float64 { return float64(waiting()) }),
	)
	return m
}

func (m *metrics) meter(kind, what string) *meter {
	name := "spiderpool_ipam_" + kind
	return &meter{
		calls:     m.counter(name+"_counts", "Calls to "+what),
		failures:  m.counter(name+"_failure_counts", "Those that failed"),
		conflicts: m.counter(name+"_update_ippool_conflict_counts", "Writes that lost to another one and were done again"),
		internal:  m.counter(name+"_err_internal_counts", "Failures for a reason of their own"),
		exhausted: m.counter(name+"_err_retries_exhausted_counts", "Failures because the API server did not answer in time"),
		took:      m.durations(name, "duration_seconds", "Seconds to "+what),
		waited:    m.durations(name, "limit_duration_seconds", "Seconds spent in line to "+what),
	}
}

func (m *metrics) durations(name, unit, help string) *durations {
	gauge := func(kind string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "_" + kind + "_" + unit, Help: help + ": " + kind})
		m.registry.MustRegister(g)
		return g
	}
	d := &durations{
		average: gauge("average"), most: gauge("max"), least: gauge("min"), current: gauge("latest"),
		histogram: prometheus.NewHistogram(prometheus.HistogramOpts{Name: name + "_" + unit, Help: help, Buckets: buckets}),
	}
	m.registry.MustRegister(d.histogram)
	return d
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (d *durations) observe(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	d.total += took
	d.max = max(d.max, took)
	if d.n == 1 {
		d.min = took
	}
	d.min = min(d.min, took)
	d.histogram.Observe(took.Seconds())
	d.average.Set((d.total / time.Duration(d.n)).Seconds())
	d.most.Set(d.max.Seconds())
	d.least.Set(d.min.Seconds())
	d.current.Set(took.Seconds())
}

// ended counts a call and, if it failed, why.
func (m *metrics) ended(kind *meter, took, waited time.Duration, err error) {
	kind.calls.Inc()
	kind.took.observe(took)
	kind.waited.observe(waited)
	if err == nil {
		return
	}
	kind.failures.Inc()
	var refused *refusedError
	switch {
	case errors.As(err, &refused) && len(refused.full) > 0:
		m.usedOut.Inc()
	case errors.As(err, &refused), errors.Is(err, pool.ErrNoSelection):
		m.noPool.Inc()
	case errors.Is(err, errAway):
		kind.exhausted.Inc()
	default:
		kind.internal.Inc()
	}
}

// Metrics serves what the agent counts in the Prometheus text format.
func (a *Agent) Metrics() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}
