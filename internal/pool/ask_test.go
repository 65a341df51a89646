package pool

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spidernet-io/spiderpool/api/v2beta1"
)

// TestAskOf: what annotations ask for, and what is wrong with those that ask for nothing one can make.
func TestAskOf(t *testing.T) {
	one := func(text string, more ...string) map[string]string {
		m := map[string]string{v2beta1.AnnotationSubnet: text}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	many := func(text string) map[string]string { return map[string]string{v2beta1.AnnotationSubnets: text} }
	eth0 := func(v4, v6 string) map[string]map[Family]string {
		subnets := map[Family]string{}
		if v4 != "" {
			subnets[IPv4] = v4
		}
		if v6 != "" {
			subnets[IPv6] = v6
		}
		return map[string]map[Family]string{"eth0": subnets}
	}
	const source = "Pod annotation " + v2beta1.AnnotationSubnet
	number, reclaim := v2beta1.AnnotationIPPoolIPNumber, v2beta1.AnnotationIPPoolReclaim
	both := []Family{IPv4, IPv6}
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		enabled     []Family
		want        *Ask
		wrong       string
	}{
		{"nothing", map[string]string{number: "x"}, both, nil, ""},
		{"both families", one(`{"interface":"eth0","ipv4":["s4"],"ipv6":["s6"]}`), both, &Ask{Source: source, Subnets: eth0("s4", "s6")}, ""},
		{"without interface", one(`{"ipv4":["s4"]}`), both, &Ask{Source: source, Subnets: eth0("s4", "")}, ""},
		{"the first of a list", one(`{"ipv4":["s4","t4"]}`), both, &Ask{Source: source, Subnets: eth0("s4", "")}, ""},
		{"a family that is off", one(`{"ipv4":["s4"],"ipv6":["-"]}`), both[:1], &Ask{Source: source, Subnets: eth0("s4", "")}, ""},
		{"unknown keys", one(`{"ipv4":["s4"],"x":1}`), both, &Ask{Source: source, Subnets: eth0("s4", "")}, ""},
		{"several", many(`[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","ipv6":["b"]}]`), both,
			&Ask{Source: "Pod annotation " + v2beta1.AnnotationSubnets, Subnets: map[string]map[Family]string{"eth0": {IPv4: "a"}, "net1": {IPv6: "b"}}}, ""},
		{"fixed, kept", one(`{"ipv4":["s"]}`, number, "5", reclaim, "false"), both, &Ask{Source: source, Subnets: eth0("s", ""), Size: Size{Set: true, Number: 5}, Keep: true}, ""},
		{"flexible", one(`{"ipv4":["s"]}`, number, "+2", reclaim, "true"), both, &Ask{Source: source, Subnets: eth0("s", ""), Size: Size{Set: true, Flexible: true, Number: 2}}, ""},
		{"none", one(`{"ipv4":["s"]}`, number, "0"), both, &Ask{Source: source, Subnets: eth0("s", ""), Size: Size{Set: true}}, ""},

		{"both annotations", one(`{"ipv4":["s"]}`, v2beta1.AnnotationSubnets, `[]`), both, nil, "has both annotations"},
		{"no JSON", one(`s4`), both, nil, "invalid format of Pod annotation 'ipam.spidernet.io/subnet': invalid character 's'"},
		{"no list", one(`{"ipv4":"s4"}`), both, nil, "cannot unmarshal string"},
		{"no subnet", one(`{"interface":"eth0"}`), both, nil, "interface eth0 names no SpiderSubnet of an enabled family ([IPv4 IPv6])"},
		{"only a family that is off", one(`{"ipv6":["s6"]}`), both[:1], nil, "names no SpiderSubnet of an enabled family ([IPv4])"},
		{"no entries", many(`[]`), both, nil, "it has no entry"},
		{"too many entries", many("[" + strings.Repeat(`{"interface":"a"},`, MaxInterfaces) + `{}]`), both, nil, "it has 65 entries, at most 64 are accepted"},
		{"no interface among several", many(`[{"ipv4":["a"]}]`), both, nil, "an entry names no interface"},
		{"an interface twice", many(`[{"interface":"eth0","ipv4":["a"]},{"interface":"eth0","ipv4":["b"]}]`), both, nil, "duplicate interface eth0"},
		{"a subnet twice", many(`[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","ipv4":["a"]}]`), both, nil, "duplicate SpiderSubnet a"},
		{"a name that none can have", one(`{"ipv4":["S 4"]}`), both, nil, `"S 4" is no name of a SpiderSubnet`},
		{"a name that is long", one(`{"ipv4":["` + strings.Repeat("s", 300) + `"]}`), both, nil, `sss…" is no name of a SpiderSubnet`},
		{"an interface that none can be", one(`{"interface":"../eth0","ipv4":["s"]}`), both, nil, `"../eth0" is no name of an interface`},
		{"an interface that is long", one(`{"interface":"eth0123456789012","ipv4":["s"]}`), both, nil, "is no name of an interface"},
		{"no number", one(`{"ipv4":["s"]}`, number, "many"), both, nil, `"many"; wanted a number up to 10000`},
		{"two signs", one(`{"ipv4":["s"]}`, number, "++2"), both, nil, `"++2"; wanted`},
		{"negative", one(`{"ipv4":["s"]}`, number, "-2"), both, nil, `"-2"; wanted`},
		{"too large", one(`{"ipv4":["s"]}`, number, "+10001"), both, nil, `"+10001"; wanted`},
		{"far too large", one(`{"ipv4":["s"]}`, number, strings.Repeat("9", 1000)), both, nil, `9…"; wanted`},
		{"empty number", one(`{"ipv4":["s"]}`, number, ""), both, nil, `""; wanted`},
		{"no boolean", one(`{"ipv4":["s"]}`, reclaim, "perhaps"), both, nil, `"perhaps"; wanted true or false`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := AskOf(tc.annotations, tc.enabled)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (err != nil) != (tc.wrong != "") || err != nil && (!strings.Contains(err.Error(), tc.wrong) || !strings.HasPrefix(err.Error(), "wrong input")) {
				t.Errorf("%v, want %q", err, tc.wrong)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
		})
	}
}
