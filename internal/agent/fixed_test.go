package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// allFixed is what a cluster has by default.
var allFixed = fixed.Rules{Kinds: []schema.GroupKind{{Group: "apps", Kind: "StatefulSet"}}, VirtualMachines: true}

// admin is a client that knows kinds which the agent's scheme does not have.
func (c *cluster) admin() client.Client {
	c.t.Helper()
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		c.t.Fatal(err)
	}
	admin, err := client.New(c.server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		c.t.Fatal(err)
	}
	return admin
}

// statefulSet makes one; nothing runs that would make its pods.
func (c *cluster) statefulSet(name string, replicas int32) *appsv1.StatefulSet {
	c.t.Helper()
	labels := map[string]string{"app": name}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: c.prefix, Name: name}}
	s.Spec.Replicas, s.Spec.Selector = &replicas, &metav1.LabelSelector{MatchLabels: labels}
	s.Spec.Template.Labels = labels
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}
	if err := c.admin().Create(c.t.Context(), s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// scale sets the replicas of a StatefulSet.
func (c *cluster) scale(s *appsv1.StatefulSet, replicas int32) {
	c.t.Helper()
	s.Spec.Replicas = &replicas
	if err := c.admin().Update(c.t.Context(), s); err != nil {
		c.t.Fatal(err)
	}
}

// of makes a pod one of a StatefulSet.
func of(s *appsv1.StatefulSet) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
	}
}

// remove deletes a pod at once, as the kubelet does at the end.
func (c *cluster) remove(p *corev1.Pod) {
	c.t.Helper()
	if err := c.Delete(c.t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		c.t.Fatal(err)
	}
}

// kept prints what waits for next pods, a line each.
func (c *cluster) kept() string {
	c.t.Helper()
	var list v2beta1.SpiderIPList
	if err := c.List(c.t.Context(), &list, client.MatchingFields{"spec.use": string(v2beta1.IPUseKept)}); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s", e.Spec.Address, e.Spec.Pod.Name, e.Spec.Reason))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestFixed: the next pod of a StatefulSet's name gets every address of every interface again, on whichever node, and the
// requests that this costs.
func TestFixed(t *testing.T) {
	c := newCluster(t)
	requests := &counter{}
	n1, n2 := c.node("n1"), c.node("n2", requests.funcs())
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	c.pool("v6", "fd01::/64", []string{"fd01::10-fd01::ffff"})
	set := c.statefulSet("web", 3)
	p := c.pod(n1, "web-0", of(set), c.from("v4|v6"))
	had := map[string][]string{}
	for _, ifname := range []string{"eth0", "net1"} {
		reply, err := n1.call(wire.VerbAdd, p, "one", ifname)
		if err != nil {
			t.Fatal(err)
		}
		had[ifname] = texts(reply)
	}
	for _, ifname := range []string{"eth0", "net1"} {
		if _, err := n1.call(wire.VerbDel, p, "one", ifname); err != nil {
			t.Fatal(err)
		}
	}
	n1.endNetns("one")
	n1.done()
	c.remove(p)
	if got := strings.Count(c.kept(), " web-0 kept until StatefulSet web is deleted or wants no pod web-0"); got != 4 {
		t.Errorf("%d addresses are kept: %s", got, c.kept())
	}
	p = c.pod(n2, "web-0", of(set), c.from("v4|v6"))
	for _, ifname := range []string{"eth0", "net1"} {
		requests.reset()
		reply, err := n2.call(wire.VerbAdd, p, "two", ifname)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(texts(reply), had[ifname]) {
			t.Errorf("%s has %v, had %v", ifname, texts(reply), had[ifname])
		}
		want := "get Pod 1, get SpiderEndpoint 1, get SpiderIP 2, get SpiderIPPool 2, update SpiderEndpoint 1, update SpiderIP 2"
		if requests.String() != want {
			t.Errorf("%s costs %s, want %s", ifname, requests, want)
		}
	}
	if kept := c.kept(); kept != "" {
		t.Errorf("still kept: %s", kept)
	}
	e := &v2beta1.SpiderEndpoint{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), e); err != nil {
		t.Fatal(err)
	}
	if e.Status.Current.UID != string(p.UID) || e.Status.Current.Node != n2.name || len(e.Status.Current.IPs) != 2 || len(e.OwnerReferences) != 0 {
		t.Errorf("its endpoint: %+v", e)
	}
}

// TestFixedIsHeld: as long as the container of the pod before lives, the next one is refused with the holder's name; it waits
// for the DEL.
func TestFixedIsHeld(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	set := c.statefulSet("web", 1)
	for _, tc := range []struct {
		name   string
		second *node
	}{{"on another node", n2}, {"on the same node", n1}} {
		t.Run(tc.name, func(t *testing.T) {
			first := c.pod(n1, "web-0", of(set), c.from("v4|"))
			had := n1.add(first, "one-"+tc.name)
			c.remove(first) // by force: its container lives
			next := c.pod(tc.second, "web-0", of(set), c.from("v4|"))
			tc.second.adding(next, "two-"+tc.name).refused(t, wire.CodeHeldElsewhere, "the fixed address 10.1.0.", "is still held by pod "+c.prefix+"/web-0 (UID "+string(first.UID), "on node "+n1.name)
			tc.second.stop()
			tc.second.durations.Wait = requestWait
			tc.second.start()
			a := tc.second.adding(next, "three-"+tc.name)
			time.Sleep(300 * time.Millisecond) // it is likely to wait then
			n1.del(first, "one-"+tc.name)
			if got := a.ips(t); !slices.Equal(got, had) {
				t.Errorf("got %v, had %v", got, had)
			}
			tc.second.del(next, "three-"+tc.name)
			c.remove(next)
		})
	}
}

// TestFixedAgentIsDown: a container that ended while the agent of its node was down bears its address until that agent has seen it.
func TestFixedAgentIsDown(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	set := c.statefulSet("web", 1)
	first := c.pod(n1, "web-0", of(set), c.from("v4|"))
	had := n1.add(first, "one")
	n1.stop()
	n1.endNetns("one")
	c.remove(first)
	next := c.pod(n2, "web-0", of(set), c.from("v4|"))
	n2.adding(next, "two").refused(t, wire.CodeHeldElsewhere, "is still held by pod "+c.prefix+"/web-0 (UID "+string(first.UID), "on node "+n1.name)
	n1.start()
	for range 2 {
		n1.agent.look(t.Context())
	}
	if kept := c.kept(); !strings.Contains(kept, " web-0 kept") {
		t.Errorf("kept: %q", kept)
	}
	if got := n2.add(next, "three"); !slices.Equal(got, had) {
		t.Errorf("got %v, had %v", got, had)
	}
}

// TestFixedSandbox: a new sandbox of the same pod waits as well, and no second address is taken.
func TestFixedSandbox(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
	p := c.pod(n, "web-0", of(c.statefulSet("web", 1)), c.from("v4|"))
	had := n.add(p, "one")
	n.adding(p, "two").refused(t, wire.CodeHeldElsewhere, "container one")
	n.del(p, "one")
	if got := n.add(p, "three"); !slices.Equal(got, had) {
		t.Errorf("got %v, had %v", got, had)
	}
	n.endNetns("three")
	if got := n.add(p, "four"); !slices.Equal(got, had) {
		t.Errorf("got %v, had %v", got, had)
	}
	if held := c.held(); strings.Count(held, "\n") != 0 {
		t.Errorf("held: %s", held)
	}
}

// ends are the events while a container ends, and whether its address is kept.
var ends = []struct {
	name   string
	before func(c *cluster, n *node, s *appsv1.StatefulSet)
	kept   bool
}{
	{"nothing happens", func(*cluster, *node, *appsv1.StatefulSet) {}, true},
	{"scaled in above it", func(c *cluster, _ *node, s *appsv1.StatefulSet) { c.scale(s, 2) }, true},
	{"scaled in", func(c *cluster, _ *node, s *appsv1.StatefulSet) { c.scale(s, 1) }, false},
	{"scaled to zero", func(c *cluster, _ *node, s *appsv1.StatefulSet) { c.scale(s, 0) }, false},
	{"ordinals.start", func(c *cluster, _ *node, s *appsv1.StatefulSet) {
		s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 2}
		c.scale(s, 3)
	}, false},
	{"deleted", func(c *cluster, _ *node, s *appsv1.StatefulSet) { c.deleteSet(s) }, false},
	{"deleted, and made again under the name", func(c *cluster, _ *node, s *appsv1.StatefulSet) {
		c.deleteSet(s)
		c.statefulSet(s.Name, 3)
	}, true},
	{"being deleted", func(c *cluster, _ *node, s *appsv1.StatefulSet) {
		s.Finalizers = []string{"example.com/wait"}
		c.scale(s, 3)
		c.deleteSet(s)
	}, false},
	{"switched off", func(_ *cluster, n *node, _ *appsv1.StatefulSet) {
		n.stop()
		n.fixed = fixed.Rules{}
		n.start()
	}, false},
	{"the agent restarts", func(_ *cluster, n *node, _ *appsv1.StatefulSet) { n.restart() }, true},
	{"the owner cannot be read", func(_ *cluster, n *node, _ *appsv1.StatefulSet) {
		n.stop()
		n.start(refusing("StatefulSet"))
	}, true},
	{"the endpoint was deleted by hand", func(c *cluster, _ *node, s *appsv1.StatefulSet) {
		if err := c.Delete(c.t.Context(), &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: c.prefix, Name: s.Name + "-1"}}); err != nil {
			c.t.Fatal(err)
		}
	}, false},
}

func (c *cluster) deleteSet(s *appsv1.StatefulSet) {
	c.t.Helper()
	if err := c.admin().Delete(c.t.Context(), s); err != nil {
		c.t.Fatal(err)
	}
}

// refusing answers reads of a kind with 403.
func refusing(kind string) interceptor.Funcs {
	return interceptor.Funcs{Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if o.GetObjectKind().GroupVersionKind().Kind == kind {
			return apierrors.NewForbidden(schema.GroupResource{Resource: kind}, key.Name, errors.New("no"))
		}
		return w.Get(ctx, key, o, opts...)
	}}
}

// TestFixedEnds: by a DEL, and by the audit when there was none.
func TestFixedEnds(t *testing.T) {
	for _, tc := range ends {
		for _, audit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/audit %t", tc.name, audit), func(t *testing.T) {
				c := newCluster(t)
				n := c.node("n1")
				c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.60"})
				c.pool("v6", "fd01::/64", []string{"fd01::10-fd01::ffff"})
				s := c.statefulSet("web", 3)
				p := c.pod(n, "web-1", of(s), c.from("v4|v6"))
				n.add(p, "one")
				tc.before(c, n, s)
				if audit {
					n.endNetns("one")
					for range 2 {
						n.agent.look(t.Context())
					}
				} else {
					n.del(p, "one")
				}
				want := 0
				if tc.kept {
					want = 2
				}
				if kept := c.kept(); strings.Count(kept, " web-1 kept") != want {
					t.Errorf("kept:\n%s\nwant %d", kept, want)
				}
				if held := c.held(); !tc.kept && held != "" {
					t.Errorf("left: %s", held)
				}
				err := c.Get(context.Background(), client.ObjectKeyFromObject(p), &v2beta1.SpiderEndpoint{})
				if there := err == nil; there != tc.kept {
					t.Errorf("the endpoint: %v", err)
				}
			})
		}
	}
}

// nextStarts are the events between two pods of a name that had 10.1.0.10, and what the next one gets: that address again, or
// another and the first is free, or a refusal with which the first is kept.
var nextStarts = []struct {
	name  string
	event func(c *cluster, v4, other *v2beta1.SpiderIPPool)
	edit  func(*wire.Request)
	from  string // pools of the next pod; empty: v4
	want  string // the address; empty: another than the first
	code  uint
}{
	{"nothing", nil, nil, "", "10.1.0.10/24", 0},
	{"the pool grows", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.5-10.1.0.40"} })
	}, nil, "", "10.1.0.10/24", 0},
	{"the address leaves the pool", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.11-10.1.0.20"} })
	}, nil, "", "", 0},
	{"the address is excluded", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.10"} })
	}, nil, "", "", 0},
	{"the pool is disabled", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	}, nil, "v4,other", "10.1.0.10/24", 0},
	{"the pool is disabled, and no other has the address", func(c *cluster, v4, other *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
		c.edit(other, func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"10.1.0.30-10.1.0.40"} })
	}, nil, "v4,other", "", 0},
	{"the pool is disabled, and there is no other", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = ptr(true) })
	}, nil, "", "", wire.CodeNoPool},
	{"the pool serves others", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) {
			p.Spec.PodAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "no"}}
		})
	}, nil, "v4,far", "", 0},
	{"the pool serves other nodes", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{c.prefix + "-n1"} })
	}, nil, "v4,far", "", 0},
	{"the pool is being deleted", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Finalizers = []string{v2beta1.Finalizer} })
		c.t.Cleanup(func() {
			p := &v2beta1.SpiderIPPool{}
			if c.Get(context.Background(), client.ObjectKeyFromObject(v4), p) == nil {
				p.Finalizers = nil
				_ = c.Update(context.Background(), p)
			}
		})
		if err := c.Delete(c.t.Context(), v4); err != nil {
			c.t.Fatal(err)
		}
	}, nil, "v4,far", "", 0},
	{"the pool is gone", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		if err := c.Delete(c.t.Context(), v4); err != nil {
			c.t.Fatal(err)
		}
	}, nil, "v4,far", "", 0},
	{"the pool is replaced by one with the address", nil, nil, "other", "10.1.0.10/24", 0},
	{"the pool is replaced by one without", nil, nil, "far", "", 0},
	{"another is put before it", nil, nil, "far,v4", "10.1.0.10/24", 0},
	{"its own is asked for", nil, asking("10.1.0.10"), "", "10.1.0.10/24", 0},
	{"another is asked for", nil, asking("10.1.0.15"), "", "10.1.0.15/24", 0},
	{"one that no pool has is asked for", nil, asking("10.1.0.99"), "", "", wire.CodeConfig},
	{"the SpiderIP is deleted", func(c *cluster, _, _ *v2beta1.SpiderIPPool) {
		if err := c.Delete(c.t.Context(), &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.1.0.10"}}); err != nil {
			c.t.Fatal(err)
		}
	}, nil, "", "10.1.0.10/24", 0},
	{"the SpiderIP is deleted, and another pod gets the address", func(c *cluster, _, _ *v2beta1.SpiderIPPool) {
		if err := c.Delete(c.t.Context(), &v2beta1.SpiderIP{ObjectMeta: metav1.ObjectMeta{Name: "10.1.0.10"}}); err != nil {
			c.t.Fatal(err)
		}
		n := c.node("n9")
		n.add(c.pod(n, "thief", c.from("v4|")), "thief", asking("10.1.0.10"))
	}, nil, "", "", 0},
	{"the address is reserved", func(c *cluster, v4, _ *v2beta1.SpiderIPPool) {
		reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: c.prefix}, Spec: v2beta1.ReservedIPSpec{IPs: []string{"10.1.0.10"}}}
		c.create(reserved)
		c.t.Cleanup(func() { _ = c.Delete(context.Background(), reserved) })
	}, nil, "", "", 0},
}

// TestFixedNextStart: at its next start the pod gets what the pools say then, and never are there an address that is kept for
// it and another.
func TestFixedNextStart(t *testing.T) {
	for _, tc := range nextStarts {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			n, n2 := c.node("n1"), c.node("n2")
			v4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
			other := c.pool("other", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
			c.pool("far", "10.1.0.0/24", []string{"10.1.0.60-10.1.0.70"})
			set := c.statefulSet("web", 1)
			p := c.pod(n, "web-0", of(set), c.from("v4|"))
			n.add(p, "one", asking("10.1.0.10"))
			n.del(p, "one")
			c.remove(p)
			if tc.event != nil {
				tc.event(c, v4, other)
			}
			next := c.pod(n2, "web-0", of(set), c.from(cmp.Or(tc.from, "v4")+"|"))
			var edit []func(*wire.Request)
			if tc.edit != nil {
				edit = append(edit, tc.edit)
			}
			reply, err := n2.call(wire.VerbAdd, next, "two", "eth0", edit...)
			if tc.code != 0 {
				if err == nil || wireError(err).Code != tc.code {
					t.Errorf("%v %v, want code %d", reply, err, tc.code)
				}
				if !strings.HasPrefix(c.kept(), "10.1.0.10 web-0 kept") {
					t.Errorf("the address of before is lost: %q is kept", c.kept())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := texts(reply)[0]
			if tc.want != "" && got != tc.want || tc.want == "" && got == "10.1.0.10/24" {
				t.Errorf("got %s, want %q", got, tc.want)
			}
			if held := strings.Count(c.held(), "web-0"); held != 1 {
				t.Errorf("%d addresses are held for web-0: %s", held, c.held())
			}
		})
	}
}

// TestFixedMovesOnWhileHeld: the next pod gets an address of another pool while the container of the first lives, whose address
// is free after it and not kept.
func TestFixedMovesOnWhileHeld(t *testing.T) {
	c := newCluster(t)
	n, n2 := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
	c.pool("far", "10.1.0.0/24", []string{"10.1.0.60-10.1.0.70"})
	set := c.statefulSet("web", 1)
	first := c.pod(n, "web-0", of(set), c.from("v4|"))
	n.add(first, "one")
	c.remove(first)
	next := c.pod(n2, "web-0", of(set), c.from("far|"))
	got := n2.add(next, "two")
	n.del(first, "one")
	if want := strings.TrimSuffix(got[0], "/24") + " n2/web-0 eth0 two"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// TestFixedLateAdd: an ADD of a pod that was replaced meanwhile takes nothing from the pod that followed it.
func TestFixedLateAdd(t *testing.T) {
	c := newCluster(t)
	n, n2 := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.20"})
	set := c.statefulSet("web", 1)
	first := c.pod(n, "web-0", of(set), c.from("v4|"))
	n.add(first, "one")
	n.del(first, "one")
	n.agent.Facts.Await(t.Context(), requestWait)
	c.remove(first)
	next := c.pod(n2, "web-0", of(set), c.from("v4|"))
	if reply, err := n.call(wire.VerbAdd, first, "late", "eth0"); err == nil {
		t.Errorf("an ADD of the pod of before was answered %v", texts(reply))
	}
	got := n2.add(next, "two")
	if reply, err := n.call(wire.VerbAdd, first, "later", "eth0"); err == nil {
		t.Errorf("an ADD of the pod of before was answered %v", texts(reply))
	}
	if want := strings.TrimSuffix(got[0], "/24") + " n2/web-0 eth0 two"; c.held() != want {
		t.Errorf("held %q, want %q", c.held(), want)
	}
}

// TestFixedHome: what was freed with a StatefulSet is given to the pods of one of the same name again, unless somebody has it.
func TestFixedHome(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.node("n1"), c.node("n2")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.12", "10.1.0.21-10.1.0.27"})
	c.pool("v6", "fd01::/64", []string{"fd01::1-fd01::ffff:ffff:ffff:ffff"})
	start := func(n *node, s *appsv1.StatefulSet, ordinal int, container string) []string {
		p := c.pod(n, fmt.Sprint("web-", ordinal), of(s), c.from("v4|v6"))
		return n.add(p, container)
	}
	end := func(n *node, ordinal int, container string) {
		p := &corev1.Pod{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: c.prefix, Name: fmt.Sprint("web-", ordinal)}, p); err != nil {
			t.Fatal(err)
		}
		n.del(p, container)
		c.remove(p)
	}
	set := c.statefulSet("web", 5)
	var had [5][]string
	for i := range had {
		had[i] = start(n1, set, i, fmt.Sprint("one", i))
	}
	// n2 believes that what the pods have is taken, and that the rest is free.
	var others []*corev1.Pod
	for i := range 5 {
		others = append(others, c.pod(n2, fmt.Sprint("other", i), c.from("v4|")))
		n2.add(others[i], others[i].Name)
	}
	n2.adding(c.pod(n2, "more", c.from("v4|")), "more").refused(t, wire.CodeTryAgain, "0 free of 10")
	for _, p := range others {
		n2.del(p, p.Name)
	}
	c.deleteSet(set)
	for i := range had {
		end(n1, i, fmt.Sprint("one", i))
	}
	c.eventually("all is free", func() bool { return c.held() == "" })

	set = c.statefulSet("web", 5)
	for _, i := range []int{3, 0, 4, 2, 1} {
		if got := start(n2, set, i, fmt.Sprint("two", i)); !slices.Equal(got, had[i]) {
			t.Errorf("web-%d has %v, had %v", i, got, had[i])
		}
	}
	c.scale(set, 4)
	end(n2, 4, "two4")
	n1.add(c.pod(n1, "thief", c.from("v4|")), "thief", asking(strings.TrimSuffix(had[4][0], "/24")))
	c.scale(set, 5)
	if got := start(n1, set, 4, "three"); got[0] == had[4][0] || got[1] != had[4][1] {
		t.Errorf("web-4 has %v, had %v, of which another pod has the first", got, had[4])
	}
}
