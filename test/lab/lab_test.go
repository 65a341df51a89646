package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/spidernet-io/spiderpool/test/lab"
)

// The CNI networks of both segments: the first is the cluster's, by a file on
// each node; the second is attached by Multus, from a definition that names no
// configuration, so that it is a file on each node too.
const networks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: second, namespace: default}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: default}
spec:
  selector: {app: b}
  ports: [{port: 80, targetPort: 8080}]
`

func podYAML(name, node, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: default, labels: {app: %[1]s}, annotations: {k8s.v1.cni.cncf.io/networks: second}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  %[3]s
  containers:
    - {name: c, image: alpine, imagePullPolicy: IfNotPresent, command: [sh, -c, "httpd -p 8080 -h /etc; echo hello from $HOSTNAME; sleep infinity"]}
---
`, name, node, more)
}

// TestCluster makes one cluster and proves on it what others build on. The
// order matters: the last steps break it.
func TestCluster(t *testing.T) {
	const name = "test-cluster"
	ctx := t.Context()
	l := up(t, lab.Config{Name: name, Multus: "first"})
	l2 := make(chan error, 1)
	go func() { l2 <- sideBySide(ctx, "test-beside") }()

	for i, node := range []string{"node1", "node2"} {
		for _, net := range []struct {
			name string
			on   lab.Segment
		}{{"first", lab.Segments[0]}, {"second", lab.Segments[1]}} {
			conf := lab.MacvlanConflist("1.1.0", net.name, net.on, lab.HostLocal(net.on, byte(i+1)))
			if err := l.WriteCNI(node, net.name+".conflist", conf); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	apply(t, l, networks)
	apply(t, l, podYAML("a", "node1", "")+podYAML("b", "node2", "")+podYAML("h", "node2", "hostNetwork: true"))
	kubectl(t, l, "wait", "--for=condition=Ready", "--timeout=120s", "pod", "--all")

	t.Run("pods reach each other on both segments in both families", func(t *testing.T) { reach(t, l) })
	t.Run("exec and logs", func(t *testing.T) { execAndLogs(t, l) })
	t.Run("the API server's service answers pods", func(t *testing.T) { service(t, l) })
	if err := <-l2; err != nil {
		t.Errorf("a second lab beside the first: %v", err)
	}
	t.Run("the first lab is unharmed by the end of the second", func(t *testing.T) { reach(t, l) })
	t.Run("a node is added with every image, and deleted", func(t *testing.T) { addNode(t, l) })
	t.Run("kubelet, plugin and API server fail and return", func(t *testing.T) { faults(t, l) })
	t.Run("a node loses power and boots", func(t *testing.T) { power(t, l) })
	down(t, l)
}

// sideBySide starts and ends another lab while the first works, of one family.
func sideBySide(ctx context.Context, name string) error {
	l, err := lab.Up(ctx, lab.Config{Name: name, Nodes: 1, Families: lab.IPv6})
	if err != nil {
		return err
	}
	again, err := lab.Up(ctx, lab.Config{Name: name})
	if err == nil || !strings.Contains(err.Error(), "up already") {
		return fmt.Errorf("a second Up of the same name: %v, %w", again, err)
	}
	client, err := kubernetes.NewForConfig(l.API.Config())
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(nodes.Items) != 1 || !netip.MustParseAddr(nodes.Items[0].Status.Addresses[0].Address).Is6() {
		return fmt.Errorf("nodes are %+v, want one with an IPv6 address", nodes.Items)
	}
	return l.Down(ctx)
}

// reach compares what the runtime's namespaces hold with what pods report, and
// pings every address of pod b from pod a.
func reach(t *testing.T, l *lab.Lab) {
	addrs := addresses(t, l, "b", "node2")
	if len(addrs["eth0"]) != 2 || len(addrs["net1"]) != 2 {
		t.Fatalf("pod b has %v, want one address of each family on eth0 and net1", addrs)
	}
	var reported []string
	for _, ip := range pod(t, l, "b").Status.PodIPs {
		reported = append(reported, ip.IP)
	}
	for _, p := range addrs["eth0"] {
		if !slices.Contains(reported, p.Addr().String()) {
			t.Errorf("eth0 of pod b has %s, reported are %v", p, reported)
		}
	}
	for dev, prefixes := range addrs {
		for _, p := range prefixes {
			ping(t, l, dev, p.Addr())
		}
	}
}

// ping pings from pod a; the first may be lost to neighbour discovery.
func ping(t *testing.T, l *lab.Lab, dev string, to netip.Addr) {
	t.Helper()
	eventually(t, "pod a pings "+to.String(), func() error {
		out, err := l.Kubectl(t.Context(), "exec", "a", "--", "ping", "-c", "1", "-w", "2", "-I", dev, to.String()).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func addresses(t *testing.T, l *lab.Lab, podName, node string) map[string][]netip.Prefix {
	t.Helper()
	s, err := l.PodSandbox(node, pod(t, l, podName).UID)
	if err != nil {
		t.Fatal(err)
	}
	if s.Namespace != "default" || s.Name != podName {
		t.Errorf("the sandbox of pod %s is that of %s/%s", podName, s.Namespace, s.Name)
	}
	addrs, err := l.Addresses(node, s.Netns)
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

func execAndLogs(t *testing.T, l *lab.Lab) {
	if got := kubectl(t, l, "exec", "b", "--", "hostname"); got != "b\n" {
		t.Errorf("hostname in pod b is %q", got)
	}
	if got := kubectl(t, l, "logs", "a"); got != "hello from a\n" {
		t.Errorf("log of pod a is %q", got)
	}
}

// service asks for the version over the service address, its certificate
// verified, from a macvlan pod's network and from that of a node, which is
// that of a pod on the host's network.
func service(t *testing.T, l *lab.Lab) {
	ctx := t.Context()
	s, err := l.PodSandbox("node1", pod(t, l, "a").UID)
	must(t, err)
	for _, address := range []string{"https://10.96.0.1", "https://[fd00:10:250::1]:6443"} {
		ask := []string{"--server=" + address, "get", "--raw=/version"}
		inPod := l.NetnsCommand(ctx, "node1", s.Netns, append([]string{l.Kubectl(ctx).Path, "--kubeconfig=" + l.Kubeconfig()}, ask...)...)
		onNode := l.NodeCommand(ctx, "node2", append([]string{"kubectl", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig"}, ask...)...)
		for _, cmd := range []*exec.Cmd{inPod, onNode} {
			if got := output(t, cmd); !strings.Contains(got, "gitVersion") {
				t.Errorf("%s answers %s", address, got)
			}
		}
	}
	ip := kubectl(t, l, "get", "service", "b", "-o", "jsonpath={.spec.clusterIP}")
	eventually(t, "pod a reaches pod b by a service", func() error {
		out, err := l.Kubectl(ctx, "exec", "a", "--", "wget", "-q", "-O-", "http://"+ip+"/hostname").CombinedOutput()
		if err != nil || string(out) != "b\n" {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if got := kubectl(t, l, "get", "pod", "h", "-o", "jsonpath={.status.podIP}"); got != "10.250.0.12" {
		t.Errorf("pod h on node2's network has address %s", got)
	}
}

func addNode(t *testing.T, l *lab.Lab) {
	ctx := t.Context()
	archive := filepath.Join(t.TempDir(), "image.tar")
	// Without --local, ctr asks containerd to stream the archive and exits when
	// containerd is done, which may be before it has written the archive's end.
	export := l.NodeCommand(ctx, "node1", "ctr", "-n", "k8s.io", "images", "export", "--local", "-", "localhost/alpine:1")
	out, err := export.Output()
	if err != nil {
		t.Fatal(err)
	}
	renamed := strings.ReplaceAll(string(out), "localhost/alpine:1", "localhost/loaded:1")
	if err := writeArchive(archive, renamed); err != nil {
		t.Fatal(err)
	}
	if err := l.LoadImage(ctx, archive); err != nil {
		t.Fatal(err)
	}
	node, err := l.AddNode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"node1", "node2", node} {
		list, err := l.NodeCommand(ctx, n, "ctr", "-n", "k8s.io", "images", "ls", "-q").Output()
		if err != nil || !strings.Contains(string(list), "localhost/loaded:1\n") {
			t.Errorf("%s has images %q, %v; want localhost/loaded:1 among them", n, list, err)
		}
	}
	if err := l.DeleteNode(ctx, node); err != nil {
		t.Fatal(err)
	}
	if got := kubectl(t, l, "get", "nodes", "-o", "name"); got != "node/node1\nnode/node2\n" {
		t.Errorf("nodes are %q", got)
	}
	if nodes, err := l.Nodes(); err != nil || !slices.Equal(nodes, []string{"node1", "node2"}) {
		t.Errorf("nodes are %v, %v", nodes, err)
	}
}

func faults(t *testing.T, l *lab.Lab) {
	ctx := t.Context()
	must(t, l.RemovePlugin("node2", "macvlan"))
	if out, err := l.NodeCommand(ctx, "node2", "ls", "/opt/cni/bin").Output(); err != nil || strings.Contains(string(out), "macvlan\n") {
		t.Errorf("plugins of node2: %q, %v", out, err)
	}
	must(t, l.InstallPlugin("node2", l.HostPath("node1", "/opt/cni/bin/macvlan")))

	b, old := pod(t, l, "b").UID, addresses(t, l, "b", "node2")["eth0"]
	must(t, l.StopKubelet(ctx, "node2"))
	kubectl(t, l, "delete", "pod", "b", "--force", "--grace-period=0", "--wait=false")
	ping(t, l, "eth0", old[0].Addr()) // the object is gone, the container is not

	must(t, l.API.Restart(ctx))
	other, err := lab.Open("test-cluster")
	must(t, err)
	must(t, other.StartKubelet(ctx, "node2"))
	eventually(t, "the sandbox of pod b is gone", func() error {
		if _, err := l.PodSandbox("node2", b); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	apply(t, l, podYAML("b", "node2", ""))
	kubectl(t, l, "wait", "--for=condition=Ready", "--timeout=120s", "pod/b")
}

func power(t *testing.T, l *lab.Lab) {
	ctx := t.Context()
	must(t, l.StopNode(ctx, "node2"))
	if err := l.NodeCommand(ctx, "node2", "true").Run(); err == nil {
		t.Error("a command runs on a node without power")
	}
	kubectl(t, l, "wait", "--for=condition=Ready=Unknown", "--timeout=60s", "node/node2")
	must(t, l.StartNode(ctx, "node2"))
	must(t, l.WaitReady(ctx))
	apply(t, l, podYAML("c", "node2", ""))
	kubectl(t, l, "wait", "--for=condition=Ready", "--timeout=120s", "pod/c")
	kubectl(t, l, "delete", "pod", "c", "b", "--ignore-not-found", "--timeout=60s") // teardown works after a boot
	apply(t, l, podYAML("c", "node2", ""))
	kubectl(t, l, "wait", "--for=condition=Ready", "--timeout=120s", "pod/c")
	for dev, prefixes := range addresses(t, l, "c", "node2") {
		for _, p := range prefixes {
			ping(t, l, dev, p.Addr())
		}
	}
}

func pod(t *testing.T, l *lab.Lab, name string) *corev1.Pod {
	t.Helper()
	var p corev1.Pod
	must(t, json.Unmarshal([]byte(kubectl(t, l, "get", "pod", name, "-o", "json")), &p))
	return &p
}

func kubectl(t *testing.T, l *lab.Lab, args ...string) string {
	t.Helper()
	return output(t, l.Kubectl(t.Context(), args...))
}

func apply(t *testing.T, l *lab.Lab, yaml string) {
	t.Helper()
	cmd := l.Kubectl(t.Context(), "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	output(t, cmd)
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, exit.Stderr)
	}
	must(t, err)
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within two minutes: %s: %v", what, err)
		}
	}
}
