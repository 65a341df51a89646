package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// MaxAutomatic is how many addresses an application may ask for, and the most
// that an automatic pool has.
const MaxAutomatic = 10000

// Ask is what the annotations of an application's pods ask for.
type Ask struct {
	// Source is the annotation, for messages.
	Source string
	// Subnets are the names of SpiderSubnets, by interface and family.
	Subnets map[string]map[Family]string
	// Size says how large the pools are.
	Size Size
	// Keep says that the pools stay when the application is deleted, for a later one
	// of its name.
	Keep bool
}

// Size is how many addresses an automatic pool has: Number, or so many more than
// pods if it is Flexible. The zero value is not set; see Set.
type Size struct {
	Set, Flexible bool
	Number        int
}

// AsksForSubnets reports whether the annotations of a pod ask for SpiderSubnets,
// well-formed or not.
func AsksForSubnets(annotations map[string]string) bool {
	_, one := annotations[v2beta1.AnnotationSubnet]
	_, many := annotations[v2beta1.AnnotationSubnets]
	return one || many
}

// AskOf reads the annotations subnets or subnet, ippool-ip-number and
// ippool-reclaim of a pod or a pod template, nil if they ask for no SpiderSubnet.
// Families that are not enabled are left out. An error is malformed input.
func AskOf(annotations map[string]string, enabled []Family) (*Ask, error) {
	one, hasOne := annotations[v2beta1.AnnotationSubnet]
	many, hasMany := annotations[v2beta1.AnnotationSubnets]
	ask := &Ask{Subnets: map[string]map[Family]string{}}
	var err error
	switch {
	case !hasOne && !hasMany:
		return nil, nil
	case hasOne && hasMany:
		return nil, fmt.Errorf("wrong input, the Pod has both annotations '%s' and '%s': leave one", v2beta1.AnnotationSubnet, v2beta1.AnnotationSubnets)
	case hasOne:
		err = ask.readOne(one, enabled)
	default:
		err = ask.readMany(many, enabled)
	}
	if err == nil {
		ask.Size, err = sizeOf(annotations)
	}
	if text, ok := annotations[v2beta1.AnnotationIPPoolReclaim]; ok && err == nil {
		reclaim, wrong := strconv.ParseBool(text)
		if ask.Keep = !reclaim; wrong != nil {
			err = fmt.Errorf("wrong input, invalid format of Pod annotation '%s': %q; wanted true or false", v2beta1.AnnotationIPPoolReclaim, clip(text))
		}
	}
	if err != nil {
		return nil, err
	}
	return ask, nil
}

// interfaceSubnets is one entry of the annotations. Of each list the first
// counts.
type interfaceSubnets struct {
	Interface string   `json:"interface"`
	IPv4      []string `json:"ipv4"`
	IPv6      []string `json:"ipv6"`
}

func (a *Ask) readOne(text string, enabled []Family) error {
	const key = v2beta1.AnnotationSubnet
	a.Source = "Pod annotation " + key
	var entry interfaceSubnets
	err := json.Unmarshal([]byte(text), &entry)
	if entry.Interface == "" {
		entry.Interface = firstInterface
	}
	if err == nil {
		err = a.add(entry, enabled)
	}
	if err != nil {
		return fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %w; wanted {"interface":"eth0","ipv4":["subnet"],"ipv6":["subnet"]}`, key, err)
	}
	return nil
}

func (a *Ask) readMany(text string, enabled []Family) error {
	const key = v2beta1.AnnotationSubnets
	a.Source = "Pod annotation " + key
	var all []interfaceSubnets
	err := json.Unmarshal([]byte(text), &all)
	switch {
	case err != nil:
	case len(all) == 0:
		err = errors.New("it has no entry")
	case len(all) > MaxInterfaces:
		err = fmt.Errorf("it has %d entries, at most %d are accepted", len(all), MaxInterfaces)
	}
	for _, entry := range all {
		if err == nil {
			err = a.add(entry, enabled)
		}
	}
	if err != nil {
		return fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %w; wanted [{"interface":"eth0","ipv4":["subnet"],"ipv6":["subnet"]}]`, key, err)
	}
	return nil
}

// interfaceName is the name of a network interface that can stand in a label and,
// in lower case, in the name of a pool.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9]([-._A-Za-z0-9]{0,13}[A-Za-z0-9])?$`)

func (a *Ask) add(entry interfaceSubnets, enabled []Family) error {
	switch _, twice := a.Subnets[entry.Interface]; {
	case entry.Interface == "":
		return errors.New("an entry names no interface")
	case twice:
		return fmt.Errorf("duplicate interface %s", entry.Interface)
	case !interfaceName.MatchString(entry.Interface):
		return fmt.Errorf("%q is no name of an interface: at most 15 letters, digits, and between them dashes, dots and underscores", clip(entry.Interface))
	}
	subnets := map[Family]string{}
	for f, names := range map[Family][]string{IPv4: entry.IPv4, IPv6: entry.IPv6} {
		if len(names) == 0 || !slices.Contains(enabled, f) {
			continue
		}
		if why := validation.NameIsDNSSubdomain(names[0], false); len(why) > 0 {
			return fmt.Errorf("%q is no name of a SpiderSubnet: %s", clip(names[0]), why[0])
		}
		if a.names(f, names[0]) {
			return fmt.Errorf("duplicate SpiderSubnet %s", names[0])
		}
		subnets[f] = names[0]
	}
	if len(subnets) == 0 {
		return fmt.Errorf("interface %s names no SpiderSubnet of an enabled family (%v)", entry.Interface, enabled)
	}
	a.Subnets[entry.Interface] = subnets
	return nil
}

// names reports whether a SpiderSubnet is asked for already.
func (a *Ask) names(f Family, subnet string) bool {
	for _, of := range a.Subnets {
		if of[f] == subnet {
			return true
		}
	}
	return false
}

// number is a number of addresses, or how many more than pods.
var number = regexp.MustCompile(`^\+?[0-9]{1,6}$`)

func sizeOf(annotations map[string]string) (s Size, err error) {
	text, ok := annotations[v2beta1.AnnotationIPPoolIPNumber]
	if !ok {
		return s, nil
	}
	if number.MatchString(text) {
		s.Number, err = strconv.Atoi(strings.TrimPrefix(text, "+"))
	}
	if !number.MatchString(text) || err != nil || s.Number > MaxAutomatic {
		return Size{}, fmt.Errorf(`wrong input, invalid format of Pod annotation '%s': %q; wanted a number up to %d, "5" for so many addresses or "+2" for so many more than pods`,
			v2beta1.AnnotationIPPoolIPNumber, clip(text), MaxAutomatic)
	}
	s.Set, s.Flexible = true, strings.HasPrefix(text, "+")
	return s, nil
}

// clip is the beginning of what a tenant wrote, for a message.
func clip(text string) string {
	const shown = 64
	if len(text) > shown {
		return text[:shown] + "…"
	}
	return text
}
