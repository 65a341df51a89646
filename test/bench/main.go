// Command bench measures how fast pods get addresses: the plugin and the agent
// of this product beside host-local, the CNI project's plugin that keeps its
// addresses in files of one node and asks nobody, which is the limit that the
// product approaches. `make bench` runs it.
//
// Nothing is simulated but the nodes: a real kube-apiserver and etcd (without
// fsync) with what the chart brings; Node objects, each with a process
// spiderpool-agent of its own that authenticates as the agent's pod of that
// node; real Pod objects bound to those nodes; and one execution of the plugin
// per pod, as container runtimes do it. All of it shares the CPUs of one
// machine, so absolute figures differ from machine to machine and from run to
// run: compare the ratios in the last line,
//
//	bench: storm=R1 serial=R2 exact=R3
//
// R1 is the rate of a storm of ADDs (median of the rounds) over host-local's;
// R2 is the median latency of one ADD at a time over host-local's; R3 is the
// rate on a pool with exactly as many addresses as pods over the rate of the
// storm. The exit code is 1 if any ADD or DEL failed, an address was given
// twice, a SpiderEndpoint is missing, an address was not free again, or an
// agent ended.
//
// With -bin the programs of other checkouts are measured, beside each other in
// one run: -bin old/_output/bin/amd64 -bin _output/bin/amd64. The chart is
// always that of this checkout. The last line speaks of the last of them.
// `make bench BASELINE=COMMIT` builds those of a commit and measures both.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var bins []string
	rounds := flag.Int("rounds", 5, "rounds of each scenario")
	flag.Func("bin", "directory with spiderpool and spiderpool-agent to measure; may be repeated; none: this checkout, built as the image has it", func(dir string) error {
		if slices.Contains(bins, dir) {
			return fmt.Errorf("%s is given twice", dir)
		}
		bins = append(bins, dir)
		return nil
	})
	flag.Parse()
	if *rounds < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctrllog.SetLogger(logr.Discard())
	r, err := bench(ctx, options{bins: bins, scenarios: full, rounds: *rounds, patience: 10 * time.Second, progress: os.Stderr})
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench failed: %v\n", err)
		stop()
		os.Exit(1)
	}
	r.print(os.Stdout)
	if !r.ok() {
		stop()
		os.Exit(1)
	}
}

// full are the scenarios as they are always measured, so that results compare.
var full = []scenario{
	{name: storm, nodes: 4, pods: 50, inFlight: 10},
	{name: serial, nodes: 1, pods: 100, inFlight: 1},
	{name: exact, nodes: 10, pods: 100, inFlight: 10},
}
