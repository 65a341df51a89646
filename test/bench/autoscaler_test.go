package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/process"
	"github.com/spidernet-io/spiderpool/test/segment"
)

var soak = flag.Bool("soak", false, "run TestAutoscaler with 2,000 nodes and 60,000 addresses")

// autoscaler is a cluster of objects, of which some nodes are deleted with their pods, in rounds. Each pod has an address, but
// those of as many nodes besides, which go in rounds between: by them it is seen what deletions cost by themselves.
type autoscaler struct {
	nodes, pods   int           // with addresses
	rounds        int           // one garbage collection more or less of the API server decides what ADDs of a single one feel
	gone, perGone int           // nodes that are deleted in a round, and pods of each of them
	within, span  time.Duration // the time of the deletions of a round, and of all of it: what is collected after them too
	adds          int           // of real agents in a round, evenly
	*product
	controller process.Process
	metrics    int                 // port of the controller
	podsOf     map[string][]string // names, by nodes that are deleted
	next       []sandbox           // those of ADDs to come, of one agent after the other
	connected  []sandbox           // those of the last ADDs
}

const (
	// controllerMiB is what the controller of a large cluster may have.
	controllerMiB = 300
	// settleTime is how long after the last deletion all should be free, beside the delay that is configured, which by default
	// is none; with settlePatience a test on a machine that has more to do fails only if it never comes.
	settleTime, settlePatience = 2 * time.Minute, 5*2*time.Minute + 10*time.Minute
	heldPerPool                = 5000
)

// TestAutoscaler: of nodes that are deleted with their pods all addresses are in quarantine, where others may have them that
// find them silent, by few reads and one write each, and the controller needs no more memory for it; with -soak also that all
// are free ten minutes later. How long it takes, and what pods that start meanwhile feel, is told.
func TestAutoscaler(t *testing.T) {
	s := &autoscaler{nodes: 40, pods: 200, rounds: 2, gone: 5, perGone: 10, within: time.Second, span: 4 * time.Second, adds: 40}
	if *soak {
		s = &autoscaler{nodes: 2000, pods: 60000, rounds: 2, gone: 250, perGone: 20, within: time.Minute, span: 140 * time.Second, adds: 2800}
	}
	nothingIsLeft(t)
	s.start(t)
	freed := s.rounds * s.gone * s.perGone

	before := s.requests(t)
	without := s.add(t)
	asked := s.requests(t).since(before)
	if n := writes(asked); n != 0 {
		t.Errorf("nothing is wrong, and %v addresses are written: %v", n, asked)
	}
	first, resident := s.memory(t, "VmHWM"), s.memory(t, "VmRSS")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.controller.PID), []byte("5"), 0); err != nil { // VmHWM begins anew, proc_pid_clear_refs(5)
		t.Fatal(err)
	}
	var bare, with []time.Duration
	var last time.Time
	asked = requests{}
	for i := range s.rounds {
		b := s.addDuring(t, i, bareNode, i*s.gone*s.perGone)
		w := s.addDuring(t, i, nodeName, (i+1)*s.gone*s.perGone)
		bare, with, last = append(bare, b.took...), append(with, w.took...), w.deleted
		asked.add(b.asked)
		asked.add(w.asked)
		t.Logf("%d addresses of %d nodes are in quarantine %s after the last deletion (should: %s); p99 of ADDs meanwhile %.1f ms, %.1f ms beside deletions alone",
			s.gone*s.perGone, s.gone, w.settled.Sub(last).Round(time.Millisecond), settleTime, ms(percentile(w.took, 99)), ms(percentile(b.took, 99)))
	}
	most := s.memory(t, "VmHWM")
	failed, err := s.counted(t.Context(), "spiderpool_ip_gc_failure_counts")
	if err != nil {
		t.Fatal(err)
	}

	t.Logf("of %d addresses of %d nodes %d were collected with %v reads and %v failures; %v", s.pods, s.nodes, freed, reads(asked), failed, asked)
	t.Logf("the controller had at most %d MiB at its start, %d MiB then, at most %d MiB meanwhile", first, resident, most)
	for _, p := range []int{50, 99} {
		a, b, c := ms(percentile(without, p)), ms(percentile(bare, p)), ms(percentile(with, p))
		t.Logf("p%d of %d ADDs: %.1f ms alone, %.1f ms beside the same deletions of pods without addresses, %.1f ms beside deletions and collection: %.2f and %.2f of it (should: p99 1.5)",
			p, len(with), a, b, c, c/b, c/a)
	}
	if n := asked["PATCH spiderips"]; n != float64(freed) || writes(asked) != n || failed != 0 {
		t.Errorf("%v addresses are put in quarantine, %v written and %v failed; want %d alone", n, writes(asked), failed, freed)
	}
	if n := reads(asked); n > float64(4*s.rounds*s.gone+freed/20) {
		t.Errorf("%v reads, want a few for each node", n)
	}
	if max(first, most) > controllerMiB || most > first+max(first/4, 16) {
		t.Errorf("the controller had %d MiB at its start and %d MiB later; want no more than %d and no growth", first, most, controllerMiB)
	}
	s.audit(t, s.pods, freed)
	if *soak {
		s.collected(t, 2*freed)
		t.Logf("they are free %s after the last deletion", time.Since(last).Round(time.Second))
		s.audit(t, s.pods-freed, 0)
	}
}

// collected waits until the controller has written so many addresses. It asks seldom, for the metrics count all addresses each
// time, which pods that start would feel more than what the controller does.
func (s *autoscaler) collected(t *testing.T, n int) {
	t.Helper()
	left, _, err := eventually(t.Context(), settlePatience, s.span/100, func() (int, error) {
		done, err := s.counted(t.Context(), "spiderpool_ip_gc_counts")
		return n - int(done), err
	})
	if left != 0 || err != nil {
		t.Errorf("%d of %d addresses are not collected: %v", left, n, err)
	}
}

// agents is how many nodes have one.
const agents = 4

// start makes the cluster, nodes with agents besides, and a controller that has seen all.
func (s *autoscaler) start(t *testing.T) {
	t.Helper()
	netns := segment.Namespace(t) // of every pod that is added, with an interface: an agent frees what has none for a while
	segment.New(t).Plug(netns, "eth0", nil)
	var e environment
	t.Cleanup(func() {
		if err := e.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	err := e.start(ctx, options{progress: io.Discard})
	s.product = &product{title: built, bin: built, cluster: e.cluster, dir: filepath.Join(e.dir, "0"), sockets: e.sockets,
		plugin: plugin{filepath.Join(built, "spiderpool"), netns}}
	if err == nil {
		err = s.fill(ctx)
	}
	if err == nil {
		e.later(s.stop)
		err = s.product.start(ctx, 0, []scenario{{name: storm, nodes: agents}})
	}
	if err == nil {
		err = s.prepare(ctx)
	}
	if err == nil {
		err = s.lead(ctx, filepath.Join(e.dir, "controller"))
	}
	if err != nil {
		t.Fatal(err)
	}
	e.later(func(ctx context.Context) error { return s.controller.Stop(ctx, stopGrace) })
	left, _, err := eventually(ctx, settlePatience, soon, func() (int, error) {
		if !s.controller.Alive() {
			return 0, fmt.Errorf("the controller ended: %s", s.controller.Tail(8))
		}
		var pools v2beta1.SpiderIPPoolList
		err := s.cluster.List(ctx, &pools)
		left := s.pods
		for _, p := range pools.Items {
			if n := p.Status.AllocatedIPCount; n != nil {
				left -= int(*n)
			}
		}
		return left, err
	})
	if left != 0 || err != nil {
		t.Fatalf("of %d addresses the controller has not counted %d: %v %s", s.pods, left, err, s.controller.Tail(8))
	}
}

// prepare makes the pods of all ADDs.
func (s *autoscaler) prepare(ctx context.Context) error {
	each := (1 + 2*s.rounds) * s.adds / agents
	nodes, err := s.sandboxes(ctx, scenario{name: storm, nodes: agents, pods: each})
	if err != nil {
		return err
	}
	for i := range each {
		for _, of := range nodes {
			s.next = append(s.next, of[i])
		}
	}
	return nil
}

// fill makes the objects. The pods of the nodes that go are spread over all pools.
func (s *autoscaler) fill(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(makers)
	for i := range s.nodes {
		group.Go(func() error { return s.node(ctx, nodeName(i)) })
	}
	for i := 0; i < s.pods; i += heldPerPool {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i/heldPerPool), 0, 0}), 16)
		if err := s.cluster.pool(ctx, poolName(i), subnet, heldPerPool); err != nil {
			return err
		}
	}
	s.podsOf = map[string][]string{}
	gone := s.rounds * s.gone
	for i := range gone {
		group.Go(func() error { return s.node(ctx, bareNode(i)) })
		for n := range s.perGone {
			name := fmt.Sprintf("bare-%d-%d", i, n)
			s.podsOf[bareNode(i)] = append(s.podsOf[bareNode(i)], name)
			group.Go(func() error { return s.cluster.Create(ctx, podOn(bareNode(i), namespace, name)) })
		}
	}
	every := s.pods / (gone * s.perGone)
	for i := range s.pods {
		node, name := nodeName(gone+i%(s.nodes-gone)), fmt.Sprintf("held-%d", i)
		if i%every == 0 && i/every < gone*s.perGone {
			node = nodeName(i / every % gone)
			s.podsOf[node] = append(s.podsOf[node], name)
		}
		group.Go(func() error { return s.hold(ctx, i, podOn(node, namespace, name)) })
	}
	return group.Wait()
}

// node makes a node that is ready.
func (s *autoscaler) node(ctx context.Context, name string) error {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := s.cluster.Create(ctx, n); err != nil {
		return err
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return s.cluster.Status().Update(ctx, n)
}

func nodeName(i int) string { return fmt.Sprintf("held-%d", i) }

// bareNode is one whose pods have no addresses.
func bareNode(i int) string { return fmt.Sprintf("bare-%d", i) }

// poolName is that of the pool of a pod.
func poolName(i int) string { return fmt.Sprintf("held-%d", i/heldPerPool) }

// hold makes a pod and its address.
func (s *autoscaler) hold(ctx context.Context, i int, p *corev1.Pod) error {
	if err := s.cluster.Create(ctx, p); err != nil {
		return err
	}
	n := i%heldPerPool + 2 // after the gateway
	address := netip.AddrFrom4([4]byte{10, byte(100 + i/heldPerPool), byte(n >> 8), byte(n)}).String()
	return s.cluster.Create(ctx, &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: address}, Spec: v2beta1.IPSpec{
		Address: address, Pool: poolName(i), Node: p.Spec.NodeName, Network: "bench", Interface: "eth0", Netns: "/run/netns/cni", ContainerID: containerID(),
		Pod: v2beta1.IPPod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)},
	}})
}

// lead starts a controller, set up as by the chart's default values.
func (s *autoscaler) lead(ctx context.Context, dir string) error {
	cfg, err := s.cluster.server.ServiceAccountConfig(ctx, system, "spiderpool-controller", nil)
	if err != nil {
		return err
	}
	args, err := daemon(dir, cfg, s.cluster.conf)
	if err != nil {
		return err
	}
	ports, err := freePorts()
	if err != nil {
		return err
	}
	s.metrics = ports[1]
	s.controller, err = process.Start(process.Options{
		Args: append([]string{filepath.Join(s.bin, "spiderpool-controller")}, args...),
		Env: []string{"SPIDERPOOL_POD_NAMESPACE=" + system, "SPIDERPOOL_HEALTH_PORT=" + strconv.Itoa(ports[0]), "SPIDERPOOL_ENABLED_METRIC=true",
			"SPIDERPOOL_METRIC_HTTP_PORT=" + strconv.Itoa(ports[1]), "SPIDERPOOL_WEBHOOK_PORT=" + strconv.Itoa(ports[2]), "SPIDERPOOL_GOPS_LISTEN_PORT=0"},
		Log: filepath.Join(dir, "controller.log"),
	})
	return err
}

// add connects new pods, evenly in the time of a round, and returns how long their ADDs took.
func (s *autoscaler) add(t *testing.T) []time.Duration {
	t.Helper()
	s.connected, s.next = s.next[:s.adds], s.next[s.adds:]
	return s.evenly(t, "ADD", s.connected, s.span)
}

// disconnect ends what was added, all of which has its addresses until then, and waits until they are free. It is slow enough not to leave the API server garbage to collect
// in the next round, and quick enough for all rounds to end before the quarantine of the first.
func (s *autoscaler) disconnect(t *testing.T) {
	t.Helper()
	held := func() (int, error) { return s.cluster.held(t.Context(), s.pools[storm]) }
	if n, err := held(); n != len(s.connected) || err != nil {
		t.Errorf("%d addresses are held by pods that were added, want %d: %v", n, len(s.connected), err)
	}
	s.evenly(t, "DEL", s.connected, s.span/3)
	left, _, err := eventually(t.Context(), settlePatience, time.Second, held)
	if left != 0 || err != nil {
		t.Errorf("%d addresses are not free after the last DEL: %v", left, err)
	}
}

// evenly makes one call for each sandbox in so much time, and returns how long they took.
func (s *autoscaler) evenly(t *testing.T, verb string, sandboxes []sandbox, span time.Duration) (took []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	tick := time.NewTicker(span / time.Duration(len(sandboxes)))
	defer tick.Stop()
	for _, sandbox := range sandboxes {
		<-tick.C
		all.Go(func() {
			o := s.call(t.Context(), verb, sandbox)
			if o.err != nil {
				t.Error(o.err)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, o.took)
		})
	}
	all.Wait()
	return took
}

// round is what happened while nodes were deleted.
type round struct {
	took             []time.Duration // by the ADDs
	asked            requests
	deleted, settled time.Time // the last node, and the last address in quarantine
}

// addDuring adds while some nodes are deleted and until so many addresses are collected in all, when what was added before is
// disconnected: so agents have as many pods in each round.
func (s *autoscaler) addDuring(t *testing.T, n int, node func(int) string, collected int) (r round) {
	t.Helper()
	s.disconnect(t)
	before := s.requests(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.deleted = s.scaleDown(t, n, node)
		s.collected(t, collected)
		r.settled = time.Now()
	}()
	r.took = s.add(t)
	<-done
	r.asked = s.requests(t).since(before)
	return r
}

// scaleDown deletes the nodes of a round, and their pods as the garbage collector of pods does, and returns when it was done.
func (s *autoscaler) scaleDown(t *testing.T, round int, node func(int) string) time.Time {
	tick := time.NewTicker(s.within / time.Duration(s.gone))
	defer tick.Stop()
	group, ctx := errgroup.WithContext(t.Context())
	for i := range s.gone {
		<-tick.C
		node := node(round*s.gone + i)
		group.Go(func() error {
			if err := s.cluster.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}); err != nil {
				return err
			}
			for _, name := range s.podsOf[node] {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
				if err := s.cluster.Delete(ctx, p, client.GracePeriodSeconds(0)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return time.Now()
}

// audit compares the ledger with how many addresses should be held in the pools of the cluster's pods, and how many of them by
// no pod. Those that were added last are held beside them.
func (s *autoscaler) audit(t *testing.T, held, quarantined int) {
	t.Helper()
	var list v2beta1.SpiderIPList
	if err := s.cluster.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	got, gone, added := 0, 0, 0
	for _, ip := range list.Items {
		if !strings.HasPrefix(ip.Spec.Pool, "held-") {
			added++
			continue
		}
		got++
		if _, is := s.podsOf[ip.Spec.Node]; is || ip.Spec.Use != v2beta1.IPUsePod {
			gone++
		}
	}
	if got != held || gone != quarantined || added != len(s.connected) {
		t.Errorf("%d addresses are held, %d of them of nodes that are gone or of no pod, and %d of pods that were added; want %d, %d and %d",
			got, gone, added, held, quarantined, len(s.connected))
	}
}

func (s *autoscaler) requests(t *testing.T) requests {
	t.Helper()
	r, err := readRequests(t.Context(), s.cluster.raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// memory is a figure of the controller in MiB.
func (s *autoscaler) memory(t *testing.T, figure string) int {
	t.Helper()
	kib, err := memory(s.controller, figure)
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// counted is a counter of the controller.
func (s *autoscaler) counted(ctx context.Context, name string) (float64, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metrics), nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(q)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("the controller counts no %s: it does not lead", name)
}

// add counts what was answered besides.
func (r requests) add(besides requests) {
	for key, n := range besides {
		r[key] += n
	}
}

// writes are those of addresses that exist.
func writes(r requests) float64 {
	return r["PUT spiderips"] + r["PATCH spiderips"] + r["DELETE spiderips"]
}

// reads are those of what the collection looks at, whoever asked.
func reads(r requests) (n float64) {
	for _, what := range []string{"pods", "nodes", "spiderips"} {
		n += r["GET "+what] + r["LIST "+what] + r["GET "+what+" 404"]
	}
	return n
}
