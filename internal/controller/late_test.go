package controller

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestLateWrite: what the collection writes is not answered, and arrives when agents have done something else with the address.
// What they wrote stays.
func TestLateWrite(t *testing.T) {
	for _, write := range []string{"PATCH to quarantine", "DELETE"} {
		for _, tt := range []struct {
			meanwhile string
			do        func(agent *ledger.Ledger, ip *v2beta1.SpiderIP) error
			lands     bool
			pod       string // that has the address in the end
		}{
			{"nothing", func(*ledger.Ledger, *v2beta1.SpiderIP) error { return nil }, true, "gone"},
			{"its agent writes the pod's next container", func(agent *ledger.Ledger, ip *v2beta1.SpiderIP) error {
				ip.Spec.ContainerID, ip.Spec.Pod.UID, ip.Spec.Use = "next", uidOf(2), v2beta1.IPUsePod
				return agent.Update(t.Context(), ip)
			}, false, "gone"},
			{"its agent writes it as it was", func(agent *ledger.Ledger, ip *v2beta1.SpiderIP) error {
				ip.Spec.Use = v2beta1.IPUsePod
				return agent.Update(t.Context(), ip)
			}, false, "gone"},
			{"its agent frees it, and another pod gets it", func(agent *ledger.Ledger, ip *v2beta1.SpiderIP) error {
				next := &v2beta1.SpiderIP{Spec: ip.Spec}
				next.Spec.Pod.Name, next.Spec.Pod.UID, next.Spec.ContainerID = "other", uidOf(3), "other"
				next.Spec.Use = v2beta1.IPUsePod
				return errors.Join(agent.Release(t.Context(), ip), agent.Claim(t.Context(), next))
			}, false, "other"},
			{"its agent frees it", func(agent *ledger.Ledger, ip *v2beta1.SpiderIP) error { return agent.Release(t.Context(), ip) }, false, ""},
		} {
			t.Run(write+", meanwhile "+tt.meanwhile, func(t *testing.T) {
				c := newCollectTest(t, collectAll)
				c.pool("a", "10.6.0.10-10.6.0.99")
				var ip *v2beta1.SpiderIP
				if write == "DELETE" { // of a node that was deleted
					ip = c.holdOn("n1", "10.6.0.10", "gone", uidOf(1), inQuarantine(""))
				} else {
					c.nodeThat("n1", corev1.ConditionUnknown)
					ip = c.holdOn("n1", "10.6.0.10", "gone", uidOf(1))
				}
				late := c.delayWrites()
				c.watched()
				c.passAfter(0)
				if write == "DELETE" {
					c.passAfter(quarantineTime)
				}
				agent, err := apiclient.New(apiserver.AgentConfig(t, c.server, "n1"))
				if err == nil {
					err = tt.do(ledger.New(agent.Live), ip)
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(*late) != 1 {
					t.Fatalf("%d writes", len(*late))
				}
				if err := (*late)[0](); (err == nil) != tt.lands {
					t.Errorf("the late write: %v", err)
				}
				now := &v2beta1.SpiderIP{}
				err = c.cluster.Get(t.Context(), client.ObjectKey{Name: "10.6.0.10"}, now)
				if gone := tt.pod == "" || tt.lands && write == "DELETE"; gone != (client.IgnoreNotFound(err) == nil && err != nil) {
					t.Fatalf("the entry: %v", err)
				} else if gone {
					return
				}
				if quarantined := now.Spec.Use == v2beta1.IPUseQuarantine; now.Spec.Pod.Name != tt.pod || quarantined != tt.lands {
					t.Errorf("the entry says %+v", now.Spec)
				}
			})
		}
	}
}

// delayWrites keeps what the collection writes; each is sent when it is called.
func (c *collectTest) delayWrites() *[]func() error {
	var late []func() error
	noAnswer := errors.New("no answer")
	c.collection.ledger = ledger.New(interceptor.NewClient(c.Live.(client.WithWatch), interceptor.Funcs{
		Patch: func(_ context.Context, w client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
			o = o.DeepCopyObject().(client.Object)
			late = append(late, func() error { return w.Patch(context.Background(), o, p, options...) })
			return noAnswer
		},
		Delete: func(_ context.Context, w client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			o = o.DeepCopyObject().(client.Object)
			late = append(late, func() error { return w.Delete(context.Background(), o, options...) })
			return noAnswer
		},
	}))
	return &late
}
