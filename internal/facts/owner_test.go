package facts

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// TestApplication: for whom automatic pools are made, and what finding out costs.
func TestApplication(t *testing.T) {
	owner := func(apiVersion, kind, name string) *metav1.OwnerReference {
		return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID("uid-of-" + name), Controller: new(true)}
	}
	set := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "web-5d9f", UID: "uid-of-web-5d9f", OwnerReferences: []metav1.OwnerReference{*owner("apps/v1", "Deployment", "web")}}}
	asks := map[string]string{v2beta1.AnnotationSubnet: "{}"}
	of := func(apiVersion, kind, name string) *pool.Application {
		return &pool.Application{APIVersion: apiVersion, Kind: kind, Namespace: "shop", Name: name}
	}
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		owner       *metav1.OwnerReference
		want        *pool.Application
		gets        int
	}{
		{"asks for nothing", nil, owner("apps/v1", "ReplicaSet", "web-5d9f"), nil, 0},
		{"orphan", asks, nil, nil, 0},
		{"static", asks, owner("v1", "Node", "n1"), nil, 0},
		{"of a Deployment", asks, owner("apps/v1", "ReplicaSet", "web-5d9f"), of("apps/v1", "Deployment", "web"), 1},
		{"of a ReplicaSet", asks, owner("apps/v1", "ReplicaSet", "alone"), of("apps/v1", "ReplicaSet", "alone"), 1},
		{"of a StatefulSet", asks, owner("apps/v1", "StatefulSet", "db"), of("apps/v1", "StatefulSet", "db"), 0},
		{"of a kind that nobody knows", asks, owner("cache.example.com/v1", "RedisCluster", "r"), of("cache.example.com/v1", "RedisCluster", "r"), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := &reader{meta: set}
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", UID: "uid-of-p", Annotations: tc.annotations}}
			if tc.owner != nil {
				p.OwnerReferences = []metav1.OwnerReference{*tc.owner}
			}
			got, err := empty(api, "n1").Application(t.Context(), p)
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
			if api.gets != tc.gets {
				t.Errorf("%d reads, want %d", api.gets, tc.gets)
			}
		})
	}
}

// TestOwnerIsReadOnce: pods of one ReplicaSet that start together share the read of it.
func TestOwnerIsReadOnce(t *testing.T) {
	set := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "web-5d9f", UID: "u",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", Controller: new(true)}}}}
	api := &reader{meta: set, slow: make(chan struct{})}
	w := empty(api, "n1")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d9f", UID: "u", Controller: new(true)}}}}
	var all, asking sync.WaitGroup
	for range 20 {
		asking.Add(1)
		all.Go(func() {
			asking.Done()
			if top, err := w.TopOwner(t.Context(), p); err != nil || top.Name != "web" {
				t.Errorf("%v, %v", top, err)
			}
		})
	}
	asking.Wait()
	close(api.slow)
	all.Wait()
	if _, err := w.readAbove(t.Context(), "shop apps/v1 ReplicaSet web-5d9f u"); err != nil { // of one who looked before it was known
		t.Error(err)
	}
	if api.gets != 1 {
		t.Errorf("%d reads", api.gets)
	}
}
