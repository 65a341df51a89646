package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const metrics = `# HELP apiserver_request_total [STABLE] Counter of apiserver requests.
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="spiderpool.spidernet.io",resource="spiderippools",scope="resource",subresource="",verb="GET",version="v2beta1"} 12
apiserver_request_total{code="200",component="apiserver",dry_run="",group="spiderpool.spidernet.io",resource="spiderips",scope="cluster",subresource="",verb="LIST",version="v2beta1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="spiderpool.spidernet.io",resource="spiderippools",scope="cluster",subresource="",verb="WATCH",version="v2beta1"} 40
apiserver_request_total{code="201",component="apiserver",dry_run="",group="spiderpool.spidernet.io",resource="spiderips",scope="resource",subresource="",verb="POST",version="v2beta1"} 100
apiserver_request_total{code="201",component="apiserver",dry_run="All",group="spiderpool.spidernet.io",resource="spiderips",scope="resource",subresource="",verb="POST",version="v2beta1"} 1
apiserver_request_total{code="409",component="apiserver",dry_run="",group="spiderpool.spidernet.io",resource="spiderips",scope="resource",subresource="",verb="POST",version="v2beta1"} 7
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="serviceaccounts",scope="resource",subresource="token",verb="POST",version="v1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 9
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/metrics",verb="GET",version=""} 5
# HELP apiserver_request_body_size_bytes [ALPHA] Apiserver request body size in bytes broken out by resource and verb.
# TYPE apiserver_request_body_size_bytes histogram
apiserver_request_body_size_bytes_bucket{group="",resource="pods",verb="create",le="50000"} 64
apiserver_request_body_size_bytes_bucket{group="",resource="pods",verb="create",le="+Inf"} 64
apiserver_request_body_size_bytes_sum{group="",resource="pods",verb="create"} 1234
apiserver_request_body_size_bytes_count{group="",resource="pods",verb="create"} 64
`

func TestParseRequests(t *testing.T) {
	got, err := parseRequests(strings.NewReader(metrics))
	if err != nil {
		t.Fatal(err)
	}
	want := requests{
		"GET spiderippools":          12,
		"LIST spiderips":             3,
		"POST spiderips":             101,
		"POST spiderips 409":         7,
		"POST serviceaccounts/token": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseRequestsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":       "",
		"other metrics": "# TYPE etcd_requests_total counter\netcd_requests_total 5\n",
		"no metrics":    "<html>not found</html>\n",
	} {
		if got, err := parseRequests(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v, want an error", name, got)
		}
	}
}

func TestSince(t *testing.T) {
	before := requests{"GET a": 2, "POST b": 5}
	after := requests{"GET a": 2, "POST b": 9, "LIST c": 1}
	if diff := cmp.Diff(requests{"POST b": 4, "LIST c": 1}, after.since(before)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
