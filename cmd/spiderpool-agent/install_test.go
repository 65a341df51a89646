package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// TestInstall: the new plugin takes the place of an old one while that runs,
// is executable, and has nothing beside it but the file that names the socket.
func TestInstall(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "spiderpool"), t.TempDir()
	target := filepath.Join(to, "spiderpool")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{from: []byte("#!/bin/sh\necho new\n"), target: old} {
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	running := exec.Command(target, "60")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Process.Kill(); _ = running.Wait() }()
	if err := os.Chmod(from, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := install(from, to, "/var/run/x/s.sock"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(target).Output(); err != nil || !bytes.Equal(out, []byte("new\n")) {
		t.Errorf("%q, %v", out, err)
	}
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if in, found, err := wire.ReadInstallation(to); in.Socket != "/run/x/s.sock" || !found || err != nil {
		t.Errorf("%+v, found %t, error %v", in, found, err)
	}
	if err := install(from, to, "/tmp/s.sock"); err == nil || !strings.Contains(err.Error(), "below /run") {
		t.Errorf("a socket outside /run: %v", err)
	}
	if err := install(from, filepath.Join(to, "missing"), wire.DefaultSocket); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing directory: %v", err)
	}
}
