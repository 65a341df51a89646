package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every process of an instance is in a cgroup below spiderpool-lab/NAME, so
// that all of them are found even if no record of them was ever written.
const sharedCgroup = "spiderpool-lab"

func cgroupOf(elem ...string) string {
	return filepath.Join(append([]string{sharedCgroup}, elem...)...)
}

// hierarchies are the mount points of all cgroup hierarchies, first those of
// version 1, then that of version 2. Beside version 1 that of version 2 has no
// controllers, but runc makes its groups there too.
func hierarchies() (v1, v2 []string, err error) {
	points, err := mountPoints()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range points {
		switch {
		case p.fstype == "cgroup":
			v1 = append(v1, p.path)
		case p.fstype == "cgroup2" && v2 == nil:
			v2 = []string{p.path}
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, nil, errors.New("no cgroup hierarchy is mounted")
	}
	return v1, v2, nil
}

// makeCgroup makes a cgroup in every hierarchy, fit for containers, and
// returns the cgroup.procs file by which a process joins it.
func makeCgroup(cgroup string) (procs string, err error) {
	v1, v2, err := hierarchies()
	if err != nil {
		return "", err
	}
	roots := v1
	if len(v1) == 0 {
		roots = v2
	}
	for _, root := range roots {
		dir := root
		for elem := range strings.SplitSeq(cgroup, "/") {
			if len(v1) == 0 {
				enableControllers(dir)
			}
			parent := dir
			dir = filepath.Join(dir, elem)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", err
			}
			if err := inheritCPUs(parent, dir); err != nil {
				return "", err
			}
		}
	}
	return filepath.Join(roots[0], cgroup, "cgroup.procs"), nil
}

// inheritCPUs fills a new cgroup of a version 1 cpuset hierarchy: it starts
// without any CPU, and nothing can join it like that.
func inheritCPUs(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(have)) != "" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(data))) == 0 {
			continue // version 2, where empty means all
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers passes every controller of a version 2 cgroup on to its
// children. One that cannot be passed on is no loss to the lab.
func enableControllers(dir string) {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for c := range strings.FieldsSeq(string(data)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// killMembers kills every process in a cgroup and below and returns when none
// is left.
func killMembers(ctx context.Context, cgroup string) error {
	for {
		pids, err := members(cgroup)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := killMember(pid, cgroup); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes of cgroup %s do not end: %w", len(pids), cgroup, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// killMember kills a process that is a member for certain: the descriptor
// holds on to it while membership is looked at.
func killMember(pid int, cgroup string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !isMember(pid, cgroup) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	return nil
}

func members(cgroup string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isMember(pid, cgroup) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isMember reads /proc/PID/cgroup (cgroups(7)): one line HIERARCHY:LIST:PATH
// per hierarchy. A zombie is no member: it only waits to be reaped.
func isMember(pid int, cgroup string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(strings.TrimSpace(line)+"/", "/"+cgroup+"/") {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			return !strings.Contains(string(status), "\nState:\tZ")
		}
	}
	return false
}

// removeCgroup removes an empty cgroup with all below it.
func removeCgroup(cgroup string) error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range append(v1, v2...) {
		if err := removeTree(filepath.Join(root, cgroup)); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes directories, deepest first: in a cgroup hierarchy files
// cannot be removed, nor need they.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing cgroup %s: %w", dir, err)
	}
	return nil
}

// removeSharedCgroup removes what all instances have in common; that fails as
// long as one is there.
func removeSharedCgroup() {
	v1, v2, _ := hierarchies()
	for _, root := range append(v1, v2...) {
		_ = unix.Rmdir(filepath.Join(root, sharedCgroup))
	}
}
