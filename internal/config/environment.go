package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Agent is the environment of spiderpool-agent. Every variable may be empty or missing and then has its default,
// SPIDERPOOL_NODE_NAME apart.
type Agent struct {
	// LogLevel (SPIDERPOOL_LOG_LEVEL, default info) is one of debug, info, warn, error, fatal and panic. The last two are
	// levels above error, at which this product writes nothing.
	LogLevel slog.Level
	// EnabledMetric (SPIDERPOOL_ENABLED_METRIC, default false) serves metrics on MetricPort; EnabledDebugMetric
	// (SPIDERPOOL_ENABLED_DEBUG_METRIC, default false) adds those of single pools and subnets.
	EnabledMetric, EnabledDebugMetric bool
	// PodNamespace and PodName (SPIDERPOOL_POD_NAMESPACE, SPIDERPOOL_POD_NAME, default empty) are those of this process.
	PodNamespace, PodName string
	// NodeName (SPIDERPOOL_NODE_NAME, required) is the Node that this agent serves.
	NodeName string
	// HealthPort (SPIDERPOOL_HEALTH_PORT, default 5710) and MetricPort (SPIDERPOOL_METRIC_HTTP_PORT, default 5711) are TCP
	// ports, 1 to 65535. GopsPort (SPIDERPOOL_GOPS_LISTEN_PORT, default 5712) is one, or 0: no profiles are served.
	HealthPort, MetricPort, GopsPort int
	// MultusClusterNetwork (MULTUS_CLUSTER_NETWORK, default empty) is the network attachment definition, "namespace/name"
	// or "name", of the first interface of pods without the annotation v1.multus-cni.io/default-network.
	MultusClusterNetwork string

	// NoEffect lists the variables that are set and decide nothing in this product, each as "NAME: why". Log it at start.
	NoEffect []string
}

// Controller is the environment of spiderpool-controller. Every variable may be empty or missing and then has its default.
type Controller struct {
	// LogLevel, EnabledMetric, EnabledDebugMetric, PodNamespace and PodName are as in Agent. The election of a leader needs
	// the latter two.
	LogLevel slog.Level

	EnabledMetric, EnabledDebugMetric bool

	PodNamespace, PodName string
	// HealthPort (SPIDERPOOL_HEALTH_PORT, default 5720), MetricPort (SPIDERPOOL_METRIC_HTTP_PORT, default 5721),
	// WebhookPort (SPIDERPOOL_WEBHOOK_PORT, default 5722) and GopsPort (SPIDERPOOL_GOPS_LISTEN_PORT, default 5724) are TCP
	// ports, 1 to 65535; GopsPort may be 0 as in Agent.
	HealthPort, MetricPort, WebhookPort, GopsPort int

	GC     GC
	Leader Leader

	// Name (SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME, default spiderpool-controller) is that of the controller's Deployment,
	// Service and webhook configurations.
	Name string
	TLS  TLS
	// ServiceAccount (SPIDERPOOL_SERVICE_ACCOUNT, default spiderpool-controller) is the account of this process, in
	// PodNamespace: what it writes is judged by other rules than what people write.
	ServiceAccount string
	// DefaultPools are those of IPv4 and of IPv6 that the controller makes; see DefaultPool.
	DefaultPools [2]DefaultPool

	// NoEffect is as in Agent.
	NoEffect []string
}

// GC says which addresses the controller takes back, and when.
type GC struct {
	// Enabled (SPIDERPOOL_GC_IP_ENABLED, default true). If false the controller takes nothing back.
	Enabled bool
	// TerminatingOnReadyNode and TerminatingOnNotReadyNode (SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED,
	// ..._ON_NOT_READY_NODE_ENABLED, default true) take back addresses of pods that stay Terminating beyond their grace
	// period, on nodes that are ready and on such that are not.
	TerminatingOnReadyNode, TerminatingOnNotReadyNode bool
	// Evicted (SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED, default true) takes back addresses of evicted pods, EvictedDelay
	// (SPIDERPOOL_GC_EVICTED_POD_IP_DELAY, whole seconds, default 0) after the eviction was seen.
	Evicted      bool
	EvictedDelay time.Duration
	// GraceDelay (SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY, whole seconds, default 0) is added to the grace period of a pod.
	GraceDelay time.Duration
	// Interval (SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION, whole seconds, at least 1, default 600) lies between two looks at
	// every address.
	Interval time.Duration
	// DryRun (SPIDERPOOL_GC_DRY_RUN, default false) logs and counts what would be taken back, and writes nothing.
	DryRun bool
}

// Leader is the timing of the leader's lease, as client-go's leader election wants it: LeaseDuration above RenewDeadline,
// and that above 1.2 times RetryPeriod.
type Leader struct {
	// SPIDERPOOL_LEADER_DURATION (default 15), SPIDERPOOL_LEADER_RENEW_DEADLINE (default 10) and
	// SPIDERPOOL_LEADER_RETRY_PERIOD (default 2), whole seconds, at least 1.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// TLS is where the webhooks' certificate comes from.
type TLS struct {
	// Method (SPIDERPOOL_TLS_METHOD, default auto) is TLSAuto, TLSProvided or TLSCertManager.
	Method string
	// SecretName (SPIDERPOOL_TLS_SECRET_NAME, default spiderpool-controller-server-certs) is the Secret in which the
	// controller keeps its certificate by the method auto.
	SecretName string
	// ClusterDomain (SPIDERPOOL_CLUSTER_DNS_DOMAIN, default cluster.local) is the DNS domain of Services. It and
	// ExtraDNSNames (SPIDERPOOL_TLS_EXTRA_DNS_NAMES, joined by commas, default empty, at most 100) are names in the
	// certificate by the method auto.
	ClusterDomain string
	ExtraDNSNames []string
	// CALife (SPIDERPOOL_TLS_CA_DAYS, default 3650) and CertLife (SPIDERPOOL_TLS_CERT_DAYS, default 365), whole days from
	// 1 to 100000, are how long authority and certificate live by the method auto. A third before, they are renewed.
	CALife, CertLife time.Duration
}

// Methods of TLS.
const (
	// TLSAuto: the controller makes certificate and authority, and writes caBundle into the webhook configurations.
	TLSAuto = "auto"
	// TLSProvided and TLSCertManager: the certificate is in files, and caBundle is the administrator's or cert-manager's.
	TLSProvided    = "provided"
	TLSCertManager = "certmanager"
)

// variable is one that a daemon acts on.
type variable struct {
	name  string
	unset string // its value when it is empty or missing
	read  reader
}

func (a *Agent) variables() []variable {
	return []variable{
		{"SPIDERPOOL_LOG_LEVEL", "info", into(&a.LogLevel, level)},
		{"SPIDERPOOL_ENABLED_METRIC", "false", into(&a.EnabledMetric, boolean)},
		{"SPIDERPOOL_ENABLED_DEBUG_METRIC", "false", into(&a.EnabledDebugMetric, boolean)},
		{"SPIDERPOOL_POD_NAMESPACE", "", into(&a.PodNamespace, text)},
		{"SPIDERPOOL_POD_NAME", "", into(&a.PodName, text)},
		{"SPIDERPOOL_NODE_NAME", "", into(&a.NodeName, nodeName)},
		{"SPIDERPOOL_HEALTH_PORT", "5710", into(&a.HealthPort, number(1, highestPort))},
		{"SPIDERPOOL_METRIC_HTTP_PORT", "5711", into(&a.MetricPort, number(1, highestPort))},
		{"SPIDERPOOL_GOPS_LISTEN_PORT", "5712", into(&a.GopsPort, number(0, highestPort))},
		{"MULTUS_CLUSTER_NETWORK", "", into(&a.MultusClusterNetwork, text)},
	}
}

func (c *Controller) variables() []variable {
	out := []variable{
		{"SPIDERPOOL_LOG_LEVEL", "info", into(&c.LogLevel, level)},
		{"SPIDERPOOL_ENABLED_METRIC", "false", into(&c.EnabledMetric, boolean)},
		{"SPIDERPOOL_ENABLED_DEBUG_METRIC", "false", into(&c.EnabledDebugMetric, boolean)},
		{"SPIDERPOOL_POD_NAMESPACE", "", into(&c.PodNamespace, text)},
		{"SPIDERPOOL_POD_NAME", "", into(&c.PodName, text)},
		{"SPIDERPOOL_HEALTH_PORT", "5720", into(&c.HealthPort, number(1, highestPort))},
		{"SPIDERPOOL_METRIC_HTTP_PORT", "5721", into(&c.MetricPort, number(1, highestPort))},
		{"SPIDERPOOL_WEBHOOK_PORT", "5722", into(&c.WebhookPort, number(1, highestPort))},
		{"SPIDERPOOL_GOPS_LISTEN_PORT", "5724", into(&c.GopsPort, number(0, highestPort))},
		{"SPIDERPOOL_GC_IP_ENABLED", "true", into(&c.GC.Enabled, boolean)},
		{"SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED", "true", into(&c.GC.TerminatingOnReadyNode, boolean)},
		{"SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED", "true", into(&c.GC.TerminatingOnNotReadyNode, boolean)},
		{"SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED", "true", into(&c.GC.Evicted, boolean)},
		{"SPIDERPOOL_GC_EVICTED_POD_IP_DELAY", "0", into(&c.GC.EvictedDelay, seconds(0))},
		{"SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY", "0", into(&c.GC.GraceDelay, seconds(0))},
		{"SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION", "600", into(&c.GC.Interval, seconds(1))},
		{"SPIDERPOOL_GC_DRY_RUN", "false", into(&c.GC.DryRun, boolean)},
		{"SPIDERPOOL_LEADER_DURATION", "15", into(&c.Leader.LeaseDuration, seconds(1))},
		{"SPIDERPOOL_LEADER_RENEW_DEADLINE", "10", into(&c.Leader.RenewDeadline, seconds(1))},
		{"SPIDERPOOL_LEADER_RETRY_PERIOD", "2", into(&c.Leader.RetryPeriod, seconds(1))},
		{"SPIDERPOOL_SERVICE_ACCOUNT", "spiderpool-controller", into(&c.ServiceAccount, text)},
		{"SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME", "spiderpool-controller", into(&c.Name, text)},
		{"SPIDERPOOL_TLS_METHOD", TLSAuto, into(&c.TLS.Method, oneOf(TLSAuto, TLSProvided, TLSCertManager))},
		{"SPIDERPOOL_TLS_SECRET_NAME", "spiderpool-controller-server-certs", into(&c.TLS.SecretName, text)},
		{"SPIDERPOOL_TLS_EXTRA_DNS_NAMES", "", into(&c.TLS.ExtraDNSNames, dnsNames)},
		{"SPIDERPOOL_TLS_CA_DAYS", "3650", into(&c.TLS.CALife, days)},
		{"SPIDERPOOL_TLS_CERT_DAYS", "365", into(&c.TLS.CertLife, days)},
		{"SPIDERPOOL_CLUSTER_DNS_DOMAIN", "cluster.local", into(&c.TLS.ClusterDomain, text)},
	}
	for i := range c.DefaultPools {
		c.DefaultPools[i].Version = [2]int64{4, 6}[i]
		out = append(out, c.DefaultPools[i].variables()...)
	}
	return out
}

// withoutEffect are variables that are accepted, because manifests of existing installations set them, and decide nothing, by
// the reason. A star at the end of a name stands for all that begin so.
var withoutEffect = map[string][]string{
	"Spiderpool manages addresses and counts no RDMA traffic":                         {"SPIDERPOOL_ENABLED_RDMA_METRIC"},
	"Spiderpool manages addresses and brings no coordinator plugin":                   {"SPIDERPOOL_COORDINATOR_*"},
	"Spiderpool manages addresses and writes no Multus configuration":                 {"SPIDERPOOL_MULTUS_*"},
	"profiles are fetched from the port SPIDERPOOL_GOPS_LISTEN_PORT, none are pushed": {"SPIDERPOOL_PYROSCOPE_PUSH_SERVER_ADDRESS"},
	"an address found in conflict is always quarantined and another one taken":        {"SPIDERPOOL_ENABLED_RELEASE_CONFLICT_IPS"},
	"a pool may have any number of addresses in use":                                  {"SPIDERPOOL_IPPOOL_MAX_ALLOCATED_IPS"},
	"metrics are current when they are read":                                          {"SPIDERPOOL_METRIC_RENEW_PERIOD"},
	"reserved: spiderpoolctl asks the Kubernetes API":                                 {"SPIDERPOOL_CLI_PORT"},
	"a controller that loses the lease starts anew":                                   {"SPIDERPOOL_LEADER_RETRY_GAP"},
	"requests are bounded by how many run at once":                                    {"SPIDERPOOL_GC_HTTP_REQUEST_TIME_GAP"},
	"the version is part of the program":                                              {"GIT_COMMIT_VERSION", "GIT_COMMIT_TIME", "VERSION"},
	"the agent is woken when an automatic pool is there": {
		"SPIDERPOOL_WAIT_SUBNET_POOL_TIME_IN_SECOND", "SPIDERPOOL_WAIT_SUBNET_POOL_MAX_RETRIES"},
	"a pod that runs keeps its addresses, whatever its status says": {
		"SPIDERPOOL_GC_ENABLE_STATELESS_RUNNING_POD_ON_EMPTY_POD_STATUS_IPS"},
	"every address is looked at when its own time has come": {
		"SPIDERPOOL_GC_TRACE_POD_GAP_DURATION", "SPIDERPOOL_GC_SIGNAL_TIMEOUT_DURATION"},
	"the number of workers follows from the work": {
		"SPIDERPOOL_GC_IP_WORKER_NUM", "SPIDERPOOL_SUBNET_INFORMER_WORKERS",
		"SPIDERPOOL_SUBNET_APPLICATION_CONTROLLER_WORKERS", "SPIDERPOOL_IPPOOL_INFORMER_WORKERS"},
	"work waits in queues without limits of their own": {
		"SPIDERPOOL_GC_CHANNEL_BUFFER", "SPIDERPOOL_GC_MAX_PODENTRY_DB_CAP",
		"SPIDERPOOL_SUBNET_INFORMER_MAX_WORKQUEUE_LENGTH", "SPIDERPOOL_AUTO_IPPOOL_HANDLER_MAX_WORKQUEUE_LENGTH"},
	"watches bring every change, and the periodic look at every address repeats the rest": {
		"SPIDERPOOL_SUBNET_INFORMER_RESYNC_PERIOD", "SPIDERPOOL_IPPOOL_INFORMER_RESYNC_PERIOD"},
	"what fails is tried again, at growing intervals, until it is done": {
		"SPIDERPOOL_GC_PODENTRY_MAX_RETRIES", "SPIDERPOOL_WORKQUEUE_MAX_RETRIES", "SPIDERPOOL_WORKQUEUE_RETRY_DELAY_DURATION"},
	"it belongs to a job that made the default pools; the controller makes them": {
		"SPIDERPOOL_NAMESPACE", "SPIDERPOOL_CONTROLLER_NAME", "SPIDERPOOL_AGENT_NAME"},
}

// AgentFromEnv reads the agent's environment, in the form of os.Environ. The error names every variable that is unknown,
// malformed or missing.
func AgentFromEnv(environ []string) (a Agent, err error) {
	if a.NoEffect, err = readEnv(environ, a.variables(), (&Controller{}).variables()); err != nil {
		return Agent{}, err
	}
	return a, nil
}

// ControllerFromEnv reads the controller's environment, in the form of os.Environ. The error names every variable that is
// unknown, malformed or at odds with another.
func ControllerFromEnv(environ []string) (c Controller, err error) {
	if c.NoEffect, err = readEnv(environ, c.variables(), (&Agent{}).variables()); err == nil {
		err = c.Leader.check()
	}
	if err != nil {
		return Controller{}, err
	}
	return c, nil
}

// readEnv hands the values of environ to mine and reports what else is there: an error for each unknown SPIDERPOOL_
// variable, a line for each that has no effect, nothing for those of the other daemon.
func readEnv(environ []string, mine, others []variable) (noEffect []string, err error) {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	services := serviceVariables(env)
	var errs []error
	for _, v := range mine {
		value := cmp.Or(env[v.name], v.unset)
		if err := v.read(value); err != nil {
			errs = append(errs, fmt.Errorf("%s is %q: %w", v.name, value, err))
		}
		delete(env, v.name)
	}
	for _, v := range others {
		delete(env, v.name)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		why, known := whyWithoutEffect(name)
		switch {
		case known && env[name] != "":
			noEffect = append(noEffect, name+": "+why)
		case !known && strings.HasPrefix(name, "SPIDERPOOL_") && !services(name):
			errs = append(errs, fmt.Errorf("unknown variable %s: correct it or remove it", name))
		}
	}
	return noEffect, errors.Join(errs...)
}

// whyWithoutEffect is why a variable decides nothing, if it is one of withoutEffect.
func whyWithoutEffect(name string) (why string, ok bool) {
	for why, names := range withoutEffect {
		for _, known := range names {
			if head, isFamily := strings.CutSuffix(known, "*"); name == known || isFamily && strings.HasPrefix(name, head) {
				return why, true
			}
		}
	}
	return "", false
}

// serviceVariables returns a test for the variables that the kubelet adds for every Service of the namespace, of which the
// chart has some called spiderpool-... : X_SERVICE_HOST, X_SERVICE_PORT, X_SERVICE_PORT_<name>, X_PORT,
// X_PORT_<number>_<protocol> and more (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
// It goes by the Services that env holds, lest every misspelt ..._PORT passes for one.
func serviceVariables(env map[string]string) func(name string) bool {
	var services []string
	for name := range env {
		service, ok := strings.CutSuffix(name, "_SERVICE_HOST")
		if _, hasPort := env[service+"_SERVICE_PORT"]; ok && hasPort {
			services = append(services, service)
		}
	}
	return func(name string) bool {
		return slices.ContainsFunc(services, func(service string) bool {
			rest, ok := strings.CutPrefix(name, service)
			return ok && (rest == "_SERVICE_HOST" || isOrBelow(rest, "_SERVICE_PORT") || isOrBelow(rest, "_PORT"))
		})
	}
}

func isOrBelow(s, head string) bool { return s == head || strings.HasPrefix(s, head+"_") }

func (l Leader) check() error {
	switch {
	case l.LeaseDuration <= l.RenewDeadline:
		return fmt.Errorf("SPIDERPOOL_LEADER_DURATION is %v and SPIDERPOOL_LEADER_RENEW_DEADLINE %v: make the first greater", l.LeaseDuration, l.RenewDeadline)
	case 5*l.RenewDeadline <= 6*l.RetryPeriod:
		return fmt.Errorf("SPIDERPOOL_LEADER_RENEW_DEADLINE is %v and SPIDERPOOL_LEADER_RETRY_PERIOD %v: make the first more than 1.2 times the second", l.RenewDeadline, l.RetryPeriod)
	}
	return nil
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	"panic": slog.LevelError + 4, "fatal": slog.LevelError + 8,
}

func level(s string) (slog.Level, error) {
	l, ok := levels[strings.ToLower(s)]
	if !ok {
		return 0, errors.New("want debug, info, warn, error, fatal or panic")
	}
	return l, nil
}

func boolean(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("want true or false")
	}
	return b, nil
}

func text(s string) (string, error) { return s, nil }

func nodeName(s string) (string, error) {
	if s == "" {
		return "", errors.New("set it from spec.nodeName through the downward API (env.valueFrom.fieldRef.fieldPath)")
	}
	return s, nil
}

func seconds(lowest int) func(string) (time.Duration, error) {
	return func(s string) (time.Duration, error) {
		n, err := number(lowest, maxNumber)(s)
		if err != nil {
			return 0, fmt.Errorf("%w, of seconds", err)
		}
		return time.Duration(n) * time.Second, nil
	}
}

const (
	highestPort = 65535
	// maxNumber is the greatest number where nothing else bounds it: what an int32 of Kubernetes holds.
	maxNumber = 1<<31 - 1
)

func number(lowest, highest int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < lowest || n > highest {
			return 0, fmt.Errorf("want a whole number from %d to %d", lowest, highest)
		}
		return n, nil
	}
}

// days reads whole days; time.Duration ends at some 292 years.
func days(s string) (time.Duration, error) {
	n, err := number(1, 100000)(s)
	if err != nil {
		return 0, fmt.Errorf("%w, of days", err)
	}
	return time.Duration(n) * 24 * time.Hour, nil
}

func oneOf(values ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(values, s) {
			return "", fmt.Errorf("want %s or %s", strings.Join(values[:len(values)-1], ", "), values[len(values)-1])
		}
		return s, nil
	}
}

// dnsName is a name or a pattern of names (RFC 1123, RFC 6125).
var dnsName = regexp.MustCompile(`^(\*\.)?[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?$`)

func dnsNames(s string) ([]string, error) {
	names := commas(s)
	for _, name := range names {
		if _, err := netip.ParseAddr(name); err == nil || !dnsName.MatchString(name) || len(name) > 253 {
			return nil, fmt.Errorf("%q is no DNS name: join names by commas; addresses cannot be called here", name)
		}
	}
	if len(names) > 100 {
		return nil, errors.New("want at most 100 names")
	}
	return names, nil
}

// commas splits a list and drops blanks and empty entries.
func commas(s string) (out []string) {
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
