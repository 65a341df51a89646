// Package charts_test renders the chart with the real helm and installs it in a real API server.
package charts_test

import (
	"bytes"
	"encoding/json"
	"errors"
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

// slots are as many as helms run at once, however many tests do.
var slots = make(chan struct{}, 2)

// helm runs helm with a home of its own.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := parts.Bin(t.Context(), os.Stderr, "helm")
	if err != nil {
		t.Fatal(err)
	}
	slots <- struct{}{}
	defer func() { <-slots }()
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

// rendered are the functions that render the chart, by arguments: each does once. Nobody changes what they return.
var rendered sync.Map

// template renders the chart as release "sp" in namespace "net". The error is what helm says, or tells what is wrong with an
// object.
func template(t *testing.T, args ...string) (objects, error) {
	t.Helper()
	once, _ := rendered.LoadOrStore(strings.Join(args, "\x00"), sync.OnceValues(func() (objects, error) {
		out, err := helm(t, append([]string{"template", "sp", "spiderpool", "--namespace=net"}, args...)...)
		if err != nil {
			return nil, err
		}
		return parse(out)
	}))
	return once.(func() (objects, error))()
}

// parse reads what helm has rendered.
func parse(out string) (objects, error) {
	all, errs := objects{}, []error(nil)
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(out, -1) {
		once, _ := documents.LoadOrStore(doc, sync.OnceValues(func() (*unstructured.Unstructured, error) { return parseDocument(doc) }))
		o, err := once.(func() (*unstructured.Unstructured, error))()
		errs = append(errs, err)
		if o == nil {
			continue
		}
		key := o.GetKind() + "/" + o.GetName()
		if all[key] != nil {
			errs = append(errs, fmt.Errorf("%s is rendered twice", key))
		}
		all[key] = o
	}
	return all, errors.Join(errs...)
}

// documents are the functions that parse a document, by its text: most are the same whatever the values.
var documents sync.Map

// parseDocument returns nil for one without content, and an error for one with a field that its kind does not have.
func parseDocument(doc string) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, doc)
	}
	if len(o.Object) == 0 {
		return nil, nil
	}
	if group := o.GroupVersionKind().Group; group == "monitoring.coreos.com" || group == "cert-manager.io" {
		return o, nil // their types are not among our modules; TestServerAccepts asks an API server that has them
	}
	if _, err := runtime.Decode(strict(), []byte(doc)); err != nil {
		return o, fmt.Errorf("%s/%s: %w", o.GetKind(), o.GetName(), err)
	}
	return o, nil
}

// strict knows the types of Kubernetes, and their fields.
var strict = sync.OnceValue(func() runtime.Decoder {
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
})

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
	if name == confYML {
		return o.inConfiguration(t, path)
	}
	if o[name] == nil {
		t.Fatalf("%s is not rendered, only %q", name, o.names())
	}
	return textAt(t, name, path, o[name].Object)
}

// inConfiguration is the text at a path in conf.yml.
func (o objects) inConfiguration(t *testing.T, path string) string {
	t.Helper()
	keys := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(o.at(t, configMap, `{.data.conf\.yml}`)), &keys); err != nil {
		t.Fatal(err)
	}
	return textAt(t, confYML, path, keys)
}

func textAt(t *testing.T, name, path string, object map[string]any) string {
	t.Helper()
	p := jsonpath.New(name).AllowMissingKeys(true)
	if err := p.Parse(path); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out strings.Builder
	if err := p.Execute(&out, object); err != nil {
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

	// firstValues are those that every release of the chart has had.
	firstValues = "testdata/first.yaml"

	fence         = "ValidatingAdmissionPolicy/spiderips.spiderpool.spidernet.io"
	endpointFence = "ValidatingAdmissionPolicy/spiderendpoints.spiderpool.spidernet.io"
)

func env(name string) string { return fmt.Sprintf(`{%s.env[?(@.name==%q)].value}`, agent, name) }

func volume(name string) string {
	return fmt.Sprintf(`{.spec.template.spec.volumes[?(@.name==%q)].hostPath.path}`, name)
}

// TestValues is what values do beyond what TestRows has.
func TestValues(t *testing.T) {
	const (
		c          = "spiderpoolController."
		installs   = "{" + install + ".args[*]}"
		quota      = "ResourceQuota/spiderpool-agent"
		monitor    = "ServiceMonitor/spiderpool-agent"
		tolerances = "{.spec.template.spec.tolerations}"
		nodes      = "{.spec.template.spec.nodeSelector}"
		monitors   = agentMetrics + ",spiderpoolAgent.prometheus.serviceMonitor.install=true,spiderpoolAgent.prometheus.serviceMonitor."
		service    = "{.webhooks[0].clientConfig.service.name} {.webhooks[0].clientConfig.service.namespace}"
	)
	collection := env("SPIDERPOOL_GC_IP_ENABLED") + " " + env("SPIDERPOOL_GC_DEFAULT_INTERVAL_DURATION") + " " + env("SPIDERPOOL_GC_DRY_RUN")
	for _, c := range []check{
		{"spiderpoolAgent.name=a", "FlowSchema/spiderpool-claims", "{.spec.rules[*].subjects}", `[{"kind":"ServiceAccount","serviceAccount":{"name":"a","namespace":"net"}}]`},
		{"spiderpoolAgent.name=a", fence, `{.spec.variables[?(@.name=="agent")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:a'"},
		{"spiderpoolAgent.name=a", endpointFence, `{.spec.matchConditions[?(@.name=="agent")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:a'"},
		{c + "name=c", fence, `{.spec.variables[?(@.name=="controller")].expression}`, "request.userInfo.username == 'system:serviceaccount:net:c'"},
		{c + "name=x", "FlowSchema/spiderpool-status", "{.spec.rules[*].subjects}", `[{"kind":"ServiceAccount","serviceAccount":{"name":"x","namespace":"net"}}]`},
		{c + "name=x", "RoleBinding/x", "{.metadata.namespace} {.roleRef.kind} {.roleRef.name} {.subjects[*].name}", "net Role x x"},
		{c + "name=x", "ValidatingWebhookConfiguration/x", service, "x net"},
		{c + "name=x", "Deployment/x", env("SPIDERPOOL_CONTROLLER_DEPLOYMENT_NAME"), "x"},

		// Labels: those by which objects are found win, then their own.
		{"global.commonLabels.a=b,spiderpoolAgent.podLabels.a=c", daemonSet, "{.metadata.labels.a} {.spec.template.metadata.labels.a}", "b c"},
		{`global.commonLabels.app\.kubernetes\.io/name=b`, daemonSet, `{.spec.template.metadata.labels.app\.kubernetes\.io/name}`, "spiderpool"},
		{`spiderpoolAgent.podLabels.app\.kubernetes\.io/component=b`, daemonSet, `{.spec.template.metadata.labels.app\.kubernetes\.io/component}`, "spiderpool-agent"},
		{"global.commonAnnotations.a=b,spiderpoolAgent.podAnnotations.a=c", daemonSet, "{.metadata.annotations.a} {.spec.template.metadata.annotations.a}", "b c"},
		{"global.commonAnnotations.a=b,spiderpoolAgent.serviceAccount.annotations.a=c", "ServiceAccount/spiderpool-agent", "{.metadata.annotations.a}", "c"},

		{"", quota, "{.spec}", `{"hard":{"pods":"1G"},"scopeSelector":{"matchExpressions":[{"operator":"In","scopeName":"PriorityClass","values":["system-node-critical"]}]}}`},
		{"spiderpoolAgent.priorityClassName=system-cluster-critical", quota, "{..values[*]}", "system-cluster-critical system-node-critical"},
		{"spiderpoolAgent.priorityClassName=mine", quota, "{..values[*]}", "system-node-critical"},
		{"", daemonSet, nodes, `{"kubernetes.io/os":"linux"}`},
		{"spiderpoolAgent.nodeSelector.rack=a", daemonSet, nodes, `{"kubernetes.io/os":"linux","rack":"a"}`},
		{"", daemonSet, tolerances, `[{"operator":"Exists"}]`},
		{"spiderpoolAgent.tolerations[0].key=a", daemonSet, tolerances, `[{"key":"a"}]`},
		{"spiderpoolAgent.tolerations=null", daemonSet, tolerances, ""},
		{"", deployment, nodes, `{"kubernetes.io/os":"linux"}`},
		{"", deployment, "{.spec.template.spec.tolerations[*].key}", "node.kubernetes.io/not-ready node-role.kubernetes.io/control-plane node.cloudprovider.kubernetes.io/uninitialized"},
		{c + "tolerations[0].key=a", deployment, tolerances, `[{"key":"a"}]`},
		{"global.ipamUNIXSocketHostPath=/run/sp/a.sock", daemonSet, installs, "install --from=/usr/bin/spiderpool --to=/host/opt/cni/bin --socket=/run/sp/a.sock"},
		{"", daemonSet, "{" + install + ".securityContext}", `{"allowPrivilegeEscalation":false,"capabilities":{"add":["DAC_OVERRIDE"],"drop":["ALL"]},"readOnlyRootFilesystem":true,"seLinuxOptions":{"level":"s0","type":"spc_t"},"seccompProfile":{"type":"RuntimeDefault"}}`},
		{"spiderpoolAgent.multusClusterNetwork=kube-system/macvlan", daemonSet, env("MULTUS_CLUSTER_NETWORK"), "kube-system/macvlan"},

		{monitors + "interval=30s," + monitors + "labels.release=p," + monitors + "annotations.a=b", monitor, "{.spec.endpoints[*].interval} {.metadata.labels.release} {.metadata.annotations.a}", "30s p b"},
		{controllerMetrics, "Service/spiderpool-controller", "{.spec.ports[*].port}", "5722 5721"},
		{controllerMetrics, deployment, env("SPIDERPOOL_ENABLED_DEBUG_METRIC"), "false"},
		{c + "prometheus.enabledDebugMetric=true", deployment, env("SPIDERPOOL_ENABLED_DEBUG_METRIC"), "true"},

		{"ipam.enableIPv6=false,ipam.enableStatefulSet=false", configMap, conf, "ipamUnixSocketPath: /var/run/spidernet/spiderpool.sock\nenableIPv4: true\nenableIPv6: false\nenableStatefulSet: false\nenableValidatingResourcesDeletedWebhook: false\n"},
		{"feature.enableIPv4=false,ipam.enableIPv4=true", confYML, "{.enableIPv4}", "true"},
		{"ipam.enableStatefulSet=null", confYML, "{.enableStatefulSet}", "true"},
		{"ipam.enableKubevirtStaticIP=false,ipam.enableIPConflictDetection=true,ipam.enableGatewayDetection=true", confYML, "{.enableKubevirtStaticIP} {.enableIPConflictDetection} {.enableGatewayDetection}", "false true true"},
		{"ipam.fixedAddressKinds=null", confYML, "{.fixedAddressKinds}", ""},
		{"ipam.spiderSubnet.autoPool.enable=false,ipam.spiderSubnet.autoPool.defaultRedundantIPNumber=0", confYML, "{.enableSpiderSubnet} {.enableAutoPoolForApplication} {.clusterSubnetDefaultFlexibleIPNumber}", " false 0"},
		{"ipam.spiderSubnet.enable=false", confYML, "{.enableSpiderSubnet}", "false"},
		{"", webhook, "{.webhooks[*].name}", "spidersubnet.spiderpool.spidernet.io spiderippool.spiderpool.spidernet.io spiderreservedip.spiderpool.spidernet.io"},
		{c + "enableValidatingResourcesDeletedWebhook=true", webhook, "{.webhooks[3].name}", "deletion.spidersubnet.spiderpool.spidernet.io"},
		{c + "enableValidatingResourcesDeletedWebhook=true", confYML, "{.enableValidatingResourcesDeletedWebhook}", "true"},

		{"", deployment, collection, "true 600 false"},
		{"feature.gc.dryRun=true", deployment, collection, "true 600 true"},
		{"ipam.gc.enabled=false,ipam.gc.dryRun=true,ipam.gc.gcAll.intervalInSecond=9", deployment, collection, "false 9 true"},
		{"ipam.gc.enabled=null,ipam.gc.gcAll=null,ipam.gc.statelessPod=null,feature.gc.enabled=false", deployment, collection, "false 600 false"},
		{"clusterDefaultPool.ipv4Gateway=172.20.0.1," + v4, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV4_IPPOOL_GATEWAY"), "172.20.0.1"},
		{"clusterDefaultPool.ipv6SubnetName=y," + v6, deployment, env("SPIDERPOOL_INIT_DEFAULT_IPV6_SUBNET_NAME"), "y"},

		{"", deployment, env("SPIDERPOOL_TLS_CA_DAYS") + " " + env("SPIDERPOOL_TLS_CERT_DAYS") + env("SPIDERPOOL_TLS_EXTRA_DNS_NAMES"), "3650 365"},
		{c + "tls.auto.caExpiration=9," + c + "tls.auto.certExpiration=3," + c + "tls.auto.extraDnsNames={a,b}", deployment, env("SPIDERPOOL_TLS_CA_DAYS") + " " + env("SPIDERPOOL_TLS_CERT_DAYS") + " " + env("SPIDERPOOL_TLS_EXTRA_DNS_NAMES"), "9 3 a,b"},
		{given, "Secret/" + secret, "{.data} {.type}", `{"ca.crt":"Yw==","tls.crt":"YQ==","tls.key":"Yg=="} kubernetes.io/tls`},
		{"", webhook, "{.webhooks[0].clientConfig.caBundle}", ""},
		// A key with nothing behind it is null.
		{c + "podAnnotations=null,spiderpoolAgent.podAnnotations=null," + manager + "," + c + "tls.certmanager.extraDnsNames=null", certificate, "{.spec.dnsNames[-1:]}", "spiderpool-controller"},
		{manager, certificate, "{.spec.dnsNames[0]}", "spiderpool-controller.net.svc"},
		{manager + "," + c + "name=x," + c + "tls.secretName=why,global.clusterDnsDomain=k", "Certificate/x", "{.spec.secretName} {.spec.issuerRef.name} {.spec.dnsNames}", `why x ["x.net.svc","x.net.svc.k","x.net","x"]`},
		// The Certificate fills the very Secret that the Deployment mounts.
		{manager + "," + c + "name=x", "Certificate/x", "{.spec.secretName}", secret},
		{manager + "," + c + "name=x", "Deployment/x", `{.spec.template.spec.volumes[?(@.name=="tls")].secret.secretName}`, secret},
		{manager + "," + c + "name=x," + c + "tls.secretName=kube-system-spiderpool-controller", "Certificate/x", "{.spec.secretName}", "kube-system-spiderpool-controller"},
		{manager + "," + c + "name=x", "Certificate/x-ca", "{.spec.secretName} {.spec.issuerRef.name}", "x-ca x-self-signed"},
		{manager, "Certificate/spiderpool-controller-ca", "{.spec.privateKey.rotationPolicy} {.spec.issuerRef.name}", "Never spiderpool-controller-self-signed"},
		{c + "tls.secretName=why", "Role/spiderpool-controller", "{.rules[0].resourceNames} {.rules[4].resourceNames}", `["why"] ["spiderpool-controller"]`},
	} {
		t.Run(c.set+" "+c.path, func(t *testing.T) {
			t.Parallel()
			c.judge(t)
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
	full, err := template(t, "--set="+everything)
	if err != nil {
		t.Fatal(err)
	}
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
		{"--values=" + firstValues, []string{account, quota}},
		{"--values=" + firstValues + " --values=testdata/newer.yaml", []string{account, quota}},
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
			for _, name := range tt.more {
				if full[name] == nil && name != "Secret/"+secret {
					t.Errorf("everything does not render %s", name)
				}
			}
			want := slices.Sorted(slices.Values(append(slices.Clone(always), tt.more...)))
			if diff := cmp.Diff(want, got.names()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestCRDsAreKept: with them would go every pool and address.
func TestCRDsAreKept(t *testing.T) {
	got, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range crds {
		if keep := got[name].GetAnnotations()["helm.sh/resource-policy"]; keep != "keep" {
			t.Errorf("%s: resource policy %q, want keep", name, keep)
		}
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
		{"spiderpoolAgent.prometheus.prometheusRule.label.a=b", "label"},
		{"grafanaDashboard.enabled=true", "enabled"},
		{"spiderpoolController.tls.provided.cert=a", "cert"},
		{"multus.enabled=true", "multus"},
		{"ipam.fixedAddressKinds[0].kind=A", "apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1", "kind"},
		{"ipam.fixedAddressKinds[0].apiVersion=v1,ipam.fixedAddressKinds[0].kind=Pod", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=apps/v1,ipam.fixedAddressKinds[0].kind=StatefulSet", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=batch/v1,ipam.fixedAddressKinds[0].kind=Job", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=kubevirt.io/v1,ipam.fixedAddressKinds[0].kind=VirtualMachine", "/ipam/fixedAddressKinds/0/apiVersion"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1,ipam.fixedAddressKinds[0].kind=A,ipam.fixedAddressKinds[0].resource=*", "/ipam/fixedAddressKinds/0/resource"},
		{"ipam.fixedAddressKinds[0].apiVersion=a.example/v1,ipam.fixedAddressKinds[0].kind=A,ipam.fixedAddressKinds[0].plural=as", "plural"},
		{"spiderpoolAgent.image.digest=sha256:ab", "at '/spiderpoolAgent/image/digest': 'sha256:ab' does not match pattern '^(sha256:[0-9a-f]{64})?$'"},
		{"spiderpoolAgent.image.tag=a b", "at '/spiderpoolAgent/image/tag': 'a b' does not match pattern"},
		{"spiderpoolAgent.image.repository=https://r/a", "at '/spiderpoolAgent/image/repository'"},
		{"spiderpoolAgent.image.pullPolicy=Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"},
		{"spiderpoolAgent.image.imagePullSecrets={reg}", "at '/spiderpoolAgent/image/imagePullSecrets/0': got string, want object"},
		{"spiderpoolController.webhookPort=65536", "at '/spiderpoolController/webhookPort': maximum: got 65,536, want 65,535"},
		{"spiderpoolController.httpPort=0", "at '/spiderpoolController/httpPort': minimum: got 0, want 1"},
		{"spiderpoolController.name=Controller", "at '/spiderpoolController/name': 'Controller' does not match pattern"},
		{"global.configName=-a", "at '/global/configName': '-a' does not match pattern"},
		{"global.ipamBinHostPath=opt/cni/bin", "at '/global/ipamBinHostPath': 'opt/cni/bin' does not match pattern"},
		{"global.ipamBinHostPath=/opt/../etc", "at '/global/ipamBinHostPath'"},
		{"global.cniBinHostPath=/opt/cni bin", "at '/global/cniBinHostPath'"},
		{"global.commonLabels.a=b c", "at '/global/commonLabels/a': 'b c' does not match pattern"},
		{"global.commonLabels.-a=b", "at '/global/commonLabels': additional properties '-a' not allowed"},
		{"global.commonLabels.a=1", "at '/global/commonLabels/a': got number, want"},
		{"spiderpoolAgent.resources.limits.memory=1GB", "at '/spiderpoolAgent/resources/limits/memory': '1GB' does not match pattern"},
		{"spiderpoolAgent.resources.limit.cpu=1", "'limit' not allowed"},
		{"spiderpoolAgent.affinity.nodeAfinity.a=b", "'nodeAfinity' not allowed"},
		{"spiderpoolAgent.tolerations[0].effect=NoRun", "at '/spiderpoolAgent/tolerations/0/effect': value must be one of"},
		{"spiderpoolAgent.extraEnv[0].name=A,spiderpoolAgent.extraEnv[0].value=1", "at '/spiderpoolAgent/extraEnv/0/value': got number, want string"},
		{"spiderpoolAgent.extraArgs={1}", "at '/spiderpoolAgent/extraArgs/0': got number, want string"},
		{"spiderpoolAgent.extraVolumes[0].hostPath.path=/v", "at '/spiderpoolAgent/extraVolumes/0': missing property 'name'"},
		{"spiderpoolAgent.extraVolumeMounts[0].name=v", "at '/spiderpoolAgent/extraVolumeMounts/0': missing property 'mountPath'"},
		{"spiderpoolAgent.multusClusterNetwork=a/b/c", "at '/spiderpoolAgent/multusClusterNetwork'"},
		{"spiderpoolAgent.prometheus.serviceMonitor.interval=often", "at '/spiderpoolAgent/prometheus/serviceMonitor/interval': 'often' does not match pattern"},
		{"spiderpoolController.podDisruptionBudget.minAvailable=110%", "at '/spiderpoolController/podDisruptionBudget/minAvailable'"},
		{"spiderpoolController.tls.provided.tlsCa=-----BEGIN", "at '/spiderpoolController/tls/provided/tlsCa': '-----BEGIN' does not match pattern"},
		{"clusterDefaultPool.ipv4Subnet=fd00::/64", "at '/clusterDefaultPool/ipv4Subnet': 'fd00::/64' does not match pattern"},
		{"clusterDefaultPool.ipv6IPRanges={fd00::/64}", "at '/clusterDefaultPool/ipv6IPRanges/0': 'fd00::/64' does not match pattern"},
		{"clusterDefaultPool.ipv4IPRanges=10.0.0.1-10.0.0.9", "at '/clusterDefaultPool/ipv4IPRanges': got string, want array"},
	} {
		t.Run(tt.set, func(t *testing.T) {
			t.Parallel()
			if _, err := template(t, "--set="+tt.set); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that names %s", err, tt.want)
			}
		})
	}
}

// TestMalformedValues spoils every value: each is named in the refusal.
func TestMalformedValues(t *testing.T) {
	ways := map[string]func(any) any{
		"another type": func(value any) any {
			if _, flag := value.(bool); flag {
				return "maybe"
			}
			return true
		},
		"another form": func(value any) any {
			switch value.(type) {
			case float64:
				return -1
			case string:
				return " \x01"
			case []any:
				return []any{7}
			case map[string]any:
				return map[string]any{" ": "a"}
			}
			return nil
		},
		"too much": func(value any) any {
			if _, number := value.(float64); number {
				return 1 << 40
			}
			return nil
		},
	}
	for _, file := range []string{"spiderpool/values.yaml", firstValues, "testdata/newer.yaml"} {
		values := valuesOf(t, file)
		delete(values, "spiderpoolInit")
		for way, spoil := range ways {
			t.Run(filepath.Base(file)+" "+way, func(t *testing.T) {
				t.Parallel()
				spoiled, paths := spoiled(values, "", spoil)
				data, err := yaml.Marshal(spoiled)
				if err != nil {
					t.Fatal(err)
				}
				bad := filepath.Join(t.TempDir(), "values.yaml")
				if err := os.WriteFile(bad, data, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err = template(t, "--values="+bad)
				for _, path := range paths {
					if err == nil || !regexp.MustCompile("at '"+path+"['/]").MatchString(err.Error()) {
						t.Errorf("the refusal does not name %s: %v", path, err)
					}
				}
			})
		}
	}
}

// spoiled are the values with each that has none below it spoiled, where that gives one, and their paths.
func spoiled(values map[string]any, at string, spoil func(any) any) (out map[string]any, paths []string) {
	out = map[string]any{}
	for key, value := range values {
		path := at + "/" + strings.ReplaceAll(key, "/", "~1") // RFC 6901
		section, _ := value.(map[string]any)
		switch bad := spoil(value); {
		case len(section) > 0:
			below, more := spoiled(section, path, spoil)
			out[key], paths = below, append(paths, more...)
		case bad != nil && (key != "securityContext" || bad == true): // what is in that one the API server judges
			out[key], paths = bad, append(paths, path)
		}
	}
	return out, paths
}

// TestSchemaIsTight: of every text, number, list and object the schema says what is allowed, or why it does not.
func TestSchemaIsTight(t *testing.T) {
	data, err := os.ReadFile("spiderpool/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	judgeSchema(t, "", schema)
}

func judgeSchema(t *testing.T, path string, node any) {
	t.Helper()
	schema, _ := node.(map[string]any)
	bounds := map[string][]string{
		"string": {"pattern"}, "integer": {"minimum", "maximum"}, "number": {"minimum", "maximum"}, "array": {"items"}, "object": {"additionalProperties"},
	}
	if _, explained := schema["$comment"]; !explained {
		for kind, wanted := range bounds {
			for _, bound := range wanted {
				if strings.Contains(fmt.Sprint(schema["type"]), kind) && schema[bound] == nil {
					t.Errorf("%s: a %s without %s", path, kind, bound)
				}
			}
		}
	}
	for key, below := range schema {
		judgeSchema(t, path+"/"+key, below)
	}
}

// nulled are the paths of the chart's values, as "/a/b", that null would take out of what the templates read, by their depth;
// and what may be null: texts, lists and maps that are empty, maps that are copied as they are, and what came later than the
// rest, for an upgrade with --reuse-values has not got it.
func nulled(path string, values, first map[string]any, needed map[int][]string, free *[]string) {
	for key, value := range values {
		at := path + "/" + key
		section, _ := value.(map[string]any)
		_, old := first[key]
		if !old || key == "resources" || slices.Contains([]string{"", "[]", "map[]"}, fmt.Sprint(value)) {
			*free = append(*free, at)
			continue
		}
		needed[strings.Count(at, "/")] = append(needed[strings.Count(at, "/")], at)
		below, _ := first[key].(map[string]any)
		nulled(at, section, below, needed, free)
	}
}

// valuesOf reads a file of values.
func valuesOf(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// valueAt is what is at a path with dots; nil if nothing is there.
func valueAt(values map[string]any, path string) any {
	key, rest, below := strings.Cut(path, ".")
	if !below {
		return values[key]
	}
	section, _ := values[key].(map[string]any)
	return valueAt(section, rest)
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
	needed, free := map[int][]string{}, []string{}
	nulled("", valuesOf(t, "spiderpool/values.yaml"), valuesOf(t, firstValues), needed, &free)
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
		}},
		{"spiderpoolInit.debug=true,feature.gc.enabled=true", []string{idle, "  spiderpoolInit: the controller makes the default pools"}},
		{"ipam.gc.enabled=true,ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs=true,ipam.enableCleanOutdatedEndpoint=true", []string{
			idle, "  ipam.enableCleanOutdatedEndpoint: a SpiderEndpoint goes with its pod",
			"  ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs: a pod that runs keeps its addresses, whatever its status says",
		}},
		{"global.clusterDnsDomain=x,spiderpoolAgent.prometheus.prometheusRule.install=true,spiderpoolAgent.prometheus.enabledDebugMetric=true", []string{
			idle, "  spiderpoolAgent.prometheus.enabledDebugMetric: the controller tells the numbers of single pools",
		}},
	} {
		t.Run(tt.set, func(t *testing.T) {
			_, rest, _ := strings.Cut(notesOf(t, tt.set), "takes their finalizers away.")
			got := strings.FieldsFunc(rest, func(r rune) bool { return r == '\n' })
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// notesOf is what helm says at the end of an installation.
func notesOf(t *testing.T, set string) string {
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

// TestNamesAreTexts: names that YAML would take for numbers, truth values or nothing.
func TestNamesAreTexts(t *testing.T) {
	const (
		agent, controller = "spiderpoolAgent.", "spiderpoolController."
		names             = agent + "name=null," + controller + "name=true,global.nameOverride=1,global.configName=1.5," + controller + "tls.secretName=1e3," +
			agent + "priorityClassName=0x1," + agent + "image.registry=," + agent + "image.repository=1," + agent + "image.tag=2"
	)
	for _, set := range []string{given, manager + "," + controller + "podDisruptionBudget.enabled=true," + agent + "prometheus.enabled=true," + agent + "prometheus.serviceMonitor.install=true"} {
		out, err := helm(t, "template", "1", "spiderpool", "--namespace=2", "--set-string="+names, "--set="+set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(out)
		if err != nil {
			t.Fatal(err)
		}
		if set == given {
			continue
		}
		for path, want := range map[string]string{"{.metadata.namespace}": "2", "{.spec.issuerRef.name}": "true", "{.spec.secretName}": "1e3", "{.spec.dnsNames}": `["true.2.svc","true.2.svc.cluster.local","true.2","true"]`} {
			if text := got.at(t, "Certificate/true", path); text != want {
				t.Errorf("%s of the Certificate: %q, want %q", path, text, want)
			}
		}
	}
}

// TestVersions: vendors have suffixes of their own.
func TestVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"v1.31.9": false, "v1.31.9-eks-abc": false, "v1.32.0": true, "v1.34.1-eks-abc": true, "v1.33.4-gke.1172000": true, "v1.32.3+k3s1": true, "v1.35.0-rc.1": true,
	} {
		if _, err := template(t, "--kube-version="+version); (err == nil) != want {
			t.Errorf("%s: %v, want it taken: %v", version, err, want)
		}
	}
}

func TestLint(t *testing.T) {
	for _, set := range []string{"", given, everything} {
		if out, err := helm(t, "lint", "--strict", "spiderpool", "--set="+set); err != nil || strings.Contains(out, "[WARNING]") {
			t.Errorf("%q: %v\n%s", set, err, out)
		}
	}
}
