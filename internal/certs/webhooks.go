package certs

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedv1 "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
)

// webhooks are the two configurations of one name in which the API server finds whom to trust.
type webhooks struct {
	name       string
	client     typedv1.AdmissionregistrationV1Interface
	mutating   toolscache.SharedIndexInformer
	validating toolscache.SharedIndexInformer
}

func newWebhooks(cfg *rest.Config, name string) (webhooks, error) {
	client, err := typedv1.NewForConfig(cfg)
	if err != nil {
		return webhooks{}, fmt.Errorf("prepare the client of webhook configurations: %w", err)
	}
	watch := func(resource string, kind runtime.Object) toolscache.SharedIndexInformer {
		return informer(client.RESTClient(), resource, metav1.NamespaceAll, name, kind)
	}
	return webhooks{
		name: name, client: client,
		mutating:   watch("mutatingwebhookconfigurations", &admissionv1.MutatingWebhookConfiguration{}),
		validating: watch("validatingwebhookconfigurations", &admissionv1.ValidatingWebhookConfiguration{}),
	}, nil
}

func (w webhooks) informers() []toolscache.SharedIndexInformer {
	return []toolscache.SharedIndexInformer{w.mutating, w.validating}
}

// synced reports whether the watches have brought what there is.
func (w webhooks) synced() bool { return w.mutating.HasSynced() && w.validating.HasSynced() }

// configurations are both, or what there is of them.
type configurations struct {
	mutating   *admissionv1.MutatingWebhookConfiguration
	validating *admissionv1.ValidatingWebhookConfiguration
}

// watched is what the watches have brought.
func (w webhooks) watched() (c configurations) {
	if o, ok, _ := w.mutating.GetStore().GetByKey(w.name); ok {
		c.mutating = o.(*admissionv1.MutatingWebhookConfiguration)
	}
	if o, ok, _ := w.validating.GetStore().GetByKey(w.name); ok {
		c.validating = o.(*admissionv1.ValidatingWebhookConfiguration)
	}
	return c
}

// live asks the API server.
func (w webhooks) live(ctx context.Context) (c configurations, err error) {
	mutating, errMutating := w.client.MutatingWebhookConfigurations().Get(ctx, w.name, metav1.GetOptions{})
	validating, errValidating := w.client.ValidatingWebhookConfigurations().Get(ctx, w.name, metav1.GetOptions{})
	if errMutating == nil {
		c.mutating = mutating
	}
	if errValidating == nil {
		c.validating = validating
	}
	return c, errors.Join(withoutNotFound(errMutating), withoutNotFound(errValidating))
}

func withoutNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// bundle is the caBundle of one webhook.
type bundle struct {
	of  string // the webhook and its configuration, for people
	pem *[]byte
}

func (c configurations) bundles() (out []bundle) {
	if m := c.mutating; m != nil {
		for i := range m.Webhooks {
			out = append(out, bundle{m.Webhooks[i].Name + " of MutatingWebhookConfiguration " + m.Name, &m.Webhooks[i].ClientConfig.CABundle})
		}
	}
	if v := c.validating; v != nil {
		for i := range v.Webhooks {
			out = append(out, bundle{v.Webhooks[i].Name + " of ValidatingWebhookConfiguration " + v.Name, &v.Webhooks[i].ClientConfig.CABundle})
		}
	}
	return out
}

// injected is the caBundle of each webhook.
func (c configurations) injected() (out [][]byte) {
	for _, b := range c.bundles() {
		out = append(out, *b.pem)
	}
	return out
}

// inject writes a bundle into every webhook of what was read live, on the condition that it has not changed since. It
// reports which configurations it has written.
func (w webhooks) inject(ctx context.Context, c configurations, pem []byte) (written []string, err error) {
	var errs []error
	note := func(kind string, err error) {
		if err == nil {
			written = append(written, kind)
		} else if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // then there is news, which the watch brings
			errs = append(errs, fmt.Errorf("write caBundle into %s %s: %w", kind, w.name, err))
		}
	}
	if c.mutating != nil && (configurations{mutating: c.mutating}).set(pem) {
		_, err := w.client.MutatingWebhookConfigurations().Update(ctx, c.mutating, metav1.UpdateOptions{})
		note("MutatingWebhookConfiguration", err)
	}
	if c.validating != nil && (configurations{validating: c.validating}).set(pem) {
		_, err := w.client.ValidatingWebhookConfigurations().Update(ctx, c.validating, metav1.UpdateOptions{})
		note("ValidatingWebhookConfiguration", err)
	}
	return written, errors.Join(errs...)
}

// set reports whether any bundle was another.
func (c configurations) set(pem []byte) (changed bool) {
	for _, b := range c.bundles() {
		if string(*b.pem) != string(pem) {
			*b.pem, changed = pem, true
		}
	}
	return changed
}
