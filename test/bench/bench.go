package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// The names of the scenarios.
const (
	storm  = "storm"  // many pods at once on several nodes, plenty of addresses
	serial = "serial" // one pod after the other on one node
	exact  = "exact"  // as many pods as the pool has addresses; not for host-local, whose nodes share no addresses
)

// A scenario is a load: each of the nodes starts its pods, inFlight at a time.
type scenario struct {
	name                  string
	nodes, pods, inFlight int
}

type options struct {
	bins      []string // directories with our programs; none: build this checkout
	scenarios []scenario
	rounds    int // of each scenario
	// patience is how long after the last ADD of a round all SpiderEndpoints
	// must be there, and after its last DEL all addresses be free.
	patience time.Duration
	progress io.Writer
}

// A contestant is a plugin that gives addresses.
type contestant interface {
	name() string
	takesPart(s scenario) bool
	// round drives one round, from no pods to no pods, and adds it to the row.
	// Its error means that the bench itself is broken; what the contestant does
	// wrong is in the row.
	round(ctx context.Context, s scenario, r *row) error
}

// bench runs all scenarios. Whatever happens, it leaves no process, namespace
// or file behind.
func bench(ctx context.Context, o options) (r *report, err error) {
	var e environment
	defer func() { err = errors.Join(err, e.stop(context.WithoutCancel(ctx))) }()
	if err := e.start(ctx, o); err != nil {
		return nil, err
	}
	contestants, products, err := e.contestants(ctx, o)
	if err != nil {
		return nil, err
	}
	r = &report{load: loadAverage()}
	if r.rows, err = compete(ctx, o, contestants); err != nil {
		return nil, err
	}
	for _, p := range products {
		f, err := p.fate()
		if err != nil {
			return nil, err
		}
		r.products = append(r.products, f)
	}
	return r, nil
}

// compete runs all rounds. Scenarios and contestants take turns, and each round
// another contestant begins: so what else the machine does, and what the one
// before left to do, meets all alike.
func compete(ctx context.Context, o options, contestants []contestant) ([]*row, error) {
	rows := make([][]*row, len(o.scenarios))
	for i, s := range o.scenarios {
		for _, c := range contestants {
			if c.takesPart(s) {
				rows[i] = append(rows[i], &row{scenario: s.name, contestant: c})
			}
		}
	}
	for n := range o.rounds {
		for i, s := range o.scenarios {
			for j := range rows[i] {
				r := rows[i][(n+j)%len(rows[i])]
				err := r.contestant.round(ctx, s, r)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					return nil, fmt.Errorf("round %d of %s, %s: %w", n+1, s.name, r.contestant.name(), err)
				}
				fmt.Fprintf(o.progress, "%d/%d %s %s: %.1f ADD/s\n", n+1, o.rounds, s.name, r.contestant.name(), r.rates[n])
			}
		}
	}
	return slices.Concat(rows...), nil
}
