package pool

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Candidate is a pool that an ADD may take from by its selection, or why there is
// none of that name.
type Candidate struct {
	Name string
	Pool *Pool
	Why  string
}

// Refusal is why a pool does not serve.
type Refusal struct{ Pool, Why string }

// Choose returns those candidates that serve s with family f, in the order in
// which they are tried, and why the others do not. Those made for fewer pods
// come first (see rank), and among equals the order given counts.
func Choose(s *PodContext, f Family, candidates []Candidate) (serve []*Pool, refused []Refusal) {
	for _, c := range candidates {
		if c.Pool != nil {
			c.Why = c.Pool.Refuses(s, f)
		}
		if c.Why != "" {
			refused = append(refused, Refusal{c.Name, c.Why})
		} else {
			serve = append(serve, c.Pool)
		}
	}
	slices.SortStableFunc(serve, func(a, b *Pool) int { return b.rank() - a.rank() })
	return serve, refused
}

// rank is the greater, the more narrowly a pool says whom it is for: by pods
// before nodes, nodes before namespaces, namespaces before networks, and a list
// of names before a selector. What decides nothing does not count: a selector
// beside names, and one that matches all.
func (p *Pool) rank() (rank int) {
	says := func(names []string, s labels.Selector) bool { return len(names) == 0 && s != nil && !s.Empty() } // it is looked at
	for _, bound := range []bool{
		says(nil, p.pod) || p.Automatic != nil, len(p.spec.NodeName) > 0, says(p.spec.NodeName, p.node),
		len(p.spec.NamespaceName) > 0, says(p.spec.NamespaceName, p.ns), len(p.spec.MultusName) > 0,
	} {
		rank *= 2
		if bound {
			rank++
		}
	}
	return rank
}

// Refuses says why the pool serves s no address of family f, or "" if it does.
// Rules are tried in a fixed order and the first reason counts. nodeName
// stands before nodeAffinity and namespaceName before namespaceAffinity: where
// the list is set, the selector beside it is not looked at.
func (p *Pool) Refuses(s *PodContext, f Family) string {
	switch {
	case p.terminating:
		return "it is being deleted"
	case deref(p.spec.Disable):
		return "it is disabled (spec.disable)"
	case p.Family != f:
		return fmt.Sprintf("it is an %s pool, %s is asked for", p.Family, f)
	case p.foreign:
		return "its status holds addresses of an older Spiderpool: run 'spiderpoolctl migrate' first"
	}
	if why := cmp.Or(
		p.unmatched("Node", p.spec.NodeName, p.node, s.Node, s.NodeLabels),
		p.unmatched("Namespace", p.spec.NamespaceName, p.ns, s.Namespace, s.NamespaceLabels),
		p.unmatched("Pod", nil, p.pod, "", s.PodLabels),
		p.unmatchedApplication(s),
	); why != "" {
		return why
	}
	if why := p.refusesNetwork(s); why != "" {
		return why
	}
	return p.refusesParent(s)
}

func (p *Pool) unmatchedApplication(s *PodContext) string {
	if p.Automatic == nil {
		return ""
	}
	return p.Automatic.refuses(s)
}

// refusesNetwork binds a pool to Multus networks, if it names any.
func (p *Pool) refusesNetwork(s *PodContext) string {
	if len(p.spec.MultusName) == 0 {
		return ""
	}
	network, err := s.Network()
	if err != nil {
		return fmt.Sprintf("spec.multusName is %v, and the network of %s is not known: %v", p.spec.MultusName, s.Interface, err)
	}
	if slices.ContainsFunc(p.spec.MultusName, func(name string) bool { return parseElement(name).in(s.OwnNamespace) == network }) {
		return ""
	}
	return fmt.Sprintf("unmatched Multus name of IPPool %s: interface %s is not matched, it is of %s and spec.multusName is %v",
		p.Name, s.Interface, network, p.spec.MultusName)
}

// refusesParent keeps pods on the parent interface's own subnet, if the network
// configuration wants that.
func (p *Pool) refusesParent(s *PodContext) string {
	if !s.Conf.MatchParent || slices.ContainsFunc(s.Conf.Parent, p.Subnet.Contains) {
		return ""
	}
	return fmt.Sprintf("match_master_subnet: its subnet %s holds none of the parent interface's addresses %v", p.Subnet, s.Conf.Parent)
}

// unmatched is what tools look for: the first words up to the pool's name stay.
func (p *Pool) unmatched(kind string, names []string, selector labels.Selector, name string, set map[string]string) string {
	switch {
	case len(names) > 0:
		if !slices.Contains(names, name) {
			return fmt.Sprintf("unmatched %s name of IPPool %s: spec.%sName is %v, this is %s", kind, p.Name, strings.ToLower(kind), names, name)
		}
	case selector != nil && !selector.Matches(labels.Set(set)):
		return fmt.Sprintf("unmatched %s labels of IPPool %s: spec.%sAffinity is %q", kind, p.Name, strings.ToLower(kind), selector)
	}
	return ""
}
