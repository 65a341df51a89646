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
		if err != nil || !bytes.HasPrefix(cmdline, []byte("spiderpool-agent\x00daemon")) {
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
	return fmt.Errorf("no agent runs on %s", node)
}
