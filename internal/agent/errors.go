package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	errStarting  = errors.New("the agent of this node is starting and does not know yet what its pods hold; this ends by itself")
	errStopping  = errors.New("all addresses are taken, and the agent of this node is stopping; try again when it is back")
	errDeleted   = errors.New("the container was deleted while its addresses were being assigned")
	errFinished  = errors.New("it gets no address")
	errTooMany   = errors.New("the search took too long: too many of the pool's addresses are held in the name of other pools; let pools share fewer addresses")
	errConfig    = errors.New("cannot tell which pools to use")
	errNotHeld   = errors.New("the attachment does not hold what it should")
	errAway      = errors.New("exhaust all retries, the API server does not answer")
	errBusy      = errors.New("another call of the container is not done yet")
	errUnsettled = errors.New("it is not known yet whether a write happened")
	// errCalled ends a search of an ADD that is called out of the line.
	errCalled = errors.New("an address is offered")
)

// fullError means that every candidate of a pool was seen taken by this ADD.
type fullError struct {
	candidates addr.Set
	usage      pool.Usage
}

func (e *fullError) Error() string { return e.usage.UsedOut() }

// unservedError is why a pool does not serve a pod.
type unservedError struct{ why string }

func (e *unservedError) Error() string { return e.why }

// movedError means that a pool was edited and lost the address just claimed.
type movedError struct{ to *pool.Pool }

func (e *movedError) Error() string { return "IPPool " + e.to.Name + " was edited meanwhile" }

// passedOver reports whether err says that a pool does not serve, or does not
// have the address: another may.
func passedOver(err error) bool {
	var unserved *unservedError
	var moved *movedError
	return errors.As(err, &unserved) || errors.As(err, &moved)
}

// refusedError tells which pools of a family were tried and why each did not serve.
type refusedError struct {
	ifname    string
	family    pool.Family
	selection pool.Selection
	asked     netip.Addr // valid if one address was asked for
	why       []reason
	full      map[string]*fullError // the pools that were full
}

// reason is why one pool did not serve.
type reason struct {
	pool string
	err  error
}

func newRefused(ask *asker, f pool.Family, refusals []pool.Refusal) *refusedError {
	e := &refusedError{ifname: ask.req.Interface, family: f, selection: ask.selection, asked: ask.requested(f), full: map[string]*fullError{}}
	for _, r := range refusals {
		e.add(r.Pool, &unservedError{r.Why})
	}
	return e
}

// add notes why a pool did not serve, unless err is trouble of another kind,
// after which no other pool must be tried.
func (e *refusedError) add(name string, err error) bool {
	var full *fullError
	var unserved *unservedError
	switch {
	case errors.As(err, &full):
		e.full[name] = full
	case errors.As(err, &unserved):
	default:
		return false
	}
	e.why = append(e.why, reason{name, err})
	return true
}

// wants are the addresses for which it is worth waiting, by pool.
func (e *refusedError) wants() map[string]addr.Set {
	out := map[string]addr.Set{}
	for name, full := range e.full {
		out[name] = full.candidates
	}
	return out
}

func (e *refusedError) Error() string {
	out := pool.Unserved{Interface: e.ifname, Family: e.family, Selection: e.selection}
	for _, r := range e.why {
		out.Why = append(out.Why, pool.Refusal{Pool: r.pool, Why: r.err.Error()})
	}
	return out.Error()
}

func (e *refusedError) code() uint {
	switch {
	case len(e.full) > 0:
		return wire.CodeTryAgain
	case e.asked.IsValid():
		return wire.CodeConfig
	}
	return wire.CodeNoPool
}

// transient reports whether doing the same again may help: the API server was
// not reached, had no time, or did not say what became of it.
func transient(err error) bool {
	var status apierrors.APIStatus
	var network net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, errDeleted):
		return false
	case errors.Is(err, ledger.ErrUnknown), errors.Is(err, facts.ErrNoMirror), errors.Is(err, context.DeadlineExceeded):
		return true
	case errors.As(err, &status):
		s := status.Status()
		return s.Code >= 500 || s.Code == http.StatusTooManyRequests || s.Reason == metav1.StatusReasonTimeout
	}
	return errors.As(err, &network)
}

// away marks an error that may pass, for a reader.
func away(err error) error {
	if transient(err) {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return err
}

// wireError gives an error its CNI code. Code 11 tells the runtime that trying
// again may help.
func wireError(err error) *wire.Error {
	var coded *wire.Error
	if errors.As(err, &coded) {
		return coded
	}
	return &wire.Error{Code: code(err), Msg: err.Error()}
}

func code(err error) uint {
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.code()
	}
	for _, c := range []struct {
		is   error
		code uint
	}{
		{facts.ErrNoPod, wire.CodeEnvironment},
		{facts.ErrOtherPod, wire.CodeEnvironment},
		{facts.ErrOtherNode, wire.CodeEnvironment},
		{errFinished, wire.CodeEnvironment},
		{errConfig, wire.CodeConfig},
		{errNotHeld, wire.CodeUnknownContainer},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return wire.CodeTryAgain
}
