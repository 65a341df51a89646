package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/controller"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// leaseName is the Lease by which the replicas choose their leader.
const leaseName = "spiderpool-controller-leases"

// stopTime is how long reconcilers may take to end.
const stopTime = 5 * time.Second

// leader does what one replica does for all. It stands for election again after it lost, or when what it runs has ended: a
// process that exits for that would, with the kubelet's back-off, leave edits unanswered for minutes after the API server is
// back.
type leader struct {
	clients *apiclient.Clients
	env     config.Controller
	// subnets says that SpiderSubnets are enabled.
	subnets bool
	// automatic says whether pools are made for applications, fixed which pods have fixed addresses.
	automatic controller.AutomaticPools
	fixed     fixed.Rules
	events    record.EventRecorder
	log       *slog.Logger

	// registry has what the leader of this election counts; nil while another leads.
	registry atomic.Pointer[prometheus.Registry]
}

// leads is whether this replica leads, as a metric of every replica.
func (l *leader) leads() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "spiderpool_controller_leads", Help: "1 if this replica leads, else 0"}, func() float64 {
		if l.registry.Load() != nil {
			return 1
		}
		return 0
	})
}

// metrics is what the leader counts, nothing while another replica leads.
func (l *leader) metrics() ([]*dto.MetricFamily, error) {
	if r := l.registry.Load(); r != nil {
		return r.Gather()
	}
	return nil, nil
}

// run leads, whenever it is elected, until ctx ends.
func (l *leader) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := l.once(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("this replica leads no more, it stands for election again", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (l *leader) once(ctx context.Context) error {
	election := rest.CopyConfig(l.clients.Watch)
	election.Timeout = l.env.Leader.RenewDeadline / 2
	mgr, err := manager.New(l.clients.Watch, manager.Options{
		Scheme:                        apiclient.Scheme(),
		MapperProvider:                apiclient.Mapper,
		LeaderElection:                true,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       l.env.PodNamespace,
		LeaderElectionConfig:          election,
		LeaderElectionReleaseOnCancel: true, // run returns when the manager has, and the process ends
		LeaseDuration:                 &l.env.Leader.LeaseDuration,
		RenewDeadline:                 &l.env.Leader.RenewDeadline,
		RetryPeriod:                   &l.env.Leader.RetryPeriod,
		NewClient:                     func(*rest.Config, client.Options) (client.Client, error) { return l.clients.Live, nil },
		Metrics:                       metricsserver.Options{BindAddress: "0"}, // served beside it
		GracefulShutdownTimeout:       ptr.To(stopTime),
		Controller:                    ctrlconfig.Controller{SkipNameValidation: ptr.To(true)}, // each election makes them anew
	})
	if err != nil {
		return fmt.Errorf("prepare the leader: %w", err)
	}
	registry := prometheus.NewRegistry()
	if err := controller.Setup(mgr, controller.Options{
		Live: l.clients.Live, Watch: l.clients.Watch, Events: l.events, Metrics: registry, DebugMetrics: l.env.EnabledDebugMetric,
		FixedAddresses: l.fixed, GC: l.env.GC, AutomaticPools: l.automatic, Log: l.log,
	}); err != nil {
		return fmt.Errorf("prepare the leader: %w", err)
	}
	if err := mgr.Add(&controller.DefaultPools{
		Client: l.clients.Live, Namespace: l.env.PodNamespace, Deployment: l.env.Name, Pools: l.env.DefaultPools[:], Subnets: l.subnets,
		Events: l.events, Log: l.log,
	}); err != nil {
		return fmt.Errorf("prepare the leader: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		l.registry.Store(registry)
		<-ctx.Done()
		l.registry.CompareAndSwap(registry, nil)
		return nil
	})); err != nil {
		return fmt.Errorf("prepare the leader: %w", err)
	}
	return mgr.Start(ctx)
}
