package agent

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestRestored: etcd is put back to an earlier state while containers live. Entries that were made since are gone, and entries
// that were deleted since are back. An agent of another node that is asked at once, before the one of a living container has
// noticed anything, gives no living address; in the end each living container has its entry, and what came back and nobody bears
// is free.
func TestRestored(t *testing.T) {
	for _, bump := range []uint64{0, 1_000_000_000} {
		t.Run(fmt.Sprint("revisions go on ", bump, " later"), func(t *testing.T) {
			t.Parallel() // each with an API server of its own
			server := apiserver.OwnForTest(t)
			c := clusterOf(t, server)
			cut := newGate() // until it opens, the way from the first node to the API server is cut
			cut.open()
			var way atomic.Pointer[gate]
			way.Store(cut)
			n1, n2 := c.machine("n1"), c.machine("n2")
			n1.transport = func(next http.RoundTripper) http.RoundTripper {
				return tripper(func(r *http.Request) (*http.Response, error) {
					select {
					case <-way.Load().opened:
						return next.RoundTrip(r)
					default:
						return nil, errRefused
					}
				})
			}
			for _, n := range []*node{n1, n2} {
				n.durations.Look, n.durations.Reassert = 300*time.Millisecond, 10*time.Second
				n.start()
			}
			c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.15"})
			n1.occupy("stays", "v4|", asking("10.1.0.10"))
			gone := n1.occupy("gone", "v4|", asking("10.1.0.11"))
			moved := n1.occupy("moved", "v4|", asking("10.1.0.12"))
			later := []*corev1.Pod{c.pod(n1, "new", c.from("v4|")), c.pod(n2, "heir", c.from("v4|")), c.pod(n2, "a", c.from("v4|")), c.pod(n2, "b", c.from("v4|")), c.pod(n2, "c", c.from("v4|"))}
			file := filepath.Join(t.TempDir(), "snapshot")
			if err := server.Snapshot(t.Context(), file); err != nil {
				t.Fatal(err)
			}
			n1.del(gone, "gone")
			n1.del(moved, "moved")
			n1.add(later[0], "new", asking("10.1.0.13"))
			n2.add(later[1], "heir", asking("10.1.0.12"))
			c.passTime()
			for _, n := range []*node{n1, n2} {
				n.agent.look(t.Context()) // as they do every 20 s
			}
			way.Store(newGate())
			if err := server.Restore(t.Context(), file, bump); err != nil {
				t.Fatal(err)
			}
			if want := "10.1.0.10 n1/stays eth0 stays\n10.1.0.11 n1/gone eth0 gone\n10.1.0.12 n1/moved eth0 moved"; c.held() != want {
				t.Fatalf("restored was %q, want %q", c.held(), want)
			}
			for _, p := range later[2:] {
				n2.adding(p, p.Name).refused(t, wire.CodeTryAgain, "earlier state")
			}
			way.Load().open()
			living := "10.1.0.10 n1/stays eth0 stays\n10.1.0.12 n2/heir eth0 heir\n10.1.0.13 n1/new eth0 new"
			c.holds(living)
			n2.eventually("new addresses are given again", func() bool { return time.Since(n2.agent.Facts.PutBack()) > n2.durations.Reassert })
			got := map[string]bool{}
			for _, p := range later[2:] {
				got[n2.add(p, p.Name)[0]] = true
			}
			if len(got) != 3 || !got["10.1.0.11/24"] || !got["10.1.0.14/24"] || !got["10.1.0.15/24"] {
				t.Errorf("%v were given, want the free ones: .11, .14 and .15", got)
			}
			for _, line := range strings.Split(living, "\n") {
				if !strings.Contains(c.held(), line) {
					t.Errorf("%s: not in the ledger: %s", line, c.held())
				}
			}
		})
	}
}

// passTime has other writes be made, as in a cluster within a second.
func (c *cluster) passTime() {
	c.t.Helper()
	namespace := &corev1.Namespace{}
	namespace.Name = c.prefix
	for i := range 1500 {
		if err := c.Patch(c.t.Context(), namespace, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{"i":"%d"}}}`, i))); err != nil {
			c.t.Fatal(err)
		}
	}
}
