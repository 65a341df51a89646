package pool

import "net/netip"

// PodContext is who asks for an address, as values: all that the rules look at.
type PodContext struct {
	Node       string
	NodeLabels map[string]string

	Namespace            string
	NamespaceLabels      map[string]string
	NamespaceAnnotations map[string]string

	PodLabels      map[string]string
	PodAnnotations map[string]string
	// AutomaticPools says that pods may ask for SpiderSubnets. Application is the
	// workload at the top of the owners of one that does; nil if it has none, or
	// asks for none.
	AutomaticPools bool
	Application    *Application

	// Interface is the name that the interface has in the pod, as CNI gives it.
	Interface string
	// ConfName is the name of the interface's network configuration (CNI:
	// "name"); Multus gives that of the NetworkAttachmentDefinition's
	// configuration, or of the definition itself if that has none. Empty if it is
	// not known, as on the command line.
	ConfName string
	Conf     Conf

	// ClusterNetwork is the Multus network of eth0 of a pod that chooses none,
	// as "namespace/name" or "name"; empty if there is none. Networks that are
	// named without a namespace elsewhere than in a pod are in OwnNamespace.
	ClusterNetwork, OwnNamespace string
}

// Conf is what the network configuration of the interface says.
type Conf struct {
	// Pools are the names in default_ipv4_ippool and default_ipv6_ippool.
	Pools map[Family][]string
	// CleanGateway leaves the default route out.
	CleanGateway bool
	// MatchParent admits only pools whose subnet holds one of Parent, the
	// addresses of the parent interface.
	MatchParent bool
	Parent      []netip.Addr
}
