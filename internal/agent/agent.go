// Package agent serves the plugin's socket on one node: a file for each verb, and what runs beside them. What it knows of
// the node's addresses is in lease, how an address is found and admitted in allocation, what people read in publish.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/agent/publish"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/coalesce"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// Options are what an Agent is made of.
type Options struct {
	// Node is the name of the Node object this agent serves.
	Node string
	// Socket is the path of the unix socket; FormerSockets are paths at which plugins may have left notes of DELs before.
	Socket        string
	FormerSockets []string
	// Families are those that the cluster's configuration enables, in order.
	Families []pool.Family
	// Namespace is that of this process; networks that are named without one are in it. ClusterNetwork is the Multus network
	// of pods that choose none.
	Namespace, ClusterNetwork string
	// Client reads live (uncached); its rest.Config.Timeout bounds each request.
	Client client.Client
	Facts  *facts.Facts
	// Fixed says which pods keep their addresses for the next pod of their name.
	Fixed fixed.Rules
	// AutomaticPools says that pods may ask for SpiderSubnets.
	AutomaticPools bool
	// DetectConflicts probes each address that is new to a pod before the pod gets it, DetectGateways the gateways of its pools.
	DetectConflicts, DetectGateways bool
	// Problems say what else is wrong, for readiness: "" is nothing.
	Problems []func() string
	// Events records what people should see on their pods.
	Events    record.EventRecorder
	Durations timing.Durations
	Log       *slog.Logger
}

// Agent serves one node. Make it with New, start it with Run.
type Agent struct {
	Options

	ledger     *ledger.Ledger
	leases     *lease.Table
	allocation *allocation.Allocator
	publish    *publish.Publisher
	metrics    *metrics.Metrics

	// ready is set when ADDs are served; settled when nothing can come any more that an agent before this one has sent.
	ready, settled atomic.Bool
	audits         coalesce.Group[struct{}]
	audited        atomic.Pointer[lastAudit]
	api            apiHealth
	// logged is what was last logged of a note that is not carried out yet, by note or directory.
	logged sync.Map
	// unprobedWhy has what was logged of why something cannot be probed.
	unprobedWhy sync.Map

	// began is when the agent started: all that one before it has sent was sent earlier.
	began    time.Time
	listener atomic.Pointer[wire.Listener]
	// life is the context of Run; DELs, which calls leave to be carried out in the background, are bound to it, not to them.
	life       context.Context
	background sync.WaitGroup
}

// New makes an agent.
func New(o Options) *Agent {
	l := ledger.New(o.Client)
	a := &Agent{Options: o, ledger: l}
	a.metrics = metrics.New(metrics.State{
		Waiting:    func() int { return a.allocation.Waiting() },
		Ready:      func() bool { return a.problem() == "" },
		APIFailing: func() time.Duration { return a.api.failing(time.Now()) },
	})
	a.leases = lease.NewTable(o.Node, l, o.Durations, a.metrics, o.Log)
	a.allocation = allocation.New(allocation.Options{Node: o.Node, Families: o.Families, Facts: o.Facts, Ledger: l, Leases: a.leases,
		Durations: o.Durations, Metrics: a.metrics, Events: o.Events, Log: o.Log})
	a.publish = publish.New(o.Client, o.Facts, o.Node, o.Durations.Republish, o.Log, func() bool { return a.leases.Adds() > a.allocation.Waiting() })
	a.audited.Store(&lastAudit{})
	a.audits.Read = func(ctx context.Context, _ string) (struct{}, error) { return struct{}{}, a.auditListed(ctx) }
	return a
}

// Run serves until ctx ends, and then finishes what is in progress. The socket opens at once, so that a restart does not look
// like a missing agent; ADDs are answered "try again later" until the agent knows what its node holds.
func (a *Agent) Run(ctx context.Context) error {
	listener, err := wire.Listen(a.Socket)
	if err != nil {
		return err
	}
	a.listener.Store(listener)
	a.began = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	a.life = ctx
	a.allocation.StopWaiting(ctx)
	defer a.background.Wait()
	group.Go(func() error { return wire.Serve(ctx, listener, a.Durations.Stop, a.handle) })
	group.Go(func() error { return a.Facts.Run(ctx) })
	group.Go(func() error { return a.publish.Run(ctx) })
	group.Go(func() error { return a.start(ctx) })
	return group.Wait()
}

// Ready reports whether ADDs are served.
func (a *Agent) Ready() bool { return a.ready.Load() }

// Metrics serves what the agent counts in the Prometheus text format.
func (a *Agent) Metrics() http.Handler { return a.metrics.Handler() }

func (a *Agent) handle(ctx context.Context, req *wire.Request) *wire.Reply {
	ctx, cancel := context.WithTimeout(ctx, a.Durations.Call)
	defer cancel()
	log := a.Log.With("verb", req.Verb, "container", req.ContainerID, "interface", req.Interface,
		"pod", req.Pod.Namespace+"/"+req.Pod.Name)
	began := time.Now()
	reply, err := a.serve(ctx, req)
	if err != nil {
		log.Warn("call refused", "error", err, "took", time.Since(began).String())
		return &wire.Reply{Error: wireError(err)}
	}
	log.Debug("call served", "ips", reply.IPs, "took", time.Since(began).String())
	return reply
}

func (a *Agent) serve(ctx context.Context, req *wire.Request) (*wire.Reply, error) {
	// What these do goes by all that the node holds.
	if slices.Contains([]wire.Verb{wire.VerbAdd, wire.VerbCheck, wire.VerbGC}, req.Verb) && !a.Ready() {
		return nil, errStarting
	}
	switch req.Verb {
	case wire.VerbAdd:
		return a.add(ctx, req)
	case wire.VerbDel:
		return &wire.Reply{}, a.del(ctx, req)
	case wire.VerbCheck:
		return &wire.Reply{}, a.check(ctx, req)
	case wire.VerbGC:
		return &wire.Reply{}, a.gc(ctx, req)
	case wire.VerbStatus:
		return &wire.Reply{}, a.status()
	}
	return nil, &wire.Error{Code: wire.CodeDecode, Msg: fmt.Sprintf("the agent does not know the verb %q", req.Verb)}
}
