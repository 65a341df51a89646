package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// Kubectl is a kubectl command of the cluster's version, for the
// administrator, run on this machine.
func (l *Lab) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return l.onMachine(ctx, filepath.Join(l.bins["kubernetes"], "kubectl"), args)
}

// Helm is a helm command for the administrator, run on this machine. Helm is
// built the first time, which takes some three minutes.
func (l *Lab) Helm(ctx context.Context, args ...string) *exec.Cmd {
	bin, err := parts.Bin(ctx, l.out, "helm")
	if err != nil {
		return &exec.Cmd{Err: err}
	}
	return l.onMachine(ctx, filepath.Join(bin, "helm"), args)
}

func (l *Lab) onMachine(ctx context.Context, program string, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.Kubeconfig())
	return cmd
}
