package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const bin = "usr/bin"

// epoch is the time of all files in an image, so that the same programs make the same layer.
var epoch = time.Unix(0, 0).UTC()

// machines are the architectures that images are made for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// spec says what an image is made of.
type spec struct {
	name        name.Tag
	description string
	revision    string    // commit of the source; may be empty
	created     time.Time // of the source, not of the build, which may be repeated
	programs    []string
	platforms   []platform
}

// platform is an architecture of Linux and the directory of its programs.
type platform struct{ arch, dir string }

// index is what stands in index.json: one descriptor with the name of the image, of an index of the images of all
// platforms. The digest is the one that a registry shows.
func (s spec) index() (v1.ImageIndex, v1.Hash, error) {
	var images []mutate.IndexAddendum
	for _, p := range s.platforms {
		img, err := s.image(p)
		if err != nil {
			return nil, v1.Hash{}, err
		}
		images = append(images, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.arch}}})
	}
	// Registries show what an index is by its annotations.
	all := mutate.Annotations(mutate.AppendManifests(ociIndex(), images...), s.labels()).(v1.ImageIndex)
	digest, err := all.Digest()
	if err != nil {
		return nil, v1.Hash{}, err
	}
	return mutate.AppendManifests(ociIndex(), mutate.IndexAddendum{Add: all, Descriptor: v1.Descriptor{Annotations: map[string]string{
		"io.containerd.image.name":          s.name.Name(), // what containerd takes for the name
		"org.opencontainers.image.ref.name": s.name.TagStr(),
	}}}), digest, nil
}

func ociIndex() v1.ImageIndex { return mutate.IndexMediaType(empty.Index, types.OCIImageIndex) }

// image is the image of one platform.
func (s spec) image(p platform) (v1.Image, error) {
	layer, err := layer(p, s.programs)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, v1.Time{Time: s.created}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + path.Join(bin, s.programs[0])},
		Env:        []string{"PATH=/" + bin},
		Labels:     s.labels(),
	}
	return mutate.ConfigFile(img, config)
}

// labels are the annotations that the OCI image specification predefines
// (https://github.com/opencontainers/image-spec/blob/main/annotations.md).
func (s spec) labels() map[string]string {
	const prefix = "org.opencontainers.image."
	labels := map[string]string{
		prefix + "title":    s.programs[0],
		prefix + "version":  s.name.TagStr(),
		prefix + "created":  s.created.Format(time.RFC3339),
		prefix + "source":   "https://github.com/spidernet-io/spiderpool",
		prefix + "licenses": "Apache-2.0",
	}
	for name, text := range map[string]string{"description": s.description, "revision": s.revision} {
		if text != "" {
			labels[prefix+name] = text
		}
	}
	return labels
}

// layer holds the programs of a platform and their directories.
func layer(p platform, programs []string) (v1.Layer, error) {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, dir := range []string{"usr/", bin + "/"} {
		if err := put(w, tar.Header{Typeflag: tar.TypeDir, Name: dir}, nil); err != nil {
			return nil, err
		}
	}
	for _, program := range slices.Sorted(slices.Values(programs)) {
		content, err := read(p, program)
		if err != nil {
			return nil, err
		}
		if err := put(w, tar.Header{Typeflag: tar.TypeReg, Name: path.Join(bin, program)}, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// read returns a program, which must run on the platform with nothing beside it in the image.
func read(p platform, program string) ([]byte, error) {
	file := filepath.Join(p.dir, program)
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s is no Linux program: %w", file, err)
	}
	if f.Machine != machines[p.arch] {
		return nil, fmt.Errorf("%s is for %s, not for %s: build it with GOARCH=%s", file, f.Machine, p.arch, p.arch)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, fmt.Errorf("%s is linked dynamically, and the image has no libraries: build it with CGO_ENABLED=0", file)
	}
	return content, nil
}

// put appends an entry that tells nothing of where and when it was made.
func put(w *tar.Writer, h tar.Header, content []byte) error {
	h.Mode, h.Size, h.ModTime, h.Format = 0o755, int64(len(content)), epoch, tar.FormatUSTAR
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
