package facts

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// TopOwner returns the controller at the top of p's owners: the Deployment
// above its ReplicaSet, the CronJob above its Job, the virtual machine above its
// instance, else its direct controller,
// and p itself if nobody controls it. An owner in between is read once, for all
// pods that ask, and remembered by UID.
func (w *Facts) TopOwner(ctx context.Context, p *corev1.Pod) (metav1.OwnerReference, error) {
	top := metav1.GetControllerOfNoCopy(p)
	if top == nil {
		return metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}, nil
	}
	if !between(top) {
		return *top, nil
	}
	if known, ok := w.owners.Get(top.UID); ok {
		return known.(metav1.OwnerReference), nil
	}
	key := strings.Join([]string{p.Namespace, top.APIVersion, top.Kind, top.Name, string(top.UID)}, " ")
	found, err := w.above.Get(ctx, key, time.Time{}, time.Time{}) // whichever is under way
	if err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("read %s %s/%s: %w", top.Kind, p.Namespace, top.Name, err)
	}
	if found.Value == nil {
		return *top, nil
	}
	return *found.Value, nil
}

// readAbove reads who controls an owner, nil if nobody does, or if it is gone.
func (w *Facts) readAbove(ctx context.Context, key string) (*metav1.OwnerReference, error) {
	of := strings.Split(key, " ")
	namespace, apiVersion, kind, name, uid := of[0], of[1], of[2], of[3], types.UID(of[4])
	if known, ok := w.owners.Get(uid); ok { // read since the caller looked
		return new(known.(metav1.OwnerReference)), nil
	}
	m := meta(schema.FromAPIVersionAndKind(apiVersion, kind))
	err := w.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, m)
	if apierrors.IsNotFound(err) || apimeta.IsNoMatchError(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	found := &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: new(true)}
	if above := metav1.GetControllerOf(m); above != nil && m.UID == uid {
		found = above
	}
	w.owners.Add(uid, *found)
	return found, nil
}

// between reports whether o is of a kind that others create to run pods.
func between(o *metav1.OwnerReference) bool {
	switch schema.FromAPIVersionAndKind(o.APIVersion, o.Kind).GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Group: "batch", Kind: "Job"},
		schema.GroupKind{Group: "kubevirt.io", Kind: "VirtualMachineInstance"}:
		return true
	}
	return false
}

// Application returns the workload whose automatic pools serve p: the top of its
// owners, of whatever kind. It is nil if p asks for no SpiderSubnet, which then
// costs nothing, or if no workload made it, as a static pod.
func (w *Facts) Application(ctx context.Context, p *corev1.Pod) (*pool.Application, error) {
	if !pool.AsksForSubnets(p.Annotations) {
		return nil, nil
	}
	top, err := w.TopOwner(ctx, p)
	if err != nil || top.UID == p.UID || top.APIVersion == "v1" && top.Kind == "Node" { // which controls mirrors of static pods
		return nil, err
	}
	return &pool.Application{APIVersion: top.APIVersion, Kind: top.Kind, Namespace: p.Namespace, Name: top.Name}, nil
}

// FixedOwner returns what the fixed addresses of p belong to, or nil and why
// they go with the pod.
func (w *Facts) FixedOwner(ctx context.Context, p *corev1.Pod, rules fixed.Rules) (owner *v2beta1.IPOwner, why string, err error) {
	top := metav1.OwnerReference{}
	if fixed.IsLauncher(p) {
		if top, err = w.TopOwner(ctx, p); err != nil {
			return nil, "", err
		}
	}
	owner, why = rules.Owner(p, top)
	return owner, why, nil
}

// ReadOwner reads what a fixed address belongs to; nil says that it does not
// exist. A kind that the API server does not know is an error: its definition
// may be on its way.
func ReadOwner(ctx context.Context, live client.Reader, namespace string, owner *v2beta1.IPOwner) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(owner.APIVersion)
	o.SetKind(owner.Kind)
	err := live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: owner.Name}, o)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) { // there is no such path
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", strings.ToLower(owner.Kind), namespace, owner.Name, err)
	}
	return o, nil
}
