package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spidernet-io/spiderpool/internal/logging"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// keepEvery is how often the daemon looks whether the plugin is still on the host.
const keepEvery = 2 * time.Second

// keeper keeps the plugin on the host as install left it. Without the plugin pods can neither start nor end.
type keeper struct {
	logging.Problems
	// from is the plugin in this image, to the host's directory as it is mounted here, socket the agent's on the host.
	from, to, socket string
	// seen is the plugin on the host when its content was last found to be right; nil before.
	seen fs.FileInfo
	// recorded is the installation file, empty before the first look. It is put back as it was: it names former sockets.
	recorded []byte
}

// keepInstalled puts back what vanished or changed in the host's directory until ctx ends.
func (k *keeper) keepInstalled(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		k.Note("the CNI plugin on this node is not as it should be", k.restore())
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// restore compares the host's directory with what it should have, and mends it.
func (k *keeper) restore() error {
	if err := k.restoreRecord(); err != nil {
		return err
	}
	target := filepath.Join(k.to, filepath.Base(k.from))
	now, err := os.Lstat(target)
	if err == nil && k.seen != nil && os.SameFile(now, k.seen) && now.Mode() == k.seen.Mode() && now.Size() == k.seen.Size() &&
		now.ModTime().Equal(k.seen.ModTime()) {
		return nil
	}
	want, err := os.ReadFile(k.from)
	if err != nil {
		return err
	}
	if !has(target, want) {
		k.Log.Warn("the CNI plugin was removed or replaced on the host and is put back", "path", target)
		if err := place(target, bytes.NewReader(want), 0o755); err != nil {
			return err
		}
	}
	k.seen, err = os.Lstat(target)
	return err
}

// restoreRecord does so for the installation file.
func (k *keeper) restoreRecord() error {
	path := filepath.Join(k.to, wire.InstallationFile)
	if k.recorded == nil {
		want, err := wire.SocketPath(k.socket)
		if err != nil {
			return err
		}
		if in, found, _ := wire.ReadInstallation(k.to); !found || in.Socket != want {
			if err := wire.WriteInstallation(k.to, want); err != nil {
				return err
			}
		}
		k.recorded, err = os.ReadFile(path)
		return err
	}
	now, err := os.ReadFile(path)
	if err == nil && bytes.Equal(now, k.recorded) {
		return nil
	}
	k.Log.Warn("the installation file of the CNI plugin was removed or replaced on the host and is put back", "path", path)
	return place(path, bytes.NewReader(k.recorded), 0o644)
}

// has says whether a path is an executable file with this content.
func has(path string, want []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o755 || info.Size() != int64(len(want)) {
		return false
	}
	got, err := os.ReadFile(path)
	return err == nil && bytes.Equal(got, want)
}

// watchMounts returns an error when a directory of the host that is mounted here, before, was removed, renamed or replaced
// there: what is mounted is then the old one, and all that helps is to start the container anew, which the kubelet does
// within seconds. It returns nil when ctx ends.
func watchMounts(ctx context.Context, before map[string]string) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := mountedAt(slices.Collect(maps.Keys(before))...)
		for dir, path := range before {
			if err == nil && now[dir] != path {
				return fmt.Errorf("the host's directory that is mounted at %s was removed or replaced (%s is now %q): "+
					"this container ends so that its successor gets the new one", dir, path, now[dir])
			}
		}
	}
}

// mountedAt returns, for those of the directories at which something is mounted, where that is in its file system.
func mountedAt(dirs ...string) (map[string]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return mountRoots(f, dirs)
}

// mountRoots reads mountinfo (proc_pid_mountinfo(5)): the fourth field is the path of the mounted directory in its file
// system, which follows renames and has "//deleted" at its end if there is none; the fifth is where it is mounted.
func mountRoots(mountinfo io.Reader, dirs []string) (map[string]string, error) {
	content, err := io.ReadAll(mountinfo)
	roots := map[string]string{}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return nil, errors.Join(err, fmt.Errorf("mountinfo has the line %q", line))
		}
		for _, dir := range dirs {
			if fields[4] == filepath.Clean(dir) {
				roots[dir] = fields[3]
			}
		}
	}
	return roots, err
}
