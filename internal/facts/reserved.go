package facts

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

const (
	// reservedFor is how long the reservations are trusted of which a watch
	// brings neither an event nor a bookmark: API servers send one a minute
	// (Kubernetes API concepts, "Watch bookmarks").
	reservedFor = 2 * time.Minute
	// listen is how often it is looked whether the watch brought anything.
	listen = 5 * time.Second
)

// reservation is what one object reserves, of a version of it.
type reservation struct {
	version string
	set     addr.Set
}

func (w *Facts) setReserved(o *v2beta1.SpiderReservedIP) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hear(o) {
		w.reserved[o.Name] = reservation{o.ResourceVersion, pool.Reservation(o)}
	}
}

func (w *Facts) dropReserved(o *v2beta1.SpiderReservedIP) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hear(o) {
		delete(w.reserved, o.Name)
	}
}

// hear notes that the watch has brought something, and reports whether it counts.
// The caller has the lock.
func (w *Facts) hear(o *v2beta1.SpiderReservedIP) bool {
	w.stale, w.heard = true, time.Now()
	w.events++
	return newer(o.ResourceVersion, w.reserved[o.Name].version)
}

// newer reports whether a version of an object is not older than another, or the
// other is not known: a watch that was late must not undo what was read meanwhile.
func newer(a, than string) bool {
	order, err := resourceversion.CompareResourceVersion(a, than)
	return err != nil || order >= 0
}

// Reserved is what the reservations keep from everybody.
func (w *Facts) Reserved() addr.Set {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.union()
}

// union is Reserved for who has the lock.
func (w *Facts) union() addr.Set {
	if w.stale {
		var ranges []addr.Range
		for _, r := range w.reserved {
			ranges = slices.AppendSeq(ranges, r.set.Ranges())
		}
		w.allReserved, w.stale = addr.MakeSet(ranges...), false
		clear(w.gives)
	}
	return w.allReserved
}

// Gives is what a pool may give: its addresses but those that are reserved. Of
// what is known of a pool it is computed once for each edit: an ADD must not
// cost what the pool has ranges.
func (w *Facts) Gives(p *pool.Pool) addr.Set {
	w.mu.Lock()
	defer w.mu.Unlock()
	reserved := w.union()
	if set, ok := w.gives[p]; ok {
		return set
	}
	set := p.Addresses.Minus(p.Reserved).Minus(reserved)
	if w.pools[p.Name].pool == p {
		w.gives[p] = set
	}
	return set
}

// lastHeard is when the reservations were last heard of, zero if they are not
// known at all.
func (w *Facts) lastHeard() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard
}

// FreshReserved makes sure that Reserved is not older than two minutes: a watch
// may be cut off without an error. Those who need that at once share one LIST.
func (w *Facts) FreshReserved(ctx context.Context) error {
	if time.Since(w.lastHeard()) < reservedFor {
		return nil
	}
	_, err := w.reading.Get(ctx, "", time.Now().Add(-reservedFor), time.Time{})
	return err
}

// readReserved reads all reservations from the API server. If the watch brings
// something meanwhile it is alive, and what it brings counts.
func (w *Facts) readReserved(ctx context.Context) error {
	w.mu.Lock()
	sent, events := time.Now(), w.events
	w.mu.Unlock()
	var list v2beta1.SpiderReservedIPList
	if err := w.live.List(ctx, &list); err != nil {
		return fmt.Errorf("read the SpiderReservedIPs: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events != events {
		return nil
	}
	clear(w.reserved)
	for i := range list.Items {
		w.reserved[list.Items[i].Name] = reservation{list.Items[i].ResourceVersion, pool.Reservation(&list.Items[i])}
	}
	w.stale, w.heard = true, sent
	return nil
}

// listenReserved notes when the watch of the reservations last brought
// something, until ctx ends: the version changes with each event and each
// bookmark.
func (w *Facts) listenReserved(ctx context.Context, informer toolscache.SharedIndexInformer, handled toolscache.InformerSynced) {
	toolscache.WaitForCacheSync(ctx.Done(), handled)
	last := ""
	wait.UntilWithContext(ctx, func(context.Context) {
		if now := informer.LastSyncResourceVersion(); now != last {
			last = now
			w.mu.Lock()
			w.heard = time.Now()
			w.mu.Unlock()
		}
	}, listen)
}
