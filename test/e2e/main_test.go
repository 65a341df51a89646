// Package e2e runs scenarios with real pods on a Kubernetes of three nodes,
// with the product installed by its chart. Scenarios run side by side, each in
// a namespace, pools and ranges of its own. Those that take nodes or the API
// server away mostly wait, so `make e2e` runs them in a second process, on a
// cluster of its own, beside those that have the first cluster to themselves.
package e2e

import (
	"context"
	"flag"
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

var labName = flag.String("lab", "e2e", "name of the lab; processes that run at once need one each")

// patience bounds a wait for the cluster to come to a state.
const patience = 3 * time.Minute

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	ctrllog.SetLogger(logr.Discard()) // the API server warns of the form of our finalizer at every pool
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	c, err := cluster.Start(ctx, lab.Config{Name: *labName, Nodes: 3, Out: os.Stderr}, "spiderpoolAgent.prometheus.enabled=true",
		"spiderpoolController.prometheus.enabled=true", "spiderpoolController.replicas=2",
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
	fmt.Fprintf(os.Stderr, "lab %s of 3 nodes with the product is up after %s\n", *labName, time.Since(began).Round(time.Second))
	shared = c
	return m.Run()
}
