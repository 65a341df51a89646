package cni

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// plugin is the path of the program as it is released, built once for all tests.
var plugin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cni")
	if err != nil {
		panic(err)
	}
	plugin = filepath.Join(dir, "spiderpool")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", plugin,
		"github.com/spidernet-io/spiderpool/cmd/spiderpool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func TestPluginIsSmallAndStandsAlone(t *testing.T) {
	info, err := os.Stat(plugin)
	if err != nil {
		t.Fatal(err)
	}
	if const10MB := int64(10 << 20); info.Size() > const10MB {
		t.Errorf("%d bytes, want at most %d", info.Size(), const10MB)
	}
	program, err := elf.Open(plugin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("the program is linked dynamically")
		}
	}

	out, err := exec.Command("go", "list", "-deps", "github.com/spidernet-io/spiderpool/cmd/spiderpool").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/spidernet-io/spiderpool/internal/wire") {
		t.Fatalf("go list does not name what it should: %q", deps)
	}
	for _, dep := range deps {
		for _, heavy := range []string{"k8s.io/", "sigs.k8s.io/", "google.golang.org/grpc", "gopkg.in/", "net/http", "crypto", "compress/", "text/template", "math/big"} {
			if dep == heavy || strings.HasPrefix(dep, heavy) {
				t.Errorf("the plugin's closure holds %s, which makes every start slower", dep)
			}
		}
	}
}

// world is a directory of its own for a test, with the agent's socket and the log file.
type world struct {
	socket, log string
	mu          sync.Mutex
	requests    []wire.Request
}

// newWorld returns a world whose agent is absent. Its files lie where the plugin takes them from, which needs root.
func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{socket: filepath.Join(temporary(t, "/run"), "s.sock"), log: filepath.Join(temporary(t, "/var/log"), "log", "plugin.log")}
}

// temporary makes a directory below parent that the test removes.
func temporary(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "spiderpool-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newAgent returns a world whose agent answers as script says and records what it was asked.
func newAgent(t *testing.T, script func(context.Context, *wire.Request) *wire.Reply) *world {
	t.Helper()
	w := newWorld(t)
	w.serve(t, script)
	return w
}

func (w *world) serve(t *testing.T, script func(context.Context, *wire.Request) *wire.Reply) {
	t.Helper()
	l, err := wire.Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- wire.Serve(ctx, l, 0, func(ctx context.Context, req *wire.Request) *wire.Reply {
			w.mu.Lock()
			if tells := req.Verb != wire.VerbDel; (req.Age > 0) != tells {
				t.Errorf("%s tells an age of %s", req.Verb, req.Age)
			}
			plain := *req
			plain.Age = 0 // differs at every run
			w.requests = append(w.requests, plain)
			w.mu.Unlock()
			return script(ctx, req)
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Serve does not end")
		}
	})
}

// asked returns the requests so far.
func (w *world) asked() []wire.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.requests)
}

// verbs returns the verbs of the requests so far.
func (w *world) verbs() string {
	var verbs []string
	for _, req := range w.asked() {
		verbs = append(verbs, string(req.Verb))
	}
	return strings.Join(verbs, " ")
}

func (w *world) notes(t *testing.T) []wire.Note {
	t.Helper()
	notes, err := wire.ReadNotes(wire.NotesDir(w.socket))
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

// logged returns the lines of the log file behind the mark.
func (w *world) logged(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(w.log)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	lines, marked := strings.CutPrefix(string(content), logMark)
	if err != nil || !marked {
		t.Fatalf("%q is not marked, error %v", content, err)
	}
	return lines
}

// object is a JSON object of a network configuration.
type object = map[string]any

// netconf returns a network configuration of the world. Every edit changes it; a value nil removes a key.
func (w *world) netconf(edits ...func(net, ipam object)) string {
	ipam := object{"type": "spiderpool", "ipam_unix_socket_path": w.socket, "log_file_path": w.log}
	net := object{"cniVersion": "1.1.0", "name": "macvlan-net", "type": "macvlan", "master": "eth9", "ipam": ipam}
	for _, edit := range edits {
		edit(net, ipam)
	}
	out, err := json.Marshal(net)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func ipamKey(key string, value any) func(net, ipam object) {
	return func(_, ipam object) { ipam[key] = value }
}

func netKey(key string, value any) func(net, ipam object) {
	return func(net, _ object) {
		if value == nil {
			delete(net, key)
			return
		}
		net[key] = value
	}
}

// k8sArgs are the CNI_ARGS of a container runtime of Kubernetes.
const k8sArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1"

// environ returns the environment of a call with the changes, each NAME=value; NAME alone removes one.
func environ(verb string, changes ...string) []string {
	env := []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/absent", "CNI_IFNAME=net1",
		"CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + k8sArgs}
	for _, change := range changes {
		name, _, set := strings.Cut(change, "=")
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
		if set {
			env = append(env, change)
		}
	}
	return env
}

// outcome is what a call of the plugin left behind.
type outcome struct {
	code           int
	stdout, stderr string
}

// execPlugin executes the plugin as a runtime does.
func execPlugin(t *testing.T, env []string, stdin string) outcome {
	t.Helper()
	return execAt(t, plugin, env, stdin)
}

// execAt executes a plugin that is installed elsewhere.
func execAt(t *testing.T, plugin string, env []string, stdin string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, plugin)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(stdin), &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// failure returns the error that the plugin printed, after looking that it failed as CNI wants.
func (o outcome) failure(t *testing.T) types.Error {
	t.Helper()
	var printed struct {
		CNIVersion string `json:"cniVersion"`
		types.Error
	}
	decoder := json.NewDecoder(strings.NewReader(o.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&printed); err != nil || decoder.More() {
		t.Fatalf("stdout is not one error: %q (%v), exit code %d, stderr %q", o.stdout, err, o.code, o.stderr)
	}
	if o.code != 1 {
		t.Errorf("exit code %d", o.code)
	}
	if printed.CNIVersion == "" {
		t.Errorf("the error has no cniVersion: %s", o.stdout)
	}
	if strings.ContainsAny(printed.Msg, "\r\n") {
		t.Errorf("the text has more than one line: %q", printed.Msg)
	}
	return printed.Error
}

// succeeded looks that the plugin printed nothing but, perhaps, a result.
func (o outcome) succeeded(t *testing.T) {
	t.Helper()
	if o.code != 0 || o.stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", o.code, o.stdout, o.stderr)
	}
}
