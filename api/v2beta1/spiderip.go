package v2beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpiderIP is one IP address in use. It exists exactly while the address is held, and its name is the address, so the
// API server itself lets nobody hold an address twice: an IPv4 address as it is, "10.6.0.10"; an IPv6 address in
// full with dashes, "fd00-0010-0000-0000-0000-0000-0000-000a".
//
// Agents make and delete it for pods of their node. Do not write it by hand.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=spiderips,singular=spiderip,scope=Cluster,shortName=sip,categories=spiderpool
// +kubebuilder:selectablefield:JSONPath=`.spec.pool`
// +kubebuilder:selectablefield:JSONPath=`.spec.node`
// +kubebuilder:selectablefield:JSONPath=`.spec.use`
// +kubebuilder:printcolumn:name="ADDRESS",type=string,JSONPath=`.spec.address`,description="the address"
// +kubebuilder:printcolumn:name="NAMESPACE",type=string,JSONPath=`.spec.pod.namespace`,description="namespace of the pod that holds it"
// +kubebuilder:printcolumn:name="POD",type=string,JSONPath=`.spec.pod.name`,description="pod that holds it"
// +kubebuilder:printcolumn:name="POOL",type=string,JSONPath=`.spec.pool`,description="pool that gave it"
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`,description="node of the pod"
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=`.spec.interface`,description="interface of the pod"
// +kubebuilder:printcolumn:name="USE",type=string,JSONPath=`.spec.use`,description="Pod, Kept or Quarantine"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`,description="since when the address is held"
// +kubebuilder:printcolumn:name="FIXED-FOR",type=string,JSONPath=`.spec.owner.name`,description="name of what a fixed address belongs to"
// +kubebuilder:printcolumn:name="NETWORK",type=string,JSONPath=`.spec.network`,description="CNI network of the interface",priority=1
// +kubebuilder:printcolumn:name="CONTAINER",type=string,JSONPath=`.spec.containerID`,description="sandbox that holds it",priority=1
// +kubebuilder:printcolumn:name="OWNER-KIND",type=string,JSONPath=`.spec.owner.kind`,description="kind of what a fixed address belongs to",priority=1
// +kubebuilder:printcolumn:name="REASON",type=string,JSONPath=`.spec.reason`,description="why no pod has the address, and until when it is kept",priority=1
//
// +kubebuilder:validation:XValidation:rule=`[self.spec.address].all(a, !isIP(a) || (a.contains(':') ? self.metadata.name.matches('^[0-9a-f]{4}(-[0-9a-f]{4}){7}$') && ip(self.metadata.name.replace('-', ':')) == ip(a) : self.metadata.name == a))`,fieldPath=".spec.address",messageExpression=`'the object is named ' + self.metadata.name + ' and holds ' + self.spec.address + ': the name must be the address, IPv6 in full with dashes'`,message="the name must be the address, IPv6 in full with dashes"
type SpiderIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the address and its holder.
	// +kubebuilder:validation:Required
	Spec IPSpec `json:"spec"`
}

// IPUse says what an address that is held is held for.
//
// +kubebuilder:validation:Enum=Pod;Kept;Quarantine
type IPUse string

const (
	// IPUsePod means that the pod named has the address.
	IPUsePod IPUse = "Pod"
	// IPUseKept means that the address is fixed and nobody bears it: the pod named was the last, its container is gone, and
	// the owner's next pod of that name gets it. Only the agent of the node that proved this writes it, and the controller for
	// a node that was deleted.
	IPUseKept IPUse = "Kept"
	// IPUseQuarantine means that somebody may bear the address though no pod has it: the pod named is gone and nothing proves
	// that its container is, or a host that is no pod answered for the address (Conflict). It may be taken over only after a
	// probe has found it silent on the link; one of a host is given to nobody for a while.
	IPUseQuarantine IPUse = "Quarantine"
)

// IPSpec is an address and its holder: one interface of one sandbox of one pod. Address and pool never change.
//
// +kubebuilder:validation:XValidation:rule=`self.?use.orValue('Pod') != 'Kept' || has(self.owner)`,fieldPath=".owner",message="is required for use Kept: an address is kept for somebody"
// +kubebuilder:validation:XValidation:rule=`!has(self.conflict) || self.?use.orValue('Pod') == 'Quarantine'`,fieldPath=".conflict",message="is of use Quarantine alone: who bears the address besides keeps pods from it"
type IPSpec struct {
	// Address is the IP address in its canonical text, "10.6.0.10" or "fd00:10::a", without prefix length.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self) && ip.isCanonical(self)`,messageExpression=`isIP(self) ? 'must be in canonical form: write %s'.format([string(ip(self))]) : 'must be an IP address'`,message="must be an IP address in canonical form"
	Address string `json:"address"`

	// Pool is the SpiderIPPool that gave the address.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'is immutable and was ' + oldSelf + ': release the address and claim it from the other pool'`,message="is immutable: release the address and claim it from the other pool"
	Pool string `json:"pool"`

	// Node is the node of the pod.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Network is the name of the CNI network configuration by which the interface was made.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=253
	Network string `json:"network"`

	// Interface is the name of the interface in the pod (CNI_IFNAME), "eth0".
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Interface string `json:"interface"`

	// Netns is the path of the pod's network namespace on the node (CNI_NETNS), "/run/netns/cni-…".
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MaxLength=4096
	Netns string `json:"netns"`

	// ContainerID is the sandbox for which the runtime asked last (CNI_CONTAINERID). Only its end frees the address.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ContainerID string `json:"containerID"`

	// Pod is the pod that holds the address, or held it last.
	// +kubebuilder:validation:Required
	Pod IPPod `json:"pod"`

	// Owner is what a fixed address belongs to: the StatefulSet or virtual machine whose next pod of this name gets it
	// again. It is left out for addresses that go with their pod; the controller takes it out of what is in quarantine and the
	// owner wants no more.
	// +optional
	Owner *IPOwner `json:"owner,omitempty"`

	// Use is Pod while the pod has the address, Kept while a fixed address waits for the next pod of its owner, and
	// Quarantine while it is uncertain that the pod's container is gone.
	// +optional
	// +kubebuilder:default=Pod
	Use IPUse `json:"use,omitempty"`

	// Conflict is the hardware address of a host that answered for the address though it is none of Spiderpool's pods,
	// "02:00:5e:10:00:01". It is set in quarantine alone, by the agent that found it.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{2}(:[0-9a-f]{2})*$`
	Conflict string `json:"conflict,omitempty"`

	// Reason says in words why the address is held although no pod has it, and until when.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
}

// IPPod names one incarnation of a pod.
type IPPod struct {
	// Namespace is the pod's.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`

	// Name is the pod's.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// UID is the pod's as the runtime gave it; for a static pod the hash of its configuration.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid"`
}

// IPOwner names the object, in the pod's namespace, that a fixed address belongs to.
type IPOwner struct {
	// APIVersion is the group and version of the object, "apps/v1".
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	APIVersion string `json:"apiVersion"`

	// Kind is the object's, "StatefulSet".
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`

	// Name is the object's.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// UID is the object's.
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	UID string `json:"uid"`

	// Instance is, of a virtual machine, the UID of the VirtualMachineInstance that runs. Two pods of one instance may bear
	// the address while the machine moves from node to node.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Instance string `json:"instance,omitempty"`
}

// SpiderIPList is a list of addresses in use.
//
// +kubebuilder:object:root=true
type SpiderIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SpiderIP `json:"items"`
}
