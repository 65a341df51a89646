package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// asTheReadmeSays: the product is removed from a cluster and installed again by the commands of README.md, from a chart
// repository. Both default pools are there, and pods that name none have an address of each. Metrics, which nobody asked for, are
// not served.
func asTheReadmeSays(s *scenario) {
	ctx := s.Context()
	if text, err := s.Helm(ctx, "uninstall", "spiderpool", "--namespace", "kube-system", "--wait"); err != nil {
		s.Fatalf("%v: %s", err, text)
	}
	s.eventually(func() string { // it goes with the Deployment; Helm would not take it over
		err := s.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: "spiderpool-controller-server-certs"}, &corev1.Secret{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprintf("the Secret of the removed controller is there (%v)", err)
	})
	const root, repository = "../..", "https://spidernet-io.github.io/spiderpool"
	charts := s.TempDir()
	for _, args := range [][]string{{"package", filepath.Join(root, "charts", "spiderpool"), "--destination", charts}, {"repo", "index", charts}} {
		if text, err := s.Helm(ctx, args...); err != nil {
			s.Fatalf("%v: %s", err, text)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(charts)))
	defer server.Close()

	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		s.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```shell\n")
	script, _, found := strings.Cut(rest, "```\n")
	if !found || strings.Count(script, repository) != 1 {
		s.Fatalf("README.md does not install from %s: %q", repository, script)
	}
	script = strings.NewReplacer(repository, server.URL, "/tmp/tls", s.TempDir()).Replace(script)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	helm := s.Lab.Helm(ctx)
	home := s.TempDir()
	cmd.Dir = root
	cmd.Env = append(helm.Env, "PATH="+filepath.Dir(helm.Path)+":"+os.Getenv("PATH"), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)
	if text, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, text)
	}

	ranges := map[string][2]string{"default-v4-ippool": {"172.20.0.10", "172.20.0.200"}, "default-v6-ippool": {"fd00::10", "fd00::200"}}
	s.eventually(func() string {
		for name, r := range ranges {
			var p v2beta1.SpiderIPPool
			if err := s.Get(ctx, client.ObjectKey{Name: name}, &p); err != nil || fmt.Sprint(p.Spec.IPs) != "["+r[0]+"-"+r[1]+"]" {
				return fmt.Sprintf("%s: %v %v", name, p.Spec.IPs, err)
			}
		}
		return ""
	})
	for _, name := range []string{"first", "second"} {
		s.asking(name, "", "", func(p *corev1.Pod) { p.Annotations = nil })
	}
	s.running(2)
	s.agree(2, 4)
	for pod, addresses := range s.bear() {
		for _, r := range ranges {
			first, last, has := netip.MustParseAddr(r[0]), netip.MustParseAddr(r[1]), 0
			for _, text := range addresses {
				if a := netip.MustParseAddr(text); a.BitLen() == first.BitLen() && !a.Less(first) && !last.Less(a) {
					has++
				}
			}
			if has != 1 {
				s.Errorf("pod %s has %v, want one address of %v", pod, addresses, r)
			}
		}
	}
	nodes, err := s.Nodes()
	if err != nil {
		s.Fatal(err)
	}
	ports := map[string]bool{"5710": true, "5711": false, "5721": false}
	for _, node := range nodes {
		for port, open := range ports {
			text, err := s.NodeCommand(ctx, node, "bash", "-c", ": </dev/tcp/127.0.0.1/"+port).CombinedOutput()
			if refused := strings.Contains(string(text), "Connection refused"); (err == nil) != open || refused == open {
				s.Errorf("port %s of %s is open: want %v, got %v %s", port, node, open, err, text)
			}
		}
	}
}
