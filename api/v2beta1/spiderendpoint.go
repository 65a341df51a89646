package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpiderEndpoint shows the addresses of one pod, all its interfaces together. It has the namespace and the name of the
// pod (of the virtual machine for KubeVirt), is written by the agent of the pod's node and goes with the pod; for a pod
// that keeps its addresses, as of a StatefulSet, it stays until they are given up.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=spiderendpoints,singular=spiderendpoint,scope=Namespaced,shortName=se,categories=spiderpool
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=`.status.current.ips[0].interface`,description="first interface"
// +kubebuilder:printcolumn:name="IPV4POOL",type=string,JSONPath=`.status.current.ips[0].ipv4Pool`,description="pool of its IPv4 address"
// +kubebuilder:printcolumn:name="IPV4",type=string,JSONPath=`.status.current.ips[0].ipv4`,description="its IPv4 address"
// +kubebuilder:printcolumn:name="IPV6POOL",type=string,JSONPath=`.status.current.ips[0].ipv6Pool`,description="pool of its IPv6 address"
// +kubebuilder:printcolumn:name="IPV6",type=string,JSONPath=`.status.current.ips[0].ipv6`,description="its IPv6 address"
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.status.current.node`,description="node of the pod"
type SpiderEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what the pod holds.
	// +optional
	Status EndpointStatus `json:"status,omitempty"`
}

// EndpointStatus is what a pod holds and whose it is.
type EndpointStatus struct {
	// Current is what the pod holds now.
	// +kubebuilder:validation:Required
	Current EndpointCurrent `json:"current"`

	// OwnerControllerType is the kind of the topmost controller of the pod, "Deployment" or "StatefulSet"; "Pod" when it
	// has none.
	// +kubebuilder:validation:Required
	OwnerControllerType string `json:"ownerControllerType"`

	// OwnerControllerName is the name of the topmost controller; of the pod when it has none.
	// +kubebuilder:validation:Required
	OwnerControllerName string `json:"ownerControllerName"`
}

// EndpointCurrent is what one incarnation of a pod holds.
type EndpointCurrent struct {
	// UID is the pod's.
	// +kubebuilder:validation:Required
	UID string `json:"uid"`

	// Node is the node of the pod.
	// +kubebuilder:validation:Required
	Node string `json:"node"`

	// IPs are the interfaces of the pod that Spiderpool serves.
	// +kubebuilder:validation:Required
	IPs []EndpointInterface `json:"ips"`
}

// EndpointInterface is one interface of a pod: its addresses and routes.
type EndpointInterface struct {
	// Interface is its name in the pod, "eth0". It is empty while a later interface has not been made yet.
	// +kubebuilder:validation:Required
	Interface string `json:"interface"`

	// IPv4 is the IPv4 address with its prefix length, "10.6.0.10/16".
	// +optional
	IPv4 *string `json:"ipv4,omitempty"`

	// IPv6 is the IPv6 address with its prefix length, "fd00:10::a/64".
	// +optional
	IPv6 *string `json:"ipv6,omitempty"`

	// IPv4Pool is the pool of the IPv4 address.
	// +optional
	IPv4Pool *string `json:"ipv4Pool,omitempty"`

	// IPv6Pool is the pool of the IPv6 address.
	// +optional
	IPv6Pool *string `json:"ipv6Pool,omitempty"`

	// Vlan is kept for readers of older objects; 0 is no VLAN.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	Vlan *int64 `json:"vlan,omitempty"`

	// IPv4Gateway is the next hop of the IPv4 default route.
	// +optional
	IPv4Gateway *string `json:"ipv4Gateway,omitempty"`

	// IPv6Gateway is the next hop of the IPv6 default route.
	// +optional
	IPv6Gateway *string `json:"ipv6Gateway,omitempty"`

	// CleanGateway is true when this interface gets no default route though its pool has a gateway.
	// +optional
	CleanGateway *bool `json:"cleanGateway,omitempty"`

	// Routes are its further routes.
	// +optional
	Routes []Route `json:"routes,omitempty"`

	// MAC is the hardware address of the interface when it is known.
	// +optional
	MAC *string `json:"mac,omitempty"`
}

// SpiderEndpointList is a list of endpoints.
//
// +kubebuilder:object:root=true
type SpiderEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SpiderEndpoint `json:"items"`
}
