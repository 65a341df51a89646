package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spidernet-io/spiderpool/internal/logging"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

const waitLimit = time.Minute

// eventually fails the test if what is not true in time.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// newKeeper returns a keeper whose plugin and installation file were installed, and the file's path.
func newKeeper(t *testing.T) (k *keeper, target, record string) {
	t.Helper()
	from, to := filepath.Join(t.TempDir(), "spiderpool"), filepath.Join(t.TempDir(), "bin")
	if err := errors.Join(os.WriteFile(from, []byte("#!/bin/sh\n"), 0o600), os.Mkdir(to, 0o755), install(from, to, "/run/old.sock"),
		install(from, to, "/run/new.sock")); err != nil {
		t.Fatal(err)
	}
	return &keeper{from: from, to: to, socket: "/run/new.sock", Problems: logging.Problems{Log: slog.New(slog.DiscardHandler)}},
		filepath.Join(to, "spiderpool"), filepath.Join(to, wire.InstallationFile)
}

// TestPluginIsPutBack: whatever becomes of the two files, they are soon as install left them, and not touched otherwise.
func TestPluginIsPutBack(t *testing.T) {
	for name, spoil := range map[string]func(target, record string) error{
		"nothing":                 func(string, string) error { return nil },
		"the plugin is removed":   func(target, _ string) error { return os.Remove(target) },
		"it is overwritten":       func(target, _ string) error { return os.WriteFile(target, []byte("of another"), 0o755) },
		"it is cut":               func(target, _ string) error { return os.Truncate(target, 0) },
		"it is not executable":    func(target, _ string) error { return os.Chmod(target, 0o644) },
		"it is a link":            func(target, _ string) error { return errors.Join(os.Remove(target), os.Symlink("/bin/true", target)) },
		"the file is removed":     func(_, record string) error { return os.Remove(record) },
		"the file is overwritten": func(_, record string) error { return os.WriteFile(record, []byte(`{"socket":"/run/x"}`), 0o644) },
		"both are removed":        func(target, record string) error { return errors.Join(os.Remove(target), os.Remove(record)) },
		"the directory is replaced": func(target, _ string) error {
			dir := filepath.Dir(target)
			return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, target, record := newKeeper(t)
			want, err := os.ReadFile(record)
			if err == nil {
				err = k.restore()
			}
			before, statErr := os.Lstat(target)
			if err = errors.Join(err, statErr, spoil(target, record), k.restore()); err != nil {
				t.Fatal(err)
			}
			if !has(target, []byte("#!/bin/sh\n")) {
				t.Error("the plugin is not back")
			}
			if got, err := os.ReadFile(record); string(got) != string(want) || !strings.Contains(string(want), "/run/old.sock") {
				t.Errorf("the file has %q, %v, want %q", got, err, want)
			}
			if after, err := os.Lstat(target); name == "nothing" && !os.SameFile(before, after) {
				t.Errorf("the plugin was replaced for nothing, %v", err)
			}
		})
	}
}

// TestPluginOfAnOlderVersion is a daemon whose plugin was never installed here, or for another socket.
func TestPluginOfAnOlderVersion(t *testing.T) {
	k, target, record := newKeeper(t)
	k.socket = "/run/newer.sock"
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o755), k.restore()); err != nil {
		t.Fatal(err)
	}
	in, _, err := wire.ReadInstallation(filepath.Dir(record))
	if in.Socket != k.socket || !slices.Contains(in.Former, "/run/new.sock") || err != nil || !has(target, []byte("#!/bin/sh\n")) {
		t.Errorf("%+v, %v", in, err)
	}
}

// TestPluginThatCannotBePutBack turns the node not ready with the reason, until it can.
func TestPluginThatCannotBePutBack(t *testing.T) {
	k, target, _ := newKeeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { k.keepInstalled(ctx); close(done) }()
	ready := func() bool { return k.Problem() == "" && has(target, []byte("#!/bin/sh\n")) }
	eventually(t, "it is ready", ready)
	if err := os.Rename(k.to, k.to+".old"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not ready", func() bool { return !ready() && k.Problem() != "" })
	if text := k.Problem(); !strings.Contains(text, k.to) {
		t.Errorf("the reason is %q", text)
	}
	if err := os.Mkdir(k.to, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready again", ready)
	cancel()
	select {
	case <-done:
	case <-time.After(waitLimit):
		t.Error("keepInstalled does not end")
	}
}

func TestMountRoots(t *testing.T) {
	const mountinfo = `36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw
37 36 98:0 /opt/cni/bin /host/opt/cni/bin rw - ext4 /dev/root rw
38 36 0:25 /old /run/spidernet rw - tmpfs tmpfs rw
39 36 0:25 /spidernet//deleted /run/spidernet rw - tmpfs tmpfs rw
`
	got, err := mountRoots(strings.NewReader(mountinfo), []string{"/host/opt/cni/bin/", "/run/spidernet", "/run"})
	if want := "map[/host/opt/cni/bin/:/opt/cni/bin /run/spidernet:/spidernet//deleted]"; fmt.Sprint(got) != want || err != nil {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
	if _, err := mountRoots(strings.NewReader("36 35\n"), nil); err == nil {
		t.Error("half a line is taken")
	}
}

// TestMountOfADirectoryThatIsReplaced: what the host does to a directory that is mounted in the container ends the daemon.
func TestMountOfADirectoryThatIsReplaced(t *testing.T) {
	const child = "SPIDERPOOL_TEST_MOUNT" // what the host does
	hosts := map[string]func(dir string) error{
		"renamed": func(dir string) error { return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755)) },
		"removed": os.RemoveAll,
		"left":    func(string) error { return nil },
	}
	host, inside := hosts[os.Getenv(child)]
	if !inside {
		for name := range hosts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command("unshare", "--mount", os.Args[0], "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$")
				cmd.Env = append(os.Environ(), child+"="+name)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
		return
	}
	dir, mount := filepath.Join(t.TempDir(), "bin"), filepath.Join(t.TempDir(), "mount")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(mount, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "--bind", dir, mount).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", mount).Run() })
	before, err := mountedAt(mount, "/absent")
	if err != nil || len(before) != 1 {
		t.Fatalf("%v, %v", before, err)
	}
	if os.Getenv(child) == "left" {
		ctx, cancel := context.WithTimeout(t.Context(), 2*keepEvery)
		defer cancel()
		if err := watchMounts(ctx, before); err != nil {
			t.Error(err)
		}
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- watchMounts(t.Context(), before) }()
	if err := host(dir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), mount) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v", err)
		}
	case <-time.After(waitLimit):
		t.Error("nothing is noticed")
	}
}
