package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestPortInUse: a port that is in use is told of, keeps nobody from working, and is served once it is free.
func TestPortInUse(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := other.Addr().String()
	p := &ports{problems{log: slog.New(slog.DiscardHandler)}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.serve(ctx, "metrics", address, http.NotFoundHandler())
	}()
	eventually(t, "it is told of", func() bool {
		return strings.Contains(p.Problem(), "metrics") && strings.Contains(p.Problem(), address)
	})
	_ = other.Close()
	eventually(t, "it is served", func() bool {
		answer, err := http.Get("http://" + address)
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil && p.Problem() == ""
	})
	cancel()
	<-done
}
