// Package certs gives the webhook server its certificate and sees that the API server trusts it.
//
// By default every replica keeps a certificate authority and a certificate in one Secret, renews them, and writes the
// authority into the webhook configurations. No edit is refused meanwhile: a new authority is first added to those that
// the webhooks trust, and only when it has stood there for a while does it sign what is served. Any replica does the
// work; who comes second meets a conflict and sees that it is done. Instead, the certificate may be read from files that
// others keep.
package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	typedappsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// Options say whose certificate it is and where it comes from.
type Options struct {
	// Config is the way to the API server, without a timeout: it is used for watches too.
	Config *rest.Config
	Log    *slog.Logger
	// Namespace is that of the Secret and of the Service; Secret (spiderpool-controller-server-certs) and Service
	// (spiderpool-controller) are their names. Webhooks is the name of both webhook configurations.
	Namespace, Secret, Service, Webhooks string
	// Deployment is the name of that of the replicas: the Secret that is made goes with it. If there is none, as where a
	// controller is run by hand, the Secret stays.
	Deployment string
	// ClusterDomain (cluster.local) is the DNS domain of Services. ExtraNames are further DNS names of the certificate.
	ClusterDomain string
	ExtraNames    []string
	// CALife (default 10 years) and CertLife (default 1 year) are for how long authority and certificate are made. Both
	// are renewed when a third is left.
	CALife, CertLife time.Duration
	// Settle (default 1 minute) is how long the webhooks must have had a new authority before it signs what is served.
	Settle time.Duration

	// CertFile and KeyFile are read instead, and again when they change. Then nothing is written: certificate and
	// caBundle are another's business, as the administrator's or cert-manager's.
	CertFile, KeyFile string
}

// Certs is the certificate of a webhook server. It is a manager.Runnable of every replica.
type Certs struct {
	Options
	secrets     typedcorev1.SecretInterface
	deployments typedappsv1.DeploymentInterface
	webhooks    webhooks
	secret      toolscache.SharedIndexInformer
	wake        chan struct{}
	pace        *rate.Limiter // of writes, should others undo them each time

	serving atomic.Pointer[pair]                    // nil: none yet
	files   atomic.Pointer[certwatcher.CertWatcher] // nil: not read yet

	// Of the one goroutine that keeps the Secret.
	inForce [][]byte  // what the webhooks have
	since   time.Time // since when, by this process's clock
	owned   bool      // the Secret belonged to somebody when it was last seen
}

// New prepares a certificate; nothing is asked of the API server before Start.
func New(o Options) (*Certs, error) {
	if o.CALife == 0 {
		o.CALife = 10 * 365 * 24 * time.Hour
	}
	if o.CertLife == 0 {
		o.CertLife = 365 * 24 * time.Hour
	}
	if o.Settle == 0 {
		o.Settle = time.Minute
	}
	c := &Certs{Options: o, wake: make(chan struct{}, 1), pace: rate.NewLimiter(1, 10)}
	core, err := typedcorev1.NewForConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("prepare the client of Secrets: %w", err)
	}
	apps, err := typedappsv1.NewForConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("prepare the client of Deployments: %w", err)
	}
	c.secrets, c.deployments = core.Secrets(o.Namespace), apps.Deployments(o.Namespace)
	c.secret = informer(core.RESTClient(), "secrets", o.Namespace, o.Secret, &corev1.Secret{})
	c.webhooks, err = newWebhooks(o.Config, o.Webhooks)
	return c, err
}

// informer watches one object.
func informer(c toolscache.Getter, resource, namespace, name string, kind runtime.Object) toolscache.SharedIndexInformer {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, name)
	return toolscache.NewSharedIndexInformer(toolscache.NewListWatchFromClient(c, resource, namespace, only), kind, 0, toolscache.Indexers{})
}

// names are the DNS names of the certificate; the first is the one that the API server calls.
func (o Options) names() []string {
	svc := o.Service + "." + o.Namespace + ".svc"
	return append([]string{svc, svc + "." + o.ClusterDomain, o.Service + "." + o.Namespace, o.Service}, o.ExtraNames...)
}

// NeedLeaderElection says that every replica runs it.
func (c *Certs) NeedLeaderElection() bool { return false }

// GetCertificate is for tls.Config. The error says that there is none yet.
func (c *Certs) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if files := c.files.Load(); files != nil {
		return files.GetCertificate(nil)
	}
	if p := c.serving.Load(); p != nil {
		return &p.Certificate, nil
	}
	return nil, fmt.Errorf("no certificate yet: nothing usable was read from %s", c.source())
}

// source names where the certificate comes from.
func (o Options) source() string {
	if o.CertFile != "" {
		return o.CertFile + " and " + o.KeyFile
	}
	return "Secret " + o.Namespace + "/" + o.Secret
}

// Ready returns nil if the API server, going by the caBundle of each webhook, accepts the certificate that is served,
// and else what is missing.
func (c *Certs) Ready() error {
	served, err := c.GetCertificate(nil)
	if err != nil {
		return err
	}
	if !c.webhooks.synced() {
		return fmt.Errorf("the webhook configurations %s were not read yet", c.Webhooks)
	}
	for _, b := range c.webhooks.watched().bundles() {
		if err := c.verify(*b.pem, served, time.Now()); err != nil {
			return fmt.Errorf("the caBundle of webhook %s does not verify the certificate that is served, from %s: %w", b.of, c.source(), err)
		}
	}
	return nil
}

// Start keeps the certificate until ctx ends. The API server may be away.
func (c *Certs) Start(ctx context.Context) error {
	informers := c.webhooks.informers()
	if c.CertFile == "" {
		informers = append(informers, c.secret)
	}
	for _, informer := range informers {
		look := func(any) { c.look() }
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: look, UpdateFunc: func(_, o any) { look(o) }, DeleteFunc: look,
		}); err != nil {
			return fmt.Errorf("watch what the certificate depends on: %w", err)
		}
		go informer.RunWithContext(ctx)
	}
	if c.CertFile != "" {
		return c.readFiles(ctx)
	}
	c.keep(ctx)
	return nil
}
