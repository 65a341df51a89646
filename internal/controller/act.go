package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// What a second look differs in from the first, as the metric says it.
const (
	vetoPod   = "pod"
	vetoNode  = "node"
	vetoEntry = "entry"
)

// sighting is since when an entry is seen as it is, and what was tried.
type sighting struct {
	object types.UID
	// kind is what else must stay as it is.
	kind  string
	since time.Time
	// ready is since when the node is seen ready; zero while it is not.
	ready time.Time
	// notBefore is when it is tried again after failures tries in a row that failed.
	notBefore time.Time
	failures  int
	// told says that a dry run has told what it would do.
	told bool
}

// manyFailures in a row are an Event.
const manyFailures = 3

// actor does what verdicts say.
type actor struct {
	Options
	pools  client.Reader // of the cache
	ledger *ledger.Ledger
	pace   *pace

	collected, dryRun *prometheus.CounterVec // by action, reason and kind
	vetoes            *prometheus.CounterVec // by what
	all, failures     prometheus.Counter
}

func newActor(o Options, pools client.Reader, pods *turnover) (*actor, error) {
	labels := []string{"action", "reason", "kind"}
	a := &actor{
		Options: o, pools: pools, ledger: ledger.New(o.Live), pace: newPace(pods),
		collected: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spiderpool_controller_collected_total",
			Help: "Addresses that were released, put in quarantine or kept for the next pod because no agent did, by reason, and whether the container was proven silent (proof) or not (policy)"}, labels),
		dryRun: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spiderpool_controller_collection_dry_run_total",
			Help: "What a collection that writes would have done, each once"}, labels),
		vetoes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "spiderpool_controller_collection_vetoes_total",
			Help: "Addresses that were left alone because the second look differed from the watch, by what differed"}, []string{"what"}),
		all:      prometheus.NewCounter(prometheus.CounterOpts{Name: "spiderpool_ip_gc_counts", Help: "Addresses that the controller collected"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "spiderpool_ip_gc_failure_counts", Help: "Tries to collect an address that failed; each is tried again"}),
	}
	for _, what := range []string{vetoPod, vetoNode, vetoEntry} {
		a.vetoes.WithLabelValues(what)
	}
	var errs []error
	for _, m := range []prometheus.Collector{a.collected, a.dryRun, a.vetoes, a.all, a.failures} {
		errs = append(errs, o.Metrics.Register(m))
	}
	return a, errors.Join(errs...)
}

// kind is whether a verdict rests on a proof.
func (v verdict) kind() string {
	if v.proof() {
		return "proof"
	}
	return "policy"
}

// outcome is what came of a verdict.
type outcome int

const (
	done   outcome = iota
	left           // it was not to be carried out
	failed         // it is tried again
)

// act carries a verdict out, if the entry is still what the first look saw; the API server sees to that, so what somebody
// wrote meanwhile stays.
func (a *actor) act(ctx context.Context, e Entry, v verdict, s *sighting) outcome {
	log := a.Log.With("address", e.Address, "pod", e.Pod, "node", e.Node, "action", v.do, "reason", v.reason, "why", v.why)
	labels := []string{string(v.do), v.reason, v.kind()}
	if a.GC.DryRun {
		if !s.told {
			a.dryRun.WithLabelValues(labels...).Inc()
			log.Info("dry run: an address would be collected")
		}
		s.told = true
		return left
	}
	switch err := a.write(ctx, e, v); {
	case errors.Is(err, ledger.ErrLost):
		a.veto(s, vetoEntry)
		return left
	case err != nil:
		log.Warn("an address is not collected yet", "error", err)
		a.fail(ctx, e, s, err)
		return failed
	}
	a.collected.WithLabelValues(labels...).Inc()
	a.all.Inc()
	log.Info("an address was collected")
	a.tell(ctx, e, v)
	s.notBefore = time.Now().Add(firstPause) // until the watch has brought it
	return done
}

func (a *actor) write(ctx context.Context, e Entry, v verdict) error {
	if err := a.pace.wait(ctx); err != nil {
		return fmt.Errorf("wait for a turn: %w", err)
	}
	began := time.Now()
	defer func() { a.pace.wrote(began, time.Now()) }()
	ip := &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: addr.Name(e.Address), UID: e.Object, ResourceVersion: e.Version},
		Spec: v2beta1.IPSpec{Address: e.Address.String()}}
	switch v.do {
	case quarantine:
		return a.ledger.Mark(ctx, ip, v2beta1.IPUseQuarantine, v.why)
	case keepOn:
		return a.ledger.Mark(ctx, ip, v2beta1.IPUseKept, v.why)
	case disown:
		return a.ledger.Disown(ctx, ip, v.why)
	}
	return a.ledger.Collect(ctx, ip)
}

// veto counts what a second look forbade, which the watch is about to bring, unless it hangs.
func (a *actor) veto(s *sighting, what string) {
	a.vetoes.WithLabelValues(what).Inc()
	s.putOff()
}

// fail counts a try that failed, and says so on the pool if it keeps failing.
func (a *actor) fail(ctx context.Context, e Entry, s *sighting, err error) {
	a.failures.Inc()
	s.putOff()
	if s.failures != manyFailures {
		return
	}
	if p := a.pool(ctx, e); p != nil {
		a.Events.Eventf(p, corev1.EventTypeWarning, "AddressNotCollected", "%s of pod %s on node %s cannot be collected, it is tried again: %v", e.Address, e.Pod, e.Node, err)
	}
}

// putOff has a try wait: 15 s at first, and 8 min at last.
func (s *sighting) putOff() {
	s.notBefore = time.Now().Add(firstPause << min(s.failures, 5))
	s.failures++
}

const firstPause = 15 * time.Second

// pool is the pool of an entry, nil if it is gone.
func (a *actor) pool(ctx context.Context, e Entry) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{}
	if err := a.pools.Get(ctx, client.ObjectKey{Name: e.Pool}, p); err != nil {
		return nil
	}
	return p
}

// tell says on the pool what was done: pod and owner may not exist any more.
func (a *actor) tell(ctx context.Context, e Entry, v verdict) {
	p := a.pool(ctx, e)
	if p == nil {
		return
	}
	reason := map[action]string{release: "AddressReleased", quarantine: "AddressQuarantined", keepOn: "AddressKept", disown: "AddressDisowned"}[v.do]
	text := fmt.Sprintf("%s of pod %s: %s", e.Address, e.Pod, v.why)
	if e.Use == v2beta1.IPUseKept {
		reason, text = "KeptAddressReleased", fmt.Sprintf("%s was kept for %s (pod %s) and is free: %s", e.Address, ownerName(e.Owner), e.Pod, v.why)
	}
	a.Events.Event(p, corev1.EventTypeNormal, reason, text)
}
