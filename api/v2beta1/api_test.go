package v2beta1_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

var installed sync.Once

// config is for the administrator of an API server that knows our kinds. That it takes the chart's CRDs proves that every
// rule compiles and costs no more than the budget.
func config(t *testing.T) *rest.Config {
	t.Helper()
	server := apiserver.ForTest(t)
	installed.Do(func() { apiserver.InstallProduct(t, server) })
	return server.Config()
}

func api(t *testing.T) client.Client {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v2beta1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config(t), client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// object reads one object of our group from a kind, a name and the rest in YAML.
func object(t *testing.T, kind, name, text string) *unstructured.Unstructured {
	t.Helper()
	o := parse(t, text)
	o.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
	o.SetName(name)
	if kind == "SpiderEndpoint" {
		o.SetNamespace("default")
	}
	return o
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err == nil {
		err = json.Unmarshal(data, &o.Object) // keeps integers of 64 bits
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

// create creates an object without losing unknown fields in silence.
func create(ctx context.Context, c client.Client, o client.Object, opts ...client.CreateOption) error {
	return c.Create(ctx, o, append(opts, client.FieldValidation("Strict"))...)
}

// judge compares the answer of the API server with what was wanted: no error, or one that holds the text.
func judge(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("accepted, want refused: %s", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused with\n\t%v\nwant\n\t%s", err, want)
	}
}
