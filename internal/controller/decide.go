package controller

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/fixed"
)

// Durations of the collection, beside those that are configured.
const (
	// agentTime is how long the agent of a ready node has to free an address by itself. It needs a second after a DEL, and
	// two looks 20 s apart without one; the rest is for an agent that is being replaced.
	agentTime = time.Minute
	// quarantineTime is how long an address is given to nobody after a host that is no pod has answered for it; and, if its
	// Node was deleted, only to who finds it silent: a kubelet that runs on takes as long as the pod's grace period, also for a
	// pod that the garbage collection deletes by force.
	quarantineTime = 10 * time.Minute
)

// Why an address is collected, as the metrics say it.
const (
	reasonNotFixed       = "not_fixed"
	reasonOwnerGone      = "owner_gone"
	reasonNotWanted      = "not_wanted"
	reasonPodWithout     = "pod_without"
	reasonNodeDeleted    = "node_deleted"
	reasonPodGone        = "pod_gone"
	reasonPodFinished    = "pod_finished"
	reasonPodEvicted     = "pod_evicted"
	reasonPodTerminating = "pod_terminating"
	reasonQuarantineOver = "quarantine_over"
)

// podState is what is known of the pod that an entry names.
type podState int

const (
	podUnknown podState = iota
	podLiving
	podTerminating
	podFinished // Succeeded or Failed
	podEvicted  // Failed because the kubelet evicted it
	podGone     // there is none of the name, or one of another UID
	podNoMirror // the same of a static pod: its container needs no object
)

// nodeState is what is known of the node of an entry.
type nodeState int

const (
	nodeUnknown nodeState = iota
	nodeReady
	nodeNotReady
	nodeDeleted // there is no such Node
)

// findings are what is known about an entry. What is missing proves nothing.
type findings struct {
	pod  podState
	node nodeState
	// grace is how long a pod that is terminating may take.
	grace time.Duration
	// seen is since when this process sees the entry, the state of its pod and whether there is its node, as they are.
	seen time.Duration
	// ready is since when the node is seen ready.
	ready time.Duration

	// Of a fixed address that no pod has: ownerRead says that the owner was read; owner is nil if it does not exist.
	ownerRead bool
	owner     *unstructured.Unstructured
	// next is the pod that has the name now; nil if there is none, or it was not read.
	next *corev1.Pod
}

// action is what is done about an entry.
type action string

const (
	keep       action = ""
	again      action = "again" // keep it, and look again after a while
	release    action = "release"
	quarantine action = "quarantine"
	keepOn     action = "keep"   // write it to be kept for the next pod of its owner
	disown     action = "disown" // leave it in quarantine, for any pod and not only the next one of its owner
)

// verdict says what becomes of an entry.
type verdict struct {
	do action
	// reason is for metrics, why in words.
	reason, why string
	// after is how long to wait before the next look, of again.
	after time.Duration
}

// proof reports whether the container is known to be silent; what is done without that follows a policy.
func (v verdict) proof() bool {
	switch v.reason {
	case reasonNotFixed, reasonOwnerGone, reasonNotWanted, reasonPodWithout: // its agent wrote it to be kept
		return v.do == release
	}
	return false
}

// decide says what becomes of an address that an agent has not freed, by the first row that fits. A row that waits is "again"
// until it has waited; "all" are gone, finished, evicted, terminating, and static without a mirror.
//
//	use              | pod                  | node         | and                      | then
//	-----------------+----------------------+--------------+--------------------------+--------------------------------------
//	any              | any                  | any          | GC_IP_ENABLED is false   | keep
//	Kept             | any                  | any          |                          | keep: see decideOwned
//	Quarantine       | any                  | any          | a host answered for it   | wait quarantineTime: release,
//	                 |                      |              |                          |   quarantine_over
//	Pod, Quarantine  | living, not known    | any          |                          | keep
//	Pod, Quarantine  | any                  | not known    |                          | keep
//	Pod, Quarantine  | evicted              | any          | GC_EVICTED_... is false  | keep
//	Pod, Quarantine  | terminating          | ready        | ..._ON_READY_... is      | keep
//	                 |                      |              |   false                  |
//	Pod, Quarantine  | terminating          | not ready,   | ..._ON_NOT_READY_... is  | keep
//	                 |                      |   deleted    |   false                  |
//	Pod              | all                  | deleted      |                          | wait: quarantine, node_deleted
//	Quarantine       | all                  | deleted      | a container that a       | keep
//	                 |                      |              |   machine left may bear  |
//	                 |                      |              |   it                     |
//	Quarantine       | all                  | deleted      | fixed                    | wait, and quarantineTime: write
//	                 |                      |              |                          |   Kept, node_deleted
//	Quarantine       | all                  | deleted      | not fixed                | wait, and quarantineTime: release,
//	                 |                      |              |                          |   node_deleted
//	Pod, Quarantine  | static, no mirror    | there        |                          | keep
//	Quarantine       | all                  | there        |                          | keep: a probe lets another have it,
//	                 |                      |              |                          |   and its agent frees it
//	Pod              | all                  | not ready    |                          | wait: quarantine, pod_...
//	Pod              | all                  | ready        |                          | wait, also until it is ready, and
//	                 |                      |              |                          |   agentTime: quarantine, pod_...
//
// To wait is to wait for the delay of the configuration, which evicted pods have of their own, and before it for the grace
// period of a pod that is terminating. Of a node that was deleted the administrator has said that nothing runs there any more,
// and what may end yet has quarantineTime for it.
// What the owner of a fixed address has to do with it decideOwned says, within seconds after it is written here.
func decide(e Entry, f findings, rules fixed.Rules, gc config.GC) verdict {
	switch {
	case !gc.Enabled, e.Use == v2beta1.IPUseKept:
		return verdict{}
	case e.Conflict:
		return waited(f, quarantineTime, verdict{do: release, reason: reasonQuarantineOver,
			why: fmt.Sprintf("a host that is no pod answered for it, and it was given to nobody for %s", quarantineTime)})
	case f.pod == podUnknown, f.pod == podLiving, f.node == nodeUnknown, switchedOff(f, gc):
		return verdict{}
	case f.node == nodeDeleted && e.Use == v2beta1.IPUseQuarantine:
		return waited(f, patience(f, gc)+quarantineTime, afterQuarantine(e, rules))
	case f.node == nodeDeleted:
		return waited(f, patience(f, gc), verdict{do: quarantine, reason: reasonNodeDeleted,
			why: fmt.Sprintf("pod %s is gone and node %s was deleted: another pod may have it once it is silent on the link", e.Pod, e.Node)})
	case f.pod == podNoMirror, e.Use == v2beta1.IPUseQuarantine:
		return verdict{}
	}
	reason, what := condition(f.pod)
	on := "is not ready"
	wait := patience(f, gc)
	if f.node == nodeReady {
		on = fmt.Sprintf("is ready, and its agent has not freed it for %s", agentTime)
		wait = max(wait, f.seen-f.ready) + agentTime
	}
	return waited(f, wait, verdict{do: quarantine, reason: reason,
		why: fmt.Sprintf("pod %s %s and node %s %s: another pod may have it once it is silent on the link", e.Pod, what, e.Node, on)})
}

// afterQuarantine is what becomes of an address of a node that was deleted, when it has been in quarantine.
func afterQuarantine(e Entry, rules fixed.Rules) verdict {
	why := fmt.Sprintf("pod %s is gone and node %s was deleted more than %s ago", e.Pod, e.Node, quarantineTime)
	switch {
	case e.Borne:
		return verdict{}
	case e.Owner != nil && rules.Cover(e.Owner):
		return verdict{do: keepOn, reason: reasonNodeDeleted, why: why + "; it is kept " + fixed.Until(e.Owner, podOf(e).Name)}
	}
	return verdict{do: release, reason: reasonNodeDeleted, why: why}
}

// switchedOff reports whether the configuration leaves a pod in such a state alone.
func switchedOff(f findings, gc config.GC) bool {
	switch f.pod {
	case podEvicted:
		return !gc.Evicted
	case podTerminating:
		return f.node == nodeReady && !gc.TerminatingOnReadyNode || f.node != nodeReady && !gc.TerminatingOnNotReadyNode
	}
	return false
}

// patience is how long a state is borne before anything follows from it.
func patience(f findings, gc config.GC) time.Duration {
	switch f.pod {
	case podEvicted:
		return gc.EvictedDelay
	case podTerminating:
		return f.grace + gc.GraceDelay
	}
	return gc.GraceDelay
}

// waited is a verdict once it has waited for so long.
func waited(f findings, wait time.Duration, v verdict) verdict {
	if v.do != keep && f.seen < wait {
		return verdict{do: again, after: wait - f.seen}
	}
	return v
}

// condition names what became of a pod.
func condition(s podState) (reason, what string) {
	switch s {
	case podTerminating:
		return reasonPodTerminating, "is terminating beyond its grace period"
	case podFinished:
		return reasonPodFinished, "has finished"
	case podEvicted:
		return reasonPodEvicted, "was evicted"
	}
	return reasonPodGone, "is gone"
}

// decideOwned says what becomes of a fixed address that no pod has, for the sake of its owner, by the first row that applies.
// "Give up" is to release it if it is Kept, and to disown it if it is in quarantine.
//
//	the owner                          | the pod of the name now             | then
//	-----------------------------------+-------------------------------------+---------------------
//	whatever; GC_IP_ENABLED is false   | whatever                            | keep
//	whatever; a container may bear it  | whatever                            | keep
//	has no fixed addresses any more    | whatever                            | give up, not_fixed
//	was not read: no right, no answer, | whatever                            | keep
//	  an unknown kind                  |                                     |
//	does not exist, is being deleted   | whatever                            | give up, owner_gone
//	wants no pod of the name           | whatever                            | give up, not_wanted
//	is a virtual machine               | whatever                            | keep
//	wants it                           | none, not read, being deleted, not  | keep
//	                                   | Running, the last one itself, or of |
//	                                   | another owner                       |
//	wants it                           | the owner's next one, Running       | give up, pod_without
//
// Of a pod that is Running all interfaces were made: it has other addresses, or lost the interface.
func decideOwned(e Entry, f findings, rules fixed.Rules, gc config.GC) verdict {
	wanted, why := fixed.Wanted(e.Owner, f.owner, podOf(e).Name)
	switch {
	case !gc.Enabled, e.Borne:
		return verdict{}
	case !rules.Cover(e.Owner):
		return giveUp(e, reasonNotFixed, fmt.Sprintf("pods of %s have no fixed addresses any more", ownerName(e.Owner)))
	case !f.ownerRead:
		return verdict{}
	case f.owner == nil || f.owner.GetDeletionTimestamp() != nil:
		return giveUp(e, reasonOwnerGone, why)
	case !wanted:
		return giveUp(e, reasonNotWanted, why)
	case !fixed.IsMachine(e.Owner) && runsWithout(e, f.next, rules):
		return giveUp(e, reasonPodWithout, fmt.Sprintf("pod %s was made anew and runs without it", e.Pod))
	}
	return verdict{}
}

// giveUp is what is done about an address that its owner has no use for: nobody knows whether what is in quarantine is silent.
func giveUp(e Entry, reason, why string) verdict {
	if e.Use == v2beta1.IPUseQuarantine {
		return verdict{do: disown, reason: reason, why: why + ": any pod may have it once it is silent on the link"}
	}
	return verdict{do: release, reason: reason, why: why}
}

// runsWithout reports whether a pod took the place of the one that an address is kept after, and did not need it.
func runsWithout(e Entry, pod *corev1.Pod, rules fixed.Rules) bool {
	if pod == nil || string(pod.UID) == e.UID || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	owner, _ := rules.Owner(pod, metav1.OwnerReference{})
	return fixed.Same(e.Owner, podOf(e), owner, v2beta1.IPPod{Namespace: pod.Namespace, Name: pod.Name})
}

// podOf is the pod that an entry names.
func podOf(e Entry) v2beta1.IPPod {
	namespace, name, _ := strings.Cut(e.Pod, "/")
	return v2beta1.IPPod{Namespace: namespace, Name: name, UID: e.UID}
}

func ownerName(o *v2beta1.IPOwner) string { return o.Kind + " " + o.Name }
