package controller

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

// TestRestored: etcd is put back to an earlier state while a controller leads. It shows what is held then, and goes on from there,
// though the API server has nothing to say to a watch from a version that it has not reached again.
func TestRestored(t *testing.T) {
	for _, bump := range []uint64{0, 1_000_000_000} {
		t.Run(fmt.Sprint("revisions go on ", bump, " later"), func(t *testing.T) {
			t.Parallel() // each with an API server of its own
			server := apiserver.OwnForTest(t)
			c := clusterOf(t, server)
			c.lead()
			c.pool("a", "10.6.0.10-10.6.0.19")
			before := c.claim("a", "10.6.0.10")
			c.status("a", inUse(1, 10))
			file := filepath.Join(t.TempDir(), "snapshot")
			if err := server.Snapshot(t.Context(), file); err != nil {
				t.Fatal(err)
			}
			c.release(before)
			for _, address := range []string{"10.6.0.11", "10.6.0.12", "10.6.0.13"} {
				c.claim("a", address)
			}
			c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.6.0.19"} })
			c.status("a", inUse(3, 9))
			for i := range 1500 { // as in a cluster within a second
				p := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{"i":"%d"}}}`, i))
				if err := c.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, p); err != nil {
					t.Fatal(err)
				}
			}
			if err := server.Restore(t.Context(), file, bump); err != nil {
				t.Fatal(err)
			}
			c.status("a", inUse(1, 10))
			c.claim("a", "10.6.0.14")
			c.status("a", inUse(2, 10))
			c.edit("a", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.6.0.18-10.6.0.19"} })
			c.status("a", inUse(2, 8))
		})
	}
}

// TestWatchAhead: a watch from a version that the API server has not reached expires, and so lists anew.
func TestWatchAhead(t *testing.T) {
	c := newCluster(t)
	lw := &toolscache.ListWatch{WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return watch.NewFake(), nil }}
	l := consistent(lw, c, v2beta1.GroupVersion.WithKind("SpiderIP"), func() {})
	if _, err := l.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: c.pool("a").ResourceVersion}); err != nil {
		t.Errorf("from where it is: %v", err)
	}
	if _, err := l.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: "2000000000"}); !apierrors.IsResourceExpired(err) {
		t.Errorf("from ahead: %v, want expired", err)
	}
}
