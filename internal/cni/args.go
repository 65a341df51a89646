package cni

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// cniArgs are the keys of CNI_ARGS that the plugin knows. Others are an error unless IgnoreUnknown is set, as the CNI
// library has it; the runtimes of Kubernetes set it. The names are those of the keys.
type cniArgs struct {
	types.CommonArgs
	IP                         types.UnmarshallableString
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
}

// request is a list of addresses and who asks for them.
type request struct {
	source string
	// ips are sorted and different from each other; empty if the source asks for nothing.
	ips []netip.Addr
}

// parseArgs reads CNI_ARGS. An error, always a *wire.Error, comes with what could be read.
func parseArgs(s string) (wire.Pod, request, error) {
	var args cniArgs
	var bad faults
	if err := types.LoadArgs(s, &args); err != nil {
		bad.add(wire.CodeEnvironment, "CNI_ARGS: %v", err)
	}
	pod := wire.Pod{Namespace: string(args.K8S_POD_NAMESPACE), Name: string(args.K8S_POD_NAME), UID: string(args.K8S_POD_UID)}
	var ips []string
	if args.IP != "" {
		ips = strings.Split(string(args.IP), ",")
	}
	asked := newRequest("CNI_ARGS IP", ips, wire.CodeEnvironment, &bad)
	return pod, asked, bad.err()
}

// readIPs reads the addresses that the configuration asks for under a key.
func readIPs(key string, value json.RawMessage, bad *faults) request {
	var ips []string
	if len(value) > 0 && json.Unmarshal(value, &ips) != nil {
		bad.add(wire.CodeConfig, "%s: found %s, want %s", key, found(value), wantStrings)
		return request{}
	}
	return newRequest(key, ips, wire.CodeConfig, bad)
}

// maxIPs is how many addresses one source may ask for: one of each family counts.
const maxIPs = 16

// newRequest reads addresses with or without a prefix length (CNI conventions, "ips"). The length is dropped: pools know it.
// What is wrong with a list, which asks for nothing then, is added to bad with a code.
func newRequest(source string, list []string, code uint, bad *faults) request {
	if len(list) > maxIPs {
		bad.add(code, "%s: found %d addresses, want at most %d", source, len(list), maxIPs)
		return request{}
	}
	var ips []netip.Addr
	for _, s := range list {
		s = strings.TrimSpace(s)
		ip, err := netip.ParseAddr(s)
		if prefix, prefixErr := netip.ParsePrefix(s); prefixErr == nil {
			ip, err = prefix.Addr(), nil
		}
		if err != nil || ip.Zone() != "" {
			bad.add(code, "%s: found %.60q, want an address such as 10.6.1.7 or fd00::7", source, s)
			return request{}
		}
		ips = append(ips, ip.Unmap())
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return request{source, slices.Compact(ips)}
}

// agree returns the addresses that all sources ask for. Sources that contradict each other are an error: there is no
// order in which one would be right.
func agree(asked []request) ([]netip.Addr, error) {
	var first request
	for _, r := range asked {
		switch {
		case len(r.ips) == 0:
		case len(first.ips) == 0:
			first = r
		case !slices.Equal(first.ips, r.ips):
			return nil, wire.Errorf(wire.CodeConfig, "%s asks for %v and %s for %v: remove one of them, or make them equal",
				first.source, first.ips, r.source, r.ips)
		}
	}
	return first.ips, nil
}

// held returns the addresses that the previous result in a network configuration gives to the interface. Every ADD of this
// plugin gives some, so a result without is not that of an ADD, and nothing can be checked by it.
func held(stdin []byte, ifName string) ([]netip.Addr, error) {
	var conf types.PluginConf
	err := json.Unmarshal(stdin, &conf)
	if err == nil && conf.RawPrevResult == nil {
		return nil, wire.Errorf(wire.CodeConfig, "CHECK without prevResult in the network configuration: "+
			"the runtime must pass the result of the ADD")
	}
	var result *types100.Result
	if err == nil {
		err = version.ParsePrevResult(&conf)
	}
	if err == nil {
		result, err = types100.NewResultFromResult(conf.PrevResult)
	}
	if err != nil {
		return nil, wire.Errorf(wire.CodeDecode, "prevResult: %v", err)
	}
	var ips []netip.Addr
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if ok && ofInterface(result, ip, ifName) {
			ips = append(ips, addr.Unmap())
		}
	}
	if len(ips) == 0 {
		return nil, wire.Errorf(wire.CodeConfig, "CHECK with a prevResult that has no address of interface %s: "+
			"the runtime must pass the result of the ADD, and an ADD of this plugin gives addresses", ifName)
	}
	return ips, nil
}

// ofInterface says whether an address of a result is one of the interface. An address without an index is: an IPAM
// plugin's own result has none.
func ofInterface(result *types100.Result, ip *types100.IPConfig, ifName string) bool {
	i := ip.Interface
	return i == nil || *i >= 0 && *i < len(result.Interfaces) && result.Interfaces[*i].Name == ifName
}

// attachmentsKeys are where the network configuration of a GC lists the valid attachments: as the CNI specification 1.1.0
// was meant, and as its text said (containernetworking/cni issue 1101). Runtimes give both, or one.
var attachmentsKeys = []string{"cni.dev/valid-attachments", "cni.dev/attachments"}

// valid returns the attachments that a GC calls valid. A list that is empty is legal, and so is null, which is how CRI-O
// writes an empty one; but a list that is missing is a broken runtime, which must not have everything released.
func valid(stdin []byte) ([]wire.Attachment, error) {
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return nil, wire.Errorf(wire.CodeDecode, "network configuration: %v", err)
	}
	for _, key := range attachmentsKeys {
		if list, given := conf[key]; given {
			return readAttachments(key, list)
		}
	}
	return nil, wire.Errorf(wire.CodeConfig, "GC without %s in the network configuration: "+
		"the runtime must list the attachments that are valid; nothing is released", attachmentsKeys[0])
}

func readAttachments(key string, value json.RawMessage) ([]wire.Attachment, error) {
	var list []types.GCAttachment
	if json.Unmarshal(value, &list) != nil {
		return nil, wire.Errorf(wire.CodeConfig, "%s: found %s, want an array of objects, each with the strings containerID and ifname",
			key, found(value))
	}
	var attachments []wire.Attachment
	for i, a := range list {
		if failed := validateAttachment(a.ContainerID, a.IfName); failed != nil {
			failed.Code = wire.CodeConfig
			failed.Msg = fmt.Sprintf("%s, entry %d: containerID %q, ifname %q: %s", key, i, a.ContainerID, a.IfName, failed.Msg)
			return nil, failed
		}
		attachments = append(attachments, wire.Attachment{ContainerID: a.ContainerID, Interface: a.IfName})
	}
	return attachments, nil
}

// validateAttachment says what is wrong with the names of an attachment, nil if nothing is.
func validateAttachment(containerID, ifName string) *wire.Error {
	return cmp.Or(utils.ValidateContainerID(containerID), utils.ValidateInterfaceName(ifName))
}
