// Command spiderpool-agent runs on every node: `daemon` serves the CNI plugin,
// `install` puts the plugin on the host.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spidernet-io/spiderpool/internal/buildinfo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:          "spiderpool-agent",
		Short:        "Assigns the addresses of the pods of one node",
		Version:      buildinfo.Version(),
		SilenceUsage: true,
	}
	root.AddCommand(daemonCommand(), installCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1)
	}
}
