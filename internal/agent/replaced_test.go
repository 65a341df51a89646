package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// TestReplacedInTheMiddle: the agent is killed with 64 ADDs in flight, each at
// another step. The kubelet deletes their sandboxes and makes new ones.
func TestReplacedInTheMiddle(t *testing.T) {
	const pods = 64
	c := newCluster(t)
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.10-10.1.200.10"})
	var mu sync.Mutex
	var sent, fenced int
	var late []*v2beta1.SpiderIP
	inFlight := newGate()
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		mu.Lock()
		defer mu.Unlock()
		switch r.what {
		case fences:
			if fenced++; fenced > 2 { // the first ones are answered
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
			}
		case claims:
			sent++
			fate, err := sent%4, error(nil)
			if fate == 3 {
				late = append(late, r.object.DeepCopyObject().(*v2beta1.SpiderIP))
			} else if fate > 0 {
				err = send(context.WithoutCancel(ctx))
			}
			if sent == pods {
				inFlight.arrive()
			}
			if fate == 1 {
				return err
			}
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			return ctx.Err()
		}
		return send(ctx)
	}))
	all := make([]*corev1.Pod, pods)
	first := make([]*pending, pods)
	for i := range all {
		all[i] = c.pod(n, fmt.Sprint("p", i), c.from("v4|"))
		first[i] = n.adding(all[i], fmt.Sprint("old", i))
	}
	c.await("all claims are in flight", inFlight.reached)
	n.stop()
	for _, a := range first {
		<-a.done
	}
	landed := newGate()
	n.replace(secondLook(landed))
	second := make([]*pending, pods)
	for i, p := range all {
		n.deleted(p, fmt.Sprint("old", i))
		second[i] = n.adding(p, fmt.Sprint("new", i))
		if i < len(late) {
			if err := n.live.Create(t.Context(), late[i]); client.IgnoreAlreadyExists(err) != nil {
				t.Error(err)
			}
		}
	}
	var want []string
	for i, a := range second {
		want = append(want, fmt.Sprintf("%s n1/p%d eth0 new%d", strings.TrimSuffix(a.ips(t)[0], "/16"), i, i))
	}
	landed.open()
	n.done()
	slices.Sort(want)
	c.holds(strings.Join(want, "\n"))
}

// TestStopFinishesCalls: an agent that is to stop serves the ADDs that are under
// way; those that wait for an address are told to come again.
func TestStopFinishesCalls(t *testing.T) {
	c := newCluster(t)
	claim := newGate()
	n := c.machine("n1")
	n.durations.Stop, n.durations.Wait = requestWait, requestWait
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims && r.object.(*v2beta1.SpiderIP).Spec.Pod.Name == "web" {
			if err := claim.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.11"})
	c.pool("full", "10.1.1.0/24", []string{"10.1.1.10"})
	n.occupy("first", "full|")
	line := n.lineUp(1, "full|")
	web := n.adding(c.pod(n, "web", c.from("v4|")), "web")
	c.await("the ADD claims", claim.reached)
	stopped := make(chan struct{})
	go func() {
		n.stop()
		close(stopped)
	}()
	line[0].refused(t, wire.CodeTryAgain, "stopping")
	claim.open()
	web.ips(t)
	c.await("the agent stopped", stopped)
	n.start()
	n.del(web.pod, "web")
	c.holds("10.1.1.10 n1/first eth0 first")
}

// TestLateTakeOverOfAnAgentThatIsGone: an agent wrote a new container into an entry, was killed after that container's DEL,
// and the write arrives when the next agent has looked at the ledger once. The container is dead all the same.
func TestLateTakeOverOfAnAgentThatIsGone(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	sent, late, second := newGate(), make(chan *v2beta1.SpiderIP, 1), newGate()
	n.start(between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what != takeOvers {
			return send(ctx)
		}
		late <- r.object.DeepCopyObject().(*v2beta1.SpiderIP)
		_ = sent.pass(ctx)
		return errNoReply
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("one", "v4|")
	n.endNetns("one")
	two := n.adding(p, "two")
	c.await("the new container is written", sent.reached)
	n.deleted(p, "two")
	<-two.done
	n.replace(secondLook(second))
	if err := n.live.Update(t.Context(), <-late); err != nil {
		t.Fatal(err)
	}
	second.open()
	n.done()
	c.holds("")
}
