package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// endpointScan is the pause between two looks for SpiderEndpoints that tell nothing any more. They keep no address from
// anybody, and the LIST costs what the cluster is large.
const endpointScan = time.Hour

// endpoints removes the SpiderEndpoints of pods with fixed addresses that are gone with all their addresses. Agents and the
// release of kept addresses remove them at once; what is left is of nodes that are lost, and of SpiderIPs that were deleted by
// hand.
type endpoints struct{ *collection }

// Start scans until ctx ends.
func (s endpoints) Start(ctx context.Context) error {
	if !s.synced(ctx) {
		return nil
	}
	for ctx.Err() == nil {
		if err := s.scan(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("SpiderEndpoints without addresses are not looked for", "error", err)
		}
		select {
		case <-time.After(endpointScan):
		case <-ctx.Done():
		}
	}
	return nil
}

// scan looks at all endpoints. The first look is at the list and at what the watches brought, the second at each that it
// suspects.
func (s endpoints) scan(ctx context.Context) error {
	var suspects []client.ObjectKey
	for next := ""; ; {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderEndpointList"))
		if err := s.Live.List(ctx, &list, client.Limit(1000), client.Continue(next)); err != nil {
			return fmt.Errorf("list the SpiderEndpoints: %w", err)
		}
		for i := range list.Items {
			if len(list.Items[i].OwnerReferences) == 0 {
				suspects = append(suspects, client.ObjectKeyFromObject(&list.Items[i]))
			}
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	named := map[client.ObjectKey]bool{}
	s.usage.each(func(e Entry) {
		pod := podOf(e)
		named[client.ObjectKey{Namespace: pod.Namespace, Name: fixed.Name(e.Owner, pod.Name)}] = true
	})
	for _, key := range suspects {
		if named[key] || s.pods.has(key) {
			continue
		}
		if err := s.remove(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// remove is the second look at an endpoint.
func (s endpoints) remove(ctx context.Context, key client.ObjectKey) error {
	switch err := s.Live.Get(ctx, key, &corev1.Pod{}); {
	case err == nil:
		return nil
	case !absent(err):
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	if s.GC.DryRun {
		s.Log.Info("dry run: a SpiderEndpoint would be removed", "namespace", key.Namespace, "name", key.Name)
		return nil
	}
	if err := s.removeEndpoint(ctx, key); err != nil {
		return fmt.Errorf("remove SpiderEndpoint %s: %w", key, err)
	}
	return nil
}

// removeEndpoint deletes the endpoint of pods with fixed addresses when none of the addresses in it is theirs any more. A pod
// that comes meanwhile writes it, and then it is not what was read; or it writes it anew.
func (a *actor) removeEndpoint(ctx context.Context, key client.ObjectKey) error {
	e := &v2beta1.SpiderEndpoint{}
	if err := a.Live.Get(ctx, key, e); err != nil || len(e.OwnerReferences) > 0 { // it goes with its pod
		return client.IgnoreNotFound(err)
	}
	for _, address := range fixed.Recorded(e, "") {
		ip, err := a.ledger.Get(ctx, addr.Name(address))
		if err != nil {
			return err
		}
		if ip != nil && ip.Spec.Pod.Namespace == key.Namespace && fixed.Name(ip.Spec.Owner, ip.Spec.Pod.Name) == key.Name {
			return nil // who frees that one comes here again
		}
	}
	err := a.Live.Delete(ctx, e, client.Preconditions{UID: &e.UID, ResourceVersion: &e.ResourceVersion})
	if apierrors.IsConflict(err) {
		return nil
	}
	return client.IgnoreNotFound(err)
}
