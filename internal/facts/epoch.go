package facts

import (
	"context"

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
func (w *Facts) beginEpoch(ctx context.Context, r *toolscache.Reflector, err error) {
	w.mu.Lock()
	w.epoch++
	for name, p := range w.pools {
		p.object = p.object.DeepCopy()
		p.object.ResourceVersion = ""
		w.pools[name] = p
	}
	for name, r := range w.reserved {
		r.version = ""
		w.reserved[name] = r
	}
	clear(w.gone)
	w.mu.Unlock()
	toolscache.DefaultWatchErrorHandler(ctx, r, err)
}
