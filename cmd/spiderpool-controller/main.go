// Command spiderpool-controller admits edits of pools, subnets and reservations, and keeps what people read of them true. No
// pod waits for it.
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
		Use:          "spiderpool-controller",
		Short:        "Admits edits of pools and counts their addresses",
		Version:      buildinfo.Version(),
		SilenceUsage: true,
	}
	root.AddCommand(daemonCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1)
	}
}
