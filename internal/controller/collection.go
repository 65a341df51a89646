package controller

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// collectGather is the least time from one pass to the next, in which changes gather: each looks at every entry, in memory.
// collectRead is added to it for each request of the second look, so that 5,000 pods that go one after the other within a minute
// are not 5,000 requests, but some that read many.
const collectGather, collectRead = 2 * time.Second, 50 * time.Millisecond

// syncTime is after how long a watch that has brought nothing is told.
const syncTime = time.Minute

// collection takes back the addresses that no agent frees: those of pods that are gone while their node is lost, or its agent
// does nothing.
//
// A pass looks at all entries twice. The first look is at what the watches brought, and costs no request. What it suspects is
// read from the API server by the second look, and only if both agree is the entry written, on the condition that it is what the
// first look saw. What is missing in either look proves nothing. Durations are those that this process has measured itself, so
// a new leader waits anew.
type collection struct {
	*actor
	usage     *usage
	pods      *pods
	inventory *inventory
	changed   signal

	// seen are the entries that are not plainly in order. One pass at a time uses it.
	seen map[netip.Addr]*sighting
}

func newCollection(a *actor, p *pods, u *usage, i *inventory) *collection {
	return &collection{actor: a, usage: u, inventory: i, changed: i.changed, pods: p, seen: map[netip.Addr]*sighting{}}
}

// suspect is an entry that the first look would not keep.
type suspect struct {
	Entry
	*sighting
	first verdict
}

// Start passes when something has changed, when a duration is over, and every interval, until ctx ends.
func (c *collection) Start(ctx context.Context) error {
	if !c.synced(ctx) {
		return nil
	}
	for ctx.Err() == nil {
		began := time.Now()
		next, asked := c.pass(ctx)
		c.changed.await(ctx, c.collectGather+time.Duration(asked)*collectRead-time.Since(began), next)
	}
	return nil
}

// synced waits until all watches have brought their first list; false if ctx ends before.
func (c *collection) synced(ctx context.Context) bool {
	return c.waitFor(ctx, "SpiderIPs", c.usage.synced) && c.waitFor(ctx, "pods", c.pods.synced) && c.waitFor(ctx, "pools and nodes", c.inventory.synced)
}

func (c *collection) waitFor(ctx context.Context, what string, synced chan struct{}) bool {
	late := time.NewTimer(syncTime)
	defer late.Stop()
	for {
		select {
		case <-synced:
			return true
		case <-ctx.Done():
			return false
		case <-late.C:
			c.Log.Warn("no address is collected, for a watch has not brought its first list", "of", what)
		}
	}
}

// pass looks at all entries, and returns after how long a duration is over, and how many requests it took to know.
func (c *collection) pass(ctx context.Context) (next time.Duration, asked int) {
	suspects, next := c.firstLook(time.Now())
	if len(suspects) == 0 {
		return next, 0
	}
	var entries []Entry // a host that bears an address is no matter of pods and nodes
	for _, s := range suspects {
		if !s.Conflict {
			entries = append(entries, s.Entry)
		}
	}
	seen := look(ctx, c.Live, c.inventory.nodeCount(), entries)
	if seen.err != nil && ctx.Err() == nil {
		c.Log.Warn("of addresses that nobody seems to have, some are not looked at yet", "addresses", len(entries), "error", seen.err)
	}
	var all errgroup.Group
	all.SetLimit(workers)
	for _, s := range suspects {
		all.Go(func() error { c.secondLook(ctx, s, seen); return nil })
	}
	_ = all.Wait() // each has told its own
	for _, s := range suspects {
		if !s.notBefore.IsZero() {
			next = min(next, max(0, time.Until(s.notBefore)))
		}
	}
	return next, seen.asked
}

// firstLook is at what the watches brought.
func (c *collection) firstLook(now time.Time) (suspects []suspect, next time.Duration) {
	next = c.GC.Interval
	seen := map[netip.Addr]*sighting{}
	nodes := c.inventory.nodeStates()
	c.usage.each(func(e Entry) {
		if e.Use == v2beta1.IPUseKept { // see keptAddresses
			return
		}
		f := findings{node: nodes.of(e.Node)}
		f.pod, f.grace = c.pods.of(e)
		if f.pod == podLiving && !e.Conflict {
			return
		}
		s := c.sighting(e, f, now)
		seen[e.Address] = s
		s.look(&f, now)
		switch v := decide(e, f, c.FixedAddresses, c.GC); {
		case v.do == keep:
		case v.do == again:
			next = min(next, v.after)
		case now.Before(s.notBefore):
			next = min(next, s.notBefore.Sub(now))
		case !s.told:
			suspects = append(suspects, suspect{e, s, v})
		}
	})
	c.seen = seen
	return suspects, next
}

// sighting is since when an entry is seen so. What ends it is another pod or state of the pod, and that the node comes or goes.
func (c *collection) sighting(e Entry, f findings, now time.Time) *sighting {
	kind := fmt.Sprint(e.UID, f.pod, f.node == nodeDeleted)
	if e.Conflict {
		kind = "conflict"
	}
	if s := c.seen[e.Address]; s != nil && s.object == e.Object && s.kind == kind {
		return s
	}
	return &sighting{object: e.Object, kind: kind, since: now}
}

// look adds the durations to what is known of an entry now.
func (s *sighting) look(f *findings, now time.Time) {
	switch {
	case f.node != nodeReady:
		s.ready = time.Time{}
	case s.ready.IsZero():
		s.ready = now
	}
	f.seen = now.Sub(s.since)
	if !s.ready.IsZero() {
		f.ready = now.Sub(s.ready)
	}
}

// secondLook carries out what both looks agree on.
func (c *collection) secondLook(ctx context.Context, s suspect, seen *sight) {
	if ctx.Err() != nil {
		return
	}
	if s.Conflict { // whether it is as it was seen, the write will tell
		c.act(ctx, s.Entry, s.first, s.sighting)
		return
	}
	f := seen.of(s.Entry)
	s.look(&f, time.Now())
	v := decide(s.Entry, f, c.FixedAddresses, c.GC)
	switch {
	case f.pod == podUnknown || f.node == nodeUnknown:
		c.fail(ctx, s.Entry, s.sighting, seen.err)
	case v.do == s.first.do:
		c.act(ctx, s.Entry, v, s.sighting)
	case f.pod == podLiving:
		c.veto(s.sighting, vetoPod)
	default:
		c.veto(s.sighting, vetoNode)
	}
}
