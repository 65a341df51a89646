package cni_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestArm64 lets the plugin of an arm64 node call a living agent, by user-mode emulation.
func TestArm64(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v4, v6 := c.pool(t, "10.82.0.0/24", "10.82.0.16-10.82.0.255"), c.pool(t, "fd00:82::/64", "fd00:82::10-fd00:82::ffff")
	h := newHost(t)
	dir := t.TempDir()
	if err := build(t.Context(), dir, "arm64", "./cmd/spiderpool"); err != nil {
		t.Fatal(err)
	}
	h.runtime = libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), &emulating{entering{namespace: h.namespace}})
	s := h.sandbox(t, h.network(t, "1.1.0", "spiderpool", v4, v6))
	s.wantResult(t, s.add(t), v4, v6)
	c.wantHolders(t, v4, s)
	c.wantHolders(t, v6, s)
	if err := s.check(t); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	s.del(t)
	c.wantHolders(t, v4)
	c.wantHolders(t, v6)
}

// emulating executes plugins for arm64 in the namespace of a host.
type emulating struct{ entering }

func (e *emulating) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-aarch64-static", path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &out, &complaints
	if err := e.namespace.in(cmd.Run); err != nil {
		return nil, fmt.Errorf("%w (qemu-aarch64-static comes with the Debian package qemu-user-static): %s%s", err, out.String(), complaints.String())
	}
	return out.Bytes(), nil
}
