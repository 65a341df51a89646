package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// ErrNoWish means that nothing says which pools an ADD may take from.
var ErrNoWish = errors.New("no IPPool available: neither the pod annotation " + v2beta1.AnnotationIPPool +
	", nor the CNI configuration (default_ipv4_ippool, default_ipv6_ippool), nor a pool with spec.default: true names one")

// Wish is which pools an ADD may take from, by name and in the order written:
// a later one is the backup of those before it.
type Wish struct {
	// Source is where the names come from, for messages.
	Source string
	Names  map[Family][]string
}

// WishOf returns the wish of the first source that is present, which decides
// alone: the pod's annotation ipam.spidernet.io/ippool, the names in the CNI
// configuration, the pools with spec.default. Families that are not enabled
// are left out of it. ErrNoWish is returned if no source is present; any other
// error is a malformed annotation.
func WishOf(annotations map[string]string, conf map[Family][]string, pools []*Pool, enabled []Family) (Wish, error) {
	wish, err := source(annotations, conf, pools)
	if err != nil {
		return Wish{}, err
	}
	named := wish.Names
	wish.Names = map[Family][]string{}
	for _, f := range enabled {
		if len(named[f]) > 0 {
			wish.Names[f] = named[f]
		}
	}
	if len(wish.Names) == 0 {
		return Wish{}, fmt.Errorf("no IPPool available: %s names none of an enabled family (%v)", wish.Source, enabled)
	}
	return wish, nil
}

func source(annotations map[string]string, conf map[Family][]string, pools []*Pool) (Wish, error) {
	if text, ok := annotations[v2beta1.AnnotationIPPool]; ok {
		return annotated(text)
	}
	if len(conf[IPv4])+len(conf[IPv6]) > 0 {
		w := Wish{Source: "the CNI configuration", Names: conf}
		return w, w.check()
	}
	w := Wish{Source: "spec.default", Names: map[Family][]string{}}
	for _, p := range pools {
		if p.Default {
			w.Names[p.Family] = append(w.Names[p.Family], p.Name)
		}
	}
	if len(w.Names) == 0 {
		return w, ErrNoWish
	}
	for _, names := range w.Names {
		slices.Sort(names)
	}
	return w, nil
}

// annotated reads {"ipv4":["a","b"],"ipv6":["c"]}.
func annotated(text string) (Wish, error) {
	var v struct {
		IPv4 []string `json:"ipv4"`
		IPv6 []string `json:"ipv6"`
	}
	const key = v2beta1.AnnotationIPPool
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return Wish{}, fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %w; wanted {"ipv4":["pool"],"ipv6":["pool"]}`, key, err)
	}
	w := Wish{Source: "Pod annotation " + key, Names: map[Family][]string{IPv4: v.IPv4, IPv6: v.IPv6}}
	if len(v.IPv4)+len(v.IPv6) == 0 {
		return Wish{}, fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': it names no pool; wanted {"ipv4":["pool"],"ipv6":["pool"]}`, key)
	}
	return w, w.check()
}

// check refuses what cannot be meant: a pool named twice, an empty name.
func (w Wish) check() error {
	for _, names := range w.Names {
		for i, name := range names {
			if name == "" {
				return fmt.Errorf("wrong input, %s: the name of an IPPool is empty", w.Source)
			}
			if slices.Contains(names[:i], name) {
				return fmt.Errorf("wrong input, duplicate IPPool %s in %s", name, w.Source)
			}
		}
	}
	return nil
}
