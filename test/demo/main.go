// Command demo shows the product at work: a Kubernetes of two nodes on this
// machine, pools, pods that get addresses from them on a macvlan network, reach
// each other, and give the addresses back. `make demo` runs it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/cluster"
	"github.com/spidernet-io/spiderpool/test/lab"
)

const (
	pods  = 6
	fewer = 2
	wait  = "180s"
)

// pools are the values by which the chart brings a default pool of each family.
var pools = []string{
	"clusterDefaultPool.installIPv4IPPool=true", "clusterDefaultPool.ipv4Subnet=172.20.0.0/16",
	"clusterDefaultPool.ipv4IPRanges={172.20.0.10-172.20.0.200}", "clusterDefaultPool.ipv4Gateway=172.20.0.1",
	"clusterDefaultPool.installIPv6IPPool=true", "clusterDefaultPool.ipv6Subnet=fd00:172:20::/64",
	"clusterDefaultPool.ipv6IPRanges={fd00:172:20::10-fd00:172:20::ffff:ffff}", "clusterDefaultPool.ipv6Gateway=fd00:172:20::1",
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
        - {name: web, image: alpine, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"]}
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	line, err := demo(ctx, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo failed: %v\n", err)
		stop()
		os.Exit(1)
	}
	fmt.Println(line)
}

// demo runs all acts and takes the lab down whatever happens; it returns the
// last line.
func demo(ctx context.Context, out io.Writer) (line string, err error) {
	c, err := cluster.Start(ctx, lab.Config{Name: "demo", Nodes: 2, Out: out}, pools...)
	if err != nil {
		return "", fmt.Errorf("%w\nlook at the messages above; 'make lab-up' starts the same cluster without the product", err)
	}
	defer func() {
		if err != nil {
			explain(context.WithoutCancel(ctx), c)
		}
		if down := c.Down(context.WithoutCancel(ctx)); err == nil {
			err = down
		}
	}()
	if err := start(ctx, c); err != nil {
		return "", err
	}
	audit, err := c.Audit(ctx, "default")
	if err != nil {
		return "", err
	}
	if len(audit.Duplicates)+len(audit.Differences) > 0 || audit.Pods != pods || audit.Addresses != 2*pods {
		return "", fmt.Errorf("addresses are not as they should be: %+v", audit)
	}
	asked, lost, err := c.PingAll(ctx, "default")
	if err != nil {
		return "", err
	}
	if len(lost) > 0 || asked == 0 {
		return "", fmt.Errorf("%d of %d pings were not answered:\n%s", len(lost), asked, strings.Join(lost, "\n"))
	}
	fmt.Fprintf(out, "\n%d pings between pods of different nodes, over IPv4 and IPv6, all answered\n", asked)
	if err := scaleDown(ctx, c); err != nil {
		return "", err
	}
	return fmt.Sprintf("demo ok: pods=%d addresses=%d duplicates=%d ping=ok", audit.Pods, audit.Addresses, len(audit.Duplicates)), nil
}

// start waits for the pools, makes the pods, and shows them.
func start(ctx context.Context, c *cluster.Cluster) error {
	if err := counts(ctx, c, 0); err != nil {
		return err
	}
	if err := c.Apply(ctx, fmt.Sprintf(deployment, pods)); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout", wait); err != nil {
		return err
	}
	if err := counts(ctx, c, pods); err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "spiderippools"}, {"get", "pods", "-o", "wide"}, {"get", "spiderips"}} {
		if err := c.Show(ctx, args...); err != nil {
			return err
		}
	}
	if err := endpoints(ctx, c, pods); err != nil {
		return err
	}
	return c.Show(ctx, "get", "spiderendpoints")
}

// counts waits until the status of both default pools shows so many addresses in use.
func counts(ctx context.Context, c *cluster.Cluster, want int64) error {
	var list v2beta1.SpiderIPPoolList
	return eventually(ctx, func() (string, error) {
		if err := c.List(ctx, &list); err != nil {
			return "", err
		}
		if len(list.Items) != 2 {
			return fmt.Sprintf("%d pools, want the two default ones: see the controller's log", len(list.Items)), nil
		}
		for _, p := range list.Items {
			if used := p.Status.AllocatedIPCount; used == nil || *used != want {
				return fmt.Sprintf("pool %s does not show %d addresses in use: %+v", p.Name, want, p.Status), nil
			}
		}
		return "", nil
	})
}

// endpoints waits for the endpoints, which are written after pods were answered.
func endpoints(ctx context.Context, c *cluster.Cluster, want int) error {
	var list v2beta1.SpiderEndpointList
	return eventually(ctx, func() (string, error) {
		if err := c.List(ctx, &list, client.InNamespace("default")); err != nil {
			return "", err
		}
		if len(list.Items) != want {
			return fmt.Sprintf("%d SpiderEndpoints, want %d: see the agents' logs", len(list.Items), want), nil
		}
		return "", nil
	})
}

// scaleDown removes most pods and shows that their addresses are free.
func scaleDown(ctx context.Context, c *cluster.Cluster) error {
	if err := c.Show(ctx, "scale", "deployment/web", fmt.Sprintf("--replicas=%d", fewer)); err != nil {
		return err
	}
	var ips v2beta1.SpiderIPList
	err := eventually(ctx, func() (string, error) {
		if err := c.List(ctx, &ips); err != nil {
			return "", err
		}
		if len(ips.Items) != 2*fewer {
			return fmt.Sprintf("%d addresses are held after scaling down, want %d: see 'kubectl get spiderips' and the agents' logs", len(ips.Items), 2*fewer), nil
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	if err := counts(ctx, c, fewer); err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "spiderips"}, {"get", "spiderippools"}} {
		if err := c.Show(ctx, args...); err != nil {
			return err
		}
	}
	fmt.Fprintf(c.Out, "\n%d addresses are free again\n\n", 2*(pods-fewer))
	return nil
}

// eventually waits until a check has nothing to complain about.
func eventually(ctx context.Context, check func() (complaint string, err error)) error {
	for deadline := time.Now().Add(90 * time.Second); ; {
		complaint, err := check()
		if err != nil || complaint == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s", complaint)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// explain prints what a person would look at first.
func explain(ctx context.Context, c *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	fmt.Fprintln(c.Out, "\n--- what to look at: pods, events, what the agents say")
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type!=Normal"},
		{"-n", "kube-system", "logs", "-l", "app.kubernetes.io/component=spiderpool-agent", "--tail=40", "--prefix"},
	} {
		if err := c.Show(ctx, args...); err != nil {
			fmt.Fprintln(c.Out, err)
		}
	}
}
