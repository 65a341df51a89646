package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// Config says what Up makes. Zero values take the default.
type Config struct {
	Name     string   `json:"name"`     // of the instance; default "lab"
	Nodes    int      `json:"nodes"`    // 1 to 100; default 2: node1, node2
	Families Families `json:"families"` // of the cluster; default DualStack
	// Multus is the network to which Multus delegates every pod's eth0: the
	// name in a CNI configuration in /etc/cni/net.d, without which nodes are
	// NotReady. Up makes a NetworkAttachmentDefinition of that name in
	// kube-system, without a configuration; one put into it has precedence.
	// Empty: no Multus.
	Multus string `json:"multus,omitempty"`
	// Out receives progress; default os.Stderr.
	Out io.Writer `json:"-"`
}

// Lab is a running instance. Its methods may be used by several goroutines and
// processes at once, as long as they work on different nodes.
type Lab struct {
	// API is the cluster's API server: clients under any identity, stop,
	// start and restart it.
	API *apiserver.Server

	dir string
	cfg Config
	// bins are the directories of the parts.
	bins map[string]string
	out  io.Writer
}

// record is what Open needs; that it exists means that Up was completed.
type record struct {
	Config Config            `json:"config"`
	Bins   map[string]string `json:"bins"`
}

// registerTimeout bounds the wait for a node or a service to show up.
const registerTimeout = 3 * time.Minute

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "lab"
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.Families == "" {
		c.Families = DualStack
	}
	if c.Out == nil {
		c.Out = os.Stderr
	}
	if c.Nodes < 1 || c.Nodes > 100 {
		return c, fmt.Errorf("%d nodes: use 1 to 100", c.Nodes)
	}
	return c, errors.Join(c.Families.valid(), preflight(c.Name))
}

// Up builds missing parts and starts an instance. It returns when the control
// plane is ready, every node is registered with its images loaded, and the
// service of the API server answers. What a crash left of an instance of that
// name is removed first; one that runs is an error. If Up fails it leaves
// nothing behind.
func Up(ctx context.Context, c Config) (*Lab, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	bins, err := Build(ctx, c.Out, c.Multus != "")
	if err != nil {
		return nil, err
	}
	lock, err := lockInstance(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if l, err := Open(c.Name); err == nil && l.alive() {
		return nil, fmt.Errorf("lab %s is up already: use it, or end it by 'lab down --name %s' first", c.Name, c.Name)
	}
	if err := remove(ctx, c.Name); err != nil {
		return nil, err
	}
	l := &Lab{dir: instanceDir(c.Name), cfg: c, bins: bins, out: c.Out}
	if err := l.up(ctx); err != nil {
		left := remove(context.WithoutCancel(ctx), c.Name)
		unlockAndForget(lock)
		return nil, errors.Join(fmt.Errorf("starting lab %s: %w", c.Name, err), left)
	}
	return l, nil
}

// Build builds the parts of a lab that are missing, so that Up finds them, and
// returns their directories. A first build takes some twelve minutes on two
// processors.
func Build(ctx context.Context, out io.Writer, multus bool) (map[string]string, error) {
	names := []string{"forward", "cni", "etcd", "containerd", "kubernetes"}
	if multus {
		names = append(names, "multus")
	}
	bins := map[string]string{}
	for _, p := range names {
		bin, err := parts.Bin(ctx, out, p)
		if err != nil {
			return nil, err
		}
		bins[p] = bin
	}
	return bins, nil
}

func (l *Lab) up(ctx context.Context) error {
	start := time.Now()
	if err := l.makeControlPlaneNetwork(ctx); err != nil {
		return err
	}
	if err := l.writeBaseImages(); err != nil {
		return err
	}
	nodes := make([]node, l.cfg.Nodes)
	for i := range nodes {
		nodes[i] = newNode(i + 1)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.startControlPlane(gctx) })
	for _, n := range nodes {
		g.Go(func() error { return l.startRuntime(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.say("control plane and %d container runtimes run after %.0f s", len(nodes), time.Since(start).Seconds())
	if l.cfg.Multus != "" {
		if err := l.installMultus(ctx); err != nil {
			return err
		}
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, n := range nodes {
		g.Go(func() error { return l.register(gctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.startProxy(ctx, nodes[0].Name); err != nil {
		return err
	}
	l.say("lab %s is up after %.0f s", l.cfg.Name, time.Since(start).Seconds())
	return writeJSON(filepath.Join(l.dir, "lab.json"), record{Config: l.cfg, Bins: l.bins})
}

// Open returns an instance that is up.
func Open(name string) (*Lab, error) {
	var r record
	l := &Lab{dir: instanceDir(name), out: os.Stderr}
	if err := readJSON(filepath.Join(l.dir, "lab.json"), &r); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lab %s is not up: start it by 'lab up --name %s'", name, name)
		}
		return nil, fmt.Errorf("lab %s: its record is damaged, end it by 'lab down --name %s': %w", name, name, err)
	}
	l.cfg, l.bins = r.Config, r.Bins
	api, err := apiserver.Open(l.controlPlaneDir())
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	l.API = api
	return l, nil
}

// Names returns the names of all instances that are up, or left by a crash.
func Names() ([]string, error) {
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Down ends an instance and leaves nothing of it: no process, mount, network
// namespace, cgroup or file. It needs no record of the instance, so it works
// after any crash; an instance that does not exist is no error.
func Down(ctx context.Context, name string) error {
	if err := preflight(name); err != nil {
		return err
	}
	lock, err := lockInstance(ctx, name)
	if err != nil {
		return err
	}
	defer unlockAndForget(lock)
	return remove(ctx, name)
}

// Down ends the instance; see the function Down.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx, l.cfg.Name) }

// Config is what Up was given, with its defaults.
func (l *Lab) Config() Config { return l.cfg }

// Kubeconfig is the file with the administrator's credentials, for kubectl and
// helm on this machine.
func (l *Lab) Kubeconfig() string { return l.API.Kubeconfig() }

// Nodes are the names of all nodes, also of those that are powered off.
func (l *Lab) Nodes() ([]string, error) {
	nodes, err := l.nodes()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names, nil
}

// alive tells a lab that is up from one whose processes a reboot ended.
func (l *Lab) alive() bool {
	pids, err := members(cgroupOf(l.cfg.Name, controlPlane))
	return err == nil && len(pids) > 0
}

func (l *Lab) nodes() ([]node, error) {
	files, err := filepath.Glob(filepath.Join(l.dir, "nodes", "*", "node.json"))
	if err != nil {
		return nil, err
	}
	var nodes []node
	for _, f := range files {
		var n node
		if err := readJSON(f, &n); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b node) int { return a.Index - b.Index })
	return nodes, nil
}

func (l *Lab) node(name string) (node, error) {
	nodes, err := l.nodes()
	if err != nil {
		return node{}, err
	}
	i := slices.IndexFunc(nodes, func(n node) bool { return n.Name == name })
	if i < 0 {
		var names []string
		for _, n := range nodes {
			names = append(names, n.Name)
		}
		return node{}, fmt.Errorf("lab %s has no node %q, but %s", l.cfg.Name, name, strings.Join(names, ", "))
	}
	return nodes[i], nil
}

func (l *Lab) say(format string, args ...any) { fmt.Fprintf(l.out, "lab: "+format+"\n", args...) }
