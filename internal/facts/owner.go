package facts

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TopOwner returns the controller at the top of p's owners: the Deployment
// above its ReplicaSet, the CronJob above its Job, else its direct controller,
// and p itself if nobody controls it. An owner in between is read once and
// remembered by UID.
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
	m := meta(schema.FromAPIVersionAndKind(top.APIVersion, top.Kind))
	switch err := w.live.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: top.Name}, m); {
	case apierrors.IsNotFound(err):
		return *top, nil
	case err != nil:
		return metav1.OwnerReference{}, fmt.Errorf("read %s %s/%s: %w", top.Kind, p.Namespace, top.Name, err)
	}
	found := *top
	if above := metav1.GetControllerOfNoCopy(m); above != nil && m.UID == top.UID {
		found = *above
	}
	w.owners.Add(top.UID, found)
	return found, nil
}

// between reports whether o is of a kind that others create to run pods.
func between(o *metav1.OwnerReference) bool {
	gvk := schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
	return gvk.GroupKind() == schema.GroupKind{Group: "apps", Kind: "ReplicaSet"} ||
		gvk.GroupKind() == schema.GroupKind{Group: "batch", Kind: "Job"}
}
