// Package ledger keeps the record of who holds which address: one SpiderIP
// object per address in use, whose name is the address. The API server admits
// one creator of a name, so an address has at most one holder, whatever else
// happens. Only this package writes SpiderIPs.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
)

var (
	// ErrTaken means that somebody holds the address.
	ErrTaken = errors.New("the address is taken")
	// ErrLost means that the entry was changed or deleted since it was read.
	ErrLost = errors.New("the entry changed since it was read")
	// ErrUnknown means that a write was sent and no answer came: it may have
	// happened, or may still.
	ErrUnknown = errors.New("the outcome is unknown")
)

// Ledger reads and writes entries. Its client must read live (uncached) and
// carry a server-side timeout (rest.Config.Timeout), after which a write that
// was not answered cannot happen any more.
type Ledger struct{ client client.Client }

// New returns a ledger on c.
func New(c client.Client) *Ledger { return &Ledger{c} }

// Claim creates ip, which is named after its address by Claim, and fills in
// what the API server adds. Errors: ErrTaken, ErrUnknown, or a refusal after
// which nothing was written.
func (l *Ledger) Claim(ctx context.Context, ip *v2beta1.SpiderIP) error {
	a, err := addr.ParseAddr(ip.Spec.Address)
	if err != nil {
		return err
	}
	created := &v2beta1.SpiderIP{Spec: ip.Spec}
	created.Name = addr.Name(a)
	ip.Name = created.Name
	if err = over(ctx); err == nil {
		err = l.client.Create(ctx, created)
	}
	if err == nil {
		*ip = *created
	}
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%s: %w", ip.Spec.Address, ErrTaken)
	}
	return outcome("claim", ip, err)
}

// Update writes ip, if it is still what was read. Errors: ErrLost, ErrUnknown,
// or a refusal after which nothing was written.
//
// It always changes something: the API server gives no new resourceVersion to
// an object that is written as it is, and then a Release of the old one that is
// still on its way would delete what this call has just confirmed.
func (l *Ledger) Update(ctx context.Context, ip *v2beta1.SpiderIP) error {
	metav1.SetMetaDataAnnotation(&ip.ObjectMeta, v2beta1.AnnotationWritten, rand.String(8))
	err := over(ctx)
	if err == nil {
		err = l.client.Update(ctx, ip)
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w", ip.Spec.Address, ErrLost)
	}
	return outcome("update", ip, err)
}

// Release deletes ip if it is still what was read; an entry that is gone is no
// error. Errors: ErrLost (it is now something else: leave it), ErrUnknown, or
// a refusal after which nothing was deleted.
func (l *Ledger) Release(ctx context.Context, ip *v2beta1.SpiderIP) error {
	if err := l.remove(ctx, ip); !errors.Is(err, errGone) {
		return err
	}
	return nil
}

// Collect is Release for who is not the holder: an entry that is gone is
// ErrLost, for it was freed by somebody else. Of ip only name, UID,
// resourceVersion and address are asked.
func (l *Ledger) Collect(ctx context.Context, ip *v2beta1.SpiderIP) error { return l.remove(ctx, ip) }

// errGone is ErrLost of an entry that is gone.
var errGone = fmt.Errorf("%w: it is gone", ErrLost)

func (l *Ledger) remove(ctx context.Context, ip *v2beta1.SpiderIP) error {
	err := over(ctx)
	if err == nil {
		err = l.client.Delete(ctx, ip, client.Preconditions{UID: &ip.UID, ResourceVersion: &ip.ResourceVersion})
	}
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", ip.Spec.Address, errGone)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%s: %w", ip.Spec.Address, ErrLost)
	}
	return outcome("release", ip, err)
}

// Mark writes use and reason, and nothing else, if ip is still what was read;
// of it only name, UID, resourceVersion and address are asked. Errors as of
// Update.
func (l *Ledger) Mark(ctx context.Context, ip *v2beta1.SpiderIP, use v2beta1.IPUse, reason string) error {
	return l.patch(ctx, ip, map[string]any{"use": use, "reason": reason})
}

// Disown writes that an address in quarantine belongs to no owner any more, and
// why, as Mark does.
func (l *Ledger) Disown(ctx context.Context, ip *v2beta1.SpiderIP, reason string) error {
	return l.patch(ctx, ip, map[string]any{"owner": nil, "reason": reason})
}

func (l *Ledger) patch(ctx context.Context, ip *v2beta1.SpiderIP, spec map[string]any) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": ip.UID, "resourceVersion": ip.ResourceVersion, "annotations": map[string]string{v2beta1.AnnotationWritten: rand.String(8)}},
		"spec":     spec,
	})
	if err == nil {
		err = over(ctx)
	}
	if err == nil {
		err = l.client.Patch(ctx, ip, client.RawPatch(types.MergePatchType, patch))
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w", ip.Spec.Address, ErrLost)
	}
	return outcome("mark", ip, err)
}

// Get reads the entry of an address; nil if nobody holds it.
func (l *Ledger) Get(ctx context.Context, name string) (*v2beta1.SpiderIP, error) {
	ip := &v2beta1.SpiderIP{}
	err := l.client.Get(ctx, client.ObjectKey{Name: name}, ip)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ip, nil
}

// Revision reads the resourceVersion of the whole ledger, as of a moment after the call.
func (l *Ledger) Revision(ctx context.Context) (string, error) {
	var list v2beta1.SpiderIPList
	// One name is read by its key; nobody holds this address.
	if err := l.client.List(ctx, &list, client.MatchingFields{"metadata.name": "0.0.0.0"}); err != nil {
		return "", fmt.Errorf("read the version of the SpiderIPs: %w", err)
	}
	return list.ResourceVersion, nil
}

// OfNode lists the entries of a node, as of a moment after the call.
func (l *Ledger) OfNode(ctx context.Context, node string) ([]v2beta1.SpiderIP, error) {
	return l.list(ctx, "the SpiderIPs of node "+node, client.MatchingFields{"spec.node": node})
}

// All lists all entries, as of a moment after the call. For people: it costs
// what the cluster is large.
func (l *Ledger) All(ctx context.Context) ([]v2beta1.SpiderIP, error) {
	return l.list(ctx, "the SpiderIPs")
}

func (l *Ledger) list(ctx context.Context, what string, of ...client.ListOption) ([]v2beta1.SpiderIP, error) {
	var list v2beta1.SpiderIPList
	if err := l.client.List(ctx, &list, of...); err != nil {
		return nil, fmt.Errorf("list %s: %w", what, err)
	}
	return list.Items, nil
}

// OfPool returns the addresses held in the name of a pool, as of a moment after
// the call. strange are the names of entries that name no address; somebody made
// them who is not Spiderpool, and they hold nothing.
func (l *Ledger) OfPool(ctx context.Context, pool string) (taken addr.Set, strange []string, err error) {
	if taken, strange, err = l.taken(ctx, client.MatchingFields{"spec.pool": pool}); err != nil {
		err = fmt.Errorf("list the SpiderIPs of pool %s: %w", pool, err)
	}
	return taken, strange, err
}

// WithoutPod returns the entries of a pool that no pod has, as of a moment after
// the call: those that are kept for the next pod of an owner, and those in
// quarantine. It returns at most the first few, and whether there may be more. For
// an ADD that finds the pool full.
func (l *Ledger) WithoutPod(ctx context.Context, pool string, few int64) (entries []v2beta1.SpiderIP, more bool, err error) {
	var list v2beta1.SpiderIPList
	of := fields.AndSelectors(fields.OneTermEqualSelector("spec.pool", pool), fields.OneTermNotEqualSelector("spec.use", string(v2beta1.IPUsePod)))
	if err := l.client.List(ctx, &list, client.MatchingFieldsSelector{Selector: of}, client.Limit(few)); err != nil {
		return nil, false, fmt.Errorf("list the SpiderIPs of pool %s that no pod has: %w", pool, err)
	}
	return list.Items, list.Continue != "", nil
}

// taken lists metadata; a limit among the options is the size of a page.
func (l *Ledger) taken(ctx context.Context, options ...client.ListOption) (taken addr.Set, strange []string, err error) {
	var ranges []addr.Range
	for next := ""; ; {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderIPList"))
		if err := l.client.List(ctx, &list, append(options, client.Continue(next))...); err != nil {
			return addr.Set{}, nil, err
		}
		for i := range list.Items {
			a, err := addr.ParseName(list.Items[i].Name)
			if err != nil {
				strange = append(strange, list.Items[i].Name)
				continue
			}
			r, _ := addr.MakeRange(a, a)
			ranges = append(ranges, r)
		}
		if next = list.Continue; next == "" {
			return addr.MakeSet(ranges...), strange, nil
		}
	}
}

// Held returns which addresses of set are held, in the name of pool or, if that
// is empty, of any, as of a moment after the call; and the entries of the first
// few of them. For edits by people: of a small set it GETs each address, and else
// it lists the metadata of the pool's entries, or of all.
func (l *Ledger) Held(ctx context.Context, set addr.Set, pool string, few int) (held addr.Set, some []v2beta1.SpiderIP, err error) {
	const small, page = 8, 1000
	first := small
	if held = set; set.Count().Cmp(addr.CountOf(small)) > 0 {
		if pool != "" {
			held, _, err = l.OfPool(ctx, pool)
		} else if held, _, err = l.taken(ctx, client.Limit(page)); err != nil {
			err = fmt.Errorf("list the SpiderIPs: %w", err)
		}
		held, first = held.Intersect(set), few
	}
	for i, candidates := 0, held; i < first && err == nil; i++ {
		a, ok := candidates.Nth(addr.CountOf(uint64(i)))
		if !ok {
			break
		}
		var ip *v2beta1.SpiderIP
		switch ip, err = l.Get(ctx, addr.Name(a)); {
		case err != nil:
			err = fmt.Errorf("read the SpiderIP of %s: %w", a, err)
		case ip == nil || pool != "" && ip.Spec.Pool != pool:
			held = held.Without(a)
		case len(some) < few:
			some = append(some, *ip)
		}
	}
	return held, some, err
}

// heldPage is how many entries one answer holds: a pool may have many, and its
// reader little memory.
const heldPage = 1000

// HeldIn calls each with all entries in the name of a pool, as of one moment
// after the call, and returns the resourceVersion of that moment. An entry must
// not be kept as it is: it is large.
func (l *Ledger) HeldIn(ctx context.Context, pool string, each func(*v2beta1.SpiderIP)) (version string, err error) {
	for next := ""; ; {
		var list v2beta1.SpiderIPList
		if err := l.client.List(ctx, &list, client.MatchingFields{"spec.pool": pool}, client.Limit(heldPage), client.Continue(next)); err != nil {
			return "", fmt.Errorf("list the SpiderIPs of pool %s: %w", pool, err)
		}
		for i := range list.Items {
			each(&list.Items[i])
		}
		if version, next = list.ResourceVersion, list.Continue; next == "" {
			return version, nil
		}
	}
}

// over says that nothing is sent any more for a context that has ended: the
// client would not say so.
func over(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", apiclient.ErrNotSent, context.Cause(ctx))
}

// outcome sorts the error of a write: what the API server refused did not
// happen, nor what never reached it; all else is unknown.
func outcome(verb string, ip *v2beta1.SpiderIP, err error) error {
	if err == nil {
		return nil
	}
	var status apierrors.APIStatus
	var op *net.OpError
	refused := errors.As(err, &status) && refusal(status.Status())
	unsent := errors.Is(err, apiclient.ErrNotSent) || errors.As(err, &op) && op.Op == "dial"
	if !refused && !unsent {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return fmt.Errorf("%s %s: %w", verb, ip.Spec.Address, err)
}

// refusal reports whether s says for certain that a write did not happen. The
// reasons left out are given also when a write that was under way ran out of
// time or lost its store.
func refusal(s metav1.Status) bool {
	return s.Code >= 400 && s.Code < 500 && s.Reason != metav1.StatusReasonTimeout
}
