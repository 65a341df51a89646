package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/spidernet-io/spiderpool/internal/admission"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/buildinfo"
	"github.com/spidernet-io/spiderpool/internal/certs"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/controller"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/logging"
	"github.com/spidernet-io/spiderpool/internal/ports"
)

// flags are what the command line of the daemon says.
type flags struct{ configPath, kubeconfig, certFile, keyFile string }

func daemonCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Admit edits, and lead when elected",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return daemon(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.configPath, "config-path", "/tmp/spiderpool/config-map/conf.yml", "path of conf.yml")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig to use outside a cluster; empty: the pod's service account")
	cmd.Flags().StringVar(&f.certFile, "tls-server-cert", "/etc/tls/tls.crt", "certificate of the webhooks, unless SPIDERPOOL_TLS_METHOD is auto")
	cmd.Flags().StringVar(&f.keyFile, "tls-server-key", "/etc/tls/tls.key", "key of that certificate")
	return cmd
}

// daemon is one replica. All of its parts are independent of each other and of the API server being there: what fails is tried
// again, for a process that exits instead would leave edits unanswered for the time of the kubelet's back-off.
func daemon(ctx context.Context, f flags) error {
	env, err := config.ControllerFromEnv(os.Environ())
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
	server, err := rest.InClusterConfig()
	if f.kubeconfig != "" {
		server, err = clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	}
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	clients, err := apiclient.New(server)
	if err != nil {
		return err
	}
	certificate, err := newCertificate(clients, env, f, log)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.Events.Events("")})
	defer broadcaster.Shutdown()
	lead := &leader{clients: clients, env: env, subnets: conf.EnableSpiderSubnet, automatic: controller.AutomaticPools{Enabled: conf.AutomaticPools(), Redundant: conf.AutoPoolRedundantIPNumber, Families: conf.Families()},
		fixed: conf.FixedAddresses(), log: log,
		events: broadcaster.NewRecorder(apiclient.Scheme(), corev1.EventSource{Component: "spiderpool-controller"})}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return certificate.Start(ctx) })
	group.Go(func() error { serveWebhooks(ctx, newWebhooks(clients, conf, env, certificate), log); return nil })
	group.Go(func() error { lead.run(ctx); return nil })
	servePorts(ctx, group, env, clients.Live, certificate, lead, log)
	return group.Wait()
}

// tellSettings logs what is set and does not do what its name says.
func tellSettings(log *slog.Logger, conf config.Config, env config.Controller) {
	for _, name := range append(conf.NoEffect, env.NoEffect...) {
		log.Info("a setting has no effect in this version", "name", name)
	}
}

func newCertificate(clients *apiclient.Clients, env config.Controller, f flags, log *slog.Logger) (*certs.Certs, error) {
	o := certs.Options{Config: clients.Watch, Log: log, Namespace: env.PodNamespace, Secret: env.TLS.SecretName,
		Service: env.Name, Webhooks: env.Name, Deployment: env.Name, ClusterDomain: env.TLS.ClusterDomain, ExtraNames: env.TLS.ExtraDNSNames,
		CALife: env.TLS.CALife, CertLife: env.TLS.CertLife}
	if env.TLS.Method != config.TLSAuto {
		o.CertFile, o.KeyFile = f.certFile, f.keyFile
	}
	return certs.New(o)
}

// newWebhooks serves what the API server asks before it takes an edit.
func newWebhooks(clients *apiclient.Clients, conf config.Config, env config.Controller, certificate *certs.Certs) webhook.Server {
	s := webhook.NewServer(webhook.Options{
		Port:    env.WebhookPort,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.GetCertificate, c.MinVersion = certificate.GetCertificate, tls.VersionTLS12 }},
	})
	admission.Register(s, admission.Options{
		Live: clients.Live, Ledger: ledger.New(clients.Live),
		Username:   "system:serviceaccount:" + env.PodNamespace + ":" + env.ServiceAccount,
		EnableIPv4: conf.EnableIPv4, EnableIPv6: conf.EnableIPv6, EnableSpiderSubnet: conf.EnableSpiderSubnet,
		EnableValidatingResourcesDeletedWebhook: conf.EnableValidatingResourcesDeletedWebhook,
	})
	return s
}

// serveWebhooks serves until ctx ends, and then finishes what is in progress.
func serveWebhooks(ctx context.Context, s webhook.Server, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := s.Start(ctx); err != nil {
			log.Error("the webhooks are not served, trying again", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// servePorts serves probes, metrics and profiles.
func servePorts(ctx context.Context, group *errgroup.Group, env config.Controller, live client.Reader, certificate *certs.Certs, lead *leader, log *slog.Logger) {
	p := ports.New(log)
	serve := func(name, address string, handler http.Handler) {
		group.Go(func() error { p.Serve(ctx, name, address, handler); return nil })
	}
	h := &health{
		webhook: ports.Local(env.WebhookPort),
		leads: &leaderWatch{client: live, lease: client.ObjectKey{Namespace: env.PodNamespace, Name: leaseName},
			lasting: 2 * (env.Leader.LeaseDuration + env.Leader.RetryPeriod)},
		problems: []func() string{p.Problem, func() string {
			if err := certificate.Ready(); err != nil {
				return err.Error()
			}
			return ""
		}},
	}
	serve("health", ports.Everywhere(env.HealthPort), h.handler())
	if env.EnabledMetric {
		own := prometheus.NewRegistry()
		own.MustRegister(lead.leads(), certificate)
		gather := prometheus.Gatherers{ctrlmetrics.Registry, own, prometheus.GathererFunc(lead.metrics)}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{}))
		serve("metrics", ports.Everywhere(env.MetricPort), mux)
	}
	if env.GopsPort != 0 {
		serve("profiles", ports.Local(env.GopsPort), ports.Profiles())
	}
}
