package config

import (
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// agentNames and controllerNames are all variables of existing manifests.
var agentNames = strings.Fields(`
SPIDERPOOL_LOG_LEVEL SPIDERPOOL_ENABLED_METRIC SPIDERPOOL_ENABLED_DEBUG_METRIC SPIDERPOOL_ENABLED_RDMA_METRIC
SPIDERPOOL_POD_NAMESPACE SPIDERPOOL_POD_NAME SPIDERPOOL_NODE_NAME SPIDERPOOL_HEALTH_PORT SPIDERPOOL_METRIC_HTTP_PORT
SPIDERPOOL_GOPS_LISTEN_PORT SPIDERPOOL_PYROSCOPE_PUSH_SERVER_ADDRESS SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS
SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS SPIDERPOOL_WAIT_SUBNET_POOL_TIME_IN_SECOND SPIDERPOOL_WAIT_SUBNET_POOL_MAX_RETRIES
GIT_COMMIT_VERSION GIT_COMMIT_TIME VERSION MULTUS_CLUSTER_NETWORK
`)

var controllerNames = strings.Fields(`
SPIDERPOOL_LOG_LEVEL SPIDERPOOL_ENABLED_METRIC SPIDERPOOL_ENABLED_DEBUG_METRIC SPIDERPOOL_METRIC_RENEW_PERIOD
SPIDERPOOL_HEALTH_PORT SPIDERPOOL_METRIC_HTTP_PORT SPIDERPOOL_WEBHOOK_PORT SPIDERPOOL_GOPS_LISTEN_PORT
SPIDERPOOL_GC_IP_ENABLED SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED
SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED
SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS SPIDERPOOL_GC_IP_WORKER_NUM
SPIDERPOOL_GC_CHANNEL_BUFFER SPIDERPOOL_GC_MAX_PODENTRY_DB_CAP SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION
SPIDERPOOL_GC_TRACE_POD_GAP_DURATION SPIDERPOOL_GC_SIGNAL_TIMEOUT_DURATION SPIDERPOOL_GC_HTTP_REQUEST_TIME_GAP
SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY SPIDERPOOL_GC_PODENTRY_MAX_RETRIES SPIDERPOOL_POD_NAMESPACE SPIDERPOOL_POD_NAME
SPIDERPOOL_LEADER_DURATION SPIDERPOOL_LEADER_RENEW_DEADLINE SPIDERPOOL_LEADER_RETRY_PERIOD SPIDERPOOL_LEADER_RETRY_GAP
SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS SPIDERPOOL_SUBNET_INFORMER_RESYNC_PERIOD SPIDERPOOL_SUBNET_INFORMER_WORKERS
SPIDERPOOL_SUBNET_INFORMER_MAX_WORKQUEUE_LENGTH SPIDERPOOL_SUBNET_APPLICATION_CONTROLLER_WORKERS
SPIDERPOOL_IPPOOL_INFORMER_RESYNC_PERIOD SPIDERPOOL_IPPOOL_INFORMER_WORKERS
SPIDERPOOL_AUTO_IPPOOL_HANDLER_MAX_WORKQUEUE_LENGTH SPIDERPOOL_WORKQUEUE_MAX_RETRIES
SPIDERPOOL_WORKQUEUE_RETRY_DELAY_DURATION SPIDERPOOL_SERVICE_ACCOUNT SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME SPIDERPOOL_PYROSCOPE_PUSH_SERVER_ADDRESS
SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED SPIDERPOOL_GC_EVICTED_POD_IP_DELAY SPIDERPOOL_GC_DRY_RUN SPIDERPOOL_CLI_PORT
SPIDERPOOL_COORDINATOR_ENABLED SPIDERPOOL_MULTUS_CONFIG_ENABLED
SPIDERPOOL_TLS_METHOD SPIDERPOOL_TLS_SECRET_NAME SPIDERPOOL_TLS_EXTRA_DNS_NAMES SPIDERPOOL_TLS_CA_DAYS
SPIDERPOOL_TLS_CERT_DAYS SPIDERPOOL_CLUSTER_DNS_DOMAIN
`)

var initNames = strings.Fields(`
SPIDERPOOL_INIT_DEFAULT_IPV4_SUBNET_NAME SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET
SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY
SPIDERPOOL_INIT_DEFAULT_IPV6_SUBNET_NAME SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET
SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_GATEWAY
SPIDERPOOL_NAMESPACE SPIDERPOOL_CONTROLLER_NAME SPIDERPOOL_AGENT_NAME
`)

const node = "SPIDERPOOL_NODE_NAME=worker-1"

var agentDefaults = Agent{LogLevel: slog.LevelInfo, NodeName: "worker-1", HealthPort: 5710, MetricPort: 5711, GopsPort: 5712}

var controllerDefaults = Controller{
	LogLevel: slog.LevelInfo, HealthPort: 5720, MetricPort: 5721, WebhookPort: 5722, GopsPort: 5724,
	GC:     GC{Enabled: true, TerminatingOnReadyNode: true, TerminatingOnNotReadyNode: true, Evicted: true, Interval: 10 * time.Minute},
	Leader: Leader{LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second},
	Name:   "spiderpool-controller", ServiceAccount: "spiderpool-controller",
	TLS: TLS{
		Method: TLSAuto, SecretName: "spiderpool-controller-server-certs", ClusterDomain: "cluster.local",
		CALife: 3650 * 24 * time.Hour, CertLife: 365 * 24 * time.Hour,
	},
	DefaultPools: [2]DefaultPool{{Version: 4}, {Version: 6}},
}

func TestAgentFromEnv(t *testing.T) {
	for name, tc := range map[string]struct {
		environ []string
		want    Agent
	}{
		"defaults":             {[]string{node}, agentDefaults},
		"others are not ours":  {[]string{node, "PATH=/bin", "HOME=", "KUBERNETES_PORT=tcp://10.96.0.1:443", "=odd", "odd"}, agentDefaults},
		"empty means default":  {[]string{node, "SPIDERPOOL_HEALTH_PORT=", "SPIDERPOOL_LOG_LEVEL=", "SPIDERPOOL_ENABLED_METRIC="}, agentDefaults},
		"no gops":              {[]string{node, "SPIDERPOOL_GOPS_LISTEN_PORT=0"}, Agent{LogLevel: slog.LevelInfo, NodeName: "worker-1", HealthPort: 5710, MetricPort: 5711}},
		"the controller's own": {[]string{node, "SPIDERPOOL_WEBHOOK_PORT=none", "SPIDERPOOL_GC_IP_ENABLED=true"}, agentDefaults},
		"everything else": {
			[]string{
				"SPIDERPOOL_LOG_LEVEL=debug", "SPIDERPOOL_ENABLED_METRIC=true", "SPIDERPOOL_ENABLED_DEBUG_METRIC=True", "SPIDERPOOL_POD_NAMESPACE=net",
				"SPIDERPOOL_POD_NAME=agent-x", "SPIDERPOOL_NODE_NAME=n=1", "SPIDERPOOL_HEALTH_PORT=1", "SPIDERPOOL_METRIC_HTTP_PORT=65535",
				"SPIDERPOOL_GOPS_LISTEN_PORT=7", "MULTUS_CLUSTER_NETWORK=net/macvlan",
			},
			Agent{
				LogLevel: slog.LevelDebug, EnabledMetric: true, EnabledDebugMetric: true, PodNamespace: "net", PodName: "agent-x", NodeName: "n=1",
				HealthPort: 1, MetricPort: 65535, GopsPort: 7, MultusClusterNetwork: "net/macvlan",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := AgentFromEnv(tc.environ)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestControllerFromEnv(t *testing.T) {
	for name, tc := range map[string]struct {
		environ []string
		want    Controller
	}{
		"defaults":        {nil, controllerDefaults},
		"the agent's own": {[]string{"SPIDERPOOL_NODE_NAME=", "MULTUS_CLUSTER_NETWORK=a"}, controllerDefaults},
		"everything else": {
			[]string{
				"SPIDERPOOL_LOG_LEVEL=error", "SPIDERPOOL_ENABLED_METRIC=true", "SPIDERPOOL_ENABLED_DEBUG_METRIC=true", "SPIDERPOOL_POD_NAMESPACE=net",
				"SPIDERPOOL_POD_NAME=controller-x", "SPIDERPOOL_HEALTH_PORT=1", "SPIDERPOOL_METRIC_HTTP_PORT=2", "SPIDERPOOL_WEBHOOK_PORT=3",
				"SPIDERPOOL_GOPS_LISTEN_PORT=4", "SPIDERPOOL_GC_IP_ENABLED=false", "SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED=false",
				"SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED=false",
				"SPIDERPOOL_GC_DRY_RUN=true", "SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED=false",
				"SPIDERPOOL_GC_EVICTED_POD_IP_DELAY=5", "SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY=6", "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION=1",
				"SPIDERPOOL_LEADER_DURATION=30", "SPIDERPOOL_LEADER_RENEW_DEADLINE=20", "SPIDERPOOL_LEADER_RETRY_PERIOD=16",
				"SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME=c", "SPIDERPOOL_SERVICE_ACCOUNT=a", "SPIDERPOOL_TLS_METHOD=certmanager", "SPIDERPOOL_TLS_SECRET_NAME=s",
				"SPIDERPOOL_TLS_EXTRA_DNS_NAMES=a.example, *.b.example", "SPIDERPOOL_TLS_CA_DAYS=100000", "SPIDERPOOL_TLS_CERT_DAYS=1",
				"SPIDERPOOL_CLUSTER_DNS_DOMAIN=bank.example", "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME=four",
				"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET=10.6.0.0/16", `SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES=["10.6.0.10"]`,
				"SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_GATEWAY=no address", "SPIDERPOOL_INIT_DEFAULT_IPV6_SUBNET_NAME=six",
			},
			Controller{
				LogLevel: slog.LevelError, EnabledMetric: true, EnabledDebugMetric: true, PodNamespace: "net", PodName: "controller-x",
				HealthPort: 1, MetricPort: 2, WebhookPort: 3, GopsPort: 4,
				GC:     GC{EvictedDelay: 5 * time.Second, GraceDelay: 6 * time.Second, Interval: time.Second, DryRun: true},
				Leader: Leader{LeaseDuration: 30 * time.Second, RenewDeadline: 20 * time.Second, RetryPeriod: 16 * time.Second},
				Name:   "c", ServiceAccount: "a",
				TLS: TLS{
					Method: TLSCertManager, SecretName: "s", ClusterDomain: "bank.example", ExtraDNSNames: []string{"a.example", "*.b.example"},
					CALife: 100000 * 24 * time.Hour, CertLife: 24 * time.Hour,
				},
				DefaultPools: [2]DefaultPool{
					{Version: 4, Name: "four", Subnet: "10.6.0.0/16", IPRanges: `["10.6.0.10"]`},
					{Version: 6, Gateway: "no address", SubnetName: "six"},
				},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ControllerFromEnv(tc.environ)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestEnvironmentRefuses(t *testing.T) {
	agent := func(environ []string) (any, error) { return AgentFromEnv(append([]string{node}, environ...)) }
	controller := func(environ []string) (any, error) { return ControllerFromEnv(environ) }
	for _, tc := range []struct {
		read    func([]string) (any, error)
		environ string
		want    string
	}{
		{agent, "SPIDERPOOL_NODE_NAME=", `SPIDERPOOL_NODE_NAME is "": set it from spec.nodeName through the downward API`},
		{agent, "SPIDERPOOL_HELTH_PORT=5710", "unknown variable SPIDERPOOL_HELTH_PORT: correct it or remove it"},
		{controller, "SPIDERPOOL_GC_ENABLED=true", "unknown variable SPIDERPOOL_GC_ENABLED: correct it or remove it"},
		{controller, "SPIDERPOOL_UNSET=", "unknown variable SPIDERPOOL_UNSET"},
		{agent, "SPIDERPOOL_HEALTH_PORT=0", `SPIDERPOOL_HEALTH_PORT is "0": want a whole number from 1 to 65535`},
		{agent, "SPIDERPOOL_METRIC_HTTP_PORT=65536", `SPIDERPOOL_METRIC_HTTP_PORT is "65536": want a whole number from 1 to 65535`},
		{agent, "SPIDERPOOL_GOPS_LISTEN_PORT=tcp://10.96.0.1:1", `is "tcp://10.96.0.1:1": want a whole number from 0 to 65535`},
		{controller, "SPIDERPOOL_GOPS_LISTEN_PORT=-1", `is "-1": want a whole number from 0 to 65535`},
		{agent, "SPIDERPOOL_LOG_LEVEL=verbose", `SPIDERPOOL_LOG_LEVEL is "verbose": want debug, info, warn, error, fatal or panic`},
		{agent, "SPIDERPOOL_ENABLED_METRIC=on", `SPIDERPOOL_ENABLED_METRIC is "on": want true or false`},
		{controller, "SPIDERPOOL_WEBHOOK_PORT=x", `SPIDERPOOL_WEBHOOK_PORT is "x"`},
		{controller, "SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY=-1", `is "-1": want a whole number from 0 to 2147483647, of seconds`},
		{controller, "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION=0", `is "0": want a whole number from 1 to 2147483647, of seconds`},
		{controller, "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION=10m", `is "10m": want a whole number from 1 to 2147483647, of seconds`},
		{controller, "SPIDERPOOL_TLS_METHOD=self", `SPIDERPOOL_TLS_METHOD is "self": want auto, provided or certmanager`},
		{controller, "SPIDERPOOL_TLS_CA_DAYS=0", `SPIDERPOOL_TLS_CA_DAYS is "0": want a whole number from 1 to 100000, of days`},
		{controller, "SPIDERPOOL_TLS_EXTRA_DNS_NAMES=a,10.0.0.1", `"10.0.0.1" is no DNS name: join names by commas`},
		{controller, "SPIDERPOOL_TLS_EXTRA_DNS_NAMES=a;b", `"a;b" is no DNS name`},
		{controller, "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGE=a", "unknown variable SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGE"},
		{controller, "SPIDERPOOL_LEADER_DURATION=10", "SPIDERPOOL_LEADER_DURATION is 10s and SPIDERPOOL_LEADER_RENEW_DEADLINE 10s: make the first greater"},
		{controller, "SPIDERPOOL_LEADER_RENEW_DEADLINE=12 SPIDERPOOL_LEADER_RETRY_PERIOD=10", "SPIDERPOOL_LEADER_RENEW_DEADLINE is 12s and SPIDERPOOL_LEADER_RETRY_PERIOD 10s: make the first more than 1.2 times the second"},
		{controller, "SPIDERPOOL_B=1 SPIDERPOOL_A=1 SPIDERPOOL_HEALTH_PORT=x", "SPIDERPOOL_HEALTH_PORT is \"x\": want a whole number from 1 to 65535\nunknown variable SPIDERPOOL_A: correct it or remove it\nunknown variable SPIDERPOOL_B"},
	} {
		if _, err := tc.read(strings.Fields(tc.environ)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s\nerror %v\nwant  %s", tc.environ, err, tc.want)
		}
	}
}

func TestServiceVariablesArePassedOver(t *testing.T) {
	services := []string{
		node,
		"SPIDERPOOL_CONTROLLER_SERVICE_HOST=10.96.12.3", "SPIDERPOOL_CONTROLLER_SERVICE_PORT=5722", "SPIDERPOOL_CONTROLLER_SERVICE_PORT_WEBHOOK=5722",
		"SPIDERPOOL_CONTROLLER_PORT=tcp://10.96.12.3:443", "SPIDERPOOL_CONTROLLER_PORT_443_TCP=tcp://10.96.12.3:443",
		"SPIDERPOOL_CONTROLLER_PORT_443_TCP_PROTO=tcp", "SPIDERPOOL_CONTROLLER_PORT_443_TCP_PORT=443", "SPIDERPOOL_CONTROLLER_PORT_443_TCP_ADDR=10.96.12.3",
		"SPIDERPOOL_SERVICE_HOST=10.96.12.4", "SPIDERPOOL_SERVICE_PORT=80", "SPIDERPOOL_PORT=tcp://10.96.12.4:80",
	}
	got, err := AgentFromEnv(services)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(agentDefaults, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, name := range []string{"SPIDERPOOL_CONTROLER_PORT", "SPIDERPOOL_CONTROLLER_PORTS", "SPIDERPOOL_HEALTH_PORTS", "SPIDERPOOL_WEB_SERVICE_HOST", "SPIDERPOOL_CONTROLLER"} {
		if _, err := AgentFromEnv(append(services, name+"=1")); err == nil || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s belongs to no Service, and the error is %v", name, err)
		}
	}
}

// Either daemon accepts every variable of the other and of the init job.
func TestEveryVariableIsKnown(t *testing.T) {
	for _, names := range [][]string{agentNames, controllerNames, initNames} {
		for _, name := range names {
			// A value that nobody can read as a number, so only texts and other programs' variables pass.
			environ := []string{node, name + "=?"}
			for daemon, err := range map[string]error{"agent": second(AgentFromEnv(environ)), "controller": second(ControllerFromEnv(environ))} {
				if err != nil && strings.Contains(err.Error(), "unknown") {
					t.Errorf("%s: %v", daemon, err)
				}
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Each variable is read by a daemon or told to have no effect, never both, and none is forgotten in the lists above.
func TestVariablesAreEitherReadOrWithoutEffect(t *testing.T) {
	listed := map[string]bool{}
	for _, names := range [][]string{agentNames, controllerNames, initNames} {
		for _, name := range names {
			listed[name] = true
		}
	}
	read := map[string]bool{}
	for _, v := range append((&Agent{}).variables(), (&Controller{}).variables()...) {
		read[v.name] = true
	}
	for name := range listed {
		if _, ok := whyWithoutEffect(name); ok == read[name] {
			t.Errorf("%s: read %v, without effect %v", name, read[name], ok)
		}
	}
	for name := range read {
		if !listed[name] {
			t.Errorf("%s is read and not listed", name)
		}
	}
	for _, known := range slices.Concat(slices.Collect(maps.Values(withoutEffect))...) {
		found := false
		for name := range listed {
			match, _ := path.Match(known, name)
			found = found || match
		}
		if !found {
			t.Errorf("%s is accepted and not listed", known)
		}
	}
}

func TestNoEffectIsTold(t *testing.T) {
	want := []string{
		"SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS: a pool may have any number of addresses in use",
		"SPIDERPOOL_NAMESPACE: it belongs to a job that made the default pools; the controller makes them",
	}
	environ := []string{
		node, "SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS=5000", "SPIDERPOOL_NAMESPACE=p", "SPIDERPOOL_GC_IP_WORKER_NUM=",
	}
	a, err := AgentFromEnv(environ)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ControllerFromEnv(environ)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{want, want}, [][]string{a.NoEffect, c.NoEffect}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLogLevels(t *testing.T) {
	for name, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "ERROR": slog.LevelError,
		"panic": slog.LevelError + 4, "fatal": slog.LevelError + 8,
	} {
		a, err := AgentFromEnv([]string{node, "SPIDERPOOL_LOG_LEVEL=" + name})
		if err != nil || a.LogLevel != want {
			t.Errorf("%s: %v, %v, want %v", name, a.LogLevel, err, want)
		}
	}
}

func TestDefaultPool(t *testing.T) {
	p := DefaultPool{Version: 6, Name: "default-v6-ippool"}
	if p.Wanted() {
		t.Error("a pool that only has a name is wanted")
	}
	for _, p := range []DefaultPool{{Subnet: "x"}, {Gateway: "x"}, {IPRanges: "x"}, {IPRanges: "["}} {
		if !p.Wanted() {
			t.Errorf("%+v is not wanted", p)
		}
	}
	for text, want := range map[string][]string{
		"": nil, "null": nil, "[]": {}, `["a", "b-c"]`: {"a", "b-c"}, " a, b-c ,": {"a", "b-c"}, ` ["a"]`: {"a"},
	} {
		p.IPRanges = text
		got, err := p.Ranges()
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	p.IPRanges = `["a"`
	if _, err := p.Ranges(); err == nil || !strings.Contains(err.Error(), "SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES is no list in JSON") {
		t.Error(err)
	}
}
