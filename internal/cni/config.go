package cni

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// config is what the plugin takes from the network configuration on stdin. The keys outside the ipam section belong to
// the main plugin, except name, cniVersion, the parent interface, and the addresses asked for.
type config struct {
	// cniVersion is always one that this plugin supports, the newest until the configuration says which.
	cniVersion string
	network    string
	// master and device are how main plugins call the parent interface: by name, or by the virtual function on it.
	master, device string

	// socket is empty if the configuration names none.
	socket               string
	ipv4Pools, ipv6Pools []string
	cleanGateway         bool
	matchMasterSubnet    bool
	log                  logConfig

	// requested are the addresses that the configuration asks for.
	requested []request
}

func defaults() config {
	return config{
		cniVersion: version.Current(),
		log:        logConfig{file: "/var/log/spidernet/spiderpool.log", sizeMB: 100, ageDays: 30, files: 10},
	}
}

// field is where the value of a key goes, and the values that it takes, for people.
type field struct {
	into any
	want string
}

const (
	wantStrings = "an array of strings"
	wantBool    = "true or false"
	wantSocket  = `the path of a socket below /run or /var/run, without "..", of at most 107 bytes`
	wantLogFile = `the path of a file below /var/log, without "..", of at most 255 bytes`
	wantCount   = "a whole number from 0 to 2147483647, bare or in quotes"
)

// fields are the keys of the ipam section. Whoever may write a network configuration must not make directories anywhere, so
// both paths are bound to theirs.
func (c *config) fields() map[string]field {
	return map[string]field{
		"type":                  {new(string), "a string"},
		"ipam_unix_socket_path": {&text[string]{&c.socket, wire.SocketPath}, wantSocket},
		"default_ipv4_ippool":   {&c.ipv4Pools, wantStrings},
		"default_ipv6_ippool":   {&c.ipv6Pools, wantStrings},
		"clean_gateway":         {&c.cleanGateway, wantBool},
		"match_master_subnet":   {&c.matchMasterSubnet, wantBool},
		"log_level":             {&text[slog.Level]{&c.log.level, parseLevel}, "one of " + strings.Join(levels, ", ")},
		"log_file_path":         {&text[string]{&c.log.file, parseLogPath}, wantLogFile},
		"log_file_max_size":     {&c.log.sizeMB, wantCount},
		"log_file_max_age":      {&c.log.ageDays, wantCount},
		"log_file_max_count":    {&c.log.files, wantCount},
	}
}

// text is a value that is written as a string of a certain form. An empty one keeps its default.
type text[T any] struct {
	into  *T
	parse func(string) (T, error)
}

// UnmarshalText reads the value.
func (t *text[T]) UnmarshalText(s []byte) error {
	if len(s) == 0 {
		return nil
	}
	value, err := t.parse(string(s))
	if err == nil {
		*t.into = value
	}
	return err
}

// parse reads a network configuration. It reads as much as it can: everything that was as it should be is in force, and an
// error, always a *wire.Error, names everything that was not.
func (c *config) parse(data []byte) error {
	var net struct {
		CNIVersion    string          `json:"cniVersion"`
		Name          string          `json:"name"`
		Master        any             `json:"master"`
		Device        any             `json:"deviceID"`
		IPAM          json.RawMessage `json:"ipam"`
		RuntimeConfig struct {
			IPs json.RawMessage `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs json.RawMessage `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
	}
	var bad faults
	if err := json.Unmarshal(data, &net); err != nil {
		bad.add(wire.CodeDecode, "network configuration: %v", err)
	}
	c.network = net.Name
	c.master, _ = net.Master.(string)
	c.device, _ = net.Device.(string)
	c.readVersion(net.CNIVersion, &bad)
	c.readIPAM(net.IPAM, &bad)
	c.requested = []request{
		readIPs("runtimeConfig.ips", net.RuntimeConfig.IPs, &bad),
		readIPs("args.cni.ips", net.Args.CNI.IPs, &bad),
	}
	return bad.err()
}

// readVersion takes a version that is supported; a configuration without one is of 0.1.0 (CNI specification 0.2.0).
func (c *config) readVersion(v string, bad *faults) {
	v = cmp.Or(v, "0.1.0")
	if supported := version.All.SupportedVersions(); slices.Contains(supported, v) {
		c.cniVersion = v
	} else {
		bad.add(wire.CodeVersion, "cniVersion %q is none of %s", v, strings.Join(supported, ", "))
	}
}

// readIPAM reads the ipam section key by key. A key that is null keeps its default.
func (c *config) readIPAM(section json.RawMessage, bad *faults) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(section, &values); err != nil || values == nil {
		bad.add(wire.CodeConfig, "ipam: found %s, want an object", found(section))
		return
	}
	fields := c.fields()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := values[key]
		field, known := fields[key]
		switch {
		case !known:
			bad.add(wire.CodeUnsupportedField, "ipam has the unknown key %.60q; the known ones are %s", key,
				strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case json.Unmarshal(value, field.into) != nil:
			bad.add(wire.CodeConfig, "ipam.%s: found %s, want %s", key, found(value), field.want)
		}
	}
}

// found quotes a value that is not what it should be.
func found(value json.RawMessage) string {
	const most = 60
	switch {
	case len(value) == 0:
		return "nothing"
	case len(value) > most:
		return string(value[:most]) + "…"
	}
	return string(value)
}

// count is a number that configurations write bare or in quotes.
type count int

func (n *count) UnmarshalJSON(value []byte) error {
	if string(value) == "null" {
		return nil
	}
	parsed, err := strconv.ParseUint(string(bytes.Trim(value, `"`)), 10, 31)
	if err == nil {
		*n = count(parsed)
	}
	return err
}

// faults gathers what is wrong with a configuration, so that it can be mended at one go.
type faults []*wire.Error

func (f *faults) add(code uint, format string, args ...any) {
	*f = append(*f, wire.Errorf(code, format, args...))
}

// maxFaults is how many faults one error tells: its text ends up in an Event, and a tenant may have written the configuration.
const maxFaults = 10

// err is nil if there are none, else one error with the code of the first.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	var texts []string
	for _, fault := range f[:min(len(f), maxFaults)] {
		texts = append(texts, fault.Msg)
	}
	if more := len(f) - maxFaults; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d faults more", more))
	}
	return wire.Errorf(f[0].Code, "%s", strings.Join(texts, "; "))
}
