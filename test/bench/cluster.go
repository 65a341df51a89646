package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
)

const (
	system    = "kube-system"      // namespace of the chart
	account   = "spiderpool-agent" // ServiceAccount of the agents
	namespace = "bench"            // of the pods that get addresses
)

// cluster is an API server, as its administrator sees it.
type cluster struct {
	client.Client
	server *apiserver.Server
	raw    rest.Interface
	conf   map[string]any // conf.yml of the chart
	made   int            // pods, in all rounds
}

// measurable are flags of an API server whose work is that which is asked of
// it: every five to seven and a half minutes it would read all of etcd and
// compare it with its caches, which with 60,000 pods and addresses takes both
// cores for half a minute, during one figure and not during another
// (k8s.io/apiserver/pkg/storage/cacher/consistency).
var measurable = []string{"--feature-gates=DetectCacheInconsistency=false"}

func startCluster(ctx context.Context, progress io.Writer) (*cluster, error) {
	types := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(types), v2beta1.AddToScheme(types)); err != nil {
		return nil, err
	}
	server, err := apiserver.Start(ctx, apiserver.Options{Out: progress, Args: measurable})
	if err != nil {
		return nil, err
	}
	cl := &cluster{server: server}
	clientset, err := kubernetes.NewForConfig(server.Config())
	if err == nil {
		cl.raw = clientset.RESTClient()
		cl.Client, err = client.New(server.Config(), client.Options{Scheme: types})
	}
	if err != nil {
		return nil, errors.Join(err, server.Stop(context.WithoutCancel(ctx)))
	}
	return cl, nil
}

// pool makes a pool of n addresses at the beginning of a /16, whose first is
// the gateway.
func (c *cluster) pool(ctx context.Context, name string, subnet netip.Prefix, n int) error {
	gateway := subnet.Addr().Next()
	first := gateway.Next()
	last := first.As4()
	at := int(last[2])<<8 + int(last[3]) + n - 1
	last[2], last[3] = byte(at>>8), byte(at)
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Subnet, p.Spec.Gateway = subnet.String(), ptr.To(gateway.String())
	p.Spec.IPs = []string{first.String() + "-" + netip.AddrFrom4(last).String()}
	return c.Create(ctx, p)
}

// token makes a node with its agent's pod, and returns a client's configuration
// with a token that is bound to the pod, by which the API server knows the node.
func (c *cluster) token(ctx context.Context, node string) (*rest.Config, error) {
	if err := c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{corev1.LabelHostname: node}}}); err != nil {
		return nil, err
	}
	pod := podOn(node, system, account+"-"+node)
	pod.Spec.ServiceAccountName, pod.Spec.HostNetwork = account, true
	if err := c.Create(ctx, pod); err != nil {
		return nil, err
	}
	return c.server.ServiceAccountConfig(ctx, system, account,
		&authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID})
}

// makers is how many pods are made at once.
const makers = 16

// pods makes n pods on each node.
func (c *cluster) pods(ctx context.Context, nodes []string, n int) ([][]*corev1.Pod, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(makers)
	all := make([][]*corev1.Pod, len(nodes))
	for i, node := range nodes {
		for range n {
			c.made++
			pod := podOn(node, namespace, fmt.Sprintf("pod-%d", c.made))
			all[i] = append(all[i], pod)
			group.Go(func() error { return c.Create(ctx, pod) })
		}
	}
	return all, group.Wait()
}

func podOn(node, namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": namespace}},
		Spec: corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{Name: "c", Image: "localhost/pause:1"}}},
	}
}

// terminate asks for the end of all pods: they stay, as terminating ones, until
// their kubelet has disconnected them.
func (c *cluster) terminate(ctx context.Context) error {
	return c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace))
}

// remove does what kubelets and the garbage collector do in the end.
func (c *cluster) remove(ctx context.Context) error {
	return errors.Join(
		c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), client.GracePeriodSeconds(0)),
		c.DeleteAllOf(ctx, &v2beta1.SpiderEndpoint{}, client.InNamespace(namespace)))
}

// endpoints are the addresses that SpiderEndpoints name, by pod UID.
func (c *cluster) endpoints(ctx context.Context) (map[string]string, error) {
	var list v2beta1.SpiderEndpointList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range list.Items {
		for _, i := range e.Status.Current.IPs {
			out[e.Status.Current.UID] = ptr.Deref(i.IPv4, "")
		}
	}
	return out, nil
}

// held is how many addresses of a pool are in use.
func (c *cluster) held(ctx context.Context, pool string) (int, error) {
	var list v2beta1.SpiderIPList
	err := c.List(ctx, &list, client.MatchingFields{"spec.pool": pool})
	return len(list.Items), err
}

// soon is how often eventually asks what costs little.
const soon = 100 * time.Millisecond

// eventually asks every so often until nothing is left to wait for or the time is over, and
// returns what was left and how often it asked.
func eventually(ctx context.Context, patience, every time.Duration, ask func() (left int, err error)) (left, asked int, err error) {
	deadline := time.Now().Add(patience)
	for {
		left, err = ask()
		asked++
		if err != nil || left == 0 || time.Now().After(deadline) {
			return left, asked, err
		}
		select {
		case <-ctx.Done():
			return left, asked, context.Cause(ctx)
		case <-time.After(every):
		}
	}
}
