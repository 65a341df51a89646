// Package config reads what an administrator sets for the two daemons: the file conf.yml, which both share, and the
// environment of each.
//
// A key of the file or a SPIDERPOOL_ variable that neither daemon knows is an error, so that a slip of the pen does not run
// as a default. Either daemon knows the names of the other. Names that existing installations set and that decide nothing
// here are accepted, and told in NoEffect.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/internal/pool"
)

// Config is the content of conf.yml, the key of that name in the ConfigMap spiderpool-conf. It is read once, at start.
type Config struct {
	// IPAMUnixSocketPath (ipamUnixSocketPath, default /var/run/spidernet/spiderpool.sock) is the absolute path of the
	// socket on which the agent serves the CNI plugin, at most 107 bytes (unix(7)).
	IPAMUnixSocketPath string
	// EnableIPv4 and EnableIPv6 (enableIPv4, enableIPv6, default true) are the families that pods get addresses of and
	// that pools may have. At least one is true.
	EnableIPv4, EnableIPv6 bool
	// EnableStatefulSet (enableStatefulSet, default true) keeps the addresses of a StatefulSet's pod for the pod that
	// takes its name.
	EnableStatefulSet bool
	// EnableKubevirtStaticIP (enableKubevirtStaticIP, default true) keeps the addresses of a KubeVirt virtual machine
	// over restarts and migrations.
	EnableKubevirtStaticIP bool
	// FixedAddressKinds (fixedAddressKinds, default none, at most 32) are further kinds of owners whose pods keep their
	// addresses. See FixedAddresses.
	FixedAddressKinds []FixedAddressKind
	// EnableSpiderSubnet (enableSpiderSubnet, default true) lets SpiderSubnets own pools.
	EnableSpiderSubnet bool
	// EnableAutoPoolForApplication (enableAutoPoolForApplication, default true) makes pools for applications that name a
	// SpiderSubnet in an annotation. It needs EnableSpiderSubnet, see AutomaticPools.
	EnableAutoPoolForApplication bool
	// AutoPoolRedundantIPNumber (clusterSubnetDefaultFlexibleIPNumber or clusterSubnetAutoPoolDefaultRedundantIPNumber,
	// default 1, 0 to 2^31-1) is how many addresses more than replicas an automatic pool has whose application does not
	// say.
	AutoPoolRedundantIPNumber int
	// EnableCleanOutdatedEndpoint (enableCleanOutdatedEndpoint, default false) removes SpiderEndpoints whose pod is gone
	// and that keep no address.
	EnableCleanOutdatedEndpoint bool
	// EnableIPConflictDetection (enableIPConflictDetection, default false) probes the link for another holder of an
	// address before a pod gets it, which costs each new address 0.3 s.
	EnableIPConflictDetection bool
	// EnableGatewayDetection (enableGatewayDetection, default false) fails the start of a pod whose gateway does not
	// answer.
	EnableGatewayDetection bool
	// EnableValidatingResourcesDeletedWebhook (enableValidatingResourcesDeletedWebhook, default false) refuses to delete
	// pools and subnets that are in use.
	EnableValidatingResourcesDeletedWebhook bool

	// NoEffect lists the keys in the file that decide nothing in this product, each as "key: why". Log it at start.
	NoEffect []string
}

const (
	flexibleKey  = "clusterSubnetDefaultFlexibleIPNumber"
	redundantKey = "clusterSubnetAutoPoolDefaultRedundantIPNumber"
)

// A reader takes a value as text: of a variable, or in JSON of a key. Its error says what is wanted.
type reader func(value string) error

// into is a reader that keeps what parse makes of the value.
func into[T any](p *T, parse func(value string) (T, error)) reader {
	return func(value string) (err error) { *p, err = parse(value); return err }
}

// readers are all keys of conf.yml, with dots between the levels.
func (c *Config) readers() map[string]reader {
	return map[string]reader{
		"ipamUnixSocketPath":                      into(&c.IPAMUnixSocketPath, socketPath),
		"enableIPv4":                              into(&c.EnableIPv4, flag),
		"enableIPv6":                              into(&c.EnableIPv6, flag),
		"enableStatefulSet":                       into(&c.EnableStatefulSet, flag),
		"enableKubevirtStaticIP":                  into(&c.EnableKubevirtStaticIP, flag),
		"fixedAddressKinds":                       into(&c.FixedAddressKinds, fixedAddressKinds),
		"enableSpiderSubnet":                      into(&c.EnableSpiderSubnet, flag),
		"enableAutoPoolForApplication":            into(&c.EnableAutoPoolForApplication, flag),
		flexibleKey:                               into(&c.AutoPoolRedundantIPNumber, number(0, maxNumber)),
		redundantKey:                              into(&c.AutoPoolRedundantIPNumber, number(0, maxNumber)),
		"enableCleanOutdatedEndpoint":             into(&c.EnableCleanOutdatedEndpoint, flag),
		"enableIPConflictDetection":               into(&c.EnableIPConflictDetection, flag),
		"enableGatewayDetection":                  into(&c.EnableGatewayDetection, flag),
		"enableValidatingResourcesDeletedWebhook": into(&c.EnableValidatingResourcesDeletedWebhook, flag),
		"tuneSysctlConfig":                        into(new(bool), flag),
		"podResourceInject.enabled":               into(new(bool), flag),
		"podResourceInject.namespacesExclude":     texts,
		"podResourceInject.namespacesInclude":     texts,
		"iaasNetworkProvider.serverUrl":           scalar,
		"iaasNetworkProvider.httpRequestTimeout":  scalar,
		"agent.networkResourcePlugin":             anything,
	}
}

// keysWithoutEffect are the keys of the top level that are accepted and decide nothing, with the reason.
var keysWithoutEffect = map[string]string{
	"tuneSysctlConfig":    "Spiderpool manages addresses and sets no sysctl in pods",
	"podResourceInject":   "Spiderpool manages addresses and adds no resources to pods",
	"iaasNetworkProvider": "addresses come from pools in the cluster, no cloud provider is asked",
	"agent":               "the agent offers no network devices to the kubelet",
}

// Load reads conf.yml from path. Keys that are not there have their default. The error names path and every key that is
// unknown, malformed or at odds with another. Called by both daemons before anything else.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration, key conf.yml of the ConfigMap: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Families are those that are enabled, in the order in which an ADD serves them.
func (c *Config) Families() (out []pool.Family) {
	if c.EnableIPv4 {
		out = append(out, pool.IPv4)
	}
	if c.EnableIPv6 {
		out = append(out, pool.IPv6)
	}
	return out
}

// AutomaticPools reports whether pods may ask for SpiderSubnets, from which pools are made for their applications.
func (c *Config) AutomaticPools() bool { return c.EnableSpiderSubnet && c.EnableAutoPoolForApplication }

// Parse reads the text of conf.yml, as Load does.
func Parse(data []byte) (Config, error) {
	var tree map[string]json.RawMessage
	if err := yaml.UnmarshalStrict(data, &tree); err != nil {
		return Config{}, fmt.Errorf("want YAML with one line for each key: %w", err)
	}
	c := Config{
		IPAMUnixSocketPath: "/var/run/spidernet/spiderpool.sock",
		EnableIPv4:         true, EnableIPv6: true, EnableStatefulSet: true, EnableKubevirtStaticIP: true,
		EnableSpiderSubnet: true, EnableAutoPoolForApplication: true, AutoPoolRedundantIPNumber: 1,
	}
	err := errors.Join(read("", tree, c.readers())...)
	if err == nil {
		err = c.check(tree)
	}
	if err != nil {
		return Config{}, err
	}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if why, ok := keysWithoutEffect[key]; ok {
			c.NoEffect = append(c.NoEffect, key+": "+why)
		}
	}
	return c, nil
}

// read hands the values of tree to their readers. prefix is the path of tree, empty or with a dot at its end.
func read(prefix string, tree map[string]json.RawMessage, readers map[string]reader) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		path, value := prefix+name, string(tree[name])
		if r, ok := readers[path]; ok {
			if err := r(value); err != nil {
				errs = append(errs, fmt.Errorf("%s is %s: %w", path, value, err))
			}
			continue
		}
		var below map[string]json.RawMessage
		switch {
		case !isSection(path, readers):
			errs = append(errs, fmt.Errorf("unknown key %q: correct it or remove it", path))
		case json.Unmarshal(tree[name], &below) != nil:
			errs = append(errs, fmt.Errorf("%s is %s: want keys below it", path, value))
		default:
			errs = append(errs, read(path+".", below, readers)...)
		}
	}
	return errs
}

// isSection reports whether there are keys below path.
func isSection(path string, readers map[string]reader) bool {
	for key := range readers {
		if strings.HasPrefix(key, path+".") {
			return true
		}
	}
	return false
}

// check looks at what no key alone can tell.
func (c *Config) check(tree map[string]json.RawMessage) error {
	flexible, redundant := string(tree[flexibleKey]), string(tree[redundantKey])
	switch {
	case !c.EnableIPv4 && !c.EnableIPv6:
		return errors.New("enableIPv4 and enableIPv6 are both false: set at least one to true")
	case flexible != "" && redundant != "" && flexible != redundant:
		return fmt.Errorf("%s is %s and %s, another name of the same number, is %s: remove one", flexibleKey, flexible, redundantKey, redundant)
	}
	return nil
}

func flag(value string) (bool, error) {
	if value != "true" && value != "false" {
		return false, errors.New("want true or false, without quotes")
	}
	return value == "true", nil
}

func socketPath(value string) (path string, err error) {
	const longest = 107 // sun_path holds 108 bytes with the zero at the end.
	if json.Unmarshal([]byte(value), &path) != nil || !filepath.IsAbs(path) || len(path) > longest {
		return "", fmt.Errorf("want an absolute path of at most %d bytes", longest)
	}
	return path, nil
}

func texts(value string) error {
	var list []json.RawMessage
	if json.Unmarshal([]byte(value), &list) != nil {
		return errors.New("want a list of texts")
	}
	for _, entry := range list {
		if entry[0] != '"' {
			return fmt.Errorf("want a list of texts, and %s is none", entry)
		}
	}
	return nil
}

func scalar(value string) error {
	if value[0] == '{' || value[0] == '[' {
		return errors.New("want a text or a number")
	}
	return nil
}

func anything(string) error { return nil }
