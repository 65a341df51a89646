package main

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// archive writes an OCI image layout as a tar archive, whole or not at all.
func archive(index v1.ImageIndex, out string) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), ".image-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "layout")
	if _, err := layout.Write(root, index); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "archive")
	if err := tarDir(root, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, out)
}

// tarDir archives the files of a directory in the order of their names.
func tarDir(dir, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		return put(w, tar.Header{Typeflag: tar.TypeReg, Name: path}, content)
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}
