// Package wire is the unix socket between the CNI plugin and the agent of its node: the messages, the errors, the
// client, the server, and the notes that a plugin leaves when nobody serves the socket.
//
// A connection carries one request and one reply. Each is one JSON object ended by a newline, so that a reader knows a
// message that was cut in half. Plugin and agent are rolled out apart from each other: fields that one side does not
// know are ignored by it, and fields may be added without a new [Protocol] number. The number changes only if an older
// peer would misunderstand a message.
package wire

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Protocol is the version of the messages that this build speaks. A server answers a request of another version with
// [CodeTryAgain], because a roll-out in progress is what makes the versions differ.
const Protocol = 1

// MaxMessage is the greatest length in bytes of a message, its newline included. The largest message is a GC that
// lists the attachments of a node; a thousand of them take about 100 kB.
const MaxMessage = 1 << 20

// Verb names what the container runtime asked of the plugin, as CNI_COMMAND does (CNI specification 1.1, section 2).
type Verb string

// The verbs that a server hands to its handler. VERSION is answered by the plugin alone.
const (
	VerbAdd    Verb = "ADD"
	VerbDel    Verb = "DEL"
	VerbCheck  Verb = "CHECK"
	VerbStatus Verb = "STATUS"
	VerbGC     Verb = "GC"
)

func (v Verb) known() bool {
	return slices.Contains([]Verb{VerbAdd, VerbDel, VerbCheck, VerbStatus, VerbGC}, v)
}

// Request is one CNI call. STATUS and GC carry neither an attachment nor a pod.
type Request struct {
	// Protocol is the sender's [Protocol]; [Call] fills it in.
	Protocol int  `json:"protocol"`
	Verb     Verb `json:"verb"`
	// Age is how long ago the plugin was started when it sent the request, so that the agent can tell an ADD that began
	// before a DEL of the same container from one that began after it. A duration, as one process measured it.
	Age time.Duration `json:"age,omitempty"`
	// Network is the name of the network configuration (CNI: "name").
	Network string `json:"network,omitempty"`
	// ContainerID, Interface and Netns are CNI_CONTAINERID, CNI_IFNAME and CNI_NETNS. Netns is empty in a DEL whose
	// network namespace is gone.
	ContainerID string `json:"containerID,omitempty"`
	Interface   string `json:"interface,omitempty"`
	Netns       string `json:"netns,omitempty"`
	// Pod comes from CNI_ARGS. Every field may be empty but in an ADD, where Namespace and Name are set.
	Pod Pod `json:"pod,omitzero"`
	// IPv4Pools and IPv6Pools are the network configuration's default pools, in the administrator's order.
	IPv4Pools []string `json:"ipv4Pools,omitempty"`
	IPv6Pools []string `json:"ipv6Pools,omitempty"`
	// CleanGateway leaves the default route out of the answer.
	CleanGateway bool `json:"cleanGateway,omitempty"`
	// MatchMasterSubnet admits only pools whose subnet holds one of Parent, the addresses of the parent interface.
	MatchMasterSubnet bool         `json:"matchMasterSubnet,omitempty"`
	Parent            []netip.Addr `json:"parent,omitempty"`
	// RequestedIPs are the addresses that the runtime or the user asks for, sorted and without repetition. Sources:
	// runtimeConfig.ips, args.cni.ips, and IP= in CNI_ARGS.
	RequestedIPs []netip.Addr `json:"requestedIPs,omitempty"`
	// Held are the addresses of the previous result that a CHECK wants confirmed.
	Held []netip.Addr `json:"held,omitempty"`
	// Attachments are those that a GC calls valid; all others of Network on this node may be released. None means that
	// none is valid: the plugin refuses a GC that does not say.
	Attachments []Attachment `json:"attachments,omitempty"`
}

// Pod is the pod that an attachment belongs to, as the container runtime names it in CNI_ARGS. UID is empty with
// runtimes that do not pass K8S_POD_UID; for a static pod it is the hash of its configuration.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Attachment is one interface of one container (CNI: cni.dev/valid-attachments).
type Attachment struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
}

// Reply answers a [Request]. IPs and Routes are filled by ADD alone.
type Reply struct {
	// Protocol is the sender's [Protocol]; [Serve] fills it in.
	Protocol int     `json:"protocol"`
	IPs      []IP    `json:"ips,omitempty"`
	Routes   []Route `json:"routes,omitempty"`
	// Error is nil if the request was carried out.
	Error *Error `json:"error,omitempty"`
}

// IP is an address that the attachment holds from now on.
type IP struct {
	// Address is the address with the prefix length of its subnet: 10.6.1.7/16.
	Address netip.Prefix `json:"address"`
	// Gateway is the zero Addr if the pool has none.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// Pool names the SpiderIPPool.
	Pool string `json:"pool,omitempty"`
}

// Route is a route for the interface.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	// GW is the zero Addr for a route without a next hop.
	GW netip.Addr `json:"gw,omitzero"`
}

// Codes of the CNI specification 1.1 (section "Error") as this product uses them. The container runtime passes on the
// text alone, so a code is for programs and the text says what happened.
const (
	// CodeVersion: the network configuration has a cniVersion that the plugin does not know.
	CodeVersion uint = 1
	// CodeUnsupportedField: a key in the ipam section that the plugin does not know.
	CodeUnsupportedField uint = 2
	// CodeUnknownContainer: a CHECK of an attachment that holds nothing. DEL never answers it.
	CodeUnknownContainer uint = 3
	// CodeEnvironment: a CNI_ variable is missing or malformed.
	CodeEnvironment uint = 4
	// CodeIO: the socket, a file or a directory failed.
	CodeIO uint = 5
	// CodeDecode: a network configuration or a message that is not the JSON it should be.
	CodeDecode uint = 6
	// CodeConfig: a network configuration or an annotation that cannot hold: a missing pool, a bad address, two
	// sources that contradict each other.
	CodeConfig uint = 7
	// CodeTryAgain: the same call may succeed later: pools are exhausted, the agent is starting or its API server is
	// away.
	CodeTryAgain uint = 11
	// CodeNotReady: STATUS only: an ADD would not be served now.
	CodeNotReady uint = 50
	// CodeLimitedConnectivity: STATUS only: as 50, and containers that run may have limited connectivity too.
	CodeLimitedConnectivity uint = 51
	// CodeInternal: a defect of this product.
	CodeInternal uint = 999
)

// Codes of this product (CNI leaves 100 and above to plugins).
const (
	// CodeNoPool: no pool may serve this pod; the text names each candidate and why it was passed over.
	CodeNoPool uint = 100
	// CodeConflict: the address answers on the wire though nobody in the cluster holds it.
	CodeConflict uint = 102
	// CodeHeldElsewhere: the pod's fixed address is still held by another pod.
	CodeHeldElsewhere uint = 103
)

// Error is a failure as CNI reports it. Code is one of the Code constants. Msg is the cause and the way out on one line:
// kubelet puts it in the pod's Event. Details may add more; runtimes print them behind Msg.
type Error = types.Error

// Errorf returns an error with a code and a text as fmt.Sprintf makes it.
func Errorf(code uint, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}
