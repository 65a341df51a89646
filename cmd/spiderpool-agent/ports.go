package main

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"
)

// ports serves what people and tools ask the agent over TCP. That a port is in use keeps no pod from its address: it is
// tried again, and told of.
type ports struct{ problems }

// portEvery is how often a port that could not be opened is tried again.
const portEvery = 2 * time.Second

// serve serves until ctx ends.
func (p *ports) serve(ctx context.Context, name, address string, handler http.Handler) {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	what := "the port for " + name + " is not served"
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if p.note(what, err); err == nil {
			err = server.Serve(l)
		}
		if ctx.Err() == nil {
			p.note(what, err)
		}
		select {
		case <-time.After(portEvery):
		case <-ctx.Done():
		}
	}
}

func everywhere(port int) string { return ":" + strconv.Itoa(port) }

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// profiles shows what the process does, and lets nobody change how it does it: whoever is on the node's network reaches
// the port, and an agent by the protocol of gops would let them switch the garbage collector off.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
