package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpiderSubnet is a network whose addresses are handed to pools: to those that administrators make in it, and to the
// automatic pools of applications that ask for the subnet.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=spidersubnets,singular=spidersubnet,scope=Cluster,shortName=ss,categories=spiderpool
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=`.spec.ipVersion`,description="4 or 6"
// +kubebuilder:printcolumn:name="SUBNET",type=string,JSONPath=`.spec.subnet`,description="the network of the addresses"
// +kubebuilder:printcolumn:name="ALLOCATED-IP-COUNT",type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses that pools hold"
// +kubebuilder:printcolumn:name="TOTAL-IP-COUNT",type=integer,JSONPath=`.status.totalIPCount`,description="addresses that the subnet can give to pools"
type SpiderSubnet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the administrator wants of the subnet.
	// +kubebuilder:validation:Required
	Spec SubnetSpec `json:"spec"`
	// Status is the controller's count of what pools hold of the subnet.
	// +optional
	Status SubnetStatus `json:"status,omitempty"`
}

// SubnetSpec is what the administrator wants of a subnet. Pools made in it inherit gateway and routes.
type SubnetSpec struct {
	// IPVersion is the family of the addresses, 4 or 6. It follows from the subnet and may be left out. It never changes.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network in its canonical form, "10.6.0.0/16" or "fd00:10::/64". It never changes.
	// +kubebuilder:validation:Required
	Subnet string `json:"subnet"`

	// IPs are the ranges that pools may take, each one address "10.6.0.10" or first and last "10.6.0.10-10.6.0.20",
	// inside the subnet. A range that a pool holds cannot be taken out. At most 1000 entries.
	// +optional
	IPs []string `json:"ips,omitempty"`

	// ExcludeIPs are ranges inside the subnet that no pool may take though ips names them. At most 1000 entries.
	// +optional
	ExcludeIPs []string `json:"excludeIPs,omitempty"`

	// Gateway is the gateway of pools that set none, inside the subnet.
	// +optional
	Gateway *string `json:"gateway,omitempty"`

	// Routes are the routes of pools that set none. At most 100 entries.
	// +optional
	Routes []Route `json:"routes,omitempty"`
}

// SubnetStatus is what the controller computed from the pools of the subnet.
type SubnetStatus struct {
	// ControlledIPPools maps each pool of the subnet to what it holds as JSON,
	// {"pool":{"ips":["10.6.0.10-10.6.0.20"],"application":"apps_v1_Deployment_namespace_name"}}; application is left out
	// for pools that are not automatic.
	// +optional
	ControlledIPPools *string `json:"controlledIPPools,omitempty"`

	// TotalIPCount is how many addresses the subnet can give to pools, taken or free. A number too large for 63 bits is
	// shown as 9223372036854775807.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is how many addresses pools hold, whether or not pods use them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`
}

// SpiderSubnetList is a list of subnets.
//
// +kubebuilder:object:root=true
type SpiderSubnetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SpiderSubnet `json:"items"`
}
