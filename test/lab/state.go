package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// base holds a directory and a lock for every instance.
const base = "/var/lib/spiderpool-lab"

// downTimeout bounds the end of an instance; the kernel takes a moment to let
// go of cgroups and mounts.
const downTimeout = time.Minute

var (
	validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)
	tools     = []string{"nsenter", "unshare", "mount", "ip", "nft", "runc", "busybox"}
)

// preflight says what keeps a lab from running on this machine.
func preflight(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name of a lab is %q: use at most 20 of a-z, 0-9 and -", name)
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces and mounts: run it as root")
	}
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			return fmt.Errorf("the lab needs %s: install the Debian packages of test/lab/packages.txt: %w", t, err)
		}
	}
	return nil
}

func instanceDir(name string) string { return filepath.Join(base, name) }

// lockInstance keeps two processes from making or ending the same instance at
// once. The lock ends with the process at the latest.
func lockInstance(ctx context.Context, name string) (*os.File, error) {
	path := instanceDir(name) + ".lock"
	for {
		if err := os.MkdirAll(base, 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) { // the last instance went this moment
			continue
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lab %s is being started or ended by another process: %w", name, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sameFile tells a lock that is held from one whose file was removed.
func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// remove ends whatever is left of an instance, needing no record of it: its
// processes are those in its cgroups, its mounts those below its directory.
// The caller holds the lock.
func remove(ctx context.Context, name string) error {
	return persist(ctx, "lab "+name, func() error {
		if err := killMembers(ctx, cgroupOf(name)); err != nil {
			return err
		}
		if err := unmountBelow(instanceDir(name)); err != nil {
			return err
		}
		if err := os.RemoveAll(instanceDir(name)); err != nil {
			return err
		}
		return removeCgroup(cgroupOf(name))
	})
}

// persist repeats an ending until the kernel has let go of everything.
func persist(ctx context.Context, what string, once func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, downTimeout, fmt.Errorf("%s is not gone after %s", what, downTimeout))
	defer cancel()
	for {
		err := once()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unlockAndForget gives the lock back; after the last instance it removes what
// all share.
func unlockAndForget(lock *os.File) {
	_ = os.Remove(lock.Name())
	lock.Close()
	_ = os.Remove(base) // fails as long as another instance exists
	removeSharedCgroup()
}

// unmountBelow unmounts everything below a directory, the latest first.
func unmountBelow(dir string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	slices.Reverse(points)
	for _, p := range points {
		if strings.HasPrefix(p.path, dir+"/") {
			if err := unix.Unmount(p.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmounting %s: %w", p.path, err)
			}
		}
	}
	return nil
}

type mountPoint struct{ path, fstype, options string }

// mountPoints reads /proc/self/mountinfo (proc_pid_mountinfo(5)).
func mountPoints() ([]mountPoint, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []mountPoint
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if ok && len(l) > 4 && len(r) > 2 {
			points = append(points, mountPoint{path: l[4], fstype: r[0], options: r[2]})
		}
	}
	return points, nil
}

// writeJSON stores a value in a file, whole or not at all.
func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(file, data)
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// writeFile replaces a file, whole or not at all, and makes its directory.
func writeFile(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
