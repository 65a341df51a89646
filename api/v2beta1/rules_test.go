package v2beta1_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestCreate is what the API server accepts and refuses of new objects, without any webhook.
func TestCreate(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		object     string // YAML, without apiVersion and kind
		want       string // part of the refusal; empty: accepted
	}{
		// What existing manifests look like.
		{"pool of every field", "SpiderIPPool", `spec:
  ipVersion: 4
  subnet: 10.6.0.0/16
  ips: [10.6.0.10-10.6.0.20, 10.6.0.30]
  excludeIPs: [10.6.0.15-10.6.0.16]
  gateway: 10.6.0.1
  routes: [{dst: 10.7.0.0/16, gw: 10.6.0.2}, {dst: 10.8.0.0/16, gw: 10.6.0.2}]
  podAffinity: {matchLabels: {app: web}, matchExpressions: [{key: a, operator: In, values: [b]}]}
  namespaceAffinity: {matchLabels: {team: a}}
  namespaceName: [default]
  nodeAffinity: {matchExpressions: [{key: zone, operator: Exists}]}
  nodeName: [n1, n2]
  multusName: [kube-system/macvlan]
  default: true
  disable: false`, ""},
		{"pool of IPv6", "SpiderIPPool", `spec: {ipVersion: 6, subnet: "fd00:10::/64", ips: ["fd00:10::a-fd00:10::ff"], gateway: "fd00:10::1", routes: [{dst: "fd00:20::/64", gw: "fd00:10::2"}]}`, ""},
		{"pool without version", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}`, ""},
		{"pool without addresses", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [], routes: []}`, ""},
		{"pool of addresses in any text", "SpiderIPPool", `spec: {subnet: "fd00:10::/64", ips: ["FD00:10:0:0::A-FD00:10:0:0:0:0:0:FF"]}`, ""},
		{"pool of overlapping ranges", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20, 10.6.0.15]}`, ""},

		{"pool without subnet", "SpiderIPPool", `spec: {ips: [10.6.0.10]}`, `spec.subnet: Required value`},
		{"pool without spec", "SpiderIPPool", `metadata: {}`, `spec: Required value`},
		{"unknown field", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, vlan: 5}`, `unknown field "spec.vlan"`},
		{"version of no family", "SpiderIPPool", `spec: {ipVersion: 5, subnet: 10.6.0.0/16}`, `spec.ipVersion: Unsupported value: 5`},
		{"version of the other family", "SpiderIPPool", `spec: {ipVersion: 6, subnet: 10.6.0.0/16}`, `spec.ipVersion: Invalid value: 6 does not fit subnet 10.6.0.0/16: write 4 or leave it out`},
		{"version 4 for IPv6", "SpiderIPPool", `spec: {ipVersion: 4, subnet: "fd00::/64"}`, `does not fit subnet fd00::/64: write 6 or leave it out`},
		{"subnet without length", "SpiderIPPool", `spec: {subnet: 10.6.0.0}`, `spec.subnet: Invalid value: "10.6.0.0": must be a network, as 10.6.0.0/16`},
		{"subnet with host bits", "SpiderIPPool", `spec: {subnet: 10.6.2.3/16}`, `must be the network itself in its canonical form: write 10.6.0.0/16`},
		{"subnet of IPv6 not canonical", "SpiderIPPool", `spec: {subnet: "FD00:10:0::/64"}`, `must be the network itself in its canonical form: write fd00:10::/64`},
		{"subnet of IPv4 in IPv6", "SpiderIPPool", `spec: {subnet: "::ffff:10.6.0.0/112"}`, `spec.subnet: Invalid value: "::ffff:10.6.0.0/112": must be a network`},
		{"subnet too long", "SpiderIPPool", `spec: {subnet: "` + strings.Repeat("1", 44) + `"}`, `spec.subnet: Too long`},
		{"range is no address", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10, 10.6.0.300]}`, `spec.ips[1]: Invalid value: "10.6.0.300": must be an address or the first and the last address joined by a dash, without blanks`},
		{"range with blanks", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10 - 10.6.0.20]}`, `spec.ips[0]: Invalid value: "10.6.0.10 - 10.6.0.20": must be an address`},
		{"range of three", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.2-10.6.0.3]}`, `spec.ips[0]: Invalid value: "10.6.0.1-10.6.0.2-10.6.0.3": must be an address`},
		{"range without end", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: ["10.6.0.1-"]}`, `spec.ips[0]: Invalid value: "10.6.0.1-": must be an address`},
		{"empty range", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [""]}`, `spec.ips[0]: Invalid value: "": must be an address`},
		{"network for a range", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.0/24]}`, `spec.ips[0]: Invalid value: "10.6.0.0/24": must be an address`},
		{"address with leading zero", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.010]}`, `spec.ips[0]: Invalid value: "10.6.0.010": must be an address`},
		{"address with zone", "SpiderIPPool", `spec: {subnet: "fe80::/64", ips: ["fe80::1%eth0"]}`, `spec.ips[0]: Invalid value: "fe80::1%eth0": must be an address`},
		{"range of two families", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: ["10.6.0.1-fd00::1"]}`, `spec.ips[0]: Invalid value: "10.6.0.1-fd00::1": the first and the last address must be of one family`},
		{"range backwards", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.9]}`, `spec.ips[0]: Invalid value: "10.6.0.10-10.6.0.9": the first address must not be after the last`},
		{"range backwards by its first byte", "SpiderIPPool", `spec: {subnet: 0.0.0.0/0, ips: [255.0.0.0-10.255.255.255]}`, `spec.ips[0]: Invalid value: "255.0.0.0-10.255.255.255": the first address must not be after the last`},
		{"range of one address", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.10]}`, ``},
		{"range over bytes", "SpiderIPPool", `spec: {subnet: 0.0.0.0/0, ips: [9.255.255.255-10.0.0.0]}`, ``},
		{"range outside", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10, 10.6.255.250-10.7.0.1]}`, `10.6.255.250-10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"range of the other family", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: ["fd00::1"]}`, `fd00::1 is outside subnet 10.6.0.0/16`},
		{"excluded is no address", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, excludeIPs: [all]}`, `spec.excludeIPs[0]: Invalid value: "all": must be an address`},
		{"excluded backwards", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, excludeIPs: [10.6.0.10-10.6.0.9]}`, `spec.excludeIPs[0]: Invalid value: "10.6.0.10-10.6.0.9": the first address must not be after the last`},
		{"excluded outside", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, excludeIPs: [10.7.0.1]}`, `10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"gateway is no address", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: 10.6.0.1/16}`, `spec.gateway: Invalid value: "10.6.0.1/16": must be an IP address`},
		{"gateway empty", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: ""}`, `spec.gateway: Invalid value: "": must be an IP address`},
		{"gateway outside", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: 10.7.0.1}`, `spec.gateway: Invalid value: 10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"link-local gateway", "SpiderIPPool", `spec: {subnet: "fd00::/64", gateway: "fe80::1", routes: [{dst: "fd01::/64", gw: "FE80::2"}]}`, ""},
		{"link-local gateway of IPv4", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: 169.254.1.1}`, `169.254.1.1 is outside subnet 10.6.0.0/16: write an address of the router inside it`},
		{"link-local gateway of the other family", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: "fe80::1"}`, `fe80::1 is outside subnet 10.6.0.0/16`},
		{"IPv6 gateway outside", "SpiderIPPool", `spec: {subnet: "fd00::/64", gateway: "fd01::1"}`, `fd01::1 is outside subnet fd00::/64: write an address of the router inside it, or its link-local address`},
		{"route by link-local IPv4", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: 169.254.1.1}]}`, `gw 169.254.1.1 is outside subnet 10.6.0.0/16`},
		{"route with host bits", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.1/16, gw: 10.6.0.1}]}`, ""},
		{"gateway of the other family", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, gateway: "fd00::1"}`, `fd00::1 is outside subnet 10.6.0.0/16`},
		{"route to no network", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.1, gw: 10.6.0.1}]}`, `must be a network, as 10.7.0.0/16 or fd00:7::/64, not 10.7.0.1`},
		{"route by no address", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: eth0}]}`, `must be an IP address, not eth0`},
		{"route without gw", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16}]}`, `spec.routes[0].gw: Required value`},
		{"default route", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 0.0.0.0/0, gw: 10.6.0.1}]}`, `the default route is not written here: set the gateway`},
		{"default route of IPv6", "SpiderIPPool", `spec: {subnet: "fd00::/64", routes: [{dst: "::/0", gw: "fd00::1"}]}`, `the default route is not written here: set the gateway`},
		{"route of the other family", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: "fd00:7::/64", gw: 10.6.0.1}]}`, `dst fd00:7::/64 is not of the family of subnet 10.6.0.0/16`},
		{"route by the other family", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: "fd00::1"}]}`, `gw fd00::1 is outside subnet 10.6.0.0/16`},
		{"route by a gateway outside", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: 10.8.0.1}]}`, `gw 10.8.0.1 is outside subnet 10.6.0.0/16`},
		{"route twice", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: 10.6.0.1}, {dst: 10.7.0.0/16, gw: 10.6.0.2}]}`, `spec.routes[1]: Duplicate value: {"dst":"10.7.0.0/16"}`},
		{"affinity to every pod", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, podAffinity: {}}`, `spec.podAffinity: Invalid value`},
		{"affinity to every pod, spelled out", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, podAffinity: {matchLabels: {}, matchExpressions: []}}`, `must select something: an empty selector is not accepted, leave it out to serve all pods`},
		{"longest lists", "SpiderIPPool", longest(1000, 100), ""},
		{"ranges too many", "SpiderIPPool", longest(1001, 1), `spec.ips: Too many: 1001: must have at most 1000 items`},
		{"routes too many", "SpiderIPPool", longest(1, 101), `spec.routes: Too many: 101: must have at most 100 items`},

		{"subnet of every field", "SpiderSubnet", `spec:
  ipVersion: 4
  subnet: 10.6.0.0/16
  ips: [10.6.0.10-10.6.0.20, 10.6.0.30]
  excludeIPs: [10.6.0.15-10.6.0.16]
  gateway: 10.6.0.1
  routes: [{dst: 10.7.0.0/16, gw: 10.6.0.2}]`, ""},
		{"subnet without version", "SpiderSubnet", `spec: {subnet: "fd00:10::/64", ips: ["fd00:10::a-fd00:10::ff"]}`, ""},
		{"subnet without subnet", "SpiderSubnet", `spec: {ips: [10.6.0.10]}`, `spec.subnet: Required value`},
		{"subnet: version of the other family", "SpiderSubnet", `spec: {ipVersion: 6, subnet: 10.6.0.0/16}`, `spec.ipVersion: Invalid value: 6 does not fit subnet 10.6.0.0/16: write 4 or leave it out`},
		{"subnet: host bits", "SpiderSubnet", `spec: {subnet: 10.6.2.3/16}`, `write 10.6.0.0/16`},
		{"subnet: range backwards", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.9]}`, `spec.ips[0]: Invalid value: "10.6.0.10-10.6.0.9": the first address must not be after the last`},
		{"subnet: range outside", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, ips: [10.7.0.1]}`, `10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"subnet: excluded outside", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, excludeIPs: [10.7.0.1]}`, `10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"subnet: gateway outside", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, gateway: 10.7.0.1}`, `10.7.0.1 is outside subnet 10.6.0.0/16`},
		{"subnet: link-local gateway", "SpiderSubnet", `spec: {subnet: "fd00::/64", gateway: "fe80::1", routes: [{dst: "fd01::/64", gw: "fe80::2"}]}`, ""},
		{"subnet: default route", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 0.0.0.0/0, gw: 10.6.0.1}]}`, `the default route is not written here: set the gateway`},
		{"subnet: route by a gateway outside", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: 10.8.0.1}]}`, `gw 10.8.0.1 is outside subnet 10.6.0.0/16`},
		{"subnet: longest lists", "SpiderSubnet", longest(1000, 100), ""},

		{"reservation", "SpiderReservedIP", `spec: {ipVersion: 4, ips: [10.6.0.10-10.6.0.20, 10.9.0.1]}`, ""},
		{"reservation without version", "SpiderReservedIP", `spec: {ips: ["fd00::1-fd00::ff"]}`, ""},
		{"reservation of nothing", "SpiderReservedIP", `spec: {ips: []}`, `spec.ips: Invalid value`},
		{"reservation without ips", "SpiderReservedIP", `spec: {ipVersion: 4}`, `spec.ips: Required value`},
		{"reservation of no address", "SpiderReservedIP", `spec: {ips: [10.6.0.0/24]}`, `spec.ips[0]: Invalid value: "10.6.0.0/24": must be an address`},
		{"reservation backwards", "SpiderReservedIP", `spec: {ips: [10.6.0.10-10.6.0.9]}`, `the first address must not be after the last`},
		{"reservation of two families", "SpiderReservedIP", `spec: {ips: [10.6.0.1, "fd00::1"]}`, `must be of one family: make one object for IPv4 and one for IPv6`},
		{"reservation of the other family", "SpiderReservedIP", `spec: {ipVersion: 6, ips: [10.6.0.1]}`, `spec.ipVersion: Invalid value: 6 does not fit 10.6.0.1: write 4 or leave it out`},
		{"reservation: status", "SpiderReservedIP", `{spec: {ips: [10.6.0.1]}, status: {}}`, `unknown field "status"`},

		{"endpoint of every field", "SpiderEndpoint", `status:
  ownerControllerType: Deployment
  ownerControllerName: web
  current:
    uid: 8f0c
    node: n1
    ips:
    - {interface: eth0, ipv4: 10.6.0.10/16, ipv4Pool: a, ipv4Gateway: 10.6.0.1, ipv6: "fd00::1/64", ipv6Pool: b, ipv6Gateway: "fd00::f", vlan: 4094, cleanGateway: true, mac: "02:00:00:00:00:01", routes: [{dst: 0.0.0.0/0, gw: 10.9.0.1}]}
    - {interface: ""}`, ""},
		{"endpoint without status", "SpiderEndpoint", `metadata: {}`, ""},
		{"endpoint without its parts", "SpiderEndpoint", `status: {}`, `status.current: Required value`},
		{"endpoint without owner", "SpiderEndpoint", `status: {current: {uid: a, node: n1, ips: []}}`, `[status.ownerControllerName: Required value, status.ownerControllerType: Required value]`},
		{"endpoint without uid, node, ips", "SpiderEndpoint", `status: {ownerControllerType: Pod, ownerControllerName: p, current: {}}`, `[status.current.ips: Required value, status.current.node: Required value, status.current.uid: Required value]`},
		{"endpoint without interface", "SpiderEndpoint", `status: {ownerControllerType: Pod, ownerControllerName: p, current: {uid: a, node: n1, ips: [{ipv4: 10.6.0.10/16}]}}`, `status.current.ips[0].interface: Required value`},
		{"endpoint with too high a VLAN", "SpiderEndpoint", `status: {ownerControllerType: Pod, ownerControllerName: p, current: {uid: a, node: n1, ips: [{interface: eth0, vlan: 4095}]}}`, `status.current.ips[0].vlan: Invalid value: 4095`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := object(t, tt.kind, "x", tt.object)
			judge(t, create(t.Context(), api(t), o, client.DryRunAll), tt.want)
		})
	}
}

// longest is the spec of an IPv6 pool with lists of that many entries, all as long as can be.
func longest(ranges, routes int) string {
	const address = "fd00:1000:2000:3000:4000:5000:6000:%04x"
	var ips, rs []string
	for i := range ranges {
		ips = append(ips, fmt.Sprintf(`"`+address+"-"+address+`"`, i, i))
	}
	for i := range routes {
		rs = append(rs, fmt.Sprintf(`{dst: "`+address+`/128", gw: "`+address+`"}`, i, i))
	}
	list := strings.Join(ips, ", ")
	return fmt.Sprintf(`spec: {subnet: "fd00:1000:2000:3000:4000:5000:6000:0/112", ips: [%s], excludeIPs: [%s], routes: [%s]}`, list, list, strings.Join(rs, ", "))
}

// TestUpdate is what may become of an object that exists.
func TestUpdate(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		before     string
		after      string
		want       string
	}{
		{"ranges", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}`, `spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11]}`, ""},
		{"version filled in", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16}`, `spec: {ipVersion: 4, subnet: 10.6.0.0/16}`, ""},
		{"version left out again", "SpiderIPPool", `spec: {ipVersion: 4, subnet: 10.6.0.0/16}`, `spec: {subnet: 10.6.0.0/16}`, ""},
		{"version", "SpiderIPPool", `spec: {ipVersion: 4, subnet: 10.6.0.0/16}`, `spec: {ipVersion: 6, subnet: 10.6.0.0/16}`, `spec.ipVersion: Invalid value: 6 does not fit subnet 10.6.0.0/16: write 4 or leave it out`},
		{"subnet", "SpiderIPPool", `spec: {subnet: 10.6.0.0/16}`, `spec: {subnet: 10.7.0.0/16}`, `spec.subnet: Invalid value: "10.7.0.0/16": is immutable and was 10.6.0.0/16: make another object for another subnet`},
		{"subnet and version", "SpiderIPPool", `spec: {ipVersion: 4, subnet: 10.6.0.0/16}`, `spec: {ipVersion: 6, subnet: "fd00::/64"}`, `is immutable and was 10.6.0.0/16`},
		{"subnet of a subnet", "SpiderSubnet", `spec: {subnet: 10.6.0.0/16}`, `spec: {subnet: 10.7.0.0/16}`, `spec.subnet: Invalid value: "10.7.0.0/16": is immutable and was 10.6.0.0/16: make another object for another subnet`},
		{"version of a subnet", "SpiderSubnet", `spec: {ipVersion: 4, subnet: 10.6.0.0/16}`, `spec: {ipVersion: 6, subnet: 10.6.0.0/16}`, `does not fit subnet 10.6.0.0/16`},
		{"reserved ranges", "SpiderReservedIP", `spec: {ips: [10.6.0.10]}`, `spec: {ips: [10.6.0.11]}`, ""},
		{"reserved family", "SpiderReservedIP", `spec: {ipVersion: 4, ips: [10.6.0.10]}`, `spec: {ipVersion: 6, ips: ["fd00::1"]}`, `the family is immutable: make another object for the other family`},
		{"reserved family, version left out", "SpiderReservedIP", `spec: {ips: [10.6.0.10]}`, `spec: {ips: ["fd00::1"]}`, `the family is immutable: make another object for the other family`},
		{"reserved version", "SpiderReservedIP", `spec: {ipVersion: 4, ips: [10.6.0.10]}`, `spec: {ipVersion: 6, ips: [10.6.0.10]}`, `does not fit 10.6.0.10`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, ctx := api(t), t.Context()
			o := object(t, tt.kind, "update", tt.before)
			if err := create(ctx, c, o); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Delete(ctx, o) }()
			after := object(t, tt.kind, "update", tt.after)
			after.SetResourceVersion(o.GetResourceVersion())
			judge(t, c.Update(ctx, after, client.FieldValidation("Strict")), tt.want)
		})
	}
}
