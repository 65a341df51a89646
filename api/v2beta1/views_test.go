package v2beta1_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestDiscovery is how kubectl and scripts name the kinds.
func TestDiscovery(t *testing.T) {
	d, err := discovery.NewDiscoveryClientForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.ServerResourcesForGroupVersion("spiderpool.spidernet.io/v2beta1")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range list.APIResources {
		got[r.Name] = fmt.Sprint(r.Kind, " namespaced=", r.Namespaced, " ", r.ShortNames, " ", r.Categories)
	}
	want := map[string]string{
		"spiderippools":        "SpiderIPPool namespaced=false [sp] [spiderpool]",
		"spiderippools/status": "SpiderIPPool namespaced=false [] []",
		"spidersubnets":        "SpiderSubnet namespaced=false [ss] [spiderpool]",
		"spidersubnets/status": "SpiderSubnet namespaced=false [] []",
		"spiderreservedips":    "SpiderReservedIP namespaced=false [sr] [spiderpool]",
		"spiderendpoints":      "SpiderEndpoint namespaced=true [se] [spiderpool]",
		"spiderips":            "SpiderIP namespaced=false [sip] [spiderpool]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPrinterColumns is what kubectl get prints; columns after the bar only with -o wide.
func TestPrinterColumns(t *testing.T) {
	c, ctx := api(t), t.Context()
	clients, err := kubernetes.NewForConfig(config(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ kind, plural, name, object, status, columns, cells string }{
		{
			"SpiderIPPool", "spiderippools", "columns", `spec: {ipVersion: 4, subnet: 10.6.0.0/16, default: true, nodeName: [n1, n2], multusName: [kube-system/macvlan], podAffinity: {matchLabels: {ipam.spidernet.io/app-namespace: shop}}}`,
			`status: {allocatedIPCount: 3, totalIPCount: 9223372036854775807}`,
			"Name VERSION SUBNET ALLOCATED-IP-COUNT TOTAL-IP-COUNT DEFAULT | DISABLE NodeName MultusName APP-NAMESPACE",
			`columns 4 10.6.0.0/16 3 9223372036854775807 true | false ["n1","n2"] ["kube-system/macvlan"] shop`,
		},
		{
			"SpiderSubnet", "spidersubnets", "columns", `spec: {ipVersion: 6, subnet: "fd00::/64"}`, `status: {allocatedIPCount: 0, totalIPCount: 5}`,
			"Name VERSION SUBNET ALLOCATED-IP-COUNT TOTAL-IP-COUNT |", "columns 6 fd00::/64 0 5 |",
		},
		{"SpiderReservedIP", "spiderreservedips", "columns", `spec: {ipVersion: 4, ips: [10.6.0.1]}`, "", "Name VERSION |", "columns 4 |"},
		{
			"SpiderEndpoint", "spiderendpoints", "columns", `status: {ownerControllerType: Pod, ownerControllerName: p, current: {uid: u, node: n1, ips: [{interface: eth0, ipv4: 10.6.0.9/16, ipv4Pool: a, ipv6: "fd00::9/64", ipv6Pool: b}, {interface: net1, ipv4: 10.9.0.9/16, ipv4Pool: c}]}}`, "",
			"Name INTERFACE IPV4POOL IPV4 IPV6POOL IPV6 NODE |", "columns eth0 a 10.6.0.9/16 b fd00::9/64 n1 |",
		},
		{
			"SpiderIP", "spiderips", "fd00-0000-0000-0000-0000-0000-0000-0009", `spec: {address: "fd00::9", pool: b, node: n1, network: macvlan, interface: eth0, netns: /run/netns/x, containerID: c1, pod: {namespace: shop, name: web-0, uid: u}, owner: {apiVersion: apps/v1, kind: StatefulSet, name: web, uid: v}, use: Kept, reason: why}`, "",
			"Name ADDRESS NAMESPACE POD POOL NODE INTERFACE USE AGE FIXED-FOR | NETWORK CONTAINER OWNER-KIND REASON",
			"fd00-0000-0000-0000-0000-0000-0000-0009 fd00::9 shop web-0 b n1 eth0 Kept AGE web | macvlan c1 StatefulSet why",
		},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			o := object(t, tt.kind, tt.name, tt.object)
			if err := create(ctx, c, o); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Delete(ctx, o) }()
			if tt.status != "" {
				o.Object["status"] = parse(t, tt.status).Object["status"]
				if err := c.Status().Update(ctx, o); err != nil {
					t.Fatal(err)
				}
			}
			url := "/apis/spiderpool.spidernet.io/v2beta1/" + tt.plural
			if tt.kind == "SpiderEndpoint" {
				url = "/apis/spiderpool.spidernet.io/v2beta1/namespaces/default/" + tt.plural
			}
			data, err := clients.RESTClient().Get().AbsPath(url, tt.name).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(ctx)
			if err != nil {
				t.Fatal(err)
			}
			columns, cells := table(t, data)
			if diff := cmp.Diff([]string{tt.columns, tt.cells}, []string{columns, cells}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// table writes the columns and the one row of a Table as kubectl would, with a bar before what only -o wide shows.
func table(t *testing.T, data []byte) (columns, cells string) {
	t.Helper()
	var got metav1.Table
	read := json.NewDecoder(bytes.NewReader(data))
	read.UseNumber() // 64 bits
	if err := read.Decode(&got); err != nil || len(got.Rows) != 1 {
		t.Fatalf("%v: %s", err, data)
	}
	var shown, wide [2][]string
	for i, column := range got.ColumnDefinitions {
		to, cell := &shown, fmt.Sprint(got.Rows[0].Cells[i])
		if column.Priority > 0 {
			to = &wide
		}
		if column.Name == "AGE" {
			cell = "AGE"
		}
		to[0], to[1] = append(to[0], column.Name), append(to[1], cell)
	}
	join := func(i int) string {
		return strings.TrimSpace(strings.Join(shown[i], " ") + " | " + strings.Join(wide[i], " "))
	}
	return join(0), join(1)
}

// TestStatus: writes of the spec leave the status alone and the other way round; endpoints are written in one.
func TestStatus(t *testing.T) {
	c, ctx := api(t), t.Context()
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "status"}}
	pool.Spec.Subnet, pool.Spec.IPs = "10.6.0.0/16", []string{"10.6.0.10"}
	pool.Status.ObservedGeneration = 7
	if err := create(ctx, c, pool); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Delete(ctx, pool) }()
	if pool.Status.ObservedGeneration != 0 {
		t.Errorf("creation wrote the status: %+v", pool.Status)
	}
	if *pool.Spec.Default || *pool.Spec.Disable || pool.Spec.IPVersion != nil {
		t.Errorf("defaults: %+v", pool.Spec)
	}
	one, text := int64(1), `{"10.6.0.10":{"pod":"a/b","podUid":"c"}}`
	want := v2beta1.IPPoolStatus{
		ObservedGeneration: 1, ObservedReserved: "10.6.0.11-10.6.0.12", AllocatedIPs: &text, TotalIPCount: &one, AllocatedIPCount: &one,
		Draining: []string{"10.6.0.9"}, DrainingIPCount: &one,
	}
	pool.Status, pool.Spec.IPs = *want.DeepCopy(), nil
	if err := c.Status().Update(ctx, pool, client.FieldValidation("Strict")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, pool.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if len(pool.Spec.IPs) != 1 {
		t.Errorf("a write of the status changed the spec: %+v", pool.Spec)
	}
	minus := int64(-1)
	pool.Status.AllocatedIPCount = &minus
	judge(t, c.Status().Update(ctx, pool), "status.allocatedIPCount: Invalid value: -1")
}
