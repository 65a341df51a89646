package facts

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/spidernet-io/spiderpool/internal/apiclient"
)

// Epoch counts the moments at which the API server may have lost what it once answered: a watch could not go on where it was
// and lists anew. So it is when etcd was put back to an earlier state, when definitions were removed and installed again, and
// also, harmlessly, when a watch was away for too long. Who holds something in the ledger looks whether it stands when the
// number has changed.
func (w *Facts) Epoch() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epoch
}

// beginEpoch takes that a watch cannot go on. Versions of before compare with none of after, so they are forgotten: what the
// new list brings counts.
func (w *Facts) beginEpoch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgetVersions()
}

// forgetVersions is beginEpoch for who has the lock.
func (w *Facts) forgetVersions() {
	w.epoch++
	for name, p := range w.pools {
		p.version = ""
		w.pools[name] = p
	}
	for name, r := range w.reserved {
		r.version = ""
		w.reserved[name] = r
	}
	clear(w.gone)
}

// leap is how much later revisions go on at least when etcd was restored with --bump-revision, of which a thousand million is
// recommended. A cluster in which so many writes happen between two answers is taken for one that was restored.
const leap = 100_000_000

// Revision is the latest revision of the API server's store that is known, by Learn: 0 if none is.
func (w *Facts) Revision() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revision
}

// Learn takes the version of what the API server has just written, or of a list that it has read from its store. known is what
// Revision was when that was asked for: if the store has gone back behind it, or leapt, it was put back to an earlier state.
func (w *Facts) Learn(known uint64, version string) {
	now, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.revision < known: // it was put back meanwhile, and which state this is of cannot be told
	case now < known, w.revision > 0 && now > w.revision+leap:
		w.revision, w.putBack = now, time.Now()
		w.forgetVersions()
	case now > w.revision:
		w.revision = now
	}
}

// PutBack is when it was found that the API server's store was put back to an earlier state, zero if never.
func (w *Facts) PutBack() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.putBack
}

// Resumption keeps the watch of a kind from going on where the API server has not come to: after etcd was put back to an earlier
// state it would begin such a watch, and send nothing until it has come to that version again.
type Resumption struct {
	Live client.Reader
	Kind schema.GroupVersionKind

	listed atomic.Pointer[string] // the version of the last list, until a watch has begun there
}

// Listed notes a list, or a page of one: the watch that follows needs no check.
func (r *Resumption) Listed(list runtime.Object) {
	if of, err := apimeta.ListAccessor(list); err == nil {
		version := of.GetResourceVersion()
		r.listed.Store(&version)
	}
}

// Check returns an error that says "expired", upon which a reflector lists anew, if a watch cannot go on from a version. Any other
// error says that it could not be read how far the API server is.
func (r *Resumption) Check(ctx context.Context, version string) error {
	if listed := r.listed.Swap(nil); listed != nil && *listed == version {
		return nil
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(r.Kind.GroupVersion().WithKind(r.Kind.Kind + "List"))
	ctx, cancel := context.WithTimeout(ctx, apiclient.RequestTimeout)
	defer cancel()
	// One name is read by its key, whether there is such an object or not.
	if err := r.Live.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault), client.MatchingFields{"metadata.name": "0"}); err != nil {
		return fmt.Errorf("read the version of the %ss: %w", r.Kind.Kind, err)
	}
	if !newer(list.ResourceVersion, version) {
		return apierrors.NewResourceExpired(fmt.Sprintf("the %ss were put back from version %s to %s", r.Kind.Kind, version, list.ResourceVersion))
	}
	return nil
}

// listFirst lists and watches for an informer, which begins with a LIST: streamed first lists (client-go's WatchListClient)
// end with a bookmark; proxies are known to hold it back, and the informer would wait for it for ever. A later LIST begins an
// epoch. A watch that the API server has not reached lists anew.
type listFirst struct {
	toolscache.ListerWatcher
	toolscache.ListerWatcherWithContext
	Resumption
	again  func()
	listed atomic.Bool
}

// newInformer makes an informer that lists first.
func (w *Facts) newInformer(lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	kind, _ := apiutil.GVKForObject(object, apiclient.Scheme()) // which the cache has looked up in it
	first := &listFirst{ListerWatcher: lw, ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw),
		Resumption: Resumption{Live: w.live, Kind: kind}, again: w.beginEpoch}
	return toolscache.NewSharedIndexInformer(first, object, resync, indexers)
}

// IsWatchListSemanticsUnSupported is what a reflector asks before it streams.
func (*listFirst) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext lists, in pages.
func (l *listFirst) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.Continue == "" && l.listed.Load() {
		l.again()
	}
	list, err := l.ListerWatcherWithContext.ListWithContext(ctx, o)
	if err == nil {
		l.listed.Store(true)
		l.Listed(list)
	}
	return list, err
}

// WatchWithContext watches from a version on that the API server has reached.
func (l *listFirst) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := l.Check(ctx, o.ResourceVersion); err != nil {
		return nil, err
	}
	return l.ListerWatcherWithContext.WatchWithContext(ctx, o)
}
