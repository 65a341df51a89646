package agent

import (
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestHugePool: the first ADD on a pool of 2^64 addresses and the three hundredth, with -soak the thousandth, cost the API server
// what the first on a /24 costs.
func TestHugePool(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n := c.node("n1", requests.funcs())
	c.pool("small", "10.1.0.0/24", []string{"10.1.0.1-10.1.0.254"})
	c.pool("huge", "fd01::/64", []string{"fd01::-fd01::ffff:ffff:ffff:ffff"})
	cost := func(name, pools string) string {
		p := c.pod(n, name, c.from(pools))
		c.eventually("the watch has brought "+name, func() bool {
			return n.agent.Facts.CachedPod(t.Context(), client.ObjectKeyFromObject(p), string(p.UID)) != nil
		})
		requests.reset()
		got := n.add(p, name)
		c.endpoint(p, got[0])
		return requests.String()
	}
	want := cost("small", "small|")
	if first := cost("first", "|huge"); first != want {
		t.Errorf("first ADD: %s, on a /24 %s", first, want)
	}
	// The attachments of one pod serve as well as so many pods, and quicker.
	taken := 298 // more than the pool of IPv4 has
	if *soak {
		taken = 998
	}
	many := c.pod(n, "many", c.from("|huge"))
	for i := range taken {
		if _, err := n.call("ADD", many, "many", fmt.Sprintf("net%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("the endpoint lists them all", func() bool {
		e := &v2beta1.SpiderEndpoint{}
		return c.Get(t.Context(), client.ObjectKeyFromObject(many), e) == nil && len(e.Status.Current.IPs) == taken
	})
	if last := cost("last", "|huge"); last != want {
		t.Errorf("ADD of the address after %d others: %s, on a /24 %s", taken+1, last, want)
	}
}
