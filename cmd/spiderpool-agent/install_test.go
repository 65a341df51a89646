package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall: the new plugin takes the place of an old one while that runs,
// is executable, and leaves nothing else in the directory.
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
	if err := install(from, to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(target).Output(); err != nil || !bytes.Equal(out, []byte("new\n")) {
		t.Errorf("%q, %v", out, err)
	}
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := install(from, filepath.Join(to, "missing")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing directory: %v", err)
	}
}
