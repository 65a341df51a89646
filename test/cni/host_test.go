package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/vishvananda/netlink"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// segment is a layer-2 underlay: a bridge in a namespace of its own.
type segment struct {
	*namespace
	bridge *netlink.Bridge
	hosts  int
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	s := &segment{namespace: newNamespace(t), bridge: &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "underlay"}}}
	if err := s.links.LinkAdd(s.bridge); err != nil {
		t.Fatalf("making a bridge: %v", err)
	}
	s.up(t, "underlay")
	return s
}

// host is a node as the agent and the plugins see it: a namespace whose eth0 is
// on the underlay, and directories that are the node's own.
type host struct {
	*namespace
	cluster    *cluster
	node       string
	dir        string
	socket     string
	kubeconfig string
	conf       string
	// program is the agent's, and agent the process.
	program string
	agent   process.Process
	runtime *libcni.CNIConfig
}

// newHost makes a host on an underlay of its own, with an agent that is ready.
// The agent knows the pools that were made before.
func newHost(t *testing.T) *host {
	t.Helper()
	return newSegment(t).host(t)
}

// host adds a host with an agent that is ready.
func (s *segment) host(t *testing.T) *host {
	t.Helper()
	h := s.hostOf(t, theCluster(t), programs.ours)
	t.Cleanup(func() { h.judgeAgent(t) })
	return h
}

// hostOf adds a host of a cluster whose agent is the one in a directory.
func (s *segment) hostOf(t *testing.T, c *cluster, dir string) *host {
	t.Helper()
	h := &host{namespace: newNamespace(t), cluster: c, dir: t.TempDir(), program: filepath.Join(dir, "spiderpool-agent")}
	s.hosts++
	s.plug(t, h.namespace, fmt.Sprintf("host%d", s.hosts))
	h.bridge(t)
	run, err := os.MkdirTemp("/run", "spiderpool-test-") // where the plugin takes sockets from
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	h.socket = filepath.Join(run, "spiderpool.sock")
	h.runtime = h.newRuntime(filepath.Join(h.dir, "cache"))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}
	h.cluster.create(t, node)
	h.node = node.Name
	h.forwardAPI(t)
	h.writeFiles(t)
	h.startAgent(t)
	return h
}

// newRuntime returns what a container runtime is to plugins. It keeps what it
// remembers in the directory cache.
func (h *host) newRuntime(cache string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{programs.ours, programs.cni}, cache,
		&entering{DefaultExec: invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}}, namespace: h.namespace})
}

// judgeAgent looks at what the agent logged: its role must let it do everything
// that it tries, also what it tries again beside the path.
func (h *host) judgeAgent(t *testing.T) {
	log, err := os.ReadFile(h.agent.Log)
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "is forbidden") {
			t.Errorf("the agent lacks a right: %s", line)
			break
		}
	}
	if t.Failed() {
		t.Logf("the agent of %s: %s", h.node, h.agent.Tail(30))
	}
}

// plug connects eth0 of a host by a cable whose other end has the name port.
func (s *segment) plug(t *testing.T, host *namespace, port string) {
	t.Helper()
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: s.bridge.Index},
		PeerName: "eth0", PeerNamespace: netlink.NsFd(host.handle)}
	if err := s.links.LinkAdd(cable); err != nil {
		t.Fatalf("making a veth pair: %v", err)
	}
	s.up(t, port)
	host.up(t, "eth0")
}

// bridge makes the bridge of the plugin bridge with an address of its own. One
// without takes that of a port, so that it changes when pods come and go, which
// the plugin's CHECK calls a failure.
func (h *host) bridge(t *testing.T) {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	if err := h.links.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
}

// forwardAPI makes the API server, which is on the loopback of the machine,
// reachable on that of the host, at the same port.
func (h *host) forwardAPI(t *testing.T) {
	t.Helper()
	target := net.JoinHostPort("127.0.0.1", strconv.Itoa(h.cluster.server.Port))
	var socket *os.File
	err := h.in(func() error {
		l, err := net.Listen("tcp", target)
		if err != nil {
			return err
		}
		defer l.Close()
		socket, err = l.(*net.TCPListener).File()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p, err := process.Start(process.Options{Args: []string{filepath.Join(programs.forward, "forward"), target},
		Log: filepath.Join(h.dir, "forward.log"), Files: []*os.File{socket}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
}

// writeFiles writes what the agent reads: conf.yml as the chart has it, but for
// the place of the socket, and a token of the agent's ServiceAccount that is
// bound to a pod of this node.
func (h *host) writeFiles(t *testing.T) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: system, GenerateName: account + "-"}, Spec: corev1.PodSpec{
		NodeName: h.node, ServiceAccountName: account, Containers: []corev1.Container{{Name: "agent", Image: "localhost/agent:1"}}}}
	h.cluster.create(t, pod)
	config, err := h.cluster.server.ServiceAccountConfig(t.Context(), system, account,
		&authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := apiserver.Kubeconfig(config)
	if err != nil {
		t.Fatal(err)
	}
	settings := maps.Clone(h.cluster.conf)
	settings["ipamUnixSocketPath"] = h.socket
	conf, err := yaml.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	h.kubeconfig, h.conf = filepath.Join(h.dir, "kubeconfig"), filepath.Join(h.dir, "conf.yml")
	for file, data := range map[string][]byte{h.kubeconfig: kubeconfig, h.conf: conf} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startAgent starts the agent and waits until it is ready. Its ports are those
// of the host's namespace, so every agent has the defaults.
func (h *host) startAgent(t *testing.T, env ...string) {
	t.Helper()
	if err := h.launchAgent(env...); err != nil {
		t.Fatal(err)
	}
	agent := h.agent
	t.Cleanup(func() { stop(t, agent) })
	h.awaitAgent(t)
}

// launchAgent starts the agent.
func (h *host) launchAgent(env ...string) (err error) {
	h.agent, err = process.Start(process.Options{
		Args:  []string{h.program, "daemon", "--kubeconfig=" + h.kubeconfig, "--config-path=" + h.conf},
		Env:   append([]string{"SPIDERPOOL_NODE_NAME=" + h.node, "SPIDERPOOL_LOG_LEVEL=debug"}, env...),
		Enter: process.Namespaces{Net: h.path},
		Log:   filepath.Join(h.dir, "agent.log"),
	})
	return err
}

func (h *host) awaitAgent(t *testing.T) {
	t.Helper()
	eventually(t, "the agent becomes ready", func() error {
		if !h.agent.Alive() {
			t.Fatalf("the agent ended: %s", h.agent.Tail(10))
		}
		return h.ready(t.Context())
	})
}

// ready asks as the kubelet does.
func (h *host) ready(ctx context.Context) error {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = h.in(func() error { conn, err = new(net.Dialer).DialContext(ctx, network, address); return err })
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:5710/v1/runtime/readiness", nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

func (h *host) stopAgent(t *testing.T) {
	t.Helper()
	stop(t, h.agent)
}

func stop(t *testing.T, p process.Process) {
	t.Helper()
	if err := p.Stop(context.Background(), 10*time.Second); err != nil {
		t.Error(err)
	}
}

// entering executes plugins in the namespace of a host.
type entering struct {
	invoke.DefaultExec
	namespace *namespace
}

func (e *entering) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	err = e.namespace.in(func() error {
		out, err = e.DefaultExec.ExecPlugin(ctx, path, stdin, environ)
		return err
	})
	return out, err
}

// mains are the plugins that the tests drive: main plugins that delegate to
// ours, and ours alone, whose result is what ipvlan, vlan and others get too.
var mains = map[string]map[string]any{
	"macvlan":    {"type": "macvlan", "master": "eth0", "mode": "bridge"},
	"bridge":     {"type": "bridge", "bridge": "cni0"},
	"ptp":        {"type": "ptp"},
	"spiderpool": {"type": "spiderpool"},
}

// network is a network configuration as an administrator writes it: the main
// plugin, and the pools of ours.
func (h *host) network(t *testing.T, version, main string, pools ...*v2beta1.SpiderIPPool) []byte {
	t.Helper()
	ipam := map[string]any{"type": "spiderpool", "ipam_unix_socket_path": h.socket, "log_level": "panic"} // errors say all
	for _, p := range pools {
		key := "default_ipv4_ippool"
		if netip.MustParsePrefix(p.Spec.Subnet).Addr().Is6() {
			key = "default_ipv6_ippool"
		}
		names, _ := ipam[key].([]string)
		ipam[key] = append(names, p.Name)
	}
	plugin := maps.Clone(mains[main])
	plugin["ipam"] = ipam
	conf, err := json.Marshal(map[string]any{"cniVersion": version, "name": main + "-net", "plugins": []any{plugin}})
	if err != nil {
		t.Fatal(err)
	}
	return conf
}
