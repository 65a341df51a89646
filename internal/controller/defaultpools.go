package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// DefaultPoolsRecord is the ConfigMap in which is written which default pools were made, in the namespace of the controller.
// A key is a family and a kind, as IPv4.SpiderIPPool; its value the name of the object and a hash of what it was made from.
const DefaultPoolsRecord = "spiderpool-default-pools"

// Reasons of the Events of default pools.
const (
	reasonDefaultPoolMade      = "DefaultPoolMade"
	reasonDefaultPoolLeftAlone = "DefaultPoolLeftAlone"
	reasonDefaultPoolFailed    = "DefaultPoolFailed"
)

const (
	// defaultPoolRetry doubles up to defaultPoolRetryMax between two tries, as while the webhooks are not up yet.
	defaultPoolRetry, defaultPoolRetryMax = time.Second, time.Minute
	// defaultPoolTimeout bounds the requests of one try together.
	defaultPoolTimeout = time.Minute
	// defaultPoolMessage bounds a message, in bytes: the API server refuses Events with long ones.
	defaultPoolMessage = 1000
)

// DefaultPools makes the pools that the values of the release describe, each once:
//
//	recorded with these values    the object is   then
//	yes                           whatever        nothing: who deleted it wanted it gone, who edited it wants it so
//	no                            absent          it is made, and recorded
//	no                            being deleted   tried again until it is gone
//	no                            there           it is left alone, and recorded; an Event tells what differs
//
// It is a manager.Runnable of the leader.
type DefaultPools struct {
	// Client reads uncached. It knows the core kinds and those of the product.
	Client client.Client
	// Namespace is that of the controller; Deployment is the name of the controller's. The record goes with it, and Events
	// are on it.
	Namespace, Deployment string
	Pools                 []config.DefaultPool
	// Subnets makes the SpiderSubnets too that the pools name.
	Subnets bool
	Events  record.EventRecorder
	Log     *slog.Logger

	told map[string]string // the last message of each key
}

// NeedLeaderElection says that the leader runs it.
func (d *DefaultPools) NeedLeaderElection() bool { return true }

// Start makes the pools, tries again what fails, and returns when there is nothing to do or ctx ends.
func (d *DefaultPools) Start(ctx context.Context) error {
	todo, retry := d.wanted(), defaultPoolRetry
	for d.told = map[string]string{}; len(todo) > 0; retry = min(2*retry, defaultPoolRetryMax) {
		todo = d.try(ctx, todo)
		if len(todo) == 0 {
			break
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// wanted is an object that is to be made once.
type wanted struct {
	key    string // in the record
	object client.Object
	hash   string
	err    error // why it cannot be made, whatever the API server says
}

func (d *DefaultPools) wanted() (out []wanted) {
	for _, p := range d.Pools {
		if !p.Wanted() {
			continue
		}
		family := pool.Family(p.Version).String()
		ranges, err := p.Ranges()
		if d.Subnets && p.SubnetName != "" {
			w := wanted{key: family + ".SpiderSubnet", object: defaultSubnet(p, ranges), hash: hashOf(p, p.SubnetName, ranges)}
			w.err = errors.Join(err, checkDefaultPool(p, defaultPool(p, ranges)))
			out = append(out, w)
		}
		w := wanted{key: family + ".SpiderIPPool", object: defaultPool(p, ranges), hash: hashOf(p, p.Name, ranges)}
		w.err = errors.Join(err, checkDefaultPool(p, defaultPool(p, ranges)))
		out = append(out, w)
	}
	return out
}

func defaultPool(p config.DefaultPool, ranges []string) *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		Spec:       v2beta1.IPPoolSpec{IPVersion: &p.Version, Subnet: p.Subnet, IPs: ranges, Gateway: notEmpty(p.Gateway), Default: ptr.To(true)},
	}
}

func defaultSubnet(p config.DefaultPool, ranges []string) *v2beta1.SpiderSubnet {
	return &v2beta1.SpiderSubnet{
		ObjectMeta: metav1.ObjectMeta{Name: p.SubnetName},
		Spec:       v2beta1.SubnetSpec{IPVersion: &p.Version, Subnet: p.Subnet, IPs: ranges, Gateway: notEmpty(p.Gateway)},
	}
}

func notEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// hashOf is of the values alone: a release that writes them in another form must not make again what was deleted.
func hashOf(p config.DefaultPool, name string, ranges []string) string {
	text := strings.Join([]string{name, p.Subnet, strings.Join(ranges, ","), p.Gateway}, "\n")
	return fmt.Sprintf("%s %x", name, sha256.Sum256([]byte(text)))
}

// checkDefaultPool names the variables that are at odds with what a pool is.
func checkDefaultPool(p config.DefaultPool, as *v2beta1.SpiderIPPool) error {
	if p.Name == "" {
		return fmt.Errorf("%s is empty: name the pool", p.Variable(config.PoolName))
	}
	_, errs := pool.Parse(as)
	var out []error
	for _, e := range errs {
		part, ok := map[string]string{"spec.ips": config.PoolRanges, "spec.gateway": config.PoolGateway}[e.Field]
		if !ok {
			part = config.PoolSubnet
		}
		out = append(out, fmt.Errorf("%s: %w", p.Variable(part), e))
	}
	return errors.Join(out...)
}

// try does all once and returns what must be tried again.
func (d *DefaultPools) try(ctx context.Context, todo []wanted) (again []wanted) {
	ctx, cancel := context.WithTimeout(ctx, defaultPoolTimeout)
	defer cancel()
	release, err := d.deployment(ctx)
	if err != nil {
		d.tell(nil, "release", reasonDefaultPoolFailed, fmt.Sprintf("the default pools are not made yet: read Deployment %s/%s: %v", d.Namespace, d.Deployment, err))
		return todo
	}
	made, changed, err := d.read(ctx, release)
	if err != nil {
		d.tell(release, "record", reasonDefaultPoolFailed, fmt.Sprintf("the default pools are not made yet: read ConfigMap %s/%s: %v", d.Namespace, DefaultPoolsRecord, err))
		return todo
	}
	for _, w := range todo {
		if made.Data[w.key] == w.hash {
			continue
		}
		if w.err != nil { // the environment does not change while the process lives
			d.tell(release, w.key, reasonDefaultPoolFailed, fmt.Sprintf("the default pool is not made: %v", w.err))
			continue
		}
		if err := d.make(ctx, release, w); err != nil {
			d.tell(release, w.key, reasonDefaultPoolFailed, err.Error())
			again = append(again, w)
			continue
		}
		made.Data[w.key], changed = w.hash, true
	}
	if !changed {
		return again
	}
	if err := d.write(ctx, made); err != nil {
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // else another leader was quicker
			d.tell(release, "record", reasonDefaultPoolFailed, fmt.Sprintf("write ConfigMap %s/%s: %v", d.Namespace, DefaultPoolsRecord, err))
		}
		return todo
	}
	return again
}

// make makes an object, or leaves alone the one that is there.
func (d *DefaultPools) make(ctx context.Context, release *metav1.PartialObjectMetadata, w wanted) error {
	kind := strings.SplitN(w.key, ".", 2)[1]
	o := w.object.DeepCopyObject().(client.Object)
	err := d.Client.Create(ctx, o)
	switch {
	case err == nil:
		d.tell(release, w.key, reasonDefaultPoolMade, fmt.Sprintf("made %s %s from the values of the release", kind, o.GetName()))
		return nil
	case !apierrors.IsAlreadyExists(err):
		return fmt.Errorf("make %s %s: %w", kind, o.GetName(), err)
	}
	if err := d.Client.Get(ctx, client.ObjectKeyFromObject(w.object), o); err != nil {
		return fmt.Errorf("read %s %s, which was there a moment ago: %w", kind, w.object.GetName(), err)
	}
	if o.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s %s is being deleted: it is made again when it is gone", kind, o.GetName())
	}
	if differs := differences(w.object, o); len(differs) > 0 {
		d.tell(release, w.key, reasonDefaultPoolLeftAlone, fmt.Sprintf("%s %s exists and is left alone; its %s is not what the values of the release say: edit the one or the other",
			kind, o.GetName(), strings.Join(differs, ", ")))
	}
	return nil
}

// differences names the fields that the values set and that an object has otherwise.
func differences(want, is client.Object) (out []string) {
	a, b := valuesOf(want), valuesOf(is)
	for i, name := range []string{"subnet", "ips", "gateway", "default"} {
		if a[i] != b[i] {
			out = append(out, "spec."+name)
		}
	}
	return out
}

func valuesOf(o client.Object) [4]string {
	switch o := o.(type) {
	case *v2beta1.SpiderIPPool:
		return [4]string{o.Spec.Subnet, strings.Join(o.Spec.IPs, ","), ptr.Deref(o.Spec.Gateway, ""), fmt.Sprint(ptr.Deref(o.Spec.Default, false))}
	case *v2beta1.SpiderSubnet:
		return [4]string{o.Spec.Subnet, strings.Join(o.Spec.IPs, ","), ptr.Deref(o.Spec.Gateway, ""), ""}
	}
	return [4]string{}
}

// deployment is the controller's own; nil: there is none, as where it is run by hand.
func (d *DefaultPools) deployment(ctx context.Context) (*metav1.PartialObjectMetadata, error) {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	err := d.Client.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: d.Deployment}, o)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// read returns the record, as it is or as it is to be made, and whether it is other than what is stored. What a release
// before left, which the garbage collector has not come to yet, says nothing.
func (d *DefaultPools) read(ctx context.Context, release *metav1.PartialObjectMetadata) (o *corev1.ConfigMap, changed bool, err error) {
	o = &corev1.ConfigMap{}
	err = d.Client.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: DefaultPoolsRecord}, o)
	if apierrors.IsNotFound(err) {
		o, err = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: DefaultPoolsRecord}}, nil
	}
	if err != nil {
		return nil, false, err
	}
	if release != nil && !slices.ContainsFunc(o.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == release.UID }) {
		if len(o.OwnerReferences) > 0 {
			o.Data = nil
		}
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: release.Name, UID: release.UID}}
		changed = true
	}
	if o.Data == nil {
		o.Data = map[string]string{}
	}
	return o, changed, nil
}

// write makes the record or updates it, if nobody else has meanwhile.
func (d *DefaultPools) write(ctx context.Context, record *corev1.ConfigMap) error {
	if record.ResourceVersion == "" {
		return d.Client.Create(ctx, record)
	}
	return d.Client.Update(ctx, record)
}

// tell logs what happened, and records it as an Event on the controller's Deployment if that is known; what was told last of
// a key is not told again, however often it is tried.
func (d *DefaultPools) tell(on *metav1.PartialObjectMetadata, key, reason, message string) {
	if len(message) > defaultPoolMessage { // which may quote a thousand ranges
		message = strings.ToValidUTF8(message[:defaultPoolMessage], "") + "..."
	}
	if d.told[key] == message {
		return
	}
	d.told[key] = message
	log, kind := d.Log.Warn, corev1.EventTypeWarning
	if reason == reasonDefaultPoolMade {
		log, kind = d.Log.Info, corev1.EventTypeNormal
	}
	log(message, "key", key)
	if on != nil {
		d.Events.Event(on, kind, reason, message)
	}
}
