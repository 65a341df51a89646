package cni_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// sandbox is one sandbox of a pod, and what the container runtime knows of it.
type sandbox struct {
	*namespace
	host *host
	pod  *corev1.Pod
	list *libcni.NetworkConfigList
	conf libcni.RuntimeConf
	// addresses are those of the last ADD that succeeded; none after DEL.
	addresses []netip.Addr
}

// sandbox makes a new pod with a sandbox.
func (h *host) sandbox(t *testing.T, network []byte) *sandbox {
	t.Helper()
	return h.sandboxOf(t, h.cluster.pod(t, h.node), network)
}

// sandboxOf makes a sandbox of a pod. The arguments are those that container
// runtimes give.
func (h *host) sandboxOf(t *testing.T, pod *corev1.Pod, network []byte) *sandbox {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(network)
	if err != nil {
		t.Fatal(err)
	}
	return h.sandboxIn(newNamespace(t), pod, list)
}

// sandboxIn makes a sandbox of a pod in a namespace.
func (h *host) sandboxIn(n *namespace, pod *corev1.Pod, list *libcni.NetworkConfigList) *sandbox {
	s := &sandbox{namespace: n, host: h, pod: pod, list: list}
	id := strings.ToLower(rand.Text())
	s.conf = libcni.RuntimeConf{ContainerID: id, NetNS: s.path, IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", pod.Namespace}, {"K8S_POD_NAME", pod.Name}, {"K8S_POD_UID", string(pod.UID)},
		{"K8S_POD_INFRA_CONTAINER_ID", id},
	}}
	return s
}

// tryAdd is ADD.
func (s *sandbox) tryAdd(ctx context.Context) (*types100.Result, error) {
	r, err := s.host.runtime.AddNetworkList(ctx, s.list, &s.conf)
	if err != nil {
		return nil, err
	}
	if r.Version() != s.list.CNIVersion {
		return nil, fmt.Errorf("the result is of version %s, the configuration of %s", r.Version(), s.list.CNIVersion)
	}
	result, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, err
	}
	s.addresses = nil
	for _, ip := range result.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		s.addresses = append(s.addresses, a.Unmap())
	}
	return result, nil
}

// add is an ADD that succeeds.
func (s *sandbox) add(t *testing.T) *types100.Result {
	t.Helper()
	result, err := s.tryAdd(t.Context())
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	return result
}

// del is a DEL, which always succeeds.
func (s *sandbox) del(t *testing.T) {
	t.Helper()
	if err := s.host.runtime.DelNetworkList(t.Context(), s.list, &s.conf); err != nil {
		t.Fatalf("DEL: %v", err)
	}
	s.addresses = nil
}

// check is CHECK.
func (s *sandbox) check(t *testing.T) error {
	t.Helper()
	return s.host.runtime.CheckNetworkList(t.Context(), s.list, &s.conf)
}

// entry is the SpiderIP that the sandbox should have.
func (s *sandbox) entry(a netip.Addr, pool *v2beta1.SpiderIPPool) v2beta1.IPSpec {
	return v2beta1.IPSpec{
		Address: a.String(), Pool: pool.Name, Node: s.host.node, Network: s.list.Name,
		Interface: s.conf.IfName, Netns: s.path, ContainerID: s.conf.ContainerID, Use: v2beta1.IPUsePod,
		Pod: v2beta1.IPPod{Namespace: s.pod.Namespace, Name: s.pod.Name, UID: string(s.pod.UID)},
	}
}

// wantInterfaces fails the test unless the sandbox has exactly these
// interfaces beside lo.
func (s *sandbox) wantInterfaces(t *testing.T, names ...string) {
	t.Helper()
	if got := s.names(t); !slices.Equal(got, names) {
		t.Errorf("the pod has the interfaces %q, want %q", got, names)
	}
}

// wantResult fails the test unless the result of an ADD has one address of each
// pool, with prefix length, gateway and routes of that pool, in this order.
func (s *sandbox) wantResult(t *testing.T, result *types100.Result, pools ...*v2beta1.SpiderIPPool) {
	t.Helper()
	if len(s.addresses) != len(pools) {
		t.Fatalf("got the addresses %v from %d pools", s.addresses, len(pools))
	}
	var gateways, wantGateways, routes []string
	for i, p := range pools {
		if subnet := netip.MustParsePrefix(p.Spec.Subnet); !subnet.Contains(s.addresses[i]) {
			t.Errorf("address %s is not of %s", s.addresses[i], subnet)
		}
		gateways = append(gateways, result.IPs[i].Gateway.String())
		wantGateways = append(wantGateways, *p.Spec.Gateway)
	}
	for _, r := range result.Routes {
		routes = append(routes, r.Dst.String()+" via "+r.GW.String())
	}
	got := wiring{Routes: routes}
	for _, ip := range result.IPs {
		got.Addresses = append(got.Addresses, ip.Address.String())
	}
	if diff := cmp.Diff(s.wanted(pools), got.sorted()); diff != "" {
		t.Errorf("the result (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantGateways, gateways); diff != "" {
		t.Errorf("the gateways of the result (-want +got):\n%s", diff)
	}
}

// wanted is what the pools say that the interface has.
func (s *sandbox) wanted(pools []*v2beta1.SpiderIPPool) wiring {
	var w wiring
	for i, p := range pools {
		subnet := netip.MustParsePrefix(p.Spec.Subnet)
		w.Addresses = append(w.Addresses, netip.PrefixFrom(s.addresses[i], subnet.Bits()).String())
		everything := "0.0.0.0/0"
		if subnet.Addr().Is6() {
			everything = "::/0"
		}
		w.Routes = append(w.Routes, everything+" via "+*p.Spec.Gateway)
		for _, r := range p.Spec.Routes {
			w.Routes = append(w.Routes, r.Dst+" via "+r.Gw)
		}
	}
	return w.sorted()
}

// wantWiring fails the test unless the pod's interface has what the pools say.
func (s *sandbox) wantWiring(t *testing.T, main string, pools ...*v2beta1.SpiderIPPool) {
	t.Helper()
	want := s.wanted(pools)
	if main == "ptp" { // it leads to the neighbours of the subnet by way of the host
		for _, p := range pools {
			want.Routes = append(want.Routes, p.Spec.Subnet+" via "+*p.Spec.Gateway)
		}
	}
	if diff := cmp.Diff(want.sorted(), s.wiring(t, s.conf.IfName)); diff != "" {
		t.Errorf("the interface in the pod (-want +got):\n%s", diff)
	}
}

// code is the CNI code of an error that a plugin printed, 0 for any other error.
func code(err error) uint {
	var printed *types.Error
	if errors.As(err, &printed) {
		return printed.Code
	}
	return 0
}
