package admission_test

// rule is an edit and what is to be said of it. Objects are "KIND NAME" and the
// rest in YAML. Every rule is run on the pure functions and through a real API
// server that calls the webhooks as the chart installs them.
type rule struct {
	name string
	// set are switches: "IPv4", "IPv6", "SpiderSubnet" off by a minus before them,
	// "keep" for enableValidatingResourcesDeletedWebhook.
	set string
	// around is what else there is; "held ADDRESS POOL NAMESPACE/POD" is a SpiderIP.
	around []string
	// before is the object, empty if it is created; after is what becomes of it,
	// empty if it is deleted.
	before, after string
	controller    bool   // makes the edit
	want          string // part of the refusal; empty: stored
	crd           string // what the API server says instead, by the definition of the kind
	warn          string // part of a warning; empty: there is none
}

const (
	office   = `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20]}}`
	network  = `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.99], gateway: 10.6.0.1}}`
	held10   = `held 10.6.0.10 office shop/web-0`
	kept11   = `held 10.6.0.11 office shop/kept-0`
	forEver  = `metadata: {finalizers: [example.com/stay]}`
	ofWeb    = `metadata: {labels: {ipam.spidernet.io/owner-application-name: web}}`
	affinity = `podAffinity: {matchLabels: {ipam.spidernet.io/app-api-group: apps, ipam.spidernet.io/app-api-version: v1, ipam.spidernet.io/app-kind: Deployment, ipam.spidernet.io/app-namespace: shop, ipam.spidernet.io/app-name: web}}`
	overlaps = `metadata: {annotations: {ipam.spidernet.io/allow-overlap: "true"}}`
)

var rules = []rule{
	// What a pool alone tells.
	{name: "a pool", after: office},
	{name: "a pool that is there", around: []string{office}, after: office, crd: `spiderippools.spiderpool.spidernet.io "office" already exists`},
	{name: "IPv6 bounds in the wrong order", after: `SpiderIPPool a {spec: {subnet: "fd00::/64", ips: ["fd00::20-fd00::10"]}}`,
		want: `spec.ips: Invalid value: "fd00::20-fd00::10": [0]: "fd00::20-fd00::10" has its higher address first: write fd00::10-fd00::20`},
	{name: "an address twice", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20, 10.6.0.15]}}`,
		want: `[1]: "10.6.0.15" overlaps [0] "10.6.0.10-10.6.0.20": list every address once`},
	{name: "an address twice in excludeIPs", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, excludeIPs: [10.6.0.10, 10.6.0.10]}}`,
		want: `spec.excludeIPs`},
	{name: "an address twice among many", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.2, 10.6.0.3, 10.6.0.4, 10.6.0.4]}}`,
		want: `Invalid value: "10.6.0.1, 10.6.0.2, 10.6.0.3, and 2 more": [4]`},
	{name: "a range outside", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.7.0.1]}}`,
		want: `outside the subnet 10.6.0.0/16`, crd: `10.7.0.1 is outside subnet 10.6.0.0/16`},
	{name: "host bits of the subnet", after: `SpiderIPPool a {spec: {subnet: 10.6.1.2/16}}`,
		want: `"10.6.1.2/16" is not in network form: write 10.6.0.0/16`, crd: `write 10.6.0.0/16`},
	{name: "version of the other family", after: `SpiderIPPool a {spec: {ipVersion: 6, subnet: 10.6.0.0/16}}`,
		want: `spec.ipVersion: Invalid value: 6: subnet 10.6.0.0/16 is IPv4`, crd: `does not fit subnet 10.6.0.0/16`},
	{name: "a gateway outside", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, gateway: 10.7.0.1}}`,
		want: `spec.gateway`, crd: `10.7.0.1 is outside subnet`},
	{name: "a gateway in the ranges", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9], gateway: 10.6.0.1}}`,
		warn: `spec.gateway: 10.6.0.1 is in ips and is given to nobody`},
	{name: "an excluded gateway", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9], excludeIPs: [10.6.0.1], gateway: 10.6.0.1}}`},
	{name: "the default route", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, routes: [{dst: 0.0.0.0/0, gw: 10.6.0.1}]}}`,
		want: `the default route is not written here`, crd: `the default route is not written here`},
	{name: "a route with host bits", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.1.2/16, gw: 10.6.0.1}]}}`,
		warn: `spec.routes[0].dst: 10.7.1.2/16 has host bits and counts as 10.7.0.0/16: write that`},
	{name: "two routes that count as one", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, routes: [{dst: 10.7.0.0/16, gw: 10.6.0.1}, {dst: 10.7.1.2/16, gw: 10.6.0.2}]}}`,
		warn: `10.7.0.0/16 is the destination of an earlier route, which counts`},
	{name: "a warning is given once", before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9], gateway: 10.6.0.1}}`,
		after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9], gateway: 10.6.0.1, disable: true}}`},
	{name: "affinity to every pod", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, podAffinity: {}}}`,
		want: `spec.podAffinity: Invalid value: "": must select something`, crd: `must select something`},
	{name: "a selector that is none", after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, podAffinity: {matchExpressions: [{key: a, operator: Is}]}}}`,
		want: `spec.podAffinity: Invalid value`},

	// Families.
	{name: "IPv4 is disabled", set: "-IPv4", after: office, want: `spec.ipVersion: Forbidden: IPv4 is disabled`},
	{name: "IPv6 is disabled", set: "-IPv6", after: `SpiderIPPool a {spec: {subnet: "fd00::/64"}}`, want: `spec.ipVersion: Forbidden: IPv6 is disabled`},
	{name: "the other family is disabled", set: "-IPv6", after: office},
	{name: "edit after IPv4 was disabled", set: "-IPv4", before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.21], disable: true}}`},
	{name: "subnet of a disabled family", set: "-IPv4", after: network, want: `spec.ipVersion: Forbidden: IPv4 is disabled`},

	// What never changes.
	{name: "another subnet", before: office, after: `SpiderIPPool office {spec: {subnet: 10.7.0.0/16}}`,
		want: `spec.subnet: Invalid value: "10.7.0.0/16": is immutable and was 10.6.0.0/16: make another object for another subnet`,
		crd:  `spec.subnet: Invalid value: "10.7.0.0/16": is immutable and was 10.6.0.0/16: make another object for another subnet`},
	{name: "another version", before: `SpiderIPPool a {spec: {ipVersion: 4, subnet: 10.6.0.0/16}}`, after: `SpiderIPPool a {spec: {ipVersion: 6, subnet: 10.6.0.0/16}}`,
		want: `spec.ipVersion`, crd: `spec.ipVersion`},
	{name: "another subnet of a subnet", before: network, after: `SpiderSubnet net {spec: {subnet: 10.7.0.0/16}}`,
		want: `is immutable and was 10.6.0.0/16`, crd: `is immutable and was 10.6.0.0/16`},
	{name: "a pool that is being deleted", before: `SpiderIPPool going {` + forEver + `, spec: {subnet: 10.6.0.0/16}}`, after: `SpiderIPPool going {` + forEver + `, spec: {subnet: 10.6.0.0/16, disable: true}}`,
		want: `spec: Forbidden: cannot update a terminating IPPool`},
	{name: "metadata of a pool that is being deleted", before: `SpiderIPPool going {` + forEver + `, spec: {subnet: 10.6.0.0/16}}`, after: `SpiderIPPool going {metadata: {labels: {a: b}, finalizers: [example.com/stay]}, spec: {subnet: 10.6.0.0/16}}`},
	{name: "a subnet that is being deleted", before: `SpiderSubnet going {` + forEver + `, spec: {subnet: 10.6.0.0/16}}`, after: `SpiderSubnet going {` + forEver + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1]}}`,
		want: `spec: Forbidden: cannot update a terminating SpiderSubnet`},
	{name: "a reservation that is being deleted", before: `SpiderReservedIP going {` + forEver + `, spec: {ips: [10.6.0.1]}}`, after: `SpiderReservedIP going {` + forEver + `, spec: {ips: [10.6.0.2]}}`,
		want: `spec: Forbidden: cannot update a terminating SpiderReservedIP`},

	// Overlaps.
	{name: "another pool with the same addresses", around: []string{office}, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15-10.6.0.30]}}`,
		want: `spec.ips: Forbidden: overlap with IPPool office in IP ranges [10.6.0.15-10.6.0.20]: take them out of one of the two, or set the annotation ipam.spidernet.io/allow-overlap: "true"`},
	{name: "the same subnet, other ranges", around: []string{office}, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.21-10.6.0.30]}}`},
	{name: "ranges that the other excludes", around: []string{`SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], excludeIPs: [10.6.0.15-10.6.0.20]}}`},
		after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.30], excludeIPs: [10.6.0.10-10.6.0.14]}}`},
	{name: "overlap in many ranges", around: []string{`SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.3, 10.6.0.5, 10.6.0.7, 10.6.0.9]}}`},
		after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9]}}`, want: `[10.6.0.1, 10.6.0.3, 10.6.0.5, and 2 more]`},
	{name: "overlap with many pools", around: []string{
		`SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1]}}`, `SpiderIPPool b {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.2]}}`,
		`SpiderIPPool c {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.3]}}`, `SpiderIPPool d {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.4]}}`,
		`SpiderIPPool e {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.5]}}`},
		after: `SpiderIPPool z {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.9]}}`, want: `and overlaps with 2 more`},
	{name: "a subnet inside another's", around: []string{office}, after: `SpiderIPPool a {spec: {subnet: 10.6.1.0/24, ips: [10.6.1.1]}}`,
		want: `spec.subnet: Forbidden: 10.6.1.0/24 overlaps with 10.6.0.0/16 of IPPool office: write another subnet, or the very same, or set the annotation`},
	{name: "the other family", around: []string{office}, after: `SpiderIPPool a {spec: {subnet: "fd00::/64", ips: ["fd00::1"]}}`},
	{name: "an overlap that is meant", around: []string{office}, after: `SpiderIPPool a {` + overlaps + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`,
		warn: `spec.ips: overlap with IPPool office in IP ranges [10.6.0.15]: the annotation ipam.spidernet.io/allow-overlap allows it`},
	{name: "a subnet inside another's that is meant", around: []string{office}, after: `SpiderIPPool a {` + overlaps + `, spec: {subnet: 10.6.0.0/24, ips: [10.6.0.15]}}`,
		warn: `spec.subnet: 10.6.0.0/24 overlaps with 10.6.0.0/16 of IPPool office: the annotation`},
	{name: "the annotation of the other does not count", around: []string{`SpiderIPPool office {` + overlaps + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20]}}`},
		after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`, want: `overlap with IPPool office`},
	{name: "overlap with a pool that is being deleted", around: []string{`SpiderIPPool going {` + forEver + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`},
		after: office, warn: `overlap with IPPool going in IP ranges [10.6.0.15]: that one is being deleted`},
	{name: "an edit that adds an overlap", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.21]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21]}}`,
		want: `overlap with IPPool office in IP ranges [10.6.0.20]`},
	{name: "an edit that no longer excludes", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21], excludeIPs: [10.6.0.20]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21]}}`,
		want: `overlap with IPPool office in IP ranges [10.6.0.20]`},
	{name: "an old overlap and an edit of something else", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.22], disable: true}}`},
	{name: "an old overlap of subnets and an edit of something else", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/24, ips: [10.6.0.50]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/24, ips: [10.6.0.50-10.6.0.51]}}`},
	{name: "what is recorded as reserved may be malformed", around: []string{`SpiderIPPool other {metadata: {annotations: {ipam.spidernet.io/reserved: "?"}}, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`}, after: office,
		want: `overlap with IPPool other`},
	{name: "a malformed pool overlaps with nobody", around: []string{`SpiderIPPool bad {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`}, after: office},

	// Pools that were malformed before.
	{name: "disable a malformed pool", before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15], disable: true}}`,
		warn: `malformed as before, serves nobody: spec.ips`},
	{name: "metadata of a malformed pool", before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`, after: `SpiderIPPool a {metadata: {labels: {a: b}}, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`},
	{name: "another fault in a malformed pool", before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15], excludeIPs: [10.6.0.1, 10.6.0.1]}}`,
		want: `spec.excludeIPs`, warn: `malformed as before`},
	{name: "a malformed pool is mended into an overlap", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`,
		want: `overlap with IPPool office in IP ranges [10.6.0.15]`},
	{name: "a malformed pool is mended", before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15, 10.6.0.15]}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15]}}`},
	{name: "metadata of an old overlap", around: []string{office}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21]}}`, after: `SpiderIPPool a {metadata: {labels: {a: b}}, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20-10.6.0.21]}}`},

	// Addresses that are held.
	{name: "take a held address out of ips", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11-10.6.0.20]}}`,
		want: `spec.ips: Forbidden: remove an IP address that is being used: 10.6.0.10 is being used by Pod shop/web-0: reserve it by a SpiderReservedIP, so that nobody gets it anew, and take these pods down first, 'kubectl get spiderips --field-selector spec.pool=office' lists all`},
	{name: "take an address in quarantine out of ips", around: []string{`held 10.6.0.10 office shop/lost-0`}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11-10.6.0.20]}}`,
		want: `10.6.0.10 is in quarantine after Pod shop/lost-0`},
	{name: "take a kept address out of ips", around: []string{kept11}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10, 10.6.0.12-10.6.0.20]}}`,
		want: `10.6.0.11 is kept for StatefulSet kept (pod shop/kept-0): reserve it by a SpiderReservedIP, so that nobody gets it anew, and first scale in or delete StatefulSet kept, or run 'kubectl delete spiderip 10.6.0.11', 'kubectl`},
	{name: "take a kept IPv6 address out of ips", around: []string{`held fd00-0000-0000-0000-0000-0000-0000-0001 six shop/kept-0`}, before: `SpiderIPPool six {spec: {subnet: "fd00::/64", ips: ["fd00::1-fd00::9"]}}`, after: `SpiderIPPool six {spec: {subnet: "fd00::/64", ips: ["fd00::2-fd00::9"]}}`,
		want: `fd00::1 is kept for StatefulSet kept (pod shop/kept-0): reserve it by a SpiderReservedIP, so that nobody gets it anew, and first scale in or delete StatefulSet kept, or run 'kubectl delete spiderip fd00-0000-0000-0000-0000-0000-0000-0001'`},
	{name: "take a held and a kept address out of ips", around: []string{held10, kept11}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.12-10.6.0.20]}}`,
		want: `10.6.0.10 is being used by Pod shop/web-0, 10.6.0.11 is kept for StatefulSet kept (pod shop/kept-0): reserve it by a SpiderReservedIP, so that nobody gets it anew, and take these pods down first; of what is kept, scale in or delete StatefulSet kept, or run 'kubectl delete spiderip 10.6.0.11', 'kubectl`},
	{name: "take many kept addresses out", around: []string{kept11, `held 10.6.0.12 office shop/kept-1`, `held 10.6.0.13 office shop/kept-2`, `held 10.6.0.14 office shop/web-4`},
		before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20]}}`,
		want: `10.6.0.13 is kept for StatefulSet kept (pod shop/kept-2), and 1 more: reserve it by a SpiderReservedIP, so that nobody gets it anew, and take these pods down first; of what is kept`},
	{name: "take a held address out of a malformed pool", around: []string{held10}, before: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], podAffinity: {matchExpressions: [{key: a, operator: Is}]}}}`, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11-10.6.0.20], podAffinity: {matchExpressions: [{key: a, operator: Is}]}}}`,
		want: `spec.ips: Forbidden: remove an IP address that is being used: 10.6.0.10`, warn: `malformed as before`},
	{name: "mend a malformed pool and take a held address out of it", around: []string{held10}, before: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], podAffinity: {matchExpressions: [{key: a, operator: Is}]}}}`, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11-10.6.0.20]}}`,
		want: `spec.ips: Forbidden: remove an IP address that is being used: 10.6.0.10`},
	{name: "exclude a held address", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], excludeIPs: [10.6.0.10]}}`,
		want: `spec.excludeIPs: Forbidden: remove an IP address that is being used: 10.6.0.10 is being used by Pod shop/web-0`},
	{name: "a held address as gateway", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], gateway: 10.6.0.10}}`,
		want: `spec.gateway: Forbidden: remove an IP address that is being used: 10.6.0.10 is being used by Pod shop/web-0`, warn: `10.6.0.10 is in ips and is given to nobody`},
	{name: "take many held addresses out", around: []string{held10, `held 10.6.0.11 office shop/web-1`, `held 10.6.0.12 office shop/web-2`, `held 10.6.0.13 office shop/web-3`, `held 10.6.0.14 office shop/web-4`},
		before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.20]}}`,
		want: `10.6.0.12 is being used by Pod shop/web-2, and 2 more`},
	{name: "take a free address out", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.19]}}`},
	{name: "take an address out that is held of another pool", around: []string{`held 10.6.0.10 other shop/web-0`}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11-10.6.0.20]}}`},
	{name: "ranges written otherwise", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15-10.6.0.20, 10.6.0.10-10.6.0.14]}}`},
	{name: "disable a pool whose addresses are held", around: []string{held10}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], disable: true}}`},
	{name: "take an address out of an older installation's pool", before: `SpiderIPPool old {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.11]}, status: {allocatedIPs: "{}"}}`, after: `SpiderIPPool old {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}, status: {allocatedIPs: "{}"}}`,
		want: `spec.ips: Forbidden: the status holds addresses of an older Spiderpool: run 'spiderpoolctl migrate' first`},

	// Addresses that nobody gets.
	{name: "an address of a node", around: []string{`Node n1 {status: {addresses: [{type: InternalIP, address: 10.6.0.12}, {type: ExternalIP, address: 10.6.0.13}]}}`}, after: office,
		warn: `spec.ips: addresses of nodes are given to nobody: 10.6.0.12 of node n1`},
	{name: "a node in the subnet and not in the ranges", around: []string{`Node n1 {status: {addresses: [{type: InternalIP, address: 10.6.0.9}]}}`}, after: office},
	{name: "a reserved address", around: []string{`SpiderReservedIP printers {spec: {ips: [10.6.0.12-10.6.0.30]}}`}, after: office,
		warn: `spec.ips: addresses that a SpiderReservedIP reserves are given to nobody: 10.6.0.12-10.6.0.20 by printers`},

	// Automatic pools.
	{name: "ranges of an automatic pool", before: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`, after: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.11]}}`,
		want: `spec.ips: Forbidden: IPPool auto is automatic, only the controller changes its ranges`},
	{name: "ranges of an automatic pool, without its label", before: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`, after: `SpiderIPPool auto {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10], excludeIPs: [10.6.0.10]}}`,
		want: `spec.excludeIPs: Forbidden: IPPool auto is automatic`},
	{name: "ranges of an automatic pool by its affinity", before: `SpiderIPPool auto {spec: {subnet: 10.6.0.0/16, ` + affinity + `}}`, after: `SpiderIPPool auto {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10], ` + affinity + `}}`,
		want: `IPPool auto is automatic`},
	{name: "the controller changes an automatic pool", controller: true, before: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`, after: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.11]}}`},
	{name: "the controller takes a held address", controller: true, around: []string{`held 10.6.0.10 auto shop/web-0`}, before: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`, after: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.11]}}`,
		want: `10.6.0.10 is being used by Pod shop/web-0`},
	{name: "somebody makes an automatic pool", after: `SpiderIPPool auto {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10], ` + affinity + `}}`, want: `IPPool auto is automatic`},
	{name: "disable an automatic pool", before: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`, after: `SpiderIPPool auto {` + ofWeb + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10], disable: true}}`},
	{name: "an application named by halves", controller: true, after: `SpiderIPPool auto {spec: {subnet: 10.6.0.0/16, podAffinity: {matchLabels: {ipam.spidernet.io/app-name: web}}}}`,
		want: `spec.podAffinity: Invalid value: "ipam.spidernet.io/app-name": a pool of an application has the matchLabels`},

	// Pools of a SpiderSubnet.
	{name: "a pool inside its subnet", around: []string{network}, after: office},
	{name: "a pool outside its subnet", around: []string{network}, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.90-10.6.0.110]}}`,
		want: `spec.ips: Forbidden: IP ranges [10.6.0.100-10.6.0.110] are not in SpiderSubnet net: add them to it first`},
	{name: "a pool outside its subnet, feature off", set: "-SpiderSubnet", around: []string{network}, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.90-10.6.0.110]}}`},
	{name: "a pool that inherits a gateway in its ranges", around: []string{`SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.99], gateway: 10.6.0.10}}`}, after: office,
		warn: `10.6.0.10 is in ips and is given to nobody`},
	{name: "an old pool outside its subnet", around: []string{network}, before: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.110], gateway: 10.6.0.1}}`, after: `SpiderIPPool a {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.110, 10.6.0.99], gateway: 10.6.0.1}}`},
	{name: "a pool of a malformed subnet", around: []string{`SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.1]}}`}, after: office,
		want: `the SpiderSubnet net of this pool is malformed, mend it first`},
	{name: "disable a pool of a malformed subnet", around: []string{`SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.1]}}`}, before: office, after: `SpiderIPPool office {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.20], disable: true}}`},
	{name: "a pool beside a subnet", around: []string{network}, after: `SpiderIPPool a {spec: {subnet: 10.6.1.0/24, ips: [10.6.1.1]}}`,
		warn: `spec.subnet: 10.6.1.0/24 overlaps with 10.6.0.0/16 of SpiderSubnet net, and the pool does not belong to it`},

	// Subnets.
	{name: "a subnet", after: network},
	{name: "a subnet with a range twice", after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.1]}}`, want: `list every address once`},
	{name: "a subnet twice", around: []string{network}, after: `SpiderSubnet other {spec: {subnet: 10.6.0.0/16}}`,
		want: `spec.subnet: Forbidden: 10.6.0.0/16 overlaps with 10.6.0.0/16 of SpiderSubnet net`},
	{name: "a subnet in another", around: []string{network}, after: `SpiderSubnet other {spec: {subnet: 10.6.1.0/24}}`, want: `10.6.1.0/24 overlaps with 10.6.0.0/16 of SpiderSubnet net`},
	{name: "a subnet in another that is meant", around: []string{network}, after: `SpiderSubnet other {` + overlaps + `, spec: {subnet: 10.6.1.0/24}}`, warn: `10.6.1.0/24 overlaps with 10.6.0.0/16 of SpiderSubnet net`},
	{name: "a subnet around its pool", around: []string{office}, after: network},
	{name: "a subnet without ranges of its pool", around: []string{office}, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.15]}}`,
		want: `spec.ips: Forbidden: IPPool office of this subnet has IP ranges [10.6.0.16-10.6.0.20] that the SpiderSubnet does not: add them`},
	{name: "a subnet across a pool", around: []string{office}, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/24, ips: [10.6.0.0-10.6.0.255]}}`,
		want: `spec.subnet: Forbidden: 10.6.0.0/24 overlaps with 10.6.0.0/16 of IPPool office`},
	{name: "take ranges from a pool of the subnet", around: []string{office}, before: network, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15-10.6.0.99], gateway: 10.6.0.1}}`,
		want: `spec.ips: Forbidden: remove IP ranges that are being used: [10.6.0.10-10.6.0.14] of IPPool office: take them out of the pools first`},
	{name: "exclude ranges of a pool of the subnet", around: []string{office}, before: network, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.99], excludeIPs: [10.6.0.10], gateway: 10.6.0.1}}`,
		want: `spec.excludeIPs: Forbidden: remove IP ranges that are being used`},
	{name: "take ranges from a subnet that are announced for a pool", before: network, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.15-10.6.0.99], gateway: 10.6.0.1}}`,
		around: []string{`SpiderIPPool auto {metadata: {annotations: {ipam.spidernet.io/carving: 10.6.0.12-10.6.0.16}}, spec: {subnet: 10.6.0.0/16}}`},
		want:   `spec.ips: Forbidden: remove IP ranges that are being used: [10.6.0.12-10.6.0.14] of IPPool auto: take them out of the pools first`},
	{name: "a pool with ranges that are announced for another", after: office,
		around: []string{`SpiderIPPool auto {metadata: {annotations: {ipam.spidernet.io/carving: 10.6.0.12-10.6.0.16}}, spec: {subnet: 10.6.0.0/16}}`},
		want:   `spec.ips: Forbidden: overlap with IPPool auto in IP ranges [10.6.0.12-10.6.0.16]`},
	{name: "take free ranges from a subnet", around: []string{office}, before: network, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10-10.6.0.50]}}`},
	{name: "the gateway of a subnet comes into its ranges", before: network, after: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1-10.6.0.99], gateway: 10.6.0.1}}`,
		warn: `spec.gateway: 10.6.0.1 is in ips and is given to nobody`},
	{name: "metadata of a malformed subnet", before: `SpiderSubnet net {spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.1]}}`, after: `SpiderSubnet net {metadata: {labels: {a: b}}, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.1, 10.6.0.1]}}`},

	// Reservations.
	{name: "a reservation", after: `SpiderReservedIP printers {spec: {ips: [10.6.0.10]}}`},
	{name: "reserve a held address", around: []string{held10}, after: `SpiderReservedIP printers {spec: {ips: [10.6.0.9-10.6.0.12]}}`,
		warn: `spec.ips: 10.6.0.10 is being used by Pod shop/web-0: who holds a reserved address keeps it`},
	{name: "reserve a kept address", around: []string{kept11}, after: `SpiderReservedIP printers {spec: {ips: [10.6.0.9-10.6.0.12]}}`,
		warn: `spec.ips: 10.6.0.11 is kept for StatefulSet kept (pod shop/kept-0): who holds a reserved address keeps it; of what is kept, scale in or delete StatefulSet kept, or run 'kubectl delete spiderip 10.6.0.11'`},
	{name: "reserve many held addresses", around: []string{held10, `held 10.6.0.11 office shop/web-1`, `held fd00-0000-0000-0000-0000-0000-0000-0001 six shop/web-2`}, after: `SpiderReservedIP printers {spec: {ips: [10.6.0.0-10.6.0.255]}}`,
		warn: `10.6.0.10 is being used by Pod shop/web-0, 10.6.0.11 is being used by Pod shop/web-1: who holds`},
	{name: "more is reserved", around: []string{held10}, before: `SpiderReservedIP printers {spec: {ips: [10.6.0.10]}}`, after: `SpiderReservedIP printers {spec: {ips: [10.6.0.10-10.6.0.30]}}`},
	{name: "reserved bounds in the wrong order", after: `SpiderReservedIP printers {spec: {ips: ["fd00::2-fd00::1"]}}`, want: `spec.ips: Invalid value: "fd00::2-fd00::1": [0]: "fd00::2-fd00::1" has its higher address first`},
	{name: "reserve nothing", after: `SpiderReservedIP printers {spec: {ips: []}}`, want: `spec.ips: Required value`, crd: `spec.ips: Invalid value`},
	{name: "reserve of two families", after: `SpiderReservedIP printers {spec: {ips: [10.6.0.1, "fd00::1"]}}`, want: `must be of one family`, crd: `must be of one family`},
	{name: "reserve of another family", before: `SpiderReservedIP printers {spec: {ips: [10.6.0.1]}}`, after: `SpiderReservedIP printers {spec: {ips: ["fd00::1"]}}`, want: `the family is immutable`, crd: `the family is immutable`},
	{name: "reserve of the other version", after: `SpiderReservedIP printers {spec: {ipVersion: 6, ips: [10.6.0.1]}}`, want: `spec.ipVersion`, crd: `spec.ipVersion`},

	// Deletion.
	{name: "delete a pool in use", around: []string{held10}, before: office},
	{name: "delete a pool in use that is kept", set: "keep", around: []string{held10}, before: office,
		want: `the IPPool is in use: 10.6.0.10 is being used by Pod shop/web-0`},
	{name: "delete a pool of a kept address", set: "keep", around: []string{kept11}, before: office,
		want: `the IPPool is in use: 10.6.0.11 is kept for StatefulSet kept (pod shop/kept-0): first scale in or delete StatefulSet kept, or run 'kubectl delete spiderip 10.6.0.11', 'kubectl`},
	{name: "delete an unused pool", set: "keep", around: []string{`held 10.6.0.10 other shop/web-0`}, before: office},
	{name: "delete a pool again", set: "keep", around: []string{`held 10.6.0.10 going shop/web-0`}, before: `SpiderIPPool going {` + forEver + `, spec: {subnet: 10.6.0.0/16, ips: [10.6.0.10]}}`},
	{name: "delete an older installation's pool", set: "keep", before: `SpiderIPPool old {spec: {subnet: 10.6.0.0/16}, status: {allocatedIPs: "{}"}}`, want: `run 'spiderpoolctl migrate' first`},
	{name: "delete a subnet in use", around: []string{office}, before: network},
	{name: "delete a subnet in use that is kept", set: "keep", around: []string{office}, before: network, want: `the SpiderSubnet is in use by IPPool office: delete the pools first`},
	{name: "delete an unused subnet", set: "keep", before: network},
	{name: "delete a reservation", set: "keep", before: `SpiderReservedIP printers {spec: {ips: [10.6.0.10]}}`},
}
