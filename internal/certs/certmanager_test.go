package certs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// A real cert-manager issues the Certificate of the chart and injects its authority; certificate and authority are renewed
// while edits run, and none is refused.
func TestCertManager(t *testing.T) {
	c := newCluster(t)
	startCertManager(c)
	c.annotations = map[string]string{"cert-manager.io/inject-ca-from": c.namespace + "/" + name}
	c.register(nil)
	admin := must(client.New(c.server.Config(), client.Options{}))
	for _, file := range []string{"issuer.yaml", "certificate.yaml"} {
		for _, o := range c.manifests(file) {
			if err := admin.Create(t.Context(), o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
	}
	dir := t.TempDir()
	o := c.options()
	o.CertFile, o.KeyFile = filepath.Join(dir, corev1.TLSCertKey), filepath.Join(dir, corev1.TLSPrivateKeyKey)
	r := c.replica(o)
	c.kubelet(dir)
	c.eventually("the certificate is served, and the webhooks trust it", r.Ready)
	c.eventually("an edit is let through", c.edit)

	end := c.editing()
	authority := c.secretNamed("spiderpool-controller-ca").Data[corev1.TLSCertKey]
	for _, renewed := range []string{name, "spiderpool-controller-ca", name} {
		before := must(r.GetCertificate(nil)).Leaf
		c.eventually("a renewal of "+renewed+" is asked for", func() error { return c.renew(admin, renewed) })
		c.eventually("it is there", func() error {
			switch {
			case renewed != name && string(c.secretNamed(renewed).Data[corev1.TLSCertKey]) == string(authority):
				return errors.New("the authority is the one before")
			case renewed == name && must(r.GetCertificate(nil)).Leaf.Equal(before):
				return errors.New("the certificate is the one before")
			}
			return r.Ready()
		})
	}
	t.Logf("%d edits", end())
}

// startCertManager installs and runs it until the test ends.
func startCertManager(c *cluster) {
	c.Helper()
	bin := must(parts.Bin(c.Context(), os.Stderr, "certissuer"))
	source := must(parts.Module(c.Context(), "certissuer", "github.com/cert-manager/cert-manager"))
	must(envtest.InstallCRDs(c.server.Config(), envtest.CRDInstallOptions{Paths: []string{filepath.Join(source, "deploy", "crds")}, ErrorIfPathMissing: true}))
	p := must(process.Start(process.Options{
		Args: []string{filepath.Join(bin, "certissuer"), c.server.Kubeconfig()}, Log: filepath.Join(c.TempDir(), "certissuer.log"),
	}))
	c.Cleanup(func() {
		if c.Failed() {
			c.Log(p.Tail(40))
		}
		if err := p.Stop(context.Background(), 0); err != nil {
			c.Error(err)
		}
	})
}

// manifests are those of a file of the chart, for the namespace of the test, and with the name by which the API server
// calls here.
func (c *cluster) manifests(file string) (out []*unstructured.Unstructured) {
	c.Helper()
	text := string(must(os.ReadFile(filepath.Join("../../charts/spiderpool/files/certmanager", file))))
	text = strings.ReplaceAll(text, "kube-system", c.namespace)
	text = strings.ReplaceAll(text, "  dnsNames:\n", "  dnsNames:\n    - localhost\n")
	for _, doc := range strings.Split(text, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			c.Fatalf("%s: %v", file, err)
		}
		out = append(out, o)
	}
	return out
}

// kubelet keeps the files of the Secret as a volume of it, until the test ends.
func (c *cluster) kubelet(dir string) {
	var ended sync.WaitGroup
	c.Cleanup(ended.Wait)
	ended.Go(func() {
		for mounted := ""; c.Context().Err() == nil; time.Sleep(50 * time.Millisecond) {
			if s := c.secret(); s.ResourceVersion != mounted && len(s.Data[corev1.TLSCertKey]) > 0 {
				mounted = s.ResourceVersion
				mount(c.T, dir, "..v"+mounted, s.Data)
			}
		}
	})
}

// renew asks for a renewal, as cmctl renew does.
func (c *cluster) renew(admin client.Client, certificate string) error {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("cert-manager.io/v1")
	o.SetKind("Certificate")
	if err := admin.Get(c.Context(), client.ObjectKey{Namespace: c.namespace, Name: certificate}, o); err != nil {
		return err
	}
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return err
	}
	conditions = append(conditions, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "asked for",
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339), "observedGeneration": o.GetGeneration(),
	})
	if err := unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions"); err != nil {
		return err
	}
	return admin.Status().Update(c.Context(), o)
}
