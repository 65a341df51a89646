package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// FixedAddressKind is a kind of owner whose pods come back under their names, and keep their addresses.
type FixedAddressKind struct {
	// APIVersion and Kind are those of the objects that own the pods. Every version of the group counts.
	APIVersion, Kind string
	// Resource is the plural by which the API server knows the kind, which roles need; default: the kind in lower case and
	// an "s".
	Resource string
}

// maxFixedAddressKinds is how many kinds may have fixed addresses: each is a right of every agent.
const maxFixedAddressKinds = 32

// FixedAddresses returns which pods keep their addresses.
func (c *Config) FixedAddresses() fixed.Rules {
	rules := fixed.Rules{VirtualMachines: c.EnableKubevirtStaticIP}
	if c.EnableStatefulSet {
		rules.Kinds = append(rules.Kinds, schema.GroupKind{Group: "apps", Kind: "StatefulSet"})
	}
	for _, k := range c.FixedAddressKinds {
		rules.Kinds = append(rules.Kinds, k.groupKind())
	}
	return rules
}

func (k FixedAddressKind) groupKind() schema.GroupKind {
	return schema.FromAPIVersionAndKind(k.APIVersion, k.Kind).GroupKind()
}

// fixedAddressKinds reads the list of kinds. Its error names all entries that are wrong.
func fixedAddressKinds(value string) (kinds []FixedAddressKind, err error) {
	var list []json.RawMessage
	switch {
	case json.Unmarshal([]byte(value), &list) != nil:
		return nil, errors.New("want a list of {apiVersion, kind, resource}")
	case len(list) > maxFixedAddressKinds:
		return nil, fmt.Errorf("it has %d entries, want at most %d", len(list), maxFixedAddressKinds)
	}
	var wrong []string
	seen := map[schema.GroupKind]int{}
	for i, entry := range list {
		kind, err := fixedAddressKind(entry)
		if first := seen[kind.groupKind()]; err == nil && first > 0 {
			err = fmt.Errorf("it is the kind of entry %d, whatever the version: remove one", first)
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("entry %d: %v", i+1, err))
			continue
		}
		seen[kind.groupKind()] = i + 1
		kinds = append(kinds, kind)
	}
	if wrong != nil {
		return nil, errors.New(strings.Join(wrong, "; "))
	}
	return kinds, nil
}

// fixedAddressKind reads one entry.
func fixedAddressKind(entry json.RawMessage) (k FixedAddressKind, err error) {
	var fields map[string]string
	if json.Unmarshal(entry, &fields) != nil {
		return k, errors.New("want the texts apiVersion, kind and, if it is no usual plural, resource")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch known := name == "apiVersion" || name == "kind" || name == "resource"; {
		case !known:
			return k, fmt.Errorf("unknown field %q: want apiVersion, kind and resource", name)
		case fields[name] == "":
			return k, fmt.Errorf("%s is empty: fill it in or remove it", name)
		}
	}
	k = FixedAddressKind{APIVersion: fields["apiVersion"], Kind: fields["kind"], Resource: fields["resource"]}
	if k.Resource == "" {
		k.Resource = strings.ToLower(k.Kind) + "s"
	}
	return k, k.check()
}

// check refuses what is malformed, what has a switch of its own, and kinds whose pods never come back under their names.
func (k FixedAddressKind) check() error {
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	group := gv.Group
	switch {
	case k.APIVersion == "" || k.Kind == "":
		return errors.New("want apiVersion and kind")
	case err != nil || len(validation.IsDNS1035Label(gv.Version)) > 0 || group != "" && len(validation.IsDNS1123Subdomain(group)) > 0:
		return fmt.Errorf("apiVersion %q: want a group and a version, apps.kruise.io/v1beta1", k.APIVersion)
	case len(validation.IsDNS1035Label(strings.ToLower(k.Kind))) > 0:
		return fmt.Errorf("kind %q: want the name of a kind, StatefulSet", k.Kind)
	case len(validation.IsDNS1035Label(k.Resource)) > 0:
		return fmt.Errorf("resource %q: want the plural of the kind in lower case, statefulsets", k.Resource)
	case group == "apps" && strings.EqualFold(k.Kind, "StatefulSet"):
		return errors.New("StatefulSets of apps have the key enableStatefulSet: remove it here")
	case group == "kubevirt.io":
		return errors.New("machines of kubevirt.io have the key enableKubevirtStaticIP: remove it here")
	case slices.Contains([]string{"", "apps", "batch"}, group):
		return fmt.Errorf("pods of a %s of %s never come back under their names, and would keep addresses for nobody: remove it", k.Kind, k.APIVersion)
	}
	return nil
}
