package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// ErrChanged means that other addresses were recorded for the interface meanwhile: another pod of the same virtual machine
// was faster.
var ErrChanged = errors.New("other addresses were recorded for the interface meanwhile")

// Read returns the endpoint of a name as it is now, nil if there is none.
func (p *Publisher) Read(ctx context.Context, key client.ObjectKey) (*v2beta1.SpiderEndpoint, error) {
	e := &v2beta1.SpiderEndpoint{}
	err := p.client.Get(ctx, key, e)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderEndpoint %s: %w", key, err)
	}
	return e, nil
}

// Record writes what an interface of a pod with fixed addresses has, before the pod is told: the next pod of the name goes by
// it. What is recorded of other interfaces stays. there is the endpoint as it was read before the addresses were chosen, nil if
// there was none. Errors: ErrChanged, or the API server's.
func (p *Publisher) Record(ctx context.Context, pod *corev1.Pod, uid string, owner *v2beta1.IPOwner, there *v2beta1.SpiderEndpoint, i v2beta1.EndpointInterface) error {
	before := fixed.Recorded(there, i.Interface)
	for {
		want, err := p.merged(ctx, pod, owner, there, i)
		if err != nil {
			return err
		}
		if err = p.replace(ctx, there, want); err == nil {
			p.set(client.ObjectKeyFromObject(pod), uid, owner, i, true)
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("record the addresses of pod %s/%s in its SpiderEndpoint: %w", pod.Namespace, pod.Name, err)
		}
		if there, err = p.Read(ctx, client.ObjectKeyFromObject(want)); err != nil {
			return err
		}
		now := fixed.Recorded(there, i.Interface)
		if len(now) > 0 && !slices.Equal(now, before) && !slices.Equal(now, fixed.Recorded(want, i.Interface)) {
			return ErrChanged
		}
	}
}

// merged is an endpoint with what one interface has now.
func (p *Publisher) merged(ctx context.Context, pod *corev1.Pod, owner *v2beta1.IPOwner, there *v2beta1.SpiderEndpoint, i v2beta1.EndpointInterface) (*v2beta1.SpiderEndpoint, error) {
	want, err := p.object(ctx, pod, endpoint{owner: owner, interfaces: map[string]v2beta1.EndpointInterface{i.Interface: i}})
	if err != nil || there == nil {
		return want, err
	}
	for _, other := range there.Status.Current.IPs {
		if other.Interface != i.Interface {
			want.Status.Current.IPs = append(want.Status.Current.IPs, other)
		}
	}
	slices.SortStableFunc(want.Status.Current.IPs, func(a, b v2beta1.EndpointInterface) int {
		return strings.Compare(a.Interface, b.Interface)
	})
	return want, nil
}

// replace writes an endpoint in the place of the one that was read. It always changes something: the API server gives no new
// resourceVersion to an object that is written as it is, and then an Unrecord of the old one that is under way would take out
// what this call has just recorded.
func (p *Publisher) replace(ctx context.Context, there, want *v2beta1.SpiderEndpoint) error {
	if there == nil {
		return p.client.Create(ctx, want)
	}
	next := there.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, v2beta1.AnnotationWritten, rand.String(8))
	next.Status, next.OwnerReferences = want.Status, nil
	return p.client.Update(ctx, next)
}

// Unrecord takes an interface out of an endpoint, whose addresses are free; an endpoint that lists nothing more is deleted. One
// that a later pod has written stays as it is.
func (p *Publisher) Unrecord(ctx context.Context, there *v2beta1.SpiderEndpoint, uid, ifname string) error {
	if there == nil || there.Status.Current.UID != uid {
		return nil
	}
	next := there.DeepCopy()
	next.Status.Current.IPs = slices.DeleteFunc(next.Status.Current.IPs, func(i v2beta1.EndpointInterface) bool { return i.Interface == ifname })
	var err error
	if len(next.Status.Current.IPs) > 0 {
		err = p.client.Update(ctx, next)
	} else {
		err = p.client.Delete(ctx, there, client.Preconditions{UID: &there.UID, ResourceVersion: &there.ResourceVersion})
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
