package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// built is the directory with the programs of this checkout.
var built string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/bench:", err)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctrllog.SetLogger(logr.Discard())
	var e environment
	defer func() { err = errors.Join(err, e.stop(context.Background())) }()
	if e.dir, err = os.MkdirTemp("", "spiderpool-bench-test-"); err != nil {
		return 1, err
	}
	e.later(func(context.Context) error { return os.RemoveAll(e.dir) })
	bins, err := e.build(context.Background(), os.Stderr)
	if err != nil {
		return 1, err
	}
	built = bins[0]
	return m.Run(), nil
}

// small are the same scenarios in their least size.
var small = []scenario{
	{name: storm, nodes: 2, pods: 5, inFlight: 5},
	{name: serial, nodes: 1, pods: 5, inFlight: 1},
	{name: exact, nodes: 2, pods: 5, inFlight: 5},
}

// nothingIsLeft makes a test fail if it leaves a process or a file.
func nothingIsLeft(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			sockets, _ := filepath.Glob(fmt.Sprintf("/run/spiderpool-bench-%d-*", os.Getpid()))
			if left = slices.Concat(children(t), files(t, dir), sockets); len(left) == 0 {
				return
			}
		}
		t.Errorf("there are left: %q", left)
	})
}

// children are the processes that this one started and that still run, by
// field 4 of /proc/PID/stat (proc_pid_stat(5)).
func children(t *testing.T) (out []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		text := string(data)
		if f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]); f[1] == strconv.Itoa(os.Getpid()) {
			out = append(out, text[:strings.LastIndexByte(text, ')')+1])
		}
	}
	return out
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestBench: our plugin and host-local, for real.
func TestBench(t *testing.T) {
	nothingIsLeft(t)
	r, err := bench(t.Context(), options{bins: []string{built}, scenarios: small, rounds: 2, patience: time.Minute, progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r.print(&out)
	if !r.ok() {
		t.Errorf("not all is well:\n%s", &out)
	}
	var rows []string
	for _, row := range r.rows {
		rows = append(rows, fmt.Sprintf("%s %s: %d in %d rounds", row.scenario, row.contestant.name(), row.adds, len(row.rates)))
	}
	want := []string{
		"storm " + built + ": 20 in 2 rounds", "storm host-local: 20 in 2 rounds",
		"serial " + built + ": 10 in 2 rounds", "serial host-local: 10 in 2 rounds",
		"exact " + built + ": 20 in 2 rounds",
	}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	for _, row := range r.rows {
		if row.contestant.name() == hostLocalName {
			continue
		}
		for _, key := range []string{"POST spiderips", "POST spiderendpoints"} {
			if row.requests[key] != float64(row.adds) {
				t.Errorf("%s: %v %s for %d ADDs", row.scenario, row.requests[key], key, row.adds)
			}
		}
		if n := row.requests["GET spiderippools"]; n < 1 || n > float64(row.adds) {
			t.Errorf("%s: %v reads of pools for %d ADDs of one family", row.scenario, n, row.adds)
		}
		if n, counted := row.requests["LIST spiderendpoints"]; counted {
			t.Errorf("%s: %v LISTs of endpoints: those of the bench itself count", row.scenario, n)
		}
	}
	if kib := r.products[0].kib; len(kib) != 2 || slices.Min(kib) < 1024 {
		t.Errorf("memory of two agents: %v KiB", kib)
	}
}

// programs makes a directory with the real agent and a plugin of the test's
// own, a shell script.
func programs(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(built, "spiderpool-agent"), filepath.Join(dir, "spiderpool-agent")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "spiderpool"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestBadPlugin: what a plugin does wrong is counted.
func TestBadPlugin(t *testing.T) {
	dir := programs(t, `
[ $CNI_COMMAND = ADD ] || exit 7
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.9/16"}]}'`)
	nothingIsLeft(t)
	few := []scenario{{name: storm, nodes: 2, pods: 2, inFlight: 2}}
	r, err := bench(t.Context(), options{bins: []string{dir}, scenarios: few, rounds: 1, patience: time.Second, progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	row := r.row(storm, dir)
	if row.duplicates != 3 || row.missing != 4 || row.failures != 4 || r.ok() {
		t.Errorf("%d duplicates, %d missing, %d failures, ok: %t", row.duplicates, row.missing, row.failures, r.ok())
	}
	if row.why == nil || !strings.Contains(row.why.Error(), "exit status 7") {
		t.Errorf("the first failure: %v", row.why)
	}
}

// TestInterrupted: a bench that is interrupted while plugins run ends them and
// all else.
func TestInterrupted(t *testing.T) {
	marks := t.TempDir()
	dir := programs(t, "echo > "+marks+"/$$; exec sleep 1000")
	nothingIsLeft(t)
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := bench(ctx, options{bins: []string{dir}, scenarios: small, rounds: 2, patience: time.Minute, progress: io.Discard})
		done <- err
	}()
	for len(files(t, marks)) < small[0].nodes*small[0].inFlight {
		select {
		case err := <-done:
			t.Fatalf("it ended by itself: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	interrupt()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}
