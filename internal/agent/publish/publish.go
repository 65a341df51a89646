// Package publish writes the SpiderEndpoint of each pod of the node, after its ADDs were answered. Nothing here decides
// anything: endpoints are what people and tools read.
package publish

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

const (
	// publishers is how many SpiderEndpoints are written at once.
	publishers = 2
	// giveWay is how long a SpiderEndpoint waits at most for ADDs in flight.
	giveWay = 500 * time.Millisecond
)

// Publisher writes SpiderEndpoints. Make it with New, start it with Run.
type Publisher struct {
	client client.Client
	facts  *facts.Facts
	node   string
	every  time.Duration
	log    *slog.Logger
	busy   func() bool
	queue  workqueue.TypedRateLimitingInterface[string] // of pod UIDs

	mu   sync.Mutex
	pods map[string]*endpoint
}

// endpoint is what is to be published of one pod, by interface.
type endpoint struct {
	pod client.ObjectKey
	// owner is what its addresses belong to if they are fixed. Then the endpoint tells the next pod of the name which they
	// are, and is written here only if it is missing.
	owner      *v2beta1.IPOwner
	interfaces map[string]v2beta1.EndpointInterface
	// written is the object as this process wrote or saw it last.
	written *v2beta1.SpiderEndpoint
	// at is when that was; zero while there is something to write.
	at time.Time
	// found is set for a pod that was there when the agent started: its endpoint
	// most likely exists and is only written if not.
	found bool
}

// New makes a publisher of the pods of a node. It writes while busy is false, or soon after, and looks so long after each
// write whether what it wrote is still there.
func New(c client.Client, f *facts.Facts, node string, every time.Duration, log *slog.Logger, busy func() bool) *Publisher {
	return &Publisher{
		client: c, facts: f, node: node, every: every, log: log, busy: busy, pods: map[string]*endpoint{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
}

// Set publishes what an interface of a pod has, whose UID is the one that CNI gave. What was found in the ledger when the agent
// started, and what belongs to an owner, is only written if the pod has no endpoint: one that is there tells more.
func (p *Publisher) Set(pod client.ObjectKey, uid string, owner *v2beta1.IPOwner, i v2beta1.EndpointInterface, found bool) {
	p.set(pod, uid, owner, i, found)
	p.queue.Add(uid)
}

func (p *Publisher) set(pod client.ObjectKey, uid string, owner *v2beta1.IPOwner, i v2beta1.EndpointInterface, found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, known := p.pods[uid]
	if !known {
		e = &endpoint{pod: pod, interfaces: map[string]v2beta1.EndpointInterface{}}
		p.pods[uid] = e
	}
	e.found = found && (e.found || !known)
	e.owner, e.interfaces[i.Interface], e.at = owner, i, time.Time{}
}

// Drop takes back an interface. The endpoint itself goes with its pod.
func (p *Publisher) Drop(uid, ifname string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.pods[uid]
	if e == nil {
		return
	}
	if _, has := e.interfaces[ifname]; has {
		e.found, e.at = false, time.Time{}
		delete(e.interfaces, ifname)
		p.queue.Add(uid)
	}
}

// Run writes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range publishers {
		workers.Go(func() {
			for p.next(ctx) {
			}
		})
	}
	tick := time.NewTicker(p.every / 30)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.again(now)
		case <-ctx.Done():
			p.queue.ShutDown()
			workers.Wait()
			return nil
		}
	}
}

// again looks once more at each endpoint that was written long ago: one that somebody deleted comes back. Each has its own time,
// for an API server that is asked for all of a node at once is slow to the pods that start then.
func (p *Publisher) again(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, e := range p.pods {
		if !e.at.IsZero() && now.Sub(e.at) > p.every {
			e.found, e.written, e.at = true, nil, time.Time{}
			p.queue.Add(uid)
		}
	}
}

func (p *Publisher) next(ctx context.Context) bool {
	uid, stop := p.queue.Get()
	if stop {
		return false
	}
	defer p.queue.Done(uid)
	_ = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, giveWay, true, func(context.Context) (bool, error) { return !p.busy(), nil })
	if err := p.write(ctx, uid); err != nil {
		p.log.Info("SpiderEndpoint not written yet", "podUID", uid, "error", err)
		p.queue.AddRateLimited(uid)
		return true
	}
	p.queue.Forget(uid)
	return true
}

// write brings the endpoint of one pod up to date; one whose pod is gone, or
// going with nothing left, is forgotten.
func (p *Publisher) write(ctx context.Context, uid string) error {
	e, ok := p.snapshot(uid)
	if !ok {
		return nil
	}
	pod, err := p.facts.Pod(ctx, e.pod.Namespace, e.pod.Name, uid)
	switch {
	case facts.Gone(err), err == nil && (pod.DeletionTimestamp != nil || e.owner != nil) && len(e.interfaces) == 0:
		p.forget(uid)
		return nil
	case err != nil:
		return err
	}
	want, err := p.object(ctx, pod, e)
	if err != nil {
		return err
	}
	written, err := p.put(ctx, want, e)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, ok := p.pods[uid]; ok {
		now.written, now.at = written, time.Now()
	}
	return nil
}

// snapshot is what is to be published of a pod now; it is not ok if nothing is known of it any more.
func (p *Publisher) snapshot(uid string) (_ endpoint, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.pods[uid]
	if !ok {
		return endpoint{}, false
	}
	out := *e
	out.interfaces = maps.Clone(e.interfaces)
	return out, true
}

func (p *Publisher) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, uid)
}

// put creates the endpoint, or updates it to what is wanted: one request if
// this process wrote it last and nobody else since.
func (p *Publisher) put(ctx context.Context, want *v2beta1.SpiderEndpoint, e endpoint) (*v2beta1.SpiderEndpoint, error) {
	if e.owner != nil {
		there, err := p.Read(ctx, client.ObjectKeyFromObject(want))
		if err != nil || there != nil {
			return there, err
		}
		return want, client.IgnoreAlreadyExists(p.client.Create(ctx, want))
	}
	there := e.written
	if there == nil && !e.found {
		if err := p.client.Create(ctx, want); !apierrors.IsAlreadyExists(err) {
			return want, err
		}
	}
	if there == nil {
		there = &v2beta1.SpiderEndpoint{}
		err := p.client.Get(ctx, client.ObjectKeyFromObject(want), there)
		if apierrors.IsNotFound(err) {
			want.ResourceVersion = ""
			return want, p.client.Create(ctx, want)
		} else if err != nil {
			return nil, err
		}
		if e.found && there.Status.Current.UID == want.Status.Current.UID {
			return there, nil
		}
	}
	if equality.Semantic.DeepEqual(there.Status, want.Status) && equality.Semantic.DeepEqual(there.OwnerReferences, want.OwnerReferences) {
		return there, nil
	}
	next := there.DeepCopy()
	next.Status, next.OwnerReferences = want.Status, want.OwnerReferences
	err := p.client.Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		e.written, e.found = nil, false
		return p.put(ctx, want, e)
	}
	return next, err
}

// object is the endpoint of a pod as it should be: named after the pod, owned
// by it, so that it goes with it, without finalizer. One of fixed addresses
// outlives the pod.
func (p *Publisher) object(ctx context.Context, pod *corev1.Pod, e endpoint) (*v2beta1.SpiderEndpoint, error) {
	top, err := p.facts.TopOwner(ctx, pod)
	if err != nil {
		return nil, err
	}
	out := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: fixed.Name(e.owner, pod.Name)}}
	if e.owner == nil {
		out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}
	}
	out.Status.OwnerControllerType, out.Status.OwnerControllerName = top.Kind, top.Name
	out.Status.Current = v2beta1.EndpointCurrent{UID: string(pod.UID), Node: p.node, IPs: []v2beta1.EndpointInterface{}}
	for _, name := range slices.Sorted(maps.Keys(e.interfaces)) {
		out.Status.Current.IPs = append(out.Status.Current.IPs, e.interfaces[name])
	}
	return out, nil
}
