package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
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
		t.Errorf("node: %v, %v", entries, err)
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
	c := open(t, "n1").client.(client.WithWatch)
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
