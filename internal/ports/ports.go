// Package ports serves what people and tools ask a daemon over TCP: probes, metrics and profiles. That a port is in use keeps
// a daemon from nothing else: it is tried again, and told of.
package ports

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/spidernet-io/spiderpool/internal/logging"
)

// again is how often a port that could not be opened is tried again.
const again = 2 * time.Second

// Ports are the TCP ports of one daemon. Its Problem says which cannot be opened.
type Ports struct{ logging.Problems }

// New prepares the ports; log hears of those that cannot be opened.
func New(log *slog.Logger) *Ports { return &Ports{logging.Problems{Log: log}} }

// Serve serves a port, which name says for people what it is for, until ctx ends.
func (p *Ports) Serve(ctx context.Context, name, address string, handler http.Handler) {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	what := "the port for " + name + " is not served"
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if p.Note(what, err); err == nil {
			err = server.Serve(l)
		}
		if ctx.Err() == nil {
			p.Note(what, err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// Everywhere is a port on all addresses of the host.
func Everywhere(port int) string { return ":" + strconv.Itoa(port) }

// Local is a port that only the host itself reaches.
func Local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Profiles shows what the process does, and lets nobody change how it does it: whoever is on the node's network reaches
// the port, and an agent by the protocol of gops would let them switch the garbage collector off.
func Profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
