// Package e2e runs scenarios with real pods on a Kubernetes of three nodes,
// with the product installed by its chart. Scenarios run side by side, each in
// a namespace, pools and ranges of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/spidernet-io/spiderpool/test/cluster"
	"github.com/spidernet-io/spiderpool/test/lab"
)

// shared is the cluster of all scenarios.
var shared *cluster.Cluster

// patience bounds a wait for the cluster to come to a state.
const patience = 3 * time.Minute

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // the API server warns of the form of our finalizer at every pool
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	c, err := cluster.Start(ctx, lab.Config{Name: "e2e", Nodes: 3, Out: os.Stderr}, "spiderpoolAgent.prometheus.enabled=true", "spiderpoolController.replicas=2",
		"ipam.fixedAddressKinds[0].apiVersion=apps.kruise.io/v1beta1", "ipam.fixedAddressKinds[0].kind=StatefulSet")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := c.Down(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	fmt.Fprintf(os.Stderr, "a cluster of 3 nodes with the product is up after %s\n", time.Since(began).Round(time.Second))
	shared = c
	return m.Run()
}
