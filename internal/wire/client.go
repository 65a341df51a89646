package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

var (
	// ErrNoAgent means that nobody took the request: there is no socket, nobody listens on it, its queue is full, or the
	// agent stopped before it had the whole request. Nothing has happened and the same call may be made again.
	ErrNoAgent = errors.New("no agent took the request")
	// ErrUnknownOutcome means that the request was sent and no whole reply came back: the agent may have carried it
	// out or not.
	ErrUnknownOutcome = errors.New("the agent took the request and its reply did not arrive")
)

// Call sends one request to the agent that serves socket and returns its reply, whose Error is nil.
//
// The error is an [*Error] if the agent answered one, wraps [ErrNoAgent] or [ErrUnknownOutcome] where these apply, and
// any other error means that nothing was sent. When ctx ends the connection is closed, which cancels the call at the
// agent. Called by the plugin, and by programs that ask the agent for its state.
func Call(ctx context.Context, socket string, req *Request) (*Reply, error) {
	sent := *req
	sent.Protocol = Protocol
	line, err := encode(&sent)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	// What connect(2) says if nobody is there; EAGAIN is how a unix socket reports a full queue.
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN) {
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	if _, err := conn.Write(line); err != nil {
		// The newline is the last byte, so an agent that got less has not begun.
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	var reply Reply
	if err := decode(conn, &reply); err != nil {
		return nil, outcomeUnknown(ctx, err)
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	if reply.Protocol != Protocol {
		return nil, outcomeUnknown(ctx, fmt.Errorf("reply of protocol %d, wanted %d", reply.Protocol, Protocol))
	}
	return &reply, nil
}

func outcomeUnknown(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}
