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
	// EnableSpiderSubnet (enableSpiderSubnet, default true) lets SpiderSubnets own pools.
	EnableSpiderSubnet bool
	// EnableAutoPoolForApplication (enableAutoPoolForApplication, default true) makes pools for applications that name a
	// SpiderSubnet in an annotation. It needs EnableSpiderSubnet.
	EnableAutoPoolForApplication bool
	// AutoPoolRedundantIPNumber (clusterSubnetDefaultFlexibleIPNumber or clusterSubnetAutoPoolDefaultRedundantIPNumber,
	// default 1, 0 to 2^31-1) is how many addresses more than replicas an automatic pool has whose application does not
	// say.
	AutoPoolRedundantIPNumber int
	// EnableCleanOutdatedEndpoint (enableCleanOutdatedEndpoint, default false) removes SpiderEndpoints whose pod is gone
	// and that keep no address.
	EnableCleanOutdatedEndpoint bool
	// EnableIPConflictDetection (enableIPConflictDetection, default false) probes the link for another holder of an
	// address before a pod gets it.
	EnableIPConflictDetection bool
	// EnableGatewayDetection (enableGatewayDetection, default false) fails the start of a pod whose gateway does not
	// answer.
	EnableGatewayDetection bool
	// EnableValidatingResourcesDeletedWebhook (enableValidatingResourcesDeletedWebhook, default false) refuses to delete
	// pools and subnets that are in use.
	EnableValidatingResourcesDeletedWebhook bool

	// NoEffect lists the keys in the file that decide nothing in this product, each as "key: why". Log it at start.
	NoEffect []string
	// NotYet lists the promises that are switched on, in the file or by default, and that this version does not keep, each
	// as "key: what happens instead". Warn of it at start: somebody relies on them.
	NotYet []string
}

const (
	flexibleKey  = "clusterSubnetDefaultFlexibleIPNumber"
	redundantKey = "clusterSubnetAutoPoolDefaultRedundantIPNumber"
)

// A reader takes the value of a key, as encoding/json decodes it with numbers kept as json.Number. Its error says what is
// wanted.
type reader func(value any) error

// readers are all keys of conf.yml, with dots between the levels.
func (c *Config) readers() map[string]reader {
	return map[string]reader{
		"ipamUnixSocketPath":                      socketPath(&c.IPAMUnixSocketPath),
		"enableIPv4":                              flag(&c.EnableIPv4),
		"enableIPv6":                              flag(&c.EnableIPv6),
		"enableStatefulSet":                       flag(&c.EnableStatefulSet),
		"enableKubevirtStaticIP":                  flag(&c.EnableKubevirtStaticIP),
		"enableSpiderSubnet":                      flag(&c.EnableSpiderSubnet),
		"enableAutoPoolForApplication":            flag(&c.EnableAutoPoolForApplication),
		flexibleKey:                               number(&c.AutoPoolRedundantIPNumber),
		redundantKey:                              number(&c.AutoPoolRedundantIPNumber),
		"enableCleanOutdatedEndpoint":             flag(&c.EnableCleanOutdatedEndpoint),
		"enableIPConflictDetection":               flag(&c.EnableIPConflictDetection),
		"enableGatewayDetection":                  flag(&c.EnableGatewayDetection),
		"enableValidatingResourcesDeletedWebhook": flag(&c.EnableValidatingResourcesDeletedWebhook),
		"tuneSysctlConfig":                        flag(new(bool)),
		"podResourceInject.enabled":               flag(new(bool)),
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

// Parse reads the text of conf.yml, as Load does.
func Parse(data []byte) (Config, error) {
	var tree map[string]any
	useNumber := func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }
	if err := yaml.UnmarshalStrict(data, &tree, useNumber); err != nil {
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
	c.NotYet = c.notYet()
	return c, nil
}

// notYet leaves a line for each switch of Config that promises what is not built. The line goes when the step is done.
func (c *Config) notYet() (lines []string) {
	for _, promise := range []struct {
		on   bool
		line string
	}{
		{c.EnableStatefulSet, "enableStatefulSet: pods of a StatefulSet get new addresses when they are made anew"},
		{c.EnableKubevirtStaticIP, "enableKubevirtStaticIP: virtual machines get new addresses when they restart or migrate"},
		{c.EnableIPConflictDetection, "enableIPConflictDetection: a pod gets its address though another machine may use it"},
		{c.EnableGatewayDetection, "enableGatewayDetection: a pod starts though its gateway may not answer"},
		{c.EnableValidatingResourcesDeletedWebhook, "enableValidatingResourcesDeletedWebhook: pools and subnets can be deleted while they are in use"},
	} {
		if promise.on {
			lines = append(lines, promise.line)
		}
	}
	return lines
}

// read hands the values of tree to their readers. prefix is the path of tree, empty or with a dot at its end.
func read(prefix string, tree map[string]any, readers map[string]reader) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		path, value := prefix+name, tree[name]
		if r, ok := readers[path]; ok {
			if err := r(value); err != nil {
				errs = append(errs, fmt.Errorf("%s is %s: %w", path, inJSON(value), err))
			}
			continue
		}
		below, isTree := value.(map[string]any)
		switch {
		case !isSection(path, readers):
			errs = append(errs, fmt.Errorf("unknown key %q: correct it or remove it", path))
		case !isTree && value != nil:
			errs = append(errs, fmt.Errorf("%s is %s: want keys below it", path, inJSON(value)))
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
func (c *Config) check(tree map[string]any) error {
	flexible, redundant := tree[flexibleKey], tree[redundantKey]
	switch {
	case !c.EnableIPv4 && !c.EnableIPv6:
		return errors.New("enableIPv4 and enableIPv6 are both false: set at least one to true")
	case flexible != nil && redundant != nil && flexible != redundant:
		return fmt.Errorf("%s is %v and %s, another name of the same number, is %v: remove one", flexibleKey, flexible, redundantKey, redundant)
	}
	return nil
}

func inJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}

func flag(p *bool) reader {
	return func(value any) error {
		b, ok := value.(bool)
		if !ok {
			return errors.New("want true or false, without quotes")
		}
		*p = b
		return nil
	}
}

func number(p *int) reader {
	return func(value any) error {
		n, ok := value.(json.Number)
		if !ok {
			n = "" // A number in quotes is none.
		}
		i, err := wholeNumber(n.String(), 0, maxNumber)
		if err == nil {
			*p = i
		}
		return err
	}
}

func socketPath(p *string) reader {
	const longest = 107 // sun_path holds 108 bytes with the zero at the end.
	return func(value any) error {
		s, _ := value.(string)
		if !filepath.IsAbs(s) || len(s) > longest {
			return fmt.Errorf("want an absolute path of at most %d bytes", longest)
		}
		*p = s
		return nil
	}
}

func texts(value any) error {
	list, isList := value.([]any)
	for _, entry := range list {
		if _, ok := entry.(string); !ok {
			return fmt.Errorf("want a list of texts, and %s is none", inJSON(entry))
		}
	}
	if !isList && value != nil {
		return errors.New("want a list of texts")
	}
	return nil
}

func scalar(value any) error {
	switch value.(type) {
	case map[string]any, []any:
		return errors.New("want a text or a number")
	}
	return nil
}

func anything(any) error { return nil }
