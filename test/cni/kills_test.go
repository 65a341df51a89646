package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

var (
	killsFor  = flag.Duration("kills", 15*time.Second, "how long TestRandomKills does harm")
	killsSeed = flag.Uint64("seed", 0, "what TestRandomKills does; 0: something new")
)

// silence is how long nothing may be held after the last container is gone.
// The audit of an agent comes every minute.
const silence = 75 * time.Second

// TestRandomKills starts and ends pods on three hosts, the clock of one of them
// ten minutes ahead, while agents and the API server are killed, sockets removed
// and pools edited. A witness looks at the interfaces, and at the ledger, all the
// time.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	seed := *killsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("what is done depends on -seed=%d", seed)
	k := newKills(t, seed)
	watched, stopWatching := context.WithCancel(t.Context())
	var witnesses, group sync.WaitGroup
	witnesses.Go(func() { repeat(watched, 100*time.Millisecond, k.duplicates) })
	witnesses.Go(func() { repeat(watched, time.Second, func() { k.held(watched) }) })
	witnesses.Go(func() { k.follow(watched, k.watching) })
	defer witnesses.Wait()
	defer stopWatching()

	ctx, cancel := context.WithTimeout(t.Context(), *killsFor)
	defer cancel()
	for i, h := range k.hosts {
		for j := range 3 {
			u := &user{kills: k, host: h, Rand: rand.New(rand.NewPCG(seed, uint64(10*i+j))), pods: map[*corev1.Pod]*life{}}
			k.users = append(k.users, u)
			group.Go(func() { u.work(ctx) })
		}
	}
	group.Go(func() { k.harm(ctx, rand.New(rand.NewPCG(seed, 1000))) })
	group.Wait()
	k.settle(t)
	k.floor(t)
}

// kills is three hosts of one segment on a cluster of their own.
type kills struct {
	*witness
	hosts    []*host
	users    []*user
	watching client.WithWatch
	// served are the ADDs by their code; 0: served. harmed counts what was done.
	counts sync.Mutex
	served map[uint]int
	harmed map[string]int
}

// universe are the pools at their largest. The first two overlap.
var universe = map[string][2]string{
	"a": {"10.90.0.16", "10.90.0.27"},
	"b": {"10.90.0.24", "10.90.0.39"},
	"c": {"fd00:90::10", "fd00:90::2f"},
}

// ahead is how far the clock of the first host is ahead of the others'.
const ahead = 10 * time.Minute

// clockAhead builds an agent for a host whose clock is ahead, and returns its directory: no namespace of the kernel has a clock
// of its own that tells the time of day, so the agent is built with a standard library that adds to it. Durations, which
// processes measure by the monotonic clock, are as ever.
func clockAhead(t *testing.T) string {
	t.Helper()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), reads) != 1 {
		t.Fatalf("%s does not read the clock as this test knows it", original)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "time.go")
	later := strings.Replace(string(text), reads, reads+fmt.Sprintf("\tsec += %d\n", int(ahead.Seconds())), 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{changed: []byte(later), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir+"/", "./cmd/spiderpool-agent")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building an agent whose clock is ahead: %v\n%s", err, out)
	}
	return dir
}

// clockOf is what the agent of a host took for the time when it started, by the first line of its log.
func clockOf(t *testing.T, h *host) time.Time {
	t.Helper()
	log, err := os.ReadFile(h.agent.Log)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := bytes.Cut(log, []byte("\n"))
	var line struct{ Time time.Time }
	if err := json.Unmarshal(first, &line); err != nil {
		t.Fatalf("the first line of the log: %v: %s", err, first)
	}
	return line.Time
}

// wire is a network, by its main plugin, with its pools in order.
type wire struct {
	main  string
	pools []string
}

var wires = []wire{{"macvlan", []string{"a", "b"}}, {"ptp", []string{"b"}}, {"macvlan", []string{"a", "c"}}}

func newKills(t *testing.T, seed uint64) *kills {
	t.Helper()
	server, err := apiserver.Start(t.Context(), apiserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	c, err := install(server)
	if err != nil {
		t.Fatal(err)
	}
	k := &kills{served: map[uint]int{}, harmed: map[string]int{},
		witness: &witness{t: t, cluster: c, living: map[*box]bool{}, pools: map[string][]version{}, accused: map[string]bool{}}}
	if k.watching, err = client.NewWithWatch(server.Config(), client.Options{Scheme: c.Scheme()}); err != nil {
		t.Fatal(err)
	}
	for name := range universe {
		k.edit(t.Context(), name, whole(name))
	}
	underlay := newSegment(t)
	for i := range 3 {
		dir := programs.ours
		if i == 0 {
			dir = clockAhead(t)
		}
		h := underlay.hostOf(t, c, dir)
		if err := os.Mkdir(filepath.Join(h.dir, "netns"), 0o700); err != nil {
			t.Fatal(err)
		}
		k.hosts = append(k.hosts, h)
	}
	if by := time.Until(clockOf(t, k.hosts[0])); by < ahead-time.Minute {
		t.Fatalf("the clock of the first host is ahead by %s", by)
	}
	t.Cleanup(func() {
		for _, b := range k.boxes() {
			b.vanish()
		}
	})
	return k
}

func (k *kills) count(what string) {
	k.counts.Lock()
	defer k.counts.Unlock()
	k.harmed[what]++
}

// box is a sandbox that may end in many ways.
type box struct {
	*sandbox
	witness *witness
	wire    wire // all sandboxes of a pod are on one
	byHand  bool // the plugin alone was called: no interface bears the address

	mu        sync.Mutex
	answered  []netip.Addr
	delBegan  bool
	delEnded  bool
	vanishing bool
	gone      bool
}

func (b *box) String() string { return fmt.Sprintf("%.8s of %s", b.conf.ContainerID, b.pod.Name) }

// answers are the addresses that the sandbox was told, until its end begins.
func (b *box) answers() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.delBegan || b.vanishing {
		return nil
	}
	return b.answered
}

// leaving reports whether a DEL is under way: the main plugin may be slow to
// remove an interface after its address was released.
func (b *box) leaving() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.delBegan && !b.delEnded
}

func (b *box) set(what *bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*what = true
}

// vanish removes the namespace, as a runtime does that forgot or never called
// DEL.
func (b *box) vanish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return
	}
	b.vanishing = true
	if !b.byHand {
		b.remove()
	}
	b.gone = true
	b.witness.saw(netip.Addr{}, b, "its namespace is removed")
	b.witness.mu.Lock()
	defer b.witness.mu.Unlock()
	delete(b.witness.living, b)
}

// user starts and ends pods on a host, one call after the other.
type user struct {
	*kills
	*rand.Rand
	host  *host
	boxes []*box
	pods  map[*corev1.Pod]*life
	made  int
}

// life is what a pod went through. One that was told an address, or may have
// been told one in an ADD that failed, may keep it when its pool serves no more.
type life struct {
	told   []netip.Addr
	failed bool
	over   bool // its object is deleted
}

const most = 4 // sandboxes of a user

func (u *user) work(ctx context.Context) {
	for ctx.Err() == nil {
		switch p := u.IntN(100); {
		case len(u.boxes) == 0, p < 30 && len(u.boxes) < most:
			if pod := u.pod(ctx); pod != nil {
				u.add(ctx, pod, wires[u.IntN(len(wires))], u.namespace(), false)
			}
		case p < 42 && len(u.boxes) < most:
			u.count("another sandbox of a pod")
			b := u.any()
			u.add(ctx, b.pod, b.wire, u.namespace(), false)
		case p < 48 && len(u.boxes) < most:
			if b := u.any(); len(b.answers()) > 0 && !b.byHand {
				u.count("another container in a namespace")
				u.add(ctx, b.pod, b.wire, b.namespace, true)
			}
		case p < 70:
			b := u.any()
			u.end(ctx, b, b.byHand || u.IntN(4) > 0) // the namespace of one made by hand is another's
		case p < 80:
			u.forget(ctx, u.any().pod)
		default:
			_ = sleep(ctx, time.Duration(u.IntN(300))*time.Millisecond)
		}
	}
}

func (u *user) any() *box { return u.boxes[u.IntN(len(u.boxes))] }

func (u *user) namespace() *namespace {
	u.made++
	n, err := makeNamespace(filepath.Join(u.host.dir, "netns", fmt.Sprintf("cni-%p-%d", u, u.made)))
	if err != nil {
		u.t.Errorf("making a network namespace: %v", err)
		return nil
	}
	return n
}

// pod makes a pod; nil when ctx ended.
func (u *user) pod(ctx context.Context) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("p%d", u.Uint32())},
		Spec: corev1.PodSpec{NodeName: u.host.node, Containers: []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}}}
	err := persist(ctx, func(ctx context.Context) error {
		err := u.cluster.Create(ctx, p)
		if apierrors.IsAlreadyExists(err) { // by an earlier try
			err = u.cluster.Get(ctx, client.ObjectKeyFromObject(p), p)
		}
		return err
	})
	if err != nil {
		return nil
	}
	u.pods[p] = &life{}
	return p
}

// forget deletes a pod's object by force, whatever runs of it.
func (u *user) forget(ctx context.Context, p *corev1.Pod) {
	err := persist(ctx, func(ctx context.Context) error {
		return client.IgnoreNotFound(u.cluster.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID}))
	})
	if b := u.boxOf(p); err == nil && b != nil && !u.pods[p].over {
		u.saw(netip.Addr{}, b, "its pod is deleted by force")
		u.pods[p].over = true
	}
}

func (u *user) boxOf(p *corev1.Pod) *box {
	if i := slices.IndexFunc(u.boxes, func(b *box) bool { return b.pod == p }); i >= 0 {
		return u.boxes[i]
	}
	return nil
}

// add is the ADD of a new sandbox. Some runtimes give up soon.
func (u *user) add(ctx context.Context, pod *corev1.Pod, on wire, n *namespace, byHand bool) {
	if n == nil {
		return
	}
	main := on.main
	if byHand {
		main = "spiderpool"
	}
	list, err := libcni.NetworkConfFromBytes(u.host.network(u.t, "1.0.0", main, poolsOf(on.pools)...))
	if err != nil {
		u.t.Error(err)
		return
	}
	b := &box{sandbox: u.host.sandboxIn(n, pod, list), witness: u.witness, wire: on, byHand: byHand}
	u.boxes = append(u.boxes, b)
	u.mu.Lock()
	u.living[b] = true
	u.mu.Unlock()
	patience := time.Hour
	if u.IntN(8) == 0 {
		patience = time.Duration(u.IntN(1500)) * time.Millisecond
	}
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	u.saw(netip.Addr{}, b, "ADD on %s of %s, pools %v, by hand %v", u.host.node, main, on.pools, byHand)
	_, err = b.tryAdd(call)
	u.counts.Lock()
	u.served[code(err)]++
	u.counts.Unlock()
	of := u.pods[pod]
	if err != nil {
		of.failed = true
		u.saw(netip.Addr{}, b, "ADD failed: %v", err)
		if u.IntN(5) > 0 {
			u.end(ctx, b, true)
		}
		return
	}
	b.mu.Lock()
	b.answered = b.addresses
	b.mu.Unlock()
	for _, a := range b.addresses {
		u.saw(a, b, "ADD was answered %s", a)
		if !u.had(a, on.pools, began, of.failed || slices.Contains(of.told, a)) {
			u.accuse(a, []*box{b}, "%s was told to %s, outside of %v as they were since %s", a, b, on.pools, began.Format(clock))
		}
	}
	of.told = append(of.told, b.addresses...)
}

// end is the end of a sandbox, with a DEL or without.
func (u *user) end(ctx context.Context, b *box, told bool) {
	if !b.byHand {
		u.endGuests(ctx, b)
	}
	if told {
		b.set(&b.delBegan)
		u.saw(netip.Addr{}, b, "DEL")
		// A runtime does not give up a DEL because a test ends.
		if err := u.host.runtime.DelNetworkList(context.WithoutCancel(ctx), b.list, &b.conf); err != nil {
			u.accuse(netip.Addr{}, []*box{b}, "DEL of %s: %v", b, err)
		}
		b.set(&b.delEnded)
		u.saw(netip.Addr{}, b, "DEL was answered")
	}
	b.vanish()
	u.boxes = slices.DeleteFunc(u.boxes, func(other *box) bool { return other == b })
	if u.boxOf(b.pod) == nil {
		u.forget(ctx, b.pod)
	}
}

// endGuests ends what was plugged by hand into the namespace of a sandbox. Half
// of them get no DEL: the namespace goes.
func (u *user) endGuests(ctx context.Context, host *box) {
	for _, b := range slices.Clone(u.boxes) {
		if b == host || b.namespace != host.namespace {
			continue
		}
		u.end(ctx, b, u.IntN(2) == 0)
	}
}

func poolsOf(names []string) (out []*v2beta1.SpiderIPPool) {
	for _, name := range names {
		out = append(out, poolObject(name, whole(name)))
	}
	return out
}

func whole(name string) version {
	return version{first: netip.MustParseAddr(universe[name][0]), last: netip.MustParseAddr(universe[name][1]), serves: true}
}

func poolObject(name string, v version) *v2beta1.SpiderIPPool {
	bits := 24
	if whole(name).first.Is6() {
		bits = 64
	}
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	subnet := netip.PrefixFrom(whole(name).first, bits).Masked()
	p.Spec.Subnet, p.Spec.IPs, p.Spec.Gateway = subnet.String(), []string{v.first.String() + "-" + v.last.String()}, new(subnet.Addr().Next().String())
	p.Spec.Disable = new(!v.serves)
	return p
}

// edit makes a pool what it shall be; without addresses it is deleted.
func (k *kills) edit(ctx context.Context, name string, v version) {
	answered := k.edited(name, v)
	err := persist(ctx, func(ctx context.Context) error {
		if !v.first.IsValid() {
			return client.IgnoreNotFound(k.cluster.Delete(ctx, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}))
		}
		p := poolObject(name, v)
		err := k.cluster.Create(ctx, p.DeepCopy())
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		var now v2beta1.SpiderIPPool
		if err := k.cluster.Get(ctx, client.ObjectKeyFromObject(p), &now); err != nil {
			return err
		}
		now.Spec = p.Spec
		return k.cluster.Update(ctx, &now)
	})
	if err == nil {
		answered()
	}
}

// harm breaks one thing after the other.
func (k *kills) harm(ctx context.Context, r *rand.Rand) {
	names := slices.Sorted(maps.Keys(universe))
	for sleep(ctx, time.Duration(200+r.IntN(1500))*time.Millisecond) == nil {
		h, name := k.hosts[r.IntN(len(k.hosts))], names[r.IntN(len(names))]
		away := time.Duration(r.IntN(2000)) * time.Millisecond
		switch r.IntN(8) {
		case 0, 1:
			k.killAgent(ctx, h, away)
		case 2:
			k.killAPI(ctx, func() { _ = sleep(ctx, away) })
		case 3:
			k.count("agent started while the API server is away")
			k.killAPI(ctx, func() { k.killAgent(ctx, h, 0); _ = sleep(ctx, away) })
		case 4:
			k.removeSocket(h, r.IntN(2) == 0)
		default:
			k.count("pool edited")
			k.edit(ctx, name, k.another(name, r))
		}
	}
}

// another is what a pool may become: a part of itself, disabled, deleted.
func (k *kills) another(name string, r *rand.Rand) version {
	v := whole(name)
	switch r.IntN(6) {
	case 0:
		return version{}
	case 1:
		v.serves = false
	case 2, 3:
		for range r.IntN(6) {
			v.first = v.first.Next()
		}
		for range r.IntN(6) {
			v.last = v.last.Prev()
		}
	}
	return v
}

// killAgent kills an agent, which comes back after a while.
func (k *kills) killAgent(ctx context.Context, h *host, away time.Duration) {
	if !h.agent.Alive() {
		k.t.Errorf("%s the agent of %s ended by itself: %s", time.Now().Format(clock), h.node, h.agent.Tail(8))
	}
	k.count("agent killed")
	if err := h.agent.Stop(context.WithoutCancel(ctx), 0); err != nil {
		k.t.Error(err)
	}
	k.saw(netip.Addr{}, nil, "the agent of %s was killed", h.node)
	_ = sleep(ctx, away)
	if err := h.launchAgent(); err != nil {
		k.t.Error(err)
	}
	k.saw(netip.Addr{}, nil, "the agent of %s is started", h.node)
}

// killAPI kills the API server, and starts it again after meanwhile returned.
func (k *kills) killAPI(ctx context.Context, meanwhile func()) {
	ctx = context.WithoutCancel(ctx)
	k.count("API server killed")
	if err := k.cluster.server.KillAPI(ctx); err != nil {
		k.t.Error(err)
	}
	k.saw(netip.Addr{}, nil, "the API server was killed")
	meanwhile()
	if err := k.cluster.server.StartAPI(ctx); err != nil {
		k.t.Error(err)
	}
	k.saw(netip.Addr{}, nil, "the API server is ready")
}

// removeSocket removes the socket of an agent, or all files beside it: what is
// noted of DELs is lost then.
func (k *kills) removeSocket(h *host, all bool) {
	k.count("socket removed")
	k.saw(netip.Addr{}, nil, "the socket of %s is removed, and notes: %v", h.node, all)
	files := []string{h.socket}
	if all {
		files, _ = filepath.Glob(h.socket + "*")
	}
	for _, f := range files {
		if err := os.RemoveAll(f); err != nil {
			k.t.Error(err)
		}
	}
}

// settle ends everything: then nothing is held. One agent was started while
// the API server was away.
func (k *kills) settle(t *testing.T) {
	ctx := t.Context()
	k.killAPI(ctx, func() { k.killAgent(ctx, k.hosts[0], 0); _ = sleep(ctx, time.Second) })
	for name := range universe {
		k.edit(ctx, name, whole(name))
	}
	for _, h := range k.hosts {
		h.awaitAgent(t)
	}
	k.held(ctx)
	var ends sync.WaitGroup
	for _, u := range k.users {
		ends.Go(func() {
			for len(u.boxes) > 0 {
				b := u.boxes[0]
				u.end(ctx, b, b.byHand || u.IntN(2) == 0)
			}
		})
	}
	ends.Wait()
	began := time.Now()
	if *killsFor < time.Minute { // do not wait for the audit of every minute, but for that of a start
		for _, h := range k.hosts {
			k.killAgent(ctx, h, 0)
		}
	}
	left, err := k.left(ctx)
	for ; (err != nil || len(left) > 0) && time.Since(began) < silence; left, err = k.left(ctx) {
		_ = sleep(ctx, 100*time.Millisecond)
	}
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d addresses are held %s after the end of the last container", len(left), time.Since(began).Round(100*time.Millisecond))
	for _, e := range left {
		k.accuse(netip.MustParseAddr(e.Address), nil, "%s is held for container %.8s of %s on %s %s after the end of the last container",
			e.Address, e.ContainerID, e.Pod.Name, e.Node, silence)
	}
}

// floor fails the test if too little was tried.
func (k *kills) floor(t *testing.T) {
	t.Logf("ADDs by code: %v; harm: %v", k.served, k.harmed)
	if k.served[0] < 10 || k.harmed["agent killed"] == 0 || k.harmed["API server killed"] == 0 {
		t.Error("too little was tried")
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// persist tries until it succeeds or ctx ends: the API server comes and goes.
func persist(ctx context.Context, try func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := try(once)
		cancel()
		if err == nil || sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}
