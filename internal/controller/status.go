package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// status keeps status and metadata of each pool true.
//
// A version of a pool, by its generation and reserved annotation, is judged when
// a LIST that was sent after it was seen has told what is held in its name, and
// the status is written on the condition that the pool is still that version.
// With the fence of the agents follows that nobody holds or gets an address
// outside it any more, save those that the status calls draining. Afterwards the
// watch keeps the counts, which never goes behind that LIST (see usage). A
// process that has not judged a version writes nothing about it before it has,
// also if another process did: its watch may be behind.
type status struct {
	Options
	pools     client.Reader // of the cache
	ledger    *ledger.Ledger
	usage     *usage
	inventory *inventory
	budget    *budget
	webhook   webhook

	mu        sync.Mutex
	histories map[string]*history
}

// history is what this process did about one pool. Only the one reconciliation of
// that pool uses it.
type history struct {
	uid types.UID
	// judged is the version that was judged last.
	judged version
	// wrote is when something was written last, and replaced are the resourceVersions
	// that have a successor for certain: the watch is late that brings them.
	wrote    time.Time
	replaced []string
	told     bool // that the pool is not moved in
}

// lateness is how long a version that was replaced is not looked at. If it is
// still there then, etcd was put back to it.
const lateness = 10 * time.Second

// replacedKept bounds history.replaced: one look writes twice at most.
const replacedKept = 4

// version is what a judgement is about.
type version struct {
	generation int64
	reserved   string
}

// later is not an error but a wish: to be asked again after a time.
type later time.Duration

func (l later) Error() string { return "later" }

// Reconcile looks at one pool.
func (s *status) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	err := s.look(ctx, req.Name)
	var again later
	switch {
	case errors.As(err, &again):
		return reconcile.Result{RequeueAfter: time.Duration(again)}, nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		// The watch brings what it is now; should it not, look again.
		return reconcile.Result{RequeueAfter: perPool}, nil
	}
	return reconcile.Result{}, err
}

func (s *status) look(ctx context.Context, name string) error {
	o := &v2beta1.SpiderIPPool{}
	if err := s.pools.Get(ctx, client.ObjectKey{Name: name}, o); err != nil {
		if apierrors.IsNotFound(err) {
			s.forget(name)
			return nil
		}
		return err
	}
	r := s.historyOf(o)
	if r.judged.generation == 0 && pool.IsForeign(o) {
		s.tell(o, r)
		return nil
	}
	if wait := perPool - time.Since(r.wrote); wait > 0 {
		return later(wait)
	}
	if slices.Contains(r.replaced, o.ResourceVersion) && time.Since(r.wrote) < lateness {
		return later(perPool) // the watch is late, and to write would be a conflict
	}
	if o.Generation < r.judged.generation {
		r.judged = version{} // etcd was put back, and generations will come again
	}
	s.budget.adjust(s.inventory.nodeCount())
	mended, mendErr := s.mend(ctx, o, r)
	if apierrors.IsConflict(mendErr) {
		return mendErr
	}
	// A webhook that is away must not keep the status from being true.
	if err := s.judge(ctx, mended, r); err != nil {
		return err
	}
	return mendErr
}

// judge writes the status of a pool if it is not what it should be, or lets the
// pool go.
func (s *status) judge(ctx context.Context, o *v2beta1.SpiderIPPool, r *history) error {
	want, held := s.want(o)
	if equality.Semantic.DeepEqual(o.Status, want) && !removable(o, held) {
		return nil
	}
	edited := o.Status.ObservedGeneration != want.ObservedGeneration || o.Status.ObservedReserved != want.ObservedReserved
	if err := s.afford(ctx, edited); err != nil {
		return err
	}
	if !r.hasJudged(o) || removable(o, held) {
		if err := s.usage.refresh(ctx, o.Name, s.ledger.HeldIn); err != nil {
			return err
		}
		r.judged = version{o.Generation, o.Annotations[v2beta1.AnnotationReserved]}
		want, held = s.want(o)
	}
	if removable(o, held) {
		return r.replace(o, func() error { return s.release(ctx, o) })
	}
	if equality.Semantic.DeepEqual(o.Status, want) {
		return nil
	}
	judged := o.DeepCopy()
	judged.Status = want
	err := r.replace(o, func() error { return s.Live.Status().Update(ctx, judged) })
	if err == nil {
		s.report(o, want)
	}
	return err
}

// want is what the status of a pool should be as far as is known, and what is
// held in its name.
func (s *status) want(o *v2beta1.SpiderIPPool) (v2beta1.IPPoolStatus, []Entry) {
	held := s.usage.in(o.Name)
	_, cut, _ := s.reserved(o)
	return Judge(o, held, Circumstances{Nodes: s.inventory.nodeCount(), Cut: cut, Now: metav1.Now()}), held
}

// reserved is what the annotation of a pool should be; it is not known of a pool
// whose addresses are malformed.
func (s *status) reserved(o *v2beta1.SpiderIPPool) (text string, cut addr.Count, known bool) {
	has, known := pool.AddressesOf(o)
	if !known {
		return "", cut, false
	}
	reserved, nodes := s.inventory.kept()
	text, cut = Reserved(has, reserved, nodes, roomForReserved(o))
	return text, cut, true
}

// afford takes a write from the budget of all pools.
func (s *status) afford(ctx context.Context, edit bool) error {
	wait, err := s.budget.take(ctx, edit)
	if wait > 0 {
		return later(wait)
	}
	return err
}

func (r *history) hasJudged(o *v2beta1.SpiderIPPool) bool {
	return r.judged == version{o.Generation, o.Annotations[v2beta1.AnnotationReserved]}
}

// replace does a write that the API server takes only if o still is what is stored.
func (r *history) replace(o *v2beta1.SpiderIPPool, write func() error) error {
	r.wrote = time.Now()
	err := write()
	if err == nil || apierrors.IsConflict(err) {
		r.replaced = append(r.replaced, o.ResourceVersion)
		r.replaced = r.replaced[max(0, len(r.replaced)-replacedKept):]
	}
	return err
}

// tell says once that a pool is left alone.
func (s *status) tell(o *v2beta1.SpiderIPPool, r *history) {
	if r.told {
		return
	}
	r.told = true
	const why = "its status holds addresses of an older Spiderpool: it serves nobody and is left as it is until they are moved over"
	s.Events.Event(o, corev1.EventTypeWarning, "NotMovedIn", why)
	s.Log.Warn("a pool is left alone", "pool", o.Name, "why", why)
}

// report tells people that a pool has become malformed, which is more than a count.
func (s *status) report(before *v2beta1.SpiderIPPool, now v2beta1.IPPoolStatus) {
	c := meta.FindStatusCondition(now.Conditions, v2beta1.ConditionMalformed)
	if c.Status == metav1.ConditionTrue && !meta.IsStatusConditionTrue(before.Status.Conditions, v2beta1.ConditionMalformed) {
		s.Events.Event(before, corev1.EventTypeWarning, v2beta1.ConditionMalformed, "it serves nobody: "+c.Message)
	}
}

// historyOf is that of a pool; one that was made again under its name has a new one.
func (s *status) historyOf(o *v2beta1.SpiderIPPool) *history {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.histories[o.Name]
	if !ok || r.uid != o.UID {
		r = &history{uid: o.UID}
		s.histories[o.Name] = r
	}
	return r
}

func (s *status) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.histories, name)
	s.usage.forget(name)
}
