package agent

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// exposition is what the agent's metrics are, in the text format of Prometheus.
func (n *node) exposition() string {
	n.t.Helper()
	server := httptest.NewServer(n.agent.Metrics())
	defer server.Close()
	answer, err := http.Get(server.URL + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(body)
}

// TestMetrics: the documented names are there, and count what happened.
func TestMetrics(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	c.pool("v4", "10.1.0.0/24", []string{"10.1.0.10"})
	p, q, r := c.pod(n, "first", c.from("v4|")), c.pod(n, "second", c.from("v4|")), c.pod(n, "third", c.from("none|"))
	n.add(p, "first")
	for _, refused := range []client.Object{q, r} {
		if _, err := n.call("ADD", q, refused.GetName(), "eth0"); err == nil {
			t.Error("served")
		}
	}
	if _, err := n.call("ADD", r, "r", "eth0"); err == nil {
		t.Error("served")
	}
	n.deleted(p, "first")
	for range 5 { // the note is found while the DEL waits for its interface to go, which is no other DEL
		time.Sleep(10 * time.Millisecond)
		n.agent.deleteNoted()
	}
	n.endNetns("first")
	n.done()
	lines := strings.Split(n.exposition(), "\n")
	for _, want := range []string{
		"spiderpool_ipam_allocation_counts 4", "spiderpool_ipam_allocation_failure_counts 3",
		"spiderpool_ipam_allocation_err_ip_used_out_counts 2", "spiderpool_ipam_allocation_err_no_available_pool_counts 1",
		fmt.Sprintf("spiderpool_ipam_allocation_err_pool_used_out_counts{pool=%q} 2", c.prefix+"-v4"),
		"spiderpool_ipam_allocation_err_internal_counts 0", "spiderpool_ipam_allocation_err_retries_exhausted_counts 0",
		"spiderpool_ipam_allocation_update_ippool_conflict_counts ",
		"spiderpool_ipam_allocation_average_duration_seconds ", "spiderpool_ipam_allocation_max_duration_seconds ",
		"spiderpool_ipam_allocation_min_duration_seconds ", "spiderpool_ipam_allocation_latest_duration_seconds ",
		`spiderpool_ipam_allocation_duration_seconds_bucket{le="0.1"} `, "spiderpool_ipam_allocation_duration_seconds_count 4",
		"spiderpool_ipam_allocation_average_limit_duration_seconds ", "spiderpool_ipam_allocation_limit_duration_seconds_count 4",
		"spiderpool_ipam_release_counts 1", "spiderpool_ipam_release_failure_counts 0",
		"spiderpool_ipam_release_update_ippool_conflict_counts 0", "spiderpool_ipam_release_err_internal_counts 0",
		"spiderpool_ipam_release_err_retries_exhausted_counts 0", "spiderpool_ipam_release_latest_duration_seconds ",
		"spiderpool_ipam_release_max_limit_duration_seconds ", "spiderpool_ipam_waiters 0",
		"spiderpool_agent_ready 1", "spiderpool_agent_api_failing_seconds 0",
	} {
		found := false
		for _, line := range lines {
			found = found || line == want || strings.HasSuffix(want, " ") && strings.HasPrefix(line, want)
		}
		if !found {
			t.Errorf("no line %q", want)
		}
	}
}

// TestEvents: a pod whose ADD failed has an Event that says why.
func TestEvents(t *testing.T) {
	c := newCluster(t)
	n := c.node("n1")
	p := c.pod(n, "web", c.from("none|"))
	if _, err := n.call("ADD", p, "c1", "eth0"); err == nil {
		t.Fatal("served")
	}
	got := <-n.agent.Events.(*record.FakeRecorder).Events
	if !strings.HasPrefix(got, "Warning IPAllocationFailed ") || !strings.Contains(got, "-none: no such IPPool") {
		t.Error(got)
	}
}
