package controller

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// The pace of the scans.
const (
	// keptScan is the pause between two scans: what an owner gives up is to be there for others within ten seconds.
	// keptScanOwner is added to it for each owner that was read, so that a thousand virtual machines that are switched off
	// cost 37 reads a second and not 140.
	keptScan, keptScanOwner = 7 * time.Second, 20 * time.Millisecond
	// keptSettled is how long an address is kept before its pod is looked at, and then between two looks: most are taken
	// over before.
	keptSettled = time.Minute
)

// keptAddresses takes the fixed addresses that no pod has from owners that want them no more: what is kept for the next pod is
// freed, and what is in quarantine is for any pod that finds it silent. The agent has asked the owner once, when the last pod
// ended, or never, if its node is lost; from then on nobody else looks, and no watch tells.
//
// The watch of the SpiderIPs is the first look; what a verdict rests on is read after it. A pod that takes it over meanwhile
// keeps it, for the delete has the UID and resourceVersion of the first look as its condition.
type keptAddresses struct {
	*actor
	usage *usage

	// scanned is since when an entry was seen as it is. One scan at a time uses it.
	scanned map[netip.Addr]*sighting

	mu sync.Mutex
	// endpoints are those that may have lost their last address, each with whether that is known only in the next scan.
	endpoints map[client.ObjectKey]bool
	// unread are the owners that this scan could not read, wasUnread those of the last.
	unread, wasUnread map[ownerKey]bool
}

// ownerKey names an owner, whatever its UID.
type ownerKey struct{ namespace, apiVersion, kind, name string }

// keptEntry is an entry that a scan looks at.
type keptEntry struct {
	Entry
	*sighting
	// settled says that its pod is looked at too.
	settled bool
}

func newKeptAddresses(a *actor, u *usage) *keptAddresses {
	return &keptAddresses{actor: a, usage: u, endpoints: map[client.ObjectKey]bool{}}
}

// Start scans until ctx ends.
func (k *keptAddresses) Start(ctx context.Context) error {
	select {
	case <-k.usage.synced:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		owners := k.scan(ctx)
		pause := k.keptScan + time.Duration(owners)*keptScanOwner
		select {
		case <-time.After(pause + rand.N(pause/5+1)):
		case <-ctx.Done():
		}
	}
	return nil
}

// scan looks at all fixed addresses that no pod has, and returns how many owners there were.
func (k *keptAddresses) scan(ctx context.Context) (owners int) {
	byOwner := k.firstLook()
	k.wasUnread, k.unread = k.unread, map[ownerKey]bool{}
	var all errgroup.Group
	all.SetLimit(workers)
	for owner, entries := range byOwner {
		all.Go(func() error { k.judge(ctx, owner, entries); return nil })
	}
	_ = all.Wait() // each has told its own
	for key, later := range k.endpoints {
		if later {
			k.endpoints[key] = false
			continue
		}
		if err := k.removeEndpoint(ctx, key); err != nil {
			k.Log.Info("SpiderEndpoint not removed yet", "namespace", key.Namespace, "name", key.Name, "error", err)
			continue
		}
		delete(k.endpoints, key)
	}
	return len(byOwner)
}

// firstLook is at what the watch brought.
func (k *keptAddresses) firstLook() map[ownerKey][]keptEntry {
	now, scanned := time.Now(), map[netip.Addr]*sighting{}
	byOwner := map[ownerKey][]keptEntry{}
	for _, e := range k.usage.fixedWithoutPod() {
		s := k.scanned[e.Address]
		again := s != nil && s.object == e.Object && s.kind == e.Version
		if !again {
			s = &sighting{object: e.Object, kind: e.Version, since: now}
		}
		settled := again && now.Sub(s.since) >= k.keptSettled
		if settled {
			s.since = now
		}
		scanned[e.Address] = s
		key := ownerKey{podOf(e).Namespace, e.Owner.APIVersion, e.Owner.Kind, e.Owner.Name}
		byOwner[key] = append(byOwner[key], keptEntry{e, s, settled})
	}
	k.scanned = scanned
	return byOwner
}

// judge decides about the addresses of one owner, which is read once.
func (k *keptAddresses) judge(ctx context.Context, key ownerKey, entries []keptEntry) {
	var f findings
	if owner := entries[0].Owner; k.FixedAddresses.Cover(owner) {
		object, err := facts.ReadOwner(ctx, k.Live, key.namespace, owner)
		f.owner, f.ownerRead = object, err == nil
		k.tellUnread(key, err)
	}
	pods := map[string]*corev1.Pod{}
	for _, e := range entries {
		if ctx.Err() != nil {
			return
		}
		f.next = nil
		v := decideOwned(e.Entry, f, k.FixedAddresses, k.GC)
		if v.do == keep && e.settled && f.ownerRead && !fixed.IsMachine(e.Owner) {
			if _, read := pods[e.Pod]; !read {
				pods[e.Pod] = k.podNow(ctx, e.Entry)
			}
			f.next = pods[e.Pod]
			v = decideOwned(e.Entry, f, k.FixedAddresses, k.GC)
		}
		if v.do == keep {
			continue
		}
		if came := k.act(ctx, e.Entry, v, e.sighting); v.do == release && came != left {
			k.lookAtEndpoint(e.Entry, came == failed)
		}
	}
}

// podNow reads the pod that has the name now, nil if there is none or nobody answers.
func (k *keptAddresses) podNow(ctx context.Context, e Entry) *corev1.Pod {
	pod, p := podOf(e), &corev1.Pod{}
	if err := k.Live.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: pod.Name}, p); err != nil {
		return nil
	}
	return p
}

// tellUnread logs that an owner cannot be read, once.
func (k *keptAddresses) tellUnread(key ownerKey, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unread[key] = true
	if !k.wasUnread[key] {
		k.Log.Warn("addresses are kept for an owner that cannot be read", "namespace", key.namespace, "kind", key.kind, "name", key.name, "error", err)
	}
}

// lookAtEndpoint has the endpoint of an entry looked at when the scan is done; later if it is not known yet whether the entry
// is gone.
func (k *keptAddresses) lookAtEndpoint(e Entry, later bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := client.ObjectKey{Namespace: podOf(e).Namespace, Name: fixed.Name(e.Owner, podOf(e).Name)}
	k.endpoints[key] = k.endpoints[key] || later
}
