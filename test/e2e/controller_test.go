package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// poolOf reads a pool.
func (s *scenario) poolOf(name string) *v2beta1.SpiderIPPool {
	s.Helper()
	p := &v2beta1.SpiderIPPool{}
	if err := s.Get(s.Context(), client.ObjectKey{Name: name}, p); err != nil {
		s.Fatal(err)
	}
	return p
}

// shows waits until kubectl shows so many addresses in use and in all of a pool.
func (s *scenario) shows(name string, used, total int) {
	s.Helper()
	began := time.Now()
	s.eventually(func() string {
		text, err := s.Kubectl(s.Context(), "get", "sp", name, "--no-headers")
		if columns := strings.Fields(text); err != nil || len(columns) < 5 || columns[3] != fmt.Sprint(used) || columns[4] != fmt.Sprint(total) {
			return fmt.Sprintf("kubectl shows %q, want %d in use of %d (%v)", text, used, total, err)
		}
		return ""
	})
	s.Logf("%s shows %d of %d after %s", name, used, total, time.Since(began).Round(10*time.Millisecond))
}

// TestStatus: what kubectl shows of pools follows pods, edits and reservations.
func TestStatus(t *testing.T) {
	s := begin(t, 20)
	d := s.deployment(4)
	s.running(4)
	s.shows(s.v4, 4, 20)
	s.shows(s.v6, 4, 20)

	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-reserved"}}
	reserved.Spec.IPs = []string{fmt.Sprintf("172.20.%d.18-172.20.%d.40", s.number, s.number)}
	s.make(reserved)
	s.eventually(func() string {
		p := s.poolOf(s.v4)
		want := fmt.Sprintf("172.20.%d.18-172.20.%d.20", s.number, s.number)
		if p.Annotations[v2beta1.AnnotationReserved] != want || p.Status.ObservedReserved != want {
			return fmt.Sprintf("reserved %q, observed %q, want %q", p.Annotations[v2beta1.AnnotationReserved], p.Status.ObservedReserved, want)
		}
		return ""
	})
	if err := s.Delete(t.Context(), reserved); err != nil {
		t.Fatal(err)
	}
	s.remove(d)
	s.shows(s.v4, 0, 20)
	s.shows(s.v6, 0, 20)
}

// TestEditRace: pools are cut while pods start. Once the status judges an edit, no address outside the pool is held or taken
// any more but those that it shows as draining: the API server's own watch says so.
func TestEditRace(t *testing.T) {
	n := 12
	if *soak {
		n = 40
	}
	s := begin(t, 120)
	watch := s.watchEntries()
	s.deployment(int32(n))
	for size := 110; size >= n+10; size -= 10 {
		p := s.cut(size)
		s.eventually(func() string {
			if now := s.poolOf(s.v4); now.Status.ObservedGeneration != p.Generation {
				return fmt.Sprintf("generation %d is not judged yet: %+v", p.Generation, now.Status)
			}
			return ""
		})
		s.nothingOutside(watch, s.poolOf(s.v4))
	}
	s.running(n)
	s.agree(n, 2*n)
	s.nothingOutside(watch, s.poolOf(s.v4))
}

// cut leaves a pool its first addresses. Those that pods hold cannot be cut: then fewer are.
func (s *scenario) cut(size int) *v2beta1.SpiderIPPool {
	s.Helper()
	var p *v2beta1.SpiderIPPool
	s.eventually(func() string {
		p = s.poolOf(s.v4)
		held := addr.Set{}
		for _, e := range s.entries() {
			text, _, _ := strings.Cut(e, " ")
			if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
				held = held.With(a)
			}
		}
		kept, err := addr.ParseSet([]string{fmt.Sprintf("172.20.%d.1-172.20.%d.%d", s.number, s.number, size)})
		if err != nil {
			return err.Error()
		}
		p.Spec.IPs = kept.Union(held).Strings()
		if err := s.Update(s.Context(), p); err != nil {
			return err.Error() // a pod was quicker: its address is not cut
		}
		return ""
	})
	return p
}

// entryWatch is what the API server's watch says of the SpiderIPs of a scenario.
type entryWatch struct {
	mu      sync.Mutex
	entries map[string]*v2beta1.SpiderIP
	deleted []string // names, in turn
}

// watchEntries begins to watch.
func (s *scenario) watchEntries() *entryWatch {
	s.Helper()
	c, err := client.NewWithWatch(s.API.Config(), client.Options{Scheme: s.Scheme()})
	if err != nil {
		s.Fatal(err)
	}
	var list v2beta1.SpiderIPList
	w := &entryWatch{entries: map[string]*v2beta1.SpiderIP{}}
	events, err := c.Watch(s.Context(), &list)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(events.Stop)
	go func() {
		for e := range events.ResultChan() {
			ip, ok := e.Object.(*v2beta1.SpiderIP)
			if !ok {
				continue
			}
			w.mu.Lock()
			if e.Type == "DELETED" {
				delete(w.entries, ip.Name)
				w.deleted = append(w.deleted, ip.Name)
			} else {
				w.entries[ip.Name] = ip
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// nothingOutside looks for a while: an address that a claim took in the moment of the edit is given back at once, so what is
// outside twice is held.
func (s *scenario) nothingOutside(w *entryWatch, p *v2beta1.SpiderIPPool) {
	s.Helper()
	parsed, errs := pool.Parse(p)
	if len(errs) > 0 {
		s.Fatal(errs.ToAggregate())
	}
	draining, err := addr.ParseSet(p.Status.Draining)
	if err != nil {
		s.Fatal(err)
	}
	outside := func() (out []string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.entries {
			a, err := addr.ParseAddr(e.Spec.Address)
			if err == nil && e.Spec.Pool == p.Name && !parsed.Addresses.Contains(a) && !draining.Contains(a) {
				out = append(out, string(e.UID)+" "+e.Spec.Address)
			}
		}
		return out
	}
	first := outside()
	time.Sleep(time.Second)
	for _, e := range outside() {
		if slices.Contains(first, e) {
			s.Errorf("generation %d is judged, and %s is held outside %v and not draining %v", p.Generation, e, p.Spec.IPs, p.Status.Draining)
		}
	}
}

// controllers has so many replicas of the controller run.
func (s *scenario) controllers(n int32) {
	s.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-controller"}}
	if err := s.Get(s.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		s.Fatal(err)
	}
	before := d.DeepCopy()
	d.Spec.Replicas = &n
	if err := s.Patch(s.Context(), d, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
	s.eventually(func() string {
		var pods corev1.PodList
		if err := s.List(s.Context(), &pods, client.InNamespace("kube-system"), client.MatchingLabels{"app.kubernetes.io/component": "spiderpool-controller"}); err != nil {
			return err.Error()
		}
		ready := 0
		for _, p := range pods.Items {
			if slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				ready++
			}
		}
		if len(pods.Items) != int(n) || ready != int(n) {
			return fmt.Sprintf("%d controllers, %d ready, want %d", len(pods.Items), ready, n)
		}
		return ""
	})
}

// TestControllerAway: without a controller pods start and stop, pools cannot be edited, and the counts are right when it is back.
func TestControllerAway(t *testing.T) {
	n, away, pause := 12, time.Duration(0), time.Duration(0)
	if *soak {
		n, away, pause = 40, time.Hour, 5*time.Minute
	}
	s := alone(t, 60)
	s.controllers(0)
	restored := false
	defer func() {
		if !restored {
			s.controllers(2)
		}
	}()
	began := time.Now()
	s.withoutController(n)
	for rounds := 2; time.Since(began) < away; rounds++ {
		time.Sleep(pause)
		s.withoutController(n)
		t.Logf("%d times %d pods started and stopped, the controller is away for %s", rounds, n, time.Since(began).Round(time.Second))
	}
	s.controllers(2)
	restored = true
	s.shows(s.v4, 0, 60)
}

// withoutController starts and stops n pods, and tries to edit a pool.
func (s *scenario) withoutController(n int) {
	s.Helper()
	d := s.deployment(int32(n))
	s.running(n)
	s.agree(n, 2*n)
	p := s.poolOf(s.v4)
	p.Spec.IPs = append(p.Spec.IPs, fmt.Sprintf("172.20.%d.200", s.number))
	if err := s.Update(s.Context(), p); err == nil || !strings.Contains(err.Error(), "spiderpool-controller") {
		s.Errorf("a pool is edited while nobody admits edits: %v, want a refusal that names spiderpool-controller", err)
	}
	s.remove(d)
	s.held(0)
}

// edits edits a pool again and again until its end, and counts what became of that.
type edits struct {
	*scenario
	mu                    sync.Mutex
	done, refused, failed int
	wrong                 []string
	last                  time.Time // when an edit was last not answered
	stop                  func()
}

// editing begins to edit: good edits and such that must be refused, in turn.
func (s *scenario) editing() *edits {
	ctx, cancel := context.WithCancel(s.Context())
	e := &edits{scenario: s}
	var running sync.WaitGroup
	e.stop = func() { cancel(); running.Wait() }
	running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := &v2beta1.SpiderIPPool{}
			if err := s.Get(ctx, client.ObjectKey{Name: s.v4}, p); err != nil {
				continue
			}
			bad := i%2 == 1
			p.Spec.IPs = []string{fmt.Sprintf("172.20.%d.1-172.20.%d.%d", s.number, s.number, 60+i%50)}
			if bad { // an address stands twice
				p.Spec.IPs = append(p.Spec.IPs, p.Spec.IPs[0])
			}
			e.note(bad, s.Update(ctx, p), ctx)
			time.Sleep(20 * time.Millisecond)
		}
	})
	return e
}

// end ends it when twenty of each were judged since it was called. No verdict may have been wrong.
func (e *edits) end() {
	e.Helper()
	e.mu.Lock()
	done, refused := e.done, e.refused
	e.mu.Unlock()
	e.eventually(func() string {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.done < done+20 || e.refused < refused+20 {
			return fmt.Sprintf("%d edits were admitted and %d refused since it is to end", e.done-done, e.refused-refused)
		}
		return ""
	})
	e.stop()
	e.Logf("%d edits were admitted, %d refused, %d not answered", e.done, e.refused, e.failed)
	if len(e.wrong) > 0 {
		e.Errorf("the verdict was wrong for %v", e.wrong)
	}
}

// allAnswered ends it, and all edits must have been answered.
func (e *edits) allAnswered() {
	e.Helper()
	if e.end(); e.failed > 0 {
		e.Errorf("%d edits were not answered", e.failed)
	}
}

func (e *edits) note(bad bool, err error, ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case ctx.Err() != nil, apierrors.IsConflict(err):
	case err == nil && !bad:
		e.done++
	case apierrors.IsInvalid(err) && bad:
		e.refused++
	case apierrors.IsInternalError(err): // "failed calling webhook": nobody has judged it
		e.failed++
		e.last = time.Now()
	default:
		e.wrong = append(e.wrong, fmt.Sprintf("bad %t: %v", bad, err))
	}
}

// TestControllerRolled: replicas are replaced one after the other while pools are edited, and no edit is left unanswered.
func TestControllerRolled(t *testing.T) {
	s := alone(t, 60)
	s.controllers(2)
	e := s.editing()
	if text, err := s.Kubectl(t.Context(), "-n", "kube-system", "rollout", "restart", "deployment/spiderpool-controller"); err != nil {
		t.Fatal(text, err)
	}
	if text, err := s.Kubectl(t.Context(), "-n", "kube-system", "rollout", "status", "deployment/spiderpool-controller", "--timeout=3m"); err != nil {
		t.Fatal(text, err)
	}
	e.allAnswered()
}

// TestLeaderKilled: the leader is killed while pools are edited. Another leads soon, and no verdict is wrong.
func TestLeaderKilled(t *testing.T) {
	s := alone(t, 60)
	s.controllers(2)
	leader := s.leader("")
	e := s.editing()
	node, _, _ := strings.Cut(leader, "_")
	if err := s.KillController(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	next := s.leader(leader)
	took := time.Since(began)
	e.end()
	gap := time.Duration(0)
	if e.failed > 0 {
		gap = e.last.Sub(began)
	}
	t.Logf("%s leads %s after %s was killed; the last edit that was not answered: %s after the kill", next,
		took.Round(time.Second), leader, gap.Round(time.Millisecond))
	p := s.poolOf(s.v4)
	s.eventually(func() string {
		if now := s.poolOf(s.v4); now.Status.ObservedGeneration != p.Generation {
			return fmt.Sprintf("generation %d is not judged: %+v", p.Generation, now.Status)
		}
		return ""
	})
}

// TestControllerOnPodNetwork: the controller runs with an address of Spiderpool itself instead of the host's network, and the
// API server reaches it there.
func TestControllerOnPodNetwork(t *testing.T) {
	s := alone(t, 60)
	s.upgrade(fmt.Sprintf("spiderpoolController: {hostnetwork: false, podAnnotations: {%s: '%s'}}", v2beta1.AnnotationIPPool, wants(s.v4, s.v6)))
	restored := false
	restore := func() {
		restored = true
		s.upgrade(fmt.Sprintf("spiderpoolController: {hostnetwork: true, podAnnotations: {%s: null}}", v2beta1.AnnotationIPPool))
	}
	defer func() {
		if !restored {
			restore()
		}
	}()
	s.held(4)
	s.editing().allAnswered()
	s.shows(s.v6, 2, 60)
	restore()
	s.held(0)
}

// upgrade changes values of the release.
func (s *scenario) upgrade(values string) {
	s.Helper()
	file := filepath.Join(s.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		s.Fatal(err)
	}
	if text, err := s.Upgrade(s.Context(), "--reuse-values", "--values", file); err != nil {
		s.Fatal(text, err)
	}
}

// TestCertificatesRotated: the Secret of the certificate is deleted while pools are edited. A new authority comes, and then a
// certificate by it, and no edit is refused for that.
func TestCertificatesRotated(t *testing.T) {
	s := begin(t, 60)
	certificate := func() string {
		text, err := s.Kubectl(t.Context(), "-n", "kube-system", "get", "secret", "spiderpool-controller-server-certs", "-o", `jsonpath={.data.tls\.crt}`)
		if err != nil {
			return ""
		}
		return text
	}
	was := certificate()
	if was == "" {
		t.Fatal("there is no certificate")
	}
	e := s.editing()
	if text, err := s.Kubectl(t.Context(), "-n", "kube-system", "delete", "secret", "spiderpool-controller-server-certs"); err != nil {
		t.Fatal(text, err)
	}
	began := time.Now()
	s.eventually(func() string {
		if now := certificate(); now == "" || now == was {
			return "the certificate is still the one before"
		}
		return ""
	})
	t.Logf("another certificate after %s", time.Since(began).Round(time.Second))
	e.allAnswered()
}

// leader waits for a leader other than one, and returns what it calls itself: its node, "_" and a number.
func (s *scenario) leader(other string) (identity string) {
	s.Helper()
	s.eventually(func() (complaint string) {
		var err error
		identity, err = s.Kubectl(s.Context(), "-n", "kube-system", "get", "lease", "spiderpool-controller-leases", "-o", "jsonpath={.spec.holderIdentity}")
		if err != nil || identity == "" || identity == other {
			return fmt.Sprintf("%q leads (%v)", identity, err)
		}
		return ""
	})
	return identity
}

// TestNamespaceDeleted: a namespace goes with its pods, while the pools that it used go too. Nothing stays behind.
func TestNamespaceDeleted(t *testing.T) {
	s := begin(t, 20)
	s.deployment(4)
	s.running(4)
	for _, name := range []string{s.v4, s.v6} {
		if err := s.Delete(t.Context(), s.poolOf(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}); err != nil {
		t.Fatal(err)
	}
	s.held(0)
	s.eventually(func() string {
		for _, o := range []client.Object{
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}},
			&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: s.v4}}, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: s.v6}},
		} {
			if err := s.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("%T %s is still there (%v)", o, o.GetName(), err)
			}
		}
		return ""
	})
}
