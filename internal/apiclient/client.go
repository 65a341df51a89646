// Package apiclient makes the clients of the API server that a daemon uses: how
// long a request may take, how many are under way, and what is done again by
// itself are decided here and nowhere else.
package apiclient

import (
	"fmt"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

const (
	// RequestTimeout bounds every request but watches, on both sides: the API
	// server is told of it too. So a write that was not answered cannot happen
	// any more when twice this time has passed since it was sent.
	RequestTimeout = 10 * time.Second
	// MaxInFlight is how many requests may be under way at once, watches aside.
	MaxInFlight = 32
	// SlotTimeout is how long a request waits while MaxInFlight others are under
	// way. It is well below RequestTimeout, so that the error still says that the
	// request was not sent: net/http hides what comes at its own timeout.
	SlotTimeout = RequestTimeout / 2
)

// Clients are the ways in which one process talks to the API server.
type Clients struct {
	// Watch is for watches: it has no timeout, and they count for no limit.
	Watch *rest.Config
	// Live reads and writes uncached.
	Live client.WithWatch
	// Events writes Events; it shares the limit of Live.
	Events typedcorev1.EventsGetter
}

// New makes the clients. cfg says where the API server is and who asks; what it
// says of rates and timeouts is replaced. Nothing is asked of the API server: it
// may be away.
func New(cfg *rest.Config) (*Clients, error) {
	noticeDeadConnections()
	watch := rest.CopyConfig(cfg)
	watch.QPS = -1 // requests are bounded here, and the API server has priority and fairness
	watch.Timeout = 0
	watch.DisableCompression = true // the API server is near, and packing costs it more than sending
	live := rest.CopyConfig(watch)
	live.Timeout = RequestTimeout
	live.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &bounded{next: once{next}, slots: make(chan struct{}, MaxInFlight)}
	})
	// One HTTP client: a second would have slots of its own.
	httpClient, err := rest.HTTPClientFor(live)
	if err != nil {
		return nil, fmt.Errorf("prepare the client: %w", err)
	}
	mapper, err := Mapper(live, httpClient)
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(live, client.Options{HTTPClient: httpClient, Scheme: Scheme(), Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("prepare the client: %w", err)
	}
	events, err := typedcorev1.NewForConfigAndClient(live, httpClient)
	if err != nil {
		return nil, fmt.Errorf("prepare the client of Events: %w", err)
	}
	return &Clients{Watch: watch, Live: c, Events: events}, nil
}

// Scheme knows the Kubernetes core types and Spiderpool's own.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	add := runtime.NewSchemeBuilder(corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, v2beta1.AddToScheme, metav1.AddMetaToScheme)
	utilruntime.Must(add.AddToScheme(s)) // fails for two types of one name: a mistake in this program
	return s
}
