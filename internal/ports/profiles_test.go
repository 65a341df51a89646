package ports

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
)

// TestProfiles: they are read over HTTP, and what makes an agent of gops set its garbage collector changes nothing.
func TestProfiles(t *testing.T) {
	server := httptest.NewServer(Profiles())
	defer server.Close()
	for _, tc := range []struct {
		path, want string
		code       int
	}{
		{"/debug/pprof/goroutine?debug=2", "TestProfiles", http.StatusOK},
		{"/debug/pprof/heap?debug=1", "heap profile", http.StatusOK},
		{"/debug/pprof/nothing", "Unknown profile", http.StatusNotFound},
		{"/", "", http.StatusNotFound},
	} {
		answer, err := server.Client().Get(server.URL + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if answer.Body.Close(); err != nil || answer.StatusCode != tc.code || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s: %d %v %.200s", tc.path, answer.StatusCode, err, body)
		}
	}

	was := debug.SetGCPercent(77)
	defer debug.SetGCPercent(was)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("\x10\x01\r\n\r\n")); err != nil { // SetGCPercent, -1: off
		t.Fatal(err)
	}
	_, _ = io.ReadAll(conn)
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the garbage collector is set to %d", got)
	}
}
