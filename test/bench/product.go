package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

// product is one build of ours: a plugin, and an agent on each of its nodes.
type product struct {
	title, bin, dir, sockets string
	plugin
	cluster  *cluster
	patience time.Duration
	agents   []*agent
	pools    map[string]string // by scenario
}

func (p *product) name() string            { return p.title }
func (p *product) takesPart(scenario) bool { return true }

// plenty is how many addresses a pool has that never fills.
const plenty = 65000

// start makes the pools of product number i, so that it shares no address with
// others, and as many nodes as any scenario needs; it returns when all agents
// are ready.
func (p *product) start(ctx context.Context, i int, scenarios []scenario) error {
	p.pools = map[string]string{}
	nodes := 0
	for n, s := range scenarios {
		size := plenty
		if s.name == exact {
			size = s.nodes * s.pods
		}
		name := fmt.Sprintf("%s-%d", s.name, i)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i*len(scenarios) + n), 0, 0}), 16)
		if err := p.cluster.pool(ctx, name, subnet, size); err != nil {
			return err
		}
		p.pools[s.name], nodes = name, max(nodes, s.nodes)
	}
	for n := range nodes {
		node := fmt.Sprintf("node-%d-%d", i, n)
		cfg, err := p.cluster.token(ctx, node)
		if err != nil {
			return err
		}
		a := &agent{node: node, dir: filepath.Join(p.dir, node), socket: filepath.Join(p.sockets, node+".sock")}
		err = a.start(filepath.Join(p.bin, "spiderpool-agent"), cfg, p.cluster.conf)
		if err != nil {
			return err
		}
		p.agents = append(p.agents, a)
	}
	for _, a := range p.agents {
		if err := a.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *product) stop(ctx context.Context) error {
	var group errgroup.Group
	for _, a := range p.agents {
		group.Go(func() error { return a.Stop(ctx, stopGrace) })
	}
	return group.Wait()
}

// known is how long pods exist before their sandboxes are made, as in life:
// a kubelet and an agent hear of a pod at the same time, and the kubelet mounts
// volumes and has the sandbox's processes made before the plugin's turn comes.
const known = time.Second

// round starts new pods and ends them. New ones, since that is what the cost of
// a pod's start is about: for a pod that it knows the agent would update a
// SpiderEndpoint, and remember what it wrote, instead of making one.
func (p *product) round(ctx context.Context, s scenario, r *row) error {
	nodes, err := p.sandboxes(ctx, s)
	if err != nil {
		return err
	}
	if err := pause(ctx, known); err != nil {
		return err
	}
	before, err := readRequests(ctx, p.cluster.raw)
	if err != nil {
		return err
	}
	outcomes, took := p.drive(ctx, "ADD", nodes, s.inFlight)
	r.added(outcomes, took)
	missing, looks, err := p.missing(ctx, nodes, outcomes)
	if err != nil {
		return err
	}
	r.missing += missing
	after, err := readRequests(ctx, p.cluster.raw)
	if err != nil {
		return err
	}
	after["LIST spiderendpoints"] -= float64(looks) // its own do not count
	r.asked(after.since(before))
	return p.end(ctx, s, nodes, r)
}

// sandboxes makes the pods of a round and what their runtimes know of them.
func (p *product) sandboxes(ctx context.Context, s scenario) ([][]sandbox, error) {
	agents := p.agents[:s.nodes]
	names := make([]string, s.nodes)
	for i, a := range agents {
		names[i] = a.node
	}
	pods, err := p.cluster.pods(ctx, names, s.pods)
	if err != nil {
		return nil, err
	}
	out := make([][]sandbox, s.nodes)
	for i, a := range agents {
		conf, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "bench", "ipam": map[string]any{
			"type": "spiderpool", "ipam_unix_socket_path": a.socket, "log_level": "panic", // what fails is in the report
			"default_ipv4_ippool": []string{p.pools[s.name]},
		}})
		if err != nil {
			return nil, err
		}
		for _, pod := range pods[i] {
			out[i] = append(out[i], sandboxOf(pod, conf))
		}
	}
	return out, nil
}

func sandboxOf(pod *corev1.Pod, conf []byte) sandbox {
	return sandbox{id: containerID(), namespace: pod.Namespace, pod: pod.Name, uid: string(pod.UID), conf: conf}
}

// missing waits for the SpiderEndpoints of all pods that got an address, and
// returns how many do not name it, and how often it looked.
func (p *product) missing(ctx context.Context, nodes [][]sandbox, outcomes [][]outcome) (missing, looks int, err error) {
	return eventually(ctx, p.patience, soon, func() (int, error) {
		said, err := p.cluster.endpoints(ctx)
		left := 0
		for n := range nodes {
			for i, s := range nodes[n] {
				if o := outcomes[n][i]; o.err == nil && said[s.uid] != o.address {
					left++
				}
			}
		}
		return left, err
	})
}

// end terminates the pods of a round, in the order of a real node: the pods are
// terminating, their sandboxes are disconnected, the objects go.
func (p *product) end(ctx context.Context, s scenario, nodes [][]sandbox, r *row) error {
	if err := p.cluster.terminate(ctx); err != nil {
		return err
	}
	outcomes, _ := p.drive(ctx, "DEL", nodes, s.inFlight)
	r.deleted(outcomes)
	held, _, err := eventually(ctx, p.patience, soon, func() (int, error) { return p.cluster.held(ctx, p.pools[s.name]) })
	if err != nil {
		return err
	}
	if held > 0 {
		r.fail(held, fmt.Errorf("%d addresses are not free %s after the last DEL", held, p.patience))
	}
	return p.cluster.remove(ctx)
}

// fate is what became of the agents.
func (p *product) fate() (fate, error) {
	f := fate{name: p.title}
	for _, a := range p.agents {
		if !a.Alive() {
			f.ended = append(f.ended, fmt.Sprintf("the agent of %s ended: %s", a.node, a.Tail(8)))
			continue
		}
		kib, err := memory(a.Process, "VmRSS")
		if err != nil {
			return f, err
		}
		f.kib = append(f.kib, kib)
	}
	return f, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
