package facts

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	// ErrNoPod means that the API server knows no such pod.
	ErrNoPod = errors.New("no such pod")
	// ErrOtherPod means that the pod of that name has another UID.
	ErrOtherPod = errors.New("the pod of that name is another one")
	// ErrOtherNode means that the pod runs on another node, whose agent serves it.
	ErrOtherNode = errors.New("the pod is another node's")
	// ErrNoMirror means that the mirror of a static pod is not there yet.
	ErrNoMirror = errors.New("the mirror of the static pod is not there yet")
)

// podWait is how long a pod that the watch has not brought yet is waited for
// before it is read live: scheduling and its watch event race with the kubelet.
const podWait = 200 * time.Millisecond

// uidLength is the length of a UID that the API server gives (RFC 9562 text
// form). The kubelet's hash of a static pod's configuration is shorter.
const uidLength = 36

// trimPod keeps of a pod what is looked at; a node's pods are all of the
// agent's memory that grows.
func trimPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	return &corev1.Pod{
		TypeMeta: p.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Labels: p.Labels, Annotations: p.Annotations, OwnerReferences: p.OwnerReferences,
			DeletionTimestamp: p.DeletionTimestamp, DeletionGracePeriodSeconds: p.DeletionGracePeriodSeconds,
		},
		Spec:   corev1.PodSpec{NodeName: p.Spec.NodeName},
		Status: corev1.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason},
	}, nil
}

// podArrived wakes the ADDs that wait for a pod.
func (w *Facts) podArrived(p *corev1.Pod) {
	key := client.ObjectKeyFromObject(p)
	w.awaited.Range(func(arrived, pod any) bool {
		if pod == key {
			select {
			case arrived.(chan struct{}) <- struct{}{}:
			default:
			}
		}
		return true
	})
}

// Pod returns the pod that CNI speaks of. A pod in the cache counts only if its
// UID is the one given; otherwise, and always for an empty UID, the API server
// is asked, and only its word is "no such pod" or "another one".
//
// For a static pod CNI gives the hash of its configuration; the pod object, its
// mirror, bears that hash in an annotation. Errors: ErrNoPod, ErrOtherPod,
// ErrOtherNode, ErrNoMirror, or the API server's.
func (w *Facts) Pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error) {
	key := client.ObjectKey{Namespace: namespace, Name: name}
	if uid != "" {
		if p := w.awaitPod(ctx, key, uid); p != nil {
			return p, nil
		}
	}
	p, err := w.readPod(ctx, key, uid)
	if err == nil && p.Spec.NodeName != w.node {
		return nil, fmt.Errorf("pod %s is bound to node %q, this is the agent of node %q: %w", key, p.Spec.NodeName, w.node, ErrOtherNode)
	}
	return p, err
}

// PodOfAnyNode returns a pod as it is now, whichever node it is on; gone says that there is none of that UID any more.
func (w *Facts) PodOfAnyNode(ctx context.Context, namespace, name, uid string) (p *corev1.Pod, gone bool, err error) {
	p, err = w.readPod(ctx, client.ObjectKey{Namespace: namespace, Name: name}, uid)
	return p, Gone(err), err
}

// readPod asks the API server. Errors as of Pod, but for ErrOtherNode.
func (w *Facts) readPod(ctx context.Context, key client.ObjectKey, uid string) (*corev1.Pod, error) {
	p := &corev1.Pod{}
	err := w.live.Get(ctx, key, p)
	other := err == nil && uid != "" && !is(p, uid)
	switch {
	case IsStatic(uid) && (other || apierrors.IsNotFound(err)):
		return nil, fmt.Errorf("pod %s: %w", key, ErrNoMirror)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("pod %s: %w", key, ErrNoPod)
	case err != nil:
		return nil, fmt.Errorf("read pod %s: %w", key, err)
	case other:
		return nil, fmt.Errorf("pod %s has UID %s, the container runtime gave %s: %w", key, p.UID, uid, ErrOtherPod)
	}
	return p, nil
}

// CachedPod returns the pod of that name and UID if the watch has brought it.
func (w *Facts) CachedPod(ctx context.Context, key client.ObjectKey, uid string) *corev1.Pod {
	p := &corev1.Pod{}
	if !w.has(ofPods) || w.cache.Get(ctx, key, p) != nil || !is(p, uid) {
		return nil
	}
	return p
}

// Finished says why a pod gets no address any more, or "" if it does.
func Finished(p *corev1.Pod) string {
	switch {
	case p.DeletionTimestamp != nil:
		return "is being deleted"
	case p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		return "has finished (" + string(p.Status.Phase) + ")"
	}
	return ""
}

// Terminating reports whether a pod of this node is being deleted.
func (w *Facts) Terminating(namespace, name, uid string) bool {
	p := w.CachedPod(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, uid)
	return p != nil && p.DeletionTimestamp != nil
}

// awaitPod gives the watch a moment to bring a pod; nil if it does not, or is
// missing itself.
func (w *Facts) awaitPod(ctx context.Context, key client.ObjectKey, uid string) *corev1.Pod {
	ctx, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	arrived := make(chan struct{}, 1)
	w.awaited.Store(arrived, key) // before the cache is asked: an event in between is not lost
	defer w.awaited.Delete(arrived)
	for w.has(ofPods) {
		if p := w.CachedPod(ctx, key, uid); p != nil {
			return p
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// IsStatic reports whether a UID, as the runtime gave it, is that of a static pod. That it has no object proves nothing.
func IsStatic(uid string) bool { return uid != "" && len(uid) != uidLength }

func is(p *corev1.Pod, uid string) bool {
	return string(p.UID) == uid || p.Annotations[corev1.MirrorPodAnnotationKey] == uid
}

// Gone reports whether an error of Pod says that the pod is there no more.
func Gone(err error) bool { return errors.Is(err, ErrNoPod) || errors.Is(err, ErrOtherPod) }
