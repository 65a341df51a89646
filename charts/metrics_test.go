package charts_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/scanner"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/test/exposition"
)

// promtool runs Prometheus's own checker.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// files are those that match, of which there must be some.
func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%d files %s, %v", len(found), pattern, err)
	}
	return found
}

// read reads a file of YAML or JSON.
func read(t *testing.T, file string, into any) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// ruleFile is a file of rules, as Prometheus reads it.
type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert,omitempty"`
	Record      string            `json:"record,omitempty"`
	Expr        string            `json:"expr"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// alerts are all that the chart has.
func alerts(t *testing.T) (all []rule) {
	t.Helper()
	for _, file := range files(t, "spiderpool/files/rules/*.yaml") {
		var content ruleFile
		read(t, file, &content)
		for _, g := range content.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

// TestAlerts: Prometheus understands the rules; each fires when it should, with the text that it should have, and else not, as
// the cases of testdata/rules say. Each has such cases, a severity, and a line in docs/metrics.md.
func TestAlerts(t *testing.T) {
	promtool(t, append([]string{"check", "rules"}, files(t, "spiderpool/files/rules/*.yaml")...)...)
	promtool(t, append([]string{"test", "rules"}, files(t, "testdata/rules/*_test.yaml")...)...)
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, file := range files(t, "testdata/rules/*_test.yaml") {
		var cases struct {
			Tests []struct {
				AlertRuleTest []struct {
					Alertname string `json:"alertname"`
					ExpAlerts []any  `json:"exp_alerts"`
				} `json:"alert_rule_test"`
			} `json:"tests"`
		}
		read(t, file, &cases)
		for _, c := range cases.Tests {
			for _, a := range c.AlertRuleTest {
				if len(a.ExpAlerts) > 0 {
					fires[a.Alertname] = true
				} else {
					silent[a.Alertname] = true
				}
			}
		}
	}
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts(t) {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s: a case fires: %t, one is silent: %t", a.Alert, fires[a.Alert], silent[a.Alert])
		}
		if !strings.Contains(string(page), "| `"+a.Alert+"` | "+a.Labels["severity"]+" |") {
			t.Errorf("%s, which is %s, is not among the alerts of docs/metrics.md", a.Alert, a.Labels["severity"])
		}
		if d := a.Annotations["description"]; !strings.Contains(d, "kubectl ") || !strings.Contains(d, "$value") && !strings.Contains(d, "5 minutes") {
			t.Errorf("%s describes neither number nor way out: %s", a.Alert, d)
		}
	}
}

// dashboard is what is looked at of the dashboard.
type dashboard struct {
	Panels []struct {
		Title      string     `json:"title"`
		Type       string     `json:"type"`
		Datasource datasource `json:"datasource"`
		Targets    []struct {
			Expr       string     `json:"expr"`
			Datasource datasource `json:"datasource"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name  string `json:"name"`
			Query any    `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

type datasource struct {
	UID string `json:"uid"`
}

// panels are the expressions of the dashboard by panel, as Grafana sends them to Prometheus.
func panels(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile("spiderpool/files/dashboard/spiderpool.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	filled := strings.NewReplacer("$__rate_interval", "5m", "$pool", ".*")
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			all[fmt.Sprintf("%s %d", p.Title, i)] = filled.Replace(target.Expr)
			if p.Datasource.UID != "${datasource}" || target.Datasource.UID != "${datasource}" {
				t.Errorf("%s asks the data source %v", p.Title, p.Datasource)
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
	}
	return all
}

// TestExpressions: Prometheus understands the expressions of the dashboard, and those of rules, dashboard and rule tests name
// only metrics and labels that agents and controllers expose. docs/metrics.md lists these, and tests of both hold it true.
func TestExpressions(t *testing.T) {
	expressions := panels(t)
	checked := ruleFile{}
	checked.Groups = append(checked.Groups, struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	}{Name: "dashboard"})
	for _, expr := range expressions {
		checked.Groups[0].Rules = append(checked.Groups[0].Rules, rule{Record: fmt.Sprintf("panel%d", len(checked.Groups[0].Rules)), Expr: expr})
	}
	content, err := yaml.Marshal(checked)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)

	for _, a := range alerts(t) {
		expressions[a.Alert] = a.Expr
	}
	for _, file := range files(t, "testdata/rules/*_test.yaml") {
		var cases struct {
			Tests []struct {
				InputSeries []struct {
					Series string `json:"series"`
				} `json:"input_series"`
			} `json:"tests"`
		}
		read(t, file, &cases)
		for _, c := range cases.Tests {
			for _, s := range c.InputSeries {
				expressions["series of "+file+": "+s.Series] = s.Series
			}
		}
	}
	metrics, labels := exposed(t)
	for where, expr := range expressions {
		named, by := names(expr)
		if len(named) == 0 {
			t.Errorf("%s: no metric was found in %s", where, expr)
		}
		for _, m := range named {
			if !metrics[m] {
				t.Errorf("%s: nobody exposes %s", where, m)
			}
		}
		for _, l := range by {
			if !labels[l] {
				t.Errorf("%s: no metric has a label %s", where, l)
			}
		}
	}
}

// exposed are the names of all series that a Prometheus has of Spiderpool, and of their labels.
func exposed(t *testing.T) (metrics, labels map[string]bool) {
	t.Helper()
	// Of Prometheus itself, of what the ServiceMonitors select, and of histograms.
	metrics, labels = map[string]bool{"up": true}, map[string]bool{"job": true, "namespace": true, "pod": true, "instance": true, "le": true}
	for _, heading := range []string{"Agent", "Leader of the controllers", "Every controller"} {
		for _, m := range exposition.Documented(t, heading) {
			metrics[m.Name] = m.Type != "histogram"
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				metrics[m.Name+suffix] = m.Type == "histogram"
			}
			for _, l := range m.Labels {
				labels[l] = true
			}
		}
	}
	return metrics, labels
}

// names are the metrics and labels in a PromQL expression that Prometheus accepts. An identifier is one of a label within braces
// and in the list of a grouping or matching, and else a word of the language, a function if a parenthesis follows, or a metric.
// So a name that this does not know to be something else is taken for a metric. The parser of Prometheus would bring more modules
// than all that the product needs.
func names(expr string) (metrics, labels []string) {
	var s scanner.Scanner
	s.Init(strings.NewReader(expr))
	s.Error = func(*scanner.Scanner, string) {}
	s.Mode = scanner.ScanIdents | scanner.ScanInts | scanner.ScanFloats | scanner.ScanStrings
	braces, brackets, lists, last := 0, 0, false, ""
	for tok := s.Scan(); tok != scanner.EOF; tok = s.Scan() {
		switch text := s.TokenText(); {
		case text == "{":
			braces++
		case text == "}":
			braces--
		case text == "[":
			brackets++
		case text == "]":
			brackets--
		case text == ")":
			lists = false
		case text == "(":
			lists = slices.Contains(grouping, last)
		case tok != scanner.Ident || brackets > 0: // there are durations between brackets
		case braces > 0 || lists:
			labels = append(labels, text)
		case s.Peek() != '(' && !slices.Contains(words, text) && !slices.Contains(grouping, text):
			metrics = append(metrics, text)
		}
		last = s.TokenText()
	}
	return metrics, labels
}

var (
	grouping = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	words    = []string{"and", "or", "unless", "bool", "offset", "sum", "min", "max", "avg", "count"}
)

// TestNames: names finds what is named, and takes nothing else for a name.
func TestNames(t *testing.T) {
	metrics, labels := names(`sum by (pool, reason) (rate(a_b{pool=~"x{y", job!="z"}[5m:1m])) / on (node) group_left (zone) max(c) > bool 1e3 and d offset 5 or deriv(e[3h])`)
	if diff := cmp.Diff([][]string{{"a_b", "c", "d", "e"}, {"pool", "reason", "pool", "job", "node", "zone"}}, [][]string{metrics, labels}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRulesAndDashboardAreRendered: with the names of the release, in the place and with the labels that the values say.
func TestRulesAndDashboardAreRendered(t *testing.T) {
	const rules = "spiderpoolAgent.prometheus.prometheusRule.install=true,spiderpoolController.prometheus.prometheusRule.install=true"
	for _, set := range []string{"", rules} {
		got, err := template(t, "--set="+set)
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(got.names(), " "); strings.Contains(all, "PrometheusRule") || strings.Contains(all, "dashboard") {
			t.Errorf("%q renders %s", set, all)
		}
	}
	got, err := template(t, "--set="+rules+",spiderpoolAgent.prometheus.enabled=true,spiderpoolController.prometheus.enabled=true,"+
		"spiderpoolAgent.name=a,spiderpoolController.name=c,spiderpoolAgent.prometheus.prometheusRule.labels.release=monitoring,spiderpoolController.prometheus.prometheusRule.annotations.note=own,"+
		"global.commonLabels.release=x,global.commonAnnotations.note=x,grafanaDashboard.install=true,grafanaDashboard.annotations.grafana_folder=Net")
	if err != nil {
		t.Fatal(err)
	}
	for object, want := range map[string]string{"PrometheusRule/a": "monitoring x", "PrometheusRule/c": "x own", "ConfigMap/spiderpool-dashboard": "x x"} {
		if labels := got.at(t, object, "{.metadata.namespace} {.metadata.labels.release} {.metadata.annotations.note}"); labels != "net "+want {
			t.Errorf("%s: %s, want net %s", object, labels, want)
		}
	}
	if labels := got.at(t, "ConfigMap/spiderpool-dashboard", "{.metadata.labels.grafana_dashboard} {.metadata.annotations.grafana_folder}"); labels != "1 Net" {
		t.Errorf("the dashboard has %s", labels)
	}
	shipped, err := os.ReadFile("spiderpool/files/dashboard/spiderpool.json")
	if text := got.at(t, "ConfigMap/spiderpool-dashboard", `{.data.spiderpool\.json}`); err != nil || strings.TrimSpace(text) != strings.TrimSpace(string(shipped)) {
		t.Errorf("the dashboard is not what is shipped, %v: %s", err, text)
	}
	for name, file := range map[string]string{"PrometheusRule/a": "agent", "PrometheusRule/c": "controller"} {
		compareRules(t, got[name], "spiderpool/files/rules/"+file+".yaml", strings.NewReplacer("kube-system", "net", "spiderpool-agent", "a", "spiderpool-controller", "c"))
	}
}

// compareRules fails the test if an object does not have the rules of a file, with other names.
func compareRules(t *testing.T, object *unstructured.Unstructured, file string, renamed *strings.Replacer) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := yaml.Unmarshal([]byte(renamed.Replace(string(content))), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, object.Object["spec"]); diff != "" {
		t.Errorf("%s (-want +got):\n%s", object.GetName(), diff)
	}
	text, err := yaml.Marshal(object.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	rendered := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rendered, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", rendered)
}
