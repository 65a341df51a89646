// Command spiderpool is the CNI IPAM plugin: container runtimes and main plugins execute it once per call and
// interface, with the call in the environment and the network configuration on stdin.
package main

import (
	"context"
	"os"

	"github.com/spidernet-io/spiderpool/internal/cni"
)

func main() {
	os.Exit(cni.Main(context.Background()))
}
