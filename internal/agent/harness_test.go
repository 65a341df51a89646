package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// cluster is the API server that all tests share, seen by an administrator.
// Tests keep apart by the names of their nodes, pods and pools.
type cluster struct {
	client.Client
	t      *testing.T
	server *apiserver.Server
	prefix string
}

var (
	installed sync.Once
	tests     atomic.Int32
)

// requestWait bounds what the tests wait for; nothing should come near it.
const requestWait = 30 * time.Second

func newCluster(t *testing.T) *cluster {
	t.Helper()
	server := apiserver.ForTest(t)
	installed.Do(func() { apiserver.InstallProduct(t, server) })
	return clusterOf(t, server)
}

// clusterOf is a cluster on a server that has the product.
func clusterOf(t *testing.T, server *apiserver.Server) *cluster {
	t.Helper()
	scheme := apiclient.Scheme()
	if err := rbacv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	cl := &cluster{Client: c, t: t, server: server, prefix: fmt.Sprintf("t%d", tests.Add(1))}
	cl.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: cl.prefix, Labels: map[string]string{"team": cl.prefix}}})
	t.Cleanup(cl.clear)
	cl.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: cl.prefix, Name: "default"}})
	return cl
}

// clear frees what the test's pods still hold, for the tests that come after.
func (c *cluster) clear() {
	var list v2beta1.SpiderIPList
	if err := c.List(context.Background(), &list); err != nil {
		c.t.Fatal(err)
	}
	for i := range list.Items {
		if err := apiserver.DeleteSpiderIP(context.Background(), c, &list.Items[i]); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) create(o client.Object) {
	c.t.Helper()
	if err := c.Create(c.t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		c.t.Fatal(err)
	}
}

// createUntyped makes an object of a kind that the agent's scheme does not have.
func (c *cluster) createUntyped(o client.Object) {
	c.t.Helper()
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		c.t.Fatal(err)
	}
	admin, err := client.New(c.server.Config(), client.Options{Scheme: scheme})
	if err == nil {
		err = admin.Create(c.t.Context(), o)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// pool makes a pool named after the test.
func (c *cluster) pool(name, subnet string, ips []string, edit ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: c.prefix + "-" + name}}
	p.Spec.Subnet, p.Spec.IPs = subnet, ips
	for _, e := range edit {
		e(p)
	}
	c.create(p)
	return p
}

func (c *cluster) edit(p *v2beta1.SpiderIPPool, edit func(*v2beta1.SpiderIPPool)) {
	c.t.Helper()
	before := p.DeepCopy()
	edit(p)
	if err := c.Patch(c.t.Context(), p, client.MergeFrom(before)); err != nil {
		c.t.Fatal(err)
	}
}

// pod makes a pod bound to a node, which asks for pools by annotation.
func (c *cluster) pod(n *node, name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	no := false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.prefix, Name: name, Annotations: map[string]string{}, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: n.name, AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}},
	}
	for _, e := range edit {
		e(p)
	}
	c.create(p)
	return p
}

// from annotates a pod with the pools it asks for, written as "v4a,v4b|v6a".
func (c *cluster) from(pools string) func(*corev1.Pod) {
	quoted := func(names string) string {
		var out []string
		for name := range strings.SplitSeq(names, ",") {
			if name != "" {
				out = append(out, fmt.Sprintf("%q", c.prefix+"-"+name))
			}
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	v4, v6, _ := strings.Cut(pools, "|")
	return func(p *corev1.Pod) {
		p.Annotations[v2beta1.AnnotationIPPool] = fmt.Sprintf(`{"ipv4":%s,"ipv6":%s}`, quoted(v4), quoted(v6))
	}
}

// held prints who holds what of the test's pools, a line each.
func (c *cluster) held() string {
	c.t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	lines := map[string]string{}
	for _, e := range list.Items {
		if strings.HasPrefix(e.Spec.Pool, c.prefix+"-") {
			lines[e.Name] = fmt.Sprintf("%s %s/%s %s %s", e.Spec.Address, e.Spec.Node, e.Spec.Pod.Name, e.Spec.Interface, e.Spec.ContainerID)
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		out = append(out, lines[name])
	}
	return strings.ReplaceAll(strings.Join(out, "\n"), c.prefix+"-", "")
}

// node is a simulated node: an agent with its socket, as in production but for
// the process around it.
type node struct {
	*cluster
	name      string
	socket    string
	former    []string // sockets
	durations timing.Durations
	fixed     fixed.Rules
	automatic bool
	// conflicts and gateways are what its agent probes, log, if set, is where it writes.
	conflicts, gateways bool
	log                 io.Writer
	// netns is where its runtime keeps the network namespaces of containers that live.
	netns string
	// transport, if set, stands between the agent and the network.
	transport func(http.RoundTripper) http.RoundTripper
	agent     *Agent
	// live is the agent's client without the faults: for what an agent sent before it was killed.
	live client.Client
	stop func()
}

// quick are the durations of tests that do not look at time. The second LIST comes
// at once, when there is nothing to see, and no audit follows: it would put right what others break.
func quick() timing.Durations {
	d := timing.Production()
	d.Wait, d.Release, d.Settle, d.Notes, d.Rescan = time.Second, 100*time.Millisecond, 2*time.Second, 500*time.Millisecond, 0
	d.Look, d.List, d.Stop, d.Announce = time.Hour, time.Hour, 0, 0
	return d
}

// node starts an agent. faults, if given, stand between it and the API server.
func (c *cluster) node(name string, faults ...interceptor.Funcs) *node {
	c.t.Helper()
	n := c.machine(name)
	n.start(faults...)
	return n
}

// machine is a node whose agent is not started yet.
func (c *cluster) machine(name string) *node {
	c.t.Helper()
	n := &node{cluster: c, name: c.prefix + "-" + name, durations: quick(), fixed: allFixed, automatic: true, netns: c.t.TempDir(), socket: filepath.Join(c.t.TempDir(), "s.sock"), stop: func() {}}
	c.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{"node": name}}})
	c.t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start(faults ...interceptor.Funcs) {
	n.t.Helper()
	n.launch(faults...)
	n.eventually("the agent is ready", n.agent.Ready)
	n.eventually("the agent has listed its node a second time", n.agent.settled.Load)
}

// launch starts the agent and does not wait until it serves.
func (n *node) launch(faults ...interceptor.Funcs) {
	n.t.Helper()
	watch := apiserver.AgentConfig(n.t, n.server, n.name)
	watch.Wrap(n.neverFenced)
	if n.transport != nil {
		watch.Wrap(n.transport)
	}
	clients, err := apiclient.New(watch)
	if err != nil {
		n.t.Fatal(err)
	}
	c := clients.Live
	n.live = c
	for _, f := range faults {
		c = interceptor.NewClient(c, f)
	}
	w, err := facts.New(clients.Watch, c, n.name)
	if err != nil {
		n.t.Fatal(err)
	}
	log := n.log
	if log == nil {
		log = io.Discard
	}
	n.agent = New(Options{Node: n.name, Socket: n.socket, FormerSockets: n.former, Families: pool.Families[:], Client: c, Facts: w, Events: record.NewFakeRecorder(1000),
		Fixed: n.fixed, AutomaticPools: n.automatic, DetectConflicts: n.conflicts, DetectGateways: n.gateways, Durations: n.durations, Log: slog.New(slog.NewTextHandler(log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.agent.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("agent of %s: %v", n.name, err)
		}
	})
}

// neverFenced fails the test if an admission policy refuses what the agent asks for.
func (n *node) neverFenced(next http.RoundTripper) http.RoundTripper {
	return tripper(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err != nil || answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusUnprocessableEntity {
			return answer, err
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		answer.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("ValidatingAdmissionPolicy")) {
			n.t.Errorf("%s %s of the agent of %s is refused: %s", r.Method, r.URL.Path, n.name, body)
		}
		return answer, err
	})
}

// restart is what a crash and a new process come to: nothing is handed over.
func (n *node) restart(faults ...interceptor.Funcs) {
	n.t.Helper()
	n.stop()
	n.start(faults...)
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(requestWait); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %s: %s", requestWait, what)
		}
	}
}

func (n *node) call(verb wire.Verb, p *corev1.Pod, containerID, ifname string, edit ...func(*wire.Request)) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestWait)
	defer cancel()
	if verb == wire.VerbAdd {
		n.makeNetns(containerID)
	}
	req := &wire.Request{Verb: verb, Network: "underlay", ContainerID: containerID, Interface: ifname, Netns: filepath.Join(n.netns, containerID),
		Pod: wire.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}}
	for _, e := range edit {
		e(req)
	}
	return wire.Call(ctx, n.socket, req)
}

// makeNetns gives a container a network namespace with interfaces, if it has none.
func (n *node) makeNetns(containerID string) {
	path := filepath.Join(n.netns, containerID)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return
	}
	_ = f.Close()
	if err := unix.Mount(sandboxNetns(n.t), path, "", unix.MS_BIND, ""); err != nil {
		n.t.Error(err)
	}
	n.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

// endNetns removes the network namespace of a container.
func (n *node) endNetns(containerID string) {
	path := filepath.Join(n.netns, containerID)
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

// sandbox is one network namespace with interfaces, which the containers of all tests have.
var sandbox struct {
	once sync.Once
	path string
}

func sandboxNetns(t *testing.T) string {
	sandbox.once.Do(func() { sandbox.path = newNetns(t, "eth0", "net1", "net2") })
	return sandbox.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if sandbox.path != "" {
		removeNetns(sandbox.path)
	}
	os.Exit(code)
}

// removeNetns removes what newNetns made.
func removeNetns(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.RemoveAll(filepath.Dir(path))
}

// newNetns makes a network namespace with interfaces, as a runtime does, and returns its path.
func newNetns(t *testing.T, ifnames ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "netns-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "cni-1")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ns, err := netns.New()
		if err == nil {
			defer ns.Close()
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		for i, name := range ifnames {
			if err == nil {
				err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprint("peer", i)})
			}
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return path
}

// add serves eth0 of a pod and returns the addresses with their prefixes.
func (n *node) add(p *corev1.Pod, containerID string, edit ...func(*wire.Request)) []string {
	n.t.Helper()
	reply, err := n.call(wire.VerbAdd, p, containerID, "eth0", edit...)
	if err != nil {
		n.t.Fatalf("ADD of %s: %v", p.Name, err)
	}
	return texts(reply)
}

// del serves the DEL of eth0 and waits until it is done.
func (n *node) del(p *corev1.Pod, containerID string) {
	n.t.Helper()
	if _, err := n.call(wire.VerbDel, p, containerID, "eth0"); err != nil {
		n.t.Fatalf("DEL of %s: %v", p.Name, err)
	}
	n.endNetns(containerID) // as main plugins and runtimes do after the DEL of IPAM
	n.done()
}

// done waits until every DEL that was answered is done.
func (n *node) done() {
	n.t.Helper()
	n.eventually("no note is left", func() bool {
		notes, err := wire.ReadNotes(wire.NotesDir(n.socket))
		return err == nil && len(notes) == 0
	})
}

func texts(r *wire.Reply) (out []string) {
	for _, ip := range r.IPs {
		out = append(out, ip.Address.String())
	}
	return out
}
