package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// fixedNames is what the model knows of pods whose addresses are fixed. The lock of the model guards it.
type fixedNames struct {
	set *appsv1.StatefulSet
	// first is the slot of web-0 on the first node, which has a twin on the second.
	first *slot
	// had is what the pods of a name were told last, by name, interface and family.
	had map[string]given
	// scales are how many replicas were wanted over time.
	scales []scale
	// again counts pods that were told the address of the one before them.
	again int
	// scaling lets one step at a time change what is wanted.
	scaling sync.Mutex
	// kept are addresses that wait for the next pod, at a quiet point.
	kept map[netip.Addr]bool
}

// given is an address that a pod was told.
type given struct {
	address netip.Addr
	pool    string
	at      time.Time
	// lost is set of one that the pool was without before the last quiet point.
	lost bool
}

type scale struct {
	from, until time.Time // until is zero for the last
	replicas    int32
}

// keptMark ends the line of an entry that waits for the next pod.
const keptMark = " kept"

// ownPods makes the StatefulSet of the pods whose addresses are fixed.
func (m *model) ownPods() {
	m.fixed.set, m.fixed.had, m.fixed.scales = m.statefulSet("web", 2), map[string]given{}, []scale{{from: time.Now(), replicas: 2}}
}

// makeFixed makes a slot of node i one for pods of the StatefulSet: those of web-0 go between the first two nodes.
func (m *model) makeFixed(s *slot, i int) {
	s.owner = m.fixed.set
	switch s.name = "web-0"; i {
	case 0:
		m.fixed.first = s
	case 1:
		s.twin, m.fixed.first.twin = m.fixed.first, s
		s.replacing, s.pod, s.going = s.twin.replacing, s.twin.pod, true
	default:
		s.name = "web-1"
	}
}

// rescale wants other replicas for a while.
func (m *model) rescale(r *rand.Rand) {
	m.fixed.scaling.Lock()
	defer m.fixed.scaling.Unlock()
	for _, n := range []int32{r.Int32N(3), 2} {
		m.mu.Lock()
		last := len(m.fixed.scales) - 1
		m.fixed.scales = append(m.fixed.scales, scale{from: time.Now(), replicas: n})
		set := m.fixed.set.DeepCopy()
		m.mu.Unlock()
		set.Spec.Replicas, set.ResourceVersion = &n, ""
		if err := m.admin().Update(context.Background(), set); err != nil {
			m.t.Errorf("scale: %v", err)
		}
		m.mu.Lock()
		m.fixed.scales[last].until = time.Now()
		m.mu.Unlock()
		m.log([]string{"web"}, "        %d replicas are wanted", n)
		time.Sleep(time.Duration(r.IntN(600)) * time.Millisecond)
	}
}

// asksFixed forgets what an ADD that asks for other pools frees. The caller has the lock.
func (b *box) asksFixed() {
	for _, f := range []pool.Family{pool.IPv4, pool.IPv6} {
		key := b.fixedKey(f)
		if last, had := b.fixed.had[key]; had && !slices.Contains(b.pools[f], strings.TrimPrefix(last.pool, b.prefix+"-")) {
			delete(b.fixed.had, key)
		}
	}
}

func (b *box) fixedKey(f pool.Family) string { return fmt.Sprint(b.slot.name, "/", b.ifname, "/", f) }

// checkFixed checks that a pod is told the addresses of the one before it, unless a pool lost them or the owner did not want
// the pod meanwhile. The caller has the lock.
func (b *box) checkFixed(fresh map[netip.Addr]*promise, now time.Time) {
	if b.owner == nil {
		return
	}
	for a, l := range fresh {
		key := b.fixedKey(pool.FamilyOf(a))
		last, had := b.fixed.had[key]
		if had && last.address != a && !b.excused(last, pool.FamilyOf(a), now) {
			b.violated([]string{b.seat.String(), a.String(), last.address.String()}, "%s is told %s, and the pod of its name had %s of pool %s since %s",
				b.seat, a, last.address, last.pool, last.at.Sub(b.began))
		}
		if had && last.address == a && b.index == 0 && b.asked == 1 {
			b.fixed.again++
		}
		b.fixed.had[key] = given{address: a, pool: l.pool, at: now}
	}
}

// excused reports whether a pod may have lost an address that one of its name had.
func (b *box) excused(last given, f pool.Family, now time.Time) bool {
	ordinal := int32(b.slot.name[len(b.slot.name)-1] - '0')
	unwanted := slices.ContainsFunc(b.fixed.scales, func(s scale) bool {
		return s.replicas <= ordinal && (s.until.IsZero() || s.until.After(last.at)) && s.from.Before(now)
	})
	return unwanted || b.lost(last, now) || !slices.Contains(b.pools[f], strings.TrimPrefix(last.pool, b.prefix+"-"))
}

// lost reports whether at some moment the pool of an address that a pod was told did not give it any more. The caller has the
// lock.
func (m *model) lost(last given, now time.Time) bool {
	return last.lost || slices.ContainsFunc(m.basins[last.pool].during(last.at.Add(-watchLag), now), func(v version) bool {
		return !v.serves || !slices.Contains(v.addresses, last.address)
	})
}

// forgetVersions forgets at quiet points what the pools were, but not which addresses were lost by that. The caller has the lock.
func (m *model) forgetVersions(now time.Time) {
	for key, last := range m.fixed.had {
		last.lost = m.lost(last, now)
		m.fixed.had[key] = last
	}
	for _, b := range m.basins {
		b.versions = b.versions[len(b.versions)-1:]
	}
}

// TestModelForgets: that a pool was without an address for a while excuses a pod that lost it, also after a quiet point.
func TestModelForgets(t *testing.T) {
	a, b := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	now := time.Now()
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds-100) * time.Second) }
	m := &model{basins: map[string]*basin{"a": {versions: []version{
		{from: at(0), until: at(50), serves: true, addresses: []netip.Addr{a, b}},
		{from: at(50), until: at(60), serves: true, addresses: []netip.Addr{b}},
		{from: at(60), serves: true, addresses: []netip.Addr{a, b}},
	}}}}
	m.fixed.had = map[string]given{"lost": {address: a, pool: "a", at: at(10)}, "told since": {address: a, pool: "a", at: at(90)}, "never lost": {address: b, pool: "a", at: at(10)}}
	m.forgetVersions(now)
	for key, last := range m.fixed.had {
		if got := m.lost(last, now); got != (key == "lost") {
			t.Errorf("%s: %t", key, got)
		}
	}
}

// collect does at quiet points what the controller does: it releases what is kept for nobody.
func (m *model) collect() {
	kept := map[netip.Addr]bool{}
	var list v2beta1.SpiderIPList
	if err := m.List(context.Background(), &list, client.MatchingFields{"spec.use": string(v2beta1.IPUseKept)}); err != nil {
		m.t.Fatal(err)
	}
	for i := range list.Items {
		e := &list.Items[i]
		recorded := &v2beta1.SpiderEndpoint{}
		err := m.Get(context.Background(), client.ObjectKey{Namespace: e.Spec.Pod.Namespace, Name: e.Spec.Pod.Name}, recorded)
		if err == nil && slices.Contains(fixed.Recorded(recorded, e.Spec.Interface), lease.AddressOf(e)) {
			kept[lease.AddressOf(e)] = true
			continue
		}
		if err := client.IgnoreNotFound(err); err != nil {
			m.t.Error(err)
		}
		if err := m.Delete(context.Background(), e, client.Preconditions{ResourceVersion: &e.ResourceVersion}); err != nil {
			m.t.Errorf("%s: %v", e.Name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fixed.kept = kept
}

// oneEach reports whether no name has two addresses of a family on one interface, borne or kept.
func (m *model) oneEach() bool {
	var list v2beta1.SpiderIPList
	if err := m.List(context.Background(), &list); err != nil {
		m.t.Fatal(err)
	}
	has := map[string]bool{}
	for i := range list.Items {
		e := &list.Items[i]
		key := fmt.Sprint(e.Spec.Pod.Name, "/", e.Spec.Interface, "/", pool.FamilyOf(lease.AddressOf(e)))
		if e.Spec.Owner != nil && has[key] {
			return false
		}
		has[key] = true
	}
	return true
}
