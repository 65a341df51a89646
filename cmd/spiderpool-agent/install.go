package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// program is where the image has the plugin.
const program = "/usr/bin/spiderpool"

func installCommand() *cobra.Command {
	var from, to, socket string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the CNI plugin on the host, and beside it a file that names the agent's socket",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return install(from, to, socket) },
	}
	cmd.Flags().StringVar(&from, "from", program, "path of the plugin in this image")
	cmd.Flags().StringVar(&to, "to", "/host/opt/cni/bin", "directory of the host's CNI plugins")
	cmd.Flags().StringVar(&socket, "socket", wire.DefaultSocket, "path on the host of the agent's socket, below /run or /var/run")
	return cmd
}

// install puts the plugin and its installation file into a directory, the file first: a plugin of this version always
// finds one.
func install(from, to, socket string) error {
	if err := wire.WriteInstallation(to, socket); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	defer in.Close()
	return place(filepath.Join(to, filepath.Base(from)), in, 0o755)
}

// place copies a file under a temporary name and renames it: a runtime that executes or reads the target meanwhile gets
// the old or the new one, whole, and a running one is not disturbed.
func place(target string, content io.Reader, mode fs.FileMode) error {
	out, err := os.CreateTemp(filepath.Dir(target), ".spiderpool-*")
	if err != nil {
		return fmt.Errorf("install %s: %w", target, err)
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, content)
	if err = errors.Join(err, out.Chmod(mode), out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), target)
	}
	if err != nil {
		return fmt.Errorf("install %s: %w", target, err)
	}
	return nil
}
