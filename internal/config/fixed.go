package config

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// FixedAddresses returns which pods keep their addresses.
func (c *Config) FixedAddresses() fixed.Rules {
	rules := fixed.Rules{VirtualMachines: c.EnableKubevirtStaticIP}
	if c.EnableStatefulSet {
		rules.Kinds = append(rules.Kinds, schema.GroupKind{Group: "apps", Kind: "StatefulSet"})
	}
	return rules
}
