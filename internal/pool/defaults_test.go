package pool

import (
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

func TestDefaultPool(t *testing.T) {
	long := strings.Repeat("n", 100)
	subnet := func(name string, edit ...func(*v2beta1.SpiderSubnet)) v2beta1.SpiderSubnet {
		s := v2beta1.SpiderSubnet{Spec: v2beta1.SubnetSpec{Subnet: "10.1.0.0/16", Gateway: ptr("10.1.0.1"), Routes: []v2beta1.Route{{Dst: "10.2.0.0/16", Gw: "10.1.0.2"}}}}
		s.Name, s.UID = name, "uid-of-a-subnet"
		for _, e := range edit {
			e(&s)
		}
		return s
	}
	going := func(s *v2beta1.SpiderSubnet) { s.DeletionTimestamp = ptr(metav1.Now()) }
	label := func(name string) func(*v2beta1.SpiderIPPool) {
		return func(p *v2beta1.SpiderIPPool) { p.Labels = map[string]string{v2beta1.LabelOwnerSpiderSubnet: name} }
	}
	for _, tt := range []struct {
		name    string
		pool    *v2beta1.SpiderIPPool
		subnets []v2beta1.SpiderSubnet
		owner   string // of the owner reference
		gateway string // inherited
	}{
		{"none", spec("10.1.0.0/16", nil), nil, "", ""},
		{"its subnet", spec("10.1.0.0/16", nil), []v2beta1.SpiderSubnet{subnet("b"), subnet("a")}, "a", "10.1.0.1"},
		{"the one that its label names", spec("10.1.0.0/16", nil, label("b")), []v2beta1.SpiderSubnet{subnet("b"), subnet("a")}, "b", ""},
		{"another subnet", spec("10.1.1.0/24", nil), []v2beta1.SpiderSubnet{subnet("a")}, "", ""},
		{"a subnet that is being deleted", spec("10.1.0.0/16", nil), []v2beta1.SpiderSubnet{subnet("a", going)}, "", ""},
		{"a name that is no label", spec("10.1.0.0/16", nil), []v2beta1.SpiderSubnet{subnet(long)}, long, "10.1.0.1"},
		{"its subnet as it was before it was restored from a backup", spec("10.1.0.0/16", nil, label("a"), func(p *v2beta1.SpiderIPPool) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderSubnet", Name: "a", UID: "old", Controller: ptr(true)}}
		}), []v2beta1.SpiderSubnet{subnet("a")}, "a", ""},
		{"a subnet without gateway", spec("10.1.0.0/16", nil), []v2beta1.SpiderSubnet{subnet("a", func(s *v2beta1.SpiderSubnet) { s.Spec.Gateway = nil })}, "a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.pool
			if !DefaultPool(p, tt.subnets) {
				t.Error("nothing was added")
			}
			if *p.Spec.IPVersion != 4 || !reflect.DeepEqual(p.Finalizers, []string{v2beta1.Finalizer}) {
				t.Errorf("%+v", p)
			}
			owner, gateway := "", ""
			if ref := metav1.GetControllerOf(p); ref != nil {
				owner = ref.Name
				if ref.UID != "uid-of-a-subnet" {
					t.Errorf("the garbage collector deletes the pool, for its owner has no UID %q", ref.UID)
				}
			}
			if p.Spec.Gateway != nil {
				gateway = *p.Spec.Gateway
			}
			if owner != tt.owner || gateway != tt.gateway {
				t.Errorf("owner %q, gateway %q, want %q, %q", owner, gateway, tt.owner, tt.gateway)
			}
			p.Spec.Gateway = nil // somebody means it
			again := p.DeepCopy()
			if DefaultPool(again, tt.subnets) || !reflect.DeepEqual(p, again) {
				t.Errorf("the second time it added something: %+v", again)
			}
		})
	}
}

func TestDefaultsAddNothing(t *testing.T) {
	going := metav1.ObjectMeta{DeletionTimestamp: ptr(metav1.Now())}
	for name, changed := range map[string]bool{
		"pool that is being deleted":        DefaultPool(&v2beta1.SpiderIPPool{ObjectMeta: going, Spec: v2beta1.IPPoolSpec{Subnet: "10.1.0.0/16"}}, nil),
		"subnet that is being deleted":      DefaultSubnet(&v2beta1.SpiderSubnet{ObjectMeta: going, Spec: v2beta1.SubnetSpec{Subnet: "10.1.0.0/16"}}),
		"reservation that is being deleted": DefaultReserved(&v2beta1.SpiderReservedIP{ObjectMeta: going, Spec: v2beta1.ReservedIPSpec{IPs: []string{"10.1.0.1"}}}),
		"reservation of nothing":            DefaultReserved(&v2beta1.SpiderReservedIP{}),
		"malformed reservation":             DefaultReserved(&v2beta1.SpiderReservedIP{Spec: v2beta1.ReservedIPSpec{IPs: []string{"?"}}}),
	} {
		if changed {
			t.Errorf("%s: something was added", name)
		}
	}
}
