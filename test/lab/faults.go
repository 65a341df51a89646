package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// StopKubelet ends a node's kubelet. Containers run on.
func (l *Lab) StopKubelet(ctx context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	return process.Load(l.record(n, "kubelet")).Stop(ctx, 5*time.Second)
}

// StartKubelet starts a node's kubelet, unless it runs.
func (l *Lab) StartKubelet(_ context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	if process.Load(l.record(n, "kubelet")).Alive() {
		return nil
	}
	return l.startKubelet(n)
}

// StopNode takes a node's power away: every process of it is killed,
// containers too, and its network interfaces are gone. Its Node object and its
// disk stay.
func (l *Lab) StopNode(ctx context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	cgroup := cgroupOf(l.cfg.Name, n.Name)
	err = persist(ctx, n.Name, func() error {
		if err := killMembers(ctx, cgroup); err != nil {
			return err
		}
		return removeCgroup(cgroup)
	})
	if err != nil {
		return err
	}
	return l.removeNetns(n.Name)
}

// StartNode powers a node on that StopNode had powered off, and returns when
// its kubelet has reported the new boot. Like after a reboot /run is empty and
// the boot id another.
func (l *Lab) StartNode(ctx context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	if _, err := l.namespaces(n); err == nil {
		return nil // is on
	}
	if err := l.startRuntime(ctx, n); err != nil {
		return err
	}
	if err := l.startKubelet(n); err != nil {
		return err
	}
	boot, err := os.ReadFile(l.hostPath(n, "run/boot_id"))
	if err != nil {
		return err
	}
	return l.waitNode(ctx, n, func(obj *corev1.Node) bool { return obj.Status.NodeInfo.BootID+"\n" == string(boot) })
}

// WipeRuntime kills a node's containerd and starts it without what it had on
// disk: images, and the knowledge of sandboxes and containers, which run on.
// RestoreImages brings the images back; until then no container starts.
func (l *Lab) WipeRuntime(ctx context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	if err := process.Load(l.record(n, "containerd")).Stop(ctx, 0); err != nil {
		return err
	}
	if err := removeAll(l.hostPath(n, "var/lib/containerd"), l.importedDir(n)); err != nil {
		return err
	}
	return l.startContainerd(ctx, n)
}

// RestoreImages imports all images into a runtime that was wiped.
func (l *Lab) RestoreImages(ctx context.Context, nodeName string) error {
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	return l.importImages(ctx, n)
}

// WipeNode takes a node's power away and all that it had in /var/lib and
// /var/log. StartNode brings it back under its name, with an empty runtime.
func (l *Lab) WipeNode(ctx context.Context, nodeName string) error {
	if err := l.StopNode(ctx, nodeName); err != nil {
		return err
	}
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	if err := removeAll(l.hostPath(n, "var/lib"), l.hostPath(n, "var/log"), l.importedDir(n)); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(l.hostPath(n, "var/lib"), 0o755), os.MkdirAll(l.hostPath(n, "var/log"), 0o755))
}

func removeAll(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// AddNode starts one more node and returns its name when it is registered.
func (l *Lab) AddNode(ctx context.Context) (string, error) {
	lock, err := lockInstance(ctx, l.cfg.Name)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	nodes, err := l.nodes()
	if err != nil {
		return "", err
	}
	index := l.cfg.Nodes
	for _, n := range nodes {
		index = max(index, n.Index)
	}
	n := newNode(index + 1)
	if err := l.startRuntime(ctx, n); err != nil {
		return "", err
	}
	return n.Name, l.register(ctx, n)
}

// DeleteNode takes a node out of the cluster: power off, Node object deleted,
// disk gone. Its pods are left to the cluster's garbage collection, which
// takes up to a minute.
func (l *Lab) DeleteNode(ctx context.Context, nodeName string) error {
	if err := l.StopNode(ctx, nodeName); err != nil {
		return err
	}
	n, err := l.node(nodeName)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(l.API.Config())
	if err != nil {
		return err
	}
	if err := client.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err := os.RemoveAll(l.nodeDir(n)); err != nil {
		return err
	}
	return l.keepProxy(ctx, n)
}

// keepProxy starts kube-proxy in the name of another node when the one is
// deleted in whose name it runs.
func (l *Lab) keepProxy(ctx context.Context, gone node) error {
	nodes, err := l.nodes()
	if err != nil || len(nodes) == 0 {
		return err
	}
	for _, n := range nodes {
		if _, err := l.namespaces(n); err != nil || n == gone {
			continue
		}
		if err := process.Load(l.controlRecord("kube-proxy")).Stop(ctx, 5*time.Second); err != nil {
			return err
		}
		return l.startProxy(ctx, n.Name)
	}
	return nil
}

// Processes lists what runs of an instance, one line each, for people.
func (l *Lab) Processes() ([]string, error) {
	var lines []string
	describe := func(where, file string) {
		p := process.Load(file)
		state := "runs"
		if !p.Alive() {
			state = "does not run"
		}
		lines = append(lines, fmt.Sprintf("%-14s %-24s %-13s %s", where, p.Name, state, p.Log))
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "forward"} {
		describe(controlPlane, l.controlRecord(name))
	}
	nodes, err := l.nodes()
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		for _, name := range []string{"keeper", "containerd", "kubelet"} {
			describe(n.Name, l.record(n, name))
		}
	}
	return lines, nil
}
