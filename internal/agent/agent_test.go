package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

func ptr[T any](v T) *T { return &v }

func gateway(text string) func(*v2beta1.SpiderIPPool) {
	return func(p *v2beta1.SpiderIPPool) { p.Spec.Gateway = &text }
}

func TestAddAndDel(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.9"}, gateway("10.1.0.1"), func(p *v2beta1.SpiderIPPool) {
		p.Spec.Routes = []v2beta1.Route{{Dst: "10.9.0.0/16", Gw: "10.1.0.2"}}
	})
	c.pool("v6", "fd01::/64", []string{"FD01:0::9"}, gateway("fd01::1"))
	c.pool("bare", "10.1.0.0/16", []string{"10.1.0.9"})
	for _, tc := range []struct {
		name, pools  string
		cleanGateway bool
		ips, routes  []string
		held         string
	}{
		{"ipv4", "v4|", false, []string{"10.1.0.9/16 via 10.1.0.1"}, []string{"10.9.0.0/16 via 10.1.0.2", "0.0.0.0/0 via 10.1.0.1"}, "10.1.0.9 n1/ipv4 eth0 c-ipv4"},
		{"ipv6", "|v6", false, []string{"fd01::9/64 via fd01::1"}, []string{"::/0 via fd01::1"}, "fd01::9 n1/ipv6 eth0 c-ipv6"},
		{"dual", "v4|v6", false, []string{"10.1.0.9/16 via 10.1.0.1", "fd01::9/64 via fd01::1"},
			[]string{"10.9.0.0/16 via 10.1.0.2", "0.0.0.0/0 via 10.1.0.1", "::/0 via fd01::1"},
			"10.1.0.9 n1/dual eth0 c-dual\nfd01::9 n1/dual eth0 c-dual"},
		{"clean", "v4|", true, []string{"10.1.0.9/16 via 10.1.0.1"}, []string{"10.9.0.0/16 via 10.1.0.2"}, "10.1.0.9 n1/clean eth0 c-clean"},
		{"bare", "bare|", false, []string{"10.1.0.9/16 via invalid IP"}, nil, "10.1.0.9 n1/bare eth0 c-bare"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := c.pod(n, tc.name, c.from(tc.pools))
			reply, err := n.call(wire.VerbAdd, p, "c-"+tc.name, "eth0", func(r *wire.Request) { r.CleanGateway = tc.cleanGateway })
			if err != nil {
				t.Fatal(err)
			}
			var ips, routes []string
			for _, ip := range reply.IPs {
				ips = append(ips, fmt.Sprintf("%s via %s", ip.Address, ip.Gateway))
			}
			for _, r := range reply.Routes {
				routes = append(routes, fmt.Sprintf("%s via %s", r.Dst, r.GW))
			}
			if diff := cmp.Diff(tc.ips, ips); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.routes, routes); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.held, c.held()); diff != "" {
				t.Error(diff)
			}
			for range 2 { // a DEL may be repeated
				n.del(p, "c-"+tc.name)
				if held := c.held(); held != "" {
					t.Errorf("after DEL: %s", held)
				}
			}
		})
	}
}

// TestRepeat: the same ADD again is answered from memory, once the ledger says that it stands; a new sandbox takes the
// address over when the old one is gone; then the late DEL of the old one frees nothing.
func TestRepeat(t *testing.T) {
	c := newCluster(t)
	writes := &counter{}
	n := c.node("n1", writes.funcs())
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	p := c.pod(n, "web", c.from("v4|"))
	first := n.add(p, "old")
	c.endpoint(p, first[0])
	writes.reset()
	if again := n.add(p, "old"); !slices.Equal(again, first) || writes.String() != "get SpiderIP 1" {
		t.Errorf("repeated: %v after %v, requests %s", again, first, writes)
	}
	n.endNetns("old")
	if again := n.add(p, "new"); !slices.Equal(again, first) {
		t.Errorf("new sandbox: %v, had %v", again, first)
	}
	n.del(p, "old")
	if want := strings.TrimSuffix(first[0], "/24") + " n1/web eth0 new"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
	n.del(p, "new")
	if held := c.held(); held != "" {
		t.Errorf("left: %s", held)
	}
}

// TestRequests: what an ADD and a DEL cost the API server.
func TestRequests(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n := c.node("n1", requests.funcs())
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.10-10.1.200.60"})
	c.pool("v6", "fd01::/48", []string{"fd01::1-fd01:0:0:ffff:ffff:ffff:ffff:ffff"})
	p := c.pod(n, "web", c.from("v4|v6"))
	c.eventually("the watch has brought the pod", func() bool {
		return n.agent.Facts.CachedPod(t.Context(), client.ObjectKeyFromObject(p), string(p.UID)) != nil
	})
	requests.reset()
	first := n.add(p, "one")
	c.endpoint(p, first[0])
	want := "create SpiderEndpoint 1, create SpiderIP 2, get SpiderIPPool 2"
	c.eventually("ADD costs "+want, func() bool { return requests.String() == want })
	requests.reset()
	n.endNetns("one")
	n.add(p, "two")
	want = "get SpiderIPPool 2, update SpiderIP 2"
	if got := requests.String(); got != want {
		t.Errorf("new sandbox: %s, want %s", got, want)
	}
	requests.reset()
	n.del(p, "two")
	want = "delete SpiderIP 2"
	if got := requests.String(); !strings.HasPrefix(got, want) {
		t.Errorf("DEL: %s, want %s", got, want)
	}
}

func TestInterfacesOfOnePod(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.12"})
	p := c.pod(n, "web", c.from("v4|"))
	seen := map[string]bool{}
	for i, ifname := range []string{"eth0", "net1", "net2"} {
		reply, err := n.call(wire.VerbAdd, p, "one", ifname)
		if err != nil {
			t.Fatal(err)
		}
		if seen[texts(reply)[0]] = true; len(seen) != i+1 {
			t.Fatalf("%s got an address of another interface", ifname)
		}
	}
	c.eventually("the endpoint lists three interfaces", func() bool {
		e := &v2beta1.SpiderEndpoint{}
		return c.Get(t.Context(), client.ObjectKeyFromObject(p), e) == nil && len(e.Status.Current.IPs) == 3
	})
}

// TestRefused: every refusal has its code, names what is wrong, and leaves
// nothing claimed.
func TestRefused(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
	c.pool("disabled", "10.2.0.0/24", []string{"10.2.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	c.pool("elsewhere", "10.2.0.0/24", []string{"10.2.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n9"} })
	c.pool("empty", "10.3.0.0/24", nil)
	c.pool("full", "10.4.0.0/24", []string{"10.4.0.10"})
	c.pool("full6", "fd04::/64", []string{"fd04::10"})
	c.pool("crooked", "fd05::/64", []string{"fd05::20-fd05::10"}) // the CRD cannot compare IPv6 bounds
	dying := c.pool("dying", "10.5.0.0/24", []string{"10.5.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Finalizers = []string{"test.example/hold"} })
	if err := c.Delete(t.Context(), dying); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dying.Finalizers = nil
		_ = c.Patch(context.Background(), dying, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	})
	n.add(c.pod(n, "occupant", c.from("full|full6")), "occupant")
	before := c.held()

	raw := func(text string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations[v2beta1.AnnotationIPPool] = text }
	}
	for _, tc := range []struct {
		name string
		pod  func(*corev1.Pod)
		req  func(*wire.Request)
		code uint
		want []string
	}{
		{"malformed annotation", raw(`["a"]`), nil, wire.CodeConfig, []string{"wrong input", v2beta1.AnnotationIPPool}},
		{"empty annotation", raw(`{}`), nil, wire.CodeConfig, []string{"names no pool"}},
		{"pool twice", c.from("v4,v4|"), nil, wire.CodeConfig, []string{"duplicate IPPool"}},
		{"missing pool", c.from("none|"), nil, wire.CodeNoPool, []string{"no IPPool available", "-none: no such IPPool"}},
		{"disabled pool", c.from("disabled|"), nil, wire.CodeNoPool, []string{"-disabled", "spec.disable"}},
		{"terminating pool", c.from("dying|"), nil, wire.CodeNoPool, []string{"-dying", "being deleted"}},
		{"pool of another node", c.from("elsewhere|"), nil, wire.CodeNoPool, []string{"unmatched Node name of IPPool", "n9"}},
		{"wrong family", c.from("|v4"), nil, wire.CodeNoPool, []string{"IPv6", "IPv4 pool"}},
		{"malformed pool", c.from("|crooked"), nil, wire.CodeNoPool, []string{"-crooked", "spec.ips", "fd05::20-fd05::10"}},
		{"pool without addresses", c.from("empty|"), nil, wire.CodeTryAgain, []string{"-empty", "all IP addresses used out", "0 free of 0"}},
		{"full pool", c.from("full|"), nil, wire.CodeTryAgain, []string{"-full", "0 free of 1"}},
		{"all pools", c.from("none,disabled,full|"), nil, wire.CodeTryAgain, []string{"no such IPPool", "spec.disable", "0 free of 1"}},
		{"second family full", c.from("v4|full6"), nil, wire.CodeTryAgain, []string{"IPv6", "-full6", "0 free of 1"}},
		{"no such pod", c.from("v4|"), func(r *wire.Request) { r.Pod.Name = "nobody" }, wire.CodeEnvironment, []string{"nobody", "no such pod"}},
		{"another UID", c.from("v4|"), func(r *wire.Request) { r.Pod.UID = "6f3ce1a4-1111-4e6f-9d6b-0d0c7f3f7a01" }, wire.CodeEnvironment, []string{"6f3ce1a4", "another one"}},
		{"mirror not there", c.from("v4|"), func(r *wire.Request) { r.Pod.Name, r.Pod.UID = "static", "0123456789abcdef0123456789abcdef" }, wire.CodeTryAgain, []string{"mirror"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := c.pod(n, strings.ReplaceAll(strings.ToLower(tc.name), " ", "-"), tc.pod)
			if tc.req == nil {
				tc.req = func(*wire.Request) {}
			}
			_, err := n.call(wire.VerbAdd, p, "c", "eth0", tc.req)
			var refused *wire.Error
			if !errors.As(err, &refused) {
				t.Fatalf("error %v, want a refusal", err)
			}
			if refused.Code != tc.code {
				t.Errorf("code %d, want %d: %s", refused.Code, tc.code, refused.Msg)
			}
			for _, part := range tc.want {
				if !strings.Contains(refused.Msg, part) {
					t.Errorf("%q does not say %q", refused.Msg, part)
				}
			}
			if diff := cmp.Diff(before, c.held()); diff != "" {
				t.Error(diff)
			}
			n.del(p, "c")
		})
	}
}

func TestFinishedPods(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
	ended := c.pod(n, "ended", c.from("v4|"))
	ended.Status.Phase = corev1.PodFailed
	if err := c.Status().Update(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	going := c.pod(n, "going", c.from("v4|"), func(p *corev1.Pod) { p.Finalizers = []string{"test.example/hold"} })
	if err := c.Delete(t.Context(), going); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[*corev1.Pod]string{ended: "has finished", going: "is being deleted"} {
		c.eventually(p.Name+" is refused: "+want, func() bool {
			_, err := n.call(wire.VerbAdd, p, "c-"+p.Name, "eth0")
			n.del(p, "c-"+p.Name)
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
	if held := c.held(); held != "" {
		t.Errorf("held: %s", held)
	}
}

// TestWhichPod: a static pod is known by its mirror's annotation, an empty UID
// is looked up by name.
func TestWhichPod(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
	const hash = "0123456789abcdef0123456789abcdef"
	mirror := c.pod(n, "static", c.from("v4|"), func(p *corev1.Pod) { p.Annotations[corev1.MirrorPodAnnotationKey] = hash })
	plain := c.pod(n, "plain", c.from("v4|"))
	n.add(mirror, "m", func(r *wire.Request) { r.Pod.UID = hash })
	first := n.add(plain, "p", func(r *wire.Request) { r.Pod.UID = "" })
	if again := n.add(plain, "p"); !slices.Equal(first, again) {
		t.Errorf("with the UID %v, without %v: one attachment, two addresses", again, first)
	}
	n.del(mirror, "m")
	n.del(plain, "p")
	if held := c.held(); held != "" {
		t.Errorf("left: %s", held)
	}
}

// TestBackup: the next pool serves when those before it are full or refuse.
func TestBackup(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("a", "10.1.0.0/24", []string{"10.1.0.10"})
	c.pool("b", "10.1.0.0/24", []string{"10.1.0.20"})
	for i, want := range []string{"10.1.0.10/24", "10.1.0.20/24"} {
		name := fmt.Sprint("p", i)
		if got := n.add(c.pod(n, name, c.from("none,a,b|")), name); got[0] != want {
			t.Errorf("pod %d got %v, want %s", i, got, want)
		}
	}
}

// TestFence: an edit of the pool between the agent's last look and the answer
// counts; nobody is told an address that the pool does not have.
func TestFence(t *testing.T) {
	c := newCluster(t)
	var after atomic.Pointer[func()]
	n := c.node("n1", interceptor.Funcs{Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		err := w.Create(ctx, o, opts...)
		if _, claim := o.(*v2beta1.SpiderIP); claim && err == nil {
			if f := after.Swap(nil); f != nil {
				(*f)()
			}
		}
		return err
	}})
	for _, tc := range []struct {
		name, pool, want string
		edit             func(*v2beta1.SpiderIPPool)
	}{
		{"shrunk", "a", "10.1.0.20/24", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.20"} }},
		{"disabled", "b", "10.1.0.30/24", func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) }},
		{"bound to another node", "c", "10.1.0.30/24", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n9"} }},
		{"new gateway", "d", "10.1.0.13/24", func(p *v2beta1.SpiderIPPool) {
			p.Spec.Gateway, p.Spec.IPs = ptr("10.1.0.12"), []string{"10.1.0.12-10.1.0.13"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := c.pool(tc.pool, "10.1.0.0/24", []string{"10.1.0.11"})
			backup := c.pool(tc.pool+"-backup", "10.1.0.0/24", []string{"10.1.0.30"})
			pod := c.pod(n, tc.pool, c.from(tc.pool+","+tc.pool+"-backup|"))
			c.eventually("the pools are known", func() bool {
				known := 0
				for _, q := range n.agent.Facts.Pools() {
					if q.Name == p.Name || q.Name == backup.Name {
						known++
					}
				}
				return known == 2
			})
			edit := func() { c.edit(p, tc.edit) }
			after.Store(&edit)
			if got := n.add(pod, tc.pool); got[0] != tc.want {
				t.Errorf("got %v, want %s", got, tc.want)
			}
			n.del(pod, tc.pool)
			if held := c.held(); held != "" {
				t.Errorf("left: %s", held)
			}
		})
	}
}

// TestRestart: the new process knows from the ledger what the node holds.
func TestRestart(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	stays, goes, moves := c.pod(n, "stays", c.from("v4|")), c.pod(n, "goes", c.from("v4|")), c.pod(n, "moves", c.from("v4|"))
	kept := n.add(stays, "s")
	n.add(goes, "g")
	had := n.add(moves, "m")
	n.restart()
	if _, err := n.call(wire.VerbCheck, stays, "s", "eth0"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	n.endNetns("s")
	if got := n.add(stays, "s2"); !slices.Equal(got, kept) {
		t.Errorf("got %v, had %v", got, kept)
	}
	n.del(goes, "g")
	// While nobody looked, the pool lost the address of a pod: its next sandbox gets another.
	c.edit(p4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{strings.TrimSuffix(had[0], "/24")} })
	n.restart()
	n.endNetns("m")
	if got := n.add(moves, "m2"); slices.Equal(got, had) {
		t.Errorf("got %v, which the pool excludes", got)
	}
	n.del(stays, "s2")
	n.del(moves, "m2")
	if held := c.held(); held != "" {
		t.Errorf("left: %s", held)
	}
}

// TestNotes: a DEL that met no agent is done when there is one.
func TestNotes(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	p, q := c.pod(n, "web", c.from("v4|")), c.pod(n, "other", c.from("v4|"))
	n.add(p, "c1")
	n.add(q, "c2")
	n.stop()
	dir := wire.NotesDir(n.socket)
	for _, note := range []wire.Note{{ContainerID: "c1", Interface: "eth0"}, {ContainerID: "unknown", Interface: "eth0"}, {ContainerID: "c2", Interface: "net1"}} {
		if err := wire.WriteNote(dir, note); err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	c.eventually("the noted container's address is free, the other's is not", func() bool {
		held := c.held()
		return !strings.Contains(held, "c1") && strings.Contains(held, "c2")
	})
	c.eventually("no note is left", func() bool {
		notes, err := wire.ReadNotes(dir)
		return err == nil && len(notes) == 0
	})
}

// TestLateAdd: an ADD that began before the DEL of its container claims
// nothing; one that began after is served.
func TestLateAdd(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	p := c.pod(n, "web", c.from("v4|"))
	n.del(p, "c1")
	_, err := n.call(wire.VerbAdd, p, "c1", "eth0", func(r *wire.Request) { r.Age = requestWait })
	if err == nil || c.held() != "" {
		t.Errorf("error %v, held %q", err, c.held())
	}
	n.add(p, "c1")
}

// TestContention: nodes fight for a pool that has exactly what they want.
func TestContention(t *testing.T) {
	const perNode = 10
	c := newCluster(t)
	nodes := []*node{c.node("n1"), c.node("n2"), c.node("n3")}
	c.pool("v4", "10.1.0.0/24", []string{fmt.Sprintf("10.1.0.1-10.1.0.%d", perNode*len(nodes))})
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]string{}
	for _, n := range nodes {
		for i := range perNode {
			p := c.pod(n, fmt.Sprintf("%s-%d", n.name, i), c.from("v4|"))
			group.Go(func() {
				reply, err := n.call(wire.VerbAdd, p, p.Name, "eth0")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", p.Name, err)
				} else if other, twice := seen[texts(reply)[0]]; twice {
					t.Errorf("%s and %s have %v", p.Name, other, texts(reply))
				} else {
					seen[texts(reply)[0]] = p.Name
				}
			})
		}
	}
	group.Wait()
	late := c.pod(nodes[0], "late", c.from("v4|"))
	if _, err := nodes[0].call(wire.VerbAdd, late, "late", "eth0"); err == nil || !strings.Contains(err.Error(), "0 free of 30") {
		t.Errorf("one more than there are addresses: %v", err)
	}
	first := nodes[1].name + "-0"
	nodes[1].del(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.prefix, Name: first}}, first)
	nodes[0].add(late, "late")
}

// TestLostAnswer: a claim happened and its answer was lost; the same ADD finds
// out that the address is its own.
func TestLostAnswer(t *testing.T) {
	c := newCluster(t)
	var lost atomic.Bool
	n := c.node("n1", interceptor.Funcs{Create: func(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		err := w.Create(ctx, o, opts...)
		if _, claim := o.(*v2beta1.SpiderIP); claim && lost.CompareAndSwap(false, true) {
			return apierrors.NewTimeoutError("the answer was lost", 1)
		}
		return err
	}})
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"})
	p := c.pod(n, "web", c.from("v4|"))
	got := n.add(p, "c1")
	if want := strings.TrimSuffix(got[0], "/24") + " n1/web eth0 c1"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// endpoint waits for the endpoint of a pod to show an address.
func (c *cluster) endpoint(p *corev1.Pod, address string) *v2beta1.SpiderEndpoint {
	c.t.Helper()
	e := &v2beta1.SpiderEndpoint{}
	c.eventually("the endpoint of "+p.Name+" shows "+address, func() bool {
		if err := c.Get(context.Background(), client.ObjectKeyFromObject(p), e); err != nil || len(e.Status.Current.IPs) == 0 {
			return false
		}
		i := e.Status.Current.IPs[0]
		return i.IPv4 != nil && *i.IPv4 == address || i.IPv6 != nil && *i.IPv6 == address
	})
	return e
}

func TestEndpoint(t *testing.T) {
	c := newCluster(t)
	n := c.machine("n1")
	n.durations.Republish = 300 * time.Millisecond
	n.start()
	p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.50"}, gateway("10.1.0.1"))
	p := c.pod(n, "web", c.from("v4|"))
	got := n.add(p, "c1")
	e := c.endpoint(p, got[0])
	want := v2beta1.EndpointStatus{
		OwnerControllerType: "Pod", OwnerControllerName: "web",
		Current: v2beta1.EndpointCurrent{UID: string(p.UID), Node: n.name, IPs: []v2beta1.EndpointInterface{{
			Interface: "eth0", IPv4: &got[0], IPv4Pool: &p4.Name, IPv4Gateway: ptr("10.1.0.1"),
			Vlan: ptr[int64](0), CleanGateway: ptr(false), Routes: []v2beta1.Route{{Dst: "0.0.0.0/0", Gw: "10.1.0.1"}},
		}}},
	}
	if diff := cmp.Diff(want, e.Status); diff != "" {
		t.Error(diff)
	}
	if len(e.Finalizers) != 0 || len(e.OwnerReferences) != 1 || e.OwnerReferences[0].UID != p.UID {
		t.Errorf("metadata: %+v", e.ObjectMeta)
	}
	// Somebody deletes it: it comes back, and a restart brings it back at once.
	for _, restart := range []bool{false, true} {
		if restart {
			n.stop()
			n.durations.Republish = time.Hour
		}
		if err := c.Delete(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if restart {
			n.start()
		}
		e = c.endpoint(p, got[0])
	}
	// The container is gone, the pod is not (a finished Job): the endpoint shows no address.
	n.del(p, "c1")
	c.eventually("the endpoint shows no address", func() bool {
		return c.Get(t.Context(), client.ObjectKeyFromObject(p), e) == nil && len(e.Status.Current.IPs) == 0
	})
}
