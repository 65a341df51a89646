package cni_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// witness sees what is true whatever the agents believe: the addresses that
// interfaces bear, the pools as they were edited, and the ledger.
type witness struct {
	t       *testing.T
	cluster *cluster
	mu      sync.Mutex
	living  map[*box]bool
	pools   map[string][]version
	events  []event
	accused map[string]bool // each fault is told once
}

// event is something that happened. Those without address and box concern all.
type event struct {
	at      time.Time
	address netip.Addr
	box     string
	text    string
}

func (w *witness) saw(address netip.Addr, b *box, format string, args ...any) {
	e := event{at: time.Now(), address: address, text: fmt.Sprintf(format, args...)}
	if b != nil {
		e.box = b.String()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// accuse fails the test, with what happened to an address and to sandboxes that
// have to do with it. It tells ten different faults.
func (w *witness) accuse(address netip.Addr, boxes []*box, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	known := w.accused[text] || len(w.accused) >= 10
	w.accused[text] = true
	w.mu.Unlock()
	if known {
		return
	}
	for _, b := range boxes {
		w.saw(address, b, "is accused")
	}
	w.t.Errorf("%s %s\n%s", time.Now().Format(clock), text, w.history(address))
}

const clock = "15:04:05.000"

// history is what happened to an address, to the sandboxes that had to do with
// it, and, since the first of the last hundred such events, to everything.
func (w *witness) history(address netip.Addr) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	boxes := map[string]bool{}
	for _, e := range w.events {
		if e.address == address && e.box != "" {
			boxes[e.box] = true
		}
	}
	of := func(e event) bool { return e.address == address && address.IsValid() || boxes[e.box] }
	first, n := len(w.events), 0
	for i, e := range slices.Backward(w.events) {
		if of(e) && n < 100 {
			first, n = i, n+1
		}
	}
	var out strings.Builder
	for _, e := range w.events[first:] {
		if of(e) || !e.address.IsValid() && e.box == "" {
			fmt.Fprintf(&out, "  %s %s %s\n", e.at.Format(clock), e.box, e.text)
		}
	}
	return out.String()
}

// version is what a pool was from the moment its edit was sent until the next
// one was answered.
type version struct {
	from, until time.Time // until: zero for the last one
	first, last netip.Addr
	// serves is false for a pool that is disabled: who had an address keeps it.
	serves bool
}

// edited records an edit that is about to be sent, and returns what to call
// when it is answered.
func (w *witness) edited(name string, v version) (answered func()) {
	v.from = time.Now()
	w.saw(netip.Addr{}, nil, "pool %s is edited to %s-%s, serves %v", name, v.first, v.last, v.serves)
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.pools[name]) - 1
	w.pools[name] = append(w.pools[name], v)
	return func() {
		w.saw(netip.Addr{}, nil, "pool %s was edited", name)
		w.mu.Lock()
		defer w.mu.Unlock()
		if before >= 0 {
			w.pools[name][before].until = time.Now()
		}
	}
}

// had reports whether an address was of one of the pools at a moment since
// began; mine means that the pod has it already.
func (w *witness) had(address netip.Addr, pools []string, began time.Time, mine bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range pools {
		for _, v := range w.pools[name] {
			inside := v.first.IsValid() && v.first.Compare(address) <= 0 && address.Compare(v.last) <= 0
			if inside && (v.serves || mine) && (v.until.IsZero() || v.until.After(began)) {
				return true
			}
		}
	}
	return false
}

// boxes are the sandboxes whose namespaces are there.
func (w *witness) boxes() (out []*box) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for b := range w.living {
		out = append(out, b)
	}
	return out
}

// repeat does something again and again until ctx ends.
func repeat(ctx context.Context, pause time.Duration, do func()) {
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// duplicates looks at all interfaces once. An address that moved while it
// looked is not on the first interface any more when that is looked at again.
func (w *witness) duplicates() {
	on := map[netip.Addr]*box{}
	for _, b := range w.boxes() {
		for _, a := range b.bears() {
			other := on[a]
			if on[a] = b; other == nil || !slices.Contains(other.bears(), a) {
				continue
			}
			if other.leaving() || b.leaving() {
				w.saw(a, b, "bears %s, and %s too, whose DEL is under way", a, other)
				continue
			}
			pair := []*box{other, b}
			slices.SortFunc(pair, func(x, y *box) int { return strings.Compare(x.String(), y.String()) })
			w.accuse(a, pair, "%s is on two living interfaces, of %s and %s", a, pair[0], pair[1])
		}
	}
}

// held looks into the ledger once: an address that was answered is held by that
// very container until its DEL or the end of its namespace.
func (w *witness) held(ctx context.Context) {
	before := map[*box][]netip.Addr{}
	for _, b := range w.boxes() {
		before[b] = b.answers()
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var list v2beta1.SpiderIPList
	if w.cluster.List(ctx, &list) != nil {
		return // the API server is away
	}
	holders := map[string]v2beta1.IPSpec{}
	for _, e := range list.Items {
		holders[e.Spec.Address] = e.Spec
	}
	for b, addresses := range before {
		if len(b.answers()) != len(addresses) {
			continue // its end began meanwhile
		}
		for _, a := range addresses {
			if h := holders[a.String()]; h.ContainerID != b.conf.ContainerID {
				w.accuse(a, []*box{b}, "%s was answered to %s, which lives, and is held by %q", a, b, h.ContainerID)
			}
		}
	}
}

// left are the entries of the ledger.
func (w *witness) left(ctx context.Context) (out []v2beta1.IPSpec, err error) {
	var list v2beta1.SpiderIPList
	err = w.cluster.List(ctx, &list)
	for _, e := range list.Items {
		out = append(out, e.Spec)
	}
	return out, err
}

// follow records every change of the ledger until ctx ends.
func (w *witness) follow(ctx context.Context, c client.WithWatch) {
	repeat(ctx, 50*time.Millisecond, func() {
		var list v2beta1.SpiderIPList
		if c.List(ctx, &list) != nil {
			return
		}
		changes, err := c.Watch(ctx, &v2beta1.SpiderIPList{}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
		if err != nil {
			return
		}
		defer changes.Stop()
		for change := range changes.ResultChan() {
			w.changed(change)
		}
	})
}

func (w *witness) changed(change watch.Event) {
	if ip, ok := change.Object.(*v2beta1.SpiderIP); ok {
		a, _ := netip.ParseAddr(ip.Spec.Address)
		w.saw(a, nil, "ledger: %s %s container %.8s of %s on %s, version %s", strings.ToLower(string(change.Type)),
			a, ip.Spec.ContainerID, ip.Spec.Pod.Name, ip.Spec.Node, ip.ResourceVersion)
	}
}

// bears are the global addresses that the interface of a sandbox has now; none
// when its namespace is gone.
func (b *box) bears() (out []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone || b.byHand {
		return nil
	}
	addresses, err := b.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		b.witness.t.Errorf("%s: %v", b, err)
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			out = append(out, ip.Unmap())
		}
	}
	return out
}
