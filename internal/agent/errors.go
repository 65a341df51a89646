package agent

import (
	"errors"

	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/agent/metrics"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/pool"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	errStarting = errors.New("the agent of this node is starting and does not know yet what its pods hold; this ends by itself")
	errConfig   = errors.New("it is not clear which pools may serve it")
	errNotHeld  = errors.New("the attachment does not hold what it should")
)

// wireError gives an error its CNI code. Code 11 tells the runtime that trying again may help.
func wireError(err error) *wire.Error {
	if coded, ok := errors.AsType[*wire.Error](err); ok {
		return coded
	}
	return &wire.Error{Code: code(err), Msg: err.Error()}
}

func code(err error) uint {
	if refused, ok := errors.AsType[*allocation.Refused](err); ok {
		switch {
		case refused.MayPass():
			return wire.CodeTryAgain
		case refused.Asked.IsValid():
			return wire.CodeConfig
		}
		return wire.CodeNoPool
	}
	if _, held := errors.AsType[*allocation.Held](err); held {
		return wire.CodeHeldElsewhere
	}
	if c, ok := errors.AsType[*conflictError](err); ok && c.err == nil {
		return wire.CodeConflict
	}
	for _, c := range []struct {
		is   error
		code uint
	}{
		{facts.ErrNoPod, wire.CodeEnvironment},
		{facts.ErrOtherPod, wire.CodeEnvironment},
		{facts.ErrOtherNode, wire.CodeEnvironment},
		{allocation.ErrFinished, wire.CodeEnvironment},
		{errConfig, wire.CodeConfig},
		{errNotHeld, wire.CodeUnknownContainer},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return wire.CodeTryAgain
}

// outcome says for the metrics how an ADD ended.
func outcome(err error) metrics.Outcome {
	refused, isRefused := errors.AsType[*allocation.Refused](err)
	_, isHeld := errors.AsType[*allocation.Held](err)
	switch {
	case err == nil:
		return metrics.Served
	case cancelled(err):
		return metrics.Cancelled
	case isRefused && len(refused.Full) > 0, isHeld:
		return metrics.UsedOut
	case isRefused, errors.Is(err, pool.ErrNoSelection):
		return metrics.NoPool
	case errors.Is(err, allocation.ErrAway):
		return metrics.Exhausted
	}
	return metrics.Internal
}
