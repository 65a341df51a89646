package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/exposition"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

func eventually(t *testing.T, what string, complaint func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = complaint(); last == "" {
			return
		}
	}
	t.Fatalf("waited in vain: %s: %s", what, last)
}

// freePort is a TCP port that nobody uses.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestDaemon: a replica that starts while the API server is away stays, admits and leads once it is there; it leads again after
// the API server was away for longer than the lease lasts, and gives the lease up when it ends.
func TestDaemon(t *testing.T) {
	server := apiserver.OwnForTest(t)
	clients, err := apiclient.New(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	account := apiserver.ControllerConfig(t, server)
	if err := server.StopAPI(t.Context()); err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	kubeconfig, err := apiserver.Kubeconfig(account)
	if err != nil {
		t.Fatal(err)
	}
	health, webhook, metrics := freePort(t), freePort(t), freePort(t)
	f := flags{configPath: filepath.Join(dir, "conf.yml"), kubeconfig: filepath.Join(dir, "kubeconfig")}
	for file, text := range map[string]string{f.configPath: "enableIPv4: true\n", f.kubeconfig: string(kubeconfig)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"POD_NAMESPACE": "kube-system", "HEALTH_PORT": strconv.Itoa(health), "WEBHOOK_PORT": strconv.Itoa(webhook), "METRIC_HTTP_PORT": strconv.Itoa(metrics),
		"ENABLED_METRIC": "true", "GOPS_LISTEN_PORT": "0", "LEADER_DURATION": "4", "LEADER_RENEW_DEADLINE": "3", "LEADER_RETRY_PERIOD": "1", "LOG_LEVEL": "error",
	} {
		t.Setenv("SPIDERPOOL_"+name, value)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- daemon(ctx, f) }()

	unready := func() string { return get(fmt.Sprintf("http://127.0.0.1:%d/v1/runtime/readiness", health)) }
	eventually(t, "it says what is missing", func() string {
		if text := unready(); !strings.Contains(text, "no certificate yet") {
			return text
		}
		return ""
	})
	for _, probe := range []string{"startup", "liveness"} { // for either the kubelet kills
		if text := get(fmt.Sprintf("http://127.0.0.1:%d/v1/runtime/%s", health, probe)); text != "" {
			t.Errorf("it would be killed for %s while the API server is away: %s", probe, text)
		}
	}
	if err := server.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.10-10.6.0.19"}}}
	eventually(t, "a pool is made", func() string { return text(clients.Live.Create(t.Context(), pool)) })
	leads := func() string {
		if err := clients.Live.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil || pool.Status.ObservedGeneration != pool.Generation {
			return fmt.Sprintf("generation %d is not judged: %+v %v", pool.Generation, pool.Status, err)
		}
		return ""
	}
	eventually(t, "it leads", leads)
	eventually(t, "it is ready", unready)
	if text := get(fmt.Sprintf("https://127.0.0.1:%d/webhook-health-check", webhook)); text != "" {
		t.Errorf("it admits nothing: %s", text)
	}
	if text := get(fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics), `spiderpool_pool_total_ips{ip_version="4",pool="a"} 10`, "spiderpool_controller_leads 1"); text != "" {
		t.Errorf("metrics: %s", text)
	}
	compareMetrics(t, fmt.Sprintf("http://127.0.0.1:%d/metrics", metrics))

	if err := server.StopAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(6 * time.Second) // longer than a lease lasts
	if err := server.StartAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pool is edited", func() string {
		if err := clients.Live.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
			return err.Error()
		}
		pool.Spec.IPs = []string{"10.6.0.10-10.6.0.29"}
		return text(clients.Live.Update(t.Context(), pool))
	})
	eventually(t, "it leads again", leads)

	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	kube, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	lease, err := kube.CoordinationV1().Leases("kube-system").Get(t.Context(), leaseName, metav1.GetOptions{})
	if err != nil || held(lease) {
		t.Errorf("the lease of a replica that has ended: %+v, %v", lease.Spec, err)
	}
}

// compareMetrics compares what the leader exposes with docs/metrics.md.
func compareMetrics(t *testing.T, url string) {
	t.Helper()
	answer, err := http.Get(url) //nolint:gosec // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	own, leaders := exposition.Documented(t, "Every controller"), exposition.Documented(t, "Leader of the controllers")
	got := exposition.Exposed(t, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return slices.Collect(maps.Values(families)), nil }))
	if missing, more := exposition.Without(own, got), exposition.Without(got, append(own, leaders...)); len(missing)+len(more) > 0 {
		t.Errorf("docs/metrics.md has %v, which is not exposed, and has not %v, which is", missing, more)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// get returns why a URL does not answer 200 and hold all the texts.
func get(url string, want ...string) string {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} //nolint:gosec // loopback
	answer, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s %v %s", answer.Status, err, body)
	}
	for _, w := range want {
		if !strings.Contains(string(body), w) {
			return fmt.Sprintf("%q is not in %s", w, body)
		}
	}
	return ""
}

// leases answers a GET of a lease.
type leases struct {
	client.Reader
	spec coordinationv1.LeaseSpec
	err  error
}

func (l *leases) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.(*coordinationv1.Lease).Spec = l.spec
	return l.err
}

// TestLeaderWatch: a lease that is held and renewed is one of a leader, whatever the clocks say; one that cannot be read proves
// nothing.
func TestLeaderWatch(t *testing.T) {
	at := func(seconds int64) *metav1.MicroTime { return &metav1.MicroTime{Time: time.Unix(seconds, 0)} }
	somebody, nobody := "n1", ""
	l := &leases{}
	w := &leaderWatch{client: l, lasting: time.Minute}
	for _, tc := range []struct {
		name   string
		spec   coordinationv1.LeaseSpec
		err    error
		passed time.Duration // since the row before
		want   string
	}{
		{"none was made yet", coordinationv1.LeaseSpec{}, context.DeadlineExceeded, 0, ""},
		{"nobody leads for a moment", coordinationv1.LeaseSpec{HolderIdentity: &nobody}, nil, time.Second, ""},
		{"nobody leads for long", coordinationv1.LeaseSpec{HolderIdentity: &nobody}, nil, time.Minute, "no replica leads"},
		{"somebody leads, by a clock far behind", coordinationv1.LeaseSpec{HolderIdentity: &somebody, RenewTime: at(5)}, nil, time.Second, ""},
		{"it is renewed", coordinationv1.LeaseSpec{HolderIdentity: &somebody, RenewTime: at(6)}, nil, 50 * time.Second, ""},
		{"it is not for a while", coordinationv1.LeaseSpec{HolderIdentity: &somebody, RenewTime: at(6)}, nil, 50 * time.Second, ""},
		{"nor for long", coordinationv1.LeaseSpec{HolderIdentity: &somebody, RenewTime: at(6)}, nil, 50 * time.Second, "has not been renewed"},
		{"it cannot be read", coordinationv1.LeaseSpec{}, context.DeadlineExceeded, time.Hour, ""},
		{"another leads, by a clock behind the first's", coordinationv1.LeaseSpec{HolderIdentity: &somebody, RenewTime: at(1)}, nil, 0, ""},
	} {
		l.spec, l.err = tc.spec, tc.err
		if !w.since.IsZero() {
			w.since = w.since.Add(-tc.passed)
		}
		if got := w.problem(t.Context()); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
