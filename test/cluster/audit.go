package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// Audit is what the three witnesses of an address say: the pod's status, the
// SpiderIPs, and the interfaces inside the pod's network namespace.
type Audit struct {
	// Pods and Addresses count what was looked at.
	Pods, Addresses int
	// Duplicates are addresses that two pods have.
	Duplicates []string
	// Differences are pods on which the witnesses do not agree.
	Differences []string
}

// Audit compares the witnesses for the running pods of a namespace.
func (c *Cluster) Audit(ctx context.Context, namespace string) (Audit, error) {
	pods, err := c.Running(ctx, namespace)
	if err != nil {
		return Audit{}, err
	}
	var ips v2beta1.SpiderIPList
	if err := c.List(ctx, &ips); err != nil {
		return Audit{}, err
	}
	ledger := map[string][]string{}
	for _, e := range ips.Items {
		if e.Spec.Conflict != "" {
			continue // another host has it, and the pod was not told it
		}
		ledger[e.Spec.Pod.UID] = append(ledger[e.Spec.Pod.UID], e.Spec.Address)
	}
	inside := make([][]string, len(pods))
	for i, p := range pods {
		if inside[i], err = c.inside(p); err != nil {
			return Audit{}, err
		}
	}
	return compare(pods, ledger, inside), nil
}

func compare(pods []corev1.Pod, ledger map[string][]string, inside [][]string) Audit {
	out := Audit{Pods: len(pods)}
	owner := map[string]string{}
	for i, p := range pods {
		held := slices.Sorted(slices.Values(ledger[string(p.UID)]))
		out.Addresses += len(held)
		for _, a := range slices.Concat(held, inside[i]) {
			if other, taken := owner[a]; taken && other != p.Name {
				out.Duplicates = append(out.Duplicates, fmt.Sprintf("%s: %s and %s", a, other, p.Name))
			}
			owner[a] = p.Name
		}
		// The kubelet reports the addresses of eth0 only.
		var status []string
		for _, ip := range p.Status.PodIPs {
			status = append(status, ip.IP)
			if !slices.Contains(held, ip.IP) {
				out.Differences = append(out.Differences, fmt.Sprintf("%s: status has %s, SpiderIPs %v", p.Name, ip.IP, held))
			}
		}
		if len(status) == 0 || !slices.Equal(held, inside[i]) {
			out.Differences = append(out.Differences, fmt.Sprintf("%s: status %v, SpiderIPs %v, inside %v", p.Name, status, held, inside[i]))
		}
	}
	return out
}

// inside returns the addresses that the pod's interfaces bear.
func (c *Cluster) inside(p corev1.Pod) ([]string, error) {
	sandbox, err := c.PodSandbox(p.Spec.NodeName, p.UID)
	if err != nil {
		return nil, err
	}
	byInterface, err := c.Addresses(p.Spec.NodeName, sandbox.Netns)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, prefixes := range byInterface {
		for _, prefix := range prefixes {
			found = append(found, prefix.Addr().String())
		}
	}
	slices.Sort(found)
	return found, nil
}

// Running lists the running pods of a namespace by name.
func (c *Cluster) Running(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

// PingAll pings from every running pod of a namespace every address of every
// pod on another node, and returns what did not answer and how many were asked.
func (c *Cluster) PingAll(ctx context.Context, namespace string) (asked int, failures []string, err error) {
	pods, err := c.Running(ctx, namespace)
	if err != nil {
		return 0, nil, err
	}
	for _, from := range pods {
		var targets []string
		for _, to := range pods {
			if to.Spec.NodeName != from.Spec.NodeName {
				for _, ip := range to.Status.PodIPs {
					targets = append(targets, ip.IP)
				}
			}
		}
		asked += len(targets)
		lost, err := c.ping(ctx, from, targets)
		if err != nil {
			return asked, failures, err
		}
		failures = append(failures, lost...)
	}
	return asked, failures, nil
}

// ping asks each target three times at most; a neighbour's address may still
// be on its way to being known.
func (c *Cluster) ping(ctx context.Context, from corev1.Pod, targets []string) (lost []string, err error) {
	script := `for a in "$@"; do ping -c 1 -W 1 $a || ping -c 1 -W 2 $a || ping -c 1 -W 5 $a || echo LOST $a; done`
	args := append([]string{"-n", from.Namespace, "exec", from.Name, "--", "sh", "-c", script, "sh"}, targets...)
	text, err := c.Kubectl(ctx, args...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if target, ok := strings.CutPrefix(strings.TrimSpace(line), "LOST "); ok {
			lost = append(lost, fmt.Sprintf("%s on %s cannot reach %s", from.Name, from.Spec.NodeName, target))
		}
	}
	return lost, nil
}
