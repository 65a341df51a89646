package charts_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// choices are the settings of each part of the chart that is optional or has more than one form.
var choices = [][]string{
	{"", given, manager, manager + ",spiderpoolController.tls.certmanager.issuerName=i,spiderpoolController.tls.certmanager.extraIPAddresses={10.0.0.1}"},
	{"", agentMetrics, monitored("spiderpoolAgent"), monitored("spiderpoolAgent") + ",spiderpoolAgent.service.type=NodePort"},
	{"", controllerMetrics, monitored("spiderpoolController"), monitored("spiderpoolController") + ",spiderpoolController.service.type=LoadBalancer"},
	{"", "spiderpoolController.replicas=3,spiderpoolController.podDisruptionBudget.enabled=true", "spiderpoolController.replicas=0,spiderpoolController.podDisruptionBudget.enabled=true,spiderpoolController.podDisruptionBudget.minAvailable=50%"},
	{"", v4, v6, v4 + "," + v6 + ",clusterDefaultPool.ipv4SubnetName=s,clusterDefaultPool.ipv4IPRanges={172.20.0.10-172.20.0.20},clusterDefaultPool.ipv6Gateway=fd00::1"},
	{"", "feature.enableIPv4=false", "feature.enableIPv6=false"},
	{"", "grafanaDashboard.install=true"},
	{"", "spiderpoolController.hostnetwork=false"},
	{"", "spiderpoolAgent.serviceAccount.create=false,spiderpoolController.serviceAccount.create=false"},
	{"", "global.commonLabels.team=net,global.commonAnnotations.note=x"},
	{"", "spiderpoolAgent.name=a,spiderpoolController.name=c,global.nameOverride=n,global.configName=conf,spiderpoolController.tls.secretName=s"},
	{"", filled("spiderpoolAgent"), filled("spiderpoolController"), filled("spiderpoolAgent") + "," + filled("spiderpoolController") + ",spiderpoolAgent.multusClusterNetwork=net/macvlan"},
	{"", "spiderpoolController.enableValidatingResourcesDeletedWebhook=true", "feature.gc.enabled=false,ipam.fixedAddressKinds[0].apiVersion=apps.kruise.io/v1beta1,ipam.fixedAddressKinds[0].kind=StatefulSet"},
	{"", "spiderpoolAgent.priorityClassName=,spiderpoolController.priorityClassName=", "spiderpoolAgent.image.digest=" + digest + ",spiderpoolController.image.tag=v9"},
}

func monitored(component string) string {
	const prometheus = ".prometheus."
	return component + prometheus + "enabled=true," + component + prometheus + "serviceMonitor.install=true," + component + prometheus + "serviceMonitor.interval=30s," +
		component + prometheus + "serviceMonitor.labels.release=p," + component + prometheus + "prometheusRule.install=true"
}

// filled are the settings of what is empty by default.
func filled(component string) string {
	settings := []string{
		"image.imagePullSecrets[0].name=r", "serviceAccount.annotations.a=b", "service.annotations.a=b", "podAnnotations.a=b", "podLabels.a=b", "nodeSelector.rack=a",
		"extraArgs={--a}", "extraEnv[0].name=A", "extraEnv[0].value=b", "extraVolumes[0].name=v", "extraVolumes[0].hostPath.path=/v", "extraVolumeMounts[0].name=v",
		"extraVolumeMounts[0].mountPath=/v", "tolerations[0].key=a", "tolerations[0].operator=Exists", "securityContext.runAsUser=1",
		"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=rack",
		"affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
	}
	return component + "." + strings.Join(settings, ","+component+".")
}

// inPairs are settings of all choices, in which every two settings of different choices stand together once at least.
func inPairs(choices [][]string) (all []string) {
	type pair [4]int
	open := map[pair]bool{}
	for i, a := range choices {
		for j := range i {
			for x := range a {
				for y := range choices[j] {
					open[pair{j, y, i, x}] = true
				}
			}
		}
	}
	for len(open) > 0 {
		taken, settings := []int{}, []string{}
		for i, choice := range choices {
			best, most := 0, -1
			for x := range choice {
				gain := 0
				for j, y := range taken {
					if open[pair{j, y, i, x}] {
						gain += 1000
					}
				}
				for p := range open { // what is still open of it
					if p[0] == i && p[1] == x || p[2] == i && p[3] == x {
						gain++
					}
				}
				if gain > most {
					best, most = x, gain
				}
			}
			for j, y := range taken {
				delete(open, pair{j, y, i, best})
			}
			taken = append(taken, best)
			settings = append(settings, choice[best])
		}
		all = append(all, strings.Join(slices.DeleteFunc(settings, func(s string) bool { return s == "" }), ","))
	}
	return all
}

// TestServerAccepts: what is rendered of every two settings together, an API server takes that has the
// CustomResourceDefinitions of the Prometheus operator and of cert-manager.
func TestServerAccepts(t *testing.T) {
	t.Parallel()
	c := serverWithCRDs(t)
	sets, asked := inPairs(choices), map[string]bool{}
	for _, set := range sets {
		t.Run(set, func(t *testing.T) {
			got, err := template(t, "--set="+set)
			if err != nil {
				t.Fatal(err)
			}
			for name, o := range got {
				text, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				if asked[string(text)] {
					continue
				}
				asked[string(text)] = true
				if err := c.Create(t.Context(), o.DeepCopy(), client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	t.Logf("%d settings, %d objects", len(sets), len(asked))
}

// serverWithCRDs is a client of a server of its own: what TestLife installs would be there already.
func serverWithCRDs(t *testing.T) client.Client {
	t.Helper()
	log.SetLogger(logr.Discard())
	s, err := apiserver.Start(t.Context(), apiserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	operator, err := parts.Module(t.Context(), "prometheusoperator", "github.com/prometheus-operator/prometheus-operator")
	manager, err2 := parts.Module(t.Context(), "certissuer", "github.com/cert-manager/cert-manager")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	monitoring := filepath.Join(operator, "example", "prometheus-operator-crd", "monitoring.coreos.com_")
	if _, err := envtest.InstallCRDs(s.Config(), envtest.CRDInstallOptions{
		Paths: []string{monitoring + "servicemonitors.yaml", monitoring + "prometheusrules.yaml", filepath.Join(manager, "deploy", "crds")}, ErrorIfPathMissing: true,
	}); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(s.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "net"}}); err != nil {
		t.Fatal(err)
	}
	return c
}
