package autopool

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
	"github.com/spidernet-io/spiderpool/internal/addr"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// State is all that a plan rests on, as the watches brought it.
type State struct {
	Subnets   []v2beta1.SpiderSubnet
	Pools     []v2beta1.SpiderIPPool
	Workloads []Workload
	// Held are the addresses that are held in the name of each automatic pool, InUse those that are held at all: it is asked
	// only if addresses are carved.
	Held  map[string]addr.Set
	InUse func() addr.Set
	// Reserved are given to nobody: what is reserved, and the addresses of nodes.
	Reserved addr.Set
	// Redundant is how many addresses more than pods a pool has where the application does not say.
	Redundant int
}

// Plan is what has to be written so that each application has the pools that it asks for.
type Plan struct {
	// Create are pools without addresses, which announce theirs.
	Create []*v2beta1.SpiderIPPool
	Change []Change
	// Delete are pools that no application asks for and in whose name nothing is held.
	Delete []*v2beta1.SpiderIPPool
	// Problems are what workloads ask for and do not get, each the first.
	Problems []Problem
}

// Change is what becomes of a pool.
type Change struct{ Before, After *v2beta1.SpiderIPPool }

// Problem is why a workload does not have all that it asks for, in words for people.
type Problem struct {
	Workload
	Text string
}

// key is what there is one pool for.
type key struct {
	group, Kind, Namespace, Name string
	Interface, subnet            string
	family                       pool.Family
}

func keyOf(a pool.Application, ifname, subnet string, f pool.Family) key {
	gv, _ := schema.ParseGroupVersion(a.APIVersion)
	return key{gv.Group, a.Kind, a.Namespace, a.Name, ifname, subnet, f}
}

// application is the part of a key that names it.
func (k key) application() key {
	return key{group: k.group, Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Name, o.Name), cmp.Compare(k.group, o.group),
		cmp.Compare(k.Interface, o.Interface), cmp.Compare(k.family, o.family), cmp.Compare(k.subnet, o.subnet))
}

// want is a pool that a workload asks for.
type want struct {
	*Workload
	UID string
	// size is how many addresses it has, number how the workload says so.
	size   int
	number string
}

// parsedSubnet is a subnet, or why it cannot be read.
type parsedSubnet struct {
	*pool.Pool
	err error
}

// planner makes one plan.
type planner struct {
	State
	Plan
	subnets map[string]*v2beta1.SpiderSubnet
	parsed  map[string]parsedSubnet
	usable  map[string]addr.Set // of a subnet, by name
	free    map[string]addr.Set // the same without what is taken
	taken   *addr.Set           // by pools and holders; nil until it is asked for
	names   map[string]bool     // of pools
	wanted  map[key]*want
	wrong   map[key]bool // applications that ask for what there cannot be, or of which it is not known yet
	told    map[key]bool // applications with a problem
}

// Make plans. Equal states give equal plans.
func Make(s State) Plan {
	p := &planner{State: s, subnets: map[string]*v2beta1.SpiderSubnet{}, parsed: map[string]parsedSubnet{}, usable: map[string]addr.Set{}, free: map[string]addr.Set{},
		names: map[string]bool{}, wanted: map[key]*want{}, wrong: map[key]bool{}, told: map[key]bool{}}
	for i := range s.Subnets {
		p.subnets[s.Subnets[i].Name] = &s.Subnets[i]
	}
	for i := range s.Pools {
		p.names[s.Pools[i].Name] = true
	}
	for i := range s.Workloads {
		p.read(&s.Workloads[i])
	}
	made := p.maintain()
	missing := map[key][]key{}
	for k := range p.wanted {
		if !made[k] {
			missing[k.application()] = append(missing[k.application()], k)
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(missing), key.compare) {
		p.create(missing[a])
	}
	return p.Plan
}

// read takes what a workload asks for, all of it or, if something is wrong, nothing.
func (p *planner) read(w *Workload) {
	all := map[key]*want{}
	err := w.Wrong
	size := 0
	if err == nil {
		size, err = w.size(p.Redundant)
	}
	if err == nil {
		err = p.readSubnets(w, size, all)
	}
	if err != nil {
		p.wrong[keyOf(w.Application, "", "", 0)] = true
		if !errors.Is(err, errUncounted) {
			p.problem(w, err.Error())
		}
		return
	}
	for k, one := range all {
		if other := p.wanted[k]; other == nil || other.size < one.size { // several of others' kinds may name one
			p.wanted[k] = one
		}
	}
}

// readSubnets adds the pools that a workload asks for to all.
func (p *planner) readSubnets(w *Workload, size int, all map[key]*want) error {
	for _, ifname := range slices.Sorted(maps.Keys(w.Ask.Subnets)) {
		for _, f := range pool.Families {
			name, asked := w.Ask.Subnets[ifname][f]
			if !asked {
				continue
			}
			if err := p.wrongSubnet(name, f); err != nil {
				return fmt.Errorf("%s, interface %s: %w", w.Ask.Source, ifname, err)
			}
			all[keyOf(w.Application, ifname, name, f)] = &want{Workload: w, UID: string(w.UID), size: size, number: p.numberOf(w)}
		}
	}
	return nil
}

// numberOf is how large a pool is as the annotation says it, or would.
func (p *planner) numberOf(w *Workload) string {
	s := w.Ask.Size
	switch {
	case !s.Set:
		return fmt.Sprint("+", p.Redundant)
	case s.Flexible:
		return fmt.Sprint("+", s.Number)
	}
	return fmt.Sprint(s.Number)
}

func (p *planner) wrongSubnet(name string, f pool.Family) error {
	s := p.subnets[name]
	if s == nil {
		return fmt.Errorf("there is no SpiderSubnet %s: make it, or correct the annotation", name)
	}
	parsed := p.parse(s)
	switch {
	case s.DeletionTimestamp != nil:
		return fmt.Errorf("the SpiderSubnet %s is being deleted", name)
	case parsed.err != nil:
		return fmt.Errorf("the SpiderSubnet %s is malformed: %w", name, parsed.err)
	case parsed.Family != f:
		return fmt.Errorf("the SpiderSubnet %s is an %s one (%s), and stands under %s", name, parsed.Family, parsed.Subnet, strings.ToLower(f.String()))
	}
	return nil
}

func (p *planner) parse(s *v2beta1.SpiderSubnet) parsedSubnet {
	if out, known := p.parsed[s.Name]; known {
		return out
	}
	parsed, errs := pool.ParseSubnet(s)
	out := parsedSubnet{parsed, errs.ToAggregate()}
	p.parsed[s.Name] = out
	return out
}

// problem tells of a workload, once.
func (p *planner) problem(w *Workload, text string) {
	if a := keyOf(w.Application, "", "", 0); !p.told[a] {
		p.told[a] = true
		p.Problems = append(p.Problems, Problem{*w, text})
	}
}

// maintain looks at the pools that there are, the oldest first, and returns for which keys there is one.
func (p *planner) maintain() (made map[key]bool) {
	made = map[key]bool{}
	order := make([]*v2beta1.SpiderIPPool, 0, len(p.Pools))
	for i := range p.Pools {
		order = append(order, &p.Pools[i])
	}
	slices.SortFunc(order, func(a, b *v2beta1.SpiderIPPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, o := range order {
		of, version := pool.AutomaticOf(o), pool.FamilyOfSubnet(o.Spec.Subnet)
		if of == nil || version == 0 || o.DeletionTimestamp != nil {
			continue
		}
		k := keyOf(of.Application, of.Interface, of.Subnet, version)
		switch w := p.wanted[k]; {
		case w != nil && !made[k]:
			made[k] = true
			p.adapt(o, k, w)
		case p.wrong[k.application()] && w == nil, stays(o) && !made[k]:
		case p.Held[o.Name].IsEmpty():
			p.Delete = append(p.Delete, o)
		}
	}
	return made
}

// adapt makes a pool what a workload wants of it now: only what nobody holds is taken away, and what is given is announced.
func (p *planner) adapt(o *v2beta1.SpiderIPPool, k key, w *want) {
	after := o.DeepCopy()
	label(after, k, w)
	has, coming, held := ranges(o), pool.Announced(o), p.Held[o.Name]
	usable := p.usableOf(k.subnet)
	has = has.Minus(has.Minus(usable).Minus(held)) // the subnet was edited, or something was reserved
	good := has.Intersect(usable)
	n := int(good.Count().Int64()) + int(coming.Count().Int64())
	switch {
	case n > w.size:
		has = has.Minus(last(good.Minus(held), n-w.size))
	case n < w.size && coming.IsEmpty():
		more := p.carve(k.subnet, good, w.size-n)
		if missing := w.size - n - int(more.Count().Int64()); missing > 0 {
			p.problem(w.Workload, fmt.Sprintf("SpiderSubnet %s has %d of the %d addresses that IPPool %s wants more: add ranges to it, or scale in others",
				k.subnet, more.Count().Int64(), w.size-n, o.Name))
		}
		if all := has.Union(more).Len(); all > maxRanges {
			p.problem(w.Workload, fmt.Sprintf("IPPool %s would have %d ranges, and may have %d: SpiderSubnet %s is too fragmented", o.Name, all, maxRanges, k.subnet))
		} else if !more.IsEmpty() {
			announce(after, more)
		}
	}
	if !has.Equal(ranges(o)) {
		after.Spec.IPs = has.Strings()
	}
	if !slices.Equal(o.Spec.IPs, after.Spec.IPs) || !maps.Equal(o.Labels, after.Labels) || !maps.Equal(o.Annotations, after.Annotations) {
		p.Change = append(p.Change, Change{o, after})
	}
}

// create makes the pools that an application has not yet, all of them or none.
func (p *planner) create(keys []key) {
	slices.SortFunc(keys, key.compare)
	var short []string
	carved := map[key]addr.Set{}
	for _, k := range keys {
		w := p.wanted[k]
		taken := p.carve(k.subnet, addr.Set{}, w.size)
		carved[k] = taken
		if n := int(taken.Count().Int64()); n < w.size || taken.Len() > maxRanges {
			short = append(short, fmt.Sprintf("SpiderSubnet %s has %d of the %d addresses that the pool of interface %s wants", k.subnet, n, w.size, k.Interface))
		}
	}
	if len(short) > 0 {
		p.problem(p.wanted[keys[0]].Workload, strings.Join(short, "; ")+": add ranges, or scale in others; it is tried again when addresses come free")
		for k, set := range carved {
			p.free[k.subnet] = p.free[k.subnet].Union(set)
		}
		return
	}
	for _, k := range keys {
		o := newPool(k, p.wanted[k], p.subnets[k.subnet], func(name string) bool { return p.names[name] })
		p.names[o.Name] = true
		if set := carved[k]; !set.IsEmpty() {
			announce(o, set)
		}
		p.Create = append(p.Create, o)
	}
}

// carve takes n addresses of a subnet that are free, or as many as there are.
func (p *planner) carve(subnet string, has addr.Set, n int) addr.Set {
	if n <= 0 {
		return addr.Set{}
	}
	free, known := p.free[subnet]
	if !known {
		free = p.usableOf(subnet).Minus(p.allTaken())
	}
	taken := carve(free, has, n)
	p.free[subnet] = free.Minus(taken)
	return taken
}

// usableOf are the addresses of a subnet that pods may have.
func (p *planner) usableOf(subnet string) addr.Set {
	if set, known := p.usable[subnet]; known {
		return set
	}
	var set addr.Set
	if parsed := p.parse(p.subnets[subnet]); parsed.err == nil {
		set = parsed.Addresses.Minus(p.Reserved)
	}
	p.usable[subnet] = set
	return set
}

// allTaken is what is in a pool, announced for one, or held by anybody.
func (p *planner) allTaken() addr.Set {
	if p.taken == nil {
		var all []addr.Range
		for i := range p.Pools {
			set, _ := pool.AddressesOf(&p.Pools[i])
			all = slices.AppendSeq(all, set.Ranges())
			all = slices.AppendSeq(all, pool.Announced(&p.Pools[i]).Ranges())
		}
		set := addr.MakeSet(slices.AppendSeq(all, p.InUse().Ranges())...)
		p.taken = &set
	}
	return *p.taken
}
