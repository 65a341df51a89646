package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/spidernet-io/spiderpool/internal/agent"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

func daemonCommand() *cobra.Command {
	var configPath, kubeconfig string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the CNI plugin of this node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon(cmd.Context(), configPath, kubeconfig)
		},
	}
	cmd.Flags().StringVar(&configPath, "config-path", "/tmp/spiderpool/config-map/conf.yml", "path of conf.yml")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig to use outside a cluster; empty: the pod's service account")
	return cmd
}

func daemon(ctx context.Context, configPath, kubeconfig string) error {
	env, err := config.AgentFromEnv(os.Environ())
	if err != nil {
		return err
	}
	conf, err := config.Load(configPath)
	if err != nil {
		return err
	}
	log := logger(env.LogLevel)
	for _, name := range append(conf.NoEffect, env.NoEffect...) {
		log.Info("a setting has no effect in this version", "name", name)
	}
	if len(conf.NotYet) > 0 {
		log.Warn("settings are on that this version does not keep yet: do not rely on them, switch them off", "settings", conf.NotYet)
	}
	a, stop, err := build(conf, env, kubeconfig, log)
	if err != nil {
		return err
	}
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return serveHTTP(ctx, everywhere(env.HealthPort), a.Health()) })
	if env.EnabledMetric {
		group.Go(func() error { return serveHTTP(ctx, everywhere(env.MetricPort), a.Metrics()) })
	}
	if env.GopsPort != 0 {
		group.Go(func() error { return serveHTTP(ctx, local(env.GopsPort), profiles()) })
	}
	return group.Wait()
}

func build(conf config.Config, env config.Agent, kubeconfig string, log *slog.Logger) (_ *agent.Agent, stop func(), err error) {
	server, err := rest.InClusterConfig()
	if kubeconfig != "" {
		server, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server: %w", err)
	}
	clients, err := apiclient.New(server)
	if err != nil {
		return nil, nil, err
	}
	w, err := facts.New(clients.Watch, clients.Live, env.NodeName)
	if err != nil {
		return nil, nil, err
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.Events.Events("")})
	return agent.New(agent.Options{
		Node: env.NodeName, Socket: conf.IPAMUnixSocketPath, Families: families(conf),
		Namespace: env.PodNamespace, ClusterNetwork: env.MultusClusterNetwork,
		Client: clients.Live, Facts: w, Log: log,
		Events: broadcaster.NewRecorder(apiclient.Scheme(), corev1.EventSource{Component: "spiderpool-agent", Host: env.NodeName}),
	}), broadcaster.Shutdown, nil
}

func families(conf config.Config) (out []pool.Family) {
	if conf.EnableIPv4 {
		out = append(out, pool.IPv4)
	}
	if conf.EnableIPv6 {
		out = append(out, pool.IPv6)
	}
	return out
}

// logger writes JSON lines to standard error, for this program and the
// libraries that it uses.
func logger(level slog.Level) *slog.Logger {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(log)
	klog.SetSlogLogger(log)
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	return log
}

func serveHTTP(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", address, err)
	}
	return nil
}

func everywhere(port int) string { return ":" + strconv.Itoa(port) }

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// profiles shows what the process does, and lets nobody change how it does it: whoever is on the node's network reaches
// the port, and an agent by the protocol of gops would let them switch the garbage collector off.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
