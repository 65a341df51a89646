package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/internal/agent"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/buildinfo"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/logging"
	"github.com/spidernet-io/spiderpool/internal/ports"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// flags are what the command line of the daemon says.
type flags struct{ configPath, kubeconfig, binDir string }

func daemonCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the CNI plugin of this node",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return daemon(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.configPath, "config-path", "/tmp/spiderpool/config-map/conf.yml", "path of conf.yml")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig to use outside a cluster; empty: the pod's service account")
	cmd.Flags().StringVar(&f.binDir, "cni-bin-dir", "", "directory of the host's CNI plugins, in which the plugin is kept; empty: it is not looked after")
	return cmd
}

func daemon(ctx context.Context, f flags) error {
	env, err := config.AgentFromEnv(os.Environ())
	if err != nil {
		return err
	}
	conf, err := config.Load(f.configPath)
	if err != nil {
		return err
	}
	log := logging.New(env.LogLevel)
	log.Info("starting", "version", buildinfo.Version())
	tellSettings(log, conf, env)
	mounts, err := mountedAt(f.binDir, filepath.Dir(conf.IPAMUnixSocketPath))
	if err != nil {
		return err
	}
	k := &keeper{Problems: logging.Problems{Log: log}, from: program, to: f.binDir, socket: conf.IPAMUnixSocketPath}
	p := ports.New(log)
	a, stop, err := build(conf, env, f, []func() string{k.Problem, p.Problem}, log)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	if f.binDir != "" {
		group.Go(func() error { k.keepInstalled(ctx); return nil })
		group.Go(func() error { return watchMounts(ctx, mounts) })
	}
	serve := func(name, address string, handler http.Handler) {
		group.Go(func() error { p.Serve(ctx, name, address, handler); return nil })
	}
	serve("health", ports.Everywhere(env.HealthPort), a.Health())
	if env.EnabledMetric {
		serve("metrics", ports.Everywhere(env.MetricPort), a.Metrics())
	}
	if env.GopsPort != 0 {
		serve("profiles", ports.Local(env.GopsPort), ports.Profiles())
	}
	return group.Wait()
}

// tellSettings logs what is set and does not do what its name says.
func tellSettings(log *slog.Logger, conf config.Config, env config.Agent) {
	for _, name := range append(conf.NoEffect, env.NoEffect...) {
		log.Info("a setting has no effect in this version", "name", name)
	}
}

func build(conf config.Config, env config.Agent, f flags, problems []func() string, log *slog.Logger) (_ *agent.Agent, stop func(), err error) {
	server, err := rest.InClusterConfig()
	if f.kubeconfig != "" {
		server, err = clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server: %w", err)
	}
	clients, err := apiclient.New(server)
	if err != nil {
		return nil, nil, err
	}
	known, err := facts.New(clients.Watch, clients.Live, env.NodeName)
	if err != nil {
		return nil, nil, err
	}
	installed, _, err := wire.ReadInstallation(f.binDir)
	if err != nil {
		log.Warn("sockets of earlier installations are not known: notes of DELs beside them are not read", "error", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.Events.Events("")})
	return agent.New(agent.Options{
		Node: env.NodeName, Socket: conf.IPAMUnixSocketPath, FormerSockets: installed.Former, Families: conf.Families(),
		Namespace: env.PodNamespace, ClusterNetwork: env.MultusClusterNetwork,
		Client: clients.Live, Facts: known, Fixed: conf.FixedAddresses(), AutomaticPools: conf.AutomaticPools(),
		DetectConflicts: conf.EnableIPConflictDetection, DetectGateways: conf.EnableGatewayDetection, Durations: timing.Production(), Problems: problems, Log: log,
		Events: broadcaster.NewRecorder(apiclient.Scheme(), corev1.EventSource{Component: "spiderpool-agent", Host: env.NodeName}),
	}), broadcaster.Shutdown, nil
}
