package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// unsafe are paths that a network configuration may not name, by key.
var unsafe = map[string][]string{
	"ipam_unix_socket_path": {"/etc/x/s.sock", "/tmp/s.sock", "/run", "/run/", "run/s.sock", "/run/../etc/s.sock", "/run/a/../s.sock", "/var/run/../s.sock",
		"/runs/s.sock", "/run/" + strings.Repeat("x", 103)},
	"log_file_path": {"/etc/cron.d/x", "/var/log", "/var/log/", "/", "plugin.log", "/var/log/../spool/x", "/var/log/a/../x", "/var/logs/x", "/dev/null",
		"/var/log/" + strings.Repeat("x/", 300)},
}

// TestUnsafePathsAreRefused: whoever may write a network configuration is not root on the node. Every verb refuses them but
// DEL, which goes on with what the installation says.
func TestUnsafePathsAreRefused(t *testing.T) {
	allowed := map[string]string{"ipam_unix_socket_path": "below /run or /var/run", "log_file_path": "below /var/log"}
	for key, paths := range unsafe {
		for _, path := range paths {
			t.Run(key+path, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				dir := w.install(t)
				w.serve(t, anAddress)
				conf := w.netconf(ipamKey("ipam_unix_socket_path", nil), ipamKey(key, path), netKey("cni.dev/valid-attachments", []object{}),
					netKey("prevResult", object{"cniVersion": "1.1.0", "ips": []object{{"address": "10.6.1.7/16"}}}))
				for _, verb := range []string{"ADD", "CHECK", "STATUS", "GC"} {
					failed := execAt(t, dir+"/spiderpool", environ(verb), conf).failure(t)
					if failed.Code != wire.CodeConfig {
						t.Errorf("%s: code %d", verb, failed.Code)
					}
					quoted, _ := json.Marshal(path)
					for _, want := range []string{"ipam." + key, string(quoted[:min(len(quoted), 60)]), allowed[key]} {
						if !strings.Contains(failed.Msg, want) {
							t.Errorf("%s: %q does not hold %q", verb, failed.Msg, want)
						}
					}
				}
				if w.verbs() != "" {
					t.Errorf("the agent was asked %s", w.verbs())
				}
				execAt(t, dir+"/spiderpool", environ("DEL"), conf).succeeded(t)
				if w.verbs() != "DEL" {
					t.Errorf("the agent was asked %s, want DEL", w.verbs())
				}
				if key != "log_file_path" { // that would be logged to the default file
					if log := w.logged(t); !strings.Contains(log, "level=WARN") || !strings.Contains(log, key) {
						t.Errorf("log %q", log)
					}
				}
			})
		}
	}
}

// install puts the plugin into a directory of its own, with an installation whose socket is that of w.
func (w *world) install(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := os.Link(plugin, filepath.Join(dir, "spiderpool"))
	if err == nil {
		err = wire.WriteInstallation(dir, w.socket)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSocket says which socket a call tries, and what it tells people about it.
func TestSocket(t *testing.T) {
	const short = `{"cniVersion":"1.1.0","name":"macvlan-net","ipam":{"type":"spiderpool"}}`
	explicit, installed := newWorld(t), newWorld(t)
	file := func(dir string) string { return filepath.Join(dir, wire.InstallationFile) }
	tests := []struct {
		name    string
		conf    string
		break_  func(file string) error
		socket  string
		because string // FILE is the installation's
	}{
		{"the installation names it", short, nil, installed.socket, "FILE names"},
		{"the configuration wins", explicit.netconf(), nil, explicit.socket, "ipam.ipam_unix_socket_path names"},
		{"an empty text names none", explicit.netconf(ipamKey("ipam_unix_socket_path", "")), nil, installed.socket, "FILE names"},
		{"no installation", short, os.Remove, wire.DefaultSocket, "FILE is missing"},
		{"a broken installation", short, func(file string) error { return os.WriteFile(file, []byte("{"), 0o600) }, wire.DefaultSocket, "read FILE"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := installed.install(t)
			if test.break_ != nil {
				if err := test.break_(file(dir)); err != nil {
					t.Fatal(err)
				}
			}
			failed := execAt(t, dir+"/spiderpool", environ("STATUS"), test.conf).failure(t)
			for _, want := range []string{test.socket, strings.ReplaceAll(test.because, "FILE", file(dir))} {
				if !strings.Contains(failed.Msg, want) {
					t.Errorf("%q does not hold %q", failed.Msg, want)
				}
			}
		})
	}
}

// TestDelThatNamesNoSocketLeavesItsNoteWhereTheInstallationSays is a DEL with "ipam.type" alone, and nobody to take it.
func TestDelThatNamesNoSocketLeavesItsNoteWhereTheInstallationSays(t *testing.T) {
	w := newWorld(t)
	dir := w.install(t)
	execAt(t, dir+"/spiderpool", environ("DEL"), w.netconf(ipamKey("ipam_unix_socket_path", nil))).succeeded(t)
	if diff := cmp.Diff([]wire.Note{noteOfC1}, w.notes(t)); diff != "" {
		t.Errorf("notes (-want +left):\n%s", diff)
	}
	// The next installation remembers where the note is.
	next := newWorld(t)
	if err := wire.WriteInstallation(dir, next.socket); err != nil {
		t.Fatal(err)
	}
	in, _, err := wire.ReadInstallation(dir)
	if err != nil || in.Socket != next.socket || !slices.Contains(in.Former, w.socket) {
		t.Errorf("%+v, %v", in, err)
	}
}
