// Package admission answers the API server's webhooks for pools, subnets and
// reservations. It reads what an edit has to be judged by, from the API server
// itself and not from a cache, for two documents of one `kubectl apply` follow
// each other within milliseconds; the rules are those of package pool. Nothing
// else calls webhooks of Spiderpool: no start and no end of a pod waits for one.
package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/ledger"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// HealthPath answers GET with 200 as long as webhooks are served.
const HealthPath = "/webhook-health-check"

// The paths of the webhooks are these followed by the kind in lower case.
const (
	mutatePath   = "/mutate-spiderpool-spidernet-io-v2beta1-"
	validatePath = "/validate-spiderpool-spidernet-io-v2beta1-"
)

// readTimeout bounds what is read for one edit. It is shorter than the
// timeoutSeconds of the webhooks, so that the refusal says what was missing.
const readTimeout = 4 * time.Second

// Options are what edits are judged with.
type Options struct {
	// Live reads from the API server, not from a cache.
	Live client.Reader
	// Ledger says who holds addresses.
	Ledger *ledger.Ledger
	// Username is the controller's own account,
	// "system:serviceaccount:NAMESPACE:NAME". Only it may change automatic pools.
	Username string
	// EnableIPv4, EnableIPv6, EnableSpiderSubnet and
	// EnableValidatingResourcesDeletedWebhook are those of conf.yml.
	EnableIPv4, EnableIPv6                  bool
	EnableSpiderSubnet                      bool
	EnableValidatingResourcesDeletedWebhook bool
}

// Register serves the webhooks of the chart and HealthPath on s. All are served
// whatever is switched off: the API server calls what the chart has registered.
func Register(s webhook.Server, o Options) {
	scheme := runtime.NewScheme()
	if err := v2beta1.AddToScheme(scheme); err != nil {
		panic(err) // two types of one name: a mistake in this program
	}
	decoder := admission.NewDecoder(scheme)
	for path, handle := range map[string]admission.HandlerFunc{
		mutatePath + "spiderippool":       mutate(decoder, o.defaultPool),
		mutatePath + "spidersubnet":       mutate(decoder, defaultSubnet),
		mutatePath + "spiderreservedip":   mutate(decoder, defaultReserved),
		validatePath + "spiderippool":     validate(decoder, o.judgePool),
		validatePath + "spidersubnet":     validate(decoder, o.judgeSubnet),
		validatePath + "spiderreservedip": validate(decoder, o.judgeReserved),
	} {
		s.Register(path, &admission.Webhook{Handler: ofSpec(handle)})
	}
	s.Register(HealthPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	}))
}

// ofSpec lets every update pass that leaves spec as it is, and adds nothing to
// it: finalizers must go also while nothing can be read. The webhooks' conditions
// say the same, so that the API server need not even ask.
func ofSpec(next admission.Handler) admission.Handler {
	return admission.HandlerFunc(func(ctx context.Context, req admission.Request) admission.Response {
		var before, after struct{ Spec any }
		if req.Operation == admissionv1.Update && json.Unmarshal(req.OldObject.Raw, &before) == nil &&
			json.Unmarshal(req.Object.Raw, &after) == nil && reflect.DeepEqual(before.Spec, after.Spec) {
			return admission.Allowed("")
		}
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		return next.Handle(ctx, req)
	})
}

// object is a pointer to T, one of our kinds.
type object[T any] interface {
	*T
	client.Object
}

// edit is what a webhook is asked about: before is nil when an object is
// created, after when it is deleted.
type edit[P any] struct {
	before, after P
	user          string
}

// mutate answers with what add added. The patch is the difference of the typed
// object before and after, so that nothing else of the original is touched: an
// empty list stays, and a field that this version does not know too.
func mutate[T any, P object[T]](decoder admission.Decoder, add func(context.Context, P) error) admission.HandlerFunc {
	return func(ctx context.Context, req admission.Request) admission.Response {
		e, err := decode[T, P](decoder, req)
		switch {
		case err != nil: // the API server names the field, by the definition of the kind
			return admission.Allowed("")
		case e.before != nil && e.before.GetDeletionTimestamp() != nil: // the new object need not say so
			return admission.Allowed("")
		}
		o := e.after
		before, err := json.Marshal(o)
		if err == nil {
			err = add(ctx, o)
		}
		if err != nil {
			return unread(err)
		}
		after, err := json.Marshal(o)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		return admission.PatchResponseFromRaw(before, after)
	}
}

func decode[T any, P object[T]](decoder admission.Decoder, req admission.Request) (e edit[P], err error) {
	e.user = req.UserInfo.Username
	if req.Operation != admissionv1.Create {
		e.before = P(new(T))
		err = decoder.DecodeRaw(req.OldObject, e.before)
	}
	if req.Operation != admissionv1.Delete && err == nil {
		e.after = P(new(T))
		err = decoder.DecodeRaw(req.Object, e.after)
	}
	return e, err
}

func validate[T any, P object[T]](decoder admission.Decoder, judge func(context.Context, edit[P]) (pool.Verdict, error)) admission.HandlerFunc {
	return func(ctx context.Context, req admission.Request) admission.Response {
		e, err := decode[T, P](decoder, req)
		if err != nil {
			return admission.Errored(http.StatusBadRequest, err)
		}
		verdict, err := judge(ctx, e)
		if err != nil {
			return unread(err)
		}
		return answer(req, verdict)
	}
}

// answer tells the verdict. What is deleted is not malformed, so a deletion is
// forbidden.
func answer(req admission.Request, v pool.Verdict) admission.Response {
	var refusal *apierrors.StatusError
	switch {
	case len(v.Errors) == 0:
		return admission.Allowed("").WithWarnings(v.Warnings...)
	case req.Operation == admissionv1.Delete:
		refusal = apierrors.NewForbidden(schema.GroupResource{Group: req.Resource.Group, Resource: req.Resource.Resource}, req.Name, v.Errors.ToAggregate())
	default:
		refusal = apierrors.NewInvalid(schema.GroupKind{Group: req.Kind.Group, Kind: req.Kind.Kind}, req.Name, v.Errors)
	}
	return refused(refusal).WithWarnings(v.Warnings...)
}

// unread is the answer when something could not be read without which nobody can
// tell whether the edit is right.
func unread(err error) admission.Response {
	return refused(apierrors.NewServiceUnavailable(fmt.Sprintf("spiderpool-controller cannot judge this edit now, try again: %v", err)))
}

func refused(err *apierrors.StatusError) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &err.ErrStatus}}
}
