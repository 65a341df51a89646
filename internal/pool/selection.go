package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// ErrNoSelection means that nothing says which pools an ADD may take from.
var ErrNoSelection = errors.New("no IPPool available: neither the Pod annotations " + v2beta1.AnnotationIPPools + " and " +
	v2beta1.AnnotationIPPool + ", nor the Namespace annotations " + v2beta1.AnnotationDefaultIPv4IPPool + " and " +
	v2beta1.AnnotationDefaultIPv6IPPool + ", nor the CNI configuration (default_ipv4_ippool, default_ipv6_ippool), " +
	"nor a pool with spec.default: true names one")

// Selection is which pools an ADD may take from, by name or pattern and in the order
// written: a later one is the backup of those before it.
type Selection struct {
	// Source is where the names come from, for messages.
	Source string
	Names  map[Family][]string
	// Subnets are the SpiderSubnets that the pod asks for, whose automatic pools for
	// Application are in Names as soon as they are made; nil if it asks for none.
	Subnets     map[Family]string
	Application *Application
	// CleanGateway leaves the default route out; nil if the source does not say.
	CleanGateway *bool
}

// FromDefaults is the Source of a selection that nobody expressed: the pools with
// spec.default.
const FromDefaults = "spec.default"

// What a tenant may write. More is refused: nothing needs it, and the agent of a
// node must not be kept busy by one annotation.
const (
	// MaxNames is how many pools may be named for one family of an interface.
	MaxNames = 64
	// MaxInterfaces is how many interfaces the annotation ippools, and how many
	// networks that of Multus, may name.
	MaxInterfaces = 64
	// MaxRoutes is how many routes a pod may ask for.
	MaxRoutes = 100
	// maxName is the length of a name of a pool (RFC 1123 subdomain).
	maxName = 253
)

// SelectionOf returns the selection of the first source that is present, which decides
// alone: the pod's annotation ippools, its annotation ippool, its namespace's
// default pools, the names in the network configuration, the pools with
// spec.default. Families that are not enabled are left out of it, and what stands
// there is not looked at. ErrNoSelection is returned if no source is present; any other error is malformed input.
func SelectionOf(s *PodContext, pools []*Pool, enabled []Family) (Selection, error) {
	w, err := source(s, pools, enabled)
	if err != nil {
		return Selection{}, err
	}
	if w.Subnets != nil {
		return w, nil
	}
	w.Names = maps.Clone(w.Names)
	maps.DeleteFunc(w.Names, func(f Family, names []string) bool { return len(names) == 0 || !slices.Contains(enabled, f) })
	if err := w.check(enabled); err != nil {
		return Selection{}, err
	}
	if len(w.Names) == 0 {
		return Selection{}, fmt.Errorf("no IPPool available: %s names none of an enabled family (%v)", w.Source, enabled)
	}
	return w, nil
}

// source returns the first source that is present: it names a pool, or is wrong.
func source(s *PodContext, pools []*Pool, enabled []Family) (Selection, error) {
	if w, err := ofSubnets(s, pools, enabled); err != nil || w.Subnets != nil {
		return w, err
	}
	for _, of := range []func(*PodContext, []Family) (Selection, error){ofInterfaces, ofPod, ofNamespace, ofConf} {
		if w, err := of(s, enabled); err != nil || !w.isEmpty() {
			return w, err
		}
	}
	return ofDefaults(pools)
}

// ofSubnets are the automatic pools of the pod's application. What asks for a
// SpiderSubnet is not served from elsewhere.
func ofSubnets(s *PodContext, pools []*Pool, enabled []Family) (w Selection, err error) {
	if AsksForSubnets(s.PodAnnotations) && !s.AutomaticPools {
		return w, fmt.Errorf("it's invalid to use '%s' or '%s' annotation when Auto-Pool feature is disabled", v2beta1.AnnotationSubnets, v2beta1.AnnotationSubnet)
	}
	ask, err := AskOf(s.PodAnnotations, enabled)
	switch {
	case err != nil || ask == nil:
		return w, err
	case s.Application == nil:
		return w, fmt.Errorf("wrong input, %s: SpiderSubnet feature doesn't support no-controller pod: let a Deployment, StatefulSet or another controller make it", ask.Source)
	case ask.Subnets[s.Interface] == nil:
		return w, fmt.Errorf("wrong input, %s: interface %s must be specified", ask.Source, s.Interface)
	}
	w = Selection{Source: ask.Source, Subnets: ask.Subnets[s.Interface], Application: s.Application}
	w.Names = automaticNames(s, w.Subnets, pools)
	return w, nil
}

// Has reports whether an ADD gets an address of a family.
func (w Selection) Has(f Family) bool { return len(w.Names[f]) > 0 || w.Subnets[f] != "" }

// names are pools as annotations name them.
type names struct {
	IPv4 []string `json:"ipv4"`
	IPv6 []string `json:"ipv6"`
}

func (n names) selection(source string) Selection {
	return Selection{Source: source, Names: map[Family][]string{IPv4: n.IPv4, IPv6: n.IPv6}}
}

// ofPod reads {"ipv4":["a","b"],"ipv6":["c"]}.
func ofPod(s *PodContext, _ []Family) (w Selection, err error) {
	const key = v2beta1.AnnotationIPPool
	text, ok := s.PodAnnotations[key]
	if !ok {
		return w, nil
	}
	var v names
	err = json.Unmarshal([]byte(text), &v)
	if w = v.selection("Pod annotation " + key); err == nil && w.isEmpty() {
		err = errors.New("it names no pool")
	}
	if err != nil {
		return w, fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %w; wanted {"ipv4":["pool"],"ipv6":["pool"]}`, key, err)
	}
	return w, nil
}

// ofInterfaces reads [{"interface":"eth0","ipv4":["a"],"ipv6":["c"],"cleangateway":true}]:
// by name, or if no entry names its interface, by position.
func ofInterfaces(s *PodContext, enabled []Family) (w Selection, err error) {
	const key = v2beta1.AnnotationIPPools
	text, ok := s.PodAnnotations[key]
	if !ok {
		return w, nil
	}
	var all []interfacePools
	if err = json.Unmarshal([]byte(text), &all); err == nil {
		err = checkInterfaces(all, enabled)
	}
	if err != nil {
		return w, fmt.Errorf("wrong input, invalid format of Pod annotation '%s': %w; "+
			`wanted [{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"],"cleangateway":false}]`, key, err)
	}
	i, err := indexOf(all, s)
	if err != nil {
		return w, fmt.Errorf("wrong input, Pod annotation '%s': %w", key, err)
	}
	w = all[i].selection("Pod annotation " + key)
	w.CleanGateway = all[i].CleanGateway
	return w, nil
}

type interfacePools struct {
	names
	Interface    string `json:"interface"`
	CleanGateway *bool  `json:"cleangateway"`
}

func checkInterfaces(all []interfacePools, enabled []Family) error {
	switch {
	case len(all) == 0:
		return errors.New("it has no entry")
	case len(all) > MaxInterfaces:
		return fmt.Errorf("it has %d entries, at most %d are accepted", len(all), MaxInterfaces)
	}
	seen := map[string]bool{}
	for i, p := range all {
		entry := p.selection(fmt.Sprint("entry ", i+1))
		switch {
		case (p.Interface == "") != (all[0].Interface == ""):
			return errors.New("NIC should be either all specified or all unspecified")
		case p.Interface != "" && seen[p.Interface]:
			return fmt.Errorf("duplicate interface %s", p.Interface)
		case entry.isEmpty():
			return fmt.Errorf("%s names no pool", entry.Source)
		}
		seen[p.Interface] = true
		if err := entry.check(enabled); err != nil {
			return err
		}
	}
	return nil
}

func indexOf(all []interfacePools, s *PodContext) (int, error) {
	if all[0].Interface == "" {
		i, err := s.position()
		if err == nil && i >= len(all) {
			err = fmt.Errorf("it names pools for %d interfaces, and %s is at position %d, counted from 0", len(all), s.Interface, i)
		}
		return i, err
	}
	i := slices.IndexFunc(all, func(p interfacePools) bool { return p.Interface == s.Interface })
	if i < 0 {
		return 0, fmt.Errorf("interface %s must be specified", s.Interface)
	}
	return i, nil
}

// ofNamespace reads the default pools of a namespace, ["a","b"] for each family.
func ofNamespace(s *PodContext, enabled []Family) (Selection, error) {
	w := Selection{Source: "the default pools of Namespace " + s.Namespace, Names: map[Family][]string{}}
	keys := map[Family]string{IPv4: v2beta1.AnnotationDefaultIPv4IPPool, IPv6: v2beta1.AnnotationDefaultIPv6IPPool}
	for _, f := range Families {
		text := s.NamespaceAnnotations[keys[f]]
		if text == "" {
			continue
		}
		var v []string
		if err := json.Unmarshal([]byte(text), &v); err != nil && slices.Contains(enabled, f) {
			return w, fmt.Errorf(`wrong input, invalid format of annotation '%s' of Namespace %s: %w; wanted ["pool"]`, keys[f], s.Namespace, err)
		}
		w.Names[f] = v
	}
	return w, nil
}

func ofConf(s *PodContext, _ []Family) (Selection, error) {
	return Selection{Source: "the CNI configuration", Names: s.Conf.Pools}, nil
}

// ofDefaults are the pools with spec.default. Malformed ones do not count, or
// one would break the others; but if there is nothing else they are told of.
func ofDefaults(pools []*Pool) (Selection, error) {
	w := Selection{Source: FromDefaults, Names: map[Family][]string{}}
	for _, malformed := range []bool{false, true} {
		for _, p := range pools {
			if p.Default && p.malformed == malformed {
				w.Names[p.Family] = append(w.Names[p.Family], p.Name)
			}
		}
		if !w.isEmpty() {
			slices.Sort(w.Names[IPv4])
			slices.Sort(w.Names[IPv6])
			return w, nil
		}
	}
	return w, ErrNoSelection
}

func (w Selection) isEmpty() bool { return len(w.Names[IPv4])+len(w.Names[IPv6]) == 0 }

// check refuses what cannot be meant: too many pools, a pool named twice, an
// empty name, a pattern that is none.
func (w Selection) check(families []Family) error {
	for _, f := range families {
		if n := len(w.Names[f]); n > MaxNames && w.Source != FromDefaults {
			return fmt.Errorf("wrong input, %s names %d %s pools, at most %d are accepted: a pattern may stand for many", w.Source, n, f, MaxNames)
		}
		seen := map[string]bool{}
		for _, name := range w.Names[f] {
			switch _, err := path.Match(name, ""); {
			case name == "":
				return fmt.Errorf("wrong input, %s: the name of an IPPool is empty", w.Source)
			case len(name) > maxName:
				return fmt.Errorf("wrong input, %s: the name of an IPPool has %d characters, at most %d are accepted", w.Source, len(name), maxName)
			case seen[name]:
				return fmt.Errorf("wrong input, duplicate IPPool %s in %s", name, w.Source)
			case err != nil:
				return fmt.Errorf("wrong input, %s: %q is no pattern of IPPool names: %w", w.Source, name, err)
			}
			seen[name] = true
		}
	}
	return nil
}

// Expand replaces the patterns of a family's names (see path.Match) by the
// names of the family's pools that match, sorted, and leaves out what stands
// earlier in the list. unmatched are the patterns that no pool matches.
func (w Selection) Expand(f Family, pools []*Pool) (names, unmatched []string) {
	seen := map[string]bool{}
	for _, name := range w.Names[f] {
		matches := []string{name}
		if strings.ContainsAny(name, `*?[\`) {
			if matches = matching(name, f, pools); len(matches) == 0 {
				unmatched = append(unmatched, name)
			}
		}
		for _, match := range matches {
			if !seen[match] {
				seen[match] = true
				names = append(names, match)
			}
		}
	}
	return names, unmatched
}

func matching(pattern string, f Family, pools []*Pool) (out []string) {
	for _, p := range pools {
		if ok, _ := path.Match(pattern, p.Name); ok && p.Family == f {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}

// RoutesOf reads the routes that a pod asks for in the annotation routes,
// [{"dst":"10.0.0.0/16","gw":"192.168.1.1"}]; TakesRoute says to which interface
// each belongs. Warnings tell what was not taken as it is written.
func RoutesOf(s *PodContext) (out []Route, warnings []string, err error) {
	const key = v2beta1.AnnotationRoutes
	text, ok := s.PodAnnotations[key]
	if !ok {
		return nil, nil, nil
	}
	wrong := func(err error) error {
		return fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %w; wanted [{"dst":"10.0.0.0/16","gw":"192.168.1.1"}]`, key, err)
	}
	var routes []v2beta1.Route
	if err := json.Unmarshal([]byte(text), &routes); err != nil {
		return nil, nil, wrong(err)
	}
	if len(routes) > MaxRoutes {
		return nil, nil, wrong(fmt.Errorf("it has %d routes, at most %d are accepted", len(routes), MaxRoutes))
	}
	for i, r := range routes {
		route, warning, err := ParseRoute(r.Dst, r.Gw)
		if err != nil {
			return nil, nil, wrong(fmt.Errorf("route %d: %w", i+1, err))
		}
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("Pod annotation %s, route %d: %s", key, i+1, warning))
		}
		out = append(out, route)
	}
	return out, warnings, nil
}
