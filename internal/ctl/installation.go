package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/fixed"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// installation is what the agents of a cluster were told.
type installation struct {
	families                  []pool.Family
	automaticPools            bool
	fixed                     fixed.Rules
	namespace, clusterNetwork string
}

// install finds the agents' DaemonSet, by a variable that every agent needs,
// and reads what it gives them.
func install(ctx context.Context, c client.Reader) (installation, error) {
	var sets appsv1.DaemonSetList
	if err := c.List(ctx, &sets); err != nil {
		return installation{}, fmt.Errorf("look for the DaemonSet of the agents: %w", err)
	}
	for i := range sets.Items {
		if env, ok := agentEnv(&sets.Items[i]); ok {
			return readInstallation(ctx, c, &sets.Items[i], env)
		}
	}
	return installation{}, fmt.Errorf("no DaemonSet runs the agents (none has the variable %s): is Spiderpool installed?", nodeName)
}

const nodeName = "SPIDERPOOL_NODE_NAME"

func agentEnv(set *appsv1.DaemonSet) (map[string]string, bool) {
	env := map[string]string{}
	for _, container := range set.Spec.Template.Spec.Containers {
		for _, e := range container.Env {
			env[e.Name] = e.Value
		}
	}
	_, ok := env[nodeName]
	return env, ok
}

func readInstallation(ctx context.Context, c client.Reader, set *appsv1.DaemonSet, env map[string]string) (installation, error) {
	out := installation{namespace: set.Namespace, clusterNetwork: env["MULTUS_CLUSTER_NETWORK"]}
	for _, v := range set.Spec.Template.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		m := &corev1.ConfigMap{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: set.Namespace, Name: v.ConfigMap.Name}, m); err != nil {
			return out, fmt.Errorf("read the ConfigMap of the agents: %w", err)
		}
		text, ok := m.Data["conf.yml"]
		if !ok {
			continue
		}
		conf, err := config.Parse([]byte(text))
		if err != nil {
			return out, fmt.Errorf("conf.yml in ConfigMap %s/%s: %w", m.Namespace, m.Name, err)
		}
		out.families, out.fixed, out.automaticPools = conf.Families(), conf.FixedAddresses(), conf.AutomaticPools()
		return out, nil
	}
	return out, fmt.Errorf("DaemonSet %s/%s mounts no ConfigMap with the key conf.yml", set.Namespace, set.Name)
}

// netConf is what of a network configuration decides which pools serve.
type netConf struct {
	Plugins []netConf `json:"plugins"`
	IPAM    struct {
		Type              string   `json:"type"`
		IPv4              []string `json:"default_ipv4_ippool"`
		IPv6              []string `json:"default_ipv6_ippool"`
		MatchMasterSubnet bool     `json:"match_master_subnet"`
		CleanGateway      bool     `json:"clean_gateway"`
	} `json:"ipam"`
}

// confOf reads the configuration of a Multus network, "namespace/name". known
// is false if the API server has none.
func confOf(ctx context.Context, c client.Reader, network string) (conf netConf, known bool, err error) {
	namespace, name, _ := strings.Cut(network, "/")
	nad := &unstructured.Unstructured{}
	nad.SetGroupVersionKind(schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1", Kind: "NetworkAttachmentDefinition"})
	switch err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, nad); {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return conf, false, nil
	case err != nil:
		return conf, false, fmt.Errorf("read the network %s: %w", network, err)
	}
	text, _, _ := unstructured.NestedString(nad.Object, "spec", "config")
	if text == "" {
		return conf, false, nil // Multus takes it from a file on the node
	}
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return conf, false, fmt.Errorf("spec.config of the network %s: %w", network, err)
	}
	for _, p := range conf.Plugins {
		if p.IPAM.Type == "spiderpool" {
			return p, true, nil
		}
	}
	return conf, true, nil
}
