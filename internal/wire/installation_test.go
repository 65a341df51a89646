package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInstallationRemembersFormerSockets(t *testing.T) {
	dir := t.TempDir()
	if in, found, err := ReadInstallation(dir); in.Socket != DefaultSocket || found || err != nil {
		t.Errorf("without a file: %+v, found %t, error %v", in, found, err)
	}
	steps := []struct {
		socket string
		want   Installation
	}{
		{"/var/run/spidernet/spiderpool.sock", Installation{Socket: DefaultSocket}},
		{"/run/a.sock", Installation{"/run/a.sock", []string{DefaultSocket}}},
		{"/var/run//a.sock", Installation{"/run/a.sock", []string{DefaultSocket}}},
		{"/run/b.sock", Installation{"/run/b.sock", []string{"/run/a.sock", DefaultSocket}}},
		{"/run/a.sock", Installation{"/run/a.sock", []string{"/run/b.sock", DefaultSocket}}},
		{"/run/c.sock", Installation{"/run/c.sock", []string{"/run/a.sock", "/run/b.sock", DefaultSocket}}},
		{"/run/d.sock", Installation{"/run/d.sock", []string{"/run/c.sock", "/run/a.sock", "/run/b.sock", DefaultSocket}}},
		{"/run/e.sock", Installation{"/run/e.sock", []string{"/run/d.sock", "/run/c.sock", "/run/a.sock", "/run/b.sock"}}},
	}
	for _, step := range steps {
		must(t, WriteInstallation(dir, step.socket))
		got, found, err := ReadInstallation(dir)
		if diff := cmp.Diff(step.want, got); diff != "" || !found || err != nil {
			t.Errorf("after %s: found %t, error %v (-want +got):\n%s", step.socket, found, err, diff)
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the directory has %v", entries)
	}
	info, err := entries[0].Info()
	must(t, err)
	if info.Mode() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestInstallationThatIsNotAsItShouldBe(t *testing.T) {
	for _, content := range []string{"", "{", "[]", "{}", `{"socket":"/etc/x"}`, `{"socket":"/run/x","former":["/etc/x"]}`, `{"socket":7}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, InstallationFile)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		in, found, err := ReadInstallation(dir)
		if diff := cmp.Diff(Installation{Socket: DefaultSocket}, in); diff != "" || found || err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %+v, found %t, error %v", content, in, found, err)
		}
		must(t, WriteInstallation(dir, "/run/a.sock"))
		if in, _, err := ReadInstallation(dir); in.Socket != "/run/a.sock" || err != nil {
			t.Errorf("%s is not replaced: %+v, %v", content, in, err)
		}
	}
	if err := WriteInstallation(t.TempDir(), "/tmp/a.sock"); err == nil {
		t.Error("a socket outside /run is installed")
	}
}

func TestSocketPath(t *testing.T) {
	long := strings.Repeat("x", 107-len("/run/"))
	for path, want := range map[string]string{
		"/run/a": "/run/a", "/var/run/a/b": "/run/a/b", "/run//a/./b/": "/run/a/b", "/var/run/" + long: "/run/" + long, DefaultSocket: DefaultSocket,
		"": "", "a": "", "run/a": "", "/": "", "/run": "", "/var/run": "", "/run/": "", "/runner/a": "", "/etc/a": "", "/var/a": "", "/tmp/run/a": "",
		"/run/../etc/a": "", "/run/a/../b": "", "/var/../run/a": "", "/run/" + long + "x": "",
	} {
		got, err := SocketPath(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) {
			t.Errorf("%s: the error does not name it: %v", path, err)
		}
	}
}

// TestNotesDoNotLeaveRun: a tenant may name the socket, and others than root may write to /run/lock.
func TestNotesDoNotLeaveRun(t *testing.T) {
	run, err := os.MkdirTemp("/run", "wire")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	outside := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(run, "absolute")), os.Symlink("../.."+outside, filepath.Join(run, "relative")))
	for _, link := range []string{"absolute", "relative"} {
		for _, socket := range []string{link + "/s.sock", link + "/new/s.sock"} {
			if err := WriteNote(NotesDir(filepath.Join(run, socket)), Note{ContainerID: "c", Interface: "eth0"}); err == nil {
				t.Errorf("%s is written to", socket)
			}
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	must(t, WriteNote(NotesDir(filepath.Join(run, "new/s.sock")), Note{ContainerID: "c", Interface: "eth0"}))
}
