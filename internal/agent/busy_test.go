package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/agent/allocation"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// TestWebhookDown: a webhook that guards pools and cannot be reached keeps
// nobody from getting an address.
func TestWebhookDown(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	p4 := c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"}, func(p *v2beta1.SpiderIPPool) { p.Labels = map[string]string{"test": c.prefix} })
	scheme := apiclient.Scheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(c.server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	hook := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: c.prefix},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:           "pools.test.example",
			ClientConfig:   admissionv1.WebhookClientConfig{URL: ptr("https://127.0.0.1:1/")},
			FailurePolicy:  ptr(admissionv1.Fail),
			ObjectSelector: &metav1.LabelSelector{MatchLabels: p4.Labels},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.OperationAll},
				Rule:       admissionv1.Rule{APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"spiderippools", "spiderippools/*"}},
			}},
			SideEffects:             ptr(admissionv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
	if err := admin.Create(t.Context(), hook); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.Delete(context.Background(), hook); err != nil {
			t.Error(err)
		}
	})
	c.eventually("edits of the pool are refused", func() bool {
		p4.Spec.ExcludeIPs = []string{"10.1.0.200"}
		return c.Update(t.Context(), p4, client.DryRunAll) != nil
	})
	p := c.pod(n, "web", c.from("v4|"))
	n.add(p, "c1")
	n.del(p, "c1")
	c.holds("")
}

// TestThrottled: the API server answers that it has too much to do, and when to
// come again. The ADDs come again then, and not before.
func TestThrottled(t *testing.T) {
	const adds, refusals = 8, 16
	c := newCluster(t)
	var mu sync.Mutex
	refused := 0
	came := map[string][]time.Time{} // by claim
	n := c.machine("n1")
	n.durations.Wait = requestWait
	n.transport = func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/spiderips") {
				return next.RoundTrip(r)
			}
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			claim, err := io.ReadAll(body)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			came[string(claim)] = append(came[string(claim)], time.Now())
			if refused == refusals {
				mu.Unlock()
				defer mu.Lock()
				return next.RoundTrip(r)
			}
			refused++
			return &http.Response{StatusCode: http.StatusTooManyRequests, Request: r, Proto: "HTTP/2.0", ProtoMajor: 2,
				Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
		})
	}
	n.start()
	c.pool("v4", "10.1.0.0/16", []string{"10.1.0.10-10.1.200.10"})
	answers := make([]*pending, adds)
	for i := range answers {
		name := fmt.Sprint("p", i)
		answers[i] = n.adding(c.pod(n, name, c.from("v4|")), name)
	}
	for _, a := range answers {
		a.ips(t)
	}
	total := 0
	for claim, times := range came {
		total += len(times)
		for i := range times[1:] {
			if gap := times[i+1].Sub(times[i]); gap < time.Second {
				t.Errorf("came again after %s, was told 1 s: %s", gap, claim)
			}
		}
	}
	if total != adds+refusals || len(came) != adds {
		t.Errorf("%d requests for %d claims, want %d for %d", total, len(came), adds+refusals, adds)
	}
}

// TestThrottledWithoutEnd: when the client has given up to ask again, the agent
// asks at growing intervals, and then fails.
func TestThrottledWithoutEnd(t *testing.T) {
	c := newCluster(t)
	var asked atomic.Int32
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if r.what == claims {
			asked.Add(1)
			return apierrors.NewTooManyRequests("too much to do", 1)
		}
		return send(ctx)
	}))
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p := c.pod(n, "web", c.from("v4|"))
	n.adding(p, "c1").refused(t, wire.CodeTryAgain, allocation.ErrAway.Error(), "too much to do")
	if n := asked.Load(); n < 2 || n > 5 { // after 0.1, 0.2, 0.4 and 0.8 s, a quarter less by chance
		t.Errorf("asked %d times within 1 s", n)
	}
	n.del(p, "c1") // a refused claim did not happen, there is nothing to wait for
	c.holds("")
}

// TestStatusAndGCWithoutPod: STATUS does not ask the API server, and neither
// STATUS nor GC needs a pod.
func TestStatusAndGCWithoutPod(t *testing.T) {
	c := newCluster(t)
	var away atomic.Bool
	n := c.node("n1", between(func(ctx context.Context, r request, send func(context.Context) error) error {
		if away.Load() {
			return errRefused
		}
		return send(ctx)
	}))
	call := func(req *wire.Request) error {
		ctx, cancel := context.WithTimeout(t.Context(), requestWait)
		defer cancel()
		_, err := wire.Call(ctx, n.socket, req)
		return err
	}
	away.Store(true)
	if err := call(&wire.Request{Verb: wire.VerbStatus}); err != nil {
		t.Errorf("STATUS while the API server is away: %v", err)
	}
	away.Store(false)
	if err := call(&wire.Request{Verb: wire.VerbGC, Network: "underlay"}); err != nil {
		t.Errorf("GC: %v", err)
	}
}
