// Package ctl holds the views of the command line.
package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/facts"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Explain writes from which pools an interface of a pod is served, and why not
// from others: by the agent's own rules, with nothing claimed. An error means
// that it cannot be told.
func Explain(ctx context.Context, c client.Client, pod client.ObjectKey, ifname string, out io.Writer) error {
	e := &explanation{client: c, out: out}
	if err := e.read(ctx, pod, ifname); err != nil {
		return err
	}
	node := e.podContext.Node
	if node == "" {
		node = "none yet"
	}
	e.say("pod %s, interface %s, node %s", pod, ifname, node)
	e.holdings()
	if why := facts.Finished(e.pod); why != "" {
		e.say("gets no address: it %s", why)
		return nil
	}
	selection, err := pool.SelectionOf(e.podContext, e.facts.Pools(), e.installed.families)
	if err != nil {
		e.say("refused: %v", err)
	}
	e.notes(selection)
	for _, f := range pool.Families {
		if len(selection.Names[f]) == 0 {
			continue
		}
		if err := e.family(ctx, selection, f); err != nil {
			return err
		}
	}
	return nil
}

// explanation is one run of Explain.
type explanation struct {
	client client.Client
	out    io.Writer

	pod         *corev1.Pod
	entries     []v2beta1.SpiderIP
	facts       *facts.Facts
	installed   installation
	podContext  *pool.PodContext
	confKnown   bool
	matchParent bool // the configuration wants it; only the node can tell
}

func (e *explanation) say(format string, args ...any) { fmt.Fprintf(e.out, format+"\n", args...) }

// read gathers the facts.
func (e *explanation) read(ctx context.Context, key client.ObjectKey, ifname string) (err error) {
	e.pod = &corev1.Pod{}
	if err := e.client.Get(ctx, key, e.pod); err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	if e.pod.Spec.HostNetwork {
		return fmt.Errorf("pod %s uses the node's network: no plugin is asked for an address", key)
	}
	if e.installed, err = install(ctx, e.client); err != nil {
		return err
	}
	if e.entries, err = ledger.New(e.client).All(ctx); err != nil {
		return err
	}
	if e.facts, err = facts.Read(ctx, e.client, e.pod.Spec.NodeName); err != nil {
		return err
	}
	if e.podContext, err = e.facts.PodContext(ctx, e.pod); err != nil {
		return err
	}
	e.podContext.Interface = ifname
	e.podContext.ClusterNetwork, e.podContext.OwnNamespace = e.installed.clusterNetwork, e.installed.namespace
	if network, err := e.podContext.Network(); err == nil { // else only pools that name networks need to know
		return e.readConf(ctx, network)
	}
	return nil
}

// readConf reads the configuration of the interface's network, if the API server has it.
func (e *explanation) readConf(ctx context.Context, network string) error {
	conf, known, err := confOf(ctx, e.client, network)
	e.confKnown = known
	e.podContext.Conf.Pools = map[pool.Family][]string{pool.IPv4: conf.IPAM.IPv4, pool.IPv6: conf.IPAM.IPv6}
	e.matchParent = conf.IPAM.MatchMasterSubnet
	return err
}

// notes says what only the node knows.
func (e *explanation) notes(selection pool.Selection) {
	if selection.Source != "" {
		e.say("pools from %s", selection.Source)
	}
	if !e.confKnown && (selection.Source == "" || selection.Source == pool.FromDefaults) {
		e.say("note: the CNI configuration is on the node and not seen from here; pools that it names (default_ipv4_ippool, default_ipv6_ippool) come before spec.default")
	}
	if e.matchParent {
		e.say("note: match_master_subnet is set; the addresses of the parent interface are known on the node only")
	}
}

// holdings says what the interface has now.
func (e *explanation) holdings() {
	uid := string(e.pod.UID)
	if mirrored := e.pod.Annotations[corev1.MirrorPodAnnotationKey]; mirrored != "" {
		uid = mirrored
	}
	for _, ip := range e.entries {
		if ip.Spec.Pod.UID == uid && ip.Spec.Interface == e.podContext.Interface {
			e.say("holds %s of pool %s (container %s)", ip.Spec.Address, ip.Spec.Pool, ip.Spec.ContainerID)
		}
	}
}

// family says what an ADD would come to for one family.
func (e *explanation) family(ctx context.Context, selection pool.Selection, f pool.Family) error {
	candidates, err := e.facts.Candidates(ctx, selection, f)
	if err != nil {
		return err
	}
	serve, refused := pool.Choose(e.podContext, f, candidates)
	unserved := &pool.Unserved{Interface: e.podContext.Interface, Family: f, Selection: selection, Why: refused}
	e.say("%s, in the order in which pools are tried:", f)
	first := ""
	for i, p := range serve {
		usage, err := e.usage(ctx, p)
		if err != nil {
			return err
		}
		e.say("  %d. pool %s: %s", i+1, p.Name, usage)
		if usage.Free != (addr.Count{}) && first == "" {
			first = p.Name
		}
		unserved.Why = append(unserved.Why, pool.Refusal{Pool: p.Name, Why: usage.UsedOut()})
	}
	for _, r := range refused {
		e.say("  -  pool %s does not serve: %s", r.Pool, r.Why)
	}
	switch {
	case first != "":
		e.say("  the next address comes from pool %s", first)
	case len(serve) > 0:
		e.say("  an ADD waits for an address, and is then told: %v", unserved)
	default:
		e.say("  an ADD is refused: %v", unserved)
	}
	return nil
}

// usage counts the addresses of a pool, in whichever pool's name they are held.
func (e *explanation) usage(ctx context.Context, p *pool.Pool) (pool.Usage, error) {
	gives := e.facts.Gives(p)
	u := pool.Usage{Size: gives.Count(), Reserved: p.Addresses.Minus(gives).Count()}
	var ranges []addr.Range
	var entries []v2beta1.SpiderIP
	for _, entry := range e.entries {
		if a, err := addr.ParseAddr(entry.Spec.Address); err == nil && gives.Contains(a) {
			one, _ := addr.MakeRange(a, a)
			ranges, entries = append(ranges, one), append(entries, entry)
		}
	}
	u.Free = gives.Minus(addr.MakeSet(ranges...)).Count()
	var err error
	u.Terminating, err = e.terminating(ctx, entries)
	return u, err
}

// terminating counts the entries whose pods are being deleted or gone. Pods are
// listed by namespace, without what they are made of.
func (e *explanation) terminating(ctx context.Context, entries []v2beta1.SpiderIP) (n int, err error) {
	living := map[string]bool{}
	listed := map[string]bool{}
	for _, entry := range entries {
		pod := entry.Spec.Pod
		if !listed[pod.Namespace] {
			listed[pod.Namespace] = true
			var pods metav1.PartialObjectMetadataList
			pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
			if err := e.client.List(ctx, &pods, client.InNamespace(pod.Namespace)); err != nil {
				return 0, fmt.Errorf("list the pods of namespace %s: %w", pod.Namespace, err)
			}
			for _, p := range pods.Items {
				if p.DeletionTimestamp == nil {
					living[string(p.UID)] = true
					living[p.Annotations[corev1.MirrorPodAnnotationKey]] = true
				}
			}
		}
		if !living[pod.UID] {
			n++
		}
	}
	return n, nil
}

// ParsePod reads "namespace/name".
func ParsePod(text string) (client.ObjectKey, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return client.ObjectKey{}, fmt.Errorf("pod %q: want NAMESPACE/NAME", text)
	}
	return client.ObjectKey{Namespace: namespace, Name: name}, nil
}
