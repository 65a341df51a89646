// Package imports holds the project to its plan: which package may import which.
package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/spidernet-io/spiderpool/"

// plan is the table of docs/design.md: a package may import those behind it,
// and nothing else of ours. Commands wire rooms together and may import all.
var plan = map[string][]string{
	"api/v2beta1":               {},
	"internal/addr":             {},
	"internal/wire":             {},
	"internal/probe":            {},
	"internal/coalesce":         {},
	"internal/logging":          {},
	"internal/ports":            {"internal/logging"},
	"internal/apiclient":        {"api/v2beta1"},
	"internal/pool":             {"internal/addr", "api/v2beta1"},
	"internal/fixed":            {"api/v2beta1"},
	"internal/ledger":           {"internal/apiclient", "internal/addr", "api/v2beta1"},
	"internal/buildinfo":        {},
	"internal/cni":              {"internal/buildinfo", "internal/wire"},
	"internal/config":           {"internal/fixed", "internal/pool", "internal/addr"},
	"internal/facts":            {"internal/apiclient", "internal/coalesce", "internal/fixed", "internal/pool", "internal/addr", "api/v2beta1"},
	"internal/agent/timing":     {},
	"internal/agent/metrics":    {},
	"internal/agent/lease":      {"internal/agent/metrics", "internal/agent/timing", "internal/fixed", "internal/ledger", "internal/pool", "internal/probe", "internal/wire", "internal/addr", "api/v2beta1"},
	"internal/agent/allocation": {"internal/agent/lease", "internal/agent/line", "internal/agent/metrics", "internal/agent/timing", "internal/agent/usage", "internal/apiclient", "internal/coalesce", "internal/facts", "internal/fixed", "internal/ledger", "internal/pool", "internal/probe", "internal/wire", "internal/addr", "api/v2beta1"},
	"internal/agent/line":       {"internal/agent/lease"},
	"internal/agent/usage":      {"internal/agent/timing", "internal/addr"},
	"internal/agent/publish":    {"internal/facts", "internal/fixed", "api/v2beta1"},
	"internal/agent":            {"internal/agent/allocation", "internal/agent/lease", "internal/agent/metrics", "internal/agent/publish", "internal/agent/timing", "internal/coalesce", "internal/facts", "internal/fixed", "internal/ledger", "internal/pool", "internal/probe", "internal/wire", "internal/addr", "api/v2beta1"},
	"internal/autopool":         {"internal/pool", "internal/addr", "api/v2beta1"},
	"internal/certs":            {},
	"internal/admission":        {"internal/ledger", "internal/pool", "internal/addr", "api/v2beta1"},
	"internal/controller":       {"internal/autopool", "internal/ledger", "internal/facts", "internal/fixed", "internal/pool", "internal/config", "internal/addr", "api/v2beta1"},
	"internal/ctl":              {"internal/ledger", "internal/facts", "internal/fixed", "internal/pool", "internal/wire", "internal/config", "internal/addr", "api/v2beta1"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if top, _, _ := strings.Cut(name, "/"); top != "api" && top != "internal" {
			continue
		}
		seen++
		may, planned := plan[name]
		if !planned {
			t.Errorf("%s is not in the plan: give it a line here and in docs/design.md", name)
		}
		for _, i := range p.Imports {
			if ours, ok := strings.CutPrefix(i, module); ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s, which is not below it", name, ours)
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d packages looked at", seen)
	}
}
