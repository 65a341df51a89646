package agent

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	modelSeed  = flag.Uint64("seed", 0, "seed of TestModel; 0 takes a new one")
	modelSteps = flag.Int("steps", 600, "number of steps of TestModel")
)

const (
	// quietEvery is how many steps lie between two quiet points.
	quietEvery = 200
	// inFlight is how many steps may be under way at once.
	inFlight = 24
	// commitTime bounds how late a write commits after it was sent; Settle and Rescan are longer.
	commitTime = 1400 * time.Millisecond
	// addPatience is how long an ADD looks for an agent, as the plugin does.
	addPatience = time.Second
	// quietWait bounds how long it takes until all is settled.
	quietWait = 20 * time.Second
)

// hasty are the durations of the model test.
func hasty() timing.Durations {
	d := timing.Production()
	d.Wait, d.Release, d.Settle, d.Rescan = 700*time.Millisecond, releaseTime, 2*time.Second, 2*time.Second
	d.Notes, d.Look, d.List, d.EditArrival, d.Stop, d.Announce = 300*time.Millisecond, 300*time.Millisecond, time.Second, 200*time.Millisecond, 0, 0
	return d
}

// releaseTime is how long after its DEL the address of a container that stays is exclusive.
const releaseTime = 50 * time.Millisecond

// TestModel lets agents of several nodes serve what container runtimes do, and
// what they do when calls time out, while pools are edited, requests to the API
// server fail, hang, or are carried out late and without an answer, and agents
// crash. Every answer is compared with a model of what was told to whom.
//
// The steps follow from the seed; how calls interleave does not.
func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	m := newModel(t, seed)
	for i := range *modelSteps {
		m.step(rand.New(rand.NewPCG(seed, uint64(i))))
		if i%5 == 0 {
			m.audit()
		}
		if i%quietEvery == quietEvery-1 || i == *modelSteps-1 {
			m.quiet(rand.New(rand.NewPCG(seed, uint64(i)+1<<32)))
		}
		m.steps.Add(1)
		if m.failed() {
			break
		}
	}
	m.idle()
	if n := int64(*modelSteps) / 20; m.answered.Load() < n || m.refused.Load() < n/4 || m.dels.Load() < n || m.faults.Load() < n || m.crashes.Load() < n/10 {
		t.Error("the run covers too little")
	}
	t.Logf("seed %d: %d steps, %d ADDs answered, %d of them with a fixed address again, %d refused, %d DELs, %d crashes, %d faults injected",
		seed, m.steps.Load(), m.answered.Load(), m.fixed.again, m.refused.Load(), m.dels.Load(), m.crashes.Load(), m.faults.Load())
}

// model is what the test knows of the cluster: what each container was told
// and when it gave it back, as its runtime saw it, and what each pool was.
type model struct {
	*cluster
	seed  uint64
	began time.Time
	sites []*site
	gone  string         // the directory of network namespaces
	tasks sync.WaitGroup // steps under way
	room  chan struct{}  // one token for each

	steps, answered, refused, dels, crashes, faults atomic.Int64
	containers, writing                             atomic.Int64

	mu     sync.Mutex
	basins map[string]*basin
	leases map[netip.Addr]*promise // the last of each address
	wrote  map[netip.Addr]writing
	seats  map[string]*seat // by pod UID and interface
	fixed  fixedNames
	broken bool

	history struct {
		sync.Mutex
		events []event
	}
}

// event is something that happened to an address or an attachment.
type event struct {
	at   time.Duration
	keys []string
	text string
}

// writing is when a seat was last written into the entry of an address: the
// agent cannot have known it before.
type writing struct {
	seat *seat
	at   time.Time
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{cluster: newCluster(t), seed: seed, began: time.Now(), gone: t.TempDir(), room: make(chan struct{}, inFlight),
		basins: map[string]*basin{}, leases: map[netip.Addr]*promise{}, wrote: map[netip.Addr]writing{}, seats: map[string]*seat{}}
	m.ownPods()
	m.basin("a", pool.IPv4, "10.1.0.0/24", "10.1.0.1", 6)
	m.basin("b", pool.IPv4, "10.1.0.0/24", "10.1.0.4", 8)
	m.basin("c", pool.IPv6, "fd01::/64", "fd01::1", 8)
	for i := range 3 {
		m.sites = append(m.sites, m.site(i))
	}
	return m
}

func (m *model) log(keys []string, format string, args ...any) {
	e := event{time.Since(m.began), keys, fmt.Sprintf(format, args...)}
	m.history.Lock()
	defer m.history.Unlock()
	m.history.events = append(m.history.events, e)
}

// violated ends the test, with the history of what is concerned.
func (m *model) violated(keys []string, format string, args ...any) {
	m.log(keys, "VIOLATED: "+format, args...)
	if m.broken {
		return
	}
	m.broken = true
	m.history.Lock()
	defer m.history.Unlock()
	var out strings.Builder
	for _, e := range m.history.events {
		if len(e.keys) == 0 || slices.ContainsFunc(e.keys, func(k string) bool { return slices.Contains(keys, k) }) {
			fmt.Fprintf(&out, "%11.6f %s\n", e.at.Seconds(), e.text)
		}
	}
	m.t.Errorf("-seed %d, step %d: "+format+"\nhistory of %s:\n%s", slices.Concat([]any{m.seed, m.steps.Load()}, args, []any{strings.Join(keys, ", "), out.String()})...)
}

func (m *model) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken || m.t.Failed()
}

// idle waits for what is under way.
func (m *model) idle() {
	m.tasks.Wait()
	m.eventually("no write is under way", func() bool { return m.writing.Load() == 0 })
}

// basin is a pool and what it was over time.
type basin struct {
	*model
	name   string // without the test's prefix
	family pool.Family
	subnet string
	all    []netip.Addr

	editing  sync.Mutex
	object   *v2beta1.SpiderIPPool // nil while it is deleted
	versions []version             // guarded by model.mu
}

// version is what a pool was, at some time between from and until.
type version struct {
	from, until time.Time // until is zero for the last
	addresses   []netip.Addr
	keeps       []netip.Addr // reserved: who has one keeps it
	serves      bool
}

func (m *model) basin(name string, f pool.Family, subnet, first string, size int) {
	b := &basin{model: m, name: name, family: f, subnet: subnet}
	a := netip.MustParseAddr(first)
	for range size {
		b.all, a = append(b.all, a), a.Next()
	}
	m.basins[m.prefix+"-"+name] = b
	b.become(version{addresses: b.all, serves: true}, 0)
}

// edit turns a pool into something else, at random; lost is the address that
// it shall lose, if valid.
func (b *basin) edit(r *rand.Rand, lost netip.Addr) {
	b.editing.Lock()
	defer b.editing.Unlock()
	keep := []float64{1, 1, 0.8, 0.5}[r.IntN(4)]
	if lost.IsValid() {
		keep = 0.9
	}
	v := version{serves: lost.IsValid() || r.IntN(6) > 0}
	for _, a := range b.all {
		if a != lost && r.Float64() < keep {
			v.addresses = append(v.addresses, a)
		}
	}
	if !lost.IsValid() && r.IntN(12) == 0 {
		v = version{}
	}
	b.become(v, r.IntN(3))
}

// become writes a version: the addresses that are not in it are left out of
// ips, or excluded, or reserved. A version without addresses that does not
// serve is a pool that is gone.
func (b *basin) become(v version, how int) {
	if v.from = time.Now(); how == 2 {
		v.keeps = b.without(v)
	}
	b.mu.Lock()
	b.versions = append(b.versions, v)
	b.mu.Unlock()
	keys := []string{"pool " + b.name}
	for _, a := range b.all {
		keys = append(keys, a.String())
	}
	b.log(keys, "        edit of %s: %v, serves %t", b.name, v.addresses, v.serves)
	if err := b.store(v, how); err != nil {
		b.t.Errorf("edit of pool %s: %v", b.name, err)
	}
	b.mu.Lock()
	if n := len(b.versions); n > 1 {
		b.versions[n-2].until = time.Now()
	}
	b.mu.Unlock()
	b.log(keys, "        edit of %s is done", b.name)
}

// without are the addresses that a version does not give.
func (b *basin) without(v version) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(b.all), func(a netip.Addr) bool { return slices.Contains(v.addresses, a) })
}

func (b *basin) store(v version, how int) error {
	ctx := context.Background()
	if !v.serves && v.addresses == nil {
		if b.object == nil {
			return nil
		}
		err := b.Delete(ctx, b.object)
		b.object = nil
		return err
	}
	before := b.object
	if b.object = before.DeepCopy(); before == nil {
		b.object = &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: b.prefix + "-" + b.name}}
	}
	out := texted(b.without(v))
	b.object.Annotations = nil
	b.object.Spec = v2beta1.IPPoolSpec{Subnet: b.subnet, IPs: texted(b.all), Disable: ptr(!v.serves)}
	switch {
	case how == 0:
		b.object.Spec.IPs = texted(v.addresses)
	case how == 1:
		b.object.Spec.ExcludeIPs = out
	case len(out) > 0:
		b.object.Annotations = map[string]string{v2beta1.AnnotationReserved: strings.Join(out, ",")}
	}
	if before == nil {
		return b.Create(ctx, b.object)
	}
	b.object.Spec.Default = before.Spec.Default
	return b.Patch(ctx, b.object, client.MergeFrom(before))
}

func texted(addresses []netip.Addr) (out []string) {
	for _, a := range addresses {
		out = append(out, a.String())
	}
	return out
}

// during returns what the pool may have been between two moments.
func (b *basin) during(from, to time.Time) []version {
	return slices.DeleteFunc(slices.Clone(b.versions), func(v version) bool {
		return v.from.After(to) || !v.until.IsZero() && v.until.Before(from)
	})
}

// had reports whether at some moment the pool had an address for one that is
// new, or for any.
func (b *basin) had(a netip.Addr, from, to time.Time, isNew bool) bool {
	return slices.ContainsFunc(b.during(from, to), func(v version) bool {
		return slices.Contains(v.addresses, a) && (v.serves || !isNew) || !isNew && slices.Contains(v.keeps, a)
	})
}

// now is what the pool is, at a quiet point.
func (b *basin) now() version { return b.versions[len(b.versions)-1] }

// site is a node, whose agent may be away.
type site struct {
	*model
	node      *node
	power     sync.RWMutex // held for writing while the agent is started or stopped
	up        bool
	process   atomic.Int64 // counts agents
	faultGate *faultGate
	weather   atomic.Int64 // how many of a hundred requests meet a fault
	slots     []*slot
}

func (m *model) site(i int) *site {
	name := fmt.Sprintf("n%d", i)
	n := &node{cluster: m.cluster, name: m.prefix + "-" + name, durations: hasty(), fixed: allFixed, netns: m.gone, socket: filepath.Join(m.t.TempDir(), "s.sock")}
	m.create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}})
	s := &site{node: n, model: m}
	s.weather.Store(10)
	s.boot()
	m.t.Cleanup(func() { s.halt(false) })
	r := rand.New(rand.NewPCG(m.seed, uint64(i)))
	for j := range 4 {
		slot := &slot{site: s, name: fmt.Sprintf("p%d%d", i, j), replacing: &sync.Mutex{}}
		if j == 3 {
			m.makeFixed(slot, i)
		}
		slot.replace(r)
		for _, ifname := range []string{"eth0", "net1"}[:1+j/2] {
			slot.ports = append(slot.ports, newPort(slot, ifname))
		}
		s.slots = append(s.slots, slot)
	}
	return s
}

// boot starts the agent; halt stops it, or crashes it: then nothing that it
// tries from now on reaches the API server, but what it has sent does.
func (s *site) boot() {
	s.power.Lock()
	defer s.power.Unlock()
	if s.up {
		return
	}
	number := s.process.Add(1)
	s.faultGate = &faultGate{site: s, number: number, closed: make(chan struct{}),
		random: rand.New(rand.NewPCG(s.seed, uint64(number)<<32+uint64(s.node.name[len(s.node.name)-1])))}
	s.node.start(s.faultGate.funcs())
	s.up = true
	s.log(nil, "%s#%d is up", s.short(), number)
}

func (s *site) halt(crash bool) {
	s.power.Lock()
	defer s.power.Unlock()
	if !s.up {
		return
	}
	s.log(nil, "%s#%d goes down, crash: %t", s.short(), s.process.Load(), crash)
	s.process.Add(1)
	if crash {
		close(s.faultGate.closed)
		s.crashes.Add(1)
	}
	s.node.stop()
	s.up = false
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seat := range s.seats {
		for _, b := range seat.boxes {
			if seat.site == s && b.dirty {
				b.unknown = true // what its ADD has sent may come when nobody knows of it any more
			}
		}
	}
}

func (s *site) short() string { return strings.TrimPrefix(s.node.name, s.prefix+"-") }

// faultGate stands between one agent and the API server.
type faultGate struct {
	*site
	number int64
	closed chan struct{} // when the agent has crashed
	mu     sync.Mutex
	random *rand.Rand
}

// fault is what becomes of a request.
type fault int

const (
	none     fault = iota
	refused        // by the API server, which is busy
	unsent         // no connection
	vanished       // no answer, and nothing was done
	lost           // it was done, and the answer lost
	late           // it is done later than the agent waits
	slow           // it arrives late
	stalled        // its answer reaches the agent late, whether or not it is waiting still
	ambushed       // after a claim the pool loses the address before the agent hears of its claim
)

func (f fault) String() string {
	return [...]string{"", "refused", "unsent", "vanished", "lost", "late", "slow", "stalled", "ambushed"}[f]
}

// draw says what becomes of the next request.
func (g *faultGate) draw(of ...fault) (fault, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	weather := g.weather.Load()
	if g.random.Int64N(100) >= weather {
		return none, 0
	}
	g.faults.Add(1)
	pause := time.Duration(g.random.Int64N(int64(100 * time.Millisecond)))
	if weather == 100 {
		return unsent, pause
	}
	f := of[g.random.IntN(len(of))]
	if f == late {
		pause *= 8
	}
	return f, pause
}

// failure is the error of a request that failed before anything was done.
func (f fault) failure() error {
	switch f {
	case refused:
		return apierrors.NewTooManyRequests("busy", 1)
	case unsent:
		return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	case vanished:
		return apierrors.NewTimeoutError("no time", 1)
	}
	return nil
}

// over is why the agent does not hear of a request any more.
func (g *faultGate) over(ctx context.Context) error {
	select {
	case <-g.closed:
		return io.ErrUnexpectedEOF
	default:
		return ctx.Err()
	}
}

// pause waits unless the agent stops waiting.
func (g *faultGate) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-g.closed:
		return io.ErrUnexpectedEOF
	}
}

// read carries out a request that changes nothing.
func (g *faultGate) read(ctx context.Context, do func() error) error {
	f, d := g.draw(refused, unsent, vanished, slow, slow, stalled, stalled)
	if err := cmp.Or(g.over(ctx), f.failure()); err != nil {
		return err
	}
	if f == slow {
		if err := g.pause(ctx, d); err != nil {
			return err
		}
	}
	err := do()
	if f == stalled {
		time.Sleep(d)
	}
	if g.over(context.Background()) != nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// change carries out a write of an entry as the API server does: once it is
// sent, it happens whatever becomes of the agent.
func (g *faultGate) change(ctx context.Context, verb string, e *v2beta1.SpiderIP, do func(context.Context) error) error {
	of := []fault{refused, unsent, vanished, lost, lost, late, late, slow, stalled}
	if verb == "create" {
		of = append(of, ambushed, ambushed)
	}
	f, d := g.draw(of...)
	if err := g.over(ctx); err != nil {
		return err
	}
	address, pool, holder := lease.AddressOf(e), e.Spec.Pool, g.seatOf(e)
	keys := []string{e.Spec.Address, holder.String()}
	what := fmt.Sprintf("%s#%d %s %s for %s of %s", g.short(), g.number, verb, e.Spec.Address, e.Spec.ContainerID, holder)
	g.log(keys, "    %s: sent, rv %s %s %s", what, e.ResourceVersion, f, d)
	if err := f.failure(); err != nil {
		return err
	}
	done := make(chan error, 1)
	g.writing.Add(1)
	go func() {
		defer g.writing.Add(-1)
		sent, cancel := context.WithTimeout(context.Background(), commitTime)
		defer cancel()
		if f == late || f == slow {
			time.Sleep(d)
		}
		began := time.Now()
		err := do(sent)
		g.log(keys, "    %s: done: %v", what, err)
		if err == nil && verb != "delete" {
			g.written(address, holder, began)
		}
		done <- err
	}()
	if f == late {
		return cmp.Or(g.pause(ctx, d/8), error(apierrors.NewTimeoutError("no answer", 1)))
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-g.closed:
		return io.ErrUnexpectedEOF
	}
	switch {
	case f == lost:
		return apierrors.NewTimeoutError("the answer was lost", 1)
	case f == ambushed && err == nil:
		g.ambush(pool, address)
	case f == stalled:
		time.Sleep(d)
	}
	if err == nil && verb != "delete" {
		g.written(address, holder, time.Now())
	}
	return err
}

// ambush takes an address out of its pool.
func (g *faultGate) ambush(pool string, a netip.Addr) {
	g.writing.Add(1)
	defer g.writing.Add(-1)
	g.mu.Lock()
	r := rand.New(rand.NewPCG(g.random.Uint64(), 0))
	g.mu.Unlock()
	g.basins[pool].edit(r, a)
}

// written notes that an entry was written in the name of a seat.
func (m *model) written(a netip.Addr, s *seat, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.wrote[a]; w.at.Before(at) {
		m.wrote[a] = writing{s, at}
	}
}

func (g *faultGate) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return g.read(ctx, func() error { return w.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, w client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
			return g.read(ctx, func() error { return w.List(ctx, o, opts...) })
		},
		Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			e, ok := o.(*v2beta1.SpiderIP)
			if !ok {
				return g.read(ctx, func() error { return w.Create(ctx, o, opts...) })
			}
			sent := e.DeepCopy()
			err := g.change(ctx, "create", e, func(ctx context.Context) error { return w.Create(ctx, sent, opts...) })
			if err == nil {
				*e = *sent
			}
			return err
		},
		Update: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			e, ok := o.(*v2beta1.SpiderIP)
			if !ok {
				return g.read(ctx, func() error { return w.Update(ctx, o, opts...) })
			}
			sent := e.DeepCopy()
			err := g.change(ctx, "update", e, func(ctx context.Context) error { return w.Update(ctx, sent, opts...) })
			if err == nil {
				*e = *sent
			}
			return err
		},
		Delete: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if _, ok := o.(*v2beta1.SpiderIP); !ok {
				return g.read(ctx, func() error { return w.Delete(ctx, o, opts...) })
			}
			sent := o.DeepCopyObject().(client.Object)
			with := (&client.DeleteOptions{}).ApplyOptions(opts)
			if with.Preconditions != nil {
				with.Preconditions = with.Preconditions.DeepCopy()
			}
			return g.change(ctx, "delete", o.(*v2beta1.SpiderIP), func(ctx context.Context) error { return w.Delete(ctx, sent, with) })
		},
	}
}

// slot is a place for a pod, which has the same name whichever pod it is.
type slot struct {
	*site
	name  string
	ports []*port

	// owner makes pods of the name at one of the slots that are twins, and their addresses are fixed; nil otherwise.
	owner *appsv1.StatefulSet
	twin  *slot

	replacing *sync.Mutex // the twins share it
	pod       *corev1.Pod // guarded by model.mu
	going     bool        // it is being deleted, or was and its twin has the pod
	selection string
}

var wishes = []string{"a|", "b|", "a,b|", "b|c", "a,b|c", "|c"}

// replace removes the pod of the slot and makes another of the same name. What
// containers of the old one hold they keep until their DEL.
func (s *slot) replace(r *rand.Rand) {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	ctx := context.Background()
	s.mu.Lock()
	old := s.pod
	if s.going && old != nil { // the twin has the pod of the name
		old = s.twin.pod
		s.twin.going = true
	}
	s.going = s.pod != nil
	s.mu.Unlock()
	if old != nil {
		if err := s.Delete(ctx, old, client.GracePeriodSeconds(0)); err != nil {
			s.t.Errorf("delete pod %s: %v", s.name, err)
		}
	}
	selection := wishes[r.IntN(len(wishes))]
	if s.owner != nil && r.IntN(4) > 0 {
		selection = "a,b|c" // other pools are another address
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.prefix, Name: s.name, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: s.node.name, AutomountServiceAccountToken: ptr(false), Containers: []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}},
	}
	s.from(selection)(p)
	if s.owner != nil {
		of(s.owner)(p)
	}
	if err := s.Create(ctx, p); err != nil {
		s.t.Errorf("create pod %s: %v", s.name, err)
	}
	s.log(nil, "        pod %s is now %s, wants %s", s.name, p.UID[:4], selection)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pod, s.selection, s.going = p, selection, false
}

// seat is an attachment: one interface of one pod.
type seat struct {
	*slot
	pod    *corev1.Pod
	ifname string
	pools  map[pool.Family][]string

	boxes []*box // in the order in which they were made
}

func (s *seat) String() string {
	if s == nil {
		return "nobody"
	}
	return fmt.Sprintf("%s.%s/%s", s.slot.name, s.pod.UID[:4], s.ifname)
}

func (s *seat) newest() *box {
	if len(s.boxes) == 0 {
		return nil
	}
	return s.boxes[len(s.boxes)-1]
}

// box is a sandbox of a seat.
type box struct {
	*seat
	index  int
	id     string
	netns  string
	stays  bool // its namespace is there until long after its DEL
	reborn bool // another box has its ID

	asked    int           // ADDs
	told     []netip.Addr  // by the last ADD, if it was answered
	process  int64         // of the agent that told it
	dirty    bool          // the last ADD was not answered
	deleted  time.Time     // when DEL was sent, or zero
	vanished time.Time     // when its namespace was removed, or zero
	after    time.Duration // since began, when DEL was answered
	unknown  bool          // nobody waited for the answer of an ADD
	ending   int           // DELs in progress
}

// promise is an address that a container was told.
type promise struct {
	*box
	address netip.Addr
	pool    string
	until   time.Time // until then it must be nobody else's; zero: no end in sight
}

func (l *promise) open(at time.Time) bool { return l.until.IsZero() || at.Before(l.until) }

// seat returns the present attachment of an interface of the slot.
func (s *slot) seat(ifname string) *seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := string(s.pod.UID) + "/" + ifname
	if _, ok := s.seats[key]; !ok {
		v4, v6, _ := strings.Cut(s.selection, "|")
		s.seats[key] = &seat{slot: s, pod: s.pod, ifname: ifname, pools: map[pool.Family][]string{
			pool.IPv4: strings.FieldsFunc(v4, func(r rune) bool { return r == ',' }),
			pool.IPv6: strings.FieldsFunc(v6, func(r rune) bool { return r == ',' })}}
	}
	return s.seats[key]
}

// seatOf returns the attachment in whose name an entry is.
func (m *model) seatOf(e *v2beta1.SpiderIP) *seat {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seats[e.Spec.Pod.UID+"/"+e.Spec.Interface]
}

// box makes a sandbox, at times with the container ID of one that was deleted.
func (s *seat) box(r *rand.Rand, of *box) *box {
	b := &box{seat: s, id: fmt.Sprintf("c%d", s.containers.Add(1)), stays: r.IntN(2) == 0}
	s.mu.Lock()
	defer s.mu.Unlock()
	if of != nil && of.ending == 0 {
		b.id, of.reborn = of.id, true
	}
	name := fmt.Sprintf("%s-%d", b.id, s.containers.Add(1))
	b.netns = filepath.Join(s.gone, name)
	s.node.makeNetns(name)
	b.index = len(s.boxes)
	s.boxes = append(s.boxes, b)
	return b
}

func (b *box) request(verb wire.Verb) *wire.Request {
	return &wire.Request{Verb: verb, Network: "underlay", ContainerID: b.id, Interface: b.ifname, Netns: b.netns,
		Pod: wire.Pod{Namespace: b.prefix, Name: b.slot.name, UID: string(b.seat.pod.UID)}}
}

// modelAsking is an ADD that was sent.
type modelAsking struct {
	sent    time.Time
	process int64
	first   bool // nothing was asked for this seat before
}

// add sends ADD and compares the answer with the model.
func (b *box) add(patience time.Duration) { b.send(b.asks(), 0, patience) }

// send sends an ADD, again if no agent takes it; its plugin was started so much
// before it was asked for.
func (b *box) send(ask modelAsking, before, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := b.request(wire.VerbAdd)
	req.Age = before
	reply, err := wire.Call(ctx, b.node.socket, req)
	for errors.Is(err, wire.ErrNoAgent) && ctx.Err() == nil && time.Since(ask.sent) < addPatience {
		time.Sleep(50 * time.Millisecond)
		req.Age = before + time.Since(ask.sent)
		reply, err = wire.Call(ctx, b.node.socket, req)
	}
	b.hears(ask, reply, err, patience == requestWait)
}

func (b *box) asks() modelAsking {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	ask := modelAsking{sent: now, process: b.site.process.Load(), first: b.index == 0 && b.asked == 0}
	b.asked++
	b.asksFixed()
	b.log([]string{b.seat.String()}, "%s ADD %s of %s", b.short(), b.id, b.seat)
	return ask
}

// hears checks what an ADD was answered.
func (b *box) hears(ask modelAsking, reply *wire.Reply, err error, waited bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if err != nil {
		b.refused.Add(1)
		b.log([]string{b.seat.String()}, "%s ADD %s of %s: %v", b.short(), b.id, b.seat, err)
		b.dirty = true
		var refused *wire.Error
		switch {
		case errors.As(err, &refused):
			if b.site.process.Load() != ask.process {
				b.unknown = true // its agent was killed, and answers no more in truth
			}
			if !b.mayRefuse(refused.Code, ask, now) {
				b.violated([]string{b.seat.String(), "pool a", "pool b", "pool c"}, "ADD %s of %s is refused with code %d: %v", b.id, b.seat, refused.Code, err)
			}
		case errors.Is(err, wire.ErrUnknownOutcome):
			b.unknown = true
			if errors.Is(err, context.DeadlineExceeded) && waited {
				b.violated([]string{b.seat.String()}, "ADD %s of %s was not answered in %s", b.id, b.seat, requestWait)
			}
		}
		return
	}
	b.answered.Add(1)
	b.log(append(texts(reply), b.seat.String()), "%s ADD %s of %s: told %v", b.short(), b.id, b.seat, texts(reply))
	if !b.deleted.IsZero() {
		b.dirty = true // the answer came too late for anybody to use it
		return
	}
	b.judge(ask, reply, now)
}

// mayRefuse reports whether an ADD may be refused with a code.
func (b *box) mayRefuse(code uint, ask modelAsking, now time.Time) bool {
	switch code {
	case wire.CodeTryAgain:
		return true
	case wire.CodeHeldElsewhere:
		return b.owner != nil
	case wire.CodeEnvironment:
		return b.seat.pod != b.slot.pod || b.slot.going
	case wire.CodeNoPool:
		from := ask.sent.Add(-watchLag)
		for _, names := range b.pools {
			all := len(names) > 0
			for _, name := range names {
				all = all && slices.ContainsFunc(b.basins[b.prefix+"-"+name].during(from, now), func(v version) bool { return !v.serves })
			}
			if all {
				return true
			}
		}
	}
	return false
}

// watchLag is how late an agent may hear of an edit.
const watchLag = 5 * time.Second

// judge checks an answer that counts, and makes leases of it.
func (b *box) judge(ask modelAsking, reply *wire.Reply, now time.Time) {
	me := b.seat.String()
	var told []netip.Addr
	fresh := map[netip.Addr]*promise{}
	for _, f := range pool.Families {
		of := slices.DeleteFunc(slices.Clone(reply.IPs), func(ip wire.IP) bool { return pool.FamilyOf(ip.Address.Addr()) != f })
		if want := min(1, len(b.pools[f])); len(of) != want {
			b.violated([]string{me}, "%s was told %d %s addresses, not %d", b.seat, len(of), f, want)
			return
		}
		for _, ip := range of {
			if !slices.Contains(b.pools[f], strings.TrimPrefix(ip.Pool, b.prefix+"-")) {
				b.violated([]string{me}, "%s was told an address of pool %s, and wants %v", b.seat, ip.Pool, b.pools[f])
			}
			a := ip.Address.Addr()
			told = append(told, a)
			fresh[a] = &promise{box: b, address: a, pool: ip.Pool}
		}
	}
	same := b.process == ask.process && b.site.process.Load() == ask.process
	if b.told != nil && same && !slices.Equal(b.told, told) {
		b.violated([]string{me}, "container %s of %s was told %v and then %v", b.id, b.seat, b.told, told)
	}
	for _, l := range fresh {
		b.checkAlone(l, now)
		b.checkInside(l, ask, now, same)
	}
	b.checkFixed(fresh, now)
	for a, l := range fresh {
		if !b.vanished.IsZero() {
			l.until = b.vanished
		}
		b.leases[a] = l
	}
	b.told, b.dirty, b.unknown = told, false, false
	if b.process = ask.process; b.site.process.Load() != ask.process {
		b.process = -1 // either of two
	}
}

// checkAlone checks that no other container has the address.
func (b *box) checkAlone(l *promise, now time.Time) {
	other := b.leases[l.address]
	if other == nil || other.box == b || !other.open(now) {
		return
	}
	b.violated([]string{b.seat.String(), other.seat.String(), l.address.String()}, "%s is told to %s (container %s), and %s (container %s) has it",
		l.address, b.seat, b.id, other.seat, other.id)
}

// checkInside checks that the pool had the address at a moment after it was
// written in the attachment's name, and served anybody if the attachment is new.
func (b *box) checkInside(l *promise, ask modelAsking, now time.Time, same bool) {
	w := b.wrote[l.address]
	if same && slices.Contains(b.told, l.address) || w.seat != b.seat {
		return
	}
	from := w.at
	if from.Before(ask.sent) {
		from = ask.sent
	}
	if !b.basins[l.pool].had(l.address, from, now, ask.first) {
		b.violated([]string{b.seat.String(), l.address.String()}, "%s is told to %s, and pool %s did not have it after it was claimed", l.address, b.seat, l.pool)
	}
}

// del sends DEL, or leaves a note if no agent takes it, as the plugin does.
func (b *box) del() {
	key := []string{b.seat.String()}
	b.mu.Lock()
	if b.reborn {
		b.mu.Unlock()
		return
	}
	b.ending++
	now := time.Now()
	if b.deleted.IsZero() {
		b.deleted = now
	}
	b.ends(now.Add(releaseTime))
	b.log(key, "%s DEL %s of %s", b.short(), b.id, b.seat)
	b.mu.Unlock()
	b.dels.Add(1)
	if before := len(b.id)%2 == 0; !b.stays && before {
		b.vanish()
	} else if !b.stays {
		defer b.vanish()
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestWait)
	defer cancel()
	req := b.request(wire.VerbDel)
	_, err := wire.Call(ctx, b.node.socket, req)
	if err != nil {
		note := wire.Note{Network: req.Network, ContainerID: req.ContainerID, Interface: req.Interface, Netns: req.Netns, Pod: req.Pod}
		if err := wire.WriteNote(wire.NotesDir(b.node.socket), note); err != nil {
			b.t.Error(err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ending--
	b.after = time.Since(b.began)
	b.log(key, "%s DEL %s of %s: %v", b.short(), b.id, b.seat, err)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Code != wire.CodeTryAgain {
		b.violated(key, "DEL %s of %s is refused: %v", b.id, b.seat, err)
	}
}

// ends says until when at the latest the addresses of a container are its own. The caller has the lock.
func (b *box) ends(at time.Time) {
	for _, l := range b.leases {
		if l.box == b && (l.until.IsZero() || l.until.After(at)) {
			l.until = at
		}
	}
}

// vanish removes the network namespace of a container. From now on nothing bears its addresses.
func (b *box) vanish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.vanished.IsZero() {
		return
	}
	b.vanished = time.Now()
	b.ends(b.vanished)
	b.log([]string{b.seat.String()}, "%s namespace of %s of %s is gone", b.short(), b.id, b.seat)
	b.node.endNetns(filepath.Base(b.netns))
}

// port is an interface of a slot. Its tasks are done one after the other.
type port struct {
	*slot
	ifname string
	tasks  chan func()
}

func newPort(s *slot, ifname string) *port {
	p := &port{slot: s, ifname: ifname, tasks: make(chan func(), inFlight)}
	go func() {
		for do := range p.tasks {
			do()
		}
	}()
	s.t.Cleanup(func() { close(p.tasks) })
	return p
}

func (p *port) now() (*seat, *box) {
	s := p.seat(p.ifname)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.newest()
}

// alive reports whether the runtime may call ADD of a box.
func (b *box) alive() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deleted.IsZero() && b.vanished.IsZero() && !b.unknown
}

// settled deletes a box whose last ADD nobody waited for: runtimes do that
// before they make another.
func (b *box) settled() {
	if b == nil {
		return
	}
	b.mu.Lock()
	unknown := b.unknown && b.deleted.IsZero()
	b.mu.Unlock()
	if unknown {
		b.del()
	}
}

// sandbox makes a new sandbox. The DEL of the one before comes before it,
// after it, meanwhile, or later.
func (p *port) sandbox(r *rand.Rand) {
	s, old := p.now()
	old.settled()
	b := s.box(r, nil)
	switch mode := r.IntN(5); {
	case old == nil || mode == 0:
		b.add(requestWait)
	case mode == 1:
		b.add(requestWait)
		old.del()
	case mode == 2:
		var group sync.WaitGroup
		group.Go(old.del)
		b.add(requestWait)
		group.Wait()
	default:
		old.del()
		b.add(requestWait)
	}
}

// repeat calls ADD once more, at times twice at once.
func (p *port) repeat(r *rand.Rand) {
	_, b := p.now()
	if !b.alive() {
		p.sandbox(r)
		return
	}
	b.add(requestWait)
}

// vanishes removes the namespace of a container of which no DEL will come.
func (p *port) vanishes(*rand.Rand) {
	if _, b := p.now(); b.alive() {
		b.vanish()
	}
}

// drop deletes the sandbox.
func (p *port) drop(r *rand.Rand) {
	if _, b := p.now(); b.alive() {
		b.del()
		return
	}
	p.late(r)
}

// late deletes any sandbox of the node but a newest one of a living pod: one
// that was replaced, or whose pod was, or that was deleted before.
func (p *port) late(r *rand.Rand) {
	var old []*box
	p.mu.Lock()
	for _, s := range p.seats {
		if s.site != p.site {
			continue
		}
		for _, b := range s.boxes {
			if b != s.newest() || s.pod != s.slot.pod || s.slot.going || !b.deleted.IsZero() {
				old = append(old, b)
			}
		}
	}
	slices.SortFunc(old, func(a, b *box) int {
		return cmp.Or(cmp.Compare(a.after, b.after), cmp.Compare(a.id, b.id))
	})
	p.mu.Unlock()
	if len(old) > 0 {
		old[r.IntN(min(len(old), 10))].del()
	}
}

// giveUp calls ADD and does not wait for the answer. Then the runtime deletes
// the sandbox, asks again, or does nothing yet.
func (p *port) giveUp(r *rand.Rand) {
	s, b := p.now()
	if !b.alive() || r.IntN(2) == 0 {
		b.settled()
		b = s.box(r, nil)
	}
	b.add(time.Duration(1+r.Int64N(1+r.Int64N(200))) * time.Millisecond)
	switch r.IntN(3) {
	case 0:
		b.del()
	case 1:
		b.add(requestWait)
	}
}

// race deletes a sandbox while its ADD is in progress, and makes the next one
// while it may still be.
func (p *port) race(r *rand.Rand) {
	s, old := p.now()
	old.settled()
	b := s.box(r, nil)
	ask := b.asks()
	var group sync.WaitGroup
	group.Go(func() { b.send(ask, time.Second, requestWait) }) // it may arrive after the DEL, but began before it
	time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond / time.Duration(1+r.IntN(10)))
	b.del()
	if r.IntN(3) > 0 {
		s.box(r, nil).add(requestWait)
	}
	group.Wait()
}

// again makes a sandbox under the ID of one that was deleted.
func (p *port) again(r *rand.Rand) {
	s, b := p.now()
	if b == nil || b.alive() {
		p.drop(r)
		return
	}
	b.del()
	s.box(r, b).add(requestWait)
}

// straggle sends an ADD that began before the DEL of its container. An agent
// that has seen the DEL refuses it.
func (p *port) straggle(_ *rand.Rand) {
	_, b := p.now()
	if b == nil {
		return
	}
	p.power.RLock()
	defer p.power.RUnlock()
	if !p.up {
		return
	}
	b.settled()
	b.del()
	ctx, cancel := context.WithTimeout(context.Background(), requestWait)
	defer cancel()
	req := b.request(wire.VerbAdd)
	req.Age = time.Minute
	if _, err := wire.Call(ctx, p.node.socket, req); err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.violated([]string{b.seat.String()}, "ADD %s of %s, which began before its DEL, was served after it", b.id, b.seat)
	}
}

// step begins the next step.
func (m *model) step(r *rand.Rand) {
	s := m.sites[r.IntN(len(m.sites))]
	sl := s.slots[r.IntN(len(s.slots))]
	p := sl.ports[r.IntN(len(sl.ports))]
	at := r.IntN(100)
	for _, kind := range []struct {
		weight int
		do     func(*rand.Rand)
	}{
		{20, p.sandbox}, {2, p.vanishes}, {12, p.repeat}, {16, p.drop}, {9, p.late}, {9, p.giveUp}, {8, p.race}, {4, p.again}, {3, p.straggle},
		{4, sl.replace},
	} {
		if at -= kind.weight; at < 0 {
			m.task(func(run func()) { p.tasks <- run }, func() { kind.do(r) })
			return
		}
	}
	detached := func(run func()) { go run() }
	switch {
	case at < 5:
		name := []string{"a", "b", "c"}[r.IntN(3)]
		m.task(detached, func() { m.basins[m.prefix+"-"+name].edit(r, netip.Addr{}) })
	case at < 8:
		s.weather.Store([]int64{0, 10, 20, 40}[r.IntN(4)])
	case at < 9:
		m.task(detached, func() { s.blackout(r) })
	case at < 10 && r.IntN(3) > 0:
		m.task(detached, func() { s.away(r) })
	case at < 11 && r.IntN(2) > 0:
		m.task(detached, func() { m.rescale(r) })
	default:
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
	}
}

// away stops the agent, and starts it again; at times it does not live long.
func (s *site) away(r *rand.Rand) {
	for range 1 + r.IntN(2) {
		s.halt(r.IntN(4) > 0)
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		s.boot()
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
	}
}

// blackout cuts the agent off from the API server for a while.
func (s *site) blackout(r *rand.Rand) {
	before := s.weather.Swap(100)
	time.Sleep(time.Duration(r.IntN(800)) * time.Millisecond)
	s.weather.CompareAndSwap(100, before)
}

// task does something beside the steps that follow.
func (m *model) task(on func(func()), do func()) {
	m.room <- struct{}{}
	m.tasks.Add(1)
	on(func() {
		defer func() { <-m.room }()
		defer m.tasks.Done()
		if !m.failed() {
			do()
		}
	})
}

// audit checks in the ledger that what is told and not given back stands in
// the name of its container.
func (m *model) audit() {
	m.mu.Lock()
	before := map[netip.Addr]*promise{}
	for a, l := range m.leases {
		if l.until.IsZero() {
			before[a] = l
		}
	}
	m.mu.Unlock()
	entries := m.entries()
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, l := range before {
		if m.leases[a] == l && l.until.IsZero() && entries[a] != l.line() {
			m.violated([]string{l.seat.String(), a.String()}, "%s is told to container %s of %s, and the ledger has %q", a, l.id, l.seat, entries[a])
		}
	}
}

// line is the entry of a promise, in words.
func (l *promise) line() string {
	return fmt.Sprintf("%s %s %s %s %s %s", l.address, l.pool, l.node.name, l.seat, l.id, l.netns)
}

// entries reads the ledger: a line for each address of the test's pools.
func (m *model) entries() map[netip.Addr]string {
	var list v2beta1.SpiderIPList
	if err := m.List(context.Background(), &list); err != nil {
		m.t.Fatal(err)
	}
	out := map[netip.Addr]string{}
	for i := range list.Items {
		e := &list.Items[i]
		line := fmt.Sprintf("%s %s %s %s %s %s", e.Spec.Address, e.Spec.Pool, e.Spec.Node, m.seatOf(e), e.Spec.ContainerID, e.Spec.Netns)
		if e.Spec.Use == v2beta1.IPUseKept {
			line += keptMark
		}
		out[lease.AddressOf(e)] = line
	}
	return out
}

// quiet lets all calls end and all faults pass. Then the ledger holds what the
// model holds, no DEL is left to be done, and an ADD is served if and only if
// the model says that an address is free.
func (m *model) quiet(r *rand.Rand) {
	m.tasks.Wait()
	m.sites[r.IntN(len(m.sites))].halt(true) // that chance has crashed enough of them is not left to chance
	weather := map[*site]int64{}
	for _, s := range m.sites {
		weather[s] = s.weather.Swap(0)
		s.boot()
	}
	m.idle()
	if m.failed() {
		return
	}
	m.clean()
	m.same("when all is quiet")
	m.mu.Lock()
	m.forgetVersions(time.Now())
	m.mu.Unlock()
	for range 3 {
		m.probe(r)
	}
	if m.failed() {
		return
	}
	m.history.Lock()
	m.history.events = nil
	m.history.Unlock()
	m.mu.Lock()
	for key, s := range m.seats {
		if s.pod != s.slot.pod || s.slot.going {
			delete(m.seats, key)
		}
	}
	m.mu.Unlock()
	for s, w := range weather {
		s.weather.Store(w)
	}
}

// clean deletes what runtimes delete: sandboxes of pods that are gone, such as were replaced, and such of whose ADD nobody
// knows how it ended. One whose ADD was refused had nothing to be deleted for.
func (m *model) clean() {
	var old []*box
	m.mu.Lock()
	for _, s := range m.seats {
		for _, b := range s.boxes {
			if b.deleted.IsZero() && (s.pod != s.slot.pod || s.slot.going || b != s.newest() || b.unknown) {
				old = append(old, b)
			}
		}
	}
	m.mu.Unlock()
	var group sync.WaitGroup
	for _, b := range old {
		group.Go(b.del)
	}
	group.Wait()
}

// same waits until the ledger is what the model says and no note is left.
func (m *model) same(when string) {
	var notes []wire.Note
	var got, want []string
	for deadline := time.Now().Add(quietWait); time.Now().Before(deadline) && !m.failed(); time.Sleep(20 * time.Millisecond) {
		notes = nil
		for _, s := range m.sites {
			left, err := wire.ReadNotes(wire.NotesDir(s.node.socket))
			if err != nil {
				m.t.Error(err)
			}
			notes = append(notes, left...)
		}
		got, want = nil, nil
		m.collect()
		for _, line := range m.entries() {
			if !strings.HasSuffix(line, keptMark) {
				got = append(got, line)
			}
		}
		m.mu.Lock()
		for _, l := range m.leases {
			if l.until.IsZero() {
				want = append(want, l.line())
			}
		}
		m.mu.Unlock()
		slices.Sort(got)
		slices.Sort(want)
		if len(notes) == 0 && slices.Equal(got, want) && m.oneEach() {
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for _, line := range slices.Concat(got, want) {
		if !slices.Contains(got, line) || !slices.Contains(want, line) {
			fields := strings.Fields(line)
			keys = append(keys, fields[0], fields[3])
		}
	}
	for _, n := range notes {
		if s := m.seats[n.Pod.UID+"/"+n.Interface]; s != nil {
			keys = append(keys, s.String())
		}
	}
	m.violated(keys, "%s, %s after the last call: notes left: %v; ledger (-want +got):\n%s", when, quietWait, notes, gocmp.Diff(want, got))
}

// probe calls ADD of a new pod and DEL, at a quiet point.
func (m *model) probe(r *rand.Rand) {
	if m.failed() {
		return
	}
	s := m.sites[r.IntN(len(m.sites))]
	m.eventually("the agent has heard of the last edits", func() bool { return m.current(s) })
	sl := s.slots[r.IntN(len(s.slots))]
	probe := &slot{site: s, name: fmt.Sprintf("%s-%d-%d", sl.name, m.steps.Load(), r.IntN(1e6)), replacing: &sync.Mutex{}}
	probe.replace(r)
	p := probe.seat("eth0")
	want, code := m.expect(p)
	b := p.box(r, nil)
	b.add(requestWait)
	m.mu.Lock()
	switch keys := []string{p.String()}; {
	case b.dirty != (code != 0):
		m.violated(keys, "when all is quiet an ADD that wants %s is answered %v, with code %d expected; held:\n%s", probe.selection, b.told, code, m.cluster.held())
	case code == 0:
		var got []string
		for _, a := range b.told {
			got = append(got, strings.TrimPrefix(m.leases[a].pool, m.prefix+"-"))
		}
		if !slices.Equal(got, want) {
			m.violated(keys, "when all is quiet an ADD that wants %s is served from %v, not %v; held:\n%s", probe.selection, got, want, m.cluster.held())
		}
	}
	m.mu.Unlock()
	b.del()
	if err := m.Delete(context.Background(), probe.pod, client.GracePeriodSeconds(0)); err != nil {
		m.t.Error(err)
	}
	m.same("after one more ADD and its DEL")
}

// current reports whether an agent knows the pools as they are.
func (m *model) current(s *site) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.basins {
		p, err := s.node.agent.Facts.Pool(context.Background(), name)
		v := b.now()
		if b.object == nil {
			if err == nil {
				return false
			}
			continue
		}
		if err != nil || (p.Refuses(&pool.PodContext{}, b.family) == "") != v.serves {
			return false
		}
		for _, a := range b.all {
			if s.node.agent.Facts.Gives(p).Contains(a) != slices.Contains(v.addresses, a) {
				return false
			}
		}
	}
	return true
}

// expect says from which pools a new attachment is served, or with which code
// it is refused.
func (m *model) expect(s *seat) (from []string, code uint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range pool.Families {
		if len(s.pools[f]) == 0 {
			continue
		}
		found, full := "", false
		for _, name := range s.pools[f] {
			v := m.basins[m.prefix+"-"+name].now()
			if !v.serves {
				continue
			}
			full = true
			if found == "" && slices.ContainsFunc(v.addresses, func(a netip.Addr) bool {
				return !m.fixed.kept[a] && (m.leases[a] == nil || !m.leases[a].until.IsZero())
			}) {
				found = name
			}
		}
		switch {
		case found != "":
			from = append(from, found)
		case full:
			return nil, wire.CodeTryAgain
		default:
			return nil, wire.CodeNoPool
		}
	}
	return from, 0
}
