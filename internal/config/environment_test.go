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
SPIDERPOOL_WORKQUEUE_RETRY_DELAY_DURATION SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME SPIDERPOOL_PYROSCOPE_PUSH_SERVER_ADDRESS
SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED SPIDERPOOL_GC_EVICTED_POD_IP_DELAY SPIDERPOOL_CLI_PORT
SPIDERPOOL_COORDINATOR_ENABLED SPIDERPOOL_MULTUS_CONFIG_ENABLED
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
				"SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS=true", "SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED=false",
				"SPIDERPOOL_GC_EVICTED_POD_IP_DELAY=5", "SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY=6", "SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION=1",
				"SPIDERPOOL_LEADER_DURATION=30", "SPIDERPOOL_LEADER_RENEW_DEADLINE=20", "SPIDERPOOL_LEADER_RETRY_PERIOD=16",
			},
			Controller{
				LogLevel: slog.LevelError, EnabledMetric: true, EnabledDebugMetric: true, PodNamespace: "net", PodName: "controller-x",
				HealthPort: 1, MetricPort: 2, WebhookPort: 3, GopsPort: 4,
				GC:     GC{RunningWithoutIPs: true, EvictedDelay: 5 * time.Second, GraceDelay: 6 * time.Second, Interval: time.Second},
				Leader: Leader{LeaseDuration: 30 * time.Second, RenewDeadline: 20 * time.Second, RetryPeriod: 16 * time.Second},
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
		"SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME: it belongs to the job that makes the default pools",
		"SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS: a pool may have any number of addresses in use",
	}
	environ := []string{
		node, "SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS=5000", "SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME=p", "SPIDERPOOL_GC_IP_WORKER_NUM=",
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
