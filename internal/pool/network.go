package pool

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// firstInterface is what container runtimes call the first interface of a pod.
const firstInterface = "eth0"

// network is one network of a pod, as Multus reads it: "namespace/name", and
// the interface that it becomes.
type network struct{ name, ifname string }

// networks lists the further networks of a pod, from the annotation
// k8s.v1.cni.cncf.io/networks: a JSON list, or [namespace/]name[@interface]
// with commas between. The n-th, from 1, is net<n> unless it says otherwise
// (Kubernetes Network Custom Resource Definition De-facto Standard 1.3, §4.1).
func (s *PodContext) networks() ([]network, error) {
	const key = v2beta1.AnnotationMultusNetworks
	text := strings.TrimSpace(s.PodAnnotations[key])
	var elements []element
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
	var out []network
	for i, e := range elements {
		if e.Name == "" {
			return nil, fmt.Errorf("wrong input, invalid format of Pod annotation '%s': entry %d names no network", key, i+1)
		}
		if e.Interface == "" {
			e.Interface = fmt.Sprintf("net%d", i+1)
		}
		out = append(out, network{e.in(s.Namespace), e.Interface})
	}
	return out, nil
}

// element is how a network is named in an annotation or a setting.
type element struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Interface string `json:"interface"`
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
	if e.Namespace != "" {
		namespace = e.Namespace
	}
	return namespace + "/" + e.Name
}

// defaultNetwork is the network of eth0: what the pod chooses by the annotation
// v1.multus-cni.io/default-network, else that of the cluster; "" if neither
// says.
func (s *PodContext) defaultNetwork() (string, error) {
	const key = v2beta1.AnnotationMultusDefaultNetwork
	text := strings.TrimSpace(s.PodAnnotations[key])
	if text == "" {
		text = s.ClusterNetwork
	}
	if !strings.HasPrefix(text, "[") {
		if text == "" {
			return "", nil
		}
		return parseElement(text).in(s.OwnNamespace), nil
	}
	var elements []element
	if err := json.Unmarshal([]byte(text), &elements); err != nil || len(elements) != 1 || elements[0].Name == "" {
		return "", fmt.Errorf("wrong input, invalid format of Pod annotation '%s': want one network, found %s", key, text)
	}
	return elements[0].in(s.OwnNamespace), nil
}

// Network returns the Multus network of the interface, as "namespace/name". It
// is an error if nothing says which it is.
func (s *PodContext) Network() (string, error) {
	if s.Interface == firstInterface {
		name, err := s.defaultNetwork()
		if err == nil && name == "" {
			err = fmt.Errorf("cluster-network multus isn't set: neither the Pod annotation %s nor the agent's setting "+
				"MULTUS_CLUSTER_NETWORK says which Multus network %s belongs to", v2beta1.AnnotationMultusDefaultNetwork, s.Interface)
		}
		return name, err
	}
	all, err := s.networks()
	if err != nil {
		return "", err
	}
	i, err := s.indexIn(all)
	if err != nil {
		return "", err
	}
	return all[i].name, nil
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
	i, err := s.indexIn(all)
	return i + 1, err
}

func (s *PodContext) indexIn(all []network) (int, error) {
	for i, n := range all {
		if n.ifname == s.Interface {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the Pod annotation %s has no network for the interface %s", v2beta1.AnnotationMultusNetworks, s.Interface)
}
