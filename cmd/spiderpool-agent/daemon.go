package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	gops "github.com/google/gops/agent"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/spidernet-io/spiderpool/internal/agent"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// requestTime bounds every request to the API server, on both sides: what was
// not answered by then cannot happen later.
const requestTime = 10 * time.Second

// requests is how many requests to the API server may be under way at once,
// watches aside. Calls that wait for an address have none.
const requests = 32

func daemonCommand() *cobra.Command {
	var configPath, kubeconfig, binDir string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the CNI plugin of this node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon(cmd.Context(), configPath, kubeconfig, binDir)
		},
	}
	cmd.Flags().StringVar(&configPath, "config-path", "/tmp/spiderpool/config-map/conf.yml", "path of conf.yml")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig to use outside a cluster; empty: the pod's service account")
	cmd.Flags().StringVar(&binDir, "cni-bin-dir", "", "directory of the host's CNI plugins, where the plugin is put back if it vanishes; empty: it is not")
	return cmd
}

func daemon(ctx context.Context, configPath, kubeconfig, binDir string) error {
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
	a, stop, err := build(conf, env, kubeconfig, log)
	if err != nil {
		return err
	}
	defer stop()
	if err := gops.Listen(gops.Options{Addr: local(env.GopsPort)}); err != nil {
		return fmt.Errorf("listen for gops: %w", err)
	}
	defer gops.Close()
	mounts, err := mountedAt(binDir, filepath.Dir(conf.IPAMUnixSocketPath))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	k := &keeper{from: program, to: binDir, socket: conf.IPAMUnixSocketPath, log: log}
	if binDir != "" {
		group.Go(func() error { k.keepInstalled(ctx); return nil })
		group.Go(func() error { return watchMounts(ctx, mounts) })
	}
	group.Go(func() error { return serveHTTP(ctx, env.HealthPort, k.readiness(a.Health())) })
	if env.EnabledMetric {
		group.Go(func() error { return serveHTTP(ctx, env.MetricPort, a.Metrics()) })
	}
	return group.Wait()
}

func build(conf config.Config, env config.Agent, kubeconfig string, log *slog.Logger) (_ *agent.Agent, stop func(), err error) {
	watch, err := rest.InClusterConfig()
	if kubeconfig != "" {
		watch, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server: %w", err)
	}
	watch.QPS = -1 // the agent bounds its requests itself; the API server has priority and fairness
	live := rest.CopyConfig(watch)
	live.Timeout = requestTime
	live.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &bounded{next: next, slots: make(chan struct{}, requests)}
	})
	c, err := client.New(live, client.Options{Scheme: facts.Scheme()})
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the client: %w", err)
	}
	w, err := facts.New(watch, c, env.NodeName)
	if err != nil {
		return nil, nil, err
	}
	events, err := typedcorev1.NewForConfig(live)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the client: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: events.Events("")})
	return agent.New(agent.Options{
		Node: env.NodeName, Socket: conf.IPAMUnixSocketPath, Families: families(conf),
		Namespace: env.PodNamespace, ClusterNetwork: env.MultusClusterNetwork,
		Client: c, Facts: w, Log: log,
		Events: broadcaster.NewRecorder(facts.Scheme(), corev1.EventSource{Component: "spiderpool-agent", Host: env.NodeName}),
	}), broadcaster.Shutdown, nil
}

// bounded lets a number of requests through at once.
type bounded struct {
	next  http.RoundTripper
	slots chan struct{}
}

// RoundTrip waits for a slot or the end of the request's context.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
		return b.next.RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
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

func serveHTTP(ctx context.Context, port int, handler http.Handler) error {
	server := &http.Server{Addr: ":" + strconv.Itoa(port), Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve port %d: %w", port, err)
	}
	return nil
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
