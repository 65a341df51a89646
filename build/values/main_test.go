package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocument: docs/values.md is what the values say today, and each has a comment.
func TestDocument(t *testing.T) {
	want, err := document("../../charts/spiderpool/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/values.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/values.md is stale, run make generate (-want +got):\n%s", diff)
	}
}

func TestTable(t *testing.T) {
	for _, tt := range []struct{ name, values, want, err string }{
		{"values", "# Of all.\na:\n  # A number,\n  # say.\n  b: 1\n\n  # A | B.\n  c: []\n  # Below.\n  d:\n    # Text.\n    e: x\n", "" +
			"| `a.b` | `1` | A number, say. |\n| `a.c` | `[]` | A \\| B. |\n| `a.d` |  | Below. |\n| `a.d.e` | `\"x\"` | Text. |\n", ""},
		{"a map that is one value", "a:\n  # Labels.\n  b:\n    k8s.io/os: linux\n", "| `a.b` | `{\"k8s.io/os\":\"linux\"}` | Labels. |\n", ""},
		{"no comment", "a:\n  # One.\n  b: 1\n  c: 2\n", "", ":4: no comment above a.c: say there what it does"},
		{"no comment in a section", "a:\n  b:\n    # One.\n    c: 1\n    d: 2\n", "", ":5: no comment above a.b.d"},
		{"a section without any", "a:\n  b:\n    c: 1\n", "", ":2: no comment above a.b"},
		{"no values", "# Nothing.\n", "", "want a map of sections"},
		{"no YAML", "a: b: c", "", "mapping values are not allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(tt.values), 0o600); err != nil {
				t.Fatal(err)
			}
			page, err := document(file)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one that says %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, rows, _ := strings.Cut(page, "|---|---|---|\n")
			if diff := cmp.Diff(tt.want, rows); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
