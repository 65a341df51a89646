package pool

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Subject is what the rules of a pool look at: the pod that asks, as values.
type Subject struct {
	Node            string
	NodeLabels      map[string]string
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
}

// Refuses says why the pool serves s no address of family f, or "" if it does.
// Rules are tried in a fixed order and the first reason counts. nodeName
// stands before nodeAffinity and namespaceName before namespaceAffinity: where
// the list is set, the selector beside it is not looked at.
func (p *Pool) Refuses(s *Subject, f Family) string {
	switch {
	case p.terminating:
		return "it is being deleted"
	case p.disabled:
		return "it is disabled (spec.disable)"
	case p.Family != f:
		return fmt.Sprintf("it is an %s pool, %s is asked for", p.Family, f)
	case p.foreign:
		return "its status holds addresses of an older Spiderpool: run 'spiderpoolctl migrate' first"
	case len(p.multusName) > 0:
		return fmt.Sprintf("spec.multusName %v binds it to Multus networks, which this version does not select by", p.multusName)
	}
	for _, reason := range []string{
		unmatched("Node", p.nodeName, p.node, s.Node, s.NodeLabels),
		unmatched("Namespace", p.namespace, p.ns, s.Namespace, s.NamespaceLabels),
		unmatched("Pod", nil, p.pod, "", s.PodLabels),
	} {
		if reason != "" {
			return reason
		}
	}
	return ""
}

func unmatched(kind string, names []string, selector labels.Selector, name string, set map[string]string) string {
	switch {
	case len(names) > 0:
		if !slices.Contains(names, name) {
			return fmt.Sprintf("unmatched %s name of IPPool: spec.%sName is %v, this is %s", kind, strings.ToLower(kind), names, name)
		}
	case selector != nil && !selector.Matches(labels.Set(set)):
		return fmt.Sprintf("unmatched %s labels of IPPool: spec.%sAffinity is %q", kind, strings.ToLower(kind), selector)
	}
	return ""
}
