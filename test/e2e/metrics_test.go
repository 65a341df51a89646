package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestPrometheus: a Prometheus that scrapes what the ServiceMonitors of the chart select finds all agents and controllers, and
// each pool once, though two controllers run. It evaluates the alerts of the chart without an error, and raises one.
func TestPrometheus(t *testing.T) {
	s := begin(t, 3)
	p := s.prometheus("node1")
	s.eventually(func() string {
		if up := p.up(); up != "spiderpool-agent 3, spiderpool-controller 2" {
			return "up are " + up
		}
		return ""
	})
	s.eventually(p.rulesHealthy)
	for query, want := range map[string]string{
		fmt.Sprintf(`sum(spiderpool_pool_total_ips{pool=%q})`, s.v4): "3",
		`sum(spiderpool_controller_leads)`:                           "1",
		`min(spiderpool_agent_ready)`:                                "1",
	} {
		s.eventually(func() string {
			if got := p.query(query); got != want {
				return fmt.Sprintf("%s is %q, want %s", query, got, want)
			}
			return ""
		})
	}
	d := s.deployment(1, func(d *appsv1.Deployment) {
		d.Spec.Template.Annotations = map[string]string{v2beta1.AnnotationSubnet: `{"ipv4":["none"]}`}
	})
	s.eventually(func() string { return p.raises("SpiderpoolAutomaticPoolsFailing") })
	s.remove(d)
}

// prometheus is one that runs on a node.
type prometheus struct {
	*scenario
	node string
	log  bytes.Buffer
}

// prometheus starts one in the network of a node, where it reaches what a pod would reach.
func (s *scenario) prometheus(node string) *prometheus {
	s.Helper()
	p, dir := &prometheus{scenario: s, node: node}, s.TempDir()
	config := map[string]any{"global": map[string]any{"scrape_interval": "2s", "evaluation_interval": "2s"}, "rule_files": []string{filepath.Join(dir, "rules-*.yaml")}}
	var jobs []any
	files := map[string][]byte{}
	for name, o := range s.chart() {
		switch kind, of, _ := strings.Cut(name, "/"); kind {
		case "ServiceMonitor":
			jobs = append(jobs, s.job(o))
		case "PrometheusRule":
			files["rules-"+of+".yaml"] = marshal(s, o["spec"])
		}
	}
	config["scrape_configs"] = jobs
	files["prometheus.yaml"] = marshal(s, config)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			s.Fatal(err)
		}
	}
	cmd := s.NodeCommand(s.Context(), node, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:9090")
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Wait() // it was killed at the end of the test's context
		if s.Failed() {
			s.Log(p.log.String())
		}
	})
	return p
}

// chart is what the chart renders for Prometheus, by "Kind/name".
func (s *scenario) chart() map[string]map[string]any {
	s.Helper()
	args := []string{"template", "spiderpool", filepath.Join("..", "..", "charts", "spiderpool"), "--namespace", "kube-system"}
	for _, program := range []string{"spiderpoolAgent", "spiderpoolController"} {
		for _, value := range []string{"enabled", "serviceMonitor.install", "prometheusRule.install"} {
			args = append(args, "--set", program+".prometheus."+value+"=true")
		}
	}
	text, err := s.Helm(s.Context(), args...)
	if err != nil {
		s.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(text, -1) {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
		}
		var all map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			s.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(doc), &all); err != nil {
			s.Fatal(err)
		}
		out[o.Kind+"/"+o.Metadata.Name] = all
	}
	return out
}

// job is the scrape configuration that the Prometheus operator makes of a ServiceMonitor. Debian's Prometheus does not know
// Kubernetes, so its targets are looked up here: the pods of the Services that are selected, at the port of the name.
func (s *scenario) job(object map[string]any) map[string]any {
	s.Helper()
	var monitor struct {
		NamespaceSelector struct{ MatchNames []string }
		Selector          struct{ MatchLabels map[string]string }
		Endpoints         []struct{ Port, Path string }
	}
	if err := yaml.UnmarshalStrict(marshal(s, object["spec"]), &monitor); err != nil {
		s.Fatal(err)
	}
	namespace, endpoint := client.InNamespace(monitor.NamespaceSelector.MatchNames[0]), monitor.Endpoints[0]
	var services corev1.ServiceList
	if err := s.List(s.Context(), &services, namespace, client.MatchingLabels(monitor.Selector.MatchLabels)); err != nil {
		s.Fatal(err)
	}
	targets := []any{}
	for _, service := range services.Items {
		var pods corev1.PodList
		if err := s.List(s.Context(), &pods, namespace, client.MatchingLabels(service.Spec.Selector)); err != nil {
			s.Fatal(err)
		}
		for _, p := range pods.Items {
			targets = append(targets, map[string]any{"targets": []string{portOf(service, p, endpoint.Port)},
				"labels": map[string]string{"namespace": service.Namespace, "service": service.Name, "job": service.Name, "pod": p.Name}})
		}
	}
	return map[string]any{"job_name": object["metadata"].(map[string]any)["name"], "metrics_path": endpoint.Path, "static_configs": targets}
}

// portOf is where a pod answers for a port of a Service, by its name; malformed if there is none.
func portOf(service corev1.Service, p corev1.Pod, name string) string {
	for _, port := range service.Spec.Ports {
		for _, c := range p.Spec.Containers {
			for _, of := range c.Ports {
				if port.Name == name && of.Name == port.TargetPort.StrVal {
					return net.JoinHostPort(p.Status.PodIP, fmt.Sprint(of.ContainerPort))
				}
			}
		}
	}
	return "no port " + name
}

func marshal(s *scenario, o any) []byte {
	s.Helper()
	out, err := yaml.Marshal(o)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// get reads what Prometheus answers, and returns why it does not.
func (p *prometheus) get(path string, data any) error {
	text, err := p.NodeCommand(p.Context(), p.node, "busybox", "wget", "-qO-", "http://127.0.0.1:9090/api/v1/"+path).Output()
	if err != nil {
		return fmt.Errorf("Prometheus does not answer: %w", err)
	}
	return json.Unmarshal(text, &struct{ Data any }{data})
}

// up tells how many targets of each job are up.
func (p *prometheus) up() string {
	var found struct {
		ActiveTargets []struct {
			Labels            map[string]string
			Health, LastError string
		}
	}
	if err := p.get("targets?state=active", &found); err != nil {
		return err.Error()
	}
	up := map[string]int{}
	for _, target := range found.ActiveTargets {
		if target.Health == "up" && target.Labels["pod"] != "" && target.Labels["namespace"] == "kube-system" {
			up[target.Labels["job"]]++
		}
	}
	var out []string
	for job, n := range up {
		out = append(out, fmt.Sprintf("%s %d", job, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// rulesHealthy is empty when every alert was evaluated without an error.
func (p *prometheus) rulesHealthy() string {
	var found struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("rules", &found); err != nil {
		return err.Error()
	}
	if len(found.Groups) != 2 {
		return fmt.Sprintf("%d groups of rules, want 2", len(found.Groups))
	}
	for _, g := range found.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" || r.LastError != "" {
				return fmt.Sprintf("%s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	return ""
}

// query is the value of an expression that has one, else how many it has.
func (p *prometheus) query(expr string) string {
	var found struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get("query?query="+url.QueryEscape(expr), &found); err != nil {
		return err.Error()
	}
	if len(found.Result) != 1 {
		return fmt.Sprintf("%d values", len(found.Result))
	}
	return fmt.Sprint(found.Result[0].Value[1])
}

// raises is empty when an alert is pending or fires, with a text that names a command.
func (p *prometheus) raises(alert string) string {
	var found struct {
		Alerts []struct {
			Labels, Annotations map[string]string
			State               string
		}
	}
	if err := p.get("alerts", &found); err != nil {
		return err.Error()
	}
	for _, a := range found.Alerts {
		if a.Labels["alertname"] == alert && strings.Contains(a.Annotations["description"], "kubectl ") {
			return ""
		}
	}
	return fmt.Sprintf("%s is not raised, only %+v", alert, found.Alerts)
}
