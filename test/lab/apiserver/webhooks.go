package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// Webhooks are the product's, served on loopback.
type Webhooks struct {
	// URL is where they are served, without a path.
	URL string
	// CA is the certificate in PEM that their server is verified by.
	CA       []byte
	client   client.Client
	register func(webhook.Server)
	options  webhook.Options
	stop     context.CancelFunc
	ended    chan struct{}
}

// ServeWebhooks serves what register registers, and installs the webhook
// configurations that the chart ships, so that s calls it. It returns when s
// does: register must serve the paths for SpiderReservedIPs. Both are taken away
// when the test ends.
func ServeWebhooks(tb testing.TB, s *Server, register func(webhook.Server)) *Webhooks {
	tb.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{admissionregistrationv1.AddToScheme, v2beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			tb.Fatal(err)
		}
	}
	c, err := client.New(s.Config(), client.Options{Scheme: scheme})
	if err != nil {
		tb.Fatal(err)
	}
	w := &Webhooks{CA: s.ca.pem, client: c, register: register}
	w.prepare(tb, s)
	w.Start(tb)
	tb.Cleanup(w.Stop)
	w.install(tb)
	w.waitUntilCalled(tb)
	return w
}

// prepare chooses a port and makes a certificate.
func (w *Webhooks) prepare(tb testing.TB, s *Server) {
	tb.Helper()
	dir := tb.TempDir()
	cert, key, err := s.ca.Server("127.0.0.1")
	if err != nil {
		tb.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	port, _, err := freePorts()
	if err != nil {
		tb.Fatal(err)
	}
	w.URL = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	w.options = webhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir}
}

// Start serves, also again after Stop. It returns when connections are taken.
func (w *Webhooks) Start(tb testing.TB) {
	tb.Helper()
	server := webhook.NewServer(w.options)
	w.register(server)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	w.stop, w.ended = stop, ended
	go func() {
		defer close(ended)
		if err := server.Start(ctx); err != nil {
			tb.Errorf("serving webhooks: %v", err)
		}
	}()
	started := server.StartedChecker()
	for end := time.Now().Add(time.Minute); started(nil) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("the webhooks are not served: %v", started(nil))
		}
	}
}

// Stop ends the server; the configurations stay, so that the webhooks cannot be
// reached. It may be called again.
func (w *Webhooks) Stop() {
	w.stop()
	<-w.ended
}

// install makes the configurations of the chart, with the server's address in
// place of the service.
func (w *Webhooks) install(tb testing.TB) {
	tb.Helper()
	mutating, validating := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if err := errors.Join(readShipped(filepath.Join("webhooks", "mutating.yaml"), mutating), readShipped(filepath.Join("webhooks", "validating.yaml"), validating)); err != nil {
		tb.Fatal(err)
	}
	for i := range mutating.Webhooks {
		w.direct(&mutating.Webhooks[i].ClientConfig)
	}
	for i := range validating.Webhooks {
		w.direct(&validating.Webhooks[i].ClientConfig)
	}
	for _, o := range []client.Object{mutating, validating} {
		if err := w.client.Create(tb.Context(), o); err != nil {
			tb.Fatalf("installing the webhooks of the chart: %v", err)
		}
		tb.Cleanup(func() { _ = w.client.Delete(context.Background(), o) })
	}
}

func (w *Webhooks) direct(c *admissionregistrationv1.WebhookClientConfig) {
	url := w.URL + *c.Service.Path
	*c = admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: w.CA}
}

// waitUntilCalled tries a reservation that both kinds of webhooks have something
// to say about: API servers learn of a configuration by watch.
func (w *Webhooks) waitUntilCalled(tb testing.TB) {
	tb.Helper()
	try := func(ips string) (*v2beta1.SpiderReservedIP, error) {
		r := &v2beta1.SpiderReservedIP{Spec: v2beta1.ReservedIPSpec{IPs: []string{ips}}}
		r.GenerateName = "try-"
		return r, w.client.Create(tb.Context(), r, client.DryRunAll)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := try("fd00::1")
		_, refused := try("fd00::2-fd00::1") // the CustomResourceDefinition lets it pass
		if err == nil && r.Spec.IPVersion != nil && refused != nil {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("the API server does not call the webhooks: %v, %v", err, refused)
		}
	}
}

// readShipped reads an object of the chart's files.
func readShipped(file string, into any) error {
	text, err := os.ReadFile(filepath.Join(chartFiles(), file))
	if err == nil {
		err = yaml.UnmarshalStrict(text, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
