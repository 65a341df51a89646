package apiserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA signs the certificates of one API server and of all who talk to it.
type CA struct {
	// File is the certificate in PEM, which clients and servers trust.
	File string
	pem  []byte
	cert *x509.Certificate
	key  crypto.Signer
}

// validity is longer than any lab lives.
const validity = 10 * 365 * 24 * time.Hour

// newCA makes a certificate authority and keeps it in dir.
func newCA(dir string) (*CA, error) {
	key, err := newKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "spiderpool-lab"},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IsCA:     true, BasicConstraintsValid: true,
	}
	ca := &CA{File: filepath.Join(dir, "ca.crt"), cert: t, key: key}
	data, err := ca.sign(t, key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ca.File, data, 0o644); err != nil {
		return nil, err
	}
	return openCA(dir)
}

// openCA reads what newCA kept.
func openCA(dir string) (*CA, error) {
	file := filepath.Join(dir, "ca.crt")
	pair, err := tls.LoadX509KeyPair(file, filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority in %s: %w", dir, err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})
	return &CA{File: file, pem: data, cert: pair.Leaf, key: pair.PrivateKey.(crypto.Signer)}, nil
}

// Client returns certificate and key in PEM of a user in groups, as the API
// server understands them (X.509 client certificates: common name and
// organizations).
func (ca *CA) Client(user string, groups ...string) (cert, key []byte, err error) {
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server returns certificate and key in PEM of a server that is called by any
// of the names, which may be addresses.
func (ca *CA) Server(names ...string) (cert, key []byte, err error) {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return ca.issue(t)
}

func (ca *CA) issue(t *x509.Certificate) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	if cert, err = ca.sign(t, k); err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(k)
	return cert, key, err
}

func (ca *CA) sign(t *x509.Certificate, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	t.NotBefore = time.Now().Add(-time.Hour)
	t.NotAfter = t.NotBefore.Add(validity)
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// newKey makes a private key and keeps it in a file.
func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(file, data, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
