package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// mend writes the metadata of a pool that lacks something: what admission would
// have added, and the annotation of what is reserved. It returns the pool as it
// is then. A pool that is being deleted serves nobody and is left as it is.
func (s *status) mend(ctx context.Context, o *v2beta1.SpiderIPPool, r *history) (*v2beta1.SpiderIPPool, error) {
	if o.DeletionTimestamp != nil {
		return o, nil
	}
	mended := o.DeepCopy()
	missed := pool.DefaultPool(mended, nil)
	if text, _, known := s.reserved(mended); known && text != o.Annotations[v2beta1.AnnotationReserved] {
		if mended.Annotations == nil {
			mended.Annotations = map[string]string{}
		}
		mended.Annotations[v2beta1.AnnotationReserved] = text
		if text == "" {
			delete(mended.Annotations, v2beta1.AnnotationReserved)
		}
	} else if !missed {
		return o, nil
	}
	if wait := s.webhook.wait(); wait > 0 {
		return o, later(wait)
	}
	if err := s.afford(ctx, true); err != nil {
		return o, err
	}
	if err := r.replace(o, func() error { return s.patch(ctx, o, mended) }); err != nil {
		return o, err
	}
	if missed {
		s.Events.Event(mended, corev1.EventTypeWarning, "NotAdmitted", "it was stored without the webhook of Spiderpool, which may have refused it: "+
			"finalizer, label and ipVersion are added now; see the condition Malformed, and whether it overlaps another pool")
	}
	return mended, nil
}

// removable reports whether a pool is being deleted and nothing is held in its name.
func removable(o *v2beta1.SpiderIPPool, held []Entry) bool {
	return o.DeletionTimestamp != nil && len(held) == 0 && slices.Contains(o.Finalizers, v2beta1.Finalizer)
}

// release lets a pool go in whose name a LIST has just found nothing. Who claims
// an address of it later sees by the fence that it is being deleted, or gone.
func (s *status) release(ctx context.Context, o *v2beta1.SpiderIPPool) error {
	if wait := s.webhook.wait(); wait > 0 {
		return later(wait)
	}
	released := o.DeepCopy()
	controllerutil.RemoveFinalizer(released, v2beta1.Finalizer)
	return s.patch(ctx, o, released)
}

// patch changes what differs, if o still is what is stored, and fills in what it
// is then.
func (s *status) patch(ctx context.Context, o, changed *v2beta1.SpiderIPPool) error {
	err := s.Live.Patch(ctx, changed, client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{}))
	s.webhook.learn(err)
	return err
}

// webhookPause is the time between two tries while the webhook is away. It is
// longer than the API server waits for one.
const webhookPause = 15 * time.Second

// webhook remembers whether the webhook, which each write of metadata needs, was
// away. Then one pool at a time tries, lest all workers wait for it and no status
// is written. The zero webhook is there.
type webhook struct {
	mu   sync.Mutex
	away bool
	next time.Time
}

// wait returns how long to wait before the next try, 0 for now.
func (w *webhook) wait() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.away {
		return 0
	}
	if wait := time.Until(w.next); wait > 0 {
		return wait
	}
	w.next = time.Now().Add(webhookPause)
	return 0
}

// learn takes the outcome of a try. A refusal is an answer.
func (w *webhook) learn(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = err != nil && !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) &&
		!apierrors.IsConflict(err) && !apierrors.IsNotFound(err)
	if w.away {
		w.next = time.Now().Add(webhookPause)
	}
}
