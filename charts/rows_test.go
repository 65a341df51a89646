package charts_test

import (
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// A row is a value that the chart is specified to have.
type row struct {
	name   string  // its path
	brief  string  // the default that it is specified to have, in YAML
	why    string  // why the chart has another; empty if it has not
	checks []check // what it does, by default and otherwise
}

// A check is what some settings make of what is rendered.
type check struct {
	// set are the settings as --set takes them, "" for the defaults. One that begins with "=", "." or "[" follows the name of
	// the row.
	set string
	// object is an object that is rendered or one of those below, path what is looked at in it.
	object, path string
	// want is the text at the path, or something.
	want string
}

// What a check may look at beside objects.
const (
	each      = "each object"    // all that are rendered have want at the path
	confYML   = "conf.yml"       // the text of that key of the ConfigMap
	notes     = "notes"          // what helm says after an installation holds want
	refused   = "refusal"        // helm refuses the settings, and what it says holds want
	absent    = "is it rendered" // the path of an object that is not
	something = "something"      // any text but none
)

// Settings that others need.
const (
	agentMetrics      = "spiderpoolAgent.prometheus.enabled=true"
	controllerMetrics = "spiderpoolController.prometheus.enabled=true"
	manager           = "spiderpoolController.tls.method=certmanager"
	given             = "spiderpoolController.tls.method=provided,spiderpoolController.tls.provided.tlsCert=YQ==,spiderpoolController.tls.provided.tlsKey=Yg==,spiderpoolController.tls.provided.tlsCa=Yw=="
	v4                = "clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.ipv4Subnet=172.20.0.0/16"
	v6                = "clusterDefaultPool.installIPv6IPPool=true,clusterDefaultPool.ipv6Subnet=fd00::/112"
	digest            = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

	// everything renders each object that is optional; only the Secret of given excludes the objects of manager.
	everything = manager + "," + agentMetrics + "," + controllerMetrics + ",spiderpoolController.podDisruptionBudget.enabled=true," +
		"spiderpoolAgent.prometheus.serviceMonitor.install=true,spiderpoolController.prometheus.serviceMonitor.install=true," +
		"spiderpoolAgent.prometheus.prometheusRule.install=true,spiderpoolController.prometheus.prometheusRule.install=true,grafanaDashboard.install=true"
)

// Objects.
const (
	webhook     = "ValidatingWebhookConfiguration/spiderpool-controller"
	certificate = "Certificate/spiderpool-controller"
	secret      = "spiderpool-controller-server-certs"
)

// rows are all that are specified, in the order of their specification.
var rows = []row{
	{name: "global.imageRegistryOverride", brief: `""`, checks: []check{
		{"", daemonSet, "{..image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0 ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=r.example:5000", daemonSet, "{..image}", "r.example:5000/spidernet-io/spiderpool/spiderpool-agent:0.1.0 r.example:5000/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=r.example:5000,spiderpoolController.image.registry=q", deployment, "{..image}", "r.example:5000/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
	}},
	{name: "global.nameOverride", brief: `""`, checks: []check{
		{"", daemonSet, `{.spec.selector.matchLabels.app\.kubernetes\.io/name} {.spec.template.metadata.labels.app\.kubernetes\.io/name} {.metadata.labels.app\.kubernetes\.io/name}`, "spiderpool spiderpool spiderpool"},
		{"=ipam", daemonSet, `{.spec.selector.matchLabels.app\.kubernetes\.io/name} {.spec.template.metadata.labels.app\.kubernetes\.io/name} {.metadata.labels.app\.kubernetes\.io/name}`, "ipam ipam ipam"},
		{"=ipam", deployment, `{.spec.selector.matchLabels.app\.kubernetes\.io/name} {.spec.template.metadata.labels.app\.kubernetes\.io/name} {.metadata.labels.app\.kubernetes\.io/name}`, "ipam ipam ipam"},
	}},
	{name: "global.clusterDnsDomain", brief: `cluster.local`, checks: []check{
		{"", deployment, env("SPIDERPOOL_CLUSTER_DNS_DOMAIN"), "cluster.local"},
		{"=k", deployment, env("SPIDERPOOL_CLUSTER_DNS_DOMAIN"), "k"},
		{"=k," + manager, certificate, "{.spec.dnsNames[1]}", "spiderpool-controller.net.svc.k"},
	}},
	{name: "global.commonAnnotations", brief: `{}`, checks: []check{
		{"", each, "{.metadata.annotations.note}", ""},
		{".note=x," + everything, each, "{.metadata.annotations.note}", "x"},
		{".note=x," + given, each, "{.metadata.annotations.note}", "x"},
		{".note=x," + everything, daemonSet, "{.spec.template.metadata.annotations.note}", "x"},
		{".note=x," + everything, deployment, "{.spec.template.metadata.annotations.note}", "x"},
	}},
	{name: "global.commonLabels", brief: `{}`, checks: []check{
		{"", each, "{.metadata.labels.team}", ""},
		{".team=x," + everything, each, "{.metadata.labels.team}", "x"},
		{".team=x," + given, each, "{.metadata.labels.team}", "x"},
		{".team=x," + everything, each, "{..matchLabels.team}{.spec.selector.team}", ""},
		{".team=x," + everything, daemonSet, "{.spec.template.metadata.labels.team}", "x"},
		{".team=x," + everything, deployment, "{.spec.template.metadata.labels.team}", "x"},
	}},
	{name: "global.ipamBinHostPath", brief: `/opt/cni/bin`, checks: []check{
		{"", daemonSet, volume("cni-bin"), "/opt/cni/bin"},
		{"=/usr/libexec/cni", daemonSet, volume("cni-bin"), "/usr/libexec/cni"},
		{"global.cniBinHostPath=/usr/libexec/cni", daemonSet, volume("cni-bin"), "/usr/libexec/cni"},
	}},
	{name: "global.ipamUNIXSocketHostPath", brief: `/var/run/spidernet/spiderpool.sock`, checks: []check{
		{"", confYML, "{.ipamUnixSocketPath}", "/var/run/spidernet/spiderpool.sock"},
		{"", daemonSet, volume("socket") + ` {` + agent + `.volumeMounts[?(@.name=="socket")].mountPath} {` + install + `.args[3]}`, "/var/run/spidernet /var/run/spidernet --socket=/var/run/spidernet/spiderpool.sock"},
		{"=/run/sp/a.sock", confYML, "{.ipamUnixSocketPath}", "/run/sp/a.sock"},
		{"=/run/sp/a.sock", daemonSet, volume("socket") + ` {` + agent + `.volumeMounts[?(@.name=="socket")].mountPath} {` + install + `.args[3]}`, "/run/sp /run/sp --socket=/run/sp/a.sock"},
	}},
	{name: "global.configName", brief: `spiderpool-conf`, checks: []check{
		{"", configMap, "{.kind}", "ConfigMap"},
		{"", daemonSet, "{.spec.template.spec.volumes[*].configMap.name}", "spiderpool-conf"},
		{"=other", "ConfigMap/other", "{.kind}", "ConfigMap"},
		{"=other", daemonSet, "{.spec.template.spec.volumes[*].configMap.name}", "other"},
		{"=other", deployment, "{.spec.template.spec.volumes[*].configMap.name}", "other"},
	}},
	{name: "feature.enableIPv4", brief: `true`, checks: []check{
		{"", confYML, "{.enableIPv4}", "true"},
		{"=false", confYML, "{.enableIPv4}", "false"},
		{"ipam.enableIPv4=false", confYML, "{.enableIPv4}", "false"},
	}},
	{name: "feature.enableIPv6", brief: `true`, checks: []check{
		{"", confYML, "{.enableIPv6}", "true"},
		{"=false", confYML, "{.enableIPv6}", "false"},
		{"ipam.enableIPv6=false", confYML, "{.enableIPv6}", "false"},
	}},
	{name: "feature.networkMode", brief: `legacy`, checks: []check{
		{"", daemonSet, "{.kind}", "DaemonSet"},
		{"=strict", refused, "", "at '/feature/networkMode': value must be 'legacy'"},
	}},
	{name: "feature.enableStatefulSet", brief: `true`, checks: []check{
		{"", confYML, "{.enableStatefulSet}", "true"},
		{"=false", confYML, "{.enableStatefulSet}", "false"},
		{"ipam.enableStatefulSet=false", confYML, "{.enableStatefulSet}", "false"},
	}},
	{name: "feature.gc.enabled", brief: `true`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GC_IP_ENABLED"), "true"},
		{"=false", deployment, env("SPIDERPOOL_GC_IP_ENABLED"), "false"},
		{"ipam.gc.enabled=false", deployment, env("SPIDERPOOL_GC_IP_ENABLED"), "false"},
	}},
	{name: "feature.gc.GcDeletingTimeOutPod.enabled", brief: `true`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED") + " " + env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED"), "true true"},
		{"=false", deployment, env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED") + " " + env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED"), "false false"},
		{"ipam.gc.statelessPod.zombieOnReadyNode=false", deployment, env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED") + " " + env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED"), "false true"},
		{"=false,ipam.gc.statelessPod.zombieOnReadyNode=true", deployment, env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED") + " " + env("SPIDERPOOL_GC_STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED"), "true false"},
	}},
	{name: "feature.gc.GcDeletingTimeOutPod.delay", brief: `0`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY"), "0"},
		{"=1000000", deployment, env("SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY"), "1000000"},
		{"=5,ipam.gc.gcDeletingTimeOutPodDelay=0", deployment, env("SPIDERPOOL_GC_ADDITIONAL_GRACE_DELAY"), "0"},
	}},
	{name: "feature.gc.GcEvictedPodPod.enabled", brief: `true`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED"), "true"},
		{"=false", deployment, env("SPIDERPOOL_GC_EVICTED_POD_IP_ENABLED"), "false"},
	}},
	{name: "feature.gc.GcEvictedPodPod.delay", brief: `0`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GC_EVICTED_POD_IP_DELAY"), "0"},
		{"=7", deployment, env("SPIDERPOOL_GC_EVICTED_POD_IP_DELAY"), "7"},
	}},
	{name: "clusterDefaultPool.installIPv4IPPool", brief: `false`, checks: []check{
		{"", deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME"), ""},
		{v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME"), "default-v4-ippool"},
	}},
	{name: "clusterDefaultPool.installIPv6IPPool", brief: `false`, checks: []check{
		{"", deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME"), ""},
		{v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME"), "default-v6-ippool"},
	}},
	{name: "clusterDefaultPool.ipv4IPPoolName", brief: `default-v4-ippool`, checks: []check{
		{v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME"), "default-v4-ippool"},
		{"=x," + v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME"), "x"},
	}},
	{name: "clusterDefaultPool.ipv6IPPoolName", brief: `default-v6-ippool`, checks: []check{
		{v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME"), "default-v6-ippool"},
		{"=x," + v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME"), "x"},
	}},
	{name: "clusterDefaultPool.ipv4Subnet", brief: `""`, checks: []check{
		{"", deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET"), ""},
		{v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET"), "172.20.0.0/16"},
		{"clusterDefaultPool.installIPv4IPPool=true", refused, "", "clusterDefaultPool.installIPv4IPPool is true and clusterDefaultPool.ipv4Subnet is empty: set it"},
	}},
	{name: "clusterDefaultPool.ipv6Subnet", brief: `""`, checks: []check{
		{"", deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET"), ""},
		{v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET"), "fd00::/112"},
		{"clusterDefaultPool.installIPv6IPPool=true", refused, "", "clusterDefaultPool.installIPv6IPPool is true and clusterDefaultPool.ipv6Subnet is empty: set it"},
	}},
	{name: "clusterDefaultPool.ipv4IPRanges", brief: `[]`, checks: []check{
		{v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES"), "[]"},
		{"={172.20.0.10-172.20.0.200}," + v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES"), `["172.20.0.10-172.20.0.200"]`},
	}},
	{name: "clusterDefaultPool.ipv6IPRanges", brief: `[]`, checks: []check{
		{v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES"), "[]"},
		{"={fd00::10-fd00::200}," + v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_IPRANGES"), `["fd00::10-fd00::200"]`},
	}},
	{name: "spiderpoolAgent.name", brief: `spiderpool-agent`, checks: []check{
		{"", daemonSet, "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "spiderpool-agent spiderpool-agent"},
		{"=x", "DaemonSet/x", "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "x x"},
		{"=x", "ServiceAccount/x", "{.kind}", "ServiceAccount"},
		{"=x," + agentMetrics, "Service/x", `{.spec.selector.app\.kubernetes\.io/component}`, "x"},
		{"=x", "ClusterRoleBinding/x", "{.roleRef.kind} {.roleRef.name} {.subjects[*].kind} {.subjects[*].name} {.subjects[*].namespace}", "ClusterRole x ServiceAccount x net"},
	}},
	{name: "spiderpoolAgent.binName", brief: `spiderpool-agent`, checks: []check{
		{"", daemonSet, "{..command[0]}", "spiderpool-agent spiderpool-agent"},
		{"=/usr/bin/spiderpool-agent", daemonSet, "{..command[0]}", "/usr/bin/spiderpool-agent /usr/bin/spiderpool-agent"},
	}},
	{name: "spiderpoolAgent.image.registry", brief: `ghcr.io`, checks: []check{
		{"", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=r", daemonSet, "{" + agent + ".image}", "r/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=", daemonSet, "{" + agent + ".image}", "spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
	}},
	{name: "spiderpoolAgent.image.repository", brief: `spidernet-io/spiderpool/spiderpool-agent`, checks: []check{
		{"", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=x/y", daemonSet, "{" + agent + ".image}", "ghcr.io/x/y:0.1.0"},
	}},
	{name: "spiderpoolAgent.image.pullPolicy", brief: `IfNotPresent`, checks: []check{
		{"", daemonSet, "{..imagePullPolicy}", "IfNotPresent IfNotPresent"},
		{"=Never", daemonSet, "{..imagePullPolicy}", "Never Never"},
	}},
	{name: "spiderpoolAgent.image.digest", brief: `""`, checks: []check{
		{"", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=" + digest + ",spiderpoolAgent.image.tag=v9", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent@" + digest},
	}},
	{name: "spiderpoolAgent.image.tag", brief: `""`, checks: []check{
		{"", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"=v9", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:v9"},
	}},
	{name: "spiderpoolAgent.image.imagePullSecrets", brief: `[]`, checks: []check{
		{"", daemonSet, "{.spec.template.spec.imagePullSecrets}", ""},
		{"[0].name=reg", daemonSet, "{.spec.template.spec.imagePullSecrets[*].name}", "reg"},
	}},
	{name: "spiderpoolAgent.serviceAccount.create", brief: `true`, checks: []check{
		{"", "ServiceAccount/spiderpool-agent", "{.kind}", "ServiceAccount"},
		{"=false", "ServiceAccount/spiderpool-agent", absent, ""},
		{"=false", daemonSet, "{.spec.template.spec.serviceAccountName}", "spiderpool-agent"},
	}},
	{name: "spiderpoolAgent.serviceAccount.annotations", brief: `{}`, checks: []check{
		{"", "ServiceAccount/spiderpool-agent", "{.metadata.annotations}", ""},
		{".a=b", "ServiceAccount/spiderpool-agent", "{.metadata.annotations}", `{"a":"b"}`},
	}},
	{name: "spiderpoolAgent.service.annotations", brief: `{}`, checks: []check{
		{agentMetrics, "Service/spiderpool-agent", "{.metadata.annotations}", ""},
		{".a=b," + agentMetrics, "Service/spiderpool-agent", "{.metadata.annotations}", `{"a":"b"}`},
	}},
	{name: "spiderpoolAgent.service.type", brief: `ClusterIP`, checks: []check{
		{agentMetrics, "Service/spiderpool-agent", "{.spec.type}", "ClusterIP"},
		{"=NodePort," + agentMetrics, "Service/spiderpool-agent", "{.spec.type}", "NodePort"},
	}},
	{name: "spiderpoolAgent.priorityClassName", brief: `system-node-critical`, checks: []check{
		{"", daemonSet, "{.spec.template.spec.priorityClassName}", "system-node-critical"},
		{"=high", daemonSet, "{.spec.template.spec.priorityClassName}", "high"},
	}},
	{name: "spiderpoolAgent.affinity", brief: `{}`, checks: []check{
		{"", daemonSet, "{..topologyKey}", ""},
		{".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone", daemonSet, "{..topologyKey}", "zone"},
	}},
	{name: "spiderpoolAgent.extraArgs", brief: `[]`, checks: []check{
		{"", daemonSet, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --cni-bin-dir=/host/opt/cni/bin"},
		{"={--a,--b=c}", daemonSet, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --cni-bin-dir=/host/opt/cni/bin --a --b=c"},
	}},
	{name: "spiderpoolAgent.extraEnv", brief: `[]`, checks: []check{
		{"", daemonSet, env("A"), ""},
		{"[0].name=A,spiderpoolAgent.extraEnv[0].value=b", daemonSet, env("A"), "b"},
	}},
	{name: "spiderpoolAgent.extraVolumes", brief: `[]`, checks: []check{
		{"", daemonSet, volume("v"), ""},
		{"[0].name=v,spiderpoolAgent.extraVolumes[0].hostPath.path=/v", daemonSet, volume("v"), "/v"},
	}},
	{name: "spiderpoolAgent.extraVolumeMounts", brief: `[]`, checks: []check{
		{"", daemonSet, "{" + agent + ".volumeMounts[?(@.mountPath=='/v')].name}", ""},
		{"[0].name=config-path,spiderpoolAgent.extraVolumeMounts[0].mountPath=/v", daemonSet, "{" + agent + ".volumeMounts[?(@.mountPath=='/v')].name}", "config-path"},
	}},
	{name: "spiderpoolAgent.podAnnotations", brief: `{}`, checks: []check{
		{"", daemonSet, "{.spec.template.metadata.annotations.a}", ""},
		{".a=b", daemonSet, "{.spec.template.metadata.annotations.a}", "b"},
	}},
	{name: "spiderpoolAgent.podLabels", brief: `{}`, checks: []check{
		{"", daemonSet, "{.spec.template.metadata.labels.a}", ""},
		{".a=b", daemonSet, "{.spec.template.metadata.labels.a}", "b"},
	}},
	{name: "spiderpoolAgent.resources.limits.cpu", brief: `1000m`, checks: []check{
		{"", daemonSet, "{..resources.limits.cpu}", "1000m 1000m"},
		{"=2", daemonSet, "{..resources.limits.cpu}", "2 2"},
	}},
	{name: "spiderpoolAgent.resources.limits.memory", brief: `1024Mi`, checks: []check{
		{"", daemonSet, "{..resources.limits.memory}", "1024Mi 1024Mi"},
		{"=1Gi", daemonSet, "{..resources.limits.memory}", "1Gi 1Gi"},
	}},
	{name: "spiderpoolAgent.resources.requests.cpu", brief: `100m`, checks: []check{
		{"", daemonSet, "{..resources.requests.cpu}", "100m 100m"},
		{"=1m", daemonSet, "{..resources.requests.cpu}", "1m 1m"},
	}},
	{name: "spiderpoolAgent.resources.requests.memory", brief: `128Mi`, checks: []check{
		{"", daemonSet, "{..resources.requests.memory}", "128Mi 128Mi"},
		{"=1Mi", daemonSet, "{..resources.requests.memory}", "1Mi 1Mi"},
	}},
	{name: "spiderpoolAgent.securityContext", brief: `{}`, checks: []check{
		{"", daemonSet, "{" + agent + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"add":["DAC_OVERRIDE","SYS_ADMIN","NET_RAW","NET_ADMIN"],"drop":["ALL"]},"readOnlyRootFilesystem":true,"seLinuxOptions":{"level":"s0","type":"spc_t"},"seccompProfile":{"type":"RuntimeDefault"}}`},
		{".runAsUser=1", daemonSet, "{..securityContext}", `{"runAsUser":1} {"runAsUser":1}`},
	}},
	{name: "spiderpoolAgent.healthChecking.port", brief: `5710`, checks: []check{
		{"", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "5710 5710 health health health"},
		{"=6", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "6 6 health health health"},
		{"spiderpoolAgent.httpPort=7", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "7 7 health health health"},
	}},
	{name: "spiderpoolAgent.healthChecking.startupProbe.failureThreshold", brief: `60`, checks: []check{
		{"", daemonSet, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.httpGet.path}", "60 /v1/runtime/startup"},
		{"=9", daemonSet, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.httpGet.path}", "9 /v1/runtime/startup"},
	}},
	{name: "spiderpoolAgent.healthChecking.startupProbe.periodSeconds", brief: `2`, checks: []check{
		{"", daemonSet, "{" + agent + ".startupProbe.periodSeconds} {" + agent + ".startupProbe.httpGet.path}", "2 /v1/runtime/startup"},
		{"=9", daemonSet, "{" + agent + ".startupProbe.periodSeconds} {" + agent + ".startupProbe.httpGet.path}", "9 /v1/runtime/startup"},
	}},
	{name: "spiderpoolAgent.healthChecking.livenessProbe.failureThreshold", brief: `6`, checks: []check{
		{"", daemonSet, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.httpGet.path}", "6 /v1/runtime/liveness"},
		{"=9", daemonSet, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.httpGet.path}", "9 /v1/runtime/liveness"},
	}},
	{name: "spiderpoolAgent.healthChecking.livenessProbe.periodSeconds", brief: `10`, checks: []check{
		{"", daemonSet, "{" + agent + ".livenessProbe.periodSeconds} {" + agent + ".livenessProbe.httpGet.path}", "10 /v1/runtime/liveness"},
		{"=9", daemonSet, "{" + agent + ".livenessProbe.periodSeconds} {" + agent + ".livenessProbe.httpGet.path}", "9 /v1/runtime/liveness"},
	}},
	{name: "spiderpoolAgent.healthChecking.readinessProbe.failureThreshold", brief: `3`, checks: []check{
		{"", daemonSet, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.httpGet.path}", "3 /v1/runtime/readiness"},
		{"=9", daemonSet, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.httpGet.path}", "9 /v1/runtime/readiness"},
	}},
	{name: "spiderpoolAgent.healthChecking.readinessProbe.periodSeconds", brief: `10`, checks: []check{
		{"", daemonSet, "{" + agent + ".readinessProbe.periodSeconds} {" + agent + ".readinessProbe.httpGet.path}", "10 /v1/runtime/readiness"},
		{"=9", daemonSet, "{" + agent + ".readinessProbe.periodSeconds} {" + agent + ".readinessProbe.httpGet.path}", "9 /v1/runtime/readiness"},
	}},
	{name: "spiderpoolAgent.prometheus.enabled", brief: `false`, checks: []check{
		{"", daemonSet, env("SPIDERPOOL_ENABLED_METRIC") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "false "},
		{"=true", daemonSet, env("SPIDERPOOL_ENABLED_METRIC") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "true 5711"},
		{"=true", "Service/spiderpool-agent", "{.spec.ports[?(@.name=='metrics')].targetPort}", "metrics"},
	}},
	{name: "spiderpoolAgent.prometheus.port", brief: `5711`, checks: []check{
		{agentMetrics, daemonSet, env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "5711 5711"},
		{agentMetrics, "Service/spiderpool-agent", "{.spec.ports[?(@.name=='metrics')].port}", "5711"},
		{"=6," + agentMetrics, daemonSet, env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "6 6"},
		{"=6," + agentMetrics, "Service/spiderpool-agent", "{.spec.ports[?(@.name=='metrics')].port}", "6"},
	}},
	{name: "spiderpoolAgent.prometheus.serviceMonitor.install", brief: `false`, checks: []check{
		{agentMetrics, "ServiceMonitor/spiderpool-agent", absent, ""},
		{"=true," + agentMetrics, "ServiceMonitor/spiderpool-agent", "{.apiVersion} {.spec}", `monitoring.coreos.com/v1 {"endpoints":[{"path":"/metrics","port":"metrics"}],"namespaceSelector":{"matchNames":["net"]},"selector":{"matchLabels":{"app.kubernetes.io/component":"spiderpool-agent","app.kubernetes.io/instance":"sp","app.kubernetes.io/name":"spiderpool"}}}`},
	}},
	{name: "spiderpoolAgent.prometheus.prometheusRule.install", brief: `false`, checks: []check{
		{agentMetrics, "PrometheusRule/spiderpool-agent", absent, ""},
		{"=true," + agentMetrics, "PrometheusRule/spiderpool-agent", "{.spec.groups[0].rules}", something},
	}},
	{name: "spiderpoolAgent.debug.logLevel", brief: `info`, checks: []check{
		{"", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "info"},
		{"=debug", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "debug"},
		{"=warn", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "warn"},
		{"=error", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "error"},
		{"=fatal", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "fatal"},
		{"=panic", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "panic"},
		{"=loud", refused, "", "at '/spiderpoolAgent/debug/logLevel': value must be one of 'debug', 'info', 'warn', 'error', 'fatal', 'panic'"},
	}},
	{name: "spiderpoolAgent.debug.gopsPort", brief: `5712`, checks: []check{
		{"", daemonSet, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "5712"},
		{"=0", daemonSet, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "0"},
	}},
	{name: "spiderpoolController.name", brief: `spiderpool-controller`, checks: []check{
		{"", deployment, "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "spiderpool-controller spiderpool-controller"},
		{"=x", "Deployment/x", "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "x x"},
		{"=x", "ServiceAccount/x", "{.kind}", "ServiceAccount"},
		{"=x", "Service/x", `{.spec.selector.app\.kubernetes\.io/component}`, "x"},
		{"=x", "ClusterRoleBinding/x", "{.roleRef.kind} {.roleRef.name} {.subjects[*].kind} {.subjects[*].name} {.subjects[*].namespace}", "ClusterRole x ServiceAccount x net"},
	}},
	{name: "spiderpoolController.replicas", brief: `1`, checks: []check{
		{"", deployment, "{.spec.replicas}", "1"},
		{"=2", deployment, "{.spec.replicas}", "2"},
	}},
	{name: "spiderpoolController.binName", brief: `spiderpool-controller`, checks: []check{
		{"", deployment, "{..command[0]}", "spiderpool-controller"},
		{"=/usr/bin/spiderpool-controller", deployment, "{..command[0]}", "/usr/bin/spiderpool-controller"},
	}},
	{name: "spiderpoolController.hostnetwork", brief: `true`, checks: []check{
		{"", deployment, "{.spec.template.spec.hostNetwork} {.spec.template.spec.dnsPolicy} {.spec.strategy.rollingUpdate}", `true ClusterFirstWithHostNet {"maxSurge":0,"maxUnavailable":1}`},
		{"=false", deployment, "{.spec.template.spec.hostNetwork} {.spec.template.spec.dnsPolicy} {.spec.strategy.rollingUpdate}", `  {"maxSurge":1,"maxUnavailable":0}`},
	}},
	{name: "spiderpoolController.image.registry", brief: `ghcr.io`, checks: []check{
		{"", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"=r", deployment, "{" + agent + ".image}", "r/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"=", deployment, "{" + agent + ".image}", "spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
	}},
	{name: "spiderpoolController.image.repository", brief: `spidernet-io/spiderpool/spiderpool-controller`, checks: []check{
		{"", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"=x/y", deployment, "{" + agent + ".image}", "ghcr.io/x/y:0.1.0"},
	}},
	{name: "spiderpoolController.image.pullPolicy", brief: `IfNotPresent`, checks: []check{
		{"", deployment, "{..imagePullPolicy}", "IfNotPresent"},
		{"=Never", deployment, "{..imagePullPolicy}", "Never"},
	}},
	{name: "spiderpoolController.image.digest", brief: `""`, checks: []check{
		{"", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"=" + digest + ",spiderpoolController.image.tag=v9", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller@" + digest},
	}},
	{name: "spiderpoolController.image.tag", brief: `""`, checks: []check{
		{"", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"=v9", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:v9"},
	}},
	{name: "spiderpoolController.image.imagePullSecrets", brief: `[]`, checks: []check{
		{"", deployment, "{.spec.template.spec.imagePullSecrets}", ""},
		{"[0].name=reg", deployment, "{.spec.template.spec.imagePullSecrets[*].name}", "reg"},
	}},
	{name: "spiderpoolController.serviceAccount.create", brief: `true`, checks: []check{
		{"", "ServiceAccount/spiderpool-controller", "{.kind}", "ServiceAccount"},
		{"=false", "ServiceAccount/spiderpool-controller", absent, ""},
		{"=false", deployment, "{.spec.template.spec.serviceAccountName}", "spiderpool-controller"},
	}},
	{name: "spiderpoolController.serviceAccount.annotations", brief: `{}`, checks: []check{
		{"", "ServiceAccount/spiderpool-controller", "{.metadata.annotations}", ""},
		{".a=b", "ServiceAccount/spiderpool-controller", "{.metadata.annotations}", `{"a":"b"}`},
	}},
	{name: "spiderpoolController.service.annotations", brief: `{}`, checks: []check{
		{"", "Service/spiderpool-controller", "{.metadata.annotations}", ""},
		{".a=b", "Service/spiderpool-controller", "{.metadata.annotations}", `{"a":"b"}`},
	}},
	{name: "spiderpoolController.service.type", brief: `ClusterIP`, checks: []check{
		{"", "Service/spiderpool-controller", "{.spec.type}", "ClusterIP"},
		{"=NodePort", "Service/spiderpool-controller", "{.spec.type}", "NodePort"},
	}},
	{name: "spiderpoolController.priorityClassName", brief: `system-node-critical`, checks: []check{
		{"", deployment, "{.spec.template.spec.priorityClassName}", "system-node-critical"},
		{"=high", deployment, "{.spec.template.spec.priorityClassName}", "high"},
	}},
	{name: "spiderpoolController.affinity", brief: `{}`, checks: []check{
		{"", deployment, "{..topologyKey}", "kubernetes.io/hostname"},
		{".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone", deployment, "{..topologyKey}", "zone"},
	}},
	{name: "spiderpoolController.extraArgs", brief: `[]`, checks: []check{
		{"", deployment, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml"},
		{"={--a,--b=c}", deployment, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --a --b=c"},
	}},
	{name: "spiderpoolController.extraEnv", brief: `[]`, checks: []check{
		{"", deployment, env("A"), ""},
		{"[0].name=A,spiderpoolController.extraEnv[0].value=b", deployment, env("A"), "b"},
	}},
	{name: "spiderpoolController.extraVolumes", brief: `[]`, checks: []check{
		{"", deployment, volume("v"), ""},
		{"[0].name=v,spiderpoolController.extraVolumes[0].hostPath.path=/v", deployment, volume("v"), "/v"},
	}},
	{name: "spiderpoolController.extraVolumeMounts", brief: `[]`, checks: []check{
		{"", deployment, "{" + agent + ".volumeMounts[?(@.mountPath=='/v')].name}", ""},
		{"[0].name=config-path,spiderpoolController.extraVolumeMounts[0].mountPath=/v", deployment, "{" + agent + ".volumeMounts[?(@.mountPath=='/v')].name}", "config-path"},
	}},
	{name: "spiderpoolController.podAnnotations", brief: `{}`, checks: []check{
		{"", deployment, "{.spec.template.metadata.annotations.a}", ""},
		{".a=b", deployment, "{.spec.template.metadata.annotations.a}", "b"},
	}},
	{name: "spiderpoolController.podLabels", brief: `{}`, checks: []check{
		{"", deployment, "{.spec.template.metadata.labels.a}", ""},
		{".a=b", deployment, "{.spec.template.metadata.labels.a}", "b"},
	}},
	{name: "spiderpoolController.securityContext", brief: `{}`, checks: []check{
		{"", deployment, "{" + agent + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"readOnlyRootFilesystem":true,"runAsNonRoot":true,"runAsUser":65532,"seccompProfile":{"type":"RuntimeDefault"}}`},
		{".runAsUser=1", deployment, "{..securityContext}", `{"runAsUser":1}`},
	}},
	{name: "spiderpoolController.resources.limits.cpu", brief: `500m`, checks: []check{
		{"", deployment, "{..resources.limits.cpu}", "500m"},
		{"=2", deployment, "{..resources.limits.cpu}", "2"},
	}},
	{name: "spiderpoolController.resources.limits.memory", brief: `1024Mi`, checks: []check{
		{"", deployment, "{..resources.limits.memory}", "1024Mi"},
		{"=1Gi", deployment, "{..resources.limits.memory}", "1Gi"},
	}},
	{name: "spiderpoolController.resources.requests.cpu", brief: `100m`, checks: []check{
		{"", deployment, "{..resources.requests.cpu}", "100m"},
		{"=1m", deployment, "{..resources.requests.cpu}", "1m"},
	}},
	{name: "spiderpoolController.resources.requests.memory", brief: `128Mi`, checks: []check{
		{"", deployment, "{..resources.requests.memory}", "128Mi"},
		{"=1Mi", deployment, "{..resources.requests.memory}", "1Mi"},
	}},
	{name: "spiderpoolController.podDisruptionBudget.enabled", brief: `false`, checks: []check{
		{"", "PodDisruptionBudget/spiderpool-controller", absent, ""},
		{"=true", "PodDisruptionBudget/spiderpool-controller", `{.spec.selector.matchLabels.app\.kubernetes\.io/component}`, "spiderpool-controller"},
	}},
	{name: "spiderpoolController.podDisruptionBudget.minAvailable", brief: `1`, checks: []check{
		{"spiderpoolController.podDisruptionBudget.enabled=true", "PodDisruptionBudget/spiderpool-controller", "{.spec.minAvailable}", "1"},
		{"=50%,spiderpoolController.podDisruptionBudget.enabled=true", "PodDisruptionBudget/spiderpool-controller", "{.spec.minAvailable}", "50%"},
	}},
	{name: "spiderpoolController.healthChecking.port", brief: `5720`, checks: []check{
		{"", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "5720 5720 health health health"},
		{"=6", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "6 6 health health health"},
		{"spiderpoolController.httpPort=7", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[?(@.name=='health')].containerPort} {" + agent + "..httpGet.port}", "7 7 health health health"},
	}},
	{name: "spiderpoolController.healthChecking.startupProbe.failureThreshold", brief: `30`, checks: []check{
		{"", deployment, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.httpGet.path}", "30 /v1/runtime/startup"},
		{"=9", deployment, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.httpGet.path}", "9 /v1/runtime/startup"},
	}},
	{name: "spiderpoolController.healthChecking.startupProbe.periodSeconds", brief: `2`, checks: []check{
		{"", deployment, "{" + agent + ".startupProbe.periodSeconds} {" + agent + ".startupProbe.httpGet.path}", "2 /v1/runtime/startup"},
		{"=9", deployment, "{" + agent + ".startupProbe.periodSeconds} {" + agent + ".startupProbe.httpGet.path}", "9 /v1/runtime/startup"},
	}},
	{name: "spiderpoolController.healthChecking.livenessProbe.failureThreshold", brief: `6`, checks: []check{
		{"", deployment, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.httpGet.path}", "6 /v1/runtime/liveness"},
		{"=9", deployment, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.httpGet.path}", "9 /v1/runtime/liveness"},
	}},
	{name: "spiderpoolController.healthChecking.livenessProbe.periodSeconds", brief: `10`, checks: []check{
		{"", deployment, "{" + agent + ".livenessProbe.periodSeconds} {" + agent + ".livenessProbe.httpGet.path}", "10 /v1/runtime/liveness"},
		{"=9", deployment, "{" + agent + ".livenessProbe.periodSeconds} {" + agent + ".livenessProbe.httpGet.path}", "9 /v1/runtime/liveness"},
	}},
	{name: "spiderpoolController.healthChecking.readinessProbe.failureThreshold", brief: `3`, checks: []check{
		{"", deployment, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.httpGet.path}", "3 /v1/runtime/readiness"},
		{"=9", deployment, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.httpGet.path}", "9 /v1/runtime/readiness"},
	}},
	{name: "spiderpoolController.healthChecking.readinessProbe.periodSeconds", brief: `10`, checks: []check{
		{"", deployment, "{" + agent + ".readinessProbe.periodSeconds} {" + agent + ".readinessProbe.httpGet.path}", "10 /v1/runtime/readiness"},
		{"=9", deployment, "{" + agent + ".readinessProbe.periodSeconds} {" + agent + ".readinessProbe.httpGet.path}", "9 /v1/runtime/readiness"},
	}},
	{name: "spiderpoolController.webhookPort", brief: `5722`, checks: []check{
		{"", deployment, env("SPIDERPOOL_WEBHOOK_PORT") + " {" + agent + ".ports[?(@.name=='webhook')].containerPort}", "5722 5722"},
		{"", "Service/spiderpool-controller", "{.spec.ports[0].port} {.spec.ports[0].targetPort}", "5722 webhook"},
		{"", webhook, "{.webhooks[0].clientConfig.service.port}", "5722"},
		{"=6", deployment, env("SPIDERPOOL_WEBHOOK_PORT") + " {" + agent + ".ports[?(@.name=='webhook')].containerPort}", "6 6"},
		{"=6", "Service/spiderpool-controller", "{.spec.ports[0].port}", "6"},
		{"=6", webhook, "{.webhooks[0].clientConfig.service.port}", "6"},
	}},
	{name: "spiderpoolController.cliPort", brief: `5723`, why: "nothing listens on it, and the notes say so to who sets it", checks: []check{
		{"=5723", notes, "", "spiderpoolController.cliPort: spiderpoolctl asks the Kubernetes API"},
	}},
	{name: "spiderpoolController.prometheus.enabled", brief: `false`, checks: []check{
		{"", deployment, env("SPIDERPOOL_ENABLED_METRIC") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "false "},
		{"=true", deployment, env("SPIDERPOOL_ENABLED_METRIC") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "true 5721"},
		{"=true", "Service/spiderpool-controller", "{.spec.ports[?(@.name=='metrics')].targetPort}", "metrics"},
	}},
	{name: "spiderpoolController.prometheus.port", brief: `5721`, checks: []check{
		{controllerMetrics, deployment, env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "5721 5721"},
		{controllerMetrics, "Service/spiderpool-controller", "{.spec.ports[?(@.name=='metrics')].port}", "5721"},
		{"=6," + controllerMetrics, deployment, env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + "{" + agent + ".ports[?(@.name=='metrics')].containerPort}", "6 6"},
		{"=6," + controllerMetrics, "Service/spiderpool-controller", "{.spec.ports[?(@.name=='metrics')].port}", "6"},
	}},
	{name: "spiderpoolController.prometheus.serviceMonitor.install", brief: `false`, checks: []check{
		{controllerMetrics, "ServiceMonitor/spiderpool-controller", absent, ""},
		{"=true," + controllerMetrics, "ServiceMonitor/spiderpool-controller", "{.apiVersion} {.spec}", `monitoring.coreos.com/v1 {"endpoints":[{"path":"/metrics","port":"metrics"}],"namespaceSelector":{"matchNames":["net"]},"selector":{"matchLabels":{"app.kubernetes.io/component":"spiderpool-controller","app.kubernetes.io/instance":"sp","app.kubernetes.io/name":"spiderpool"}}}`},
	}},
	{name: "spiderpoolController.prometheus.prometheusRule.install", brief: `false`, checks: []check{
		{controllerMetrics, "PrometheusRule/spiderpool-controller", absent, ""},
		{"=true," + controllerMetrics, "PrometheusRule/spiderpool-controller", "{.spec.groups[0].rules}", something},
	}},
	{name: "spiderpoolController.debug.logLevel", brief: `info`, checks: []check{
		{"", deployment, env("SPIDERPOOL_LOG_LEVEL"), "info"},
		{"=debug", deployment, env("SPIDERPOOL_LOG_LEVEL"), "debug"},
		{"=warn", deployment, env("SPIDERPOOL_LOG_LEVEL"), "warn"},
		{"=error", deployment, env("SPIDERPOOL_LOG_LEVEL"), "error"},
		{"=fatal", deployment, env("SPIDERPOOL_LOG_LEVEL"), "fatal"},
		{"=panic", deployment, env("SPIDERPOOL_LOG_LEVEL"), "panic"},
		{"=loud", refused, "", "at '/spiderpoolController/debug/logLevel': value must be one of 'debug', 'info', 'warn', 'error', 'fatal', 'panic'"},
	}},
	{name: "spiderpoolController.debug.gopsPort", brief: `5724`, checks: []check{
		{"", deployment, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "5724"},
		{"=0", deployment, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "0"},
	}},
	{name: "spiderpoolController.tls.method", brief: `provided`, why: "provided needs a certificate that no default can have; where it is written and none is given it means auto, as here", checks: []check{
		{"", deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "auto "},
		{"=provided", deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "auto "},
		{given, deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "provided " + secret},
		{given, deployment, "{" + agent + ".args[2:4]}", "--tls-server-cert=/etc/tls/tls.crt --tls-server-key=/etc/tls/tls.key"},
		{manager, deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "certmanager " + secret},
		{manager, webhook, `{.metadata.annotations.cert-manager\.io/inject-ca-from}`, "net/spiderpool-controller"},
		{"=self", refused, "", "at '/spiderpoolController/tls/method': value must be one of 'provided', 'certmanager', 'auto'"},
	}},
	{name: "spiderpoolController.tls.secretName", brief: `spiderpool-controller-server-certs`, checks: []check{
		{"", deployment, env("SPIDERPOOL_TLS_SECRET_NAME"), secret},
		{"=x", deployment, env("SPIDERPOOL_TLS_SECRET_NAME"), "x"},
		{"=x", "Role/spiderpool-controller", "{.rules[0].resourceNames}", `["x"]`},
		{"=x," + given, "Secret/x", "{.kind}", "Secret"},
		{"=x," + given, deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "provided x"},
		{"=x," + manager, certificate, "{.spec.secretName}", "x"},
		{"=x," + manager, deployment, env("SPIDERPOOL_TLS_METHOD") + " {.spec.template.spec.volumes[?(@.name=='tls')].secret.secretName}", "certmanager x"},
	}},
	{name: "spiderpoolController.tls.certmanager.certValidityDuration", brief: `365`, checks: []check{
		{manager, certificate, "{.spec.duration}", "8760h"},
		{"=2," + manager, certificate, "{.spec.duration}", "48h"},
	}},
	{name: "spiderpoolController.tls.certmanager.issuerName", brief: `""`, checks: []check{
		{manager, certificate, "{.spec.issuerRef.name}", "spiderpool-controller"},
		{manager, "Issuer/spiderpool-controller", "{.spec.ca.secretName}", "spiderpool-controller-ca"},
		{"=i," + manager, certificate, "{.spec.issuerRef.name}", "i"},
		{"=i," + manager, "Issuer/spiderpool-controller", absent, ""},
	}},
	{name: "spiderpoolController.tls.certmanager.extraDnsNames", brief: `[]`, checks: []check{
		{manager, certificate, "{.spec.dnsNames[4:]}", ""},
		{"={a,b}," + manager, certificate, "{.spec.dnsNames[4:]}", "a b"},
	}},
	{name: "spiderpoolController.tls.certmanager.extraIPAddresses", brief: `[]`, checks: []check{
		{manager, certificate, "{.spec.ipAddresses}", ""},
		{"={10.0.0.1}," + manager, certificate, "{.spec.ipAddresses}", `["10.0.0.1"]`},
	}},
	{name: "spiderpoolController.tls.provided.tlsCert", brief: `""`, checks: []check{
		{"", "Secret/" + secret, absent, ""},
		{given, "Secret/" + secret, `{.data.tls\.crt}`, "YQ=="},
		{"=YQ==,spiderpoolController.tls.method=provided", refused, "", "only tlsCert is set: set all three"},
	}},
	{name: "spiderpoolController.tls.provided.tlsKey", brief: `""`, checks: []check{
		{"", "Secret/" + secret, absent, ""},
		{given, "Secret/" + secret, `{.data.tls\.key}`, "Yg=="},
		{"=YQ==,spiderpoolController.tls.method=provided", refused, "", "only tlsKey is set: set all three"},
	}},
	{name: "spiderpoolController.tls.provided.tlsCa", brief: `""`, checks: []check{
		{"", "Secret/" + secret, absent, ""},
		{given, "Secret/" + secret, `{.data.ca\.crt}`, "Yw=="},
		{given, webhook, "{.webhooks[*].clientConfig.caBundle}", "Yw== Yw== Yw=="},
		{"=YQ==,spiderpoolController.tls.method=provided", refused, "", "only tlsCa is set: set all three"},
	}},
}

// TestRows: every value that is specified has its default and does what it says.
func TestRows(t *testing.T) {
	defaults := valuesOf(t, "spiderpool/values.yaml")
	var failed atomic.Int64
	t.Run("each", func(t *testing.T) {
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				t.Cleanup(func() {
					if t.Failed() {
						failed.Add(1)
					}
				})
				r.judge(t, defaults)
			})
		}
	})
	t.Logf("%d rows, %d failed", len(rows), failed.Load())
	if len(rows) != 116 {
		t.Errorf("%d rows, want 116", len(rows))
	}
}

func (r row) judge(t *testing.T, defaults map[string]any) {
	var want any
	if err := yaml.Unmarshal([]byte(r.brief), &want); err != nil {
		t.Fatal(err)
	}
	if got := valueAt(defaults, r.name); reflect.DeepEqual(got, want) != (r.why == "") {
		t.Errorf("the default is %v, specified is %v, and the reason is %q", got, want, r.why)
	}
	alternatives := 0
	for _, c := range r.checks {
		if c.set != "" && strings.ContainsAny(c.set[:1], "=.[") {
			c.set = r.name + c.set
		}
		if strings.Contains(c.set, r.name) {
			alternatives++
		}
		c.judge(t)
	}
	if alternatives == 0 {
		t.Error("no check sets it")
	}
}

func (c check) judge(t *testing.T) {
	t.Helper()
	got, err := template(t, "--set="+c.set)
	switch c.object {
	case refused:
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.set, err, c.want)
		}
		return
	case notes:
		if said := notesOf(t, c.set); !strings.Contains(said, c.want) {
			t.Errorf("%s: the notes say %q, want %q", c.set, said, c.want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range got.meant(c.object) {
		c.compare(t, got, name)
	}
}

// meant are the names of the objects that a check looks at.
func (o objects) meant(object string) []string {
	if object == each {
		return o.names()
	}
	return []string{object}
}

func (c check) compare(t *testing.T, got objects, object string) {
	t.Helper()
	if c.path == absent {
		if got[object] != nil {
			t.Errorf("%q renders %s", c.set, object)
		}
		return
	}
	text := got.at(t, object, c.path)
	if c.want == something && text != "" {
		return
	}
	if diff := cmp.Diff(c.want, text); diff != "" {
		t.Errorf("%q: %s %s (-want +got):\n%s", c.set, object, c.path, diff)
	}
}
