package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/cluster"
	"github.com/spidernet-io/spiderpool/test/lab"
)

// scenario is a namespace on the shared cluster with two pools of its own.
type scenario struct {
	*testing.T
	*cluster.Cluster
	namespace string
	// number tells the ranges of scenarios apart.
	number int32
	v4, v6 string
}

var scenarios atomic.Int32

// begin makes a scenario that runs beside others. Its pools have size
// addresses each, of segment 1.
func begin(t *testing.T, size int) *scenario {
	t.Helper()
	t.Parallel()
	return alone(t, size)
}

// alone makes a scenario that runs while no other does.
func alone(t *testing.T, size int) *scenario {
	t.Helper()
	return on(t, shared, size)
}

// on makes a scenario on a cluster.
func on(t *testing.T, c *cluster.Cluster, size int) *scenario {
	t.Helper()
	n := scenarios.Add(1)
	s := &scenario{T: t, Cluster: c, number: n, namespace: fmt.Sprintf("s%d", n)}
	if err := s.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.evidence)
	s.eventually(func() string { // no pod is admitted before
		if err := s.Get(s.Context(), client.ObjectKey{Namespace: s.namespace, Name: "default"}, &corev1.ServiceAccount{}); err != nil {
			return err.Error()
		}
		return ""
	})
	segment := lab.Segments[0]
	s.v4 = s.pool("v4", segment.IPv4.String(), fmt.Sprintf("172.20.%d.1-172.20.%d.%d", n, n, size), segment.IPv4Gateway.String())
	s.v6 = s.pool("v6", segment.IPv6.String(), fmt.Sprintf("fd00:172:20::%x:1-fd00:172:20::%x:%x", n, n, size), segment.IPv6Gateway.String())
	return s
}

// pool makes a pool of the scenario and returns its name. gateway may be empty.
func (s *scenario) pool(name, subnet, ips, gateway string, edit ...func(*v2beta1.SpiderIPPool)) string {
	s.Helper()
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-" + name}}
	p.Spec.Subnet, p.Spec.IPs = subnet, []string{ips}
	if gateway != "" {
		p.Spec.Gateway = &gateway
	}
	for _, e := range edit {
		e(p)
	}
	s.make(p)
	return p.Name
}

// range4 makes a pool of segment 1 with the addresses first to last of the
// scenario's own, numbered as in 172.20.<scenario>.<number>.
func (s *scenario) range4(name string, first, last int, edit ...func(*v2beta1.SpiderIPPool)) string {
	s.Helper()
	return s.pool(name, lab.Segments[0].IPv4.String(), fmt.Sprintf("172.20.%d.%d-172.20.%d.%d", s.number, first, s.number, last),
		lab.Segments[0].IPv4Gateway.String(), edit...)
}

// asking is a pod that asks for pools, named "a,b" for each family.
func (s *scenario) asking(name, v4, v6 string, edit ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	template := s.template(forever...)
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Namespace, p.Name = s.namespace, name
	p.Labels["app"] = name
	p.Annotations[v2beta1.AnnotationIPPool] = wants(v4, v6)
	for _, e := range edit {
		e(p)
	}
	s.make(p)
	return p
}

// wants is the annotation for pools named "a,b" for each family.
func wants(v4, v6 string) string {
	list := func(names string) string {
		if names == "" {
			return "[]"
		}
		return `["` + strings.ReplaceAll(names, ",", `","`) + `"]`
	}
	return fmt.Sprintf(`{"ipv4":%s,"ipv6":%s}`, list(v4), list(v6))
}

// of returns the addresses that a pod holds, by interface.
func (s *scenario) of(pod string) map[string][]string {
	s.Helper()
	var list v2beta1.SpiderIPList
	if err := s.List(s.Context(), &list); err != nil {
		s.Fatal(err)
	}
	out := map[string][]string{}
	for _, e := range list.Items {
		if e.Spec.Pod.Namespace == s.namespace && e.Spec.Pod.Name == pod {
			out[e.Spec.Interface] = append(out[e.Spec.Interface], e.Spec.Address)
		}
	}
	for _, addresses := range out {
		slices.Sort(addresses)
	}
	return out
}

// runs waits until a pod runs, and returns what its eth0 holds.
func (s *scenario) runs(name string) []string {
	s.Helper()
	s.eventually(func() string {
		pods, err := s.Running(s.Context(), s.namespace)
		if err != nil || !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == name }) {
			return fmt.Sprintf("pod %s does not run (%v)", name, err)
		}
		return ""
	})
	return s.of(name)["eth0"]
}

// refused waits until an event of a pod says all of these.
func (s *scenario) refused(pod, reason string, parts ...string) {
	s.Helper()
	s.eventually(func() string {
		var list corev1.EventList
		if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil {
			return err.Error()
		}
		var last string
		for _, e := range list.Items {
			if e.InvolvedObject.Name != pod || e.Reason != reason {
				continue
			}
			last = e.Message
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(e.Message, part) }) {
				return ""
			}
		}
		return fmt.Sprintf("no %s event of %s says %q; the last: %s", reason, pod, parts, last)
	})
}

// template is the pod template of a workload, asking for the scenario's pools.
func (s *scenario) template(command ...string) corev1.PodTemplateSpec {
	grace := int64(1)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      map[string]string{"app": "web"},
			Annotations: map[string]string{v2beta1.AnnotationIPPool: fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, s.v4, s.v6)},
		},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			}},
			Containers: []corev1.Container{{Name: "c", Image: "alpine", ImagePullPolicy: corev1.PullIfNotPresent, Command: command}},
		},
	}
}

var forever = []string{"sleep", "1000000"}

func (s *scenario) make(o client.Object) {
	s.Helper()
	if err := s.Create(s.Context(), o); err != nil {
		s.Fatal(err)
	}
}

func (s *scenario) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.namespace, Name: "web"}
}

// eventually waits until complaint is empty.
func (s *scenario) eventually(complaint func() string) {
	s.Helper()
	s.within(patience, complaint)
}

func (s *scenario) within(patience time.Duration, complaint func() string) {
	s.Helper()
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if last = complaint(); last == "" {
			return
		}
	}
	s.Fatalf("after %s: %s", patience, last)
}

// running waits for exactly n running pods that are to stay.
func (s *scenario) running(n int) {
	s.Helper()
	s.eventually(func() string {
		pods, err := s.Running(s.Context(), s.namespace)
		if err != nil || len(pods) != n {
			return fmt.Sprintf("%d pods run, want %d (%v)", len(pods), n, err)
		}
		return ""
	})
}

// held waits until the pools of the scenario have n addresses in use.
func (s *scenario) held(n int) {
	s.Helper()
	s.eventually(func() string {
		if held := s.entries(); len(held) != n {
			return fmt.Sprintf("%d addresses are held, want %d: %v", len(held), n, held)
		}
		return ""
	})
}

func (s *scenario) entries() []string { s.Helper(); return s.entriesOn("") }

// entriesOn are those of a node.
func (s *scenario) entriesOn(node string) (out []string) {
	s.Helper()
	var list v2beta1.SpiderIPList
	if err := s.List(s.Context(), &list); err != nil {
		s.Fatal(err)
	}
	for _, e := range list.Items {
		if strings.HasPrefix(e.Spec.Pool, s.namespace+"-") && (node == "" || node == e.Spec.Node) {
			out = append(out, e.Spec.Address+" "+e.Spec.Pod.Name)
		}
	}
	slices.Sort(out)
	return out
}

// sound checks that pods, ledger and interfaces agree on n pods with two
// addresses each, and that pods of different nodes reach each other.
func (s *scenario) sound(n int) {
	s.Helper()
	s.agree(n, 2*n)
	s.reachable()
}

// agree checks that pods, ledger and interfaces agree on n pods with so many
// addresses in all.
func (s *scenario) agree(n, addresses int) {
	s.Helper()
	audit, err := s.Audit(s.Context(), s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	if audit.Pods != n || audit.Addresses != addresses || len(audit.Duplicates)+len(audit.Differences) > 0 {
		s.Fatalf("%+v, want %d pods with %d addresses", audit, n, addresses)
	}
}

// reachable checks that pods of different nodes reach each other.
func (s *scenario) reachable() {
	s.Helper()
	asked, lost, err := s.PingAll(s.Context(), s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	if asked == 0 || len(lost) > 0 {
		s.Errorf("%d of %d pings lost: %v", len(lost), asked, lost)
	}
}

// endpoints waits until each running pod has its endpoint.
func (s *scenario) endpoints(kind, name string, n int) {
	s.Helper()
	s.eventually(func() string {
		var list v2beta1.SpiderEndpointList
		if err := s.List(s.Context(), &list, client.InNamespace(s.namespace)); err != nil {
			return err.Error()
		}
		if len(list.Items) != n {
			return fmt.Sprintf("%d SpiderEndpoints, want %d", len(list.Items), n)
		}
		for _, e := range list.Items {
			if e.Status.OwnerControllerType != kind || e.Status.OwnerControllerName != name {
				return fmt.Sprintf("%s is owned by %s %s", e.Name, e.Status.OwnerControllerType, e.Status.OwnerControllerName)
			}
		}
		return ""
	})
}

// evidence logs what a person would look at after a failure.
func (s *scenario) evidence() {
	if !s.Failed() {
		return
	}
	for _, args := range [][]string{
		{"-n", s.namespace, "get", "pods", "-o", "wide"},
		{"-n", s.namespace, "get", "events", "--sort-by=.lastTimestamp"},
		{"get", "spiderips"},
		{"-n", "kube-system", "logs", "-l", "app.kubernetes.io/component=spiderpool-agent", "--tail=40", "--prefix"},
		{"-n", "kube-system", "get", "pods", "-o", "wide"},
		{"-n", "kube-system", "get", "lease", "spiderpool-controller-leases", "-o", "yaml"},
		{"-n", "kube-system", "logs", "-l", "app.kubernetes.io/component=spiderpool-controller", "--tail=60", "--prefix"},
	} {
		text, err := s.Kubectl(context.Background(), args...)
		s.Logf("kubectl %s (%v)\n%s", strings.Join(args, " "), err, text)
	}
}
