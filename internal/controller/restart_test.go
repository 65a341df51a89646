package controller

import (
	"testing"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestAPIServerRestarts: a leader lives on while the API server is away, and what
// changed meanwhile is in the status when it is back.
func TestAPIServerRestarts(t *testing.T) {
	server := apiserver.OwnForTest(t)
	c := clusterOf(t, server)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.claim("a", "10.6.0.10")
	c.lead()
	c.status("a", inUse(1, 10))
	if err := server.KillAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.claim("a", "10.6.0.12")
	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.6.0.12"} })
	c.status("a", "2 of 9, draining 1 [10.6.0.12] Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec")
}
