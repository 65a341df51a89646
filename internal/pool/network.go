package pool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// firstInterface is what container runtimes call the first interface of a pod.
const firstInterface = "eth0"

// Multus makes the interfaces of a pod in this order: eth0 of the cluster's
// network or the one that the pod chose, those of its setting defaultNetworks,
// and those of the pod's annotation networks. The n-th after eth0 is net<n>,
// unless the annotation names its interface. So net<n> need not be the n-th of
// the annotation: nobody here knows defaultNetworks. What tells is the name of
// the network configuration, which comes with the CNI call.

// element is how a network is named in an annotation or a setting.
type element struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Interface string `json:"interface"`
	// InterfaceRequest is what Multus before 3.2 called it, and understands still.
	InterfaceRequest string `json:"interfaceRequest"`
}

func parseElement(text string) (e element) {
	text, e.Interface, _ = strings.Cut(text, "@")
	e.Name = text
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		e.Namespace, e.Name = namespace, name
	}
	return e
}

// in is the full name of the network, in a namespace if it tells none.
func (e element) in(namespace string) string {
	return cmp.Or(e.Namespace, namespace) + "/" + e.Name
}

// parseElements reads a JSON list, or [namespace/]name[@interface] with commas
// between (Kubernetes Network Custom Resource Definition De-facto Standard 1.3,
// section 4.1).
func parseElements(key, text string) ([]element, error) {
	var elements []element
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &elements); err != nil {
			return nil, fmt.Errorf("wrong input, invalid format of Pod annotation '%s': %w", key, err)
		}
	} else {
		for one := range strings.SplitSeq(text, ",") {
			if one = strings.TrimSpace(one); one != "" {
				elements = append(elements, parseElement(one))
			}
		}
	}
	if len(elements) > MaxInterfaces {
		return nil, fmt.Errorf("wrong input, Pod annotation '%s' names %d networks, at most %d are accepted", key, len(elements), MaxInterfaces)
	}
	for i := range elements {
		e := &elements[i]
		if e.Name == "" {
			return nil, fmt.Errorf("wrong input, invalid format of Pod annotation '%s': entry %d names no network", key, i+1)
		}
		e.Interface = cmp.Or(e.Interface, e.InterfaceRequest)
	}
	return elements, nil
}

// networks are the further networks of a pod.
func (s *PodContext) networks() ([]element, error) {
	return parseElements(v2beta1.AnnotationMultusNetworks, s.PodAnnotations[v2beta1.AnnotationMultusNetworks])
}

// defaultNetwork is the network of eth0: what the pod chooses by the annotation
// v1.multus-cni.io/default-network, else that of the cluster.
func (s *PodContext) defaultNetwork() (string, error) {
	const key = v2beta1.AnnotationMultusDefaultNetwork
	text := cmp.Or(strings.TrimSpace(s.PodAnnotations[key]), s.ClusterNetwork)
	if text == "" {
		return "", fmt.Errorf("cluster-network multus isn't set: neither the Pod annotation %s nor the agent's setting "+
			"MULTUS_CLUSTER_NETWORK says which Multus network %s belongs to", key, s.Interface)
	}
	if !strings.HasPrefix(text, "[") {
		return parseElement(text).in(s.OwnNamespace), nil
	}
	elements, err := parseElements(key, text)
	if err != nil || len(elements) != 1 {
		return "", fmt.Errorf("wrong input, invalid format of Pod annotation '%s': want one network, found %s", key, text)
	}
	return elements[0].in(s.OwnNamespace), nil
}

// Network returns the Multus network of the interface, as "namespace/name". It
// is an error if nothing says for sure which it is.
func (s *PodContext) Network() (string, error) {
	if s.Interface == firstInterface {
		return s.defaultNetwork()
	}
	all, err := s.networks()
	if err != nil {
		return "", err
	}
	if s.isDefaultNetwork(all) {
		ofMultus := cmp.Or(parseElement(s.ClusterNetwork).Namespace, s.OwnNamespace) // where the cluster's network is, and defaultNetworks are
		return element{Name: s.ConfName}.in(ofMultus), nil
	}
	i, _, err := s.placeIn(all)
	if err != nil {
		return "", err
	}
	return all[i].in(s.Namespace), nil
}

// position is the place of the interface in the pod: 0 is eth0, n the n-th
// entry of the annotation k8s.v1.cni.cncf.io/networks.
func (s *PodContext) position() (int, error) {
	if s.Interface == firstInterface {
		return 0, nil
	}
	all, err := s.networks()
	if err != nil {
		return 0, err
	}
	i, sure, err := s.placeIn(all)
	if err == nil && !sure {
		err = s.uncertain()
	}
	return i + 1, err
}

// isDefaultNetwork reports whether the interface can only be one of Multus'
// defaultNetworks: every network of the annotation names its interface, and none
// names this one.
func (s *PodContext) isDefaultNetwork(all []element) bool {
	return s.ConfName != "" && s.number() > 0 &&
		!slices.ContainsFunc(all, func(e element) bool { return e.Interface == "" || e.Interface == s.Interface })
}

// placeIn returns which entry of the annotation the interface is: the one that
// names it; else one of those before which there may be defaultNetworks enough
// and whose network has the name of the call's configuration, if they are all of
// one network. It is sure of the entry if that is the only one or stands at the
// interface's own number.
func (s *PodContext) placeIn(all []element) (i int, sure bool, err error) {
	n := s.number()
	var at []int
	for i, e := range all {
		if e.Interface == s.Interface {
			return i, true, nil
		}
		if e.Interface == "" && i < n && (e.Name == s.ConfName || s.ConfName == "" && i == n-1) {
			at = append(at, i)
		}
	}
	switch {
	case len(at) == 0 && s.ConfName != "" && len(all) > 0 && n > 0:
		return 0, false, s.uncertain()
	case len(at) == 0:
		return 0, false, fmt.Errorf("the Pod annotation %s has no network for the interface %s", v2beta1.AnnotationMultusNetworks, s.Interface)
	case slices.ContainsFunc(at, func(i int) bool { return all[i].in(s.Namespace) != all[at[0]].in(s.Namespace) }):
		return 0, false, s.uncertain()
	}
	last := at[len(at)-1]
	return last, len(at) == 1 || last == n-1, nil
}

// number is n of net<n>; 0 if the interface is called otherwise.
func (s *PodContext) number() (n int) {
	if _, err := fmt.Sscanf(s.Interface, "net%d", &n); err != nil || s.Interface != fmt.Sprintf("net%d", n) {
		return 0
	}
	return max(n, 0)
}

// uncertain is why it cannot be told which entry of the annotation an interface
// is.
func (s *PodContext) uncertain() error {
	return fmt.Errorf("nothing says which network of the Pod annotation %s the interface %s is, whose network configuration is called %q: "+
		`Multus may have defaultNetworks before them; name the interface of each network there (name@%s, in JSON "interface":"%s"), `+
		"or give the configuration the name of its NetworkAttachmentDefinition",
		v2beta1.AnnotationMultusNetworks, s.Interface, s.ConfName, s.Interface, s.Interface)
}

// KnownInterfaces are those that the pod is known to have: eth0 and those of the
// networks it names, as long as Multus has no defaultNetworks.
func (s *PodContext) KnownInterfaces() ([]string, error) {
	all, err := s.networks()
	out := []string{firstInterface}
	for i, e := range all {
		out = append(out, cmp.Or(e.Interface, fmt.Sprintf("net%d", i+1)))
	}
	return out, err
}
