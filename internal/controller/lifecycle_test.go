package controller

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestNotAdmitted: a pool that was stored without the webhook gets what that would
// have added, and people are told.
func TestNotAdmitted(t *testing.T) {
	c := newCluster(t)
	l := c.lead()
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	p.Spec.Subnet, p.Spec.IPs = "fd00:10::/64", []string{"fd00:10::1-fd00:10::9"}
	c.create(p)
	p = c.status("a", unused(9))
	if p.Labels[v2beta1.LabelIPPoolCIDR] != "fd00-10---64" || *p.Spec.IPVersion != 6 || len(p.Finalizers) != 1 {
		t.Errorf("%v %v %v", p.Labels, p.Spec.IPVersion, p.Finalizers)
	}
	if e := <-l.events.Events; !strings.HasPrefix(e, "Warning NotAdmitted") {
		t.Error(e)
	}
}

// TestOlderLedger: a pool that is still the ledger of an older Spiderpool is left
// as it is, and that is said once; after it was moved over it is a pool like others.
func TestOlderLedger(t *testing.T) {
	c := newCluster(t)
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	p.Spec.Subnet, p.Spec.IPs = "10.6.0.0/16", []string{"10.6.0.10-10.6.0.19"}
	c.create(p)
	const text = `{"10.6.0.10":{"pod":"ns/p","podUid":"u"}}`
	c.editStatus("a", func(s *v2beta1.IPPoolStatus) { old := text; s.AllocatedIPs = &old })
	c.get("a", p)
	c.reserve("r", "10.6.0.11")
	l := c.lead()
	c.pool("b", "10.6.1.10-10.6.1.19")
	c.status("b", unused(10))
	now := c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Labels = map[string]string{"x": "y"} })
	c.claim("a", "10.6.0.10")
	l.quiet()
	c.get("a", now)
	p.Labels, p.ResourceVersion, p.ManagedFields, now.ResourceVersion, now.ManagedFields = now.Labels, "", nil, "", nil
	if diff := cmp.Diff(p, now); diff != "" {
		t.Error(diff)
	}
	for _, line := range l.requests.take() {
		if strings.Contains(line, "spiderippools/a") || strings.Contains(line, "spec.pool=a") {
			t.Error(line)
		}
	}
	if len(l.events.Events) != 1 {
		t.Errorf("%d events", len(l.events.Events))
	}
	c.editStatus("a", func(s *v2beta1.IPPoolStatus) { s.AllocatedIPs = nil })
	c.eventually("its status", func() bool {
		p := &v2beta1.SpiderIPPool{}
		c.get("a", p)
		return observed(p) && *p.Status.AllocatedIPCount == 1
	})
}

func (c *cluster) gone(name string) bool {
	return apierrors.IsNotFound(c.Get(c.t.Context(), client.ObjectKey{Name: name}, &v2beta1.SpiderIPPool{}))
}

// TestDelete: a pool that is deleted keeps its holders and goes with the last.
func TestDelete(t *testing.T) {
	c := newCluster(t)
	p := c.pool("a", "10.6.0.10-10.6.0.19")
	one, two := c.claim("a", "10.6.0.10"), c.claim("a", "10.6.0.12")
	l := c.lead()
	c.status("a", inUse(2, 10))
	c.delete(p)
	const deleting = " Ready=False/Deleting Draining=True/Deleting Malformed=False/ValidSpec"
	c.status("a", "2 of 10, draining 2 [10.6.0.10 10.6.0.12]"+deleting)
	c.release(one)
	c.status("a", "1 of 10, draining 1 [10.6.0.12]"+deleting)
	l.quiet()
	l.requests.take()
	c.release(two)
	c.eventually("it is gone", func() bool { return c.gone("a") })
	l.quiet()
	if diff := cmp.Diff([]string{"GET spiderips?spec.pool=a", "PATCH spiderippools/a"}, l.requests.take()); diff != "" {
		t.Error(diff)
	}

	c.pool("empty", "10.6.1.10-10.6.1.19")
	c.status("empty", unused(10))
	c.delete(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "empty"}})
	c.eventually("the empty one is gone", func() bool { return c.gone("empty") })
}

// TestMadeAgain: a pool whose deletion was forced while pods held addresses of it,
// and that is made again, has them in its counts.
func TestMadeAgain(t *testing.T) {
	c := newCluster(t)
	c.pool("a", "10.6.0.10-10.6.0.19")
	c.claim("a", "10.6.0.10")
	out := c.claim("a", "10.6.0.11")
	l := c.lead()
	c.status("a", inUse(2, 10))
	p := c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Finalizers = append(p.Finalizers, "test/keep") })
	c.delete(p)
	c.status("a", "2 of 10, draining 2 [10.6.0.10-10.6.0.11] Ready=False/Deleting Draining=True/Deleting Malformed=False/ValidSpec")
	c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Finalizers = nil })
	c.eventually("the pool is gone", func() bool { return c.gone("a") })
	c.eventually("its addresses are told without it", func() bool {
		return l.value(t, "spiderpool_pool_used_ips", "pool", "a") == 2 && l.value(t, "spiderpool_pool_total_ips", "pool", "a") == 0
	})
	c.pool("a", "10.6.0.10", "10.6.0.12-10.6.0.19")
	c.status("a", "2 of 9, draining 1 [10.6.0.11] Ready=True/Serving Draining=True/OutsidePool Malformed=False/ValidSpec")
	c.release(out)
	c.status("a", inUse(1, 9))
}
