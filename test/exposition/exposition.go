// Package exposition compares the metrics that programs expose with those of docs/metrics.md. Rules and dashboard of the chart
// are compared with that page too, so they name nothing that there is not.
package exposition

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Metric is one of Spiderpool's own.
type Metric struct {
	Name string
	// Type is counter, gauge or histogram.
	Type string
	// Labels are sorted.
	Labels []string
}

// String is the metric in a line.
func (m Metric) String() string { return m.Name + " " + m.Type + " " + strings.Join(m.Labels, ",") }

var row = regexp.MustCompile("(?m)^\\| `(spiderpool_[a-z0-9_]+)` \\| ([a-z]+) \\| ([a-z0-9_`, ]*) ?\\| .+\\|$")

// Documented are the rows below a heading of docs/metrics.md.
func Documented(t testing.TB, heading string) (out []Metric) {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	page, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, cells := range row.FindAllStringSubmatch(section, -1) {
		labels := strings.FieldsFunc(cells[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		slices.Sort(labels)
		out = append(out, Metric{cells[1], cells[2], labels})
	}
	if len(out) == 0 {
		t.Fatalf("docs/metrics.md has no rows below %q", heading)
	}
	return out
}

// Exposed are Spiderpool's own metrics that have a series.
func Exposed(t testing.TB, by prometheus.Gatherer) (out []Metric) {
	t.Helper()
	families, err := by.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "spiderpool_") {
			continue // of the Go runtime, the process and libraries
		}
		m := Metric{Name: f.GetName(), Type: strings.ToLower(f.GetType().String())}
		for _, l := range f.Metric[0].Label {
			m.Labels = append(m.Labels, l.GetName())
		}
		slices.Sort(m.Labels)
		out = append(out, m)
	}
	return out
}

// Compare fails the test if what is exposed is not what docs/metrics.md has below a heading. Every metric must have a series.
func Compare(t testing.TB, heading string, exposed prometheus.Gatherer) {
	t.Helper()
	got, want := Exposed(t, exposed), Documented(t, heading)
	for _, m := range Without(got, want) {
		t.Errorf("docs/metrics.md has no %q below %q", m, heading)
	}
	for _, m := range Without(want, got) {
		t.Errorf("docs/metrics.md has %q below %q, and it is not exposed", m, heading)
	}
}

// Without are those of all that are not among the others.
func Without(all, others []Metric) []Metric {
	return slices.DeleteFunc(slices.Clone(all), func(m Metric) bool {
		return slices.ContainsFunc(others, func(o Metric) bool { return o.String() == m.String() })
	})
}
