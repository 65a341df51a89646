package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/internal/pool"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conf.yml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// defaults are the documented ones.
var defaults = Config{
	IPAMUnixSocketPath:           "/var/run/spidernet/spiderpool.sock",
	EnableIPv4:                   true,
	EnableIPv6:                   true,
	EnableStatefulSet:            true,
	EnableKubevirtStaticIP:       true,
	EnableSpiderSubnet:           true,
	EnableAutoPoolForApplication: true,
	AutoPoolRedundantIPNumber:    1,
}

// with returns the defaults after change.
func with(change func(*Config)) Config {
	c := defaults
	change(&c)
	return c
}

func TestLoad(t *testing.T) {
	for _, tc := range []struct {
		name, content string
		want          Config
	}{
		{"empty", "", defaults},
		{"only comments", "# nothing yet\n", defaults},
		{"no keys", "{}", defaults},
		{
			"all that has effect, none as by default", `
ipamUnixSocketPath: /run/other.sock
enableIPv4: false
enableIPv6: true
enableStatefulSet: false
enableKubevirtStaticIP: false
fixedAddressKinds:
  - {apiVersion: apps.kruise.io/v1beta1, kind: StatefulSet}
  - {apiVersion: db.example.com/v1, kind: Proxy, resource: proxies}
enableSpiderSubnet: false
enableAutoPoolForApplication: false
clusterSubnetDefaultFlexibleIPNumber: 3
enableCleanOutdatedEndpoint: true
enableIPConflictDetection: true
enableGatewayDetection: true
enableValidatingResourcesDeletedWebhook: true
`, Config{
				IPAMUnixSocketPath: "/run/other.sock", EnableIPv6: true, AutoPoolRedundantIPNumber: 3, EnableCleanOutdatedEndpoint: true,
				EnableIPConflictDetection: true, EnableGatewayDetection: true, EnableValidatingResourcesDeletedWebhook: true,
				FixedAddressKinds: []FixedAddressKind{kruise, proxy},
			},
		},
		{
			"all that has none", `
tuneSysctlConfig: true
podResourceInject:
  enabled: false
  namespacesExclude: [kube-system, spiderpool]
  namespacesInclude: []
iaasNetworkProvider: {serverUrl: "", httpRequestTimeout: 10}
agent:
  networkResourcePlugin:
    enabled: true
    anything: [1, {a: b}]
`, with(func(c *Config) {
				c.NoEffect = []string{
					"agent: the agent offers no network devices to the kubelet",
					"iaasNetworkProvider: addresses come from pools in the cluster, no cloud provider is asked",
					"podResourceInject: Spiderpool manages addresses and adds no resources to pods",
					"tuneSysctlConfig: Spiderpool manages addresses and sets no sysctl in pods",
				}
			}),
		},
		{
			"sections and lists without content", "podResourceInject:\n  namespacesExclude:\niaasNetworkProvider:\n  serverUrl:\n  httpRequestTimeout: 10s\n",
			with(func(c *Config) {
				c.NoEffect = []string{
					"iaasNetworkProvider: addresses come from pools in the cluster, no cloud provider is asked",
					"podResourceInject: Spiderpool manages addresses and adds no resources to pods",
				}
			}),
		},
		{"the newer name of the number", "clusterSubnetAutoPoolDefaultRedundantIPNumber: 0", with(func(c *Config) { c.AutoPoolRedundantIPNumber = 0 })},
		{
			"both names, one number", "clusterSubnetAutoPoolDefaultRedundantIPNumber: 7\nclusterSubnetDefaultFlexibleIPNumber: 7",
			with(func(c *Config) { c.AutoPoolRedundantIPNumber = 7 }),
		},
		{"YAML 1.1 booleans", "enableIPv4: yes\nenableIPv6: no", with(func(c *Config) { c.EnableIPv6 = false })},
		{"no further kinds", "fixedAddressKinds:", defaults},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Load(write(t, tc.content))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tc := range []struct{ content, want string }{
		{"enableIPV4: true", `unknown key "enableIPV4": correct it or remove it`},
		{"podResourceInject: {enabld: true}", `unknown key "podResourceInject.enabld": correct it or remove it`},
		{"agent: {port: 1}", `unknown key "agent.port": correct it or remove it`},
		{"enableIPv4: {enabled: true}", `enableIPv4 is {"enabled":true}: want true or false, without quotes`},
		{`enableIPv4: "true"`, `enableIPv4 is "true": want true or false, without quotes`},
		{"enableIPv4:", `enableIPv4 is null: want true or false`},
		{"enableSpiderSubnet: 1", `enableSpiderSubnet is 1: want true or false`},
		{"podResourceInject: true", `podResourceInject is true: want keys below it`},
		{"podResourceInject: {enabled: maybe}", `podResourceInject.enabled is "maybe": want true or false`},
		{"podResourceInject: {namespacesExclude: kube-system}", `podResourceInject.namespacesExclude is "kube-system": want a list of texts`},
		{"podResourceInject: {namespacesInclude: [a, 5]}", `podResourceInject.namespacesInclude is ["a",5]: want a list of texts, and 5 is none`},
		{"iaasNetworkProvider: {serverUrl: [a]}", `iaasNetworkProvider.serverUrl is ["a"]: want a text or a number`},
		{"clusterSubnetDefaultFlexibleIPNumber: -1", `clusterSubnetDefaultFlexibleIPNumber is -1: want a whole number from 0 to 2147483647`},
		{"clusterSubnetDefaultFlexibleIPNumber: 2147483648", `is 2147483648: want a whole number from 0 to 2147483647`},
		{"clusterSubnetAutoPoolDefaultRedundantIPNumber: 1.5", `is 1.5: want a whole number`},
		{`clusterSubnetAutoPoolDefaultRedundantIPNumber: "1"`, `is "1": want a whole number`},
		{
			"clusterSubnetAutoPoolDefaultRedundantIPNumber: 1\nclusterSubnetDefaultFlexibleIPNumber: 2",
			"clusterSubnetDefaultFlexibleIPNumber is 2 and clusterSubnetAutoPoolDefaultRedundantIPNumber, another name of the same number, is 1: remove one",
		},
		{"ipamUnixSocketPath: spiderpool.sock", `ipamUnixSocketPath is "spiderpool.sock": want an absolute path of at most 107 bytes`},
		{"ipamUnixSocketPath:", `ipamUnixSocketPath is null: want an absolute path`},
		{"ipamUnixSocketPath: /" + strings.Repeat("a", 107), `want an absolute path of at most 107 bytes`},
		{"enableIPv4: false\nenableIPv6: false", "enableIPv4 and enableIPv6 are both false: set at least one to true"},
		{"enableIPv4: true\nenableIPv4: false", `key "enableIPv4" already set`},
		{"- enableIPv4", "want YAML with one line for each key"},
		{"enableIPv4: [", "want YAML with one line for each key"},
	} {
		path := write(t, tc.content)
		got, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s\nerror %v\nwant  %s, and the path", tc.content, err, tc.want)
		}
		if diff := cmp.Diff(Config{}, got); diff != "" {
			t.Errorf("%s: a value beside the error:\n%s", tc.content, diff)
		}
	}
}

func TestLoadNamesAllThatIsWrong(t *testing.T) {
	_, err := Load(write(t, "enableIPv4: 1\nenableIPv7: true\nagent: {x: 1}\n"))
	for _, want := range []string{"enableIPv4 is 1", `"enableIPv7"`, `"agent.x"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s in it", err, want)
		}
	}
}

func TestLoadWithoutFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "conf.yml")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one with %s", err, path)
	}
}

// Every key that existing ConfigMaps hold is known.
func TestEveryKeyIsKnown(t *testing.T) {
	for _, key := range []string{
		"ipamUnixSocketPath", "enableIPv4", "enableIPv6", "tuneSysctlConfig", "enableStatefulSet", "enableKubevirtStaticIP",
		"fixedAddressKinds", "enableSpiderSubnet", "enableAutoPoolForApplication", "enableCleanOutdatedEndpoint", "enableIPConflictDetection",
		"enableGatewayDetection", "enableValidatingResourcesDeletedWebhook", "podResourceInject.enabled",
		"podResourceInject.namespacesExclude", "podResourceInject.namespacesInclude", "iaasNetworkProvider.serverUrl",
		"iaasNetworkProvider.httpRequestTimeout", "agent.networkResourcePlugin", "clusterSubnetDefaultFlexibleIPNumber",
		"clusterSubnetAutoPoolDefaultRedundantIPNumber",
	} {
		// Whatever the value of a key should be, no key may be unknown.
		content := strings.ReplaceAll(key, ".", ": {") + ": null" + strings.Repeat("}", strings.Count(key, "."))
		if _, err := Load(write(t, content)); err != nil && strings.Contains(err.Error(), "unknown") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// TestAutomaticPools: pools are made for applications as long as SpiderSubnets may own pools.
func TestAutomaticPools(t *testing.T) {
	for content, want := range map[string]bool{"": true, "enableSpiderSubnet: false": false, "enableAutoPoolForApplication: false": false} {
		if c, err := Parse([]byte(content)); err != nil || c.AutomaticPools() != want {
			t.Errorf("%q: %t, %v", content, c.AutomaticPools(), err)
		}
	}
}

// TestFamilies: a family that is switched off is served to nobody.
func TestFamilies(t *testing.T) {
	for _, tc := range []struct {
		conf Config
		want []pool.Family
	}{
		{Config{EnableIPv4: true, EnableIPv6: true}, []pool.Family{pool.IPv4, pool.IPv6}},
		{Config{EnableIPv4: true}, []pool.Family{pool.IPv4}},
		{Config{EnableIPv6: true}, []pool.Family{pool.IPv6}},
	} {
		if got := tc.conf.Families(); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %v", tc.conf, got)
		}
	}
}
