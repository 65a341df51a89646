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
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || (self.ipVersion == 6) == self.subnet.contains(':')`,fieldPath=".ipVersion",messageExpression=`'%d does not fit subnet %s: write %d or leave it out'.format([self.ipVersion, self.subnet, self.subnet.contains(':') ? 6 : 4])`,message="does not fit the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || net.containsIP(a))))`,fieldPath=".ips",messageExpression=`self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + ' is outside subnet ' + self.subnet`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || net.containsIP(a))))`,fieldPath=".excludeIPs",messageExpression=`self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + ' is outside subnet ' + self.subnet`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isIP(self.gateway) || !isCIDR(self.subnet) || cidr(self.subnet).containsIP(self.gateway) || (self.subnet.contains(':') && self.gateway.contains(':') && ip(self.gateway).isLinkLocalUnicast())`,fieldPath=".gateway",messageExpression=`self.gateway + ' is outside subnet ' + self.subnet + (self.subnet.contains(':') ? ': write an address of the router inside it, or its link-local address' : ': write an address of the router inside it')`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || self.routes.all(r, r.dst.contains(':') == self.subnet.contains(':'))`,fieldPath=".routes",messageExpression=`'dst %s is not of the family of subnet %s'.format([self.routes.filter(r, r.dst.contains(':') != self.subnet.contains(':'))[0].dst, self.subnet])`,message="dst must be of the family of the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.routes.all(r, !isIP(r.gw) || net.containsIP(r.gw) || (self.subnet.contains(':') && r.gw.contains(':') && ip(r.gw).isLinkLocalUnicast())))`,fieldPath=".routes",messageExpression=`'gw %s is outside subnet %s'.format([self.routes.filter(r, isIP(r.gw) && !cidr(self.subnet).containsIP(r.gw) && !(self.subnet.contains(':') && r.gw.contains(':') && ip(r.gw).isLinkLocalUnicast()))[0].gw, self.subnet])`,message="gw must be inside the subnet"
type SubnetSpec struct {
	// IPVersion is the family of the addresses, 4 or 6. It follows from the subnet and may be left out. It never changes.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network in its canonical form, "10.6.0.0/16" or "fd00:10::/64". It never changes.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self) && string(cidr(self).masked()) == self`,messageExpression=`isCIDR(self) ? 'must be the network itself in its canonical form: write %s'.format([string(cidr(self).masked())]) : 'must be a network, as 10.6.0.0/16 or fd00:10::/64'`,message="must be a network in its canonical form, as 10.6.0.0/16 or fd00:10::/64"
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'is immutable and was ' + oldSelf + ': make another object for another subnet'`,message="is immutable: make another object for another subnet"
	Subnet string `json:"subnet"`

	// IPs are the ranges that pools may take, each one address "10.6.0.10" or first and last "10.6.0.10-10.6.0.20",
	// inside the subnet. A range that a pool holds cannot be taken out. At most 1000 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, isIP(a))`,message="must be an address or the first and the last address joined by a dash, without blanks"
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, a.contains(':') == self.contains(':'))`,message="the first and the last address must be of one family"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains(':') || !self.split('-', 2).all(a, isIP(a)) || [self.split('-', 2).map(a, a.split('.', 4).map(o, int(o)))].all(b, size(b) < 2 || b[0][0] * 16777216 + b[0][1] * 65536 + b[0][2] * 256 + b[0][3] <= b[1][0] * 16777216 + b[1][1] * 65536 + b[1][2] * 256 + b[1][3])`,message="the first address must not be after the last"
	IPs []string `json:"ips,omitempty"`

	// ExcludeIPs are ranges inside the subnet that no pool may take though ips names them. At most 1000 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, isIP(a))`,message="must be an address or the first and the last address joined by a dash, without blanks"
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, a.contains(':') == self.contains(':'))`,message="the first and the last address must be of one family"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains(':') || !self.split('-', 2).all(a, isIP(a)) || [self.split('-', 2).map(a, a.split('.', 4).map(o, int(o)))].all(b, size(b) < 2 || b[0][0] * 16777216 + b[0][1] * 65536 + b[0][2] * 256 + b[0][3] <= b[1][0] * 16777216 + b[1][1] * 65536 + b[1][2] * 256 + b[1][3])`,message="the first address must not be after the last"
	ExcludeIPs []string `json:"excludeIPs,omitempty"`

	// Gateway is the gateway of pools that set none: inside the subnet, or for IPv6 the link-local address of the router.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,message="must be an IP address"
	Gateway *string `json:"gateway,omitempty"`

	// Routes are the routes of pools that set none. At most 100 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=dst
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self.dst)`,fieldPath=".dst",messageExpression=`'must be a network, as 10.7.0.0/16 or fd00:7::/64, not ' + self.dst`,message="must be a network, as 10.7.0.0/16 or fd00:7::/64"
	// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self.dst) || cidr(self.dst).prefixLength() != 0`,fieldPath=".dst",message="the default route is not written here: set the gateway"
	// +kubebuilder:validation:items:XValidation:rule=`isIP(self.gw)`,fieldPath=".gw",messageExpression=`'must be an IP address, not ' + self.gw`,message="must be an IP address"
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
