// Package cni_test proves the chain that a container runtime drives, without a
// kubelet: libcni, the main plugins macvlan, bridge and ptp, this product's
// plugin and agent as built programs, and a real API server that holds what
// the chart ships and lets the agent do what its role says. Pods and hosts are
// network namespaces of the tests' own.
//
// The tests need root. Of the kernel they need network namespaces, veth,
// bridge and macvlan.
package cni_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// programs are the directories with what the tests execute.
var programs struct {
	ours, cni, helm, forward string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/cni:", err)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("these tests make network namespaces and interfaces: run them as root (go test -exec sudo), not as user %d", os.Geteuid())
	}
	ctx := context.Background()
	for part, dir := range map[string]*string{"cni": &programs.cni, "helm": &programs.helm, "forward": &programs.forward} {
		bin, err := parts.Bin(ctx, os.Stderr, part)
		if err != nil {
			return 1, err
		}
		*dir = bin
	}
	dir, err := os.MkdirTemp("", "spiderpool-cni-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	programs.ours = dir
	if err := build(ctx, dir, runtime.GOARCH, "./cmd/spiderpool", "./cmd/spiderpool-agent"); err != nil {
		return 1, err
	}
	ctrllog.SetLogger(logr.Discard())
	// The tests mostly wait: for the kernel to find that nobody else has an IPv6 address (RFC 4862, 5.4), for a full pool.
	if err := flag.Set("test.parallel", "16"); err != nil {
		return 1, err
	}
	return m.Run(), nil // parses the flags: a -parallel of the command line counts
}

// build builds programs as the image has them, static, into a directory.
func build(ctx context.Context, dir, arch string, programs ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", dir + "/"}, programs...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %q: %w\n%s", programs, err, out)
	}
	return nil
}
