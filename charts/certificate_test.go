package charts_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// generate runs the script that makes a certificate for tls.method=provided, as an administrator with a common umask does.
func generate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("..", "tools", "cert", "generateCert.sh"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `umask 022; exec "$0" "$@"`, script}, args...)...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if left, _ := os.ReadDir(cmd.Dir); len(left) > 0 {
		t.Errorf("%q left %q in the working directory", args, left)
	}
	return string(out), err
}

// contents are those in a directory, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// wantCertificate fails the test unless the files of a directory are a server's that ca.crt makes trusted, under exactly these
// names, for so many days.
func wantCertificate(t *testing.T, got map[string]string, days int, names ...string) {
	t.Helper()
	if diff := cmp.Diff([]string{"ca.crt", "server.crt", "server.key"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
	pair, err := tls.X509KeyPair([]byte(got["server.crt"]), []byte(got["server.key"]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names, pair.Leaf.DNSNames); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if life := time.Duration(days) * 24 * time.Hour; pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore) != life {
		t.Errorf("the certificate is valid for %v, want %v", pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore), life)
	}
	for _, name := range names {
		verify(t, got["ca.crt"], pair.Leaf, name)
	}
	if pair.Leaf.IsCA {
		t.Error("the server's certificate may sign others")
	}
}

// verify fails the test unless an API server with this bundle trusts the certificate, now and as long as it is valid.
func verify(t *testing.T, bundle string, leaf *x509.Certificate, name string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		t.Fatalf("no certificates in %q", bundle)
	}
	for _, at := range []time.Time{time.Now(), leaf.NotAfter} {
		o := x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := leaf.Verify(o); err != nil {
			t.Errorf("%s at %v: %v", name, at, err)
		}
	}
}

func TestCertificate(t *testing.T) {
	own := []string{"spiderpool-controller.kube-system.svc", "spiderpool-controller.kube-system.svc.cluster.local", "spiderpool-controller.kube-system", "spiderpool-controller"}
	long := strings.Repeat("n", 63)
	for _, tt := range []struct {
		args  []string
		days  int
		names []string
	}{
		{nil, 3650, own},
		{[]string{"--days=30"}, 30, own},
		{[]string{"--namespace=net", "--service=sp", "--domain=k8s.example.com"}, 3650, []string{"sp.net.svc", "sp.net.svc.k8s.example.com", "sp.net", "sp"}},
		{[]string{"--namespace=" + long, "--service=" + long}, 3650, []string{long + "." + long + ".svc", long + "." + long + ".svc.cluster.local", long + "." + long, long}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "not there yet", "it's")
			text, err := generate(t, append(tt.args, dir)...)
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			wantCertificate(t, contents(t, dir), tt.days, tt.names...)
			for _, path := range []string{dir, filepath.Join(dir, "server.key")} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s is open to others: %v, %v", path, info.Mode(), err)
				}
			}
		})
	}
}

// TestCertificateAgain makes another into the same directory: its bundle trusts the one before too, which is still served
// when the release is upgraded, and no older one.
func TestCertificateAgain(t *testing.T) {
	dir := t.TempDir()
	var leaves []*x509.Certificate
	var bundle string
	for range 3 {
		if text, err := generate(t, dir); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		got := contents(t, dir)
		pair, err := tls.X509KeyPair([]byte(got["server.crt"]), []byte(got["server.key"]))
		if err != nil {
			t.Fatal(err)
		}
		leaves, bundle = append(leaves, pair.Leaf), got["ca.crt"]
		for _, leaf := range leaves[max(0, len(leaves)-2):] {
			verify(t, bundle, leaf, "spiderpool-controller.kube-system.svc")
		}
	}
	var authorities int
	for rest := []byte(bundle); ; authorities++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
	}
	if authorities != 2 {
		t.Errorf("%d certificates in the bundle, want the new and the one before", authorities)
	}
}

// TestCertificateRefused: what cannot be done is said, and changes nothing.
func TestCertificateRefused(t *testing.T) {
	bare := t.TempDir() // a PATH with all but openssl
	for _, tool := range []string{"sh", "cat", "id", "find", "mkdir", "mv", "rm"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bare, tool)); err != nil {
			t.Fatal(err)
		}
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir() // openssl fails at its last step
	script := "#!/bin/sh\ncase \"$*\" in *-CAkey*) echo disk is full >&2; exit 1 ;; esac\nexec " + openssl + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(broken, "openssl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path, ca string // ca: what ca.crt in the directory is
		mode           os.FileMode
		args           []string // DIR is the directory
		want           string
	}{
		{name: "no directory", want: "one DIRECTORY is needed, see --help"},
		{name: "two directories", args: []string{"DIR", "DIR"}, want: "one DIRECTORY is needed, see --help"},
		{name: "unknown option", args: []string{"--day=1", "DIR"}, want: "--day=1 is not an option, see --help"},
		{name: "no openssl", path: bare, args: []string{"DIR"}, want: "openssl is missing: install the package openssl"},
		{name: "openssl fails", path: broken + ":" + os.Getenv("PATH"), args: []string{"DIR"}, want: "disk is full"},
		{name: "service", args: []string{"--service=A,DNS:evil", "DIR"}, want: "--service=A,DNS:evil is not a name of a Kubernetes object"},
		{name: "lines", args: []string{"--namespace=a\nb", "DIR"}, want: "is not a name of a Kubernetes object"},
		{name: "namespace", args: []string{"--namespace=", "DIR"}, want: "--namespace= is not a name of a Kubernetes object"},
		{name: "domain", args: []string{"--domain=*.x", "DIR"}, want: "--domain=*.x is not a DNS domain"},
		{name: "days", args: []string{"--days=0", "DIR"}, want: "--days=0 is not a number of days from 1 to 99999"},
		{name: "many days", args: []string{"--days=100000", "DIR"}, want: "--days=100000 is not a number of days from 1 to 99999"},
		{name: "no certificate", ca: "mine", args: []string{"DIR"}, want: "ca.crt is not a certificate: remove it"},
		{name: "everybody's directory", mode: 0o777, args: []string{"DIR"}, want: "give a directory that you own and only you can write to"},
		{name: "not a directory", args: []string{"/dev/null"}, want: "/dev/null"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			before := map[string]string{"server.key": "mine"}
			if tt.ca != "" {
				before["ca.crt"] = tt.ca
			}
			for name, data := range before {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tt.mode != 0 {
				if err := os.Chmod(dir, tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			if tt.path != "" {
				t.Setenv("PATH", tt.path)
			}
			for i, a := range tt.args {
				if a == "DIR" {
					tt.args[i] = dir
				}
			}
			text, err := generate(t, tt.args...)
			if err == nil || !strings.Contains(text, tt.want) {
				t.Errorf("%v, printed %q, want %q", err, text, tt.want)
			}
			if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
	if text, err := generate(t, "--help"); err != nil || !strings.Contains(text, "generateCert.sh [--namespace=") {
		t.Errorf("--help: %v, printed %q", err, text)
	}
}

// TestCertificateInstalls gives the chart what the script has made.
func TestCertificateInstalls(t *testing.T) {
	dir := t.TempDir()
	if text, err := generate(t, dir); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	encoded := map[string]string{}
	for name, data := range contents(t, dir) {
		encoded[name] = base64.StdEncoding.EncodeToString([]byte(data))
	}
	const tls = "--set=spiderpoolController.tls."
	got, err := template(t, tls+"method=provided", tls+"provided.tlsCert="+encoded["server.crt"],
		tls+"provided.tlsKey="+encoded["server.key"], tls+"provided.tlsCa="+encoded["ca.crt"])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ object, path, want string }{
		{"Secret/spiderpool-controller-server-certs", `{.data.tls\.crt} {.data.tls\.key} {.data.ca\.crt}`, encoded["server.crt"] + " " + encoded["server.key"] + " " + encoded["ca.crt"]},
		{"ValidatingWebhookConfiguration/spiderpool-controller", "{.webhooks[0].clientConfig.caBundle}", encoded["ca.crt"]},
		{deployment, env("SPIDERPOOL_TLS_METHOD"), "provided"},
	} {
		if diff := cmp.Diff(tt.want, got.at(t, tt.object, tt.path)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.object, tt.path, diff)
		}
	}
}
