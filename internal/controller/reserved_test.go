package controller

import (
	"slices"
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// reservedIs waits until a pool's annotation reads so and is judged.
func (c *cluster) reservedIs(pool, want string) {
	c.t.Helper()
	p := &v2beta1.SpiderIPPool{}
	c.eventually(pool+" reserves "+want, func() bool {
		c.get(pool, p)
		_, has := p.Annotations[v2beta1.AnnotationReserved]
		return p.Annotations[v2beta1.AnnotationReserved] == want && observed(p) && has == (want != "")
	})
}

// TestReservedAnnotation: what SpiderReservedIPs and nodes keep from a pool stands
// in it, as the pool, the reservations and the nodes change.
func TestReservedAnnotation(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.6.0.15"} })
	c.pool("b", "10.6.1.10-10.6.1.19")
	c.lead()
	c.reservedIs("a", "")
	r := c.reserve("r", "10.6.0.1-10.6.0.10", "10.6.0.14-10.6.0.16")
	c.reservedIs("a", "10.6.0.10,10.6.0.14,10.6.0.16")
	c.reservedIs("b", "")

	n := c.node("n1", "10.6.0.11", "10.6.1.12", "192.168.0.1", "fd00::1")
	c.reservedIs("a", "10.6.0.10-10.6.0.11,10.6.0.14,10.6.0.16")
	c.reservedIs("b", "10.6.1.12")
	c.address(n, "10.6.0.12")
	c.reservedIs("a", "10.6.0.10,10.6.0.12,10.6.0.14,10.6.0.16")
	c.reservedIs("b", "")

	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.6.0.12-10.6.0.30"} })
	c.reservedIs("a", "10.6.0.12,10.6.0.14,10.6.0.16")
	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Annotations[v2beta1.AnnotationReserved] = "nonsense" })
	c.reservedIs("a", "10.6.0.12,10.6.0.14,10.6.0.16")

	r.Spec.IPs = []string{"10.6.0.25-10.6.0.99"}
	if err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	c.reservedIs("a", "10.6.0.12,10.6.0.25-10.6.0.30")
	c.delete(r)
	c.reservedIs("a", "10.6.0.12")
	c.delete(n)
	c.reservedIs("a", "")
}

// TestReservedCostsWhatItCuts: an edit of a reservation touches the pools that it
// cuts, and no other.
func TestReservedCostsWhatItCuts(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.pool("b", "10.6.1.10-10.6.1.19")
	c.pool("c", "10.6.2.10-10.6.2.19")
	l := c.lead()
	r := c.reserve("r", "10.6.0.10", "10.6.1.10")
	c.reservedIs("a", "10.6.0.10")
	c.reservedIs("b", "10.6.1.10")
	l.quiet()
	l.requests.take()
	r.Spec.IPs = []string{"10.6.0.10", "10.6.1.11"}
	if err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	c.reservedIs("b", "10.6.1.11")
	l.quiet()
	if got := l.requests.take(); !slices.Equal(got, []string{"PATCH spiderippools/b", "GET spiderips?spec.pool=b", "PUT spiderippools/b/status"}) {
		t.Errorf("requests %q", got)
	}
}
