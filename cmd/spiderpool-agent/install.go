package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func installCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the CNI plugin on the host",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return install(from, to) },
	}
	cmd.Flags().StringVar(&from, "from", "/usr/bin/spiderpool", "path of the plugin in this image")
	cmd.Flags().StringVar(&to, "to", "/host/opt/cni/bin", "directory of the host's CNI plugins")
	return cmd
}

// install copies the plugin under a temporary name and renames it: a runtime
// that executes it meanwhile gets the old or the new one, whole, and a running
// one is not disturbed.
func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	defer in.Close()
	out, err := os.CreateTemp(to, ".spiderpool-*")
	if err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	if err := out.Chmod(0o755); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	target := filepath.Join(to, filepath.Base(from))
	if err := os.Rename(out.Name(), target); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	return nil
}
