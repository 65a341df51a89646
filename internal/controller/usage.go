package controller

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"unique"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Entry is what the leader knows of a SpiderIP. There are as many as addresses in use, so it is small, and strings that many
// have in common are there once.
type Entry struct {
	Address netip.Addr
	Pool    string
	// Pod is "namespace/name" of the holder, or of the last one; UID is that pod's and Node its node.
	Pod, UID, Node string
	// Use is never empty. Conflict is set in quarantine, if a host that is no pod answered for the address.
	Use      v2beta1.IPUse
	Conflict bool
	// Borne is set if a container of a virtual machine that moved may still bear the address.
	Borne bool
	// Owner is nil unless the address is fixed.
	Owner *v2beta1.IPOwner
	// Object and Version are the UID and the resourceVersion of the SpiderIP.
	Object  types.UID
	Version string
}

// usage is what is held in the name of each pool: what the watch of the SpiderIPs
// brought, and what LISTs of single pools saw before the watch did. It is never
// older than either. It is the store of a reflector, and keeps of 10,000 entries
// three megabytes, where an informer would keep the objects twice.
type usage struct {
	// changed is told of a pool after each change that the watch brought. It is set
	// before the watch begins.
	changed func(pool string)

	mu     sync.Mutex
	pools  map[string]*held
	synced chan struct{} // closed when the watch has brought its first list
}

// held is what is held in the name of one pool.
type held struct {
	entries map[netip.Addr]Entry
	// listed is the resourceVersion of the last LIST of this pool: what the watch
	// brings and is older is in it.
	listed string
	// listing is what happens while a LIST is under way, and nil otherwise.
	listing *listing
}

// listing is what the watch brought while a LIST was under way, which may be of before.
type listing struct {
	gone     map[netip.Addr]string // the versions at which entries went
	replaced string                // the version at which all entries were listed
}

func newUsage() *usage {
	return &usage{pools: map[string]*held{}, synced: make(chan struct{})}
}

// of returns what is held in the name of a pool. The caller has the lock.
func (u *usage) of(pool string) *held {
	h, ok := u.pools[pool]
	if !ok {
		h = &held{entries: map[netip.Addr]Entry{}}
		u.pools[pool] = h
	}
	return h
}

// entryOf is not ok for an object that names no address, which the definition of
// the kind does not let in.
func entryOf(ip *v2beta1.SpiderIP) (e Entry, ok bool) {
	a, err := addr.ParseAddr(ip.Spec.Address)
	e = Entry{
		Address: a, Pool: unique.Make(ip.Spec.Pool).Value(), Node: unique.Make(ip.Spec.Node).Value(),
		Pod: ip.Spec.Pod.Namespace + "/" + ip.Spec.Pod.Name, UID: ip.Spec.Pod.UID,
		Use: cmp.Or(ip.Spec.Use, v2beta1.IPUsePod), Conflict: ip.Spec.Conflict != "", Borne: ip.Annotations[v2beta1.AnnotationBearers] != "",
		Object: ip.UID, Version: ip.ResourceVersion,
	}
	if ip.Spec.Owner != nil {
		owner := *ip.Spec.Owner
		e.Owner = &owner
	}
	return e, err == nil
}

// newer reports whether a version is after another. Versions that do not compare
// are taken for newer.
func newer(a, than string) bool {
	order, err := resourceversion.CompareResourceVersion(a, than)
	return err != nil || order > 0
}

// Add takes an entry that the watch brought.
func (u *usage) Add(o any) error {
	u.take(o.(*v2beta1.SpiderIP), func(h *held, e Entry) {
		h.entries[e.Address] = e
		if h.listing != nil {
			delete(h.listing.gone, e.Address)
		}
	})
	return nil
}

// Update takes an entry that the watch brought.
func (u *usage) Update(o any) error { return u.Add(o) }

// Delete takes that an entry went: its version is that of the deletion.
func (u *usage) Delete(o any) error {
	u.take(o.(*v2beta1.SpiderIP), func(h *held, e Entry) {
		delete(h.entries, e.Address)
		if h.listing != nil {
			h.listing.gone[e.Address] = e.Version
		}
	})
	return nil
}

// take makes a change that the watch brought, if no LIST of the pool has it already. change is called under the lock.
func (u *usage) take(ip *v2beta1.SpiderIP, change func(*held, Entry)) {
	e, ok := entryOf(ip)
	if !ok {
		return
	}
	u.mu.Lock()
	h := u.of(ip.Spec.Pool)
	isNew := newer(e.Version, h.listed)
	if isNew {
		change(h, e)
	}
	u.mu.Unlock()
	if isNew {
		u.changed(ip.Spec.Pool)
	}
}

// Replace takes all entries as of a version. A pool that was LISTed at a later one
// stays as it is.
func (u *usage) Replace(list []any, version string) error {
	u.mu.Lock()
	all := map[string]map[netip.Addr]Entry{}
	for pool := range u.pools {
		all[pool] = map[netip.Addr]Entry{}
	}
	for _, o := range list {
		ip := o.(*v2beta1.SpiderIP)
		if e, ok := entryOf(ip); ok {
			if all[ip.Spec.Pool] == nil {
				all[ip.Spec.Pool] = map[netip.Addr]Entry{}
			}
			all[ip.Spec.Pool][e.Address] = e
		}
	}
	for pool, entries := range all {
		h := u.of(pool)
		if h.listed != "" && newer(h.listed, version) {
			continue
		}
		h.entries = entries
		if h.listing != nil {
			h.listing.replaced = version
		}
	}
	select {
	case <-u.synced:
	default:
		close(u.synced)
	}
	u.mu.Unlock()
	for pool := range all {
		u.changed(pool)
	}
	return nil
}

// Resync does nothing: there is nobody who missed something.
func (u *usage) Resync() error { return nil }

// relisting takes that the watch begins anew, by a LIST that is sent after this
// call. Nothing older than it comes any more; but if etcd was put back to an
// earlier state, what comes has lower versions than what was LISTed before.
func (u *usage) relisting() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, h := range u.pools {
		h.listed = ""
	}
}

// refresh brings what is held in the name of a pool up to a moment after the call,
// by a LIST. Calls for one pool follow each other.
func (u *usage) refresh(ctx context.Context, pool string, list func(context.Context, string, func(*v2beta1.SpiderIP)) (string, error)) error {
	u.mu.Lock()
	u.of(pool).listing = &listing{gone: map[netip.Addr]string{}}
	u.mu.Unlock()
	seen := map[netip.Addr]Entry{}
	version, err := list(ctx, pool, func(ip *v2beta1.SpiderIP) {
		if e, ok := entryOf(ip); ok {
			seen[e.Address] = e
		}
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	h := u.of(pool)
	if err == nil {
		h.merge(seen, version)
	}
	h.listing = nil
	return err
}

// merge takes what a LIST saw at a version, but for what is known to be newer.
func (h *held) merge(seen map[netip.Addr]Entry, version string) {
	if h.listing.replaced != "" && newer(h.listing.replaced, version) {
		return
	}
	for a, e := range h.entries {
		if newer(e.Version, version) {
			seen[a] = e
		}
	}
	for a, went := range h.listing.gone {
		if e, ok := seen[a]; ok && newer(went, e.Version) {
			delete(seen, a)
		}
	}
	h.entries, h.listed = seen, version
}

// in returns what is held in the name of a pool, by address.
func (u *usage) in(pool string) []Entry {
	u.mu.Lock()
	defer u.mu.Unlock()
	h, ok := u.pools[pool]
	if !ok {
		return nil
	}
	out := make([]Entry, 0, len(h.entries))
	for _, e := range h.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Address.Compare(b.Address) })
	return out
}

// fixedWithoutPod returns the fixed addresses that no pod has, of all pools, in no order: those that are kept, or in quarantine.
func (u *usage) fixedWithoutPod() (out []Entry) {
	u.each(func(e Entry) {
		if e.Owner != nil && (e.Use == v2beta1.IPUseKept || e.Use == v2beta1.IPUseQuarantine) {
			out = append(out, e)
		}
	})
	return out
}

// each calls do with every entry, in no order and under the lock: do only looks.
func (u *usage) each(do func(Entry)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, h := range u.pools {
		for _, e := range h.entries {
			do(e)
		}
	}
}

// forget drops what was LISTed of a pool that is gone; what is held in its name
// stays until it goes.
func (u *usage) forget(pool string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if h, ok := u.pools[pool]; ok && len(h.entries) == 0 {
		delete(u.pools, pool)
	}
}
