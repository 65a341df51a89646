package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const ref = "registry.example/spidernet-io/agent:1.2.3"

// build compiles a program that prints its text, as the image wants it, and returns its directory.
func build(t *testing.T, program, text, arch string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, program+".go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(`"+text+"`) }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-trimpath", "-o", filepath.Join(dir, program)}, flags...), source)...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// bins has the programs "agent" and "plugin" of an architecture.
func bins(t *testing.T, arch string) string {
	t.Helper()
	dir, plugin := build(t, "agent", "agent", arch), build(t, "plugin", "plugin", arch)
	if err := os.Rename(filepath.Join(plugin, "plugin"), filepath.Join(dir, "plugin")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// untar unpacks an archive of files.
func untar(t *testing.T, file string) layout.Path {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return layout.Path(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// top is the one descriptor of an archive's index.json.
func top(t *testing.T, archive string) (layout.Path, v1.Descriptor) {
	t.Helper()
	l := untar(t, archive)
	index, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%d descriptors in index.json, want 1", len(manifest.Manifests))
	}
	return l, manifest.Manifests[0]
}

func TestImageOfTwoPlatforms(t *testing.T) {
	amd64, arm64 := bins(t, "amd64"), bins(t, "arm64")
	out := filepath.Join(t.TempDir(), "image.tar")
	var printed strings.Builder
	if err := run([]string{"--name", ref, "--out", out, "--revision", "abc", "--arch", "amd64=" + amd64, "--arch", "arm64=" + arm64, "agent", "plugin"}, &printed); err != nil {
		t.Fatal(err)
	}
	l, d := top(t, out)
	if want := ref + "@" + d.Digest.String() + "\n"; printed.String() != want {
		t.Errorf("printed %q, want %q", printed.String(), want)
	}
	want := map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": "1.2.3"}
	if diff := cmp.Diff(want, d.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	index, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	images, err := index.ImageIndex(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		img, err := images.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		platforms = append(platforms, m.Platform.String())
		checkImage(t, img, m.Platform.Architecture, map[string]string{"amd64": amd64, "arm64": arm64}[m.Platform.Architecture])
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

func TestImageOfOnePlatform(t *testing.T) {
	dir := bins(t, "arm64")
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := run([]string{"--name", ref, "--out", out, "--revision", "abc", "--arch", "arm64=" + dir, "agent", "plugin"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	l, d := top(t, out)
	img, err := l.Image(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, img, "arm64", dir)
}

// checkImage compares an image with what it is to hold.
func checkImage(t *testing.T, img v1.Image, arch, dir string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != arch || !config.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("image of %s/%s made at %v", config.OS, config.Architecture, config.Created)
	}
	const prefix = "org.opencontainers.image."
	want := v1.Config{
		Entrypoint: []string{"/usr/bin/agent"},
		Env:        []string{"PATH=/usr/bin"},
		Labels: map[string]string{
			prefix + "title": "agent", prefix + "version": "1.2.3", prefix + "revision": "abc",
			prefix + "source": "https://github.com/spidernet-io/spiderpool", prefix + "licenses": "Apache-2.0",
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	var entries []string
	r := tar.NewReader(mutate.Extract(img))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, h.FileInfo().Mode().String()+" "+h.Name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		program, err := os.ReadFile(filepath.Join(dir, filepath.Base(h.Name)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, program) || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s of %d bytes and %v, want %d bytes and 1970", h.Name, len(got), h.ModTime, len(program))
		}
	}
	if diff := cmp.Diff([]string{"drwxr-xr-x usr", "drwxr-xr-x usr/bin", "-rwxr-xr-x usr/bin/agent", "-rwxr-xr-x usr/bin/plugin"}, entries); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestReproducible: neither the time nor the place nor the modes of the programs are in an archive.
func TestReproducible(t *testing.T) {
	first, second := bins(t, "amd64"), t.TempDir()
	for _, program := range []string{"plugin", "agent"} {
		data, err := os.ReadFile(filepath.Join(first, program))
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(second, program)
		if err := errors.Join(os.WriteFile(copied, data, 0o600), os.Chtimes(copied, time.Unix(1e9, 0), time.Unix(1e9, 0))); err != nil {
			t.Fatal(err)
		}
	}
	var archives [2][]byte
	for i, dir := range []string{first, second} {
		out := filepath.Join(t.TempDir(), "image.tar")
		if err := run([]string{"--name", ref, "--out", out, "--arch", "amd64=" + dir, "agent", "plugin"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same programs differ")
	}
}

func TestRefused(t *testing.T) {
	amd64 := build(t, "agent", "x", "amd64")
	dynamic := build(t, "agent", "x", "amd64", "-buildmode=pie")
	script := t.TempDir()
	if err := os.WriteFile(filepath.Join(script, "agent"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, args, want string
	}{
		{"other architecture", "--name " + ref + " --arch arm64=" + amd64 + " agent", "agent is for EM_X86_64, not for arm64: build it with GOARCH=arm64"},
		{"dynamic", "--name " + ref + " --arch amd64=" + dynamic + " agent", "agent is linked dynamically, and the image has no libraries: build it with CGO_ENABLED=0"},
		{"script", "--name " + ref + " --arch amd64=" + script + " agent", "agent is no Linux program"},
		{"missing program", "--name " + ref + " --arch amd64=" + amd64 + " agent plugin", "plugin: no such file"},
		{"unknown architecture", "--name " + ref + " --arch mips=" + amd64 + " agent", `"mips=` + amd64 + `" is not amd64=DIRECTORY or arm64=DIRECTORY`},
		{"no tag", "--name registry.example/agent --arch amd64=" + amd64 + " agent", "registry.example/agent"},
		{"no programs", "--name " + ref + " --arch amd64=" + amd64, "names of programs are needed"},
		{"no name", "--arch amd64=" + amd64 + " agent", "--name, --out, --arch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			err := run(append([]string{"--out", filepath.Join(dir, "image.tar")}, strings.Fields(tt.args)...), io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
