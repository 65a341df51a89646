package agent

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// still is the body of a watch that brings nothing any more once it is frozen.
type still struct {
	io.ReadCloser
	frozen *atomic.Bool
	over   <-chan struct{}
}

func (s *still) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if s.frozen.Load() {
		<-s.over
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// freezesPools lets the watch of the pools bring nothing once frozen is set.
func (n *node) freezesPools(frozen *atomic.Bool) {
	n.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && strings.Contains(r.URL.Path, "spiderippools") && r.URL.Query().Get("watch") != "" {
				resp.Body = &still{resp.Body, frozen, r.Context().Done()}
			}
			return resp, err
		})
	}
}

// TestOldViewOfAPool: the watch of the pools brings nothing, and an address that
// comes free was taken out of the pool. An ADD that waits must not claim it
// again and again.
func TestOldViewOfAPool(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	var frozen atomic.Bool
	n, other := c.machine("n1"), c.node("n2")
	n.durations.Wait = 6 * time.Second
	n.freezesPools(&frozen)
	n.start(requests.funcs())
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	n.knows(v4)
	first := other.occupy("first", "v4|", asking("10.1.0.10"))
	other.occupy("second", "v4|", asking("10.1.0.11"))
	w := n.lineUp(1, "v4|")[0]
	frozen.Store(true)
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.10"} })
	requests.reset()
	other.del(first, "first")
	<-w.done
	if tries := requests.of(claims); tries > 5 {
		t.Errorf("%d claims, %d updates, %d releases, %d LISTs in %s", tries, requests.of(takeOvers), requests.of(frees), requests.of(looks), w.took)
	}
}

// TestDisabledWhileTheViewIsOld: the same with a pool that was disabled: the ADD
// is told so.
func TestDisabledWhileTheViewIsOld(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	var frozen atomic.Bool
	n, other := c.machine("n1"), c.node("n2")
	n.durations.Wait = 6 * time.Second
	n.freezesPools(&frozen)
	n.start(requests.funcs())
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.knows(v4)
	first := other.occupy("first", "v4|")
	w := n.lineUp(1, "v4|")[0]
	frozen.Store(true)
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	requests.reset()
	other.del(first, "first")
	w.refused(t, wire.CodeNoPool, "disabled")
	if tries := requests.of(claims); tries > 5 {
		t.Errorf("%d claims, %d updates, %d releases, %d LISTs in %s", tries, requests.of(takeOvers), requests.of(frees), requests.of(looks), w.took)
	}
}
