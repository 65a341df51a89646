package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// node is a machine of the lab: a network namespace, a keeper process that
// holds its mount, UTS and IPC namespaces, and what runs in them.
type node struct {
	Name  string `json:"name"`
	Index int    `json:"index"` // from 1; decides addresses and zone
}

// nodeDirs are the directories that every node has for itself. /var/lib comes
// last: it hides the directory from which they are mounted.
var nodeDirs = []string{"etc", "opt", "run", "var/log", "var/lib"}

func newNode(index int) node { return node{Name: fmt.Sprintf("node%d", index), Index: index} }

// zone is the value of topology.kubernetes.io/zone.
func (n node) zone() string { return fmt.Sprintf("zone-%d", 2-n.Index%2) }

func (l *Lab) nodeDir(n node) string             { return filepath.Join(l.dir, "nodes", n.Name) }
func (l *Lab) record(n node, name string) string { return filepath.Join(l.nodeDir(n), name+".json") }

// hostPath is the place of a node's path on this machine.
func (l *Lab) hostPath(n node, path string) string {
	return filepath.Join(l.nodeDir(n), "root", path)
}

// startRuntime brings a node up as far as it goes without an API server:
// network, namespaces, containerd and the images.
func (l *Lab) startRuntime(ctx context.Context, n node) error {
	if err := l.makeNodeFiles(ctx, n); err != nil {
		return err
	}
	if err := l.makeNodeNetwork(ctx, n); err != nil {
		return err
	}
	if err := l.startKeeper(ctx, n); err != nil {
		return err
	}
	if err := l.startContainerd(ctx, n); err != nil {
		return err
	}
	return l.importImages(ctx, n)
}

// makeNodeFiles makes a node's own directories; at a later start of the node
// only /run is made anew, as by a reboot.
func (l *Lab) makeNodeFiles(ctx context.Context, n node) error {
	if err := os.RemoveAll(l.hostPath(n, "run")); err != nil {
		return err
	}
	if err := os.MkdirAll(l.hostPath(n, "run/netns"), 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(l.record(n, "node")); err == nil {
		return nil
	}
	if err := run(ctx, "cp", "-a", "/etc", l.hostPath(n, "etc")); err != nil {
		return err
	}
	if err := os.RemoveAll(l.hostPath(n, "etc/cni")); err != nil { // what the machine may have is not the node's
		return err
	}
	for _, dir := range []string{"etc/cni/net.d", "etc/kubernetes/manifests", "opt/cni/bin", "opt/lab/kubernetes", "opt/lab/containerd", "var/log", "var/lib"} {
		if err := os.MkdirAll(l.hostPath(n, dir), 0o755); err != nil {
			return err
		}
	}
	if err := run(ctx, "sh", "-ec", `cp "$0"/* "$1"`, l.bins["cni"], l.hostPath(n, "opt/cni/bin")); err != nil {
		return err
	}
	if err := l.writeNodeConfig(n); err != nil {
		return err
	}
	return writeJSON(l.record(n, "node"), n)
}

func (l *Lab) writeNodeConfig(n node) error {
	var addrs []string
	for _, f := range l.cfg.Families.each() {
		addrs = append(addrs, nodeAddr(f, n.Index).String())
	}
	for path, content := range map[string]string{
		"etc/hostname":                n.Name + "\n",
		"etc/machine-id":              fmt.Sprintf("%032x\n", n.Index),
		"etc/hosts":                   "127.0.0.1 localhost\n::1 localhost\n" + addrs[0] + " " + n.Name + "\n",
		"etc/resolv.conf":             "",
		"etc/containerd/config.toml":  containerdConfig,
		"etc/kubernetes/kubelet.yaml": fmt.Sprintf(kubeletConfig, cgroupOf(l.cfg.Name, n.Name)),
	} {
		file := l.hostPath(n, path)
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // may be a link out of the node
			return err
		}
		if err := writeFile(file, []byte(content)); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// keeperScript makes the node's mount namespace in a process that then only
// holds it. Other instances' namespaces, whose files the new mount namespace
// inherited, are let go, or they would live as long as this node. A boot of
// the node has an id of its own, as a machine's has.
const keeperScript = `
for f in ` + base + `/*/netns/*; do umount -l "$f" 2>/dev/null || true; done
root=$1
mount --bind "$2" "$root/opt/lab/kubernetes"
mount --bind "$3" "$root/opt/lab/containerd"
cat /proc/sys/kernel/random/uuid > "$root/run/boot_id"
mount --bind "$root/run/boot_id" /proc/sys/kernel/random/boot_id
for dir in $5; do mount --rbind "$root/$dir" "/$dir"; done
mount --make-rshared /
hostname "$4"
touch /run/lab-ready
exec sleep infinity
`

func (l *Lab) startKeeper(ctx context.Context, n node) error {
	p, err := l.startNodeProcess(n, "keeper", process.Namespaces{Net: l.netns(n.Name)},
		"unshare", "--mount", "--uts", "--ipc", "sh", "-ec", keeperScript, "sh",
		l.hostPath(n, ""), l.bins["kubernetes"], l.bins["containerd"], n.Name, strings.Join(nodeDirs, " "))
	if err != nil {
		return err
	}
	return l.waitProcess(ctx, p, func() bool { _, err := os.Stat(l.hostPath(n, "run/lab-ready")); return err == nil })
}

// waitProcess waits for what a process brings about, as long as it lives.
func (l *Lab) waitProcess(ctx context.Context, p process.Process, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	for !done() {
		if !p.Alive() {
			return fmt.Errorf("%s ended too early; %s", p.Name, p.Tail(8))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; %s", p.Name, context.Cause(ctx), p.Tail(8))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// namespaces are all of a node that is up.
func (l *Lab) namespaces(n node) (process.Namespaces, error) {
	keeper := process.Load(l.record(n, "keeper"))
	if !keeper.Alive() {
		return process.Namespaces{}, fmt.Errorf("%s is powered off: StartNode brings it up", n.Name)
	}
	return process.Namespaces{Net: l.netns(n.Name), Of: keeper.PID}, nil
}

// nodePath finds the node's own programs before those of the machine.
const nodePath = "PATH=/opt/lab/containerd:/opt/lab/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// startNodeProcess starts a program of a node and records it.
func (l *Lab) startNodeProcess(n node, name string, enter process.Namespaces, args ...string) (process.Process, error) {
	procs, err := makeCgroup(cgroupOf(l.cfg.Name, n.Name, "system"))
	if err != nil {
		return process.Process{}, err
	}
	p, err := process.Start(process.Options{
		Name: name + " of " + n.Name, Args: args, Env: []string{nodePath}, Enter: enter, Cgroup: procs,
		Log: filepath.Join(l.nodeDir(n), name+".log"), Detached: true,
	})
	if err != nil {
		return p, err
	}
	return p, p.Save(l.record(n, name))
}

// containerdConfig: an image is never pulled, so the pause image is named;
// runc must not lower oom_score_adj, which takes a capability that containers
// around the lab may lack.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "` + pauseImage + `"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
`

func (l *Lab) startContainerd(ctx context.Context, n node) error {
	enter, err := l.namespaces(n)
	if err != nil {
		return err
	}
	p, err := l.startNodeProcess(n, "containerd", enter, "/opt/lab/containerd/containerd", "--config=/etc/containerd/config.toml")
	if err != nil {
		return err
	}
	return l.waitProcess(ctx, p, func() bool { return l.NodeCommand(ctx, n.Name, "ctr", "version").Run() == nil })
}

// kubeletConfig: loss of a node is noticed within seconds, so the lease is
// renewed often enough; a container that was killed is started again within
// seconds, however often; the machine's disk may be nearly full, which is no
// matter of the lab's.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /%s
failSwapOn: false
oomScoreAdj: 0
maxPods: 250
staticPodPath: /etc/kubernetes/manifests
resolvConf: /etc/resolv.conf
nodeLeaseDurationSeconds: 12
crashLoopBackOff: {maxContainerRestartPeriod: 3s}
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
evictionHard: {}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

// register starts the kubelet of a node whose runtime runs, and returns when
// the node shows up at the API server.
func (l *Lab) register(ctx context.Context, n node) error {
	if err := l.writeNodeCredentials(n); err != nil {
		return err
	}
	if l.cfg.Multus != "" {
		if err := l.putMultus(n); err != nil {
			return err
		}
	}
	if err := l.startKubelet(n); err != nil {
		return err
	}
	return l.waitNode(ctx, n, func(node *corev1.Node) bool { return node.Status.NodeInfo.KubeletVersion != "" })
}

func (l *Lab) writeNodeCredentials(n node) error {
	names := []string{n.Name}
	for _, f := range l.cfg.Families.each() {
		names = append(names, nodeAddr(f, n.Index).String())
	}
	cert, key, err := l.API.CA().Server(names...)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(l.API.CA().File)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"kubelet.crt": cert, "kubelet.key": key, "ca.crt": ca} {
		if err := writeFile(l.hostPath(n, "etc/kubernetes/"+name), data); err != nil {
			return err
		}
	}
	return l.writeKubeconfig(l.hostPath(n, "etc/kubernetes/kubelet.kubeconfig"), "system:node:"+n.Name, "system:nodes")
}

func (l *Lab) startKubelet(n node) error {
	if _, err := makeCgroup(cgroupOf(l.cfg.Name, n.Name)); err != nil {
		return err
	}
	enter, err := l.namespaces(n)
	if err != nil {
		return err
	}
	var addrs []string
	for _, f := range l.cfg.Families.each() {
		addrs = append(addrs, nodeAddr(f, n.Index).String())
	}
	_, err = l.startNodeProcess(n, "kubelet", enter, "/opt/lab/kubernetes/kubelet",
		"--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig", "--hostname-override="+n.Name,
		"--node-ip="+strings.Join(addrs, ","), "--node-labels="+corev1.LabelTopologyZone+"="+n.zone())
	return err
}

// waitNode waits for a state of the Node object.
func (l *Lab) waitNode(ctx context.Context, n node, is func(*corev1.Node) bool) error {
	client, err := kubernetes.NewForConfig(l.API.Config())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, registerTimeout, fmt.Errorf("not within %s", registerTimeout))
	defer cancel()
	for {
		obj, err := client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err == nil && is(obj) {
			return nil
		}
		if p := process.Load(l.record(n, "kubelet")); !p.Alive() {
			return fmt.Errorf("%s ended; %s", p.Name, p.Tail(8))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; %s", n.Name, context.Cause(ctx), process.Load(l.record(n, "kubelet")).Tail(8))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// WaitReady returns when every node that is powered on is Ready; that takes a
// CNI configuration.
func (l *Lab) WaitReady(ctx context.Context) error {
	nodes, err := l.nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !process.Load(l.record(n, "keeper")).Alive() {
			continue
		}
		if err := l.waitNode(ctx, n, isReady); err != nil {
			return err
		}
	}
	return nil
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// HostPath is the place on this machine of a path below a node's own /etc,
// /opt, /run, /var/lib or /var/log.
func (l *Lab) HostPath(nodeName, path string) string {
	path = strings.Replace(filepath.Clean(path), "/var/run/", "/run/", 1)
	return l.hostPath(node{Name: nodeName}, path)
}

// NodeCommand is a command that runs in a node's network, mount, UTS and IPC
// namespaces. It ends with the node. On a node that is powered off it fails.
func (l *Lab) NodeCommand(ctx context.Context, nodeName string, args ...string) *exec.Cmd {
	n := node{Name: nodeName}
	enter, err := l.namespaces(n)
	if err != nil {
		return &exec.Cmd{Err: err}
	}
	return l.command(ctx, n, enter, args)
}

func (l *Lab) command(ctx context.Context, n node, enter process.Namespaces, args []string) *exec.Cmd {
	procs, err := makeCgroup(cgroupOf(l.cfg.Name, n.Name, "system"))
	if err != nil {
		return &exec.Cmd{Err: err}
	}
	line := append([]string{"-c", `echo $$ > "$0" && exec "$@"`, procs}, enter.Args(args...)...)
	cmd := exec.CommandContext(ctx, "sh", line...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), nodePath)
	return cmd
}
