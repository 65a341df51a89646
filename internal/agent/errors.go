package agent

import (
	"errors"
	"fmt"

	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/internal/world"
)

var (
	errStarting = errors.New("the agent of this node is starting and does not know yet what its pods hold; this ends by itself")
	errDeleted  = errors.New("the container was deleted while its addresses were being assigned")
	errFinished = errors.New("it gets no address")
	errConfig   = errors.New("cannot tell which pools to use")
	errNotHeld  = errors.New("the attachment does not hold what it should")
	errAway     = errors.New("the API server does not answer")
)

// away marks the error of a write to the ledger: if it is not known whether
// the write happened, the API server is away and waiting may help.
func away(err error) error {
	if errors.Is(err, ledger.ErrUnknown) {
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
		if refused.full {
			return wire.CodeTryAgain
		}
		return wire.CodeNoPool
	}
	for _, c := range []struct {
		is   error
		code uint
	}{
		{world.ErrNoPod, wire.CodeEnvironment},
		{world.ErrOtherPod, wire.CodeEnvironment},
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
