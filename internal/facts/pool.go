package facts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// ErrNoPool means that a pool does not exist or is malformed, and serves nobody.
var ErrNoPool = errors.New("it serves nobody")

// errNoSuchPool is the ErrNoPool of a name that no pool has.
var errNoSuchPool = fmt.Errorf("no such IPPool, %w", ErrNoPool)

// parsed is a pool, or why its object serves nobody.
type parsed struct {
	object  *v2beta1.SpiderIPPool
	version string // of the object; "" if it does not compare with those to come
	pool    *pool.Pool
	outline *pool.Pool // as shown by Pools; nil if nothing can be read of it
	err     error
}

func parse(o *v2beta1.SpiderIPPool) parsed {
	p, errs := pool.Parse(o)
	if len(errs) > 0 {
		return parsed{object: o, version: o.ResourceVersion, outline: pool.Outline(o), err: fmt.Errorf("%w: %w", ErrNoPool, errs.ToAggregate())}
	}
	return parsed{object: o, version: o.ResourceVersion, pool: p, outline: p}
}

func (w *Facts) setPool(o *v2beta1.SpiderIPPool) { w.learnPool(o) }

// learnPool takes what a watch or a read brought, unless something newer is
// known, and returns what it means.
func (w *Facts) learnPool(o *v2beta1.SpiderIPPool) parsed {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.pools[o.Name]
	late := w.gone[o.UID] || !newer(o.ResourceVersion, known.version)
	if ok && !meansMore(known.object, o) {
		if !late {
			known.object, known.version = o, o.ResourceVersion
			w.pools[o.Name] = known
		}
		return known
	}
	p := parse(o)
	if !late {
		w.forgetPool(o.Name)
		w.pools[o.Name] = p
		close(w.edited)
		w.edited = make(chan struct{})
	}
	return p
}

// meansMore reports whether a pool may mean something else than before. Most
// events of a pool are its status, which does not.
func meansMore(before, now *v2beta1.SpiderIPPool) bool {
	return before.UID != now.UID || before.Generation != now.Generation ||
		(before.DeletionTimestamp == nil) != (now.DeletionTimestamp == nil) ||
		(before.Status.AllocatedIPs == nil) != (now.Status.AllocatedIPs == nil) ||
		(before.Status.ObservedGeneration == 0) != (now.Status.ObservedGeneration == 0) ||
		before.Annotations[v2beta1.AnnotationReserved] != now.Annotations[v2beta1.AnnotationReserved] ||
		before.Labels[v2beta1.LabelInterface] != now.Labels[v2beta1.LabelInterface] || pool.SubnetNameOf(before) != pool.SubnetNameOf(now)
}

// dropPool takes that the watch saw a pool go.
func (w *Facts) dropPool(o *v2beta1.SpiderIPPool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.gone, o.UID)
	if known, ok := w.pools[o.Name]; ok && (known.object.UID == o.UID || newer(o.ResourceVersion, known.version)) {
		w.forgetPool(o.Name)
	}
}

// missPool takes that a read did not find a pool that was known before it was
// sent. What the watch still brings of that pool is late.
func (w *Facts) missPool(before parsed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before.object == nil {
		return
	}
	if known, ok := w.pools[before.object.Name]; ok && known.object.UID == before.object.UID {
		w.forgetPool(known.object.Name)
		w.gone[known.object.UID] = true
	}
}

// forgetPool drops what is known of a pool. The caller has the lock.
func (w *Facts) forgetPool(name string) {
	delete(w.gives, w.pools[name].pool)
	delete(w.pools, name)
	w.sorted = nil
}

func (w *Facts) knownPool(name string) parsed {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pools[name]
}

// readPools reads all pools.
func (w *Facts) readPools(ctx context.Context) error {
	w.mu.Lock()
	before := maps.Clone(w.pools)
	w.mu.Unlock()
	var list v2beta1.SpiderIPPoolList
	if err := w.live.List(ctx, &list); err != nil {
		return fmt.Errorf("read the SpiderIPPools: %w", err)
	}
	for i := range list.Items {
		w.learnPool(&list.Items[i])
		delete(before, list.Items[i].Name)
	}
	for _, p := range before {
		w.missPool(p)
	}
	return nil
}

// PoolsChanged returns a channel that is closed at the next edit of a pool.
func (w *Facts) PoolsChanged() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.edited
}

// ReadPool reads a pool from the API server, as of a moment after the call. What
// it brings counts from then on, also if the watch is late. ErrNoPool says why
// the pool serves nobody; any other error is the API server's.
func (w *Facts) ReadPool(ctx context.Context, name string) (*pool.Pool, error) {
	before := w.knownPool(name)
	o := &v2beta1.SpiderIPPool{}
	switch err := w.live.Get(ctx, client.ObjectKey{Name: name}, o); {
	case apierrors.IsNotFound(err):
		w.missPool(before)
		return nil, errNoSuchPool
	case err != nil:
		return nil, fmt.Errorf("read IPPool %s: %w", name, err)
	}
	p := w.learnPool(o)
	return p.pool, p.err
}

// Pool returns what is known of a pool, or looks it up. Errors as of ReadPool.
func (w *Facts) Pool(ctx context.Context, name string) (*pool.Pool, error) {
	p := w.knownPool(name)
	if p.object == nil {
		p = w.findPool(ctx, name)
	}
	return p.pool, p.err
}

// maxUnknown is how many names that the watch has not brought are looked up for
// one family of an ADD. Tenants write them.
const maxUnknown = 4

// Candidates returns the pools of a family that a selection names, in its order,
// and of each that serves nobody the reason. Of names that the watch has not
// brought a few are looked up: the pool may have just been made. An error is the
// API server's.
func (w *Facts) Candidates(ctx context.Context, selection pool.Selection, f pool.Family) ([]pool.Candidate, error) {
	names, unmatched := selection.Expand(f, w.Pools())
	var out []pool.Candidate
	unknown := 0
	for _, name := range names {
		p := w.knownPool(name)
		switch {
		case p.object != nil:
		case w.cache == nil: // all were read
			p.err = errNoSuchPool
		case unknown == maxUnknown:
			p.err = fmt.Errorf("no such IPPool known to this node's agent, which looks up %d unknown names at most, %w", maxUnknown, ErrNoPool)
		default:
			unknown++
			p = w.findPool(ctx, name)
		}
		candidate := pool.Candidate{Name: name, Pool: p.pool}
		if errors.Is(p.err, ErrNoPool) {
			candidate.Why = p.err.Error()
		} else if p.err != nil {
			return nil, p.err
		}
		out = append(out, candidate)
	}
	for _, pattern := range unmatched {
		out = append(out, pool.Candidate{Name: pattern, Why: fmt.Sprintf("no %s IPPool has such a name", f)})
	}
	return out, nil
}

// findPool looks up a pool that the watch has not brought; what was read lately
// will do.
func (w *Facts) findPool(ctx context.Context, name string) parsed {
	if why := validation.NameIsDNSSubdomain(name, false); len(why) > 0 {
		return parsed{err: fmt.Errorf("no such IPPool, and none can have this name (%s), %w", why[0], ErrNoPool)}
	}
	found, err := w.unknown.Get(ctx, name, time.Now().Add(-poolsFor), time.Time{})
	switch {
	case err != nil:
		return parsed{err: fmt.Errorf("look up IPPool %s: %w", name, err)}
	case found.Value == nil:
		return parsed{err: errNoSuchPool}
	}
	return w.learnPool(found.Value)
}

// lookUpPool reads a pool, nil if there is none. It is a LIST because tenants
// cause it: in the API server the GETs of pools share the priority level of
// claims.
func (w *Facts) lookUpPool(ctx context.Context, name string) (*v2beta1.SpiderIPPool, error) {
	var list v2beta1.SpiderIPPoolList
	if err := w.live.List(ctx, &list, client.MatchingFields{"metadata.name": name}); err != nil || len(list.Items) == 0 {
		return nil, err
	}
	return &list.Items[0], nil
}

// ReadAutomatic reads the automatic pools of a namespace's applications, unless
// that was done lately: an ADD that has waited for one in vain asks, for the watch
// may be silent. All ADDs of the node share the LIST. An error is the API server's.
func (w *Facts) ReadAutomatic(ctx context.Context, namespace string) error {
	_, err := w.automatic.Get(ctx, namespace, time.Now().Add(-poolsFor), time.Time{})
	return err
}

func (w *Facts) readAutomatic(ctx context.Context, namespace string) (none struct{}, _ error) {
	var list v2beta1.SpiderIPPoolList
	if err := w.live.List(ctx, &list, client.MatchingLabels{v2beta1.LabelOwnerApplicationNamespace: namespace}); err != nil {
		return none, fmt.Errorf("read the automatic pools of namespace %s: %w", namespace, err)
	}
	for i := range list.Items {
		w.learnPool(&list.Items[i])
	}
	return none, nil
}

// Pools returns all pools, by name; of malformed ones an outline, so that they
// are found by pattern or as a default and can be told of.
//
// The slice is shared and made again only after an edit: an ADD must not cost
// what there are pools.
func (w *Facts) Pools() []*pool.Pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sorted != nil {
		return w.sorted
	}
	w.sorted = []*pool.Pool{}
	for _, name := range slices.Sorted(maps.Keys(w.pools)) {
		if p := w.pools[name].outline; p != nil {
			w.sorted = append(w.sorted, p)
		}
	}
	return w.sorted
}
