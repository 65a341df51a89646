package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// TestChurn: short jobs follow each other on two nodes and want together exactly what the pool has. That an address which came
// free rests for a minute costs nobody anything: no ADD is refused or waits, however often all addresses are used in that minute.
func TestChurn(t *testing.T) {
	const size = 4
	turns := 60
	if *soak {
		turns = 2500 // 10,000 pods
	}
	c := newCluster(t)
	nodes := []*node{c.node("n1"), c.node("n2")}
	v4 := c.pool("v4", "10.1.0.0/24", []string{fmt.Sprintf("10.1.0.1-10.1.0.%d", size)})
	var jobs sync.WaitGroup
	for _, n := range nodes {
		n.knows(v4)
		for slot := range size / len(nodes) {
			p := c.pod(n, fmt.Sprint(n.name, "-job", slot), c.from("v4|"))
			jobs.Go(func() {
				for turn := range turns {
					if err := n.job(p, fmt.Sprint(p.Name, "-", turn)); err != nil {
						t.Errorf("turn %d of %s: %v", turn, p.Name, err)
						return
					}
				}
			})
		}
	}
	jobs.Wait()
	c.holds("")
	for _, n := range nodes {
		for events := n.agent.Events.(*record.FakeRecorder).Events; len(events) > 0; {
			if e := <-events; strings.Contains(e, "IPAllocation") {
				t.Error(e)
			}
		}
	}
}

// TestFreedBetweenTryAndLIST: the only address of a pool is another's when an ADD tries it, and free when the LIST is answered. The
// ADD gets it and does not wait.
func TestFreedBetweenTryAndLIST(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.machine("n1"), c.node("n2")
	other := c.pod(n2, "other", c.from("v4|"))
	free := sync.OnceFunc(func() { n2.del(other, "other") })
	n1.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Query().Get("fieldSelector"), "spec.pool=") {
				free()
			}
			return next.RoundTrip(r)
		})
	}
	n1.start()
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.1"})
	n2.add(other, "other")
	n1.knows(v4)
	n1.add(c.pod(n1, "web", c.from("v4|")), "web")
	for events := n1.agent.Events.(*record.FakeRecorder).Events; len(events) > 0; {
		if e := <-events; strings.Contains(e, "IPAllocation") {
			t.Error(e)
		}
	}
}

// TestFreedAddressRests: as long as there are others, an address that came free is not given again.
func TestFreedAddressRests(t *testing.T) {
	const size = 12
	c := newCluster(t)
	n := c.node("n1")
	n.knows(c.pool("v4", "10.1.0.0/24", []string{fmt.Sprintf("10.1.0.1-10.1.0.%d", size)}))
	p := c.pod(n, "job", c.from("v4|"))
	turn := map[string]int{}
	for i := range size {
		container := fmt.Sprint("c", i)
		got := n.add(p, container)[0]
		if last, again := turn[got]; again {
			t.Errorf("turn %d has %s of turn %d, and %d addresses were not used yet", i, got, last, size-len(turn))
		}
		turn[got] = i
		n.del(p, container)
	}
	n.add(p, "one more") // all rest, and it gets one
}

// job runs a container of a pod, from its ADD until its address is free.
func (n *node) job(p *corev1.Pod, container string) error {
	if _, err := n.call(wire.VerbAdd, p, container, "eth0"); err != nil {
		return err
	}
	if _, err := n.call(wire.VerbDel, p, container, "eth0"); err != nil {
		return err
	}
	n.endNetns(container)
	return wait.PollUntilContextTimeout(n.t.Context(), time.Millisecond, requestWait, true, func(ctx context.Context) (bool, error) {
		var list v2beta1.SpiderIPList
		err := n.live.List(ctx, &list)
		return !slices.ContainsFunc(list.Items, func(e v2beta1.SpiderIP) bool { return e.Spec.ContainerID == container }), err
	})
}
