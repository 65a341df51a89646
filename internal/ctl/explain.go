// Package ctl holds the views of the command line.
package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
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
	e := &explanation{client: c, out: out, pods: map[string]map[string]*metav1.PartialObjectMetadata{}}
	if err := e.read(ctx, pod, ifname); err != nil {
		return err
	}
	e.say("pod %s, interface %s, node %s", pod, ifname, cmp.Or(e.podContext.Node, "none yet"))
	held := e.holdings()
	e.fixation()
	if why := facts.Finished(e.pod); why != "" {
		e.say("gets no address: it %s", why)
		return nil
	}
	if !held && !e.mayHave(ifname) {
		return nil
	}
	selection, err := pool.SelectionOf(e.podContext, e.facts.Pools(), e.installed.families)
	if err != nil {
		e.say("refused: %v", err)
	}
	e.notes(selection)
	var next []*pool.Pool
	for _, f := range pool.Families {
		if !selection.Has(f) {
			e.unnamed(selection, f)
			continue
		}
		p, err := e.family(ctx, selection, f)
		if err != nil {
			return err
		}
		if p != nil {
			next = append(next, p)
		}
	}
	e.routes(selection, next)
	return nil
}

// explanation is one run of Explain.
type explanation struct {
	client client.Client
	out    io.Writer

	pod         *corev1.Pod
	entries     []v2beta1.SpiderIP
	held        addr.Set                                            // the addresses of entries
	pods        map[string]map[string]*metav1.PartialObjectMetadata // by namespace and UID as CNI gives it
	facts       *facts.Facts
	installed   installation
	owner       *v2beta1.IPOwner // what fixed addresses belong to; nil if the pod has none
	stateless   string           // why it has none
	listed      []string         // addresses of the interface in the SpiderEndpoint: what the pod gets again
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
	e.held = addressesOf(e.entries)
	if e.facts, err = facts.Read(ctx, e.client, e.pod.Spec.NodeName); err != nil {
		return err
	}
	if e.podContext, err = e.facts.PodContext(ctx, e.pod); err != nil {
		return err
	}
	e.podContext.Interface, e.podContext.AutomaticPools = ifname, e.installed.automaticPools
	if e.podContext.Application, err = e.facts.Application(ctx, e.pod); err != nil {
		return err
	}
	e.podContext.ClusterNetwork, e.podContext.OwnNamespace = e.installed.clusterNetwork, e.installed.namespace
	if err := e.readFixed(ctx); err != nil {
		return err
	}
	if network, err := e.podContext.Network(); err == nil { // else only pools that name networks need to know
		return e.readConf(ctx, network)
	}
	return nil
}

func addressesOf(entries []v2beta1.SpiderIP) addr.Set {
	var ranges []addr.Range
	for _, entry := range entries {
		if r, err := addr.ParseRange(entry.Spec.Address); err == nil {
			ranges = append(ranges, r)
		}
	}
	return addr.MakeSet(ranges...)
}

// readConf reads the configuration of the interface's network, if the API server has it.
func (e *explanation) readConf(ctx context.Context, network string) error {
	conf, known, err := confOf(ctx, e.client, network)
	e.confKnown, e.matchParent = known, conf.IPAM.MatchMasterSubnet
	e.podContext.Conf = pool.Conf{
		CleanGateway: conf.IPAM.CleanGateway, Pools: map[pool.Family][]string{pool.IPv4: conf.IPAM.IPv4, pool.IPv6: conf.IPAM.IPv6},
	}
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

// holdings says what the interface has now and what is kept for it, and reports whether that is anything.
func (e *explanation) holdings() (held bool) {
	for i := range e.entries {
		switch s := &e.entries[i].Spec; {
		case e.owns(s):
			e.say("holds %s of pool %s (container %s)", s.Address, s.Pool, s.ContainerID)
			held = true
		case s.Use == v2beta1.IPUseKept && e.inherits(s):
			e.say("kept for it: %s of pool %s (%s)", s.Address, s.Pool, cmp.Or(s.Reason, "no reason is given"))
			held = true
		}
	}
	return held
}

// uidOf is the UID of a pod as CNI gives it: for the mirror of a static pod, the
// hash of the configuration.
func uidOf(p metav1.Object) string {
	if mirrored := p.GetAnnotations()[corev1.MirrorPodAnnotationKey]; mirrored != "" {
		return mirrored
	}
	return string(p.GetUID())
}

// mayHave says so if nothing tells that the pod has an interface, and reports
// whether it may have it all the same.
func (e *explanation) mayHave(ifname string) bool {
	known, err := e.podContext.KnownInterfaces()
	if err != nil {
		e.say("note: %v", err)
	}
	if slices.Contains(known, ifname) {
		return true
	}
	e.say("note: nothing says that the pod has an interface %s, it has %s", ifname, strings.Join(known, ", "))
	if strings.HasPrefix(ifname, "net") {
		e.say("note: Multus may make it of its setting defaultNetworks, which is not seen from here")
		return true
	}
	return false
}

// routes says what becomes of the routes that the pod asks for, and of default
// routes, if its addresses come from some pools.
func (e *explanation) routes(selection pool.Selection, next []*pool.Pool) {
	routes, warnings, err := pool.RoutesOf(e.podContext)
	if err != nil {
		e.say("refused: %v", err)
	}
	for _, warning := range warnings {
		e.say("warning: %s", warning)
	}
	for _, r := range routes {
		if !slices.ContainsFunc(next, func(p *pool.Pool) bool { return p.TakesRoute(e.podContext.Interface, r) }) {
			e.say("note: this interface does not get the pod's route to %s: the next hop %s is in no subnet of its pools", r.Dst, r.GW)
		}
	}
	known, _ := e.podContext.KnownInterfaces()
	clean := e.podContext.Conf.CleanGateway || selection.CleanGateway != nil && *selection.CleanGateway
	for _, p := range next {
		if p.Gateway.IsValid() && !clean && len(known) > 1 {
			e.say("note: this interface gets an %s default route by %s, of pool %s; the pod has %s, and one default route is enough: "+
				"name the pools in %s, with \"cleangateway\":true for the other interfaces", p.Family, p.Gateway, p.Name, strings.Join(known, ", "), v2beta1.AnnotationIPPools)
		}
	}
}

// family says what an ADD would come to for one family, and returns the pool
// that the next address comes from, if any.
func (e *explanation) family(ctx context.Context, selection pool.Selection, f pool.Family) (next *pool.Pool, err error) {
	if err := e.subnet(ctx, selection, f); err != nil {
		return nil, err
	}
	candidates, err := e.facts.Candidates(ctx, selection, f)
	if err != nil {
		return nil, err
	}
	serve, refused := pool.Choose(e.podContext, f, candidates)
	unserved := &pool.Unserved{Interface: e.podContext.Interface, Family: f, Selection: selection, Why: refused}
	if len(candidates) > 0 {
		e.say("%s, in the order in which pools are tried:", f)
	}
	for i, p := range serve {
		usage, err := e.usage(ctx, p)
		if err != nil {
			return nil, err
		}
		e.say("  %d. pool %s: %s", i+1, p.Name, usage)
		for _, warning := range p.Warnings {
			e.say("     warning: %s", warning)
		}
		if !usage.Free.IsZero() && next == nil {
			next = p
		}
		unserved.Why = append(unserved.Why, pool.Refusal{Pool: p.Name, Why: usage.UsedOut()})
	}
	for _, r := range refused {
		e.say("  -  pool %s does not serve: %s", r.Pool, r.Why)
	}
	if entry := e.fixedOf(f); entry != nil {
		if p := e.again(entry, serve, refused); p != nil {
			return p, nil
		}
	}
	switch {
	case next != nil:
		e.say("  the next address comes from pool %s", next.Name)
	case len(serve) > 0 || selection.Subnets != nil:
		e.say("  an ADD waits for an address, and is then told: %v", unserved)
	default:
		e.say("  an ADD is refused: %v", unserved)
	}
	return next, nil
}

// usage counts the addresses of a pool, in whichever pool's name they are held.
func (e *explanation) usage(ctx context.Context, p *pool.Pool) (pool.Usage, error) {
	gives := e.facts.Gives(p)
	u := pool.Usage{Size: gives.Count(), Free: gives.Minus(e.held).Count(), Reserved: p.Addresses.Minus(gives).Count()}
	for _, entry := range e.entries {
		if a, err := addr.ParseAddr(entry.Spec.Address); err != nil || !gives.Contains(a) {
			continue
		}
		if u.CountWithoutPod(&entry.Spec, e.pod.Namespace) {
			continue
		}
		holder, err := e.holder(ctx, entry)
		switch {
		case err != nil:
			return u, err
		case holder == nil || holder.DeletionTimestamp != nil:
			u.Terminating++
		case u.Free.IsZero():
			h := pool.Holder{Pod: entry.Spec.Pod.Namespace + "/" + entry.Spec.Pod.Name, Node: entry.Spec.Node, State: "running"}
			if len(u.Holders) < pool.MaxHolders { // the others are not shown
				err = e.own(ctx, holder, &h)
			}
			if err != nil {
				return u, err
			}
			u.Holders = append(u.Holders, h)
		}
	}
	return u, nil
}

// holder returns the pod of an entry, nil if it is gone. Pods are listed by
// namespace, without what they are made of.
func (e *explanation) holder(ctx context.Context, entry v2beta1.SpiderIP) (*metav1.PartialObjectMetadata, error) {
	namespace := entry.Spec.Pod.Namespace
	if _, listed := e.pods[namespace]; !listed {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		if err := e.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("list the pods of namespace %s: %w", namespace, err)
		}
		e.pods[namespace] = map[string]*metav1.PartialObjectMetadata{}
		for i := range list.Items {
			e.pods[namespace][uidOf(&list.Items[i])] = &list.Items[i]
		}
	}
	return e.pods[namespace][entry.Spec.Pod.UID], nil
}

// own says in h whose a pod is.
func (e *explanation) own(ctx context.Context, p *metav1.PartialObjectMetadata, h *pool.Holder) error {
	mine, err := e.facts.TopOwner(ctx, e.pod)
	if err != nil {
		return err
	}
	owner, err := e.facts.TopOwner(ctx, &corev1.Pod{ObjectMeta: p.ObjectMeta})
	if err == nil && owner.UID != p.UID {
		h.Owner, h.SameOwner = owner.Kind+" "+owner.Name, owner.UID == mine.UID
	}
	return err
}

// ParsePod reads "namespace/name".
func ParsePod(text string) (client.ObjectKey, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return client.ObjectKey{}, fmt.Errorf("pod %q: want NAMESPACE/NAME", text)
	}
	return client.ObjectKey{Namespace: namespace, Name: name}, nil
}
