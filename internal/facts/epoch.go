package facts

import (
	"context"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
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

// listFirst lists and watches for an informer, which begins with a LIST: streamed first lists (client-go's WatchListClient)
// end with a bookmark; proxies are known to hold it back, and the informer would wait for it for ever. A later LIST begins an
// epoch.
type listFirst struct {
	toolscache.ListerWatcher
	toolscache.ListerWatcherWithContext
	again  func()
	listed atomic.Bool
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
	}
	return list, err
}
