package charts_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
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
	var environ []string
	for _, v := range ds.Spec.Template.Spec.Containers[0].Env {
		if v.ValueFrom != nil {
			v.Value = v.ValueFrom.FieldRef.FieldPath // as the kubelet fills it in
		}
		environ = append(environ, v.Name+"="+v.Value)
	}
	env, err := config.AgentFromEnv(environ)
	if err != nil {
		t.Fatal(err)
	}
	want := []any{"spec.nodeName", "metadata.name", "metadata.namespace", 1, true, 2, 3, "DEBUG"}
	have := []any{env.NodeName, env.PodName, env.PodNamespace, env.HealthPort, env.EnabledMetric, env.MetricPort, env.GopsPort, env.LogLevel.String()}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// TestNotesWarnAsTheAgent: an installation and the agent's log name the same promises in the same words.
func TestNotesWarnAsTheAgent(t *testing.T) {
	const set = "ipam.enableStatefulSet=true,ipam.enableKubevirtStaticIP=true,ipam.enableIPConflictDetection=true,ipam.enableGatewayDetection=true"
	got, err := template(t, "--set="+set)
	if err != nil {
		t.Fatal(err)
	}
	lines, said := agentConfig(t, got).NotYet, notes(t, set)
	for _, line := range lines {
		if !strings.Contains(said, "\n  "+line+"\n") {
			t.Errorf("%q is not in the notes", line)
		}
	}
	if len(lines) != 4 {
		t.Errorf("the agent warns of %q", lines)
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
