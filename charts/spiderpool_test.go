// Package charts_test renders the chart with the real helm and installs it in a real API server.
package charts_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// helm runs helm with a home of its own.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := parts.Bin(t.Context(), os.Stderr, "helm")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "helm"), args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, complaints.String())
	}
	return out.String(), nil
}

// rendered is what template has rendered, by arguments. Nobody changes it.
var rendered sync.Map

// template renders the chart as release "sp" in namespace "net".
func template(t *testing.T, args ...string) (objects, error) {
	t.Helper()
	asked := strings.Join(args, "\x00")
	if all, ok := rendered.Load(asked); ok {
		return all.(objects), nil
	}
	out, err := helm(t, append([]string{"template", "sp", "spiderpool", "--namespace=net"}, args...)...)
	if err != nil {
		return nil, err
	}
	all := objects{}
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(out, -1) {
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o.Object) == 0 {
			continue
		}
		key := o.GetKind() + "/" + o.GetName()
		if all[key] != nil {
			t.Errorf("%s is rendered twice", key)
		}
		all[key] = o
		parseStrictly(t, key, doc)
	}
	rendered.Store(asked, all)
	return all, nil
}

// parseStrictly fails a test when the document has a field that its kind does not have.
func parseStrictly(t *testing.T, key, doc string) {
	t.Helper()
	switch kind, _, _ := strings.Cut(key, "/"); kind {
	case "ServiceMonitor", "Issuer", "Certificate":
		return // their types are not among our modules; TestValues compares them
	}
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	if _, _, err := decoder.Decode([]byte(doc), nil, nil); err != nil {
		t.Errorf("%s: %v", key, err)
	}
}

// objects are what the chart renders, by "Kind/name".
type objects map[string]*unstructured.Unstructured

func (o objects) names() []string {
	var names []string
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// at is the text at a path in an object, "" if there is none.
func (o objects) at(t *testing.T, name, path string) string {
	t.Helper()
	if o[name] == nil {
		t.Fatalf("%s is not rendered, only %q", name, o.names())
	}
	p := jsonpath.New(name).AllowMissingKeys(true)
	if err := p.Parse(path); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out strings.Builder
	if err := p.Execute(&out, o[name].Object); err != nil {
		t.Fatalf("%s %s: %v", name, path, err)
	}
	return out.String()
}

const (
	daemonSet  = "DaemonSet/spiderpool-agent"
	deployment = "Deployment/spiderpool-controller"
	agent      = ".spec.template.spec.containers[0]"
	install    = ".spec.template.spec.initContainers[0]"
	configMap  = "ConfigMap/spiderpool-conf"
	conf       = `{.data.conf\.yml}`

	fence         = "ValidatingAdmissionPolicy/spiderips.spiderpool.spidernet.io"
	endpointFence = "ValidatingAdmissionPolicy/spiderendpoints.spiderpool.spidernet.io"
)

func env(name string) string { return fmt.Sprintf(`{%s.env[?(@.name==%q)].value}`, agent, name) }

func volume(name string) string {
	return fmt.Sprintf(`{.spec.template.spec.volumes[?(@.name==%q)].hostPath.path}`, name)
}

// TestValues is a row per value of the chart: what it does in what is rendered.
func TestValues(t *testing.T) {
	const metrics = "spiderpoolAgent.prometheus.enabled=true"
	for _, tt := range []struct {
		set          string // values as --set takes them, "" for the defaults
		object, path string
		want         string
	}{
		{"", daemonSet, "{..image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0 ghcr.io/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"global.imageRegistryOverride=r.example:5000", daemonSet, "{..image}", "r.example:5000/spidernet-io/spiderpool/spiderpool-agent:0.1.0 r.example:5000/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"", daemonSet, `{.spec.selector.matchLabels.app\.kubernetes\.io/name}`, "spiderpool"},
		{"global.nameOverride=ipam", daemonSet, `{.spec.selector.matchLabels.app\.kubernetes\.io/name} {.spec.template.metadata.labels.app\.kubernetes\.io/name}`, "ipam ipam"},
		{"", daemonSet, volume("cni-bin"), "/opt/cni/bin"},
		{"global.ipamBinHostPath=/usr/libexec/cni", daemonSet, volume("cni-bin"), "/usr/libexec/cni"},
		{"global.cniBinHostPath=/usr/libexec/cni", daemonSet, volume("cni-bin"), "/usr/libexec/cni"},
		{"global.ipamUNIXSocketHostPath=/run/sp/a.sock", daemonSet, volume("socket") + ` {` + agent + `.volumeMounts[?(@.name=="socket")].mountPath}`, "/run/sp /run/sp"},
		{"global.ipamUNIXSocketHostPath=/run/sp/a.sock", daemonSet, "{" + install + ".args[*]}", "install --from=/usr/bin/spiderpool --to=/host/opt/cni/bin --socket=/run/sp/a.sock"},
		{"global.ipamUNIXSocketHostPath=/run/sp/a.sock", configMap, conf, "ipamUnixSocketPath: /run/sp/a.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"global.configName=other", "ConfigMap/other", "{.metadata.name}", "other"},
		{"global.configName=other", daemonSet, `{.spec.template.spec.volumes[*].configMap.name}`, "other"},

		{"", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.enableIPv4=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: false\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.enableIPv6=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: false\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.enableStatefulSet=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: false\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"ipam.enableIPv4=false,ipam.enableIPv6=false,ipam.enableStatefulSet=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: false\nenableIPv6: false\nenableStatefulSet: false\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.enableIPv4=false,ipam.enableIPv4=true", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"ipam.enableStatefulSet=null,ipam.enableKubevirtStaticIP=false,ipam.enableIPConflictDetection=true,ipam.enableGatewayDetection=true", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableKubevirtStaticIP: false\nenableIPConflictDetection: true\nenableGatewayDetection: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"ipam.fixedAddressKinds=null", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.networkMode=legacy", daemonSet, "{.metadata.name}", "spiderpool-agent"},

		{"spiderpoolAgent.name=a", "DaemonSet/a", "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "a a"},
		{"spiderpoolAgent.name=a", "ServiceAccount/a", "{.metadata.name}", "a"},
		{"spiderpoolAgent.name=a", "ClusterRoleBinding/a", "{.roleRef.name} {.subjects[*].kind} {.subjects[*].name} {.subjects[*].namespace}", "a ServiceAccount a net"},
		{"spiderpoolAgent.name=a," + metrics, "Service/a", `{.spec.selector.app\.kubernetes\.io/component}`, "a"},
		{"", daemonSet, "{..command[0]}", "spiderpool-agent spiderpool-agent"},
		{"spiderpoolAgent.binName=/usr/bin/spiderpool-agent", daemonSet, "{..command[0]}", "/usr/bin/spiderpool-agent /usr/bin/spiderpool-agent"},
		{"spiderpoolAgent.image.registry=r", daemonSet, "{" + agent + ".image}", "r/spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"spiderpoolAgent.image.registry=", daemonSet, "{" + agent + ".image}", "spidernet-io/spiderpool/spiderpool-agent:0.1.0"},
		{"spiderpoolAgent.image.repository=x/agent", daemonSet, "{" + agent + ".image}", "ghcr.io/x/agent:0.1.0"},
		{"spiderpoolAgent.image.tag=v9", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent:v9"},
		{"spiderpoolAgent.image.tag=v9,spiderpoolAgent.image.digest=sha256:ab", daemonSet, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-agent@sha256:ab"},
		{"", daemonSet, "{..imagePullPolicy}", "IfNotPresent IfNotPresent"},
		{"spiderpoolAgent.image.pullPolicy=Never", daemonSet, "{..imagePullPolicy}", "Never Never"},
		{"", daemonSet, "{..imagePullSecrets}", ""},
		{"spiderpoolAgent.image.imagePullSecrets[0].name=reg", daemonSet, "{.spec.template.spec.imagePullSecrets[*].name}", "reg"},
		{"spiderpoolAgent.serviceAccount.annotations.a=b", "ServiceAccount/spiderpool-agent", "{.metadata.annotations.a}", "b"},
		{metrics + ",spiderpoolAgent.service.annotations.a=b", "Service/spiderpool-agent", "{.metadata.annotations.a}", "b"},
		{metrics, "Service/spiderpool-agent", "{.spec.type} {.spec.ports[*].port} {.spec.ports[*].targetPort}", "ClusterIP 5711 metrics"},
		{metrics + ",spiderpoolAgent.service.type=NodePort", "Service/spiderpool-agent", "{.spec.type}", "NodePort"},
		{"", daemonSet, "{.spec.template.spec.priorityClassName}", "system-node-critical"},
		{"spiderpoolAgent.priorityClassName=high", daemonSet, "{.spec.template.spec.priorityClassName}", "high"},
		{"", "ResourceQuota/spiderpool-agent", "{.spec}", `{"hard":{"pods":"1G"},"scopeSelector":{"matchExpressions":[{"operator":"In","scopeName":"PriorityClass","values":["system-node-critical"]}]}}`},
		{"spiderpoolAgent.priorityClassName=system-cluster-critical", "ResourceQuota/spiderpool-agent", "{..values[*]}", "system-cluster-critical system-node-critical"},
		{"spiderpoolAgent.priorityClassName=mine", "ResourceQuota/spiderpool-agent", "{..values[*]}", "system-node-critical"},
		{"", daemonSet, "{.spec.template.spec.nodeSelector}", `{"kubernetes.io/os":"linux"}`},
		{"spiderpoolAgent.nodeSelector.rack=a", daemonSet, "{.spec.template.spec.nodeSelector}", `{"kubernetes.io/os":"linux","rack":"a"}`},
		{"", daemonSet, "{.spec.template.spec.tolerations}", `[{"operator":"Exists"}]`},
		{"spiderpoolAgent.tolerations[0].key=a", daemonSet, "{.spec.template.spec.tolerations}", `[{"key":"a"}]`},
		{"spiderpoolAgent.tolerations=null", daemonSet, "{.spec.template.spec.tolerations}", ""},
		{"", daemonSet, "{.spec.template.spec.affinity}", ""},
		{"spiderpoolAgent.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone", daemonSet, "{..topologyKey}", "zone"},
		{"", daemonSet, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --cni-bin-dir=/host/opt/cni/bin"},
		{"spiderpoolAgent.extraArgs={--a,--b=c}", daemonSet, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --cni-bin-dir=/host/opt/cni/bin --a --b=c"},
		{"spiderpoolAgent.extraEnv[0].name=A,spiderpoolAgent.extraEnv[0].value=b", daemonSet, env("A"), "b"},
		{"spiderpoolAgent.extraVolumes[0].name=v,spiderpoolAgent.extraVolumes[0].hostPath.path=/v", daemonSet, volume("v"), "/v"},
		{"spiderpoolAgent.extraVolumeMounts[0].name=socket,spiderpoolAgent.extraVolumeMounts[0].mountPath=/v", daemonSet, "{" + agent + ".volumeMounts[-1:].mountPath}", "/v"},
		{"spiderpoolAgent.podAnnotations.a=b", daemonSet, "{.spec.template.metadata.annotations.a}", "b"},
		{"spiderpoolAgent.podLabels.a=b", daemonSet, "{.spec.template.metadata.labels.a}", "b"},
		{"", daemonSet, "{" + agent + ".resources}", `{"limits":{"cpu":"1000m","memory":"1024Mi"},"requests":{"cpu":"100m","memory":"128Mi"}}`},
		{"spiderpoolAgent.resources.limits.cpu=2,spiderpoolAgent.resources.limits.memory=1Gi,spiderpoolAgent.resources.requests.cpu=1m,spiderpoolAgent.resources.requests.memory=1Mi", daemonSet, "{" + agent + ".resources}", `{"limits":{"cpu":2,"memory":"1Gi"},"requests":{"cpu":"1m","memory":"1Mi"}}`},
		{"", daemonSet, "{" + agent + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"add":["DAC_OVERRIDE","SYS_ADMIN","NET_RAW","NET_ADMIN"],"drop":["ALL"]},"readOnlyRootFilesystem":true,"seLinuxOptions":{"level":"s0","type":"spc_t"},"seccompProfile":{"type":"RuntimeDefault"}}`},
		{"", daemonSet, "{" + install + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"add":["DAC_OVERRIDE"],"drop":["ALL"]},"readOnlyRootFilesystem":true,"seLinuxOptions":{"level":"s0","type":"spc_t"},"seccompProfile":{"type":"RuntimeDefault"}}`},
		{"spiderpoolAgent.securityContext.privileged=true", daemonSet, "{..securityContext}", `{"privileged":true} {"privileged":true}`},

		{"", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + ` {` + agent + `.ports[*].name} {` + agent + `.ports[*].containerPort}`, "5710 health 5710"},
		{"spiderpoolAgent.healthChecking.port=6", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + ` {` + agent + `.ports[*].containerPort}`, "6 6"},
		{"spiderpoolAgent.httpPort=7", daemonSet, env("SPIDERPOOL_HEALTH_PORT") + ` {` + agent + `.ports[*].containerPort}`, "7 7"},
		{"", daemonSet, "{" + agent + ".startupProbe}", `{"failureThreshold":60,"httpGet":{"path":"/v1/runtime/startup","port":"health"},"periodSeconds":2}`},
		{"", daemonSet, "{" + agent + ".livenessProbe}", `{"failureThreshold":6,"httpGet":{"path":"/v1/runtime/liveness","port":"health"},"periodSeconds":10}`},
		{"", daemonSet, "{" + agent + ".readinessProbe}", `{"failureThreshold":3,"httpGet":{"path":"/v1/runtime/readiness","port":"health"},"periodSeconds":10}`},
		{"spiderpoolAgent.healthChecking.startupProbe.failureThreshold=8,spiderpoolAgent.healthChecking.startupProbe.periodSeconds=9", daemonSet, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.periodSeconds}", "8 9"},
		{"spiderpoolAgent.healthChecking.livenessProbe.failureThreshold=8,spiderpoolAgent.healthChecking.livenessProbe.periodSeconds=9", daemonSet, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.periodSeconds}", "8 9"},
		{"spiderpoolAgent.healthChecking.readinessProbe.failureThreshold=8,spiderpoolAgent.healthChecking.readinessProbe.periodSeconds=9", daemonSet, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.periodSeconds}", "8 9"},
		{"", daemonSet, env("SPIDERPOOL_ENABLED_METRIC"), "false"},
		{metrics, daemonSet, env("SPIDERPOOL_ENABLED_METRIC") + " " + env("SPIDERPOOL_METRIC_HTTP_PORT") + ` {` + agent + `.ports[1].name} {` + agent + `.ports[1].containerPort}`, "true 5711 metrics 5711"},
		{metrics + ",spiderpoolAgent.prometheus.port=6", daemonSet, env("SPIDERPOOL_METRIC_HTTP_PORT") + ` {` + agent + `.ports[1].containerPort}`, "6 6"},
		{metrics + ",spiderpoolAgent.prometheus.port=6", "Service/spiderpool-agent", "{.spec.ports[*].port}", "6"},
		{metrics + ",spiderpoolAgent.prometheus.serviceMonitor.install=true", "ServiceMonitor/spiderpool-agent", "{.apiVersion} {.spec}", `monitoring.coreos.com/v1 {"endpoints":[{"path":"/metrics","port":"metrics"}],"namespaceSelector":{"matchNames":["net"]},"selector":{"matchLabels":{"app.kubernetes.io/component":"spiderpool-agent","app.kubernetes.io/instance":"sp","app.kubernetes.io/name":"spiderpool"}}}`},
		{"spiderpoolAgent.name=a", "FlowSchema/spiderpool-claims", "{.spec.rules[*].subjects}", `[{"kind":"ServiceAccount","serviceAccount":{"name":"a","namespace":"net"}}]`},
		{"spiderpoolAgent.name=a", fence, `{.spec.variables[?(@.name=="agent")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:a'"},
		{"spiderpoolAgent.name=a", endpointFence, `{.spec.matchConditions[?(@.name=="agent")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:a'"},
		{"spiderpoolController.name=c", fence, `{.spec.variables[?(@.name=="controller")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:c'"},
		{"", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "info"},
		{"spiderpoolAgent.debug.logLevel=debug", daemonSet, env("SPIDERPOOL_LOG_LEVEL"), "debug"},
		{"", daemonSet, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "5712"},
		{"spiderpoolAgent.debug.gopsPort=6", daemonSet, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "6"},
		{"spiderpoolAgent.debug.gopsPort=0", daemonSet, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "0"},
	} {
		t.Run(tt.set+" "+tt.path, func(t *testing.T) {
			got, err := template(t, "--set="+tt.set)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.at(t, tt.object, tt.path)); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", tt.object, tt.path, diff)
			}
		})
	}
}

// TestControllerValues is a row per value of the controller and of the default pools that it makes.
func TestControllerValues(t *testing.T) {
	const (
		c       = "spiderpoolController."
		metrics = c + "prometheus.enabled=true"
		manager = c + "tls.method=certmanager"
		given   = c + "tls.method=provided," + c + "tls.provided.tlsCert=YQ==," + c + "tls.provided.tlsKey=Yg==," + c + "tls.provided.tlsCa=Yw=="
		webhook = "ValidatingWebhookConfiguration/spiderpool-controller"
		secret  = "spiderpool-controller-server-certs"
	)
	var collection string
	for _, name := range []string{"IP_ENABLED", "STATELESS_TERMINATING_POD_ON_READY_NODE_ENABLED", "STATELESS_TERMINATING_POD_ON_NOT_READY_NODE_ENABLED",
		"ADDITIONAL_GRACE_DELAY", "EVICTED_POD_IP_ENABLED", "EVICTED_POD_IP_DELAY", "DEFAULT_INTERVAL_DURATION", "DRY_RUN"} {
		collection = strings.TrimPrefix(collection+" "+env("SPIDERPOOL_GC_"+name), " ")
	}
	for _, tt := range []struct{ set, object, path, want string }{
		{c + "name=x", "Deployment/x", "{.spec.template.spec.serviceAccountName} {" + agent + ".name}", "x x"},
		{c + "name=x", "Service/x", `{.spec.selector.app\.kubernetes\.io/component}`, "x"},
		{c + "name=x", "ServiceAccount/x", "{.metadata.name}", "x"},
		{c + "name=x", "FlowSchema/spiderpool-status", "{.spec.rules[*].subjects}", `[{"kind":"ServiceAccount","serviceAccount":{"name":"x","namespace":"net"}}]`},
		{c + "name=x", "ClusterRoleBinding/x", "{.roleRef.kind} {.roleRef.name} {.subjects[*].name} {.subjects[*].namespace}", "ClusterRole x x net"},
		{c + "name=x", "RoleBinding/x", "{.metadata.namespace} {.roleRef.kind} {.roleRef.name} {.subjects[*].name}", "net Role x x"},
		{c + "name=x", "ValidatingWebhookConfiguration/x", "{.webhooks[0].clientConfig.service.name} {.webhooks[0].clientConfig.service.namespace}", "x net"},
		{"", deployment, "{.spec.replicas}", "1"},
		{c + "replicas=2", deployment, "{.spec.replicas}", "2"},
		{c + "binName=/usr/bin/spiderpool-controller", deployment, "{" + agent + ".command}", `["/usr/bin/spiderpool-controller"]`},
		{"", deployment, "{.spec.template.spec.hostNetwork} {.spec.strategy.rollingUpdate}", `true {"maxSurge":0,"maxUnavailable":1}`},
		{c + "hostnetwork=false", deployment, "{.spec.template.spec.hostNetwork} {.spec.strategy.rollingUpdate}", ` {"maxSurge":1,"maxUnavailable":0}`},
		{"", deployment, "{" + agent + ".image}", "ghcr.io/spidernet-io/spiderpool/spiderpool-controller:0.1.0"},
		{"global.imageRegistryOverride=r," + c + "image.repository=x/c," + c + "image.tag=v9", deployment, "{" + agent + ".image}", "r/x/c:v9"},
		{c + "image.registry=q," + c + "image.digest=sha256:ab", deployment, "{" + agent + ".image}", "q/spidernet-io/spiderpool/spiderpool-controller@sha256:ab"},
		{c + "image.pullPolicy=Never", deployment, "{..imagePullPolicy}", "Never"},
		{c + "image.imagePullSecrets[0].name=reg", deployment, "{.spec.template.spec.imagePullSecrets[*].name}", "reg"},
		{c + "serviceAccount.annotations.a=b", "ServiceAccount/spiderpool-controller", "{.metadata.annotations.a}", "b"},
		{c + "service.annotations.a=b," + c + "service.type=NodePort", "Service/spiderpool-controller", "{.metadata.annotations.a} {.spec.type}", "b NodePort"},
		{"", "Service/spiderpool-controller", "{.spec.ports[*].port} {.spec.ports[*].targetPort}", "5722 webhook"},
		{c + "priorityClassName=high", deployment, "{.spec.template.spec.priorityClassName}", "high"},
		{"", deployment, "{..podAffinityTerm.topologyKey}", "kubernetes.io/hostname"},
		{c + "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone", deployment, "{..topologyKey}", "zone"},
		{"", deployment, "{.spec.template.spec.nodeSelector}", `{"kubernetes.io/os":"linux"}`},
		{"", deployment, "{.spec.template.spec.tolerations[*].key}", "node.kubernetes.io/not-ready node-role.kubernetes.io/control-plane node.cloudprovider.kubernetes.io/uninitialized"},
		{c + "tolerations[0].key=a", deployment, "{.spec.template.spec.tolerations}", `[{"key":"a"}]`},
		{"", deployment, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml"},
		{c + "extraArgs={--a,--b=c}", deployment, "{" + agent + ".args[*]}", "daemon --config-path=/tmp/spiderpool/config-map/conf.yml --a --b=c"},
		{c + "extraEnv[0].name=A," + c + "extraEnv[0].value=b", deployment, env("A"), "b"},
		{c + "extraVolumes[0].name=v," + c + "extraVolumes[0].hostPath.path=/v", deployment, volume("v"), "/v"},
		{c + "extraVolumeMounts[0].name=v," + c + "extraVolumeMounts[0].mountPath=/v", deployment, "{" + agent + ".volumeMounts[-1:].mountPath}", "/v"},
		{c + "podAnnotations.a=b," + c + "podLabels.c=d", deployment, "{.spec.template.metadata.annotations.a} {.spec.template.metadata.labels.c}", "b d"},
		// A key with nothing behind it is null.
		{c + "podAnnotations=null,spiderpoolAgent.podAnnotations=null," + manager + "," + c + "tls.certmanager.extraDnsNames=null", "Certificate/spiderpool-controller", "{.spec.dnsNames[-1:]}", "spiderpool-controller"},
		{"", deployment, "{" + agent + ".resources}", `{"limits":{"cpu":"500m","memory":"1024Mi"},"requests":{"cpu":"100m","memory":"128Mi"}}`},
		{c + "resources.limits.cpu=2," + c + "resources.requests.memory=1Mi", deployment, "{" + agent + ".resources.limits.cpu} {" + agent + ".resources.requests.memory}", "2 1Mi"},
		{"", deployment, "{" + agent + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"readOnlyRootFilesystem":true,"runAsNonRoot":true,"runAsUser":65532,"seccompProfile":{"type":"RuntimeDefault"}}`},
		{c + "securityContext.runAsUser=1", deployment, "{" + agent + ".securityContext}", `{"runAsUser":1}`},
		{c + "podDisruptionBudget.enabled=true", "PodDisruptionBudget/spiderpool-controller", "{.spec.minAvailable}", "1"},
		{c + "podDisruptionBudget.enabled=true," + c + "podDisruptionBudget.minAvailable=50%", "PodDisruptionBudget/spiderpool-controller", "{.spec.minAvailable}", "50%"},
		{"", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[*].containerPort}", "5720 5720 5722"},
		{c + "healthChecking.port=6", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[0].containerPort}", "6 6"},
		{c + "httpPort=7", deployment, env("SPIDERPOOL_HEALTH_PORT") + " {" + agent + ".ports[0].containerPort}", "7 7"},
		{"", deployment, "{" + agent + ".startupProbe}", `{"failureThreshold":30,"httpGet":{"path":"/v1/runtime/startup","port":"health"},"periodSeconds":2}`},
		{c + "healthChecking.startupProbe.failureThreshold=8," + c + "healthChecking.startupProbe.periodSeconds=9", deployment, "{" + agent + ".startupProbe.failureThreshold} {" + agent + ".startupProbe.periodSeconds}", "8 9"},
		{c + "healthChecking.livenessProbe.failureThreshold=8," + c + "healthChecking.livenessProbe.periodSeconds=9", deployment, "{" + agent + ".livenessProbe.failureThreshold} {" + agent + ".livenessProbe.periodSeconds}", "8 9"},
		{c + "healthChecking.readinessProbe.failureThreshold=8," + c + "healthChecking.readinessProbe.periodSeconds=9", deployment, "{" + agent + ".readinessProbe.failureThreshold} {" + agent + ".readinessProbe.periodSeconds}", "8 9"},
		{c + "webhookPort=6", deployment, env("SPIDERPOOL_WEBHOOK_PORT") + " {" + agent + ".ports[1].containerPort}", "6 6"},
		{c + "webhookPort=6", "Service/spiderpool-controller", "{.spec.ports[0].port}", "6"},
		{c + "webhookPort=6", webhook, "{.webhooks[0].clientConfig.service.port}", "6"},
		{"", webhook, "{.webhooks[*].name}", "spidersubnet.spiderpool.spidernet.io spiderippool.spiderpool.spidernet.io spiderreservedip.spiderpool.spidernet.io"},
		{c + "enableValidatingResourcesDeletedWebhook=true", webhook, "{.webhooks[3].name}", "deletion.spidersubnet.spiderpool.spidernet.io"},
		{c + "enableValidatingResourcesDeletedWebhook=true", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: true\n"},
		{"ipam.spiderSubnet.autoPool.enable=false,ipam.spiderSubnet.autoPool.defaultRedundantIPNumber=0", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\nenableAutoPoolForApplication: false\nclusterSubnetDefaultFlexibleIPNumber: 0\n"},
		{"ipam.spiderSubnet.enable=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: true\nenableStatefulSet: true\nenableValidatingResourcesDeletedWebhook: false\nenableSpiderSubnet: false\n"},
		{metrics, deployment, env("SPIDERPOOL_ENABLED_METRIC") + " " + env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + env("SPIDERPOOL_ENABLED_DEBUG_METRIC") + " {" + agent + ".ports[2].containerPort}", "true 5721 false 5721"},
		{metrics + "," + c + "prometheus.port=6," + c + "prometheus.enabledDebugMetric=true", deployment, env("SPIDERPOOL_METRIC_HTTP_PORT") + " " + env("SPIDERPOOL_ENABLED_DEBUG_METRIC"), "6 true"},
		{metrics, "Service/spiderpool-controller", "{.spec.ports[*].port}", "5722 5721"},
		{metrics + "," + c + "prometheus.serviceMonitor.install=true", "ServiceMonitor/spiderpool-controller", "{.spec.endpoints[*].port}", "metrics"},
		{c + "debug.logLevel=debug", deployment, env("SPIDERPOOL_LOG_LEVEL"), "debug"},
		{c + "debug.gopsPort=0", deployment, env("SPIDERPOOL_GOPS_LISTEN_PORT"), "0"},

		{"", deployment, env("SPIDERPOOL_TLS_METHOD") + " " + env("SPIDERPOOL_TLS_SECRET_NAME") + " " + env("SPIDERPOOL_TLS_CA_DAYS") + " " + env("SPIDERPOOL_TLS_CERT_DAYS"), "auto " + secret + " 3650 365"},
		{"", deployment, env("SPIDERPOOL_CLUSTER_DNS_DOMAIN") + env("SPIDERPOOL_TLS_EXTRA_DNS_NAMES"), "cluster.local"},
		{"global.clusterDnsDomain=k," + c + "tls.auto.extraDnsNames={a,b}", deployment, env("SPIDERPOOL_CLUSTER_DNS_DOMAIN") + " " + env("SPIDERPOOL_TLS_EXTRA_DNS_NAMES"), "k a,b"},
		{c + "tls.auto.caExpiration=9," + c + "tls.auto.certExpiration=3", deployment, env("SPIDERPOOL_TLS_CA_DAYS") + " " + env("SPIDERPOOL_TLS_CERT_DAYS"), "9 3"},
		{c + "name=x", "Deployment/x", env("SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME"), "x"},
		{c + "tls.method=provided", deployment, env("SPIDERPOOL_TLS_METHOD"), "auto"},
		{c + "tls.secretName=x", deployment, env("SPIDERPOOL_TLS_SECRET_NAME"), "x"},
		{given, deployment, env("SPIDERPOOL_TLS_METHOD") + " {" + agent + ".args[2:4]} {.spec.template.spec.volumes[?(@.name==\"tls\")].secret.secretName}", "provided --tls-server-cert=/etc/tls/tls.crt --tls-server-key=/etc/tls/tls.key " + secret},
		{given, "Secret/" + secret, "{.data} {.type}", `{"ca.crt":"Yw==","tls.crt":"YQ==","tls.key":"Yg=="} kubernetes.io/tls`},
		{given, webhook, "{.webhooks[0].clientConfig.caBundle}", "Yw=="},
		{"", webhook, "{.webhooks[0].clientConfig.caBundle}", ""},
		{manager, deployment, env("SPIDERPOOL_TLS_METHOD"), "certmanager"},
		{manager, webhook, `{.metadata.annotations.cert-manager\.io/inject-ca-from}`, "net/spiderpool-controller"},
		{manager, "Certificate/spiderpool-controller", "{.spec.secretName} {.spec.duration} {.spec.issuerRef.name} {.spec.dnsNames[0]}", secret + " 8760h spiderpool-controller spiderpool-controller.net.svc"},
		{manager + "," + c + "name=x," + c + "tls.secretName=why,global.clusterDnsDomain=k", "Certificate/x", "{.spec.secretName} {.spec.issuerRef.name} {.spec.dnsNames}", `why x ["x.net.svc","x.net.svc.k","x.net","x"]`},
		// The Certificate fills the very Secret that the Deployment mounts.
		{manager + "," + c + "name=x", "Certificate/x", "{.spec.secretName}", secret},
		{manager + "," + c + "name=x", "Deployment/x", `{.spec.template.spec.volumes[?(@.name=="tls")].secret.secretName}`, secret},
		{manager + "," + c + "name=x," + c + "tls.secretName=kube-system-spiderpool-controller", "Certificate/x", "{.spec.secretName}", "kube-system-spiderpool-controller"},
		{manager + "," + c + "name=x", "Certificate/x-ca", "{.spec.secretName} {.spec.issuerRef.name}", "x-ca x-self-signed"},
		{manager, "Issuer/spiderpool-controller", "{.spec.ca.secretName}", "spiderpool-controller-ca"},
		{manager, "Certificate/spiderpool-controller-ca", "{.spec.privateKey.rotationPolicy} {.spec.issuerRef.name}", "Never spiderpool-controller-self-signed"},
		{c + "tls.secretName=why", "Role/spiderpool-controller", "{.rules[0].resourceNames} {.rules[4].resourceNames}", `["why"] ["spiderpool-controller"]`},
		{manager + "," + c + "tls.certmanager.certValidityDuration=2," + c + "tls.certmanager.issuerName=i," + c + "tls.certmanager.extraDnsNames={a}," + c + "tls.certmanager.extraIPAddresses={10.0.0.1}",
			"Certificate/spiderpool-controller", "{.spec.duration} {.spec.issuerRef.name} {.spec.dnsNames[4]} {.spec.ipAddresses}", `48h i a ["10.0.0.1"]`},

		{"", deployment, collection, "true true true 0 true 0 600 false"},
		{"feature.gc.enabled=false,feature.gc.dryRun=true", deployment, collection, "false true true 0 true 0 600 true"},
		{"feature.gc.GcDeletingTimeOutPod.enabled=false,feature.gc.GcDeletingTimeOutPod.delay=1000000", deployment, collection, "true false false 1000000 true 0 600 false"},
		{"feature.gc.GcEvictedPodPod.enabled=false,feature.gc.GcEvictedPodPod.delay=7", deployment, collection, "true true true 0 false 7 600 false"},
		{"ipam.gc.enabled=false,ipam.gc.dryRun=true,ipam.gc.gcAll.intervalInSecond=9", deployment, collection, "false true true 0 true 0 9 true"},
		{"ipam.gc.statelessPod.zombieOnReadyNode=false", deployment, collection, "true false true 0 true 0 600 false"},
		{"feature.gc.GcDeletingTimeOutPod.enabled=false,ipam.gc.statelessPod.zombieOnReadyNode=true", deployment, collection, "true true false 0 true 0 600 false"},
		{"feature.gc.GcDeletingTimeOutPod.delay=5,ipam.gc.gcDeletingTimeOutPodDelay=0", deployment, collection, "true true true 0 true 0 600 false"},
		{"ipam.gc.enabled=null,ipam.gc.gcAll=null,ipam.gc.statelessPod=null,feature.gc.enabled=false", deployment, collection, "false true true 0 true 0 600 false"},

		{"", deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME") + env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME"), ""},
		{"clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.ipv4Subnet=172.20.0.0/16,clusterDefaultPool.ipv4IPRanges={172.20.0.10-172.20.0.200},clusterDefaultPool.ipv4Gateway=172.20.0.1", deployment,
			env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_NAME") + " " + env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_SUBNET") + " " + env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_IPRANGES") + " " + env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY"),
			`default-v4-ippool 172.20.0.0/16 ["172.20.0.10-172.20.0.200"] 172.20.0.1`},
		{"clusterDefaultPool.installIPv6IPPool=true,clusterDefaultPool.ipv6Subnet=fd00::/112,clusterDefaultPool.ipv6IPPoolName=x,clusterDefaultPool.ipv6SubnetName=y", deployment,
			env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_NAME") + " " + env("SPIDERPOOL_INIT_DEFAULT_IPV6_IPPOOL_SUBNET") + " " + env("SPIDERPOOL_INIT_DEFAULT_IPV6_SUBNET_NAME"), "x fd00::/112 y"},
	} {
		t.Run(tt.set+" "+tt.path, func(t *testing.T) {
			got, err := template(t, "--set="+tt.set)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.at(t, tt.object, tt.path)); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", tt.object, tt.path, diff)
			}
		})
	}
}

// TestAgentPod is what the agent needs of its node, whatever the values.
func TestAgentPod(t *testing.T) {
	got, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"{.spec.template.spec.hostNetwork}":                   "true",
		"{.spec.template.spec.enableServiceLinks}":            "false",
		"{" + install + ".args[*]}":                           "install --from=/usr/bin/spiderpool --to=/host/opt/cni/bin --socket=/var/run/spidernet/spiderpool.sock",
		"{" + install + ".volumeMounts}":                      `[{"mountPath":"/host/opt/cni/bin","name":"cni-bin"}]`,
		"{" + agent + ".env[*].valueFrom.fieldRef.fieldPath}": "spec.nodeName metadata.name metadata.namespace",
		"{" + agent + ".env[*].name}":                         "SPIDERPOOL_NODE_NAME SPIDERPOOL_POD_NAME SPIDERPOOL_POD_NAMESPACE SPIDERPOOL_LOG_LEVEL SPIDERPOOL_HEALTH_PORT SPIDERPOOL_ENABLED_METRIC SPIDERPOOL_METRIC_HTTP_PORT SPIDERPOOL_GOPS_LISTEN_PORT",
		"{" + agent + ".volumeMounts}": `[{"mountPath":"/tmp/spiderpool/config-map","name":"config-path","readOnly":true},{"mountPath":"/var/run/spidernet","name":"socket"},{"mountPath":"/tmp","name":"tmp"},{"mountPath":"/host/opt/cni/bin","name":"cni-bin"},` +
			`{"mountPath":"/run/netns","mountPropagation":"HostToContainer","name":"netns","readOnly":true},{"mountPath":"/var/run/netns","mountPropagation":"HostToContainer","name":"netns","readOnly":true}]`,
		volume("netns"): "/run/netns",
	} {
		if diff := cmp.Diff(want, got.at(t, daemonSet, path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// crds are the objects that are rendered whatever the values.
var crds = []string{
	"CustomResourceDefinition/spiderendpoints.spiderpool.spidernet.io",
	"CustomResourceDefinition/spiderippools.spiderpool.spidernet.io",
	"CustomResourceDefinition/spiderips.spiderpool.spidernet.io",
	"CustomResourceDefinition/spiderreservedips.spiderpool.spidernet.io",
	"CustomResourceDefinition/spidersubnets.spiderpool.spidernet.io",
}

func TestWhatIsRendered(t *testing.T) {
	always := append([]string{
		"ClusterRole/spiderpool-controller", "ClusterRoleBinding/spiderpool-controller", "Role/spiderpool-controller", "RoleBinding/spiderpool-controller",
		"FlowSchema/spiderpool-status", "PriorityLevelConfiguration/spiderpool-status",
		"Deployment/spiderpool-controller", "Service/spiderpool-controller", "ServiceAccount/spiderpool-controller",
		"MutatingWebhookConfiguration/spiderpool-controller", "ValidatingWebhookConfiguration/spiderpool-controller",
		"ClusterRole/spiderpool-agent", "ClusterRoleBinding/spiderpool-agent", "ConfigMap/spiderpool-conf", "DaemonSet/spiderpool-agent",
		"FlowSchema/spiderpool-claims", "PriorityLevelConfiguration/spiderpool-claims",
		"ValidatingAdmissionPolicy/spiderendpoints.spiderpool.spidernet.io", "ValidatingAdmissionPolicyBinding/spiderendpoints.spiderpool.spidernet.io",
		"ValidatingAdmissionPolicy/spiderips.spiderpool.spidernet.io", "ValidatingAdmissionPolicyBinding/spiderips.spiderpool.spidernet.io",
	}, crds...)
	const account, quota = "ServiceAccount/spiderpool-agent", "ResourceQuota/spiderpool-agent"
	const metrics, monitor = "Service/spiderpool-agent", "ServiceMonitor/spiderpool-agent"
	for _, tt := range []struct {
		args string
		more []string
	}{
		{"", []string{account, quota}},
		{"--namespace=kube-system", []string{account}},
		{"--set=spiderpoolAgent.priorityClassName=high,spiderpoolController.priorityClassName=high", []string{account}},
		{"--set=spiderpoolAgent.priorityClassName=,spiderpoolController.priorityClassName=", []string{account}},
		{"--set=spiderpoolAgent.serviceAccount.create=false", []string{quota}},
		{"--set=spiderpoolAgent.prometheus.enabled=true", []string{account, quota, metrics}},
		{"--set=spiderpoolAgent.prometheus.serviceMonitor.install=true", []string{account, quota}},
		{"--set=spiderpoolAgent.prometheus.enabled=true,spiderpoolAgent.prometheus.serviceMonitor.install=true", []string{account, quota, metrics, monitor}},
		{"--values=testdata/existing.yaml", []string{account, quota}},
		// As existing manuals install.
		{"--set=spiderpoolController.tls.method=provided,spiderpoolController.tls.provided.tlsCert=YQ==,spiderpoolController.tls.provided.tlsKey=YQ==,spiderpoolController.tls.provided.tlsCa=YQ==,feature.enableIPv4=true,feature.enableIPv6=true," +
			"clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.installIPv6IPPool=true,clusterDefaultPool.ipv4Subnet=172.20.0.0/16,clusterDefaultPool.ipv4IPRanges={172.20.0.10-172.20.0.200}," +
			"clusterDefaultPool.ipv6Subnet=fd00::/112,clusterDefaultPool.ipv6IPRanges={fd00::10-fd00::200}", []string{account, quota, "Secret/spiderpool-controller-server-certs"}},
		{"--set=spiderpoolController.tls.method=certmanager", []string{account, quota, "Certificate/spiderpool-controller", "Certificate/spiderpool-controller-ca", "Issuer/spiderpool-controller", "Issuer/spiderpool-controller-self-signed"}},
		{"--set=spiderpoolController.tls.method=certmanager,spiderpoolController.tls.certmanager.issuerName=i", []string{account, quota, "Certificate/spiderpool-controller"}},
		{"--set=spiderpoolController.podDisruptionBudget.enabled=true", []string{account, quota, "PodDisruptionBudget/spiderpool-controller"}},
		{"--set=ipam=null,global.cniBinHostPath=null,spiderpoolAgent.httpPort=null,spiderpoolAgent.nodeSelector=null", []string{account, quota}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got, err := template(t, strings.Fields(tt.args)...)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Sorted(slices.Values(append(slices.Clone(always), tt.more...)))
			if diff := cmp.Diff(want, got.names()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestCommonMetadata: the common labels and annotations are on every object, and in no selector.
func TestCommonMetadata(t *testing.T) {
	got, err := template(t, "--set=spiderpoolController.tls.method=certmanager,spiderpoolController.podDisruptionBudget.enabled=true,spiderpoolController.prometheus.enabled=true,spiderpoolController.prometheus.serviceMonitor.install=true,global.commonLabels.team=net,global.commonAnnotations.note=x,spiderpoolAgent.prometheus.enabled=true,spiderpoolAgent.prometheus.serviceMonitor.install=true,spiderpoolAgent.serviceAccount.annotations.note=own")
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range got {
		want := "x"
		if name == "ServiceAccount/spiderpool-agent" {
			want = "own"
		}
		if o.GetLabels()["team"] != "net" || o.GetAnnotations()["note"] != want {
			t.Errorf("%s: labels %v, annotations %v", name, o.GetLabels(), o.GetAnnotations())
		}
	}
	for _, name := range crds {
		if keep := got[name].GetAnnotations()["helm.sh/resource-policy"]; keep != "keep" {
			t.Errorf("%s: resource policy %q, want keep", name, keep)
		}
	}
	if selector := got.at(t, daemonSet, "{.spec.selector.matchLabels}"); strings.Contains(selector, "team") {
		t.Errorf("selector %s would change with the common labels", selector)
	}
	if labels := got.at(t, daemonSet, "{.spec.template.metadata.labels.team}"); labels != "net" {
		t.Errorf("pods have team=%q", labels)
	}
}

// TestConfigRollsAgents: there is no hot reload, so a changed configuration changes the pod template.
func TestConfigRollsAgents(t *testing.T) {
	checksum := func(set string) string {
		got, err := template(t, "--set="+set)
		if err != nil {
			t.Fatal(err)
		}
		return got.at(t, daemonSet, `{.spec.template.metadata.annotations.checksum/config}`)
	}
	was := checksum("")
	if same := checksum("spiderpoolAgent.debug.gopsPort=1"); was == "" || same != was {
		t.Errorf("checksum %q and %q of one configuration", was, same)
	}
	if changed := checksum("feature.enableIPv6=false"); changed == was {
		t.Errorf("the same checksum %q of two configurations", was)
	}
}

func TestRefusedValues(t *testing.T) {
	for _, tt := range []struct{ set, want string }{
		{"feature.enableIpv4=false", "enableIpv4"},
		{"ipam.enableStatefulset=false", "enableStatefulset"},
		{"feature.enableIPv4=maybe", "/feature/enableIPv4"},
		{"featur.enableIPv4=true", "featur"},
		{"global.ipamUnixSocketHostPath=/run/a.sock", "unknown value global.ipamUnixSocketHostPath"},
		{"global.ipamUNIXSocketHostPath=/opt/a.sock", "/global/ipamUNIXSocketHostPath"},
		{"feature.gc.GcEvictedPod.enabled=true", "GcEvictedPod"},
		{"ipam.gc.gcall.intervalInSecond=1", "gcall"},
		{"ipam.gc.gcAll.intervalInSecond=0", "/ipam/gc/gcAll/intervalInSecond"},
		{"feature.gc.GcEvictedPodPod.delay=-1", "/feature/gc/GcEvictedPodPod/delay"},
		{"clusterDefaultPool.ipv4Ranges={a}", "ipv4Ranges"},
		{"spiderpoolAgent.nodeSelectr.a=b", "nodeSelectr"},
		{"spiderpoolAgent.image.tags=v1", "tags"},
		{"spiderpoolAgent.healthChecking.livenessProbe.timeout=1", "timeout"},
		{"spiderpoolAgent.healthChecking.port=0", "/spiderpoolAgent/healthChecking/port"},
		{"spiderpoolAgent.debug.gopsPort=65536", "/spiderpoolAgent/debug/gopsPort"},
		{"spiderpoolAgent.prometheus.serviceMonitor.enabled=true", "enabled"},
		{"spiderpoolController.tls.provided.cert=a", "cert"},
		{"spiderpoolController.tls.method=provided,spiderpoolController.tls.provided.tlsCa=YQ==", "only tlsCa is set"},
		{"clusterDefaultPool.installIPv6IPPool=true", "clusterDefaultPool.ipv6Subnet is empty"},
		{"spiderpoolController.tls.method=self", "/spiderpoolController/tls/method"},
		{"multus.enabled=true", "multus"},
		{"ipam.fixedAddressKinds[0].kind=A", "apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1", "kind"},
		{"ipam.fixedAddressKinds[0].apiVersion=v1,ipam.fixedAddressKinds[0].kind=Pod", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=apps/v1,ipam.fixedAddressKinds[0].kind=StatefulSet", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=batch/v1,ipam.fixedAddressKinds[0].kind=Job", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=kubevirt.io/v1,ipam.fixedAddressKinds[0].kind=VirtualMachine", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1,ipam.fixedAddressKinds[0].kind=A,ipam.fixedAddressKinds[0].resource=*", "/ipam/fixedAddressKinds/0/resource"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1,ipam.fixedAddressKinds[0].kind=A,ipam.fixedAddressKinds[0].plural=as", "plural"},
		{"feature.networkMode=sdn", "/feature/networkMode"},
		{"spiderpoolAgent.debug.logLevel=loud", "/spiderpoolAgent/debug/logLevel"},
	} {
		t.Run(tt.set, func(t *testing.T) {
			if _, err := template(t, "--set="+tt.set); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s", err, tt.want)
			}
		})
	}
}

// nulled are the paths of the chart's values, as "/a/b", that null would take out of what the templates read, by their depth;
// and what may be null: texts, lists and maps that are empty, and those that are copied as they are.
func nulled(path string, values map[string]any, needed map[int][]string, free *[]string) {
	copied := []string{"/ipam", "/nodeSelector", "/tolerations", "/resources"}
	for key, value := range values {
		at := path + "/" + key
		section, _ := value.(map[string]any)
		if slices.ContainsFunc(copied, func(s string) bool { return strings.HasSuffix(at, s) }) || slices.Contains([]string{"", "[]", "map[]"}, fmt.Sprint(value)) {
			*free = append(*free, at)
			continue
		}
		needed[strings.Count(at, "/")] = append(needed[strings.Count(at, "/")], at)
		nulled(at, section, needed, free)
	}
}

// setNull are the arguments that set values to null.
func setNull(paths []string) (args []string) {
	for _, path := range paths {
		args = append(args, "--set="+strings.ReplaceAll(path[1:], "/", ".")+"=null")
	}
	return args
}

// TestNull: null, which is also what a key without anything below it means, takes a default away. A value that is needed is
// named in the refusal; one that is not is left out of what is rendered.
func TestNull(t *testing.T) {
	file, err := os.ReadFile("spiderpool/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values, needed, free := map[string]any{}, map[int][]string{}, []string{}
	if err := yaml.Unmarshal(file, &values); err != nil {
		t.Fatal(err)
	}
	nulled("", values, needed, &free)
	for depth, paths := range needed {
		t.Run(fmt.Sprint("depth ", depth), func(t *testing.T) {
			_, err := template(t, setNull(paths)...)
			for _, path := range paths {
				parent, key := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/")+1:]
				said := regexp.MustCompile("- at '" + parent + "': missing propert.*'" + key + "'")
				if err == nil || !said.MatchString(err.Error()) {
					t.Errorf("the refusal does not name %s: %v", path, err)
				}
			}
		})
	}
	if _, err := template(t, setNull(free)...); err != nil {
		t.Error(err)
	}
}

// TestChartOfCharts: as part of another chart this one shares "global" with others, and only that.
func TestChartOfCharts(t *testing.T) {
	parent := t.TempDir()
	if err := os.CopyFS(filepath.Join(parent, "charts", "spiderpool"), os.DirFS("spiderpool")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "Chart.yaml"), []byte("{apiVersion: v2, name: parent, version: 1.0.0}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := helm(t, "template", parent, "--set=global.others=x"); err != nil {
		t.Error(err)
	}
	if _, err := helm(t, "template", parent, "--set=spiderpool.others=x"); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("error %v, want one that names others", err)
	}
}

// TestNotes: what is known and not served is told, by name and without its value, and nothing else is.
func TestNotes(t *testing.T) {
	const (
		idle = "These values are known and have no effect in this version:"
	)
	for _, tt := range []struct {
		set  string
		want []string
	}{
		{"", nil},
		{"feature.enableStatefulSet=false", nil},
		{"ipam.enableStatefulSet=false,ipam.enableKubevirtStaticIP=false,ipam.enableIPConflictDetection=false,ipam.enableGatewayDetection=false", nil},
		{"ipam.enableKubevirtStaticIP=true", nil},
		{"ipam.enableIPConflictDetection=true,ipam.enableGatewayDetection=true", nil},
		{"spiderpoolController.replicas=2,spiderpoolController.tls.auto.certExpiration=9", nil},
		{"spiderpoolController.cliPort=1,spiderpoolController.cleanup.enable=true,spiderpoolController.prometheus.prometheusRule.install=true", []string{idle,
			"  spiderpoolController.cleanup: pools stay when this chart is removed: delete them before, see docs/controller.md",
			"  spiderpoolController.cliPort: spiderpoolctl asks the Kubernetes API",
			"  spiderpoolController.prometheus.prometheusRule: no alerts are brought yet",
		}},
		{"spiderpoolInit.debug=true,feature.gc.enabled=true", []string{idle, "  spiderpoolInit: the controller makes the default pools"}},
		{"ipam.gc.enabled=true,ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs=true,ipam.enableCleanOutdatedEndpoint=true", []string{
			idle, "  ipam.enableCleanOutdatedEndpoint: a SpiderEndpoint goes with its pod",
			"  ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs: a pod that runs keeps its addresses, whatever its status says",
		}},
		{"global.clusterDnsDomain=x,spiderpoolAgent.prometheus.prometheusRule.install=true,spiderpoolAgent.prometheus.enabledDebugMetric=true", []string{
			idle, "  spiderpoolAgent.prometheus.enabledDebugMetric: there are no metrics of single pools yet",
			"  spiderpoolAgent.prometheus.prometheusRule: no alerts are brought yet",
		}},
	} {
		t.Run(tt.set, func(t *testing.T) {
			_, rest, _ := strings.Cut(notes(t, tt.set), "takes their finalizers away.")
			got := strings.FieldsFunc(rest, func(r rune) bool { return r == '\n' })
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// notes is what helm says at the end of an installation.
func notes(t *testing.T, set string) string {
	t.Helper()
	out, err := helm(t, "install", "sp", "spiderpool", "--dry-run=client", "--set="+set)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rights are the verbs of a role, by "group/resource".
func rights(t *testing.T, role *unstructured.Unstructured) map[string]string {
	t.Helper()
	rules, _, err := unstructured.NestedSlice(role.Object, "rules")
	if err != nil {
		t.Fatal(err)
	}
	may := map[string]string{}
	for _, r := range rules {
		rule := r.(map[string]any)
		for _, resource := range rule["resources"].([]any) {
			may[fmt.Sprint(rule["apiGroups"].([]any)[0], "/", resource)] = strings.Trim(fmt.Sprint(rule["verbs"]), "[]")
		}
	}
	return may
}

func TestAgentRole(t *testing.T) {
	got, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/pods": "get list watch", "/namespaces": "get list watch", "/nodes": "get list watch", "/events": "create patch",
		"spiderpool.spidernet.io/spiderippools":     "get list watch",
		"spiderpool.spidernet.io/spiderreservedips": "get list watch",
		"spiderpool.spidernet.io/spiderips":         "get list create update delete",
		"spiderpool.spidernet.io/spiderendpoints":   "get list create update delete",
		"apps/replicasets":                          "get", "apps/deployments": "get", "apps/statefulsets": "get", "apps/daemonsets": "get",
		"batch/jobs": "get", "batch/cronjobs": "get",
		"kubevirt.io/virtualmachines": "get", "kubevirt.io/virtualmachineinstances": "get",
	}
	if diff := cmp.Diff(want, rights(t, got["ClusterRole/spiderpool-agent"])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestControllerRole: no more than it does.
func TestControllerRole(t *testing.T) {
	got, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	const ours, watched = "spiderpool.spidernet.io/", "get list watch"
	want := map[string]string{
		"/pods": "get list watch", "/nodes": "get list watch", "/events": "create patch",
		ours + "spiderippools": "get list watch create patch delete", ours + "spiderippools/status": "update", ours + "spidersubnets": "get list watch create patch",
		ours + "spidersubnets/status": "update",
		ours + "spiderreservedips":    "list watch patch", ours + "spiderips": "get list watch patch delete", ours + "spiderendpoints": "get list delete",
		"apps/deployments": watched, "apps/replicasets": watched, "apps/statefulsets": watched, "apps/daemonsets": watched, "batch/jobs": watched, "batch/cronjobs": watched,
		"kubevirt.io/virtualmachines": "get", "kubevirt.io/virtualmachineinstances": "get",
		"admissionregistration.k8s.io/mutatingwebhookconfigurations": "get list watch update", "admissionregistration.k8s.io/validatingwebhookconfigurations": "get list watch update",
	}
	if diff := cmp.Diff(want, rights(t, got["ClusterRole/spiderpool-controller"])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestFixedAddressKinds: agents and controller are told of the kinds, and may read them; nothing else changes for them.
func TestFixedAddressKinds(t *testing.T) {
	const k = "ipam.fixedAddressKinds"
	plain, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	got, err := template(t, "--set="+k+"[0].apiVersion=apps.kruise.io/v1beta1,"+k+"[0].kind=StatefulSet,"+k+"[1].apiVersion=db.example.com/v1,"+k+"[1].kind=Proxy,"+k+"[1].resource=proxies")
	if err != nil {
		t.Fatal(err)
	}
	want := []config.FixedAddressKind{
		{APIVersion: "apps.kruise.io/v1beta1", Kind: "StatefulSet", Resource: "statefulsets"}, {APIVersion: "db.example.com/v1", Kind: "Proxy", Resource: "proxies"},
	}
	if diff := cmp.Diff(want, agentConfig(t, got).FixedAddressKinds); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	for _, name := range []string{"ClusterRole/spiderpool-agent", "ClusterRole/spiderpool-controller"} {
		may := rights(t, plain[name])
		for _, always := range []string{"apps/statefulsets", "kubevirt.io/virtualmachines", "kubevirt.io/virtualmachineinstances"} {
			if !strings.HasPrefix(may[always], "get") {
				t.Errorf("%s: %q of %s", name, may[always], always)
			}
		}
		may["apps.kruise.io/statefulsets"], may["db.example.com/proxies"] = "get", "get"
		if diff := cmp.Diff(may, rights(t, got[name])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	role := "Role/spiderpool-controller"
	if diff := cmp.Diff(plain[role].Object["rules"], got[role].Object["rules"]); diff != "" {
		t.Errorf("%s (-want +got):\n%s", role, diff)
	}
}

func TestLint(t *testing.T) {
	if out, err := helm(t, "lint", "--strict", "spiderpool"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
