package certs

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
)

// Keys of the Secret beside those of its type, corev1.TLSCertKey and corev1.TLSPrivateKeyKey.
const (
	// caCert is the bundle that is injected: the authority that signs first, then those before it.
	caCert = "ca.crt"
	// caKey is the key of the first of them.
	caKey = "ca.key"
)

// maxAuthorities bounds the bundle, however often somebody has new authorities made.
const maxAuthorities = 10

// view is all that a decision rests on.
type view struct {
	secret   map[string][]byte // nil: there is no Secret
	serving  *pair             // what this process serves; nil: nothing yet
	injected [][]byte          // the caBundle of each webhook
	settled  bool              // all of them have been what they are for Options.Settle
	now      time.Time
}

// decision is what shall become of the Secret:
//
//	the Secret's                          then
//	authority: none, broken, key misfits  a new one is put before those that are valid
//	           a third of its life left   the same
//	           valid                      stays
//	none is valid (deleted, emptied)      those that are injected count, so that nobody is refused meanwhile
//	certificate: signed by the authority, with all names, more than a third of its life left: stays
//	           else, and the webhooks accept it: it stays until they have had the authority for Options.Settle
//	           else, and they accept what this process serves: that is put back, for as long
//	           else                       a new one at once: there is nothing to keep working
type decision struct {
	authority   *rotator.KeyPairArtifacts // signs; nil: make one
	authorities []*x509.Certificate       // the bundle, without one that is yet to be made
	pair        *pair                     // the certificate that stays; nil: none
	sign        bool                      // a new certificate is to be signed
	waiting     bool                      // one will be, once the webhooks have had the authority long enough
}

func (o Options) decide(v view) decision {
	var d decision
	d.authorities = validAuthorities(v.secret[caCert], v.now)
	if len(d.authorities) == 0 {
		d.authorities = validAuthorities(bytes.Join(v.injected, []byte("\n")), v.now)
	}
	d.authority = findAuthority(d.authorities, v.secret[caKey], v.now)
	if d.authority != nil && nearEnd(d.authority.Cert, v.now) {
		d.authority = nil
	}
	d.authorities = ordered(d.authorities, d.authority)
	d.pair = parsePair(v.secret[corev1.TLSCertKey], v.secret[corev1.TLSPrivateKeyKey])
	accepted := o.accept(v.injected, d.pair, v.now)
	if !accepted && v.serving != nil && o.accept(v.injected, v.serving, v.now) {
		d.pair, accepted = v.serving, true
	}
	switch {
	case d.authority != nil && d.pair != nil && o.verify(encode(d.authority.Cert), &d.pair.Certificate, v.now) == nil &&
		o.hasNames(d.pair.Leaf) && !nearEnd(d.pair.Leaf, v.now):
	case accepted && (d.authority == nil || !v.settled || !inAll(v.injected, d.authority.Cert)):
		d.waiting = true
	default:
		d.sign = true
	}
	return d
}

// secretData carries a decision out and returns the data of the Secret; what others keep there stays.
func (o Options) secretData(d decision, before map[string][]byte, now time.Time) (map[string][]byte, error) {
	by := rotator.CertRotator{
		CAName: o.Service + "-ca", CAOrganization: "spiderpool", DNSName: o.names()[0], ExtraDNSNames: o.names()[1:],
		ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if d.authority == nil {
		made, err := by.CreateCACert(begin(now, o.CALife), now.Add(o.CALife))
		if err != nil {
			return nil, fmt.Errorf("make a certificate authority: %w", err)
		}
		d.authority, d.authorities = made, ordered(d.authorities, made)
	}
	data := maps.Clone(before)
	if data == nil {
		data = map[string][]byte{}
	}
	data[caCert], data[caKey] = encode(d.authorities...), d.authority.KeyPEM
	switch {
	case d.sign:
		end := now.Add(o.CertLife)
		if d.authority.Cert.NotAfter.Before(end) {
			end = d.authority.Cert.NotAfter
		}
		cert, key, err := by.CreateCertPEM(d.authority, begin(now, o.CertLife), end)
		if err != nil {
			return nil, fmt.Errorf("sign a certificate: %w", err)
		}
		data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey] = cert, key
	case d.pair != nil:
		data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey] = d.pair.certPEM, d.pair.keyPEM
	}
	return data, nil
}

// begin is when a certificate made now begins: earlier, for the API server's clock may be behind.
func begin(now time.Time, life time.Duration) time.Time { return now.Add(-min(time.Hour, life/10)) }

// renewal is when a third of a certificate's life is left, however long that is.
func renewal(c *x509.Certificate) time.Time { return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3) }

func nearEnd(c *x509.Certificate, now time.Time) bool { return !now.Before(renewal(c)) }

// accept reports whether every caBundle verifies p for the name that the API server calls. No webhook accepts nothing:
// there is then none to keep working.
func (o Options) accept(bundles [][]byte, p *pair, now time.Time) bool {
	if p == nil || len(bundles) == 0 {
		return false
	}
	return !slices.ContainsFunc(bundles, func(bundle []byte) bool { return o.verify(bundle, &p.Certificate, now) != nil })
}

// verify checks a certificate, with those that are served behind it, as the API server does.
func (o Options) verify(bundle []byte, served *tls.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, der := range served.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err := served.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: o.names()[0], CurrentTime: now})
	return err
}

// hasNames reports whether a certificate has all names, as they are written: not every text is a name that verifies.
func (o Options) hasNames(leaf *x509.Certificate) bool {
	return !slices.ContainsFunc(o.names(), func(name string) bool { return !slices.Contains(leaf.DNSNames, name) })
}

// inAll reports whether each bundle has c.
func inAll(bundles [][]byte, c *x509.Certificate) bool {
	return !slices.ContainsFunc(bundles, func(bundle []byte) bool { return !slices.ContainsFunc(parse(bundle), c.Equal) })
}

// ordered puts the authority that signs before the others; nil: none of them does.
func ordered(all []*x509.Certificate, first *rotator.KeyPairArtifacts) []*x509.Certificate {
	if first == nil {
		return all
	}
	rest := slices.DeleteFunc(slices.Clone(all), first.Cert.Equal)
	return append([]*x509.Certificate{first.Cert}, rest[:min(len(rest), maxAuthorities-1)]...)
}

// validAuthorities are those of a bundle that have not expired, each once.
func validAuthorities(bundle []byte, now time.Time) (out []*x509.Certificate) {
	for _, c := range parse(bundle) {
		if now.Before(c.NotAfter) && !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// findAuthority returns the one that a key belongs to and that can sign; nil: none. Keys of others than RSA are not ours.
func findAuthority(all []*x509.Certificate, keyPEM []byte, now time.Time) *rotator.KeyPairArtifacts {
	for _, c := range all {
		certPEM := encode(c)
		fits, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil || !c.IsCA || now.Before(c.NotBefore) {
			continue
		}
		if key, ok := fits.PrivateKey.(*rsa.PrivateKey); ok {
			return &rotator.KeyPairArtifacts{Cert: c, Key: key, CertPEM: certPEM, KeyPEM: keyPEM}
		}
	}
	return nil
}

// pair is a certificate with its key, as it is served and as it is written.
type pair struct {
	tls.Certificate
	certPEM, keyPEM []byte
}

// parsePair returns nil if the two are no certificate with its key.
func parsePair(certPEM, keyPEM []byte) *pair {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil
	}
	return &pair{c, certPEM, keyPEM}
}

// parse returns the certificates in PEM and passes over what is none.
func parse(bundle []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			out = append(out, c)
		}
	}
	return out
}

func encode(all ...*x509.Certificate) (out []byte) {
	for _, c := range all {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
