// Package owners makes objects of kinds whose pods keep their addresses and whose programs tests do not run: KubeVirt's
// machines and OpenKruise's StatefulSets. Tests make the pods themselves, as those programs do.
package owners

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

//go:embed crds.yaml
var definitions []byte

// Install defines the kinds, and returns when the API server serves them.
func Install(ctx context.Context, c client.Client) error {
	for reader := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(definitions), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := reader.Decode(o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := c.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("define %s: %w", o.GetName(), err)
		}
	}
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		return serves(ctx, c, "kubevirt.io/v1", "VirtualMachine") && serves(ctx, c, "kubevirt.io/v1", "VirtualMachineInstance") &&
			serves(ctx, c, "apps.kruise.io/v1beta1", "StatefulSet"), nil
	})
}

func serves(ctx context.Context, c client.Client, apiVersion, kind string) bool {
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion(apiVersion)
	list.SetKind(kind + "List")
	return c.List(ctx, list) == nil
}

// New is an object of a kind, to be created. spec may be nil.
func New(apiVersion, kind, namespace, name string, spec map[string]any, controller *unstructured.Unstructured) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	if spec == nil {
		o.Object["spec"] = map[string]any{}
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	if controller != nil {
		o.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(controller, controller.GroupVersionKind())})
	}
	return o
}

// Machine is a virtual machine of KubeVirt.
func Machine(namespace, name string) *unstructured.Unstructured {
	return New("kubevirt.io/v1", "VirtualMachine", namespace, name, nil, nil)
}

// Instance is what runs of a machine, which must have been created.
func Instance(machine *unstructured.Unstructured) *unstructured.Unstructured {
	return New("kubevirt.io/v1", "VirtualMachineInstance", machine.GetNamespace(), machine.GetName(), nil, machine)
}

// Of makes a pod one of an owner, which must have been created.
func Of(owner *unstructured.Unstructured) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, owner.GroupVersionKind())}
	}
}
