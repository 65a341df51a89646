// Command spiderpool is the CNI IPAM plugin: container runtimes and main plugins execute it once per call and
// interface, with the call in the environment and the network configuration on stdin.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spidernet-io/spiderpool/internal/buildinfo"
	"github.com/spidernet-io/spiderpool/internal/cni"
)

func main() {
	if slices.Equal(os.Args[1:], []string{"--version"}) { // a runtime gives no arguments
		fmt.Println("spiderpool version", buildinfo.Version())
		return
	}
	os.Exit(cni.Main(context.Background()))
}
