package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// open is the ledger as the agent of a node sees it.
func open(t *testing.T, node string) *Ledger {
	t.Helper()
	server := apiserver.ForTest(t)
	apiserver.InstallProduct(t, server)
	clients, err := apiclient.New(apiserver.AgentConfig(t, server, node))
	if err != nil {
		t.Fatal(err)
	}
	return New(clients.Live)
}

func entry(address, pool, node, container string) *v2beta1.SpiderIP {
	e := &v2beta1.SpiderIP{}
	e.Spec = v2beta1.IPSpec{Address: address, Pool: pool, Node: node, Network: "net", Interface: "eth0", ContainerID: container,
		Pod: v2beta1.IPPod{Namespace: "default", Name: "web", UID: "u-" + container}}
	return e
}

// TestOneHolder: the second claim of an address fails, whatever pool it names;
// a writer that is late changes and deletes nothing.
func TestOneHolder(t *testing.T) {
	l, other, ctx := open(t, "n1"), open(t, "n2"), t.Context()
	first := entry("fd00::a", "p1", "n1", "c1")
	if err := l.Claim(ctx, first); err != nil {
		t.Fatal(err)
	}
	if first.Name != "fd00-0000-0000-0000-0000-0000-0000-000a" || first.UID == "" {
		t.Errorf("claimed as %q", first.Name)
	}
	second := entry("fd00::a", "p2", "n2", "c2")
	if err := other.Claim(ctx, second); !errors.Is(err, ErrTaken) {
		t.Errorf("second claim: %v", err)
	}
	stale := first.DeepCopy()
	first.Spec.ContainerID = "c3"
	if err := l.Update(ctx, first); err != nil {
		t.Fatal(err)
	}
	for verb, write := range map[string]func(context.Context, *v2beta1.SpiderIP) error{"update": l.Update, "release": l.Release} {
		if err := write(ctx, stale); !errors.Is(err, ErrLost) {
			t.Errorf("%s with what was read before: %v", verb, err)
		}
	}
	if err := l.Release(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(ctx, first); err != nil {
		t.Errorf("released twice: %v", err)
	}
	if err := other.Claim(ctx, second); err != nil {
		t.Errorf("claim after release: %v", err)
	}
	if err := l.Release(ctx, first); !errors.Is(err, ErrLost) {
		t.Errorf("the old holder released the new one's: %v", err)
	}
	if got, err := l.Get(ctx, second.Name); err != nil || got == nil || got.Spec.ContainerID != "c2" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := l.Get(ctx, "fd00-0000-0000-0000-0000-0000-0000-000b"); got != nil || err != nil {
		t.Errorf("nobody's: %+v, %v", got, err)
	}
}

// TestUpdateThatChangesNothing: what was read before it is stale all the same.
func TestUpdateThatChangesNothing(t *testing.T) {
	l, ctx := open(t, "n1"), t.Context()
	e := entry("fd00::c", "p1", "n1", "c1")
	if err := l.Claim(ctx, e); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		before := e.DeepCopy()
		if err := l.Update(ctx, e); err != nil || e.ResourceVersion == before.ResourceVersion {
			t.Errorf("error %v, resourceVersion %s and then %s", err, before.ResourceVersion, e.ResourceVersion)
		}
		if err := l.Release(ctx, before); !errors.Is(err, ErrLost) {
			t.Errorf("released as it was before: %v", err)
		}
	}
	if err := l.Release(ctx, e); err != nil {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	l, ctx := open(t, "n1"), t.Context()
	for i, e := range []*v2beta1.SpiderIP{
		entry("10.1.0.1", "web", "n1", "a"), entry("10.1.0.2", "web", "n2", "b"), entry("10.1.0.4", "web", "n1", "c"),
		entry("10.1.0.3", "db", "n1", "d"), entry("fd01::1", "web", "n3", "e"),
	} {
		if err := open(t, e.Spec.Node).Claim(ctx, e); err != nil {
			t.Fatal(i, err)
		}
	}
	if set, strange, err := l.OfPool(ctx, "web"); err != nil || len(strange) > 0 || set.String() != "10.1.0.1-10.1.0.2, 10.1.0.4, fd01::1" {
		t.Errorf("pool: %s, %v", set, err)
	}
	if set, _, err := l.OfPool(ctx, "none"); err != nil || !set.IsEmpty() {
		t.Errorf("no pool: %s, %v", set, err)
	}
	entries, err := l.OfNode(ctx, "n1")
	if err != nil || len(entries) != 3 {
		t.Errorf("node: %d entries, %v", len(entries), err)
	}
}

// TestWithoutPod: only what no pod has is listed, only of the pool, and no more than is asked for.
func TestWithoutPod(t *testing.T) {
	l, ctx := open(t, "without"), t.Context()
	for i, use := range []v2beta1.IPUse{v2beta1.IPUseKept, v2beta1.IPUsePod, v2beta1.IPUseKept, v2beta1.IPUseQuarantine, v2beta1.IPUseKept} {
		for j, pool := range []string{"fixed", "other"} {
			e := entry(fmt.Sprintf("10.2.%d.%d", j, i), pool, "without", "c")
			e.Spec.Use, e.Spec.Owner = use, &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u"}
			if err := l.Claim(ctx, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		few  int64
		want string
		more bool
	}{{10, "[10.2.0.0 10.2.0.2 10.2.0.3 10.2.0.4]", false}, {2, "[10.2.0.0 10.2.0.2]", true}} {
		left, more, err := l.WithoutPod(ctx, "fixed", tc.few)
		var names []string
		for i := range left {
			names = append(names, left[i].Name)
		}
		if err != nil || fmt.Sprint(names) != tc.want || more != tc.more {
			t.Errorf("at most %d: %v, more %t, %v", tc.few, names, more, err)
		}
	}
}

// TestHeldIn: a list that comes in pages is one list.
func TestHeldIn(t *testing.T) {
	l := open(t, "many")
	const entries = heldPage + 5
	var group sync.WaitGroup
	for w := range 16 {
		group.Go(func() {
			for i := w; i < entries; i += 16 {
				if err := l.Claim(t.Context(), entry(fmt.Sprintf("10.9.%d.%d", i/250, i%250+1), "large", "many", "c")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	seen, last := map[string]bool{}, ""
	version, err := l.HeldIn(t.Context(), "large", func(e *v2beta1.SpiderIP) {
		seen[e.Name] = true
		if order, err := resourceversion.CompareResourceVersion(e.ResourceVersion, last); err != nil || order > 0 {
			last = e.ResourceVersion
		}
	})
	order, wrong := resourceversion.CompareResourceVersion(version, last)
	if err != nil || len(seen) != entries || wrong != nil || order < 0 {
		t.Errorf("%d entries as of %s, the newest of %s; %v, %v", len(seen), version, last, err, wrong)
	}
	if version, err := l.HeldIn(t.Context(), "none", func(*v2beta1.SpiderIP) { t.Error("an entry") }); err != nil || version == "" {
		t.Errorf("none: as of %q, %v", version, err)
	}
}

// TestOutcome: only what certainly did not happen is a plain error.
func TestOutcome(t *testing.T) {
	kind := schema.GroupResource{Group: v2beta1.GroupVersion.Group, Resource: "spiderips"}
	sent := &url.Error{Op: "Post", URL: "https://x", Err: &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}}
	unsent := &url.Error{Op: "Post", URL: "https://x", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	for _, tc := range []struct {
		err     error
		unknown bool
	}{
		{apierrors.NewForbidden(kind, "x", errors.New("no")), false},
		{apierrors.NewBadRequest("bad"), false},
		{apierrors.NewTooManyRequests("later", 1), false},
		{apierrors.NewInvalid(schema.GroupKind{}, "x", nil), false},
		{unsent, false},
		{&url.Error{Op: "Post", URL: "https://x", Err: fmt.Errorf("%w: %w", apiclient.ErrNotSent, context.Canceled)}, false},
		{sent, true},
		{apierrors.NewTimeoutError("store", 1), true},
		{apierrors.NewServerTimeout(kind, "create", 1), true},
		{apierrors.NewInternalError(errors.New("etcdserver: leader changed")), true},
		{apierrors.NewServiceUnavailable("away"), true},
		{context.DeadlineExceeded, true},
		{context.Canceled, true},
		{fmt.Errorf("something else"), true},
	} {
		got := outcome("claim", entry("10.1.0.9", "p", "n", "c"), tc.err)
		if errors.Is(got, ErrUnknown) != tc.unknown || !errors.Is(got, tc.err) {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
	if err := outcome("claim", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestStrangeNames: an entry whose name is no address does not hide the others.
func TestStrangeNames(t *testing.T) {
	c := open(t, "many").client.(client.WithWatch)
	l := New(interceptor.NewClient(c, interceptor.Funcs{
		List: func(_ context.Context, _ client.WithWatch, l client.ObjectList, _ ...client.ListOption) error {
			for _, name := range []string{"10.1.0.1", "10.1.0.01", "web", "10.1.0.2"} {
				l.(*metav1.PartialObjectMetadataList).Items = append(l.(*metav1.PartialObjectMetadataList).Items,
					metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}})
			}
			return nil
		},
	}))
	taken, strange, err := l.OfPool(t.Context(), "p")
	if err != nil || taken.String() != "10.1.0.1-10.1.0.2" || fmt.Sprint(strange) != "[10.1.0.01 web]" {
		t.Errorf("taken %s, strange %v, %v", taken, strange, err)
	}
}

// TestEndedContext: a write for a context that has ended is not sent, and is
// known not to be.
func TestEndedContext(t *testing.T) {
	l := open(t, "n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := entry("10.1.9.9", "p", "n", "c")
	e.Name, e.UID, e.ResourceVersion = "10.1.9.9", "u", "1"
	for verb, write := range map[string]func(context.Context, *v2beta1.SpiderIP) error{"claim": l.Claim, "update": l.Update, "release": l.Release} {
		if err := write(ctx, e); !errors.Is(err, apiclient.ErrNotSent) || errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if got, err := l.Get(t.Context(), e.Name); got != nil || err != nil {
		t.Errorf("it is there: %v, %v", got, err)
	}
}

// TestHeld: an edit learns who holds addresses in the name of a pool, or of any,
// of few addresses by reading them and of many by a LIST in pages.
func TestHeld(t *testing.T) {
	l, ctx := open(t, "n1"), t.Context()
	for i := range 12 {
		ip := entry(fmt.Sprintf("10.77.0.%d", i), []string{"held-a", "held-b"}[i%2], "n1", fmt.Sprint(i))
		if err := l.Claim(ctx, ip); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Release(context.WithoutCancel(ctx), ip) })
	}
	gone, pages := "", 0 // gone is freed between the LIST and what follows
	l.client = interceptor.NewClient(l.client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if key.Name == gone {
				return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			pages++
			return c.List(ctx, list, append(opts, client.Limit(5))...)
		},
	})
	for _, tt := range []struct {
		name, ranges, pool, gone string
		held, some               string
	}{
		{"few of a pool", "10.77.0.0-10.77.0.3", "held-a", "", "10.77.0.0, 10.77.0.2", "[10.77.0.0 10.77.0.2]"},
		{"few of any", "10.77.0.10-10.77.0.15", "", "", "10.77.0.10-10.77.0.11", "[10.77.0.10 10.77.0.11]"},
		{"many of a pool", "10.77.0.0-10.77.0.255", "held-b", "", "10.77.0.1, 10.77.0.3, 10.77.0.5, 10.77.0.7, 10.77.0.9, 10.77.0.11", "[10.77.0.1 10.77.0.3 10.77.0.5]"},
		{"many of any", "10.77.0.4-10.77.0.255", "", "", "10.77.0.4-10.77.0.11", "[10.77.0.4 10.77.0.5 10.77.0.6]"},
		{"one that was freed", "10.77.0.0-10.77.0.255", "held-b", "10.77.0.3", "10.77.0.1, 10.77.0.5, 10.77.0.7, 10.77.0.9, 10.77.0.11", "[10.77.0.1 10.77.0.5]"},
		{"none", "10.78.0.0-10.78.0.255", "", "", "", "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gone = tt.gone
			set, err := addr.ParseSet([]string{tt.ranges})
			if err != nil {
				t.Fatal(err)
			}
			held, entries, err := l.Held(ctx, set, tt.pool, 3)
			if err != nil {
				t.Fatal(err)
			}
			some := []string{}
			for _, ip := range entries {
				some = append(some, ip.Spec.Address)
			}
			if held.String() != tt.held || fmt.Sprint(some) != tt.some {
				t.Errorf("held %s, some %v, want %s, %s", held, some, tt.held, tt.some)
			}
		})
	}
	if pages <= 4 {
		t.Errorf("%d pages for 4 lists: none was longer than a page", pages)
	}
}
