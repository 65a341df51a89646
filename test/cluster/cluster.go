// Package cluster is a lab with the product installed on it the way an
// administrator installs it: the image made by make, the chart installed by
// Helm, a CNI configuration put on every node. The demo and all end-to-end
// tests start here.
package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/apiclient"
	"github.com/spidernet-io/spiderpool/test/lab"
)

// Cluster is a lab in which pods get their addresses from Spiderpool.
type Cluster struct {
	*lab.Lab
	client.Client
	// Out receives progress and what Show shows.
	Out io.Writer
}

// Start brings up a lab, installs the product and waits until all nodes are
// ready. values are further --set arguments of the chart. If it fails, nothing
// is left behind.
func Start(ctx context.Context, c lab.Config, values ...string) (*Cluster, error) {
	archives, err := images()
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &Cluster{Lab: l, Out: c.Out}
	if err := out.install(ctx, archives, values); err != nil {
		_ = l.Down(context.WithoutCancel(ctx))
		return nil, err
	}
	return out, nil
}

// images makes the images of agent and controller for this machine, once, and returns their archives. Of several processes one
// does so at a time.
var images = sync.OnceValues(func() (archives []string, err error) {
	cmd := exec.Command("flock", root(), "make", "--no-print-directory", "images", "ARCH="+runtime.GOARCH)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root(), os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("make images: %w", err)
	}
	for _, program := range []string{"spiderpool-agent", "spiderpool-controller"} {
		archives = append(archives, filepath.Join(root(), "_output", program+"-"+runtime.GOARCH+".tar"))
	}
	return archives, nil
})

// root is the top of the source tree.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

func (c *Cluster) install(ctx context.Context, archives, values []string) error {
	scheme := apiclient.Scheme()
	for _, add := range []func(*kruntime.Scheme) error{appsv1.AddToScheme, batchv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	var err error
	if c.Client, err = client.New(c.API.Config(), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	for _, archive := range archives {
		if err := c.LoadImage(ctx, archive); err != nil {
			return err
		}
	}
	var set []string
	for _, v := range values {
		set = append(set, "--set", v)
	}
	if text, err := c.release(ctx, "install", set...); err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, text, c.diagnosis(ctx))
	}
	conf := lab.MacvlanConflist("1.0.0", "underlay", lab.Segments[0], map[string]any{"type": "spiderpool"})
	if err := c.WriteCNI("", "10-underlay.conflist", conf); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

// Upgrade upgrades the release with further arguments of helm, waits until it runs, and returns what helm printed.
func (c *Cluster) Upgrade(ctx context.Context, args ...string) (string, error) {
	return c.release(ctx, "upgrade", args...)
}

func (c *Cluster) release(ctx context.Context, verb string, args ...string) (string, error) {
	return c.Helm(ctx, append([]string{verb, "spiderpool", filepath.Join(root(), "charts", "spiderpool"), "--namespace", "kube-system", "--wait", "--timeout", "5m"}, args...)...)
}

// diagnosis says how agents and controller are, for the message of a failed installation.
func (c *Cluster) diagnosis(ctx context.Context) string {
	pods, _ := c.Kubectl(ctx, "-n", "kube-system", "get", "pods", "-o", "wide")
	events, _ := c.Kubectl(ctx, "-n", "kube-system", "get", "events", "--sort-by=.lastTimestamp")
	agent, _ := c.Kubectl(ctx, "-n", "kube-system", "logs", "daemonset/spiderpool-agent", "--all-containers", "--tail=30")
	controller, _ := c.Kubectl(ctx, "-n", "kube-system", "logs", "deployment/spiderpool-controller", "--tail=30")
	return pods + events + agent + controller
}

// Helm runs helm on the cluster and returns what it printed.
func (c *Cluster) Helm(ctx context.Context, args ...string) (string, error) {
	return output(c.Lab.Helm(ctx, args...), "")
}

// Kubectl runs kubectl on the cluster and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(c.Lab.Kubectl(ctx, args...), "")
}

// Apply applies manifests in YAML.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := output(c.Lab.Kubectl(ctx, "apply", "-f", "-"), manifests)
	return err
}

// Show prints a kubectl command and its output as a person would see them.
func (c *Cluster) Show(ctx context.Context, args ...string) error {
	text, err := c.Kubectl(ctx, args...)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "\n$ kubectl %s\n%s", strings.Join(args, " "), text)
	return err
}

// output runs a command and returns what it printed; an error has what it complained about.
func output(cmd *exec.Cmd, stdin string) (string, error) {
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
