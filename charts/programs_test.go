package charts_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/spidernet-io/spiderpool/internal/config"
)

// TestAgentUnderstands: the agent itself reads what the chart writes for it, and refuses names that it does not know.
func TestAgentUnderstands(t *testing.T) {
	got, err := template(t, "--set=feature.enableIPv6=false,feature.enableStatefulSet=false,global.ipamUNIXSocketHostPath=/run/sp/a.sock,spiderpoolAgent.healthChecking.port=1,spiderpoolAgent.prometheus.enabled=true,spiderpoolAgent.prometheus.port=2,spiderpoolAgent.debug.gopsPort=3,spiderpoolAgent.debug.logLevel=debug")
	if err != nil {
		t.Fatal(err)
	}
	c := agentConfig(t, got)
	if diff := cmp.Diff([]any{"/run/sp/a.sock", true, false, false}, []any{c.IPAMUnixSocketPath, c.EnableIPv4, c.EnableIPv6, c.EnableStatefulSet}); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}

	var ds appsv1.DaemonSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got[daemonSet].Object, &ds); err != nil {
		t.Fatal(err)
	}
	env, err := config.AgentFromEnv(environ(ds.Spec.Template.Spec))
	if err != nil {
		t.Fatal(err)
	}
	want := []any{"spec.nodeName", "metadata.name", "metadata.namespace", 1, true, 2, 3, "DEBUG"}
	have := []any{env.NodeName, env.PodName, env.PodNamespace, env.HealthPort, env.EnabledMetric, env.MetricPort, env.GopsPort, env.LogLevel.String()}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// environ is what the kubelet gives the container of a pod.
func environ(pod corev1.PodSpec) (out []string) {
	for _, v := range pod.Containers[0].Env {
		if v.ValueFrom != nil {
			v.Value = v.ValueFrom.FieldRef.FieldPath // as the kubelet fills it in
		}
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

// TestControllerUnderstands: so does the controller.
func TestControllerUnderstands(t *testing.T) {
	got, err := template(t, "--set=spiderpoolController.name=c,spiderpoolController.healthChecking.port=1,spiderpoolController.webhookPort=2,spiderpoolController.prometheus.enabled=true,"+
		"spiderpoolController.prometheus.enabledDebugMetric=true,spiderpoolController.prometheus.port=3,spiderpoolController.debug.gopsPort=4,spiderpoolController.debug.logLevel=warn,"+
		"feature.gc.GcEvictedPodPod.delay=8,ipam.gc.statelessPod.zombieOnReadyNode=false,ipam.gc.gcDeletingTimeOutPodDelay=9,ipam.gc.dryRun=true,ipam.gc.gcAll.intervalInSecond=60,"+
		"spiderpoolController.tls.secretName=s,spiderpoolController.tls.auto.caExpiration=5,spiderpoolController.tls.auto.certExpiration=6,spiderpoolController.tls.auto.extraDnsNames={a,b},global.clusterDnsDomain=k,"+
		"clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.ipv4Subnet=172.20.0.0/16,clusterDefaultPool.ipv4IPRanges={172.20.0.10-172.20.0.20,172.20.0.30},clusterDefaultPool.ipv4Gateway=172.20.0.1")
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got["Deployment/c"].Object, &d); err != nil {
		t.Fatal(err)
	}
	have, err := config.ControllerFromEnv(environ(d.Spec.Template.Spec))
	if err != nil {
		t.Fatal(err)
	}
	ranges, err := have.DefaultPools[0].Ranges()
	if err != nil {
		t.Error(err)
	}
	day := 24 * time.Hour
	if diff := cmp.Diff([]any{"c", "metadata.name", "metadata.namespace", "spec.serviceAccountName", 1, 2, true, true, 3, 4, "WARN",
		config.TLS{Method: config.TLSAuto, SecretName: "s", ClusterDomain: "k", ExtraDNSNames: []string{"a", "b"}, CALife: 5 * day, CertLife: 6 * day},
		config.GC{Enabled: true, TerminatingOnNotReadyNode: true, Evicted: true, EvictedDelay: 8 * time.Second, GraceDelay: 9 * time.Second, Interval: time.Minute, DryRun: true},
		"default-v4-ippool", "172.20.0.0/16", "172.20.0.1", []string{"172.20.0.10-172.20.0.20", "172.20.0.30"}, false},
		[]any{have.Name, have.PodName, have.PodNamespace, have.ServiceAccount, have.HealthPort, have.WebhookPort, have.EnabledMetric, have.EnabledDebugMetric,
			have.MetricPort, have.GopsPort, have.LogLevel.String(), have.TLS, have.GC, have.DefaultPools[0].Name, have.DefaultPools[0].Subnet, have.DefaultPools[0].Gateway,
			ranges, have.DefaultPools[1].Wanted()}); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// agentConfig is what the agent reads in the chart's ConfigMap.
func agentConfig(t *testing.T, got objects) config.Config {
	t.Helper()
	c, err := config.Parse([]byte(got.at(t, configMap, conf)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
