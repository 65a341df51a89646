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
	a.tell(ctx, r, refused)
	for {
		deadline := refused.deadline(r, a.Durations.EditArrival)
		r.Unlock()
		if err := a.idle(ctx, r, refused, deadline, edited); err != nil {
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
		case len(again.Full) == 0 || r.final:
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

// idle returns when an address is offered, a pool was edited, it is time to look again, or the deadline has passed. An error
// is the end of ctx, or errStopping.
func (a *Allocator) idle(ctx context.Context, r *Request, refused *Refused, deadline time.Time, edited <-chan struct{}) error {
	began := time.Now()
	defer func() { r.Waited += time.Since(began) }()
	until := deadline
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

// deadline is until when it is worth waiting: for pools that can give nothing at all, only as long as an edit that is on its
// way needs to arrive.
func (e *Refused) deadline(r *Request, editArrival time.Duration) time.Time {
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
