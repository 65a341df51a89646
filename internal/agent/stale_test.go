package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestTwoPoolsOneAddress: two nodes claim it at the same moment, each from
// another pool.
func TestTwoPoolsOneAddress(t *testing.T) {
	c := newCluster(t)
	var both sync.WaitGroup
	both.Add(2)
	nodes := make([]*node, 2)
	answers := make([]*pending, 2)
	for i := range nodes {
		arrive := sync.OnceFunc(func() {
			both.Done()
			both.Wait()
		})
		nodes[i] = c.node(fmt.Sprint("n", i), between(func(ctx context.Context, r request, send func(context.Context) error) error {
			if r.what == claims {
				arrive()
			}
			return send(ctx)
		}))
	}
	for i, n := range nodes {
		c.pool(fmt.Sprint("v", i), "10.1.0.0/24", []string{"10.1.0.10"})
		name := fmt.Sprint("p", i)
		answers[i] = n.adding(c.pod(n, name, c.from(fmt.Sprint("v", i, "|"))), name)
	}
	for i := range answers {
		<-answers[i].done
	}
	winner := slices.IndexFunc(answers, func(a *pending) bool { return a.err == nil })
	if winner < 0 {
		t.Fatalf("none was served: %v, %v", answers[0].err, answers[1].err)
	}
	answers[1-winner].refused(t, wire.CodeTryAgain, "used out: 0 free of 1")
	nodes[1-winner].del(answers[1-winner].pod, answers[1-winner].pod.Name)
	if want := fmt.Sprintf("10.1.0.10 n%d/p%d eth0 p%d", winner, winner, winner); c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// TestPoolMadeAgain: addresses that pods hold stay theirs when their pool is
// deleted and another one of its name is made.
func TestPoolMadeAgain(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	ips := []string{"10.1.0.10-10.1.0.12"}
	old := c.pool("v4", "10.1.0.0/24", ips)
	p := c.pod(n, "p", c.from("v4|"))
	had := n.add(p, "p")
	n.add(c.pod(n, "q", c.from("v4|")), "q")
	if err := c.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	n.knows(c.pool("v4", "10.1.0.0/24", ips))
	before := c.held()
	last := n.add(c.pod(n, "r", c.from("v4|")), "r")
	if strings.Contains(before, strings.TrimSuffix(last[0], "24")) {
		t.Errorf("a new pod got %v of %s", last, before)
	}
	n.adding(c.pod(n, "s", c.from("v4|")), "s").refused(t, wire.CodeTryAgain, "0 free of 3")
	n.endNetns("p")
	if again := n.add(p, "p2"); !slices.Equal(again, had) {
		t.Errorf("a new sandbox got %v, its pod had %v", again, had)
	}
}

// TestStalePool: the agent's watch of pools is behind. An edit that grew the
// pool may be seen late; an address outside of the live pool is never answered.
func TestStalePool(t *testing.T) {
	setup := func(t *testing.T, ips ...string) (*apiserver.Valve, *node, *v2beta1.SpiderIPPool) {
		c := newCluster(t)
		v := apiserver.NewValve(t, "spiderippools")
		n := c.machine("n1")
		n.transport, n.durations.Wait = v.Wrap, requestWait
		n.start()
		p4 := c.pool("v4", "10.1.0.0/24", ips)
		n.knows(p4)
		v.Shut()
		return v, n, p4
	}
	t.Run("grown", func(t *testing.T) {
		v, n, p4 := setup(t, "10.1.0.10")
		n.add(n.pod(n, "p", n.from("v4|")), "p")
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.10-10.1.0.11"} })
		late := n.adding(n.pod(n, "q", n.from("v4|")), "q")
		n.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })
		v.Open()
		if got := late.ips(t); got[0] != "10.1.0.11/24" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("shrunk", func(t *testing.T) {
		_, n, p4 := setup(t, "10.1.0.10", "10.1.0.20")
		p := n.pod(n, "p", n.from("v4|"))
		if n.add(p, "p", asking("10.1.0.20"))[0] != "10.1.0.20/24" {
			t.Fatal("not the address that was asked for")
		}
		n.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} })
		late := n.adding(n.pod(n, "q", n.from("v4|")), "q")
		n.eventually("the ADD is in line", func() bool { return n.agent.allocation.Waiting() == 1 })
		n.del(p, "p")
		if got := late.ips(t); got[0] != "10.1.0.20/24" {
			t.Errorf("got %v, which the pool has no more", got)
		}
		n.holds("10.1.0.20 n1/q eth0 q")
	})
	t.Run("made", func(t *testing.T) {
		_, n, _ := setup(t, "10.1.0.10")
		n.pool("new", "10.2.0.0/24", []string{"10.2.0.10"})
		if got := n.add(n.pod(n, "p", n.from("new|")), "p"); got[0] != "10.2.0.10/24" {
			t.Errorf("got %v", got)
		}
	})
}

// TestStalePod: the agent's watch of pods is behind and shows an earlier pod of
// the same name. The ADD serves the pod that there is.
func TestStalePod(t *testing.T) {
	c := newCluster(t)
	v := apiserver.NewValve(t, "pods")
	n := c.machine("n1")
	n.transport = v.Wrap
	n.start()
	c.pool("old", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("new", "10.2.0.0/24", []string{"10.2.0.10"})
	before := c.pod(n, "web", c.from("old|"))
	n.add(before, "c1")
	v.Shut()
	if err := c.Delete(t.Context(), before, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	n.del(before, "c1")
	p := c.pod(n, "web", c.from("new|"))
	if got := n.add(p, "c2"); got[0] != "10.2.0.10/24" {
		t.Errorf("got %v, as the earlier pod asked for", got)
	}
	if n.agent.Facts.CachedPod(t.Context(), client.ObjectKeyFromObject(p), string(p.UID)) != nil {
		t.Error("the watch was not behind")
	}
	n.del(p, "c2")
	c.holds("")
}
