package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// environment is what all contestants share. What it starts ends with stop.
type environment struct {
	dir     string // of all files but sockets
	sockets string // of those, below /run, where the plugin looks for them
	netns   string
	cluster *cluster
	undo    []func(context.Context) error
}

func (e *environment) start(ctx context.Context, o options) (err error) {
	if e.dir, err = os.MkdirTemp("", "spiderpool-bench-"); err != nil {
		return err
	}
	e.later(func(context.Context) error { return os.RemoveAll(e.dir) })
	if e.sockets, err = os.MkdirTemp("/run", fmt.Sprintf("spiderpool-bench-%d-", os.Getpid())); err != nil {
		return err
	}
	e.later(func(context.Context) error { return os.RemoveAll(e.sockets) })
	if err := e.makeNetns(); err != nil {
		return err
	}
	e.cluster, err = startCluster(ctx, o.progress)
	if err != nil {
		return err
	}
	e.later(e.cluster.server.Stop)
	if err := e.cluster.install(ctx, e.dir, o.progress); err != nil {
		return err
	}
	return e.cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
}

// later has something undone by stop, the last first.
func (e *environment) later(undo func(context.Context) error) { e.undo = append(e.undo, undo) }

func (e *environment) stop(ctx context.Context) error {
	var errs []error
	for _, undo := range slices.Backward(e.undo) {
		errs = append(errs, undo(ctx))
	}
	e.undo = nil
	return errors.Join(errs...)
}

// makeNetns makes the network namespace that stands for that of every pod: a
// plugin refuses its own (CNI_NETNS), and nothing is ever done in it. It lasts
// as long as a process in it, which waits for the end of its input and so ends
// with this one in any case.
func (e *environment) makeNetns() error {
	keeper := exec.Command("cat")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	end, err := keeper.StdinPipe()
	if err != nil {
		return err
	}
	if err := keeper.Start(); err != nil {
		return fmt.Errorf("make a network namespace (are you root?): %w", err)
	}
	e.later(func(context.Context) error { return errors.Join(end.Close(), keeper.Wait()) })
	e.netns = fmt.Sprintf("/proc/%d/ns/net", keeper.Process.Pid)
	return nil
}

// contestants are our programs, from every directory that is to be measured,
// and host-local. Agents run from now on; those of others idle in a round.
func (e *environment) contestants(ctx context.Context, o options) ([]contestant, []*product, error) {
	cni, err := parts.Bin(ctx, o.progress, "cni")
	if err != nil {
		return nil, nil, err
	}
	bins, names := o.bins, o.bins
	if len(bins) == 0 {
		names = []string{"spiderpool"}
		if bins, err = e.build(ctx, o.progress); err != nil {
			return nil, nil, err
		}
	}
	var all []contestant
	var products []*product
	for i, bin := range bins {
		if bin, err = directory(bin); err != nil {
			return nil, nil, err
		}
		p := &product{title: names[i], bin: bin, cluster: e.cluster, patience: o.patience,
			dir: filepath.Join(e.dir, fmt.Sprint(i)), sockets: e.sockets, plugin: plugin{filepath.Join(bin, "spiderpool"), e.netns}}
		e.later(p.stop)
		if err := p.start(ctx, i, o.scenarios); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p.title, err)
		}
		all, products = append(all, p), append(products, p)
	}
	return append(all, &hostLocal{plugin{filepath.Join(cni, "host-local"), e.netns}, filepath.Join(e.dir, "host-local")}), products, nil
}

// directory returns the full path of a directory that holds our programs.
func directory(bin string) (string, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"spiderpool", "spiderpool-agent"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return "", fmt.Errorf("%w: give a directory that 'make build' filled", err)
		}
	}
	return bin, nil
}

// build builds the programs of this checkout as the images have them.
func (e *environment) build(ctx context.Context, progress io.Writer) ([]string, error) {
	fmt.Fprintln(progress, "building the programs")
	bin := filepath.Join(e.dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/spiderpool", "./cmd/spiderpool-agent", "./cmd/spiderpool-controller")
	cmd.Dir, cmd.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return []string{bin}, nil
}

// root is the top of the source tree.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
