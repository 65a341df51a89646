package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KillAgent kills the agent of a node at whatever instruction it is. The
// kubelet starts it again.
func (c *Cluster) KillAgent(ctx context.Context, node string) error {
	return c.kill(ctx, node, "spiderpool-agent")
}

// KillController kills the controller on a node likewise.
func (c *Cluster) KillController(ctx context.Context, node string) error {
	return c.kill(ctx, node, "spiderpool-controller")
}

// kill kills the daemon of a program that runs in the network of a node.
func (c *Cluster) kill(ctx context.Context, node, program string) error {
	want, err := output(c.NodeCommand(ctx, node, "readlink", "/proc/self/ns/net"), "")
	if err != nil {
		return err
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, file := range files {
		cmdline, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(cmdline, []byte(program+"\x00daemon")) {
			continue // ended meanwhile, or something else
		}
		dir := filepath.Dir(file)
		if netns, err := os.Readlink(filepath.Join(dir, "ns", "net")); err != nil || netns != strings.TrimSpace(want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		return unix.Kill(pid, unix.SIGKILL)
	}
	return fmt.Errorf("no %s runs on %s", program, node)
}
