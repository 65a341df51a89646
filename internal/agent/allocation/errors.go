package allocation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/agent/lease"
	"github.com/spidernet-io/spiderpool/internal/agent/timing"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

var (
	// ErrAway marks an error of the API server that may pass.
	ErrAway = errors.New("exhaust all retries, the API server does not answer")
	// ErrFinished says that a pod is being deleted, or has finished.
	ErrFinished = errors.New("it gets no address")
)

var (
	errStopping = errors.New("it waited for an address, and the agent of this node is stopping; try again when it is back")
	errTooMany  = errors.New("the search took too long: too many of the pool's addresses are held in the name of other pools; let pools share fewer addresses")
)

// Full means that every candidate of a pool was seen taken by an ADD.
type Full struct {
	Candidates addr.Set
	Usage      pool.Usage
}

// reason says it for people; asked is the address that was asked for, if it is the only candidate.
func (f *Full) reason(asked netip.Addr) string {
	if !asked.IsValid() {
		return f.Usage.UsedOut()
	}
	var holder pool.Holder
	if len(f.Usage.Holders) > 0 {
		holder = f.Usage.Holders[0]
	}
	return pool.HeldRequest(asked, holder)
}

// Refused is the error of an interface that gets no address of a family: which pools were tried and why each did not serve.
type Refused struct {
	// Unserved has the reasons in order, an empty one for a full pool: there it follows from Full.
	pool.Unserved
	// Full are the pools that were full, by name.
	Full map[string]*Full
	// Asked is the address that was asked for, if any.
	Asked netip.Addr
}

// MayPass reports whether it is worth waiting: an address of a full pool may come free, or the controller makes, enables or
// enlarges an automatic pool.
func (e *Refused) MayPass() bool { return len(e.Full) > 0 || e.automatic() }

func (e *Refused) automatic() bool { return e.Selection.Subnets[e.Family] != "" }

// FullPools are the names of the pools that were full and that an administrator made: those of automatic pools follow from
// what tenants write, and there may be ever new ones.
func (e *Refused) FullPools() iter.Seq[string] {
	if e.automatic() {
		return func(func(string) bool) {}
	}
	return maps.Keys(e.Full)
}

// wants reports whether it is worth waiting for an address: a full pool could give it.
func (e *Refused) wants(pool string, a netip.Addr) bool {
	full := e.Full[pool]
	return full != nil && full.Candidates.Contains(a)
}

// Error names each pool and why it did not serve.
func (e *Refused) Error() string {
	out := e.Unserved
	out.Why = slices.Clone(e.Why)
	for i, r := range out.Why {
		if full := e.Full[r.Pool]; full != nil && r.Why == "" {
			out.Why[i].Why = full.reason(e.Asked)
		}
	}
	return out.Error()
}

// Retry does something that the API server may not answer now, again and again while that may change and the ADD may wait.
func (r *Request) Retry(ctx context.Context, do func() error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		if !Transient(err) || !r.patient() || lease.Wait(ctx, time.After(timing.Jitter(pause))) != nil {
			return err
		}
	}
}

// retry is Retry of something that has a result.
func retry[T any](ctx context.Context, r *Request, do func() (T, error)) (out T, err error) {
	err = r.Retry(ctx, func() error { out, err = do(); return err })
	return out, err
}

// Transient reports whether doing the same again may help: the API server was not reached, had no time, did not say what
// became of it, or has not loaded its roles yet.
func Transient(err error) bool {
	var status apierrors.APIStatus
	var network net.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, lease.ErrDeleted):
		return false
	case apiclient.LoadingRoles(err), errors.Is(err, apiclient.ErrNotSent), errors.Is(err, ledger.ErrUnknown), errors.Is(err, lease.ErrUnsettled), errors.Is(err, facts.ErrNoMirror), errors.Is(err, context.DeadlineExceeded):
		return true
	case errors.As(err, &status):
		s := status.Status()
		return s.Code >= 500 || s.Code == http.StatusTooManyRequests || s.Reason == metav1.StatusReasonTimeout
	}
	return errors.As(err, &network)
}

// away marks an error that may pass, for a reader.
func away(err error) error {
	if Transient(err) && !errors.Is(err, ErrAway) {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}
