package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// tries is how many addresses are tried between two LISTs of a pool.
const tries = 8

// errNoPool means that a pool that was asked for is gone or malformed.
var errNoPool = errors.New("it serves nobody")

// fullError means that every address of a pool was seen taken by this ADD.
type fullError struct{ size addr.Count }

func (e *fullError) Error() string {
	return fmt.Sprintf("all IP addresses used out: 0 free of %s", e.size)
}

// livePool reads and parses a pool from the API server, for the fence.
func livePool(c client.Reader) func(context.Context, string) (*pool.Pool, error) {
	return func(ctx context.Context, name string) (*pool.Pool, error) {
		o := &v2beta1.SpiderIPPool{}
		if err := c.Get(ctx, client.ObjectKey{Name: name}, o); apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("it was deleted: %w", errNoPool)
		} else if err != nil {
			return nil, fmt.Errorf("read IPPool %s: %w", name, err)
		}
		p, errs := pool.Parse(o)
		if len(errs) > 0 {
			return nil, fmt.Errorf("%w: %w", errs.ToAggregate(), errNoPool)
		}
		return p, nil
	}
}

// claim gives the attachment a new address of family f from the first pool of
// the wish that serves it. Only a pool that refuses or is proven full is passed
// over for the next.
func (a *Agent) claim(ctx context.Context, at *attachment, ask *asker, f pool.Family) (*holding, error) {
	names := ask.wish.Names[f]
	refused := &refusedError{family: f, source: ask.wish.Source, names: names}
	for _, name := range names {
		p, err := a.world.Pool(name)
		if err != nil {
			refused.add(name, &unservedError{err.Error()})
			continue
		}
		h, err := a.claimIn(ctx, at, ask, p, f)
		if err == nil {
			return h, nil
		}
		if !refused.add(name, err) {
			return nil, err
		}
	}
	return nil, refused
}

// claimIn claims an address of family f in one pool. Every claim is followed by the fence: the pool is
// read live, after the API server answered the claim, and must still serve the
// pod and hold the address.
func (a *Agent) claimIn(ctx context.Context, at *attachment, ask *asker, p *pool.Pool, f pool.Family) (*holding, error) {
	if why := p.Refuses(ask.subject, f); why != "" {
		return nil, &unservedError{why}
	}
	for {
		h, err := a.find(ctx, at, ask, p)
		if err != nil {
			return nil, err
		}
		live, err := a.live.get(ctx, p.Name)
		if err != nil {
			a.putBack(ctx, at, []*holding{h})
			if errors.Is(err, errNoPool) {
				return nil, &unservedError{err.Error()}
			}
			return nil, fmt.Errorf("%w: %w", errAway, err)
		}
		if why := live.Refuses(ask.subject, f); why != "" {
			a.putBack(ctx, at, []*holding{h})
			return nil, &unservedError{why}
		}
		if live.Addresses.Contains(addressOf(h.entry)) {
			h.pool = live
			return h, nil
		}
		a.putBack(ctx, at, []*holding{h}) // the pool was edited meanwhile: search in what it is now
		p = live
	}
}

// find claims one free address of a pool, at random among those not known to
// be taken. The pool counts as full only when every candidate is in a LIST
// sent after this call began, or was answered "taken" to it.
func (a *Agent) find(ctx context.Context, at *attachment, ask *asker, p *pool.Pool) (*holding, error) {
	candidates := p.Addresses.Minus(a.world.Reserved())
	free := candidates.Minus(a.hints.taken(p.Name))
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	var taken addr.Set
	for {
		for range tries {
			address, ok := free.Random(random)
			if !ok {
				break
			}
			entry := &v2beta1.SpiderIP{}
			entry.Spec.Address, entry.Spec.Pool = address.String(), p.Name
			a.fill(entry, ask)
			err := a.ledger.Claim(ctx, entry)
			switch {
			case err == nil:
				a.hints.use(p.Name, address)
				h := &holding{entry: entry}
				at.held = append(at.held, h)
				return h, nil
			case errors.Is(err, ledger.ErrTaken):
				a.hints.use(p.Name, address)
				taken, free = taken.With(address), free.Without(address)
			default:
				if errors.Is(err, ledger.ErrUnknown) {
					a.doubt(entry)
				}
				return nil, away(err)
			}
		}
		listed, err := a.lists.get(ctx, p.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errAway, err)
		}
		a.hints.set(p.Name, listed)
		if free = candidates.Minus(listed).Minus(taken); free.IsEmpty() {
			return nil, &fullError{candidates.Count()}
		}
	}
}

// unservedError is why a pool does not serve a pod.
type unservedError struct{ why string }

func (e *unservedError) Error() string { return e.why }

// refusedError tells which pools of a family were tried and why each did not serve.
type refusedError struct {
	family pool.Family
	source string
	names  []string
	why    []string
	full   bool
}

// add notes why a pool did not serve, unless err is trouble of another kind,
// after which no other pool must be tried.
func (e *refusedError) add(name string, err error) bool {
	var full *fullError
	var unserved *unservedError
	switch {
	case errors.As(err, &full):
		e.full = true
	case errors.As(err, &unserved):
	default:
		return false
	}
	e.why = append(e.why, fmt.Sprintf("pool %s: %s", name, err))
	return true
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("no IPPool available, no %s address from %v (%s): %s", e.family, e.names, e.source, strings.Join(e.why, "; "))
}
