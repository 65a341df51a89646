// Package agent serves the plugin's socket on one node: it finds out who asks,
// picks a pool, claims an address in the ledger, proves it against the live
// pool, answers, and publishes the pod's SpiderEndpoint beside the path.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

const (
	// callTime ends a call a little before the plugin gives it up.
	callTime = 55 * time.Second
	// afterwards is how long a call that ended may still take to put back what it claimed.
	afterwards = 10 * time.Second
)

// timing is how long things may take. Tests shorten it.
type timing struct {
	// patience is how long the ADDs of one sandbox may wait in all, for an
	// address or for the API server.
	patience time.Duration
	// silent is how long after a DEL its address is released at the latest.
	silent time.Duration
	// settled is how long after a claim was sent it is certain whether it
	// happened: twice the time after which the API server gives it up.
	settled time.Duration
	// notes is how often notes of DELs are read.
	notes time.Duration
	// second is when after the start the ledger is read for the second time:
	// when all that an agent before this one sent is settled.
	second time.Duration
	// grace is how long calls in progress may take when the agent is to stop.
	grace time.Duration
}

var production = timing{
	patience: 30 * time.Second,
	silent:   2 * time.Second,
	settled:  20 * time.Second,
	notes:    10 * time.Second,
	second:   30 * time.Second,
	grace:    5 * time.Second,
}

// Options are what an Agent is made of.
type Options struct {
	// Node is the name of the Node object this agent serves.
	Node string
	// Socket is the path of the unix socket.
	Socket string
	// Families are those that the cluster's configuration enables, in order.
	Families []pool.Family
	// Namespace is that of this process; networks that are named without one are
	// in it. ClusterNetwork is the Multus network of pods that choose none.
	Namespace, ClusterNetwork string
	// Client reads live (uncached); its rest.Config.Timeout bounds each request.
	Client client.Client
	Facts  *facts.Facts
	// Events records what people should see on their pods.
	Events record.EventRecorder
	Log    *slog.Logger
}

// Agent serves one node. Make it with New, start it with Run.
type Agent struct {
	node     string
	socket   string
	families []pool.Family

	namespace, clusterNetwork string

	facts   *facts.Facts
	ledger  *ledger.Ledger
	live    *shared[*pool.Pool]
	scouts  *scouts
	waiters *waiters
	table   *table
	publish *publisher
	metrics *metrics
	events  record.EventRecorder
	log     *slog.Logger
	timing  timing
	ready   atomic.Bool
	looked  atomic.Bool // for the second time: nothing of an agent before this one can come any more

	// life is the context of Run; what calls leave to be done later is bound to
	// it, not to them.
	life       context.Context
	background sync.WaitGroup
}

// New makes an agent.
func New(o Options) *Agent {
	l := ledger.New(o.Client)
	line := &waiters{}
	t := newTable()
	m := newMetrics(line.length)
	return &Agent{
		node: o.Node, socket: o.Socket, families: o.Families, namespace: o.Namespace, clusterNetwork: o.ClusterNetwork,
		facts: o.Facts, events: o.Events, log: o.Log,
		ledger: l,
		live:   share(o.Facts.ReadPool),
		scouts: newScouts(func(ctx context.Context, name string) (addr.Set, error) {
			taken, strange, err := l.OfPool(ctx, name)
			if len(strange) > 0 {
				o.Log.Warn("SpiderIPs that name no address are left out", "pool", name, "count", len(strange), "first", strange[0])
			}
			return taken, err
		}, m.lists.Inc),
		waiters: line,
		metrics: m,
		timing:  production,
		table:   t,
		publish: newPublisher(o.Client, o.Facts, o.Node, o.Log, t, line),
	}
}

// Run serves until ctx ends, and then finishes what is in progress. The socket opens at once, so that a restart does
// not look like a missing agent; ADDs are answered "try again later" until the
// agent knows what its node holds.
func (a *Agent) Run(ctx context.Context) error {
	listener, err := wire.Listen(a.socket)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	a.life = ctx
	defer a.background.Wait()
	group.Go(func() error { return wire.Serve(ctx, listener, a.timing.grace, a.handle) })
	group.Go(func() error { return a.facts.Run(ctx) })
	group.Go(func() error { return a.publish.run(ctx) })
	group.Go(func() error { return a.recover(ctx) })
	return group.Wait()
}

// later does something in the background after a time, unless the agent stops
// before.
func (a *Agent) later(after time.Duration, do func(context.Context)) {
	a.background.Go(func() {
		if wait(a.life, time.After(after)) == nil {
			do(a.life)
		}
	})
}

// Ready reports whether ADDs are served.
func (a *Agent) Ready() bool { return a.ready.Load() }

func (a *Agent) handle(ctx context.Context, req *wire.Request) *wire.Reply {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	log := a.log.With("verb", req.Verb, "container", req.ContainerID, "interface", req.Interface,
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

func (a *Agent) status() error {
	if !a.Ready() {
		return &wire.Error{Code: wire.CodeNotReady, Msg: errStarting.Error()}
	}
	return nil
}
