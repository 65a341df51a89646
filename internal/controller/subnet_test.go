package controller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
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

// TestSubnetStatus: what pools have of a SpiderSubnet stands in its status, follows them, and heals.
func TestSubnetStatus(t *testing.T) {
	c := newAutoTest(t)
	c.subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.0.99")
	c.leads()
	c.deployment("web", 1, "subnet", asksS4)
	byHand := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "by-hand", Labels: map[string]string{v2beta1.LabelOwnerSpiderSubnet: "s4"}},
		Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.90-10.6.0.92"}, ExcludeIPs: []string{"10.6.0.91"}}}
	s := &v2beta1.SpiderSubnet{}
	shows := func(what string, allocated int64, controlled string) {
		t.Helper()
		var last string
		c.eventually(what, func() bool {
			c.get("s4", s)
			var pools map[string]controlledPool
			if text := s.Status.ControlledIPPools; text != nil {
				if err := json.Unmarshal([]byte(*text), &pools); err != nil {
					t.Fatal(err)
				}
			}
			var lines []string
			for name, p := range pools {
				kind, _, _ := strings.Cut(name, "-eth0")
				lines = append(lines, fmt.Sprint(kind, " ", p.IPs, " ", p.Application))
			}
			slices.Sort(lines)
			last = strings.Join(lines, "\n")
			return last == controlled && ptr.Deref(s.Status.TotalIPCount, 0) == 90 && ptr.Deref(s.Status.AllocatedIPCount, -1) == allocated
		})
	}
	shows("the automatic pool", 2, "auto4-web [10.6.0.10-10.6.0.11] apps_v1_Deployment_shop_web")
	c.create(byHand)
	both := "auto4-web [10.6.0.10-10.6.0.11] apps_v1_Deployment_shop_web\nby-hand [10.6.0.90 10.6.0.92] "
	shows("both pools", 4, both)
	s.Status.ControlledIPPools, s.Status.AllocatedIPCount = new("{}"), new(int64(77))
	if err := c.Status().Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	shows("what was before somebody edited it", 4, both)
	c.removeApplications()
	shows("the one that was made by hand", 2, "by-hand [10.6.0.90 10.6.0.92] ")
	c.delete(byHand)
	shows("none", 0, "")
	if s.Status.ControlledIPPools != nil {
		t.Errorf("controlledIPPools is %q", *s.Status.ControlledIPPools)
	}
}

// TestSubnetStatusIsBounded: of very many pools the numbers are shown alone.
func TestSubnetStatusIsBounded(t *testing.T) {
	s := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: v2beta1.SubnetSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.1-10.6.255.0"}}}
	var pools []v2beta1.SpiderIPPool
	for i := range 2000 {
		pools = append(pools, v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("a-pool-with-a-name-", i), Labels: map[string]string{v2beta1.LabelOwnerSpiderSubnet: "s"}},
			Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{nth(i*2 + 1), nth(i*2 + 2)}}})
	}
	if few := subnetStatus(s, pools[:100]); few.ControlledIPPools == nil || *few.AllocatedIPCount != 200 {
		t.Errorf("%+v", few)
	}
	if many := subnetStatus(s, pools); many.ControlledIPPools != nil || *many.AllocatedIPCount != 4000 || *many.TotalIPCount != 65280 {
		t.Errorf("%+v", many)
	}
}
