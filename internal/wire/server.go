package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// transfer bounds how long a peer may take to send a request or to take a reply. Both are a few hundred bytes on a
// local socket; a peer that needs longer has stopped.
const transfer = 10 * time.Second

// errClientGone is the cause of a handler's context that ended because nobody waits for the reply any more.
var errClientGone = errors.New("the client closed the connection")

// Serve answers the requests that arrive at l until ctx ends, each connection in a goroutine of its own, and returns
// nil when every handler has returned. It closes l. An error is one of l itself.
//
// The context given to handle ends when the client goes away, and grace after ctx: what is under way when ctx ends has
// that long to be finished. handle is called only for a well-formed request of this [Protocol] with a known verb; all
// others are answered here ([CodeDecode], [CodeTryAgain]). A handler that panics, or returns nil, answers
// [CodeInternal]; the panic is logged with its stack. Serve sets the reply's Protocol. Called by the agent.
func Serve(ctx context.Context, l *Listener, grace time.Duration, handle func(context.Context, *Request) *Reply) error {
	defer func() { _ = l.Close() }()
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	defer cancel(nil)
	defer serving.Wait()
	defer context.AfterFunc(ctx, func() {
		_ = l.stopListening()
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})()

	for delay := time.Duration(0); ; {
		conn, err := l.Accept()
		if err == nil {
			delay = 0
			serving.Go(func() { serveConn(ctx, calls, conn, handle) })
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			cancel(err)
			return err
		}
		// The process or the system is out of something (descriptors, memory), which passes.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		slog.Error("accept a connection", "socket", l.socket, "error", err, "again", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// serveConn reads the request until ctx ends, calls the handler within calls and writes its reply. A client that is
// gone gets none.
func serveConn(ctx, calls context.Context, conn net.Conn, handle func(context.Context, *Request) *Reply) {
	defer conn.Close()
	req, refused := receive(ctx, conn)
	if refused != nil {
		send(conn, &Reply{Error: refused})
		return
	}
	call, cancel := context.WithCancelCause(calls)
	defer cancel(nil)
	go func() {
		// A client sends nothing after its request: this returns when it closes, or when conn is closed below.
		_, _ = io.Copy(io.Discard, conn)
		cancel(errClientGone)
	}()
	send(conn, protect(call, req, handle))
}

// receive reads one request, or says why there is none to serve.
func receive(ctx context.Context, conn net.Conn) (*Request, *Error) {
	_ = conn.SetReadDeadline(time.Now().Add(transfer))
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	var req Request
	err := decode(conn, &req)
	if !interrupt() {
		return nil, Errorf(CodeTryAgain, "the agent of this node is stopping; try again when it is back")
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		return nil, Errorf(CodeDecode, "bad request: %v", err)
	case req.Protocol <= 0:
		return nil, Errorf(CodeDecode, "bad request: it names no protocol version")
	case req.Protocol != Protocol:
		return nil, Errorf(CodeTryAgain, "the plugin speaks protocol %d and the agent %d: "+
			"bring both to one version, or wait for the roll-out to end", req.Protocol, Protocol)
	case !req.Verb.known():
		return nil, Errorf(CodeDecode, "bad request: unknown verb %q", req.Verb)
	}
	return &req, nil
}

// protect calls the handler and turns a panic into a reply.
func protect(ctx context.Context, req *Request, handle func(context.Context, *Request) *Reply) (reply *Reply) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic while serving a request", "verb", req.Verb, "containerID", req.ContainerID,
				"interface", req.Interface, "panic", p, "stack", string(debug.Stack()))
			reply = &Reply{Error: &Error{Code: CodeInternal, Msg: fmt.Sprintf("the agent failed: panic: %v", p),
				Details: "the agent's log has the stack"}}
		}
	}()
	if reply = handle(ctx, req); reply == nil {
		reply = &Reply{Error: Errorf(CodeInternal, "the agent gave no answer to %s", req.Verb)}
	}
	return reply
}

// send writes the reply. An error is not reported: the client sees a broken reply, and the agent knows no better way.
func send(conn net.Conn, reply *Reply) {
	answer := *reply
	answer.Protocol = Protocol
	line, err := encode(&answer)
	if err != nil {
		line, _ = encode(&Reply{Protocol: Protocol, Error: Errorf(CodeInternal, "encode the reply: %v", err)})
	}
	_ = conn.SetWriteDeadline(time.Now().Add(transfer))
	_, _ = conn.Write(line)
}
