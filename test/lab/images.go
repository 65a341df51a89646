package lab

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// pauseImage is the image of every pod's sandbox.
const pauseImage = "localhost/pause:1"

// shellImages are the names of one image with busybox in it.
var shellImages = []string{"docker.io/library/alpine:latest", "docker.io/library/alpine:3", "docker.io/library/busybox:latest", "localhost/alpine:1"}

func (l *Lab) imagesDir() string { return filepath.Join(l.dir, "images") }

// writeBaseImages makes the archive that every node imports first.
func (l *Lab) writeBaseImages() error {
	layer, err := busyboxLayer()
	if err != nil {
		return err
	}
	archive, err := imageArchive(layer, map[string][]string{
		"/bin/sleep infinity": {pauseImage},
		"/bin/sh":             shellImages,
	})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(l.imagesDir(), "000.tar"), archive)
}

// imageArchive is an archive as docker save makes it
// (https://github.com/moby/docker-image-spec): images of one layer, by their
// commands, with the names of each.
func imageArchive(layer []byte, images map[string][]string) ([]byte, error) {
	type image struct {
		Config           string
		RepoTags, Layers []string
	}
	diffID := fmt.Sprintf("%x", sha256.Sum256(layer))
	files := map[string][]byte{diffID + "/layer.tar": layer}
	var manifest []image
	for command, names := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{"Cmd": strings.Fields(command), "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}},
		})
		if err != nil {
			return nil, err
		}
		file := fmt.Sprintf("%x.json", sha256.Sum256(config))
		files[file] = config
		manifest = append(manifest, image{Config: file, RepoTags: names, Layers: []string{diffID + "/layer.tar"}})
	}
	var err error
	if files["manifest.json"], err = json.Marshal(manifest); err != nil {
		return nil, err
	}
	w := newTar()
	for file, content := range files {
		w.put(tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o644}, content)
	}
	return w.done()
}

// busyboxLayer holds the machine's static busybox under all its names.
func busyboxLayer() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	if err := isStatic(path); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing what busybox can do: %w", err)
	}
	return busyboxTar(program, strings.Fields(string(applets)))
}

// tarball collects files and the first error.
type tarball struct {
	data bytes.Buffer
	w    *tar.Writer
	err  error
}

func newTar() *tarball {
	t := &tarball{}
	t.w = tar.NewWriter(&t.data)
	return t
}

func (t *tarball) put(h tar.Header, content []byte) {
	h.Size = int64(len(content))
	if t.err == nil {
		t.err = t.w.WriteHeader(&h)
	}
	if t.err == nil {
		_, t.err = t.w.Write(content)
	}
}

func (t *tarball) done() ([]byte, error) {
	return t.data.Bytes(), cmp.Or(t.err, t.w.Close())
}

func busyboxTar(program []byte, applets []string) ([]byte, error) {
	t := newTar()
	for dir, mode := range map[string]int64{"bin": 0o755, "etc": 0o755, "root": 0o700, "usr": 0o755, "var": 0o755, "tmp": 0o1777} {
		t.put(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}, nil)
	}
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnobody:x:65534:\n"))
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, a := range applets {
		if a != "busybox" {
			t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	for link, to := range map[string]string{"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin"} {
		t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: to, Mode: 0o777}, nil)
	}
	return t.done()
}

// isStatic refuses a program that would need libraries in its image.
func isStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is linked dynamically: install the Debian package busybox-static", path)
	}
	return nil
}

// LoadImage brings the images of an archive (as docker save or an OCI layout
// in a tar) to every node, also to those started later.
func (l *Lab) LoadImage(ctx context.Context, archive string) error {
	// The names keep the order, so that the last image of a name stays it.
	dst := filepath.Join(l.imagesDir(), fmt.Sprintf("%d.tar", time.Now().UnixNano()))
	if err := run(ctx, "cp", "--", archive, dst+".new"); err != nil {
		return err
	}
	if err := os.Rename(dst+".new", dst); err != nil {
		return err
	}
	nodes, err := l.nodes()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		if _, err := l.namespaces(n); err == nil {
			g.Go(func() error { return l.importImages(ctx, n) })
		}
	}
	return g.Wait()
}

// importedDir has a file for each archive that a node has imported.
func (l *Lab) importedDir(n node) string { return filepath.Join(l.nodeDir(n), "imported") }

// importImages imports what a node has not imported yet.
func (l *Lab) importImages(ctx context.Context, n node) error {
	archives, err := filepath.Glob(filepath.Join(l.imagesDir(), "*.tar"))
	if err != nil {
		return err
	}
	for _, a := range archives {
		done := filepath.Join(l.importedDir(n), filepath.Base(a))
		if _, err := os.Stat(done); err == nil {
			continue
		}
		if err := l.importImage(ctx, n, a); err != nil {
			return err
		}
		if err := writeFile(done, nil); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) importImage(ctx context.Context, n node, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	cmd := l.NodeCommand(ctx, n.Name, "ctr", "--namespace=k8s.io", "images", "import", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("importing %s on %s: %w\n%s", archive, n.Name, err, out)
	}
	return nil
}
