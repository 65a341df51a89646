package allocation

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/internal/pool"
)

// leastPause keeps an ADD in line from turning in a loop while others send the LIST that is due.
const leastPause = 10 * time.Millisecond

// ReasonWaiting is the reason of the Event on a pod whose ADD waits for an address.
const ReasonWaiting = "IPAllocationWaiting"

// wait stands in line until an address is won or the deadline has passed, and then looks once more.
func (a *Allocator) wait(ctx context.Context, r *Request, f pool.Family, refused *Refused, edited <-chan struct{}) (*Grant, error) {
	r.waiter = a.line.Join(r.Came, r.Owner(), refused.wants)
	defer a.leave(r)
	tell := r.Came
	if len(refused.Full) == 0 {
		tell = tell.Add(a.Durations.EditArrival) // a pool that is just being made is no news
	}
	for told := false; ; {
		deadline := refused.deadline(r, a.Durations.EditArrival)
		until := deadline
		if !told && time.Now().Before(tell) {
			until = earlier(deadline, tell)
		} else if !told {
			a.tell(ctx, r, refused)
			told = true
		}
		r.Unlock()
		if err := a.idle(ctx, r, refused, until, edited); err != nil {
			return nil, err
		}
		if err := a.Lock(ctx, r); err != nil {
			return nil, err
		}
		r.final = !time.Now().Before(deadline)
		edited = a.Facts.PoolsChanged()
		g, again, err := a.attempt(ctx, r, f)
		switch {
		case again == nil:
			return g, err
		case !again.MayPass() || r.final:
			a.describe(ctx, r, again)
			return nil, again
		}
		refused = again
		r.waiter.Want(refused.wants)
	}
}

// leave leaves the line. What was offered and not tried is offered to the next.
func (a *Allocator) leave(r *Request) {
	for _, o := range r.waiter.Leave() {
		a.freed(o, r.Owner())
	}
	r.waiter, r.final = nil, false
}

// idle returns when an address is offered, a pool was edited, or it is time to look again. An error is the end of ctx, or
// errStopping.
func (a *Allocator) idle(ctx context.Context, r *Request, refused *Refused, until time.Time, edited <-chan struct{}) error {
	began := time.Now()
	defer func() { r.Waited += time.Since(began) }()
	for name, full := range refused.Full {
		u := a.usages.Of(name)
		if u.LikelyFree(full.Candidates, nil, newRandom()) {
			return nil // it came free while this ADD was joining the line
		}
		until = earlier(until, u.Next(false))
	}
	timer := time.NewTimer(max(time.Until(until), leastPause))
	defer timer.Stop()
	select {
	case <-r.waiter.Woken:
	case <-edited:
	case <-timer.C:
	case <-a.stopping:
		return errStopping
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// deadline is until when it is worth waiting: for pools that can give nothing at all and are not automatic, only as long as an
// edit that is on its way needs to arrive.
func (e *Refused) deadline(r *Request, editArrival time.Duration) time.Time {
	if e.automatic() {
		return r.Deadline
	}
	for _, full := range e.Full {
		if !full.Candidates.IsEmpty() {
			return r.Deadline
		}
	}
	return earlier(r.Deadline, r.Came.Add(editArrival))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tell records on the pod that its ADD waits, and why.
func (a *Allocator) tell(ctx context.Context, r *Request, refused *Refused) {
	a.describe(ctx, r, refused)
	a.Events.Event(r.Pod, corev1.EventTypeWarning, ReasonWaiting,
		fmt.Sprintf("waiting for an address, up to %s: %s", time.Until(r.Deadline).Round(time.Second), refused))
}
