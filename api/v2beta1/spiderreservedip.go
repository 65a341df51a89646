package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpiderReservedIP names addresses that no pod gets, whichever pool covers them. A pod that already holds one keeps it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=spiderreservedips,singular=spiderreservedip,scope=Cluster,shortName=sr,categories=spiderpool
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=`.spec.ipVersion`,description="4 or 6"
type SpiderReservedIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec names the addresses.
	// +kubebuilder:validation:Required
	Spec ReservedIPSpec `json:"spec"`
}

// ReservedIPSpec names the addresses that no pod gets.
//
// +kubebuilder:validation:XValidation:rule=`self.ips.all(r, r.contains(':') == self.ips[0].contains(':'))`,fieldPath=".ips",message="must be of one family: make one object for IPv4 and one for IPv6"
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || size(self.ips) == 0 || (self.ipVersion == 6) == self.ips[0].contains(':')`,fieldPath=".ipVersion",messageExpression=`'%d does not fit %s: write %d or leave it out'.format([self.ipVersion, self.ips[0], self.ips[0].contains(':') ? 6 : 4])`,message="does not fit ips"
// +kubebuilder:validation:XValidation:rule=`size(self.ips) == 0 || size(oldSelf.ips) == 0 || self.ips[0].contains(':') == oldSelf.ips[0].contains(':')`,fieldPath=".ips",message="the family is immutable: make another object for the other family"
type ReservedIPSpec struct {
	// IPVersion is the family of the addresses, 4 or 6. It follows from ips and may be left out. It never changes.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// IPs are the reserved ranges, each one address "10.6.0.10" or first and last "10.6.0.10-10.6.0.20", all of one
	// family. At least one and at most 1000 entries.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, isIP(a))`,message="must be an address or the first and the last address joined by a dash, without blanks"
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).all(a, a.contains(':') == self.contains(':'))`,message="the first and the last address must be of one family"
	// +kubebuilder:validation:items:XValidation:rule=`self.contains(':') || !self.split('-', 2).all(a, isIP(a)) || [self.split('-', 2).map(a, a.split('.', 4).map(o, int(o)))].all(b, size(b) < 2 || b[0][0] * 16777216 + b[0][1] * 65536 + b[0][2] * 256 + b[0][3] <= b[1][0] * 16777216 + b[1][1] * 65536 + b[1][2] * 256 + b[1][3])`,message="the first address must not be after the last"
	IPs []string `json:"ips"`
}

// SpiderReservedIPList is a list of reservations.
//
// +kubebuilder:object:root=true
type SpiderReservedIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SpiderReservedIP `json:"items"`
}
