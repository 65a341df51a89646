package certs

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Two replicas start at once and rotate authority and certificate while edits run: none is refused, and one of the two
// writes each time.
func TestRotation(t *testing.T) {
	c := newCluster(t)
	c.register(nil)
	versions := c.versions()
	a, b := c.replica(c.options()), c.replica(c.options())
	data := c.steady(nil, a, b)
	want := 1
	end := c.editing()
	for range 2 {
		t.Log("authority near its end")
		before := findAuthority(parse(data[caCert]), data[caKey], now)
		dying := aged(before, now.Add(-9*year), now.Add(year))
		rest := encode(parse(data[caCert])[1:]...)
		c.change(with(data, map[string][]byte{caCert: append(dying.CertPEM, rest...)}))
		data = c.steady(data, a, b)
		if all := parse(data[caCert]); len(all) < 2 || !all[1].Equal(dying.Cert) || bytes.Equal(data[caKey], dying.KeyPEM) {
			t.Errorf("the bundle has %d authorities, want a new one and behind it that before", len(all))
		}
		t.Log("certificate near its end")
		ca := findAuthority(parse(data[caCert]), data[caKey], now)
		tired := signed(ca, now.Add(-300*day), now.Add(65*day), a.names())
		c.change(with(data, map[string][]byte{corev1.TLSCertKey: tired[corev1.TLSCertKey], corev1.TLSPrivateKeyKey: tired[corev1.TLSPrivateKeyKey]}))
		kept := data[caCert]
		data = c.steady(tired, a, b)
		if !bytes.Equal(kept, data[caCert]) {
			t.Error("the bundle changed for a certificate")
		}
		want += 1 + 2 + 1 + 1 // ours, bundle, certificate; ours, certificate
	}
	if n := end(); n < want {
		t.Errorf("only %d edits", n)
	} else {
		t.Logf("%d edits", n)
	}
	c.eventually("the watch of the Secret has brought all", func() error {
		if n := versions.secrets(); n < want {
			return fmt.Errorf("%d versions of %d", n, want)
		}
		return nil
	})
	if got := versions.secrets(); got != want {
		t.Errorf("the Secret was written %d times, want %d", got, want)
	}
	versions.check()
}

// history is what the API server's watches tell of the Secret and of the webhook configurations.
type history struct {
	c    *cluster
	mu   sync.Mutex
	seen []version
}

// version is one of the Secret, or one of a configuration; the number orders them all.
type version struct {
	number uint64
	secret *corev1.Secret
	kind   string
	config configurations
}

func (c *cluster) versions() *history {
	h := &history{c: c}
	api, options := c.admin.AdmissionregistrationV1(), func(name string) metav1.ListOptions {
		return metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	}
	for _, w := range []watch.Interface{
		must(c.admin.CoreV1().Secrets(c.namespace).Watch(c.Context(), options(secretName))),
		must(api.MutatingWebhookConfigurations().Watch(c.Context(), options(name))),
		must(api.ValidatingWebhookConfigurations().Watch(c.Context(), options(name))),
	} {
		c.Cleanup(w.Stop)
		go func() {
			for e := range w.ResultChan() {
				h.add(e)
			}
		}()
	}
	return h
}

func (h *history) add(e watch.Event) {
	if e.Type != watch.Added && e.Type != watch.Modified {
		return
	}
	v := version{number: must(strconv.ParseUint(e.Object.(metav1.Object).GetResourceVersion(), 10, 64))}
	switch o := e.Object.(type) {
	case *corev1.Secret:
		v.secret = o
	case *admissionv1.MutatingWebhookConfiguration:
		v.kind, v.config.mutating = "mutating", o
	case *admissionv1.ValidatingWebhookConfiguration:
		v.kind, v.config.validating = "validating", o
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, v)
	slices.SortFunc(h.seen, func(a, b version) int { return cmp.Compare(a.number, b.number) })
}

func (h *history) secrets() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.seen {
		if v.secret != nil {
			n++
		}
	}
	return n
}

// check fails the test if a certificate was written that the webhooks of that time did not trust, the first one apart, or
// if the webhooks stopped to trust the one that was written last.
func (h *history) check() {
	h.c.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var secret *corev1.Secret
	configs := map[string]configurations{}
	for _, v := range h.seen {
		first := secret == nil
		if v.secret != nil {
			secret = v.secret
		} else {
			configs[v.kind] = v.config
		}
		for kind, config := range configs {
			injected := config.injected()
			if secret == nil || first || len(injected[0]) == 0 {
				continue
			}
			if o := h.c.options(); !o.accept(injected, pairOf(secret.Data), now) {
				h.c.Errorf("at version %d the %s webhooks do not trust the certificate of the Secret", v.number, kind)
			}
		}
	}
}

// A Secret that is deleted gives new keys, and one that is emptied too, without a refused edit. With the Deployment of the
// controller it is garbage.
func TestSecretDeleted(t *testing.T) {
	c := newCluster(t)
	c.register(nil)
	owner := c.deploy()
	a, b := c.replica(c.options()), c.replica(c.options())
	before := c.steady(nil, a, b)
	end := c.editing()
	if err := c.admin.CoreV1().Secrets(c.namespace).Delete(t.Context(), secretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	after := c.steady(before, a, b)
	if bytes.Equal(before[caKey], after[caKey]) {
		t.Error("the key of the authority came back")
	}
	want := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: owner.UID}}
	if diff := gocmp.Diff(want, c.secret().OwnerReferences); diff != "" {
		t.Errorf("owners of the Secret (-want +got):\n%s", diff)
	}
	c.change(map[string][]byte{corev1.TLSCertKey: nil, corev1.TLSPrivateKeyKey: nil})
	c.steady(after, a, b)
	t.Logf("%d edits", end())

	// As the garbage collector does when the release is removed, while its pods are still ending.
	if err := c.admin.AppsV1().Deployments(c.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.admin.CoreV1().Secrets(c.namespace).Delete(t.Context(), secretName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		if _, err := c.admin.CoreV1().Secrets(c.namespace).Get(t.Context(), secretName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("the Secret came back without its Deployment (%v)", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// What an older release left, whose authority cannot sign any more, is served until a new one is in force.
func TestSecretOfAnOlderRelease(t *testing.T) {
	c := newCluster(t)
	o := c.options()
	left := signed(other(), now.Add(-day), now.Add(20*year), append(o.names(), "localhost"))
	delete(left, caKey)
	must(c.admin.CoreV1().Secrets(c.namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName}, Type: corev1.SecretTypeOpaque, Data: left}, metav1.CreateOptions{}))
	c.register(left[caCert])
	r := c.replica(o)
	c.eventually("an edit is let through", c.edit)
	end := c.editing()
	c.steady(left, r)
	t.Logf("%d edits", end())
}

func TestBundleIsHealed(t *testing.T) {
	c := newCluster(t)
	c.register(nil)
	r := c.replica(c.options())
	data := c.steady(nil, r)
	api := c.admin.AdmissionregistrationV1()
	healed := func() {
		t.Helper()
		c.eventually("all webhooks trust the certificate", func() error {
			m, err := api.MutatingWebhookConfigurations().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			v, err := api.ValidatingWebhookConfigurations().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, b := range (configurations{m, v}).injected() {
				if !bytes.Equal(b, data[caCert]) {
					return errors.New("another caBundle")
				}
			}
			return r.Ready()
		})
		c.eventually("an edit is let through", c.edit)
	}
	healed()
	remove := []byte(`[{"op":"remove","path":"/webhooks/1/clientConfig/caBundle"}]`)
	must(api.ValidatingWebhookConfigurations().Patch(t.Context(), name, types.JSONPatchType, remove, metav1.PatchOptions{}))
	healed()
	must(api.MutatingWebhookConfigurations().Patch(t.Context(), name, types.JSONPatchType, remove, metav1.PatchOptions{}))
	healed()
	c.unregister()
	c.eventually("an edit without webhooks", c.edit)
	c.register(other().CertPEM)
	healed()
	if !bytes.Equal(c.secret().Data[corev1.TLSCertKey], data[corev1.TLSCertKey]) {
		t.Error("the certificate is another")
	}
}

// Readiness says what is missing, also while the API server is away, and nothing is given up.
func TestReadiness(t *testing.T) {
	c := newCluster(t)
	c.register(nil)
	var away atomic.Value // the path of what does not answer
	away.Store("/")
	o := c.options()
	o.Config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if path := away.Load().(string); path != "" && strings.HasPrefix(r.URL.Path, path) {
				return nil, errors.New("the network is gone")
			}
			return next.RoundTrip(r)
		})
	})
	r := c.replica(o)
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "nothing usable was read from Secret "+c.namespace+"/"+secretName) {
		t.Errorf("ready says %v", err)
	}
	if err := c.edit(); err == nil {
		t.Error("an edit is let through that nobody has looked at")
	}
	away.Store("")
	c.steady(nil, r)
	c.eventually("an edit is let through", c.edit)

	// Who cannot read the webhooks serves what the Secret has, and says so.
	away.Store("/apis/admissionregistration")
	late := c.replica(o)
	c.eventually("the certificate is served", func() error { _, err := late.GetCertificate(nil); return err })
	if err := late.Ready(); err == nil || !strings.Contains(err.Error(), "the webhook configurations "+name+" were not read yet") {
		t.Errorf("ready says %v", err)
	}
	away.Store("")
	c.eventually("it is ready", late.Ready)
}

type tripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Files that others keep are served and read again, as the kubelet changes them; nothing is written.
func TestFiles(t *testing.T) {
	c := newCluster(t)
	c.register(other().CertPEM)
	dir := t.TempDir()
	o := c.options()
	o.CertFile, o.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	names := append(o.names(), "localhost")
	r := c.replica(o)
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), o.CertFile) {
		t.Errorf("ready says %v", err)
	}
	if got := validity(t, r); len(got) > 0 {
		t.Errorf("metrics of a certificate that there is not: %v", got)
	}
	mount(t, dir, "1", signed(fresh(), now.Add(-day), now.Add(year), names))
	c.eventually("readiness names the webhook that refuses", func() error {
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "a.test.io of MutatingWebhookConfiguration "+name) || !errors.As(err, &x509.UnknownAuthorityError{}) {
			return err
		}
		return nil
	})
	for _, version := range []string{"2", "3"} {
		secret := signed(other(), now.Add(-day), now.Add(year), names)
		mount(t, dir, version, secret)
		c.eventually("the new files are served", func() error {
			if err := r.Ready(); err != nil {
				return err
			}
			if served := must(r.GetCertificate(nil)); !served.Leaf.Equal(pairOf(secret).Leaf) {
				return errors.New("another certificate")
			}
			return nil
		})
		c.eventually("an edit is let through", c.edit)
		want := []float64{float64(pairOf(secret).Leaf.NotBefore.Unix()), float64(pairOf(secret).Leaf.NotAfter.Unix())}
		if got := validity(t, r); !slices.Equal(got, want) {
			t.Errorf("by the metrics the certificate is valid from %v, want %v", got, want)
		}
	}
	mount(t, dir, "4", map[string][]byte{corev1.TLSCertKey: []byte("no")})
	if err := r.Ready(); err != nil {
		t.Errorf("broken files end what was served: %v", err)
	}
	if s := c.secret(); s.Name != "" {
		t.Error("a Secret was written")
	}
}

// validity is from when to when the certificate that is served is valid, by its metrics.
func validity(t *testing.T, c *Certs) (out []float64) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		out = append(out, f.Metric[0].GetGauge().GetValue())
	}
	slices.Sort(out)
	return out
}

// mount puts files into dir as the kubelet does: in a directory of their own, to which a link is renamed.
func mount(t *testing.T, dir, version string, secret map[string][]byte) {
	t.Helper()
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	err := os.Mkdir(filepath.Join(dir, version), 0o755)
	for _, file := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, version, file), secret[file], 0o600))
		if _, missing := os.Lstat(filepath.Join(dir, file)); missing != nil {
			err = errors.Join(err, os.Symlink("..data/"+file, filepath.Join(dir, file)))
		}
	}
	err = errors.Join(err, os.Symlink(version, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	if before != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, before)))
	}
	if err != nil {
		t.Fatal(err)
	}
}
