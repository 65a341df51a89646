package controller

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// TestSubnet: a SpiderSubnet that was stored without the webhook gets what that adds; one that is deleted stays as long as
// pools are in it, says which, and goes with the last.
func TestSubnet(t *testing.T) {
	c := newCluster(t)
	l := c.lead()
	s := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: v2beta1.SubnetSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.10-10.6.0.90"}}}
	c.create(s)
	c.eventually("it has what admission adds", func() bool {
		c.get("s", s)
		return len(s.Finalizers) == 1 && s.Spec.IPVersion != nil && s.Labels[v2beta1.LabelSubnetCIDR] == "10-6-0-0-16"
	})
	if e := <-l.events.Events; !strings.HasPrefix(e, "Warning NotAdmitted") {
		t.Error(e)
	}
	byOwner := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "by-owner"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.10"}}}
	pool.DefaultPool(byOwner, []v2beta1.SpiderSubnet{*s})
	byOwner.Labels = nil // a name may be too long for a label
	c.create(byOwner)
	byLabel := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "by-label", Labels: map[string]string{v2beta1.LabelOwnerSpiderSubnet: "s"}},
		Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.11"}}}
	c.create(byLabel)
	c.pool("another", "10.6.0.12")
	c.status("by-owner", unused(1))
	c.status("by-label", unused(1))
	c.delete(s)
	c.eventually("it says for whom it waits", func() bool {
		select {
		case e := <-l.events.Events:
			return strings.Contains(e, "Normal Deleting it goes when its pools are gone: by-label, by-owner")
		default:
			return false
		}
	})
	c.delete(byOwner)
	c.eventually("the pool is gone", func() bool { return c.gone("by-owner") })
	l.quiet()
	if c.goneSubnet("s") {
		t.Error("it is gone before its last pool")
	}
	c.get("by-label", byLabel)
	byLabel.Labels = nil // it was not of this subnet
	if err := c.Update(t.Context(), byLabel); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is gone", func() bool { return c.goneSubnet("s") })
}

func (c *cluster) goneSubnet(name string) bool {
	return apierrors.IsNotFound(c.Get(c.t.Context(), client.ObjectKey{Name: name}, &v2beta1.SpiderSubnet{}))
}

// TestReservedIP: so does a SpiderReservedIP.
func TestReservedIP(t *testing.T) {
	c := newCluster(t)
	c.lead()
	r := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: v2beta1.ReservedIPSpec{IPs: []string{"fd00::1"}}}
	c.create(r)
	c.eventually("it has its family", func() bool {
		c.get("r", r)
		return r.Spec.IPVersion != nil && *r.Spec.IPVersion == 6
	})
}
