package v2beta1_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// clientOf is a client of our kinds.
func clientOf(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	types := runtime.NewScheme()
	if err := v2beta1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// agentOf is the agent of a node, with a token that is bound to its pod there.
func agentOf(t *testing.T, node string) client.Client {
	t.Helper()
	config(t)
	return clientOf(t, apiserver.AgentConfig(t, apiserver.ForTest(t), node))
}

// accountOf is a user whom RBAC lets do everything: what is refused, a policy refuses.
func accountOf(t *testing.T, user string, groups ...string) client.Client {
	t.Helper()
	cfg := config(t)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append(groups, "system:masters")}
	return clientOf(t, cfg)
}

// The accounts of the policies' files.
const (
	agentAccount      = "system:serviceaccount:kube-system:spiderpool-agent"
	controllerAccount = "system:serviceaccount:kube-system:spiderpool-controller"
)

// unbound are the agent's tokens that say nothing of a node.
func unbound(t *testing.T) map[string]client.Client {
	t.Helper()
	config(t)
	server := apiserver.ForTest(t)
	apiserver.AgentConfig(t, server, "a") // makes the account
	cfg, err := server.ServiceAccountConfig(t.Context(), "kube-system", "spiderpool-agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]client.Client{"token that is not bound to a pod": clientOf(t, cfg), "impersonated": accountOf(t, agentAccount)}
}

// stored are SpiderIPs that are there: of nodes a and b; fixed ones have an owner.
func stored(t *testing.T) {
	t.Helper()
	c := api(t)
	for _, ip := range []*v2beta1.SpiderIP{
		held("10.61.0.1", "10.61.0.1", onNode("a")),
		held("10.61.0.2", "10.61.0.2", onNode("b")),
		held("10.61.0.3", "10.61.0.3", onNode("b"), fixed("s1")),
		held("10.61.0.4", "10.61.0.4", onNode("b"), annotated(v2beta1.AnnotationAllowDelete, "true")),
		held("10.61.0.5", "10.61.0.5", onNode("b"), func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUseQuarantine }),
		held("10.61.0.6", "10.61.0.6", onNode("b"), annotated(v2beta1.AnnotationAllowDelete, "false")),
		held("10.61.0.7", "10.61.0.7", onNode("b"), fixed("s1"), kept),
		held("10.61.0.8", "10.61.0.8", onNode("b"), machine("VirtualMachine", "m1")),
		held("10.61.0.9", "10.61.0.9", onNode("b"), machine("VirtualMachineInstance", "m1"), kept),
		held("10.61.0.11", "10.61.0.11", onNode("b"), machine("VirtualMachine", "m1"), annotated(v2beta1.AnnotationBearers, "c9"), annotated("a", "b")),
		held("10.61.0.10", "10.61.0.10", onNode("b"), fixed("s1"), func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUseQuarantine }),
	} {
		if err := create(t.Context(), c, ip); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := apiserver.DeleteSpiderIP(context.Background(), c, ip); err != nil {
				t.Error(err)
			}
		})
	}
}

func onNode(node string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) { ip.Spec.Node = node }
}

func fixed(uid string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		ip.Spec.Owner = &v2beta1.IPOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: uid}
	}
}

// machine makes it an address of a KubeVirt machine.
func machine(kind, uid string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		ip.Spec.Owner = &v2beta1.IPOwner{APIVersion: "kubevirt.io/v1", Kind: kind, Name: "db", UID: uid}
	}
}

func kept(ip *v2beta1.SpiderIP) {
	ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseKept, "until it is deleted"
}

// launcher is the next pod of a machine, which has a name of its own.
func launcher(node string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		anew(node)(ip)
		ip.Spec.Pod.Name, ip.Spec.Use, ip.Spec.Reason = "virt-launcher-db-x", v2beta1.IPUsePod, ""
	}
}

func annotated(key, value string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) { metav1.SetMetaDataAnnotation(&ip.ObjectMeta, key, value) }
}

// ip changes what an entry says.
func ip(change func(*v2beta1.IPSpec)) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) { change(&ip.Spec) }
}

// anew is the next pod of the name on a node.
func anew(node string) func(*v2beta1.SpiderIP) {
	return func(ip *v2beta1.SpiderIP) {
		ip.Spec.Node, ip.Spec.ContainerID, ip.Spec.Netns, ip.Spec.Pod.UID = node, "c2", "/run/netns/y", "u2"
	}
}

// write does one of the verbs to a SpiderIP, without consequence: an update and a delete of what is stored, after change.
func write(ctx context.Context, t *testing.T, by client.Client, verb, name string, changes ...func(*v2beta1.SpiderIP)) error {
	t.Helper()
	ip := held(name, name)
	if verb != "create" {
		if err := api(t).Get(ctx, client.ObjectKey{Name: name}, ip); err != nil {
			t.Fatal(err)
		}
	}
	for _, change := range changes {
		change(ip)
	}
	switch verb {
	case "create":
		return by.Create(ctx, ip, client.DryRunAll)
	case "update":
		return by.Update(ctx, ip, client.DryRunAll)
	}
	return by.Delete(ctx, ip, client.DryRunAll, client.Preconditions{UID: &ip.UID, ResourceVersion: &ip.ResourceVersion})
}

// TestAgentWritesItsNode: whatever an agent writes into a SpiderIP, the node of its token decides.
func TestAgentWritesItsNode(t *testing.T) {
	stored(t)
	const mine, theirs, worn, free, vm, freeVM, unsure, moved = "10.61.0.1", "10.61.0.2", "10.61.0.3", "10.61.0.7", "10.61.0.8", "10.61.0.9", "10.61.0.10", "10.61.0.11"
	const ofB = "10.61.0.2 is held by pod default/web-0 on node b, and the agent of node a may only take it over, and only for the next pod of the same name and spec.owner when no pod has it (spec.use), or for the same virtual machine, or out of quarantine"
	const ofAnother = " is held by pod default/web-0 on node b, and the agent of node a may only take it over"
	const onlyItsOwn = "spec.node: is b, and the agent of node a writes entries of its own node only"
	next := func(node string) func(*v2beta1.SpiderIP) {
		return func(ip *v2beta1.SpiderIP) { anew(node)(ip); ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUsePod, "" }
	}
	owner := func(f func(*v2beta1.IPOwner)) func(*v2beta1.SpiderIP) {
		return func(ip *v2beta1.SpiderIP) { next("a")(ip); f(ip.Spec.Owner) }
	}
	// silenced is how an agent says that a container of a machine that moved away is gone; it may do more.
	silenced := func(more ...func(*v2beta1.SpiderIP)) func(*v2beta1.SpiderIP) {
		return func(ip *v2beta1.SpiderIP) {
			for _, change := range append(more, annotated(v2beta1.AnnotationBearers, "c8"), annotated(v2beta1.AnnotationWritten, "x")) {
				change(ip)
			}
		}
	}
	without := func(keys ...string) func(*v2beta1.SpiderIP) {
		return func(ip *v2beta1.SpiderIP) {
			for _, key := range keys {
				delete(ip.Annotations, key)
			}
		}
	}
	for _, tt := range []struct {
		name, verb, ip, want string
		change               func(*v2beta1.SpiderIP)
	}{
		{"its own", "create", "10.61.1.1", "", onNode("a")},
		{"its own, fixed", "create", "10.61.1.1", "", func(ip *v2beta1.SpiderIP) { onNode("a")(ip); fixed("s1")(ip) }},
		{"another's", "create", "10.61.1.1", onlyItsOwn, onNode("b")},
		{"taken by another", "create", theirs, "already exists", onNode("a")},

		{"its own", "update", mine, "", anew("a")},
		{"its own, to another pod", "update", mine, "", ip(func(s *v2beta1.IPSpec) { s.Pod = v2beta1.IPPod{Namespace: "x", Name: "y", UID: "z"} })},
		{"its own, given away", "update", mine, onlyItsOwn, anew("b")},
		{"another's, as it is", "update", theirs, onlyItsOwn, annotated("a", "b")},
		{"another's, in its name", "update", theirs, ofB, onNode("a")},
		{"another's, taken over for its pod", "update", theirs, ofB, anew("a")},
		{"another's, made a fixed one", "update", theirs, ofB, func(ip *v2beta1.SpiderIP) { anew("a")(ip); fixed("s1")(ip) }},
		{"another's that may be deleted by hand", "update", "10.61.0.4", "is held by pod default/web-0 on node b", anew("a")},

		{"fixed, of a pod that may have it, made anew here", "update", worn, worn + ofAnother, anew("a")},
		{"fixed and kept, pod made anew here", "update", free, "", next("a")},
		{"fixed and kept, left as it is", "update", free, onlyItsOwn, annotated("a", "b")},
		{"fixed and kept, pod made anew here and gone", "update", free, "", anew("a")},
		{"fixed and kept, owner made anew", "update", free, "", func(ip *v2beta1.SpiderIP) { next("a")(ip); fixed("s2")(ip) }},
		{"fixed and kept, owner in another version", "update", free, "", owner(func(o *v2beta1.IPOwner) { o.APIVersion = "apps/v2" })},
		{"fixed and kept, of an owner of another group", "update", free, free + ofAnother, owner(func(o *v2beta1.IPOwner) { o.APIVersion = "apps.kruise.io/v1" })},
		{"fixed and kept, of an owner of another kind", "update", free, free + ofAnother, owner(func(o *v2beta1.IPOwner) { o.Kind = "CloneSet" })},
		{"fixed and kept, of an owner of another name", "update", free, free + ofAnother, owner(func(o *v2beta1.IPOwner) { o.Name = "shop" })},
		{"fixed and kept, pod left elsewhere", "update", free, onlyItsOwn, next("b")},
		{"fixed and kept, pod sent elsewhere", "update", free, "spec.node: is c, and the agent of node a", next("c")},
		{"fixed and kept, of another pod", "update", free, free + ofAnother, func(ip *v2beta1.SpiderIP) { next("a")(ip); ip.Spec.Pod.Name = "web-1" }},
		{"fixed and kept, of another namespace", "update", free, free + ofAnother, func(ip *v2beta1.SpiderIP) { next("a")(ip); ip.Spec.Pod.Namespace = "x" }},
		{"fixed and kept, no more", "update", free, free + ofAnother, func(ip *v2beta1.SpiderIP) { next("a")(ip); ip.Spec.Owner = nil }},
		{"fixed and in quarantine, pod made anew here", "update", unsure, "", next("a")},
		{"fixed and in quarantine, of another pod", "update", unsure, unsure + ofAnother, func(ip *v2beta1.SpiderIP) { next("a")(ip); ip.Spec.Pod.Name = "web-1" }},
		{"in quarantine, for any pod here", "update", "10.61.0.5", "", func(ip *v2beta1.SpiderIP) { next("a")(ip); ip.Spec.Pod.Name = "other-1" }},
		{"in quarantine, for a pod elsewhere", "update", "10.61.0.5", "spec.node: is c, and the agent of node a", next("c")},
		{"in quarantine, left as it is", "update", "10.61.0.5", onlyItsOwn, annotated("a", "b")},
		{"in quarantine, made a fixed one", "update", "10.61.0.5", "", func(ip *v2beta1.SpiderIP) { next("a")(ip); fixed("s1")(ip) }},
		{"of a machine that moves here", "update", vm, "", launcher("a")},
		{"of a machine that is started here", "update", freeVM, "", launcher("a")},
		{"of a machine that was made anew", "update", vm, "", func(ip *v2beta1.SpiderIP) { launcher("a")(ip); machine("VirtualMachine", "m2")(ip) }},
		{"of another machine", "update", vm, vm + ofAnother, func(ip *v2beta1.SpiderIP) { launcher("a")(ip); ip.Spec.Owner.Name = "db2" }},
		{"of another kind of machine", "update", vm, vm + ofAnother, func(ip *v2beta1.SpiderIP) { launcher("a")(ip); machine("VirtualMachineInstance", "m1")(ip) }},
		{"of a machine of another namespace", "update", vm, vm + ofAnother, func(ip *v2beta1.SpiderIP) { launcher("a")(ip); ip.Spec.Pod.Namespace = "x" }},
		{"called a machine's", "update", worn, worn + ofAnother, func(ip *v2beta1.SpiderIP) { launcher("a")(ip); machine("VirtualMachine", "m1")(ip) }},

		{"of a machine that moved away from here", "update", moved, "", silenced()},
		{"of a machine that moved away from here, the last container", "update", moved, "", without(v2beta1.AnnotationBearers)},
		{"of a machine that has been moved before", "update", vm, "", silenced()},
		{"of a machine that moved away from here and stopped", "update", freeVM, "", silenced()},
		{"of a machine, for its deletion by hand", "update", moved, onlyItsOwn, silenced(annotated(v2beta1.AnnotationAllowDelete, "true"))},
		{"of a machine, another annotation", "update", moved, onlyItsOwn, silenced(annotated("a", "c"))},
		{"of a machine, another annotation less", "update", moved, onlyItsOwn, silenced(without("a"))},
		{"of a machine, all annotations less", "update", moved, onlyItsOwn, without("a", v2beta1.AnnotationBearers)},
		{"of a machine, a label", "update", moved, onlyItsOwn, silenced(func(ip *v2beta1.SpiderIP) { ip.Labels = map[string]string{"a": "b"} })},
		{"of a machine, an owner for the garbage collector", "update", moved, onlyItsOwn, silenced(func(ip *v2beta1.SpiderIP) {
			ip.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "u"}}
		})},
		{"of a machine, its use", "update", moved, onlyItsOwn, silenced(kept)},
		{"of a machine, its reason", "update", moved, onlyItsOwn, silenced(ip(func(s *v2beta1.IPSpec) { s.Reason = "x" }))},
		{"of a machine, its container", "update", moved, onlyItsOwn, silenced(ip(func(s *v2beta1.IPSpec) { s.ContainerID = "c2" }))},
		{"of a machine, its instance", "update", moved, onlyItsOwn, silenced(ip(func(s *v2beta1.IPSpec) { s.Owner.Instance = "i2" }))},
		{"of a machine, no more", "update", moved, onlyItsOwn, silenced(ip(func(s *v2beta1.IPSpec) { s.Owner = nil }))},
		{"as if it were a machine's", "update", worn, onlyItsOwn, silenced()},
		{"as if it were a machine's that is kept", "update", free, onlyItsOwn, silenced()},
		{"as if it were a fixed one", "update", theirs, onlyItsOwn, silenced()},
		{"made a machine's", "update", theirs, onlyItsOwn, silenced(machine("VirtualMachine", "m1"))},

		{"its own", "delete", mine, "", onNode("a")},
		{"another's, of a machine", "delete", vm, vm + ofAnother, onNode("a")},
		{"another's, of a machine that moved away from here", "delete", moved, moved + ofAnother, onNode("a")},
		{"another's", "delete", theirs, ofB, onNode("a")},
		{"another's, fixed", "delete", worn, worn + ofAnother, onNode("a")},
		{"another's that is kept", "delete", free, free + ofAnother, onNode("a")},
		{"another's that may be deleted by hand", "delete", "10.61.0.4", "is held by pod default/web-0 on node b", onNode("a")},
		{"another's in quarantine", "delete", "10.61.0.5", "is held by pod default/web-0 on node b", onNode("a")},
	} {
		t.Run(tt.verb+" "+tt.name, func(t *testing.T) {
			err := write(t.Context(), t, agentOf(t, "a"), tt.verb, tt.ip, tt.change)
			judge(t, err, tt.want)
			if tt.want != "" && tt.want != "already exists" && !apierrors.IsForbidden(err) {
				t.Errorf("the refusal is none of rights: %v", err)
			}
		})
	}
}

// TestAgentWithoutNode: a token that names no node lets an agent write nothing, and the refusal says what to do.
func TestAgentWithoutNode(t *testing.T) {
	stored(t)
	for name, c := range unbound(t) {
		for _, verb := range []string{"create", "update", "delete"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				address := map[bool]string{true: "10.61.1.1", false: "10.61.0.1"}[verb == "create"]
				judge(t, write(t.Context(), t, c, verb, address, onNode("a")), "ServiceAccountTokenPodNodeInfo")
			})
		}
		t.Run(name+" endpoint", func(t *testing.T) {
			judge(t, c.Create(t.Context(), endpoint("web-0", "u1", "a"), client.DryRunAll), "ServiceAccountTokenPodNodeInfo")
		})
	}
}

// TestOthersAndSpiderIPs: people and the controller.
func TestOthersAndSpiderIPs(t *testing.T) {
	stored(t)
	const byHand = "pod default/web-0 on node b holds 10.61.0.2: while its container lives, another pod would get the same address. If it is gone for certain, " +
		"run: kubectl annotate --overwrite spiderip 10.61.0.2 ipam.spidernet.io/allow-delete=true && kubectl delete spiderip 10.61.0.2"
	const identity = ": only the agent of the node changes who holds an address; to free one, delete the SpiderIP"
	quarantined := func(ip *v2beta1.SpiderIP) { ip.Spec.Use, ip.Spec.Reason = v2beta1.IPUseQuarantine, "node b is lost" }
	none := func(*v2beta1.SpiderIP) {}
	for _, tt := range []struct {
		name, verb, ip     string
		person, controller string // what each is told
		change             func(*v2beta1.SpiderIP)
	}{
		{"of any node", "create", "10.61.1.1", "", "the controller makes no SpiderIPs", none},
		{"of a living pod", "delete", "10.61.0.2", byHand, "", none},
		{"with annotation", "delete", "10.61.0.4", "", "", none},
		{"in quarantine", "delete", "10.61.0.5", "", "", none},
		{"kept", "delete", "10.61.0.7", "", "", none},
		{"kept for a machine", "delete", "10.61.0.9", "", "", none},
		{"fixed, of a living pod", "delete", "10.61.0.3", "pod default/web-0 on node b holds 10.61.0.3", "", none},
		{"with annotation false", "delete", "10.61.0.6", "kubectl annotate", "", none},
		{"nothing", "update", "10.61.0.2", "", "", none},
		{"metadata", "update", "10.61.0.2", "", "", annotated(v2beta1.AnnotationAllowDelete, "true")},
		{"quarantine", "update", "10.61.0.2", "spec.use" + identity, "", quarantined},
		{"kept as a pod's", "update", "10.61.0.7", "spec.use" + identity, "", func(ip *v2beta1.SpiderIP) { ip.Spec.Use = v2beta1.IPUsePod }},
		{"a pod's as kept", "update", "10.61.0.3", "spec.use" + identity, "", kept},
		{"reason", "update", "10.61.0.7", "", "", func(ip *v2beta1.SpiderIP) { ip.Spec.Reason = "x" }},
		{"node", "update", "10.61.0.2", "spec.node" + identity, "spec.node" + identity, onNode("a")},
		{"pod and container", "update", "10.61.0.2", "spec.node, spec.netns, spec.containerID, spec.pod" + identity, "spec.node, spec.netns, spec.containerID, spec.pod" + identity, anew("a")},
		{"interface", "update", "10.61.0.2", "spec.interface" + identity, "spec.interface" + identity, func(ip *v2beta1.SpiderIP) { ip.Spec.Interface = "net1" }},
		{"network", "update", "10.61.0.2", "spec.network" + identity, "spec.network" + identity, func(ip *v2beta1.SpiderIP) { ip.Spec.Network = "x" }},
		{"no owner, in quarantine", "update", "10.61.0.10", "spec.owner" + identity, "", ip(func(s *v2beta1.IPSpec) { s.Owner = nil })},
		{"no owner, of a pod", "update", "10.61.0.3", "spec.owner" + identity, "spec.owner" + identity, ip(func(s *v2beta1.IPSpec) { s.Owner = nil })},
		{"another owner, in quarantine", "update", "10.61.0.10", "spec.owner" + identity, "spec.owner" + identity, ip(func(s *v2beta1.IPSpec) { s.Owner.Name = "shop" })},
		{"owner", "update", "10.61.0.2", "spec.owner" + identity, "spec.owner" + identity, fixed("s1")},
		{"finalizer", "update", "10.61.0.2", "metadata.finalizers", "metadata.finalizers", func(ip *v2beta1.SpiderIP) { ip.Finalizers = []string{"x.io/y"} }},
	} {
		t.Run(tt.verb+" "+tt.name, func(t *testing.T) {
			judge(t, write(t.Context(), t, api(t), tt.verb, tt.ip, onNode("b"), tt.change), tt.person)
			judge(t, write(t.Context(), t, accountOf(t, controllerAccount), tt.verb, tt.ip, onNode("b"), tt.change), tt.controller)
		})
	}
}

// TestDeleteByHand does what the refusal proposes.
func TestDeleteByHand(t *testing.T) {
	c, ctx := api(t), t.Context()
	bin, err := parts.Bin(ctx, os.Stderr, "kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"10.62.0.1", "fd62::1"} {
		name := address
		if strings.Contains(address, ":") {
			name = "fd62-0000-0000-0000-0000-0000-0000-0001"
		}
		ip := held(name, address)
		if err := create(ctx, c, ip); err != nil {
			t.Fatal(err)
		}
		refusal := c.Delete(ctx, ip)
		_, command, found := strings.Cut(fmt.Sprint(refusal), "run: ")
		if !found {
			t.Fatalf("refused with %v", refusal)
		}
		sh := exec.CommandContext(ctx, "sh", "-c", command)
		sh.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+t.TempDir(), "KUBECONFIG="+apiserver.ForTest(t).Kubeconfig())
		if out, err := sh.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		if err := c.Get(ctx, client.ObjectKeyFromObject(ip), ip); !apierrors.IsNotFound(err) {
			t.Errorf("after %q: %v", command, err)
		}
	}
}

// endpoint is a SpiderEndpoint as the agent of a node makes it.
func endpoint(name, uid, node string, changes ...func(*v2beta1.SpiderEndpoint)) *v2beta1.SpiderEndpoint {
	e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	e.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}}
	e.Status.OwnerControllerType, e.Status.OwnerControllerName = "Pod", name
	e.Status.Current = v2beta1.EndpointCurrent{UID: uid, Node: node, IPs: []v2beta1.EndpointInterface{}}
	for _, change := range changes {
		change(e)
	}
	return e
}

// TestAgentWritesEndpointsOfItsNode is the same for SpiderEndpoints. What the agent does of it is the first row of each verb, and
// the pod that was made anew.
func TestAgentWritesEndpointsOfItsNode(t *testing.T) {
	config(t)
	admin, ctx := clientOf(t, config(t)), t.Context()
	for _, e := range []*v2beta1.SpiderEndpoint{endpoint("mine", "u1", "a"), endpoint("theirs", "u1", "b"), endpoint("unowned", "u1", "b", unowned),
		endpoint("fixed", "u1", "b", unowned, ofStatefulSet), endpoint("own", "u1", "a", unowned, ofStatefulSet), endpoint("db", "u1", "b", unowned, ofMachine)} {
		if err := admin.Create(ctx, e); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = admin.Delete(context.Background(), e) })
	}
	const onlyItsOwn = "status.current.node: is b, and the agent of node a writes endpoints of its own node only"
	const ofB = "the endpoint is that of a pod on node b: the agent of node a may write it only for another pod of this name"
	const owners = "metadata.ownerReferences: must be the pod"
	another := func(e *v2beta1.SpiderEndpoint) { e.OwnerReferences[0].UID = "u9" }
	for _, tt := range []struct {
		name, verb, want string
		e                *v2beta1.SpiderEndpoint
	}{
		{"its own", "create", "", endpoint("new", "u1", "a")},
		{"another's", "create", onlyItsOwn, endpoint("new", "u1", "b")},
		{"nobody's", "create", owners, endpoint("new", "u1", "a", unowned)},
		{"a fixed pod's", "create", "", endpoint("new", "u1", "a", unowned, ofStatefulSet)},
		{"a machine's", "create", "", endpoint("vm", "u1", "a", unowned, ofMachine)},
		{"a fixed pod's on another node", "create", onlyItsOwn, endpoint("new", "u1", "b", unowned, ofStatefulSet)},
		{"a fixed pod's that goes with it", "create", "", endpoint("new", "u1", "a", ofStatefulSet)},
		{"a fixed pod's that goes with another", "create", owners, endpoint("new", "u1", "a", ofStatefulSet, another)},
		{"nobody's, of a Deployment", "create", owners, endpoint("new", "u1", "a", unowned, func(e *v2beta1.SpiderEndpoint) { e.Status.OwnerControllerType = "Deployment" })},
		{"named after another pod", "create", owners, endpoint("new", "u1", "a", func(e *v2beta1.SpiderEndpoint) { e.OwnerReferences[0].Name = "old" })},
		{"of a pod with another UID", "create", owners, endpoint("new", "u1", "a", another)},
		{"of another kind", "create", owners, endpoint("new", "u1", "a", func(e *v2beta1.SpiderEndpoint) { e.OwnerReferences[0].Kind = "Job" })},
		{"of another group", "create", owners, endpoint("new", "u1", "a", func(e *v2beta1.SpiderEndpoint) { e.OwnerReferences[0].APIVersion = "x.io/v1" })},
		{"of two owners", "create", owners, endpoint("new", "u1", "a", func(e *v2beta1.SpiderEndpoint) {
			e.OwnerReferences = append(e.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "a", UID: "n"})
		})},

		{"its own", "update", "", endpoint("mine", "u1", "a")},
		{"its own, of a pod made anew", "update", "", endpoint("mine", "u2", "a")},
		{"its own, given away", "update", onlyItsOwn, endpoint("mine", "u1", "b")},
		{"another's", "update", onlyItsOwn, endpoint("theirs", "u1", "b")},
		{"another's, in its name", "update", ofB, endpoint("theirs", "u1", "a")},
		{"another's, of a pod made anew there", "update", onlyItsOwn, endpoint("theirs", "u2", "b")},
		{"another's, of a pod made anew here", "update", "", endpoint("theirs", "u2", "a")},
		{"another's, of an owner that is not the pod", "update", owners, endpoint("theirs", "u2", "a", another)},
		{"an older installation's, of a pod made anew here", "update", "", endpoint("unowned", "u2", "a")},
		{"a fixed pod's, made anew here", "update", "", endpoint("fixed", "u2", "a", unowned, ofStatefulSet)},
		{"a fixed pod's, made anew here as one that is not", "update", "", endpoint("fixed", "u2", "a")},
		{"a pod's, made anew here as a fixed one", "update", "", endpoint("theirs", "u2", "a", unowned, ofStatefulSet)},
		{"a fixed pod's, in its name", "update", ofB, endpoint("fixed", "u1", "a", unowned, ofStatefulSet)},
		{"a fixed pod's, as another's", "update", onlyItsOwn, endpoint("fixed", "u2", "b", unowned, ofStatefulSet)},
		{"a machine's that moved here", "update", "", endpoint("db", "u2", "a", unowned, ofMachine)},

		{"its own", "delete", "", endpoint("mine", "u1", "a")},
		{"its own, a fixed pod's", "delete", "", endpoint("own", "u1", "a")},
		{"another's, a fixed pod's", "delete", ofB, endpoint("fixed", "u1", "b")},
		{"another's", "delete", ofB, endpoint("theirs", "u1", "b")},
	} {
		t.Run(tt.verb+" "+tt.name, func(t *testing.T) {
			agent := agentOf(t, "a")
			e := tt.e
			switch tt.verb {
			case "create":
				judge(t, agent.Create(ctx, e, client.DryRunAll), tt.want)
			case "update":
				there := &v2beta1.SpiderEndpoint{}
				if err := admin.Get(ctx, client.ObjectKeyFromObject(e), there); err != nil {
					t.Fatal(err)
				}
				there.OwnerReferences, there.Status = e.OwnerReferences, e.Status
				judge(t, agent.Update(ctx, there, client.DryRunAll), tt.want)
			default: // the role does not let it: the policy is asked behind that
				node := rest.ImpersonationConfig{UserName: agentAccount, Groups: []string{"system:masters"},
					Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"a"}}}
				cfg := config(t)
				cfg.Impersonate = node
				judge(t, clientOf(t, cfg).Delete(ctx, e, client.DryRunAll), tt.want)
			}
		})
	}
	// Whoever clears endpoints away is not an agent.
	for _, user := range []string{"jane", controllerAccount, "system:serviceaccount:kube-system:generic-garbage-collector", "system:serviceaccount:kube-system:namespace-controller"} {
		c := accountOf(t, user)
		judge(t, c.Delete(ctx, endpoint("theirs", "", ""), client.DryRunAll), "")
		judge(t, c.DeleteAllOf(ctx, &v2beta1.SpiderEndpoint{}, client.InNamespace("default"), client.DryRunAll), "")
	}
}

func unowned(e *v2beta1.SpiderEndpoint) { e.OwnerReferences = nil }

func ofStatefulSet(e *v2beta1.SpiderEndpoint) {
	e.Status.OwnerControllerType, e.Status.OwnerControllerName = "StatefulSet", "web"
}

func ofMachine(e *v2beta1.SpiderEndpoint) {
	e.Status.OwnerControllerType, e.Status.OwnerControllerName = "VirtualMachine", "db"
}

// TestCRDsCanBeRemoved: with the CRD go the addresses, though pods hold them.
func TestCRDsCanBeRemoved(t *testing.T) {
	server := apiserver.OwnForTest(t)
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v2beta1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(server.Config(), client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{held("10.6.0.1", "10.6.0.1"), endpoint("web", "u1", "a")} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, plural := range []string{"spiderips", "spiderendpoints"} {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + "." + v2beta1.GroupVersion.Group}}
		if err := c.Delete(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		for late := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			err := c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd)
			if apierrors.IsNotFound(err) {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("%s is not gone after a minute: %v, %+v", crd.Name, err, crd.Status.Conditions)
			}
		}
	}
}
