package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// install brings what Helm makes of the chart, as far as no controller or
// kubelet is needed for it.
func (c *cluster) install(ctx context.Context, home string, progress io.Writer) error {
	objects, err := render(ctx, home, progress)
	if err != nil {
		return err
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, o := range objects {
		switch o.GetKind() {
		case "CustomResourceDefinition":
			crd := &apiextensionsv1.CustomResourceDefinition{}
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, crd)
			crds = append(crds, crd)
		case "ConfigMap":
			err = c.readConf(o)
		case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
			"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "FlowSchema", "PriorityLevelConfiguration":
			err = c.Create(ctx, o)
		}
		if err != nil {
			return fmt.Errorf("%s %s of the chart: %w", o.GetKind(), o.GetName(), err)
		}
	}
	if c.conf == nil {
		return errors.New("the chart has no ConfigMap with conf.yml")
	}
	if _, err := envtest.InstallCRDs(c.server.Config(), envtest.CRDInstallOptions{CRDs: crds}); err != nil {
		return err
	}
	return c.server.AwaitPolicies(ctx)
}

// readConf takes conf.yml from the ConfigMap that has it.
func (c *cluster) readConf(o *unstructured.Unstructured) error {
	text, ok, err := unstructured.NestedString(o.Object, "data", "conf.yml")
	if err != nil || !ok {
		return err
	}
	return yaml.Unmarshal([]byte(text), &c.conf)
}

// render is the chart with its default values. Helm keeps its own files in home.
func render(ctx context.Context, home string, progress io.Writer) (objects []*unstructured.Unstructured, err error) {
	helm, err := parts.Bin(ctx, progress, "helm")
	if err != nil {
		return nil, err
	}
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(helm, "helm"), "template", "spiderpool", filepath.Join(root(), "charts", "spiderpool"), "--namespace="+system)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("helm template: %w: %s", err, complaints.String())
	}
	decoder := yamlstream.NewYAMLOrJSONDecoder(&out, 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}
