package v2beta1

// Finalizer keeps a SpiderIPPool or SpiderSubnet that is being deleted until nothing holds an address of it.
const Finalizer = "spiderpool.spidernet.io"

// Annotations of a pod, or of the pod template of an application.
const (
	// AnnotationSubnets chooses a subnet per interface for an automatic pool:
	// [{"interface":"eth0","ipv4":["s4"],"ipv6":["s6"]}]. It wins over AnnotationSubnet.
	AnnotationSubnets = "ipam.spidernet.io/subnets"
	// AnnotationSubnet chooses a subnet for an automatic pool: {"interface":"eth0","ipv4":["s4"],"ipv6":["s6"]}.
	AnnotationSubnet = "ipam.spidernet.io/subnet"
	// AnnotationIPPools chooses pools per interface: [{"interface":"eth0","ipv4":["p4"],"ipv6":["p6"],"cleangateway":false}].
	AnnotationIPPools = "ipam.spidernet.io/ippools"
	// AnnotationIPPool chooses pools for whichever interface asks: {"ipv4":["p4"],"ipv6":["p6"]}.
	AnnotationIPPool = "ipam.spidernet.io/ippool"
	// AnnotationRoutes adds routes: [{"dst":"10.0.0.0/16","gw":"192.168.1.1"}].
	AnnotationRoutes = "ipam.spidernet.io/routes"
	// AnnotationIPPoolIPNumber is the size of an automatic pool: "5" addresses, or "+2" more than replicas. It stands
	// on the pod template and is copied to the pool.
	AnnotationIPPoolIPNumber = "ipam.spidernet.io/ippool-ip-number"
	// AnnotationIPPoolReclaim says whether an automatic pool goes with its application: "true" (the default) or "false".
	AnnotationIPPoolReclaim = "ipam.spidernet.io/ippool-reclaim"
)

// Annotations of a namespace: the default pools of its pods, each a JSON list of names.
const (
	AnnotationDefaultIPv4IPPool = "ipam.spidernet.io/default-ipv4-ippool"
	AnnotationDefaultIPv6IPPool = "ipam.spidernet.io/default-ipv6-ippool"
)

// AnnotationReserved on a SpiderIPPool holds the ranges of the pool that are reserved, by SpiderReservedIPs or as addresses
// of Nodes, joined by commas. Only the controller writes it; agents give out no address in it.
const AnnotationReserved = "ipam.spidernet.io/reserved"

// AnnotationAllowOverlap "true" on a SpiderIPPool or SpiderSubnet lets it overlap others, which is refused otherwise. Pods never
// get one address twice for it: the ledger has each address once.
const AnnotationAllowOverlap = "ipam.spidernet.io/allow-overlap"

// AnnotationAllowDelete "true" on a SpiderIP lets people delete it. Without it only the agent of its node and the controller
// may: a pod that lives would lose its address to the next.
const AnnotationAllowDelete = "ipam.spidernet.io/allow-delete"

// AnnotationWritten on a SpiderIP, and on the SpiderEndpoint of fixed addresses, differs after each update of it, so that no
// two versions are alike.
const AnnotationWritten = "ipam.spidernet.io/written"

// AnnotationBearers on the SpiderIP of a virtual machine names, with blanks between, the containers that may still bear the
// address beside the one of the entry: launchers from which the machine moved away. Only agents write it.
const AnnotationBearers = "ipam.spidernet.io/bearers"

// Annotations of a pod that Multus reads too; they tell which network an interface belongs to.
const (
	AnnotationMultusDefaultNetwork = "v1.multus-cni.io/default-network"
	AnnotationMultusNetworks       = "k8s.v1.cni.cncf.io/networks"
)

// Labels of pools and subnets by which they are found from their CIDR and their subnet. In a CIDR every '.', ':' and
// '/' is written as '-'.
const (
	LabelIPPoolCIDR        = "ipam.spidernet.io/ippool-cidr"
	LabelSubnetCIDR        = "ipam.spidernet.io/subnet-cidr"
	LabelOwnerSpiderSubnet = "ipam.spidernet.io/owner-spider-subnet"
)

// AnnotationCarving, on an automatic pool, are ranges of its SpiderSubnet that the controller is about to give it, as in
// spec.ips and joined by commas. They are announced so before anybody may have them, and become part of spec.ips when a look
// at all pools after that has shown that nobody else wants them.
const AnnotationCarving = "ipam.spidernet.io/carving"

// Labels of an automatic pool: the application that it was made for.
const (
	// LabelOwnerApplicationGV is group and version, "apps_v1", or "v1" of the core group.
	LabelOwnerApplicationGV        = "ipam.spidernet.io/owner-application-gv"
	LabelOwnerApplicationKind      = "ipam.spidernet.io/owner-application-kind"
	LabelOwnerApplicationNamespace = "ipam.spidernet.io/owner-application-namespace"
	LabelOwnerApplicationName      = "ipam.spidernet.io/owner-application-name"
	LabelOwnerApplicationUID       = "ipam.spidernet.io/owner-application-uid"
	// LabelInterface is the interface of the pod that the pool serves.
	LabelInterface = "ipam.spidernet.io/interface"
	// LabelIPPoolReclaim is AnnotationIPPoolReclaim of the application.
	LabelIPPoolReclaim = "ipam.spidernet.io/ippool-reclaim"
	// LabelIPVersion is "IPv4" or "IPv6".
	LabelIPVersion = "ipam.spidernet.io/ip-version"
)

// Keys of spec.podAffinity.matchLabels of an automatic pool. They are matched against the top controller of a pod
// and not against the pod's labels.
const (
	AffinityAppAPIGroup   = "ipam.spidernet.io/app-api-group"
	AffinityAppAPIVersion = "ipam.spidernet.io/app-api-version"
	AffinityAppKind       = "ipam.spidernet.io/app-kind"
	AffinityAppNamespace  = "ipam.spidernet.io/app-namespace"
	AffinityAppName       = "ipam.spidernet.io/app-name"
)
