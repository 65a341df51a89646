package facts

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestWatchAhead: a watch goes on from a version that the API server has reached, and expires at one that it has not: the API
// server itself would begin it and send nothing.
func TestWatchAhead(t *testing.T) {
	_, live := serverWith(t)
	for _, kind := range []schema.GroupVersionKind{
		v2beta1.GroupVersion.WithKind("SpiderIPPool"), corev1.SchemeGroupVersion.WithKind("Pod"), nodeKind, namespaceKind,
	} {
		var list v2beta1.SpiderIPPoolList
		if err := live.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		reached, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		begun := 0
		lw := &toolscache.ListWatch{WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			begun++
			return watch.NewFake(), nil
		}}
		l := &listFirst{ListerWatcherWithContext: lw, Resumption: Resumption{Live: live, Kind: kind}}
		if _, err := l.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}); err != nil || begun != 1 {
			t.Errorf("%s: from where it is: %v", kind.Kind, err)
		}
		ahead := strconv.FormatUint(reached+1_000_000, 10)
		before := list
		before.ResourceVersion = ahead
		l.Listed(&before) // and then it was put back
		if _, err := l.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: ahead}); err != nil || begun != 2 {
			t.Errorf("%s: from a list: %v", kind.Kind, err)
		}
		if _, err := l.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: ahead}); !apierrors.IsResourceExpired(err) || begun != 2 {
			t.Errorf("%s: from ahead: %v, want expired", kind.Kind, err)
		}
	}
}

// TestLearn: which answers show that the API server's store was put back to an earlier state.
func TestLearn(t *testing.T) {
	type answer struct {
		known uint64 // when it was asked for
		now   uint64
	}
	for _, tc := range []struct {
		name     string
		answers  []answer
		times    int // that it was found put back
		revision uint64
	}{
		{"one after the other", []answer{{0, 100}, {100, 101}, {101, 150}}, 0, 150},
		{"two that overtake each other", []answer{{0, 100}, {100, 102}, {100, 101}}, 0, 102},
		{"the same again", []answer{{0, 100}, {100, 100}}, 0, 100},
		{"put back", []answer{{0, 100}, {100, 60}}, 1, 60},
		{"put back, and then on", []answer{{0, 100}, {100, 60}, {60, 61}, {61, 200}}, 1, 200},
		{"put back, and another was asked for before", []answer{{0, 100}, {100, 60}, {100, 61}, {100, 101}}, 1, 60},
		{"put back twice", []answer{{0, 100}, {100, 60}, {60, 20}}, 2, 20},
		{"put back, and revisions go on much later", []answer{{0, 100}, {100, 1_000_000_060}, {100, 1_000_000_061}}, 1, 1_000_000_061},
		{"at the start", []answer{{0, 1_000_000_000}, {1_000_000_000, 1_000_000_001}}, 0, 1_000_000_001},
		{"a day of many writes", []answer{{0, 100}, {100, 80_000_000}}, 0, 80_000_000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := empty(nil, "n1")
			times := 0
			for _, a := range tc.answers {
				epoch := w.Epoch()
				w.Learn(a.known, fmt.Sprint(a.now))
				if w.Epoch() != epoch {
					times++
				}
			}
			if times != tc.times || w.PutBack().IsZero() != (times == 0) || w.Revision() != tc.revision {
				t.Errorf("found put back %d times, at revision %d; want %d, %d", times, w.Revision(), tc.times, tc.revision)
			}
		})
	}
	w := empty(nil, "n1")
	w.Learn(0, "not a number")
	if w.Revision() != 0 {
		t.Error("a version that is no number counts")
	}
}
