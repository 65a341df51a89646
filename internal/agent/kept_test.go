package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// countKept is the LIST of what is kept of a full pool; the agent sends none other of its kind after its start.
const countKept = "list SpiderIPList"

// keep lets pods of a StatefulSet have addresses of a pool, one after the other as they are asked for, and go.
func (n *node) keep(s *appsv1.StatefulSet, pools string, addresses ...string) {
	n.t.Helper()
	for i, address := range addresses {
		name := fmt.Sprint(s.Name, "-", i)
		p := n.pod(n, name, of(s), n.from(pools))
		n.add(p, name, asking(address))
		n.del(p, name)
		n.remove(p)
	}
}

// fullOfKept is a cluster with a pool v4 of nine addresses, of which the first three are kept for a StatefulSet a and the
// others are held, and a node that asks by way of faults.
func fullOfKept(t *testing.T, faults ...interceptor.Funcs) (c *cluster, n *node, v4 *v2beta1.SpiderIPPool) {
	t.Helper()
	c = newCluster(t)
	other := c.node("other")
	v4 = c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.18"})
	other.keep(c.statefulSet("a", 3), "v4|", "10.1.0.10", "10.1.0.11", "10.1.0.12")
	for i := range 6 {
		other.occupy(fmt.Sprint("has", i), "v4|")
	}
	return c, c.node("n1", faults...), v4
}

// TestKeptIsCounted: ADDs that wait for a full pool, and are refused at last, are told how many of its addresses are kept and
// for whom. They share one LIST.
func TestKeptIsCounted(t *testing.T) {
	requests := &counter{}
	c, n, v4 := fullOfKept(t, requests.funcs())
	c.pool("free", "10.2.0.0/24", []string{"10.2.0.10"})
	requests.reset()
	began := time.Now()
	waiting := make([]*pending, 20)
	for i := range waiting {
		name := fmt.Sprint("w", i)
		waiting[i] = n.adding(c.pod(n, name, c.from("v4|")), name)
	}
	const kept = "all IP addresses used out: 0 free of 9, 3 kept for StatefulSet a"
	if waits := n.told("IPAllocationWaiting"); !strings.HasSuffix(waits, kept) {
		t.Errorf("%q does not say %q", waits, kept)
	}
	for _, w := range waiting {
		w.refused(t, wire.CodeTryAgain, kept)
	}
	t.Run("when it may wait no more", func(t *testing.T) {
		n.adding(waiting[0].pod, "w0").refused(t, wire.CodeTryAgain, kept)
	})
	t.Run("of what an ADD may get", func(t *testing.T) {
		c.edit(v4, func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.11"} })
		n.knows(v4)
		n.adding(c.pod(n, "late", c.from("v4|")), "late").refused(t, wire.CodeTryAgain, "0 free of 8, 2 kept for StatefulSet a")
	})
	t.Run("for an owner of another namespace", func(t *testing.T) {
		there := c.prefix + "-b"
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: there}})
		c.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: there, Name: "default"}})
		p := c.pod(n, "foreign", c.from("v4|"), func(p *corev1.Pod) { p.Namespace = there })
		n.adding(p, "foreign").refused(t, wire.CodeTryAgain, "0 free of 8, 2 kept for StatefulSet "+c.prefix+"/a")
	})
	t.Run("and for nobody who is served", func(t *testing.T) {
		before := requests.of(countKept)
		n.occupy("served", "v4,free|")
		if requests.of(countKept) != before {
			t.Errorf("an ADD that is served LISTs what is kept: %s", requests)
		}
	})
	if lists, most := requests.of(countKept), 1+int(time.Since(began)/(5*time.Second)); lists > most {
		t.Errorf("%d LISTs of what is kept, want at most %d: %s", lists, most, requests)
	}
}

// TestKeptIsUncertain: of a LIST that fails nothing is told, and it is not sent for each ADD; what is only its beginning is
// told as that.
func TestKeptIsUncertain(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		list       func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error
	}{
		{"it fails", "used out: 0 free of 9", func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errRefused
		}},
		{"it is not all", "used out: 0 free of 9, at least 3 kept for StatefulSet a", func(ctx context.Context, w client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
			err := w.List(ctx, o, opts...)
			o.SetContinue("more")
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			requests := &counter{}
			began := time.Now()
			c, n, _ := fullOfKept(t, requests.funcs(), interceptor.Funcs{List: func(ctx context.Context, w client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
				options := (&client.ListOptions{}).ApplyOptions(opts)
				if options.FieldSelector == nil || !strings.Contains(options.FieldSelector.String(), "spec.use!="+string(v2beta1.IPUsePod)) {
					return w.List(ctx, o, opts...)
				}
				if options.Limit == 0 {
					t.Error("the LIST is not bounded")
				}
				requests.count("kept", o)
				return tc.list(ctx, w, o, opts...)
			}})
			var late []*pending
			for _, name := range []string{"first", "second"} {
				late = append(late, n.adding(c.pod(n, name, c.from("v4|")), name))
			}
			for _, a := range late {
				if a.refused(t, wire.CodeTryAgain, tc.want); !strings.HasSuffix(a.err.Error(), tc.want) {
					t.Errorf("%q says more than %q", a.err, tc.want)
				}
			}
			if lists, most := requests.of("kept SpiderIPList"), 1+int(time.Since(began)/(15*time.Second)); lists == 0 || lists > most {
				t.Errorf("%d LISTs, want 1 to %d", lists, most)
			}
		})
	}
}

// TestKeptHolder: an address that is asked for, or the only one of its pool, is kept. The refusal says so and what frees it, and
// nobody looks for the pod.
func TestKeptHolder(t *testing.T) {
	c := newCluster(t)
	read := &counter{}
	n := c.node("n1", interceptor.Funcs{Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if key.Name == "a-0" || key.Name == "b-0" {
			read.count("get", o)
		}
		return w.Get(ctx, key, o, opts...)
	}})
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10-10.1.0.18"})
	c.pool("one", "10.2.0.0/24", []string{"10.2.0.10"})
	other, a, b := c.node("other"), c.statefulSet("a", 1), c.statefulSet("b", 1)
	other.keep(a, "v4|", "10.1.0.10")
	other.keep(b, "one|", "10.2.0.10")
	kept := func(set, address string) string {
		return fmt.Sprintf("held by %s/%s-0 (kept for StatefulSet %[2]s: scale in or delete StatefulSet %[2]s, or run 'kubectl delete spiderip %s')", c.prefix, set, address)
	}
	n.adding(c.pod(n, "asks", c.from("v4|")), "asks", asking("10.1.0.10")).
		refused(t, wire.CodeTryAgain, "the address 10.1.0.10 that was asked for is "+kept("a", "10.1.0.10"))
	n.adding(c.pod(n, "waits", c.from("one|")), "waits").
		refused(t, wire.CodeTryAgain, "0 free of 1, 1 kept for StatefulSet b; "+kept("b", "10.2.0.10"))
	if read.String() != "" {
		t.Errorf("of the pods that are gone: %s", read)
	}
}
