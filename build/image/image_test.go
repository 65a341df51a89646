package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
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

// top is the one descriptor of an archive's index.json, and the index that it describes.
func top(t *testing.T, archive string) (v1.Descriptor, v1.ImageIndex) {
	t.Helper()
	index, err := untar(t, archive).ImageIndex()
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
	index, err = index.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Manifests[0], index
}

// platforms are the images of an index, by "linux/amd64".
func platforms(t *testing.T, index v1.ImageIndex) map[string]v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		if images[m.Platform.String()], err = index.Image(m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

// labels are those of an image that the tests make, and the annotations of its index.
var labels = map[string]string{
	"org.opencontainers.image.title":       "agent",
	"org.opencontainers.image.description": "a test",
	"org.opencontainers.image.version":     "1.2.3",
	"org.opencontainers.image.revision":    "abc",
	"org.opencontainers.image.created":     "2001-09-09T01:46:40Z",
	"org.opencontainers.image.source":      "https://github.com/spidernet-io/spiderpool",
	"org.opencontainers.image.licenses":    "Apache-2.0",
}

func TestImage(t *testing.T) {
	dirs := map[string]string{"linux/amd64": bins(t, "amd64"), "linux/arm64": bins(t, "arm64")}
	for _, want := range [][]string{{"linux/amd64", "linux/arm64"}, {"linux/arm64"}} {
		t.Run(strings.Join(want, " "), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image.tar")
			args := []string{"--name", ref, "--out", out, "--description", "a test", "--revision", "abc", "--created", "1000000000"}
			for _, platform := range want {
				args = append(args, "--arch", path.Base(platform)+"="+dirs[platform])
			}
			var printed strings.Builder
			if err := run(append(args, "agent", "plugin"), &printed); err != nil {
				t.Fatal(err)
			}
			d, index := top(t, out)
			if want := ref + "@" + d.Digest.String() + "\n"; printed.String() != want {
				t.Errorf("printed %q, want %q", printed.String(), want)
			}
			names := map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": "1.2.3"}
			if diff := cmp.Diff(names, d.Annotations); diff != "" {
				t.Errorf("annotations of the descriptor (-want +got):\n%s", diff)
			}
			if manifest, err := index.IndexManifest(); err != nil {
				t.Error(err)
			} else if diff := cmp.Diff(labels, manifest.Annotations); diff != "" {
				t.Errorf("annotations of the index (-want +got):\n%s", diff)
			}
			images := platforms(t, index)
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(images))); diff != "" {
				t.Errorf("platforms (-want +got):\n%s", diff)
			}
			for platform, img := range images {
				checkImage(t, img, platform, dirs[platform])
			}
		})
	}
}

// checkImage compares an image with what it is to hold.
func checkImage(t *testing.T, img v1.Image, platform, dir string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Platform().String() != platform || !config.Created.Equal(time.Unix(1e9, 0)) {
		t.Errorf("image of %s made at %v", config.Platform(), config.Created)
	}
	want := v1.Config{Entrypoint: []string{"/usr/bin/agent"}, Env: []string{"PATH=/usr/bin"}, Labels: labels}
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
