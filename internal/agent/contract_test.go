package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/record"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestCallerThatDies: the plugin is killed between claim and fence. The ledger is empty again without a DEL.
func TestCallerThatDies(t *testing.T) {
	c := newCluster(t)
	fence := newGate()
	t.Cleanup(fence.open)
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == fences {
			if err := fence.pass(ctx); err != nil {
				return err
			}
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	ctx, kill := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = wire.Call(ctx, n.socket, &wire.Request{Verb: wire.VerbAdd, Network: "underlay", ContainerID: "web", Interface: "eth0", Netns: n.netns + "/web",
			Pod: wire.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}})
	}()
	c.await("the ADD is at the fence", fence.reached)
	c.holds("10.1.0.10 n1/web eth0 web")
	kill()
	c.await("the plugin is gone", done)
	c.holds("")
}

// TestCheckOfAnOldSandbox: what another container of the pod has taken over is not the first one's any more.
func TestCheckOfAnOldSandbox(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("old", "v4|")
	n.endNetns("old")
	n.add(p, "new")
	for container, code := range map[string]uint{"new": 0, "old": wire.CodeUnknownContainer, "none": wire.CodeUnknownContainer} {
		_, err := n.call(wire.VerbCheck, p, container, "eth0", holding("10.1.0.10"))
		var refused *wire.Error
		if errors.As(err, &refused); (err == nil) != (code == 0) || err != nil && refused.Code != code {
			t.Errorf("CHECK of %s: %v, want code %d", container, err, code)
		}
	}
}

// TestRetryWaitsNoLonger: a sandbox whose ADD has waited does not wait again.
func TestRetryWaitsNoLonger(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	n.occupy("first", "v4|")
	p := c.pod(n, "web", c.from("v4|"))
	for range 3 {
		n.adding(p, "web").refused(t, wire.CodeTryAgain, "0 free of 1")
	}
	waited := 0
	for events := n.agent.Events.(*record.FakeRecorder).Events; len(events) > 0; {
		if strings.Contains(<-events, "IPAllocationWaiting") {
			waited++
		}
	}
	if waited != 1 {
		t.Errorf("waited %d times", waited)
	}
}

// TestDelNeitherNotedNorDone: a DEL that cannot be noted on disk, nor done while the API server is away, is the one that fails.
func TestDelNeitherNotedNorDone(t *testing.T) {
	c := newCluster(t)
	var away atomic.Bool
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if away.Load() {
			return errRefused
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := n.occupy("web", "v4|")
	if err := os.WriteFile(wire.NotesDir(n.socket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	_, err := n.call(wire.VerbDel, p, "web", "eth0")
	var refused *wire.Error
	if !errors.As(err, &refused) || refused.Code != wire.CodeIO {
		t.Errorf("DEL: %v", err)
	}
	away.Store(false)
	n.deleted(p, "web")
	c.holds("")
}

// TestAnswerIsOfTheFence: gateway and routes are those of the pool after the claim, also if the watch has not brought them.
func TestAnswerIsOfTheFence(t *testing.T) {
	c := newCluster(t)
	v := apiserver.NewValve(t, "spiderippools")
	n := c.machine("n1")
	n.transport = v.Wrap
	n.start()
	v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, gateway("10.1.0.1"))
	n.knows(v4)
	v.Shut()
	c.edit(v4, func(p *v2beta1.SpiderIPPool) {
		p.Spec.Gateway, p.Spec.Routes = ptr("10.1.0.2"), []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "10.1.0.3"}}
	})
	reply, err := n.call(wire.VerbAdd, c.pod(n, "web", c.from("v4|")), "web", "eth0")
	if err != nil || reply.IPs[0].Gateway.String() != "10.1.0.2" || len(reply.Routes) != 2 || reply.Routes[0].GW.String() != "10.1.0.3" {
		t.Errorf("%+v, %v", reply, err)
	}
}
