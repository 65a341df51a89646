package controller

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
)

// Entry is what the status of a pool needs to know of a SpiderIP.
type Entry struct {
	Address netip.Addr
	// Pod is "namespace/name" of the holder, UID that of the pod.
	Pod, UID   string
	Quarantine bool
	// Kept is set if no pod has the address and it is kept for the next one of an owner.
	Kept *Kept
}

// Kept is what is known besides of an entry that is kept: most are not.
type Kept struct {
	Owner v2beta1.IPOwner
	// UID and Version are those of the SpiderIP.
	UID     types.UID
	Version string
	// Borne is set if a container of a virtual machine that moved may still bear the address.
	Borne bool
}

// versioned is an entry, and the resourceVersion of its object.
type versioned struct {
	Entry
	version string
}

// usage is what is held in the name of each pool: what the watch of the SpiderIPs
// brought, and what LISTs of single pools saw before the watch did. It is never
// older than either. It is the store of a reflector, and keeps of 10,000 entries
// two megabytes, where an informer would keep the objects twice.
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
	entries map[netip.Addr]versioned
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
		h = &held{entries: map[netip.Addr]versioned{}}
		u.pools[pool] = h
	}
	return h
}

// entryOf is not ok for an object that names no address, which the definition of
// the kind does not let in.
func entryOf(ip *v2beta1.SpiderIP) (versioned, bool) {
	a, err := addr.ParseAddr(ip.Spec.Address)
	e := Entry{
		Address: a, Pod: ip.Spec.Pod.Namespace + "/" + ip.Spec.Pod.Name, UID: ip.Spec.Pod.UID,
		Quarantine: ip.Spec.Use == v2beta1.IPUseQuarantine,
	}
	if ip.Spec.Use == v2beta1.IPUseKept && ip.Spec.Owner != nil {
		e.Kept = &Kept{*ip.Spec.Owner, ip.UID, ip.ResourceVersion, ip.Annotations[v2beta1.AnnotationBearers] != ""}
	}
	return versioned{e, ip.ResourceVersion}, err == nil
}

// newer reports whether a version is after another. Versions that do not compare
// are taken for newer.
func newer(a, than string) bool {
	order, err := resourceversion.CompareResourceVersion(a, than)
	return err != nil || order > 0
}

// Add takes an entry that the watch brought.
func (u *usage) Add(o any) error {
	u.take(o.(*v2beta1.SpiderIP), func(h *held, e versioned) {
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
	u.take(o.(*v2beta1.SpiderIP), func(h *held, e versioned) {
		delete(h.entries, e.Address)
		if h.listing != nil {
			h.listing.gone[e.Address] = e.version
		}
	})
	return nil
}

// take makes a change that the watch brought, if no LIST of the pool has it already. change is called under the lock.
func (u *usage) take(ip *v2beta1.SpiderIP, change func(*held, versioned)) {
	e, ok := entryOf(ip)
	if !ok {
		return
	}
	u.mu.Lock()
	h := u.of(ip.Spec.Pool)
	isNew := newer(e.version, h.listed)
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
	all := map[string]map[netip.Addr]versioned{}
	for pool := range u.pools {
		all[pool] = map[netip.Addr]versioned{}
	}
	for _, o := range list {
		ip := o.(*v2beta1.SpiderIP)
		if e, ok := entryOf(ip); ok {
			if all[ip.Spec.Pool] == nil {
				all[ip.Spec.Pool] = map[netip.Addr]versioned{}
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
	seen := map[netip.Addr]versioned{}
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
func (h *held) merge(seen map[netip.Addr]versioned, version string) {
	if h.listing.replaced != "" && newer(h.listing.replaced, version) {
		return
	}
	for a, e := range h.entries {
		if newer(e.version, version) {
			seen[a] = e
		}
	}
	for a, went := range h.listing.gone {
		if e, ok := seen[a]; ok && newer(went, e.version) {
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
		out = append(out, e.Entry)
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Address.Compare(b.Address) })
	return out
}

// kept returns what no pod has and is kept, of all pools, in no order.
func (u *usage) kept() (out []Entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, h := range u.pools {
		for _, e := range h.entries {
			if e.Kept != nil {
				out = append(out, e.Entry)
			}
		}
	}
	return out
}

// names are those of all pools in whose name something is held.
func (u *usage) names() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var names []string
	for name, h := range u.pools {
		if len(h.entries) > 0 {
			names = append(names, name)
		}
	}
	return names
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
