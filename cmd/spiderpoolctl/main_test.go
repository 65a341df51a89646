package main

import (
	"strings"
	"testing"
)

// TestHelp: what is said to who asks, or asks wrongly.
func TestHelp(t *testing.T) {
	for _, tc := range []struct {
		args, says, err string
	}{
		{"--help", "spiderpoolctl explain pod shop/web-0 --interface net1", ""},
		{"explain pod --help", "Nothing is claimed.", ""},
		{"explain pod", "", "0 arguments: want one pod, as NAMESPACE/NAME"},
		{"explain pod web-0", "", `pod "web-0": want NAMESPACE/NAME`},
		{"nonsense", "", `unknown command "nonsense"`},
	} {
		root := rootCommand()
		var out strings.Builder
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(strings.Fields(tc.args))
		err := root.ExecuteContext(t.Context())
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.args, err, tc.err)
		}
		if !strings.Contains(out.String(), tc.says) || strings.Contains(out.String(), "completion") {
			t.Errorf("%s says:\n%s", tc.args, out.String())
		}
	}
}
