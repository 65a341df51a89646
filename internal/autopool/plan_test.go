package autopool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// subnet is one of 10.6.0.0/16 or of another network, with ranges.
func subnet(name, cidr string, ips ...string) v2beta1.SpiderSubnet {
	s := v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}, Spec: v2beta1.SubnetSpec{Subnet: cidr, IPs: ips}}
	pool.DefaultSubnet(&s)
	return s
}

// workload is a Deployment that asks for subnets of eth0.
func workload(name string, pods int, subnets map[pool.Family]string, change ...func(*Workload)) Workload {
	w := Workload{Application: pool.Application{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: name}, Pods: pods,
		UID: types.UID(fmt.Sprintf("01234567-0123-0123-0123-%012x", len(name)*7919+int(name[0]))),
		Ask: &pool.Ask{Source: "Pod annotation ipam.spidernet.io/subnet", Subnets: map[string]map[pool.Family]string{"eth0": subnets}}}
	for _, c := range change {
		c(&w)
	}
	return w
}

func v4(name string) map[pool.Family]string { return map[pool.Family]string{pool.IPv4: name} }

func fixedSize(n int) func(*Workload) {
	return func(w *Workload) { w.Ask.Size = pool.Size{Set: true, Number: n} }
}
func flexible(n int) func(*Workload) {
	return func(w *Workload) { w.Ask.Size = pool.Size{Set: true, Flexible: true, Number: n} }
}
func keeps(w *Workload) { w.Ask.Keep = true }

// world is what is stored, changed as plans say.
type world struct {
	State
	version int
}

func (w *world) find(name string) *v2beta1.SpiderIPPool {
	for i := range w.Pools {
		if w.Pools[i].Name == name {
			return &w.Pools[i]
		}
	}
	return nil
}

// store writes what a plan says, as the API server would.
func (w *world) create(p *v2beta1.SpiderIPPool) {
	if w.find(p.Name) == nil {
		w.version++
		stored := *p.DeepCopy()
		stored.UID, stored.ResourceVersion = types.UID(fmt.Sprint("pool-", w.version)), fmt.Sprint(w.version)
		stored.CreationTimestamp = metav1.NewTime(time.Unix(int64(w.version/7), 0)) // many have one time
		w.Pools = append(w.Pools, stored)
	}
}

func (w *world) change(c Change) {
	if p := w.find(c.Before.Name); p != nil && p.UID == c.Before.UID && p.ResourceVersion == c.Before.ResourceVersion {
		w.version++
		*p = *c.After.DeepCopy()
		p.ResourceVersion = fmt.Sprint(w.version)
	}
}

func (w *world) delete(o *v2beta1.SpiderIPPool) {
	w.Pools = slices.DeleteFunc(w.Pools, func(p v2beta1.SpiderIPPool) bool {
		return p.UID == o.UID && p.ResourceVersion == o.ResourceVersion && w.Held[p.Name].IsEmpty()
	})
}

func (w *world) apply(p Plan) {
	for _, o := range p.Create {
		w.create(o)
	}
	for _, c := range p.Change {
		w.change(c)
	}
	for _, o := range p.Delete {
		w.delete(o)
	}
}

// state is what a planner sees.
func (w *world) state() State {
	s, held := w.State, w.Held
	s.InUse = func() (all addr.Set) {
		for _, set := range held {
			all = all.Union(set)
		}
		return all
	}
	return s
}

// pass is what the controller does at once. It returns the problems.
func (w *world) pass() string {
	plan := Make(w.state())
	w.apply(plan)
	changes, _ := Settle(w.Pools, w.Subnets)
	w.apply(Plan{Change: changes})
	var problems []string
	for _, p := range plan.Problems {
		problems = append(problems, p.Workload.Name+": "+p.Text)
	}
	return strings.Join(problems, "\n")
}

// shown are the pools, by name without the number of the application, with their ranges and what is announced.
func (w *world) shown() string {
	var out []string
	for i := range w.Pools {
		p := &w.Pools[i]
		line := p.Name[:strings.LastIndexByte(p.Name, '-')] + " " + strings.Join(p.Spec.IPs, ",")
		if a, ok := p.Annotations[v2beta1.AnnotationCarving]; ok {
			line += " announces " + a
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func set(t *testing.T, texts ...string) addr.Set {
	t.Helper()
	s, err := addr.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPlan: what becomes of pools, step by step: each changes the world, and then passes are made until nothing changes.
func TestPlan(t *testing.T) {
	type step struct {
		do       func(w *world)
		want     string
		problems string
	}
	hold := func(pool string, ips ...string) func(*world) {
		return func(w *world) {
			for i := range w.Pools {
				if strings.HasPrefix(w.Pools[i].Name, pool) {
					w.Held[w.Pools[i].Name] = set(t, ips...)
				}
			}
		}
	}
	apps := func(all ...Workload) func(*world) { return func(w *world) { w.Workloads = all } }
	both := map[pool.Family]string{pool.IPv4: "s4", pool.IPv6: "s6"}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"sizes", []step{
			{apps(workload("web", 3, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.13", ""},
			{apps(workload("web", 3, v4("s4"), fixedSize(2))), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(workload("web", 3, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.12", ""},
			{apps(workload("web", 3, v4("s4"), fixedSize(0))), "auto4-web-eth0 ", ""},
		}},
		{"two families, and others beside", []step{
			{apps(workload("web", 1, both), workload("db", 1, v4("s4"))), "auto4-db-eth0 10.6.0.10-10.6.0.11\nauto4-web-eth0 10.6.0.12-10.6.0.13\nauto6-web-eth0 fd00:6::1-fd00:6::2", ""},
			{apps(workload("web", 2, both), workload("db", 1, v4("s4"))), "auto4-db-eth0 10.6.0.10-10.6.0.11\nauto4-web-eth0 10.6.0.12-10.6.0.14\nauto6-web-eth0 fd00:6::1-fd00:6::3", ""},
			{apps(workload("web", 2, both), workload("db", 2, v4("s4"))), "auto4-db-eth0 10.6.0.10-10.6.0.11,10.6.0.15\nauto4-web-eth0 10.6.0.12-10.6.0.14\nauto6-web-eth0 fd00:6::1-fd00:6::3", ""},
		}},
		{"shrinks as far as pods go", []step{
			{apps(workload("web", 5, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.14", ""},
			{func(w *world) {
				hold("auto4-web", "10.6.0.11", "10.6.0.13-10.6.0.14")(w)
				apps(workload("web", 2, v4("s4"), flexible(0)))(w)
			}, "auto4-web-eth0 10.6.0.11,10.6.0.13-10.6.0.14", ""},
			{hold("auto4-web", "10.6.0.14"), "auto4-web-eth0 10.6.0.11,10.6.0.14", ""},
		}},
		{"goes with the application, when its pods are gone", []step{
			{apps(workload("web", 1, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{func(w *world) { hold("auto4-web", "10.6.0.10")(w); apps()(w) }, "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{func(w *world) { w.Held = map[string]addr.Set{} }, "", ""},
		}},
		{"stays, and is another's of the name", []step{
			{apps(workload("web", 1, v4("s4"), keeps)), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(workload("web", 2, v4("s4"), func(w *Workload) { w.UID = "other" })), "auto4-web-eth0 10.6.0.10-10.6.0.12", ""},
			{apps(), "", ""}, // that one did not keep it
		}},
		{"deleted and made again at once", []step{
			{apps(workload("web", 1, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(workload("web", 1, v4("s4"), func(w *Workload) { w.UID = "other" })), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
		}},
		{"another subnet", []step{
			{apps(workload("web", 1, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{func(w *world) { hold("auto4-web", "10.6.0.10")(w); apps(workload("web", 1, v4("t4")))(w) }, "auto4-web-eth0 10.6.0.10-10.6.0.11\nauto4-web-eth0 10.7.0.1-10.7.0.2", ""},
			{func(w *world) { w.Held = map[string]addr.Set{} }, "auto4-web-eth0 10.7.0.1-10.7.0.2", ""},
		}},
		{"too small, and retried", []step{
			{apps(workload("web", 8, v4("s4"), flexible(0)), workload("zoo", 4, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.17",
				"zoo: SpiderSubnet s4 has 2 of the 4 addresses that the pool of interface eth0 wants: add ranges, or scale in others; it is tried again when addresses come free"},
			{apps(workload("web", 8, v4("s4"), flexible(0)), workload("zoo", 2, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.17\nauto4-zoo-eth0 10.6.0.18-10.6.0.19", ""},
			{apps(workload("web", 10, v4("s4"), flexible(0)), workload("zoo", 2, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.17\nauto4-zoo-eth0 10.6.0.18-10.6.0.19",
				"web: SpiderSubnet s4 has 0 of the 2 addresses that IPPool auto4-web-eth0-00000 wants more: add ranges to it, or scale in others"},
			{apps(workload("web", 10, v4("s4"), flexible(0))), "auto4-web-eth0 10.6.0.10-10.6.0.19", ""},
		}},
		{"nothing, though one family is there", []step{
			{apps(workload("web", 5, map[pool.Family]string{pool.IPv4: "s4", pool.IPv6: "t6"})), "", "web: Pod annotation ipam.spidernet.io/subnet, interface eth0: there is no SpiderSubnet t6: make it, or correct the annotation"},
			{func(w *world) { w.Subnets = append(w.Subnets, subnet("t6", "fd00:7::/64", "fd00:7::1-fd00:7::2")) }, "",
				"web: SpiderSubnet t6 has 2 of the 6 addresses that the pool of interface eth0 wants: add ranges, or scale in others; it is tried again when addresses come free"},
		}},
		{"wrong", []step{
			{apps(workload("a", 1, v4("s6")), workload("b", 1, v4("s4"), func(w *Workload) { w.Ask, w.Wrong = nil, fmt.Errorf("wrong input") }),
				workload("c", Unknown, v4("s4")), workload("d", 10000, v4("s4"))), "",
				"a: Pod annotation ipam.spidernet.io/subnet, interface eth0: the SpiderSubnet s6 is an IPv6 one (fd00:6::/64), and stands under ipv4\nb: wrong input\n" +
					"c: how many pods a Deployment has is not known: write how many addresses its pool has, as in ipam.spidernet.io/ippool-ip-number: \"5\"\n" +
					"d: it may have 10000 pods at once and wants 1 addresses more, and an automatic pool has at most 10000"},
		}},
		{"a DaemonSet that is made again has its addresses, also before its nodes are counted", []step{
			{apps(workload("a", 1, v4("s4")), workload("web", Uncounted, v4("s4"), keeps)), "auto4-a-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(workload("a", 1, v4("s4")), workload("web", 3, v4("s4"), keeps)), "auto4-a-eth0 10.6.0.10-10.6.0.11\nauto4-web-eth0 10.6.0.12-10.6.0.15", ""},
			{apps(), "auto4-web-eth0 10.6.0.12-10.6.0.15", ""},
			{apps(workload("web", Uncounted, v4("s4"), keeps)), "auto4-web-eth0 10.6.0.12-10.6.0.15", ""},
			{apps(workload("web", Uncounted, v4("s4"), fixedSize(2))), "auto4-web-eth0 10.6.0.12-10.6.0.13", ""},
		}},
		{"wrong from now on", []step{
			{apps(workload("web", 1, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.11", ""},
			{apps(workload("web", 1, v4("no"))), "auto4-web-eth0 10.6.0.10-10.6.0.11", "web: Pod annotation ipam.spidernet.io/subnet, interface eth0: there is no SpiderSubnet no: make it, or correct the annotation"},
		}},
		{"of a kind of others, with a number", []step{{apps(workload("web", Unknown, v4("s4"), fixedSize(2), func(w *Workload) { w.Kind, w.APIVersion = "CloneSet", "apps.kruise.io/v1alpha1" })),
			"auto4-web-eth0 10.6.0.10-10.6.0.11", ""}}},
		{"what is in other pools, held or reserved is not taken", []step{
			{func(w *world) {
				w.Pools = append(w.Pools, v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Spec: v2beta1.IPPoolSpec{Subnet: "10.6.0.0/16", IPs: []string{"10.6.0.10-10.6.0.11"}}})
				w.Held["gone"] = set(t, "10.6.0.12")
				w.Reserved = set(t, "10.6.0.13")
				apps(workload("web", 1, v4("s4")))(w)
			}, "auto4-web-eth0 10.6.0.14-10.6.0.15\nby 10.6.0.10-10.6.0.11", ""},
		}},
		{"reserved, or taken out of the subnet, later", []step{
			{apps(workload("web", 3, v4("s4"))), "auto4-web-eth0 10.6.0.10-10.6.0.13", ""},
			{func(w *world) {
				hold("auto4-web", "10.6.0.10")(w)
				w.Reserved = set(t, "10.6.0.10-10.6.0.11")
			}, "auto4-web-eth0 10.6.0.10,10.6.0.12-10.6.0.15", ""},
			{func(w *world) { w.Subnets[0] = subnet("s4", "10.6.0.0/16", "10.6.0.14-10.6.0.30") }, "auto4-web-eth0 10.6.0.10,10.6.0.14-10.6.0.17", ""},
		}},
		{"two interfaces", []step{{apps(workload("web", 1, v4("s4"), func(w *Workload) {
			w.Ask.Subnets["net_1"] = v4("t4")
		})), "auto4-web-eth0 10.6.0.10-10.6.0.11\nauto4-web-net-1 10.7.0.1-10.7.0.2", ""}}},
		{"in one piece if there is one", []step{
			{apps(workload("a", 2, v4("s4"), flexible(0)), workload("b", 2, v4("s4"), flexible(0)), workload("c", 2, v4("s4"), flexible(0))),
				"auto4-a-eth0 10.6.0.10-10.6.0.11\nauto4-b-eth0 10.6.0.12-10.6.0.13\nauto4-c-eth0 10.6.0.14-10.6.0.15", ""},
			{apps(workload("a", 2, v4("s4"), flexible(0)), workload("c", 2, v4("s4"), flexible(0)), workload("d", 3, v4("s4"), flexible(0))),
				"auto4-a-eth0 10.6.0.10-10.6.0.11\nauto4-c-eth0 10.6.0.14-10.6.0.15\nauto4-d-eth0 10.6.0.16-10.6.0.18", ""},
			{apps(workload("a", 2, v4("s4"), flexible(0)), workload("c", 2, v4("s4"), flexible(0)), workload("d", 3, v4("s4"), flexible(0)), workload("e", 1, v4("s4"), flexible(0))),
				"auto4-a-eth0 10.6.0.10-10.6.0.11\nauto4-c-eth0 10.6.0.14-10.6.0.15\nauto4-d-eth0 10.6.0.16-10.6.0.18\nauto4-e-eth0 10.6.0.19", ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{State: State{Held: map[string]addr.Set{}, Redundant: 1, Subnets: []v2beta1.SpiderSubnet{
				subnet("s4", "10.6.0.0/16", "10.6.0.10-10.6.0.19"), subnet("t4", "10.7.0.0/16", "10.7.0.1-10.7.0.9"), subnet("s6", "fd00:6::/64", "fd00:6::1-fd00:6::ffff:ffff:ffff:ffff")}}}
			for i, s := range tt.steps {
				s.do(w)
				w.pass()
				w.pass()
				problems, version := w.pass(), w.version
				if diff := cmp.Diff(s.want, w.shown()); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", i, diff)
				}
				if diff := cmp.Diff(s.problems, problems); diff != "" {
					t.Errorf("step %d, problems (-want +got):\n%s", i, diff)
				}
				if w.pass(); w.version != version {
					t.Errorf("step %d: it goes on writing", i)
				}
			}
		})
	}
}

// TestNames: names are unique and end with what tells applications of one name apart; labels hold what fits in them.
func TestNames(t *testing.T) {
	long := strings.Repeat("long.name-", 26)[:253]
	uid := func(s string) func(*Workload) { return func(w *Workload) { w.UID = types.UID(s) } }
	w := &world{State: State{Held: map[string]addr.Set{}, Subnets: []v2beta1.SpiderSubnet{subnet("s4", "10.6.0.0/16", "10.6.0.1-10.6.0.99")}, Workloads: []Workload{
		workload("web", 1, v4("s4"), uid("11111111-0000-0000-0000-abcdef123456")),
		workload("web", 1, v4("s4"), uid("22222222-0000-0000-0000-abcdef123456"), func(w *Workload) { w.Namespace = "other" }),
		workload("web", 1, v4("s4"), uid("33333333-0000-0000-0000-abcdef999999"), func(w *Workload) { w.Kind = "StatefulSet" }),
		workload(long, 1, v4("s4"), uid("44444444-0000-0000-0000-0000aa000000")),
		workload(long[:252]+"x", 1, v4("s4"), uid("55555555-0000-0000-0000-0000bb000000")),
	}}}
	if problems := w.pass(); problems != "" {
		t.Fatal(problems)
	}
	var names []string
	for i := range w.Pools {
		p := &w.Pools[i]
		names = append(names, p.Name)
		if _, errs := pool.Parse(p); len(errs) > 0 {
			t.Error(errs)
		}
		if of := pool.AutomaticOf(p); of == nil || of.Subnet != "s4" || of.Interface != "eth0" || of.Name != "web" && len(of.Name) < 250 {
			t.Errorf("%s is for %+v", p.Name, of)
		}
		if metav1.GetControllerOf(p) == nil || !slices.Contains(p.Finalizers, v2beta1.Finalizer) || ptr.Deref(p.Spec.IPVersion, 0) != 4 {
			t.Errorf("%s lacks what admission adds: %+v", p.Name, p)
		}
	}
	slices.Sort(names)
	want := []string{
		"auto4-" + long[:235] + "-eth0-0000a", "auto4-" + long[:235] + "-eth0-0000b",
		"auto4-web-eth0-abcde", "auto4-web-eth0-abcdef123456", "auto4-web-eth0-abcdef999999",
	}
	for _, name := range names {
		if len(name) > 253 {
			t.Errorf("%s has %d characters", name, len(name))
		}
	}
	for i := range 2 {
		want[i] = strings.Replace(want[i], long[:235], strings.TrimRight(long[:253-len("auto4-")-len("-eth0-0000a")], "-."), 1)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p := w.find("auto4-web-eth0-abcdef999999")
	wantLabels := map[string]string{"owner-spider-subnet": "s4", "owner-application-gv": "apps_v1", "owner-application-kind": "StatefulSet", "owner-application-namespace": "shop",
		"owner-application-name": "web", "owner-application-uid": "33333333-0000-0000-0000-abcdef999999", "interface": "eth0", "ippool-reclaim": "true", "ip-version": "IPv4", "ippool-cidr": "10-6-0-0-16"}
	got := map[string]string{}
	for k, v := range p.Labels {
		got[strings.TrimPrefix(k, "ipam.spidernet.io/")] = v
	}
	if diff := cmp.Diff(wantLabels, got); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	wantAffinity := map[string]string{"app-api-group": "apps", "app-api-version": "v1", "app-kind": "StatefulSet", "app-namespace": "shop", "app-name": "web"}
	got = map[string]string{}
	for k, v := range p.Spec.PodAffinity.MatchLabels {
		got[strings.TrimPrefix(k, "ipam.spidernet.io/")] = v
	}
	if diff := cmp.Diff(wantAffinity, got); diff != "" {
		t.Errorf("podAffinity (-want +got):\n%s", diff)
	}
	if p.Annotations[v2beta1.AnnotationIPPoolIPNumber] != "+0" {
		t.Errorf("annotations %v", p.Annotations)
	}
}

// TestTwoLeaders: two of them plan, each by what it saw some time ago, and their writes mix in any order. Never has a range two
// pools, and in the end each application has its pool.
func TestTwoLeaders(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := &world{State: State{Held: map[string]addr.Set{}, Redundant: 1, Subnets: []v2beta1.SpiderSubnet{subnet("s4", "10.6.0.0/16", "10.6.0.1-10.6.0.60")}}}
		type leader struct {
			view    State
			pending []func()
			looked  bool
		}
		leaders := []*leader{{}, {}}
		check := func() {
			seen := addr.Set{}
			for i := range w.Pools {
				has := ranges(&w.Pools[i])
				if seen.Overlaps(has) {
					t.Fatalf("seed %d: a range has two pools:\n%s", seed, w.shown())
				}
				seen = seen.Union(has)
			}
		}
		clone := func() State {
			s := w.state()
			s.Pools = nil
			for i := range w.Pools {
				s.Pools = append(s.Pools, *w.Pools[i].DeepCopy())
			}
			return s
		}
		turn := 0
		for step := range 400 {
			if step%12 == 0 && step < 360 {
				w.Workloads = nil
				for i := range 6 {
					if r.IntN(4) > 0 {
						w.Workloads = append(w.Workloads, workload(strings.Repeat("w", i+1), 1+r.IntN(6), v4("s4")))
					}
				}
			}
			if r.IntN(3) == 0 { // one may do much while the other does nothing
				turn = r.IntN(2)
			}
			l := leaders[turn]
			switch {
			case len(l.pending) > 0: // one write
				l.pending[0]()
				l.pending = l.pending[1:]
				check()
			case !l.looked && l.view.Subnets != nil: // all are written: look live
				l.looked = true
				live := clone()
				changes, _ := Settle(live.Pools, live.Subnets)
				for _, c := range changes {
					l.pending = append(l.pending, func() { w.change(c) })
				}
			default: // the next pass, by what the watches have brought: that of pools may be late
				if l.looked = false; l.view.Subnets == nil || r.IntN(3) > 0 {
					l.view = clone()
				}
				l.view.Workloads = w.Workloads
				plan := Make(l.view)
				for _, o := range plan.Create {
					l.pending = append(l.pending, func() { w.create(o) })
				}
				for _, c := range plan.Change {
					l.pending = append(l.pending, func() { w.change(c) })
				}
				for _, o := range plan.Delete {
					l.pending = append(l.pending, func() { w.delete(o) })
				}
			}
		}
		for range 6 { // one remains
			w.pass()
			check()
		}
		want := map[string]int{}
		for _, one := range w.Workloads {
			want[one.Name] = one.Pods + 1
		}
		got := map[string]int{}
		for i := range w.Pools {
			got[w.Pools[i].Spec.PodAffinity.MatchLabels[v2beta1.AffinityAppName]] = int(ranges(&w.Pools[i]).Count().Int64())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

// BenchmarkMake plans for 1,000 applications that have their pools.
func BenchmarkMake(b *testing.B) {
	w := &world{State: State{Held: map[string]addr.Set{}, Redundant: 1, Subnets: []v2beta1.SpiderSubnet{subnet("s4", "10.0.0.0/8", "10.6.0.1-10.7.255.254")}}}
	for i := range 1000 {
		w.Workloads = append(w.Workloads, workload(fmt.Sprint("w", i), 5, v4("s4"), func(w *Workload) { w.UID = types.UID(fmt.Sprintf("0-%012x", i*4099)) }))
	}
	w.pass()
	if problems := w.pass(); problems != "" || len(w.Pools) != 1000 {
		b.Fatal(len(w.Pools), problems)
	}
	for b.Loop() {
		Make(w.state())
	}
}
