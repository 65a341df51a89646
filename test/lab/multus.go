package lab

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// multusManifest is what Multus needs in the cluster.
//
//go:embed multus.yaml
var multusManifest string

const multusUser = "multus"

// clusterNetwork is the definition of the network of every pod's eth0. Multus
// would find a configuration on the node without it, but as of version 4.2.3
// its STATUS crashes then, and its DEL forgets settings if given a path.
const clusterNetwork = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: %q, namespace: kube-system}
`

// installMultus makes the custom resource definition, Multus' role and the
// cluster network. The thin plugin has no pod of its own: putMultus places it
// on each node.
func (l *Lab) installMultus(ctx context.Context) error {
	if err := l.apply(ctx, multusManifest); err != nil {
		return err
	}
	cmd := l.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd/network-attachment-definitions.k8s.cni.cncf.io")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("waiting for Multus' resource definition: %w\n%s", err, out)
	}
	return l.apply(ctx, fmt.Sprintf(clusterNetwork, l.cfg.Multus))
}

func (l *Lab) apply(ctx context.Context, manifest string) error {
	cmd := l.Kubectl(ctx, "apply", "--server-side", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("installing Multus: %w\n%s", err, out)
	}
	return nil
}

// putMultus places the plugin, its credentials and its configuration on a
// node. The configuration sorts first, so the runtime uses it.
func (l *Lab) putMultus(n node) error {
	program, err := os.ReadFile(filepath.Join(l.bins["multus"], "multus"))
	if err != nil {
		return err
	}
	plugin := l.hostPath(n, "opt/cni/bin/multus")
	if err := writeFile(plugin, program); err != nil {
		return err
	}
	if err := os.Chmod(plugin, 0o755); err != nil {
		return err
	}
	// Multus' STATUS asks the API server, so from CNI 1.1 on an API server that
	// restarts would turn nodes NotReady and evict their pods.
	const kubeconfig = "/etc/cni/net.d/multus.d/multus.kubeconfig"
	if err := l.writeKubeconfig(l.hostPath(n, kubeconfig), multusUser); err != nil {
		return err
	}
	conf, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "name": "multus", "type": "multus",
		"clusterNetwork": l.cfg.Multus, "kubeconfig": kubeconfig,
		"confDir": "/etc/cni/net.d", "multusNamespace": "kube-system",
		"logLevel": "verbose", "logFile": "/var/log/multus.log",
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(l.hostPath(n, "etc/cni/net.d/00-multus.conf"), conf)
}
