package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// machine runs the programs of an architecture, on whatever machine the tests run.
var machine = map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}

// TestMake makes the images as a release does, in two directories of which only one is a clone: the archives are the same,
// byte for byte, and have all platforms, and all programs run there and say what they are.
func TestMake(t *testing.T) {
	source, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	first, second := makeImages(t, source), makeImages(t, copySource(t, source))
	for _, archive := range []string{"spiderpool-agent-amd64-arm64.tar", "spiderpool-controller-amd64-arm64.tar"} {
		a, b := readFile(t, filepath.Join(first, archive)), readFile(t, filepath.Join(second, archive))
		if !bytes.Equal(a, b) {
			t.Errorf("%s depends on the directory of the source", archive)
		}
		_, index := top(t, filepath.Join(first, archive))
		if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, slices.Sorted(maps.Keys(platforms(t, index)))); diff != "" {
			t.Errorf("platforms of %s (-want +got):\n%s", archive, diff)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		of := func(label string) string { return manifest.Annotations["org.opencontainers.image."+label] }
		if of("title")+"-amd64-arm64.tar" != archive || of("description") == "" || of("revision") != commit || of("created") != "2001-09-09T01:46:40Z" {
			t.Errorf("%s has the annotations %q", archive, manifest.Annotations)
		}
	}
	for arch, qemu := range machine {
		for _, program := range []string{"spiderpool", "spiderpool-agent", "spiderpool-controller", "spiderpoolctl"} {
			out, err := exec.CommandContext(t.Context(), qemu, filepath.Join(first, "bin", arch, program), "--version").CombinedOutput()
			want := regexp.MustCompile("^" + program + ` version \d+\.\d+\.\d+, commit ` + commit + `, go[^ ]+, linux/` + arch + "\n$")
			if err != nil || !want.Match(out) {
				t.Errorf("%s of %s: %v, printed %q, want %s (qemu comes with the Debian package qemu-user-static)", program, arch, err, out, want)
			}
		}
	}
}

// makeImages runs make in a source tree and returns the directory of what it made.
func makeImages(t *testing.T, source string) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "make", "images", "OUT="+out, "COMMIT="+commit, "SOURCE_DATE_EPOCH=1000000000")
	cmd.Dir = source
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make images in %s: %v\n%s", source, err, text)
	}
	return out
}

// copySource copies what images are made of.
func copySource(t *testing.T, source string) string {
	t.Helper()
	to := t.TempDir()
	for _, part := range []string{"api", "build", "charts", "cmd", "internal"} {
		if err := os.CopyFS(filepath.Join(to, part), os.DirFS(filepath.Join(source, part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"Makefile", "go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(to, file), readFile(t, filepath.Join(source, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
