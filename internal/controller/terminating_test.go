package controller

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
)

// TestTerminatingOnDeadNode: a node is lost, and one of its pods is terminating for an hour with a grace period of 5 min. Its
// address is in quarantine when the grace period and the delay are over, which is told once; that of the pod beside it, which
// nobody deletes, is never touched. If the node comes back before, its agent gets its minute to free the address by itself.
func TestTerminatingOnDeadNode(t *testing.T) {
	const (
		held        = "10.6.0.10 Pod\n10.6.0.11 Pod"
		quarantined = "10.6.0.10 Quarantine\n10.6.0.11 Pod"
		count       = "collected_total quarantine policy pod_terminating 1\nip_gc_counts 1"
		told        = "Normal AddressQuarantined 10.6.0.10 of pod shop/going: pod shop/going is terminating beyond its grace period and node n1 is not ready: " +
			"another pod may have it once it is silent on the link"
		toldReady = "Normal AddressQuarantined 10.6.0.10 of pod shop/going: pod shop/going is terminating beyond its grace period and node n1 is ready, " +
			"and its agent has not freed it for 1m0s: another pod may have it once it is silent on the link"
	)
	for _, tt := range []struct {
		name   string
		change func(*config.GC)
		// back is when the node comes back, frees whether its agent then frees the address.
		back  time.Duration
		frees bool
		// kept is until when the address is the pod's, zero for ever; then, metrics and events are what there is after the hour.
		kept                  time.Duration
		then, metrics, events string
	}{
		{"by default", func(*config.GC) {}, 0, false, 5 * time.Minute, quarantined, count, told},
		{"with a delay of 10 min", func(gc *config.GC) { gc.GraceDelay = 10 * time.Minute }, 0, false, 15 * time.Minute, quarantined, count, told},
		{"switched off for nodes that are not ready", func(gc *config.GC) { gc.TerminatingOnNotReadyNode = false }, 0, false, 0, held, "", ""},
		{"switched off for nodes that are ready", func(gc *config.GC) { gc.TerminatingOnReadyNode = false }, 0, false, 5 * time.Minute, quarantined, count, told},
		{"dry run", func(gc *config.GC) { gc.DryRun = true }, 0, false, 0, held, "collection_dry_run_total quarantine policy pod_terminating 1", ""},
		{"the node comes back in time, and its agent frees it", func(*config.GC) {}, 4 * time.Minute, true, 0, "10.6.0.11 Pod", "", ""},
		{"the node comes back in time, and its agent does nothing", func(*config.GC) {}, 4 * time.Minute, false, 6 * time.Minute, quarantined, count, toldReady},
		{"the node comes back late", func(*config.GC) {}, 30 * time.Minute, false, 5 * time.Minute, quarantined, count, told},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gc := collectAll
			tt.change(&gc)
			c := newCollectTest(t, gc)
			c.pool("a", "10.6.0.10-10.6.0.99")
			node := c.nodeThat("n1", corev1.ConditionUnknown)
			going, lives := c.podOn("n1", "going"), c.podOn("n1", "lives")
			c.holdOn("n1", "10.6.0.10", "going", string(going.UID))
			c.holdOn("n1", "10.6.0.11", "lives", string(lives.UID))
			if err := c.Delete(t.Context(), going, client.GracePeriodSeconds(300)); err != nil {
				t.Fatal(err)
			}
			const step = time.Minute
			for now := time.Duration(0); now <= time.Hour; now += step {
				if tt.back > 0 && now == tt.back {
					node.Status.Conditions[0].Status = corev1.ConditionTrue
					if err := c.Status().Update(t.Context(), node); err != nil {
						t.Fatal(err)
					}
					if tt.frees {
						c.free("10.6.0.10")
					}
				}
				c.watched()
				c.passAfter(min(now, step))
				if got := c.uses(); !tt.frees && (got == held) != (tt.kept == 0 || now < tt.kept) {
					t.Fatalf("after %s: %s", now, got)
				}
			}
			c.equal("held after an hour", c.uses(), tt.then)
			c.equal("metrics", c.numbers(), tt.metrics)
			c.equal("events", c.told(), tt.events)
			c.delete(node)
			c.watched()
			c.passAfter(0) // from now on it waits for the grace period anew
			c.passAfter(time.Hour)
			want := "10.6.0.11 Pod"
			if gc.DryRun || !gc.TerminatingOnNotReadyNode {
				want = held
			}
			c.equal("held when the node is deleted", c.uses(), want)
		})
	}
}

// free deletes an entry as its agent does.
func (c *cluster) free(address string) {
	c.t.Helper()
	ip := &v2beta1.SpiderIP{}
	c.get(address, ip)
	c.release(ip)
}
