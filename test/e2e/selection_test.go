package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/test/lab"
)

var soak = flag.Bool("soak", false, "run scenarios in full size")

// The scenarios of this file are features of the product, by their names in its
// description.

// TestAssignIPv4OnlyIPv6OnlyDualStack: a pod gets the families that it asks for.
func TestAssignIPv4OnlyIPv6OnlyDualStack(t *testing.T) {
	s := begin(t, 50)
	s.asking("four", s.v4, "")
	s.asking("six", "", s.v6)
	s.asking("both", s.v4, s.v6)
	for name, want := range map[string][]bool{"four": {true}, "six": {false}, "both": {true, false}} {
		got := s.runs(name)
		if len(got) != len(want) {
			t.Errorf("%s holds %v", name, got)
			continue
		}
		for i, a := range got {
			if netip.MustParseAddr(a).Is4() != want[i] {
				t.Errorf("%s holds %v", name, got)
			}
		}
	}
	s.agree(3, 4)
}

// TestPoolsMonopolizedAndShared: pools of a namespace and of an application
// serve nobody else; a plain one serves both.
func TestPoolsMonopolizedAndShared(t *testing.T) {
	s := begin(t, 1)
	own := s.range4("own", 60, 69, func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{s.namespace} })
	other := s.range4("other", 70, 79, func(p *v2beta1.SpiderIPPool) {
		p.Spec.NamespaceAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "nobody"}}
	})
	app := s.range4("app", 80, 89, func(p *v2beta1.SpiderIPPool) {
		p.Spec.PodAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}
	})
	shared := s.range4("shared", 90, 99)
	s.asking("mine", other+","+own, "")
	s.asking("shop", shared+","+own+","+app, "")
	s.asking("plain", app+","+shared, "")
	s.asking("stranger", other+","+app, "")
	for name, want := range map[string]string{"mine": ".6", "shop": ".8", "plain": ".9"} {
		if got := s.runs(name); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("172.20.%d%s", s.number, want)) {
			t.Errorf("%s holds %v, want 172.20.%d%sx", name, got, s.number, want)
		}
	}
	for _, reason := range []string{"FailedCreatePodSandBox", "IPAllocationFailed"} {
		s.refused("stranger", reason, "no IPPool available, interface eth0 gets no IPv4 address", other+": unmatched Namespace labels of IPPool", app+": unmatched Pod labels of IPPool")
	}
}

// TestBackupPools: lists are backups in the order written; a name that does not
// exist is passed over; what is said about it is what would happen.
func TestBackupPools(t *testing.T) {
	s := begin(t, 1)
	first, second := s.range4("z-first", 60, 60), s.range4("a-second", 61, 61)
	list := s.namespace + "-none," + first + "," + second
	for i, want := range []int{60, 61} {
		name := fmt.Sprint("p", i)
		s.asking(name, list, "")
		if got := s.runs(name); len(got) != 1 || got[0] != fmt.Sprintf("172.20.%d.%d", s.number, want) {
			t.Errorf("%s holds %v, want .%d", name, got, want)
		}
	}
	s.asking("late", list, "")
	s.refused("late", "IPAllocationFailed", "-none: no such IPPool", first+": all IP addresses used out: 0 free of 1", second+": all IP addresses used out: 0 free of 1")
	said := s.explain("late", "eth0")
	for _, part := range []string{"pools from Pod annotation ipam.spidernet.io/ippool", "1. pool " + first + ": 0 free of 1", "2. pool " + second + ": 0 free of 1",
		"pool " + s.namespace + "-none does not serve: no such IPPool", "an ADD waits"} {
		if !strings.Contains(said, part) {
			t.Errorf("explain does not say %q:\n%s", part, said)
		}
	}
	if said := s.explain("p0", "eth0"); !strings.Contains(said, fmt.Sprintf("holds 172.20.%d.60 of pool %s", s.number, first)) {
		t.Errorf("explain does not say what p0 holds:\n%s", said)
	}
}

// explain is what the command line says.
func (s *scenario) explain(pod, ifname string) string {
	s.Helper()
	program, err := filepath.Abs(filepath.Join("..", "..", "_output", "bin", runtime.GOARCH, "spiderpoolctl"))
	if err != nil {
		s.Fatal(err)
	}
	text, err := exec.CommandContext(s.Context(), program, "--kubeconfig", s.Kubeconfig(), "explain", "pod", s.namespace+"/"+pod, "--interface", ifname).CombinedOutput()
	if err != nil {
		s.Fatalf("spiderpoolctl: %v\n%s", err, text)
	}
	return string(text)
}

// TestRangeBoundToAnApplication: a pool is bound to an application by its
// labels, and grown by editing the pool alone.
func TestRangeBoundToAnApplication(t *testing.T) {
	s := begin(t, 1)
	bound := s.range4("bound", 60, 61, func(p *v2beta1.SpiderIPPool) {
		p.Spec.PodAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	})
	n := int32(4)
	template := s.template(forever...)
	template.Annotations[v2beta1.AnnotationIPPool] = wants(bound, "")
	template.Spec.TopologySpreadConstraints = nil
	s.make(&appsv1.Deployment{ObjectMeta: s.meta(), Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: selector, Template: template}})
	s.running(2)
	s.asking("other", bound, "")
	s.refused("other", "IPAllocationFailed", bound+": unmatched Pod labels of IPPool")
	grown := fmt.Sprintf(`{"spec":{"ips":["172.20.%d.60-172.20.%d.61","172.20.%d.90-172.20.%d.91"]}}`, s.number, s.number, s.number, s.number)
	began := time.Now()
	s.patch(&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: bound}}, grown)
	s.running(4)
	t.Logf("two more pods run %s after their pool was grown", time.Since(began).Round(100*time.Millisecond))
	s.agree(4, 4)
}

func (s *scenario) patch(o client.Object, text string) {
	s.Helper()
	if err := s.Patch(s.Context(), o, client.RawPatch(types.MergePatchType, []byte(text))); err != nil {
		s.Fatal(err)
	}
}

// TestReservedIP: reserved addresses are given to nobody, of ranges of any
// size; who has one keeps it.
func TestReservedIP(t *testing.T) {
	s := begin(t, 1)
	small := s.range4("small", 60, 63)
	net := fmt.Sprintf("fd00:172:20::%x00:0:0:", s.number)
	huge := s.pool("huge", lab.Segments[0].IPv6.String(), net+"0-"+net+"ffff", "")
	s.asking("has", small, "")
	has := s.runs("has")
	for family, ips := range map[string][]string{
		"4": {fmt.Sprintf("172.20.%d.60-172.20.%d.63", s.number, s.number)}, "6": {net + "0-" + net + "7fff", net + "8001-" + net + "ffff"}} {
		reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: s.namespace + "-" + family}}
		reserved.Spec.IPs = ips
		s.make(reserved)
		t.Cleanup(func() { _ = s.Delete(context.Background(), reserved) })
	}
	time.Sleep(2 * time.Second) // until every agent has heard of it
	s.asking("late", small, "")
	s.refused("late", "IPAllocationFailed", small+": all IP addresses used out: 0 free of 0, 4 more reserved")
	s.asking("six", "", huge)
	if got := s.runs("six"); len(got) != 1 || got[0] != netip.MustParseAddr(net+"8000").String() {
		t.Errorf("six holds %v, the only address that is not reserved is %s8000", got, net)
	}
	if got := s.runs("has"); got[0] != has[0] {
		t.Errorf("has holds %v, had %v", got, has)
	}
}

// TestTwoApplicationsRolled: two applications, each with a pool of exactly as
// many addresses as it has pods, are rolled at once, three times. All run, none
// has an address of the other's, and no address is had twice.
func TestTwoApplicationsRolled(t *testing.T) {
	n, rolls := int32(8), 2
	if *soak {
		n, rolls = 50, 3
	}
	s := begin(t, 1)
	apps := map[string]*appsv1.Deployment{}
	for i, name := range []string{"red", "blue"} {
		own := s.range4(name, 100+60*i, 100+60*i+int(n)-1)
		template := s.template(forever...)
		template.Labels["app"] = name
		template.Annotations[v2beta1.AnnotationIPPool] = wants(own, "")
		template.Spec.TopologySpreadConstraints[0].LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
		apps[name] = &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template}}
		s.make(apps[name])
	}
	s.rolled(apps)
	for i := range rolls {
		began := time.Now()
		for _, d := range apps {
			s.patch(d, fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rolled":"%d"}}}}}`, i))
		}
		s.rolled(apps)
		t.Logf("roll %d of 2 x %d pods took %s", i+1, n, time.Since(began).Round(time.Second))
		s.agree(2*int(n), 2*int(n))
	}
	s.foreign()
}

// rolled waits until every pod of the applications is of the newest kind, and
// looks meanwhile that no address of one is the other's.
func (s *scenario) rolled(apps map[string]*appsv1.Deployment) {
	s.Helper()
	s.within(20*patience/3, func() string {
		s.foreign()
		for _, d := range apps {
			if err := s.Get(s.Context(), client.ObjectKeyFromObject(d), d); err != nil {
				return err.Error()
			}
			st, n := d.Status, *d.Spec.Replicas
			if st.ObservedGeneration < d.Generation || st.UpdatedReplicas != n || st.AvailableReplicas != n || st.Replicas != n {
				return fmt.Sprintf("%s: %d of %d are updated, %d run", d.Name, st.UpdatedReplicas, n, st.AvailableReplicas)
			}
		}
		if pods, err := s.Running(s.Context(), s.namespace); err != nil || len(pods) != int(*apps["red"].Spec.Replicas+*apps["blue"].Spec.Replicas) {
			return fmt.Sprintf("%d pods run (%v)", len(pods), err)
		}
		return ""
	})
}

// foreign checks that every address is held by a pod of the application that
// its pool is named after.
func (s *scenario) foreign() {
	s.Helper()
	var list v2beta1.SpiderIPList
	if err := s.List(s.Context(), &list); err != nil {
		s.Fatal(err)
	}
	for _, e := range list.Items {
		app, own := strings.CutPrefix(e.Spec.Pool, s.namespace+"-")
		if own && !strings.HasPrefix(e.Spec.Pod.Name, app+"-") {
			s.Errorf("%s of pool %s is held by %s", e.Spec.Address, e.Spec.Pool, e.Spec.Pod.Name)
		}
	}
}
