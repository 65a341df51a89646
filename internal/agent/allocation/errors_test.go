package allocation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// TestTransient: what may pass is tried again; what the API server means, what nobody waits for any more and what no
// repetition changes is not.
func TestTransient(t *testing.T) {
	kind := schema.GroupResource{Group: "spiderpool.spidernet.io", Resource: "spiderips"}
	forbidden := func(why string) error { return apierrors.NewForbidden(kind, "x", errors.New(why)) }
	post := func(err error) error { return &url.Error{Op: "Post", URL: "https://x", Err: err} }
	status := func(code int32, reason metav1.StatusReason) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason}}
	}
	for _, tc := range []struct {
		name string
		err  error
		want bool
	}{
		{"no error", nil, false},
		{"the roles are not loaded yet", forbidden(`RBAC: clusterrole.rbac.authorization.k8s.io "spiderpool-agent" not found`), true},
		{"forbidden", forbidden("no"), false},
		{"not sent", post(fmt.Errorf("%w: 32 others are under way", apiclient.ErrNotSent)), true},
		{"not sent, the time is over", post(fmt.Errorf("%w: %w", apiclient.ErrNotSent, context.DeadlineExceeded)), true},
		{"not sent, cancelled", post(fmt.Errorf("%w: %w", apiclient.ErrNotSent, context.Canceled)), false},
		{"not sent, deleted", post(fmt.Errorf("%w: %w", apiclient.ErrNotSent, lease.ErrDeleted)), false},
		{"429", apierrors.NewTooManyRequests("later", 1), true},
		{"500", apierrors.NewInternalError(errors.New("etcdserver: leader changed")), true},
		{"502 of a proxy", status(http.StatusBadGateway, ""), true},
		{"503", apierrors.NewServiceUnavailable("away"), true},
		{"504", apierrors.NewTimeoutError("store", 1), true},
		{"a timeout under another code", status(http.StatusRequestTimeout, metav1.StatusReasonTimeout), true},
		{"400", apierrors.NewBadRequest("bad"), false},
		{"401", apierrors.NewUnauthorized("who"), false},
		{"404", apierrors.NewNotFound(kind, "x"), false},
		{"409", apierrors.NewConflict(kind, "x", errors.New("changed")), false},
		{"422", apierrors.NewInvalid(schema.GroupKind{}, "x", nil), false},
		{"refused", post(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), true},
		{"reset", post(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), true},
		{"no such host", post(&net.OpError{Op: "dial", Err: &net.DNSError{Name: "x", IsNotFound: true}}), true},
		{"the time of the request is over", post(context.DeadlineExceeded), true},
		{"deadline", context.DeadlineExceeded, true},
		{"the time of the socket is over", os.ErrDeadlineExceeded, true},
		{"the outcome is unknown", fmt.Errorf("claim: %w: %w", ledger.ErrUnknown, errors.New("EOF")), true},
		{"the outcome is unknown, cancelled", fmt.Errorf("claim: %w: %w", ledger.ErrUnknown, context.Canceled), false},
		{"the outcome is unknown, deleted", fmt.Errorf("claim: %w: %w", ledger.ErrUnknown, lease.ErrDeleted), false},
		{"a create may still happen", fmt.Errorf("x: %w", lease.ErrUnsettled), true},
		{"the mirror pod is not there yet", fmt.Errorf("pod: %w", facts.ErrNoMirror), true},
		{"cancelled", post(context.Canceled), false},
		{"deleted", fmt.Errorf("x: %w", lease.ErrDeleted), false},
		{"taken", fmt.Errorf("x: %w", ledger.ErrTaken), false},
		{"lost", fmt.Errorf("x: %w", ledger.ErrLost), false},
		{"no pool", fmt.Errorf("x: %w", facts.ErrNoPool), false},
		{"anything else", errors.New("strange"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Transient(tc.err); got != tc.want {
				t.Errorf("%v: %t", tc.err, got)
			}
			marked := away(tc.err)
			if errors.Is(marked, ErrAway) != tc.want || tc.err != nil && !errors.Is(marked, tc.err) || fmt.Sprint(away(marked)) != fmt.Sprint(marked) {
				t.Errorf("for a reader it is %v, and marked again %v", marked, away(marked))
			}
		})
	}
}
