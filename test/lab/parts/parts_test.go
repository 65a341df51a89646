package parts

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// newPart makes a part of one program that prints a word.
func newPart(t *testing.T, word string) builder {
	t.Helper()
	b := builder{out: io.Discard, part: "sample", src: t.TempDir(), cache: filepath.Join(t.TempDir(), "cache")}
	write(t, b, "go.mod", "module example.test/sample\n\ngo 1.26\n")
	write(t, b, "main.go", "package main\n\nfunc main() { print(\""+word+"\") }\n")
	return b
}

func write(t *testing.T, b builder, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.src, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func says(t *testing.T, bin, want string) {
	t.Helper()
	got, err := exec.Command(filepath.Join(bin, "sample")).CombinedOutput()
	if err != nil || string(got) != want {
		t.Errorf("program says %q, %v; want %q", got, err, want)
	}
}

func TestBuiltOnceAndAgainWhenChanged(t *testing.T) {
	b := newPart(t, "one")
	var out bytes.Buffer
	b.out = &out
	first, err := b.bin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	says(t, first, "one")
	if !strings.Contains(out.String(), "building sample 1/1: example.test/sample") {
		t.Errorf("progress does not say what is built: %q", out.String())
	}
	out.Reset()
	again, err := b.bin(t.Context())
	if err != nil || again != first || out.Len() > 0 {
		t.Errorf("second call: %q, %v, said %q; want %q from the cache, silently", again, err, out.String(), first)
	}
	write(t, b, "main.go", "package main\n\nfunc main() { print(\"two\") }\n")
	changed, err := b.bin(t.Context())
	if err != nil || changed == first {
		t.Fatalf("changed source: %q, %v; want another directory than %q", changed, err, first)
	}
	says(t, changed, "two")
	says(t, first, "one")
}

func TestManyAskBuildOnce(t *testing.T) {
	b := newPart(t, "once")
	var said [4]bytes.Buffer
	var all sync.WaitGroup
	for i := range said {
		b := b
		b.out = &said[i]
		all.Go(func() {
			if _, err := b.bin(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	var builds int
	for i := range said {
		builds += strings.Count(said[i].String(), "building sample")
	}
	if builds != 1 {
		t.Errorf("built %d times, want 1", builds)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	b := newPart(t, "")
	write(t, b, "main.go", "package main\n\nfunc main() { undefinedName() }\n")
	_, err := b.bin(t.Context())
	if err == nil || !strings.Contains(err.Error(), "undefinedName") {
		t.Errorf("error is %v, want what the compiler says", err)
	}
	entries, err := os.ReadDir(b.cache)
	if err != nil || len(entries) != 1 || entries[0].Name() != "sample.lock" {
		t.Errorf("cache holds %v, %v; want the lock alone", entries, err)
	}
}

func TestWaitingForALockEndsWithItsContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), file, func() {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lock(ctx, file, cancel); err == nil { // busy ends the waiting
		t.Error("took a lock that another holds")
	}
	unlock()
	if _, err := lock(t.Context(), file, func() {}); err != nil {
		t.Error(err)
	}
}

func TestKubernetesIsToldItsVersion(t *testing.T) {
	src, err := source("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	v, err := version(src, "k8s.io/kubernetes")
	if err != nil || !strings.HasPrefix(v, "v1.") {
		t.Fatalf("version is %q, %v", v, err)
	}
	flags, err := builder{part: "kubernetes", src: src}.flags()
	if err != nil || !strings.Contains(strings.Join(flags, " "), "gitVersion="+v+" ") {
		t.Errorf("flags are %q, %v; want them to hold %s", flags, err, v)
	}
	if _, err := version(src, "example.test/absent"); err == nil {
		t.Error("a module that is not required has a version")
	}
	if _, err := source("absent"); err == nil {
		t.Error("a part that does not exist has a source")
	}
}

func TestModuleHasItsFiles(t *testing.T) {
	const module = "github.com/prometheus-operator/prometheus-operator"
	dir, err := Module(t.Context(), "prometheusoperator", module)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "example", "prometheus-operator-crd")); err != nil {
		t.Error(err)
	}
	if dir, err := Module(t.Context(), "prometheusoperator", "example.test/absent"); err == nil {
		t.Errorf("a module that is not required is at %s", dir)
	}
}
