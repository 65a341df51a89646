package agent

import (
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestOldViewOfAPool: the watch of the pools brings nothing, and an address that
// comes free was taken out of the pool. An ADD that waits must not claim it
// again and again.
func TestOldViewOfAPool(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	v := apiserver.NewValve(t, "spiderippools")
	n, other := c.machine("n1"), c.node("n2")
	n.durations.Wait = 6 * time.Second
	n.transport = v.Wrap
	n.start(requests.funcs())
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	n.knows(v4)
	first := other.occupy("first", "v4|", asking("10.1.0.10"))
	other.occupy("second", "v4|", asking("10.1.0.11"))
	w := n.lineUp(1, "v4|")[0]
	v.Shut()
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
	v := apiserver.NewValve(t, "spiderippools")
	n, other := c.machine("n1"), c.node("n2")
	n.durations.Wait = 6 * time.Second
	n.transport = v.Wrap
	n.start(requests.funcs())
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.knows(v4)
	first := other.occupy("first", "v4|")
	w := n.lineUp(1, "v4|")[0]
	v.Shut()
	c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	requests.reset()
	other.del(first, "first")
	w.refused(t, wire.CodeNoPool, "disabled")
	if tries := requests.of(claims); tries > 5 {
		t.Errorf("%d claims, %d updates, %d releases, %d LISTs in %s", tries, requests.of(takeOvers), requests.of(frees), requests.of(looks), w.took)
	}
}
