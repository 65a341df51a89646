package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/ledger"
)

// Why an address is not kept any more, as the metric says it.
const (
	reasonNotFixed   = "not_fixed"
	reasonOwnerGone  = "owner_gone"
	reasonNotWanted  = "not_wanted"
	reasonPodWithout = "pod_without"
)

// findings are what was read about an entry after it was seen. What is missing proves nothing.
type findings struct {
	// ownerRead says that the owner was read; owner is nil if it does not exist.
	ownerRead bool
	owner     *unstructured.Unstructured
	// pod is the pod that has the name now; nil if there is none, or it was not read.
	pod *corev1.Pod
}

// verdict says what becomes of an entry.
type verdict struct {
	// release is the reason to free it; empty to keep it. why says it in words.
	release, why string
}

// decide says what becomes of an address that is kept, by the first row that applies:
//
//	the owner                          | the pod of the name now             | then
//	-----------------------------------+-------------------------------------+---------------------
//	whatever; a container may bear it  | whatever                            | keep
//	has no fixed addresses any more    | whatever                            | release, not_fixed
//	was not read: no right, no answer, | whatever                            | keep
//	  an unknown kind                  |                                     |
//	does not exist, is being deleted   | whatever                            | release, owner_gone
//	wants no pod of the name           | whatever                            | release, not_wanted
//	is a virtual machine               | whatever                            | keep
//	wants it                           | none, not read, being deleted, not  | keep
//	                                   | Running, the last one itself, or of |
//	                                   | another owner                       |
//	wants it                           | the owner's next one, Running       | release, pod_without
//
// Of a pod that is Running all interfaces were made: it has other addresses, or lost the interface.
func decide(e Entry, f findings, rules fixed.Rules) verdict {
	owner := &e.Kept.Owner
	wanted, why := fixed.Wanted(owner, f.owner, podOf(e).Name)
	switch {
	case e.Kept.Borne:
		return verdict{}
	case !rules.Cover(owner):
		return verdict{reasonNotFixed, fmt.Sprintf("pods of %s have no fixed addresses any more", ownerName(owner))}
	case !f.ownerRead:
		return verdict{}
	case f.owner == nil || f.owner.GetDeletionTimestamp() != nil:
		return verdict{reasonOwnerGone, why}
	case !wanted:
		return verdict{reasonNotWanted, why}
	case !fixed.IsMachine(owner) && runsWithout(e, f.pod, rules):
		return verdict{reasonPodWithout, fmt.Sprintf("pod %s was made anew and runs without it", e.Pod)}
	}
	return verdict{}
}

// runsWithout reports whether a pod took the place of the one that an address is kept after, and did not need it.
func runsWithout(e Entry, pod *corev1.Pod, rules fixed.Rules) bool {
	if pod == nil || string(pod.UID) == e.UID || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	owner, _ := rules.Owner(pod, metav1.OwnerReference{})
	return fixed.Same(&e.Kept.Owner, podOf(e), owner, v2beta1.IPPod{Namespace: pod.Namespace, Name: pod.Name})
}

// podOf is the pod that an entry names.
func podOf(e Entry) v2beta1.IPPod {
	namespace, name, _ := strings.Cut(e.Pod, "/")
	return v2beta1.IPPod{Namespace: namespace, Name: name, UID: e.UID}
}

func ownerName(o *v2beta1.IPOwner) string { return o.Kind + " " + o.Name }

// The pace of the scans.
const (
	// keptScan is the pause between two scans; keptScanOwner is added to it for each owner that was read, so that a
	// thousand virtual machines that are switched off cost 30 reads a second and not 70.
	keptScan, keptScanOwner = 15 * time.Second, 20 * time.Millisecond
	// keptSettled is how long an address is kept before its pod is looked at, and then between two looks: most are taken
	// over before.
	keptSettled = time.Minute
)

// keptAddresses frees the addresses that are kept for the next pod of an owner that wants none any more. The agent has asked
// the owner once, when the last pod ended; from then on nobody else looks.
//
// The watch of the SpiderIPs is the first look; what a verdict rests on is read after it, and the second look, at the entry
// itself, must find it unchanged. A pod that takes it over meanwhile keeps it, for the delete has the resourceVersion of
// the first look as its condition.
type keptAddresses struct {
	Options
	pools    client.Reader // of the cache
	ledger   *ledger.Ledger
	usage    *usage
	released *prometheus.CounterVec // by reason
	failed   prometheus.Counter

	// scanned is the time from which on an entry was seen as it is. One scan at a time uses it.
	scanned map[netip.Addr]sighting

	mu sync.Mutex
	// endpoints are those that may have lost their last address, each with whether that is known only in the next scan.
	endpoints map[client.ObjectKey]bool
	// unread are the owners that this scan could not read, wasUnread those of the last.
	unread, wasUnread map[ownerKey]bool
}

// ownerKey names an owner, whatever its UID.
type ownerKey struct{ namespace, apiVersion, kind, name string }

// sighting is since when an entry was seen in this version.
type sighting struct {
	uid     types.UID
	version string
	since   time.Time
}

// keptEntry is an entry that a scan looks at.
type keptEntry struct {
	Entry
	// settled says that its pod is looked at too.
	settled bool
}

func newKeptAddresses(o Options, pools client.Reader, u *usage) (*keptAddresses, error) {
	k := &keptAddresses{
		Options: o, pools: pools, ledger: ledger.New(o.Live), usage: u, endpoints: map[client.ObjectKey]bool{},
		released: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spiderpool_controller_kept_released_total",
			Help: "Addresses that were kept for the next pod of an owner and freed, by reason",
		}, []string{"reason"}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spiderpool_controller_kept_release_failed_total",
			Help: "Tries to free an address that is kept for nobody that failed; each is tried again",
		}),
	}
	if k.keptScan == 0 {
		k.keptScan, k.keptSettled = keptScan, keptSettled
	}
	for _, reason := range []string{reasonNotFixed, reasonOwnerGone, reasonNotWanted, reasonPodWithout} {
		k.released.WithLabelValues(reason)
	}
	return k, errors.Join(o.Metrics.Register(k.released), o.Metrics.Register(k.failed))
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

// scan looks at all that is kept, and returns how many owners there were.
func (k *keptAddresses) scan(ctx context.Context) (owners int) {
	byOwner := k.look()
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

// look is the first look at what is kept.
func (k *keptAddresses) look() map[ownerKey][]keptEntry {
	now, scanned := time.Now(), map[netip.Addr]sighting{}
	byOwner := map[ownerKey][]keptEntry{}
	for _, e := range k.usage.kept() {
		s, again := k.scanned[e.Address]
		if again = again && s.uid == e.Kept.UID && s.version == e.Kept.Version; !again {
			s = sighting{e.Kept.UID, e.Kept.Version, now}
		}
		settled := again && now.Sub(s.since) >= k.keptSettled
		if settled {
			s.since = now
		}
		scanned[e.Address] = s
		o := e.Kept.Owner
		key := ownerKey{podOf(e).Namespace, o.APIVersion, o.Kind, o.Name}
		byOwner[key] = append(byOwner[key], keptEntry{e, settled})
	}
	k.scanned = scanned
	return byOwner
}

// judge decides about what is kept for one owner, which is read once.
func (k *keptAddresses) judge(ctx context.Context, key ownerKey, entries []keptEntry) {
	var f findings
	if owner := &entries[0].Kept.Owner; k.FixedAddresses.Cover(owner) {
		object, err := facts.ReadOwner(ctx, k.Live, key.namespace, owner)
		f.owner, f.ownerRead = object, err == nil
		k.tellUnread(key, err)
	}
	pods := map[string]*corev1.Pod{}
	for _, e := range entries {
		if ctx.Err() != nil {
			return
		}
		f.pod = nil
		v := decide(e.Entry, f, k.FixedAddresses)
		if v.release == "" && e.settled && f.ownerRead && !fixed.IsMachine(&e.Kept.Owner) {
			if _, read := pods[e.Pod]; !read {
				pods[e.Pod] = k.pod(ctx, e.Entry)
			}
			f.pod = pods[e.Pod]
			v = decide(e.Entry, f, k.FixedAddresses)
		}
		if v.release != "" {
			k.release(ctx, e.Entry, v)
		}
	}
}

// pod reads the pod that has the name now, nil if there is none or nobody answers.
func (k *keptAddresses) pod(ctx context.Context, e Entry) *corev1.Pod {
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

// release frees an address, if it is still what the first look saw.
func (k *keptAddresses) release(ctx context.Context, e Entry, v verdict) {
	log := k.Log.With("address", e.Address, "pod", e.Pod, "owner", ownerName(&e.Kept.Owner), "reason", v.release, "why", v.why)
	ip, err := k.ledger.Get(ctx, addr.Name(e.Address))
	if err == nil {
		if ip == nil || ip.UID != e.Kept.UID || ip.ResourceVersion != e.Kept.Version || ip.Spec.Use != v2beta1.IPUseKept {
			return // somebody was faster
		}
		err = k.ledger.Release(ctx, ip)
	}
	if errors.Is(err, ledger.ErrLost) {
		return
	}
	k.lookAtEndpoint(e, err != nil)
	if err != nil {
		k.failed.Inc()
		log.Warn("an address that is kept for nobody is not free yet", "error", err)
		return
	}
	k.released.WithLabelValues(v.release).Inc()
	log.Info("an address that was kept is free")
	k.report(ctx, ip, v)
}

// lookAtEndpoint has the endpoint of an entry looked at when the scan is done; later if it is not known yet whether the entry
// is gone.
func (k *keptAddresses) lookAtEndpoint(e Entry, later bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := client.ObjectKey{Namespace: podOf(e).Namespace, Name: fixed.Name(&e.Kept.Owner, podOf(e).Name)}
	k.endpoints[key] = k.endpoints[key] || later
}

// report tells it on the pool: the owner may not exist any more.
func (k *keptAddresses) report(ctx context.Context, ip *v2beta1.SpiderIP, v verdict) {
	p := &v2beta1.SpiderIPPool{}
	if err := k.pools.Get(ctx, client.ObjectKey{Name: ip.Spec.Pool}, p); err != nil {
		return // it is gone
	}
	k.Events.Eventf(p, corev1.EventTypeNormal, "KeptAddressReleased", "%s was kept for %s (pod %s/%s) and is free: %s",
		ip.Spec.Address, ownerName(ip.Spec.Owner), ip.Spec.Pod.Namespace, ip.Spec.Pod.Name, v.why)
}

// removeEndpoint deletes the endpoint of pods with fixed addresses when none of the addresses in it is theirs any more. A pod
// that comes meanwhile writes it, and then it is not what was read; or it writes it anew.
func (k *keptAddresses) removeEndpoint(ctx context.Context, key client.ObjectKey) error {
	e := &v2beta1.SpiderEndpoint{}
	if err := k.Live.Get(ctx, key, e); err != nil || len(e.OwnerReferences) > 0 { // it goes with its pod
		return client.IgnoreNotFound(err)
	}
	for _, a := range fixed.Recorded(e, "") {
		ip, err := k.ledger.Get(ctx, addr.Name(a))
		if err != nil {
			return err
		}
		if ip != nil && ip.Spec.Pod.Namespace == key.Namespace && fixed.Name(ip.Spec.Owner, ip.Spec.Pod.Name) == key.Name {
			return nil // who frees that one comes here again
		}
	}
	err := k.Live.Delete(ctx, e, client.Preconditions{UID: &e.UID, ResourceVersion: &e.ResourceVersion})
	if apierrors.IsConflict(err) {
		return nil
	}
	return client.IgnoreNotFound(err)
}
