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
type ReservedIPSpec struct {
	// IPVersion is the family of the addresses, 4 or 6. It follows from ips and may be left out. It never changes.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// IPs are the reserved ranges, each one address "10.6.0.10" or first and last "10.6.0.10-10.6.0.20", all of one
	// family. At least one and at most 1000 entries.
	// +kubebuilder:validation:Required
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
