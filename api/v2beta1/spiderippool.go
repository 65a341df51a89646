package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpiderIPPool is a set of IP addresses of one subnet, with the rules which pods may have them and how they route.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=spiderippools,singular=spiderippool,scope=Cluster,shortName=sp,categories=spiderpool
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=`.spec.ipVersion`,description="4 or 6"
// +kubebuilder:printcolumn:name="SUBNET",type=string,JSONPath=`.spec.subnet`,description="the network of the addresses"
// +kubebuilder:printcolumn:name="ALLOCATED-IP-COUNT",type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses that pods hold"
// +kubebuilder:printcolumn:name="TOTAL-IP-COUNT",type=integer,JSONPath=`.status.totalIPCount`,description="addresses that the pool can give"
// +kubebuilder:printcolumn:name="DEFAULT",type=boolean,JSONPath=`.spec.default`,description="serves pods that name no pool"
// +kubebuilder:printcolumn:name="DISABLE",type=boolean,JSONPath=`.spec.disable`,description="gives no more addresses",priority=10
// +kubebuilder:printcolumn:name="NodeName",type=string,JSONPath=`.spec.nodeName`,description="nodes that the pool serves",priority=10
// +kubebuilder:printcolumn:name="MultusName",type=string,JSONPath=`.spec.multusName`,description="networks that the pool serves",priority=10
// +kubebuilder:printcolumn:name="APP-NAMESPACE",type=string,JSONPath=`.spec.podAffinity.matchLabels['ipam\.spidernet\.io/app-namespace']`,description="namespace of the application that an automatic pool serves",priority=10
type SpiderIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the administrator wants of the pool.
	// +kubebuilder:validation:Required
	Spec IPPoolSpec `json:"spec"`
	// Status is the controller's count of what the pool holds. Nothing decides by it.
	// +optional
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolSpec is what the administrator wants of a pool. All conditions that are set must hold for a pod to be served.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || (self.ipVersion == 6) == self.subnet.contains(':')`,fieldPath=".ipVersion",messageExpression=`'%d does not fit subnet %s: write %d or leave it out'.format([self.ipVersion, self.subnet, self.subnet.contains(':') ? 6 : 4])`,message="does not fit the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || net.containsIP(a))))`,fieldPath=".ips",messageExpression=`self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + ' is outside subnet ' + self.subnet`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || net.containsIP(a))))`,fieldPath=".excludeIPs",messageExpression=`self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + ' is outside subnet ' + self.subnet`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isIP(self.gateway) || !isCIDR(self.subnet) || cidr(self.subnet).containsIP(self.gateway) || (self.subnet.contains(':') && self.gateway.contains(':') && ip(self.gateway).isLinkLocalUnicast())`,fieldPath=".gateway",messageExpression=`self.gateway + ' is outside subnet ' + self.subnet + (self.subnet.contains(':') ? ': write an address of the router inside it, or its link-local address' : ': write an address of the router inside it')`,message="must be inside the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || self.routes.all(r, r.dst.contains(':') == self.subnet.contains(':'))`,fieldPath=".routes",messageExpression=`'dst %s is not of the family of subnet %s'.format([self.routes.filter(r, r.dst.contains(':') != self.subnet.contains(':'))[0].dst, self.subnet])`,message="dst must be of the family of the subnet"
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || [cidr(self.subnet)].all(net, self.routes.all(r, !isIP(r.gw) || net.containsIP(r.gw) || (self.subnet.contains(':') && r.gw.contains(':') && ip(r.gw).isLinkLocalUnicast())))`,fieldPath=".routes",messageExpression=`'gw %s is outside subnet %s'.format([self.routes.filter(r, isIP(r.gw) && !cidr(self.subnet).containsIP(r.gw) && !(self.subnet.contains(':') && r.gw.contains(':') && ip(r.gw).isLinkLocalUnicast()))[0].gw, self.subnet])`,message="gw must be inside the subnet"
type IPPoolSpec struct {
	// IPVersion is the family of the addresses, 4 or 6. It follows from the subnet and may be left out. It never changes.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the addresses in its canonical form, "10.6.0.0/16" or "fd00:10::/64". Pods get its
	// prefix length. It never changes: make another pool instead.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self) && string(cidr(self).masked()) == self`,messageExpression=`isCIDR(self) ? 'must be the network itself in its canonical form: write %s'.format([string(cidr(self).masked())]) : 'must be a network, as 10.6.0.0/16 or fd00:10::/64'`,message="must be a network in its canonical form, as 10.6.0.0/16 or fd00:10::/64"
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'is immutable and was ' + oldSelf + ': make another object for another subnet'`,message="is immutable: make another object for another subnet"
	Subnet string `json:"subnet"`

	// IPs are the ranges that the pool may give, each one address "10.6.0.10" or first and last "10.6.0.10-10.6.0.20",
	// inside the subnet. An address that a pod holds cannot be taken out. At most 1000 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, isIP(a))`,message="must be an address or the first and the last address joined by a dash, without blanks"
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, a.contains(':') == self.contains(':'))`,message="the first and the last address must be of one family"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains(':') || !self.split('-', 2).all(a, isIP(a)) || [self.split('-', 2).map(a, a.split('.', 4).map(o, int(o)))].all(b, size(b) < 2 || b[0][0] * 16777216 + b[0][1] * 65536 + b[0][2] * 256 + b[0][3] <= b[1][0] * 16777216 + b[1][1] * 65536 + b[1][2] * 256 + b[1][3])`,message="the first address must not be after the last"
	IPs []string `json:"ips,omitempty"`

	// ExcludeIPs are ranges inside the subnet that are never given though ips names them. At most 1000 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, isIP(a))`,message="must be an address or the first and the last address joined by a dash, without blanks"
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, a.contains(':') == self.contains(':'))`,message="the first and the last address must be of one family"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains(':') || !self.split('-', 2).all(a, isIP(a)) || [self.split('-', 2).map(a, a.split('.', 4).map(o, int(o)))].all(b, size(b) < 2 || b[0][0] * 16777216 + b[0][1] * 65536 + b[0][2] * 256 + b[0][3] <= b[1][0] * 16777216 + b[1][1] * 65536 + b[1][2] * 256 + b[1][3])`,message="the first address must not be after the last"
	ExcludeIPs []string `json:"excludeIPs,omitempty"`

	// Gateway is the next hop of the pods' default route: inside the subnet, or for IPv6 the link-local address of the
	// router. Without it the pool brings no default route. It is never given to a pod.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,message="must be an IP address"
	Gateway *string `json:"gateway,omitempty"`

	// Routes are further routes that pods of this pool get. At most 100 entries.
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=dst
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self.dst)`,fieldPath=".dst",messageExpression=`'must be a network, as 10.7.0.0/16 or fd00:7::/64, not ' + self.dst`,message="must be a network, as 10.7.0.0/16 or fd00:7::/64"
	// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self.dst) || cidr(self.dst).prefixLength() != 0`,fieldPath=".dst",message="the default route is not written here: set the gateway"
	// +kubebuilder:validation:items:XValidation:rule=`isIP(self.gw)`,fieldPath=".gw",messageExpression=`'must be an IP address, not ' + self.gw`,message="must be an IP address"
	Routes []Route `json:"routes,omitempty"`

	// PodAffinity selects by label the pods that the pool serves. It must not be empty.
	// +optional
	// +kubebuilder:validation:XValidation:rule=`(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)`,message="must select something: an empty selector is not accepted, leave it out to serve all pods"
	PodAffinity *metav1.LabelSelector `json:"podAffinity,omitempty"`

	// NamespaceAffinity selects by label the namespaces whose pods the pool serves. Ignored while namespaceName is set.
	// +optional
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`

	// NamespaceName lists the namespaces whose pods the pool serves.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	NamespaceName []string `json:"namespaceName,omitempty"`

	// NodeAffinity selects by label the nodes whose pods the pool serves. Ignored while nodeName is set.
	// +optional
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`

	// NodeName lists the nodes whose pods the pool serves.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	NodeName []string `json:"nodeName,omitempty"`

	// MultusName lists the Multus networks, "namespace/name" or "name", whose interfaces the pool serves.
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	MultusName []string `json:"multusName,omitempty"`

	// Default makes the pool serve pods for which nothing names a pool: no annotation, namespace or CNI configuration.
	// +optional
	// +kubebuilder:default=false
	Default *bool `json:"default,omitempty"`

	// Disable stops the pool from giving addresses. Pods keep those they hold.
	// +optional
	// +kubebuilder:default=false
	Disable *bool `json:"disable,omitempty"`
}

// Route is one entry of a pod's routing table.
type Route struct {
	// Dst is the destination as a CIDR, "10.7.0.0/16". In a pool or subnet it is of the family of the subnet and not the
	// default route: that comes from the gateway.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=43
	Dst string `json:"dst"`
	// Gw is the next hop. In a pool or subnet it is inside the subnet, or for IPv6 a link-local address.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=39
	Gw string `json:"gw"`
}

// IPPoolStatus is what the controller computed from the addresses in use (SpiderIP) for one generation of the pool.
type IPPoolStatus struct {
	// ObservedGeneration is the generation of the pool that this status judges. Once it is the present one, no pod
	// holds or can get an address outside the pool, those in draining excepted.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// ObservedReserved is the annotation AnnotationReserved that this status judges: the ranges of the pool that are given
	// to nobody, joined by commas. Once it is the present one, no pod can get an address in it any more.
	// +optional
	ObservedReserved string `json:"observedReserved,omitempty"`

	// AllocatedIPs maps each address in use to its pod as JSON, {"10.6.0.10":{"pod":"namespace/name","podUid":"uid"}}.
	// It is left out when nothing is in use, and for pools with more than about a hundred addresses in use: list
	// SpiderIPs to see them all.
	// +optional
	AllocatedIPs *string `json:"allocatedIPs,omitempty"`

	// TotalIPCount is how many addresses the pool can give, used or free: ips without excludeIPs. A number too
	// large for 63 bits is shown as 9223372036854775807.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is how many addresses of this pool are in use.
	// +optional
	// +kubebuilder:validation:Minimum=0
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Draining are the ranges in use that the pool no longer covers. Their pods keep them; nobody else gets them.
	// +optional
	Draining []string `json:"draining,omitempty"`

	// DrainingIPCount is how many addresses the draining ranges hold.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DrainingIPCount *int64 `json:"drainingIPCount,omitempty"`

	// Conditions are Ready, Draining and Malformed, each with a reason and a message for people.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Types of the conditions of a SpiderIPPool.
const (
	// ConditionReady is true while the pool gives addresses to the pods that it serves. It is false while the pool is
	// disabled, being deleted or malformed, or has no address that is not reserved.
	ConditionReady = "Ready"
	// ConditionDraining is true while pods hold addresses that the pool no longer covers, or the pool is being deleted and
	// pods hold addresses of it.
	ConditionDraining = "Draining"
	// ConditionMalformed is true while the spec cannot be understood; the message names the field.
	ConditionMalformed = "Malformed"
)

// SpiderIPPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type SpiderIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SpiderIPPool `json:"items"`
}
