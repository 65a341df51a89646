package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

var options = Options{
	Namespace: "net", Secret: "s", Service: "spiderpool-controller", ClusterDomain: "cluster.local", CALife: 10 * year, CertLife: year,
}

// Authorities are made once: RSA keys cost time.
var (
	now   = time.Now().Truncate(time.Second)
	fresh = sync.OnceValue(func() *rotator.KeyPairArtifacts { return authority(now.Add(-year), now.Add(9*year)) })
	other = sync.OnceValue(func() *rotator.KeyPairArtifacts { return authority(now.Add(-2*year), now.Add(8*year)) })
	old   = sync.OnceValue(func() *rotator.KeyPairArtifacts { return authority(now.Add(-9*year), now.Add(year)) })
	gone  = sync.OnceValue(func() *rotator.KeyPairArtifacts { return authority(now.Add(-10*year), now.Add(-day)) })
	month = sync.OnceValue(func() *rotator.KeyPairArtifacts { return authority(now.Add(-10*day), now.Add(20*day)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func authority(begin, end time.Time) *rotator.KeyPairArtifacts {
	return must((&rotator.CertRotator{CAName: "spiderpool-controller-ca", CAOrganization: "spiderpool"}).CreateCACert(begin, end))
}

// aged is the same authority, with another life: what it has signed stays valid.
func aged(ca *rotator.KeyPairArtifacts, begin, end time.Time) *rotator.KeyPairArtifacts {
	as := *ca.Cert
	as.NotBefore, as.NotAfter = begin, end
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &as, &as, ca.Key.Public(), ca.Key))))
	return &rotator.KeyPairArtifacts{Cert: cert, Key: ca.Key, CertPEM: encode(cert), KeyPEM: ca.KeyPEM}
}

// signed is a Secret with a certificate of ca that lives from begin to end, and more authorities behind it.
func signed(ca *rotator.KeyPairArtifacts, begin, end time.Time, names []string, more ...*rotator.KeyPairArtifacts) map[string][]byte {
	by := rotator.CertRotator{DNSName: names[0], ExtraDNSNames: names[1:], ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	cert, key, err := by.CreateCertPEM(ca, begin, end)
	if err != nil {
		panic(err)
	}
	return map[string][]byte{caCert: pems(append([]*rotator.KeyPairArtifacts{ca}, more...)...), caKey: ca.KeyPEM, corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}
}

func good(ca *rotator.KeyPairArtifacts, more ...*rotator.KeyPairArtifacts) map[string][]byte {
	return signed(ca, now.Add(-day), now.Add(year), options.names(), more...)
}

func pems(all ...*rotator.KeyPairArtifacts) (out []byte) {
	for _, ca := range all {
		out = append(out, ca.CertPEM...)
	}
	return out
}

// with replaces keys of a Secret.
func with(secret map[string][]byte, more map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	maps.Copy(out, secret)
	maps.Copy(out, more)
	return out
}

func pairOf(secret map[string][]byte) *pair {
	return parsePair(secret[corev1.TLSCertKey], secret[corev1.TLSPrivateKeyKey])
}

func TestDecide(t *testing.T) {
	ecKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ecPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(ecKey))})
	steady, before := good(fresh()), good(other())
	oldCert := signed(fresh(), now.Add(-300*day), now.Add(65*day), options.names())
	bundle := func(all ...*rotator.KeyPairArtifacts) [][]byte { return [][]byte{pems(all...), pems(all...)} }
	for name, tc := range map[string]struct {
		v    view
		want string // authority, how many others; certificate
	}{
		"nothing yet":                         {view{}, "new authority, 0 others; signed"},
		"nothing yet, webhooks are there":     {view{injected: [][]byte{nil, nil}}, "new authority, 0 others; signed"},
		"all is well":                         {view{secret: steady, injected: bundle(fresh()), settled: true}, "authority kept, 0 others; kept"},
		"not injected yet":                    {view{secret: steady, injected: [][]byte{nil}}, "authority kept, 0 others; kept"},
		"somebody edited caBundle away":       {view{secret: steady, serving: pairOf(steady), injected: [][]byte{nil, pems(fresh())}}, "authority kept, 0 others; kept"},
		"no webhooks":                         {view{secret: steady}, "authority kept, 0 others; kept"},
		"authority near its end":              {view{secret: good(old()), injected: bundle(old()), settled: true}, "new authority, 1 others; kept, waiting"},
		"the new one not injected yet":        {view{secret: with(before, map[string][]byte{caCert: pems(fresh(), other()), caKey: fresh().KeyPEM}), injected: bundle(other()), settled: true}, "authority kept, 1 others; kept, waiting"},
		"injected into one webhook of two":    {view{secret: with(before, map[string][]byte{caCert: pems(fresh(), other()), caKey: fresh().KeyPEM}), injected: [][]byte{pems(fresh(), other()), pems(other())}, settled: true}, "authority kept, 1 others; kept, waiting"},
		"injected a moment ago":               {view{secret: with(before, map[string][]byte{caCert: pems(fresh(), other()), caKey: fresh().KeyPEM}), injected: bundle(fresh(), other())}, "authority kept, 1 others; kept, waiting"},
		"injected long enough":                {view{secret: with(before, map[string][]byte{caCert: pems(fresh(), other()), caKey: fresh().KeyPEM}), injected: bundle(fresh(), other()), settled: true}, "authority kept, 1 others; signed"},
		"an authority before has expired":     {view{secret: good(fresh(), other(), gone()), injected: bundle(fresh(), other(), gone()), settled: true}, "authority kept, 1 others; kept"},
		"the authority has expired":           {view{secret: good(gone()), injected: bundle(gone()), settled: true}, "new authority, 0 others; signed"},
		"certificate near its end":            {view{secret: oldCert, injected: bundle(fresh()), settled: true}, "authority kept, 0 others; signed"},
		"the same, just started":              {view{secret: oldCert, injected: bundle(fresh())}, "authority kept, 0 others; kept, waiting"},
		"certificate expired":                 {view{secret: signed(fresh(), now.Add(-year), now.Add(-day), options.names()), injected: bundle(fresh())}, "authority kept, 0 others; signed"},
		"a name more":                         {view{secret: signed(fresh(), now, now.Add(year), options.names()[:1]), injected: bundle(fresh()), settled: true}, "authority kept, 0 others; signed"},
		"the name that is called is another":  {view{secret: signed(fresh(), now, now.Add(year), []string{"elsewhere"}), injected: bundle(fresh())}, "authority kept, 0 others; signed"},
		"key of another certificate":          {view{secret: with(steady, map[string][]byte{corev1.TLSPrivateKeyKey: before[corev1.TLSPrivateKeyKey]}), injected: bundle(fresh())}, "authority kept, 0 others; signed"},
		"the same, and this process serves":   {view{secret: with(steady, map[string][]byte{corev1.TLSPrivateKeyKey: nil}), serving: pairOf(steady), injected: bundle(fresh())}, "authority kept, 0 others; put back"},
		"key of another authority":            {view{secret: with(steady, map[string][]byte{caKey: other().KeyPEM}), injected: bundle(fresh()), settled: true}, "new authority, 1 others; kept, waiting"},
		"key that is not RSA":                 {view{secret: with(steady, map[string][]byte{caKey: ecPEM}), injected: bundle(fresh()), settled: true}, "new authority, 1 others; kept, waiting"},
		"no key of the authority":             {view{secret: with(steady, map[string][]byte{caKey: nil}), injected: bundle(fresh()), settled: true}, "new authority, 1 others; kept, waiting"},
		"broken PEM in the bundle":            {view{secret: with(steady, map[string][]byte{caCert: append([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), steady[caCert]...)}), injected: bundle(fresh()), settled: true}, "authority kept, 0 others; kept"},
		"broken bundle":                       {view{secret: with(steady, map[string][]byte{caCert: []byte("no")}), injected: bundle(fresh()), settled: true}, "authority kept, 0 others; kept"},
		"broken certificate":                  {view{secret: with(steady, map[string][]byte{corev1.TLSCertKey: []byte("no")}), injected: bundle(fresh())}, "authority kept, 0 others; signed"},
		"bundle in another order":             {view{secret: with(steady, map[string][]byte{caCert: pems(other(), fresh(), fresh())}), injected: bundle(fresh()), settled: true}, "authority kept, 1 others; kept"},
		"emptied":                             {view{secret: map[string][]byte{}, serving: pairOf(steady), injected: bundle(fresh()), settled: true}, "new authority, 1 others; put back, waiting"},
		"deleted":                             {view{serving: pairOf(steady), injected: bundle(fresh()), settled: true}, "new authority, 1 others; put back, waiting"},
		"deleted, by a process that is new":   {view{injected: bundle(fresh()), settled: true}, "new authority, 1 others; signed"},
		"deleted, and serves what is refused": {view{serving: pairOf(before), injected: bundle(fresh()), settled: true}, "new authority, 1 others; signed"},
		"an older release's shorter life":     {view{secret: signed(month(), now.Add(-10*day), now.Add(20*day), options.names()), injected: bundle(month()), settled: true}, "authority kept, 0 others; kept"},
		"an older release without the key":    {view{secret: map[string][]byte{caCert: pems(fresh()), corev1.TLSCertKey: steady[corev1.TLSCertKey], corev1.TLSPrivateKeyKey: steady[corev1.TLSPrivateKeyKey]}, injected: bundle(fresh())}, "new authority, 1 others; kept, waiting"},
		"many authorities":                    {view{secret: with(steady, map[string][]byte{caCert: bytes.Join([][]byte{pems(manyAuthorities()...), pems(fresh())}, nil)}), injected: bundle(fresh()), settled: true}, "authority kept, 9 others; kept"},
		"many authorities, none signs":        {view{secret: map[string][]byte{caCert: pems(manyAuthorities()...)}}, "new authority, 9 others; signed"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.v.now = now
			d := options.decide(tc.v)
			if got := describe(d, tc.v); got != tc.want {
				t.Fatalf("decides %q\nwant    %q", got, tc.want)
			}
			data, err := options.secretData(d, with(tc.v.secret, map[string][]byte{"note": []byte("mine")}), now)
			if err != nil {
				t.Fatal(err)
			}
			holds(t, data)
			after := view{secret: data, injected: [][]byte{data[caCert]}, now: now}
			if again := options.decide(after); again.authority == nil || again.sign || !equal(must(options.secretData(again, data, now)), data) {
				t.Errorf("another replica then decides %q", describe(again, after))
			}
		})
	}
}

var manyAuthorities = sync.OnceValue(func() (out []*rotator.KeyPairArtifacts) {
	for i := range maxAuthorities {
		out = append(out, aged(other(), now.Add(-year), now.Add(time.Duration(i+1)*year)))
	}
	return out
})

func describe(d decision, v view) string {
	kept, others := "new authority", len(d.authorities)
	if d.authority != nil {
		kept, others = "authority kept", others-1
	} else {
		others = min(others, maxAuthorities-1)
	}
	cert := "kept"
	switch {
	case d.sign:
		cert = "signed"
	case d.pair == v.serving && v.serving != nil:
		cert = "put back"
	}
	if d.waiting {
		cert += ", waiting"
	}
	return fmt.Sprintf("%s, %d others; %s", kept, others, cert)
}

// holds checks what every Secret that we write must be.
func holds(t *testing.T, data map[string][]byte) {
	t.Helper()
	p := pairOf(data)
	if p == nil {
		t.Fatal("certificate and key do not fit")
	}
	if err := options.verify(data[caCert], &p.Certificate, now); err != nil {
		t.Errorf("its bundle does not verify its certificate: %v", err)
	}
	all := parse(data[caCert])
	if ca := findAuthority(all, data[caKey], now); ca == nil || !ca.Cert.Equal(all[0]) {
		t.Error("the key is not that of the first authority")
	}
	if len(all) > maxAuthorities || slices.ContainsFunc(all, func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) }) {
		t.Errorf("%d authorities, or expired ones", len(all))
	}
	if p.Leaf.NotAfter.After(all[0].NotAfter) && p.Leaf.CheckSignatureFrom(all[0]) == nil {
		t.Error("the certificate outlives its authority")
	}
	if string(data["note"]) != "mine" {
		t.Error("what others keep in the Secret is gone")
	}
}

func TestNames(t *testing.T) {
	o := options
	o.ExtraNames = []string{"x.example", "*.example", "10.0.0.1"}
	want := "spiderpool-controller.net.svc spiderpool-controller.net.svc.cluster.local spiderpool-controller.net spiderpool-controller x.example *.example 10.0.0.1"
	if got := strings.Join(o.names(), " "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	data := must(o.secretData(o.decide(view{now: now}), nil, now))
	leaf := pairOf(data).Leaf
	for _, name := range o.names()[:6] {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if again := o.decide(view{secret: data, now: now}); again.sign {
		t.Error("it is signed again, and would be for ever")
	}
	if got := leaf.NotAfter.Sub(now); got != year {
		t.Errorf("it lives for %v more", got)
	}
	if got := parse(data[caCert])[0].NotAfter.Sub(now); got != 10*year {
		t.Errorf("its authority lives for %v more", got)
	}
	// The API server's clock may be behind.
	if err := o.verify(data[caCert], &pairOf(data).Certificate, now.Add(-10*time.Minute)); err != nil {
		t.Error(err)
	}
}

// An administrator's certificate may come with those between it and the authority that the webhooks trust.
func TestCertificatesBetween(t *testing.T) {
	as := *fresh().Cert
	as.Subject.CommonName = "between"
	between := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &as, other().Cert, fresh().Key.Public(), other().Key))))
	secret := good(&rotator.KeyPairArtifacts{Cert: between, Key: fresh().Key})
	if err := options.verify(other().CertPEM, &pairOf(secret).Certificate, now); err == nil {
		t.Error("the test proves nothing")
	}
	secret[corev1.TLSCertKey] = append(secret[corev1.TLSCertKey], encode(between)...)
	if err := options.verify(other().CertPEM, &pairOf(secret).Certificate, now); err != nil {
		t.Error(err)
	}
}
