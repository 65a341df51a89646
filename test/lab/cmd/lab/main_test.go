package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// TestExec: a command may stand behind "--", as docs/lab.md writes it, and keeps its own flags either way.
func TestExec(t *testing.T) {
	for _, tc := range []struct{ args, want []string }{
		{[]string{"node1", "--", "ip", "-4", "addr"}, []string{"ip", "-4", "addr"}},
		{[]string{"node1", "ip", "--name", "addr"}, []string{"ip", "--name", "addr"}},
		{[]string{"--name", "big", "node1", "--", "sh", "--", "-c"}, []string{"sh", "--", "-c"}},
		{[]string{"node1", "--"}, nil},
		{[]string{"node1"}, nil},
	} {
		root := command()
		exec, _, err := root.Find([]string{"exec"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		exec.RunE = func(_ *cobra.Command, args []string) (err error) {
			got, err = onNode(args)
			return err
		}
		root.SetArgs(append([]string{"exec"}, tc.args...))
		if err := root.Execute(); (err == nil) != (tc.want != nil) {
			t.Errorf("%q: %v", tc.args, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, diff)
		}
	}
}
