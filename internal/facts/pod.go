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

// arrival is a pod that ADDs wait for.
type arrival struct {
	event   chan struct{} // closed when the watch brings something of it
	waiting int
}

func (w *Facts) podArrived(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(p)
	if a, ok := w.awaited[key]; ok {
		delete(w.awaited, key)
		close(a.event)
	}
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
	p := &corev1.Pod{}
	err := w.live.Get(ctx, key, p)
	static := uid != "" && len(uid) != uidLength
	switch {
	case apierrors.IsNotFound(err) && static:
		return nil, fmt.Errorf("pod %s: %w", key, ErrNoMirror)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("pod %s: %w", key, ErrNoPod)
	case err != nil:
		return nil, fmt.Errorf("read pod %s: %w", key, err)
	case uid != "" && !is(p, uid) && static:
		return nil, fmt.Errorf("pod %s: %w", key, ErrNoMirror)
	case uid != "" && !is(p, uid):
		return nil, fmt.Errorf("pod %s has UID %s, the container runtime gave %s: %w", key, p.UID, uid, ErrOtherPod)
	case p.Spec.NodeName != w.node:
		return nil, fmt.Errorf("pod %s is bound to node %q, this is the agent of node %q: %w", key, p.Spec.NodeName, w.node, ErrOtherNode)
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
	late := time.NewTimer(podWait)
	defer late.Stop()
	for w.has(ofPods) {
		a := w.expect(key)
		p := w.CachedPod(ctx, key, uid)
		over := p != nil
		if !over {
			select {
			case <-a.event:
			case <-late.C:
				over = true
			case <-ctx.Done():
				over = true
			}
		}
		w.unexpect(key, a)
		if over {
			return p
		}
	}
	return nil
}

// expect says that one more ADD waits for a pod; unexpect must follow.
func (w *Facts) expect(key client.ObjectKey) *arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.awaited[key]
	if !ok {
		a = &arrival{event: make(chan struct{})}
		w.awaited[key] = a
	}
	a.waiting++
	return a
}

// unexpect forgets what nobody waits for: no event may ever come.
func (w *Facts) unexpect(key client.ObjectKey, a *arrival) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.waiting--; a.waiting == 0 && w.awaited[key] == a {
		delete(w.awaited, key)
	}
}

func is(p *corev1.Pod, uid string) bool {
	return string(p.UID) == uid || p.Annotations[corev1.MirrorPodAnnotationKey] == uid
}

// Gone reports whether an error of Pod says that the pod is there no more.
func Gone(err error) bool { return errors.Is(err, ErrNoPod) || errors.Is(err, ErrOtherPod) }
