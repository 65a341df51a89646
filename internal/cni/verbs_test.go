package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

func newCall() *call { return &call{conf: defaults(), log: slog.New(slog.DiscardHandler)} }

func TestErrors(t *testing.T) {
	withArgs := func(s string) []string { return []string{"CNI_ARGS=" + s} }
	conf := func(edits ...func(net, ipam object)) func(*world) string {
		return func(w *world) string { return w.netconf(edits...) }
	}
	text := func(s string) func(*world) string { return func(*world) string { return s } }
	tests := []struct {
		name  string
		verb  string
		env   []string
		stdin func(*world) string
		code  uint
		texts []string // what the message holds
	}{
		{"version of the future", "ADD", nil, conf(netKey("cniVersion", "9.9.9")), 1, []string{"incompatible CNI versions"}},
		{"CHECK before 0.4.0", "CHECK", nil, conf(netKey("cniVersion", "0.3.1")), 1, []string{"does not allow CHECK"}},
		{"STATUS before 1.1.0", "STATUS", nil, conf(netKey("cniVersion", "1.0.0")), 1, []string{"does not allow STATUS"}},
		{"GC before 1.1.0", "GC", nil, conf(netKey("cniVersion", "1.0.0")), 1, []string{"does not allow GC"}},
		{"unknown key", "ADD", nil, conf(ipamKey("ippool", "a")), 2, []string{`"ippool"`, "default_ipv4_ippool", "match_master_subnet"}},
		{"unknown keys", "STATUS", nil, conf(ipamKey("a", 1), ipamKey("b", 2)), 2, []string{`"a"`, `"b"`}},
		{"no container", "ADD", []string{"CNI_CONTAINERID"}, conf(), 4, []string{"CNI_CONTAINERID"}},
		{"bad container", "ADD", []string{"CNI_CONTAINERID=../x"}, conf(), 4, []string{"containerID"}},
		{"no interface", "ADD", []string{"CNI_IFNAME"}, conf(), 4, []string{"CNI_IFNAME"}},
		{"bad interface", "ADD", []string{"CNI_IFNAME=a/b"}, conf(), 4, []string{"interface name"}},
		{"no namespace", "ADD", []string{"CNI_NETNS"}, conf(), 4, []string{"CNI_NETNS"}},
		{"no path", "ADD", []string{"CNI_PATH"}, conf(), 4, []string{"CNI_PATH"}},
		{"unknown verb", "EXPLODE", nil, conf(), 4, []string{"EXPLODE"}},
		{"no arguments", "ADD", []string{"CNI_ARGS"}, conf(), 4, []string{"K8S_POD_NAMESPACE", "K8S_POD_NAME"}},
		{"no pod name", "ADD", withArgs("K8S_POD_NAMESPACE=a"), conf(), 4, []string{"K8S_POD_NAME"}},
		{"no pod namespace", "ADD", withArgs("K8S_POD_NAME=a"), conf(), 4, []string{"K8S_POD_NAMESPACE"}},
		{"no pair", "ADD", withArgs("K8S_POD_NAME"), conf(), 4, []string{"CNI_ARGS", "K8S_POD_NAME"}},
		{"unknown argument", "ADD", withArgs("FOO=bar;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b"), conf(), 4, []string{"FOO=bar"}},
		{"unknown argument not to ignore", "ADD", withArgs("IgnoreUnknown=0;FOO=bar;K8S_POD_NAME=a"), conf(), 4, []string{"FOO=bar"}},
		{"bad IgnoreUnknown", "ADD", withArgs("IgnoreUnknown=maybe"), conf(), 4, []string{"maybe"}},
		{"bad IP argument", "ADD", withArgs("IP=10.6.1;" + k8sArgs), conf(), 4, []string{"CNI_ARGS IP", `"10.6.1"`}},
		{"address with a zone", "ADD", withArgs("IP=fe80::1%eth0;" + k8sArgs), conf(), 4, []string{"fe80::1%eth0"}},
		{"nothing on stdin", "ADD", nil, text(""), 6, []string{"JSON"}},
		{"no JSON", "ADD", nil, text("{"), 6, []string{"JSON"}},
		{"array", "STATUS", nil, text("[]"), 6, []string{"array"}},
		{"runtimeConfig of a wrong type", "ADD", nil, conf(netKey("runtimeConfig", "x")), 6, []string{"runtimeConfig"}},
		{"prevResult of a wrong type", "CHECK", nil, conf(netKey("prevResult", "x")), 6, []string{"prevResult"}},
		{"prevResult with a bad address", "CHECK", nil, conf(netKey("prevResult", object{"cniVersion": "1.1.0",
			"ips": []object{{"address": "10.6"}}})), 6, []string{"prevResult", "10.6"}},
		{"no name", "ADD", nil, conf(netKey("name", nil)), 7, []string{"name"}},
		{"type", "ADD", nil, conf(ipamKey("type", 7)), 7, []string{"ipam.type", "7", "a string"}},
		{"socket", "ADD", nil, conf(ipamKey("ipam_unix_socket_path", []int{})), 7, []string{"ipam.ipam_unix_socket_path", "[]", "a socket below /run"}},
		{"pools", "ADD", nil, conf(ipamKey("default_ipv4_ippool", "pool-a")), 7, []string{"ipam.default_ipv4_ippool", `"pool-a"`, "an array of strings"}},
		{"no pools", "ADD", nil, conf(ipamKey("default_ipv4_ippool", "")), 7, []string{"ipam.default_ipv4_ippool", "an array of strings"}},
		{"pool", "ADD", nil, conf(ipamKey("default_ipv6_ippool", []any{"a", 6})), 7, []string{"ipam.default_ipv6_ippool", `["a",6]`}},
		{"clean_gateway", "ADD", nil, conf(ipamKey("clean_gateway", "yes")), 7, []string{"ipam.clean_gateway", `"yes"`, "true or false"}},
		{"match_master_subnet", "ADD", nil, conf(ipamKey("match_master_subnet", 1)), 7, []string{"ipam.match_master_subnet", "1", "true or false"}},
		{"no parent interface", "ADD", nil, conf(ipamKey("match_master_subnet", true), netKey("master", 7)), 7, []string{"ipam.match_master_subnet", `"master"`, `"deviceID"`}},
		{"absent parent interface", "ADD", nil, conf(ipamKey("match_master_subnet", true), netKey("master", "absent0")), 7, []string{"ipam.match_master_subnet", "absent0"}},
		{"absent device", "ADD", nil, conf(ipamKey("match_master_subnet", true), netKey("deviceID", "ffff:ff:1f.7")), 7, []string{"ipam.match_master_subnet", "ffff:ff:1f.7"}},
		{"log_level", "ADD", nil, conf(ipamKey("log_level", "loud")), 7, []string{"ipam.log_level", `"loud"`, "debug, info, warn, error"}},
		{"log_level number", "ADD", nil, conf(ipamKey("log_level", 3)), 7, []string{"ipam.log_level", "debug"}},
		{"log_file_max_size", "ADD", nil, conf(ipamKey("log_file_max_size", "ten")), 7, []string{"ipam.log_file_max_size", `"ten"`, "whole number"}},
		{"log_file_max_age", "ADD", nil, conf(ipamKey("log_file_max_age", -1)), 7, []string{"ipam.log_file_max_age", "-1", "from 0"}},
		{"log_file_max_count", "ADD", nil, conf(ipamKey("log_file_max_count", 1.5)), 7, []string{"ipam.log_file_max_count", "1.5"}},
		{"log_file_max_count object", "ADD", nil, conf(ipamKey("log_file_max_count", object{})), 7, []string{"ipam.log_file_max_count", "{}"}},
		{"everything wrong is named", "ADD", nil, conf(ipamKey("clean_gateway", "yes"), ipamKey("log_level", "loud"), ipamKey("zzz", 1)), 7,
			[]string{"clean_gateway", "log_level", "zzz"}},
		{"a long value is cut", "ADD", nil, conf(ipamKey("clean_gateway", strings.Repeat("x", 10_000))), 7, []string{"xxx…, want"}},
		{"many faults", "ADD", nil, conf(func(_, ipam object) {
			for i := range 5000 {
				ipam[fmt.Sprint("zz", i)] = 1
			}
		}), 2, []string{`"zz0"`, "and 4990 faults more"}},
		{"a long key is cut", "ADD", nil, conf(ipamKey(strings.Repeat("x", 10_000), 1)), 2, []string{`"` + strings.Repeat("x", 60) + `"`}},
		{"many addresses", "ADD", nil, conf(netKey("runtimeConfig", object{"ips": slices.Repeat([]string{"10.6.1.3"}, 17)})), 7,
			[]string{"runtimeConfig.ips", "found 17 addresses, want at most 16"}},
		{"many addresses in CNI_ARGS", "ADD", withArgs("IP=" + strings.Repeat("10.6.1.3,", 20) + "10.6.1.3;" + k8sArgs), conf(), 4,
			[]string{"CNI_ARGS IP", "found 21 addresses"}},
		{"bad runtimeConfig.ips", "ADD", nil, conf(netKey("runtimeConfig", object{"ips": []string{"10.6.1.300"}})), 7,
			[]string{"runtimeConfig.ips", `"10.6.1.300"`}},
		{"runtimeConfig.ips of a wrong type", "ADD", nil, conf(netKey("runtimeConfig", object{"ips": "10.6.1.3"})), 7,
			[]string{"runtimeConfig.ips", "an array of strings"}},
		{"bad args.cni.ips", "ADD", nil, conf(netKey("args", object{"cni": object{"ips": []string{""}}})), 7, []string{"args.cni.ips"}},
		{"runtimeConfig against args", "ADD", nil, conf(netKey("runtimeConfig", object{"ips": []string{"10.6.1.7"}}),
			netKey("args", object{"cni": object{"ips": []string{"10.6.1.8"}}})), 7,
			[]string{"runtimeConfig.ips", "10.6.1.7", "args.cni.ips", "10.6.1.8"}},
		{"runtimeConfig against CNI_ARGS", "ADD", withArgs("IP=10.6.1.8;" + k8sArgs), conf(netKey("runtimeConfig",
			object{"ips": []string{"10.6.1.7", "10.6.1.8"}})), 7, []string{"runtimeConfig.ips", "CNI_ARGS IP"}},
		{"CHECK without prevResult", "CHECK", nil, conf(), 7, []string{"prevResult"}},
		{"CHECK without addresses", "CHECK", nil, conf(netKey("prevResult", object{"cniVersion": "1.1.0"})), 7, []string{"prevResult", "net1"}},
		{"CHECK with addresses of another interface", "CHECK", nil, conf(netKey("prevResult", object{"cniVersion": "1.1.0",
			"interfaces": []object{{"name": "eth0"}}, "ips": []object{{"address": "10.6.1.7/16", "interface": 0}}})), 7, []string{"prevResult", "net1"}},
		{"CHECK with addresses of no interface", "CHECK", nil, conf(netKey("prevResult", object{"cniVersion": "1.1.0",
			"ips": []object{{"address": "10.6.1.7/16", "interface": 3}, {"address": "10.6.1.8/16", "interface": -1}}})), 7, []string{"prevResult", "net1"}},
		{"GC without a list", "GC", nil, conf(), 7, []string{"cni.dev/valid-attachments", "nothing is released"}},
		{"GC with a list of a wrong type", "GC", nil, conf(netKey("cni.dev/valid-attachments", object{"containerID": "c1", "ifname": "net1"})), 7,
			[]string{"cni.dev/valid-attachments", `{"containerID":"c1","ifname":"net1"}`, "an array of objects"}},
		{"GC with an older list of a wrong type", "GC", nil, conf(netKey("cni.dev/attachments", "c1")), 7, []string{"cni.dev/attachments", `"c1"`}},
		{"GC with a bad list beside a good one", "GC", nil, conf(netKey("cni.dev/valid-attachments", 7), netKey("cni.dev/attachments", []object{})), 7,
			[]string{"cni.dev/valid-attachments", "7"}},
		{"GC with an entry of a wrong type", "GC", nil, conf(netKey("cni.dev/valid-attachments", []string{"c1"})), 7, []string{"cni.dev/valid-attachments", `["c1"]`}},
		{"GC with a number for a name", "GC", nil, conf(netKey("cni.dev/valid-attachments", []object{{"containerID": 1, "ifname": "net1"}})), 7,
			[]string{"cni.dev/valid-attachments", "strings"}},
		{"GC with a null entry", "GC", nil, conf(netKey("cni.dev/valid-attachments", []any{nil})), 7, []string{"entry 0", "containerID"}},
		{"GC with an entry without a container", "GC", nil, conf(netKey("cni.dev/valid-attachments",
			[]object{{"containerID": "c1", "ifname": "net1"}, {"ifname": "net2"}})), 7, []string{"entry 1", `"net2"`, "containerID"}},
		{"GC with an entry without an interface", "GC", nil, conf(netKey("cni.dev/valid-attachments", []object{{"containerID": "c1"}})), 7,
			[]string{"entry 0", `"c1"`, "interface name"}},
		{"GC with an unknown key", "GC", nil, conf(ipamKey("ippool", "a"), netKey("cni.dev/valid-attachments", []object{})), 2, []string{`"ippool"`}},
		{"GC with a list that is no JSON", "GC", nil, text(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[`), 6, []string{"JSON"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newAgent(t, ok)
			failed := execPlugin(t, environ(test.verb, test.env...), test.stdin(w)).failure(t)
			if failed.Code != test.code {
				t.Errorf("code %d, want %d: %s", failed.Code, test.code, failed.Msg)
			}
			for _, want := range test.texts {
				if !strings.Contains(failed.Msg, want) {
					t.Errorf("%q does not hold %q", failed.Msg, want)
				}
			}
			if prefixed := strings.HasPrefix(failed.Msg, "spiderpool IP allocation error: "); prefixed != (test.verb == "ADD") {
				t.Errorf("%s: %q", test.verb, failed.Msg)
			}
			if len(failed.Msg) > 5000 {
				t.Errorf("the text has %d bytes", len(failed.Msg))
			}
			if w.verbs() != "" {
				t.Errorf("the agent was asked %s", w.verbs())
			}
		})
	}
}

// These configurations do not say where to log, and a test must not write to the default file.
func TestErrorsOfConfigurationsWithoutALogFile(t *testing.T) {
	for stdin, want := range map[string]string{
		`{"name":"n"}`:                            "ipam: found nothing, want an object",
		`{"name":"n","ipam":null}`:                "ipam: found null, want an object",
		`{"name":"n","ipam":[7]}`:                 "ipam: found [7], want an object",
		`{"name":"n","ipam":{"log_file_path":3}}`: `ipam.log_file_path: found 3, want the path of a file below /var/log, without "..", of at most 255 bytes`,
	} {
		conf := defaults()
		err := conf.parse([]byte(stdin))
		var failed *wire.Error
		if !errors.As(err, &failed) || failed.Code != wire.CodeConfig || failed.Msg != want {
			t.Errorf("%s: %v, want %s", stdin, err, want)
		}
	}
}

func TestErrorsOfTheAgentArePassedOn(t *testing.T) {
	prev := netKey("prevResult", object{"cniVersion": "1.1.0", "ips": []object{{"address": "10.6.1.7/16"}}})
	codes := map[string][]uint{
		"ADD":    {1, 2, 3, 4, 5, 6, 7, 11, 100, 102, 103, 999},
		"CHECK":  {3, 11, 999},
		"STATUS": {50, 51},
		"GC":     {5, 11, 999},
	}
	for verb, codes := range codes {
		for _, code := range codes {
			t.Run(fmt.Sprint(verb, code), func(t *testing.T) {
				t.Parallel()
				w := newAgent(t, answer(&wire.Reply{Error: &wire.Error{Code: code, Msg: "first\nsecond", Details: "more"}}))
				want := types.Error{Code: code, Msg: "first second", Details: "more"}
				if verb == "ADD" {
					want.Msg = "spiderpool IP allocation error: first second"
				}
				if got := execPlugin(t, environ(verb), w.netconf(prev, netKey("cni.dev/valid-attachments", []object{}))).failure(t); got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		}
	}
	t.Run("without a code it is ours", func(t *testing.T) {
		t.Parallel()
		w := newAgent(t, answer(&wire.Reply{Error: &wire.Error{Msg: "what"}}))
		if got := execPlugin(t, environ("ADD"), w.netconf()).failure(t); got.Code != wire.CodeInternal {
			t.Errorf("%+v", got)
		}
	})
}

func TestVersionNeedsNothing(t *testing.T) {
	got := execPlugin(t, []string{"CNI_COMMAND=VERSION"}, "")
	got.succeeded(t)
	want := `{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"
	if got.stdout != want {
		t.Errorf("%s, want %s", got.stdout, want)
	}
}

func TestAPersonIsToldWhatThisIs(t *testing.T) {
	got := execPlugin(t, nil, "")
	if got.stdout != "" || !strings.Contains(got.stderr, "CNI IPAM plugin spiderpool") || !strings.Contains(got.stderr, "1.1.0") {
		t.Errorf("stdout %q, stderr %q", got.stdout, got.stderr)
	}
}

// noContainer removes from the environment what the verbs without a container lack: its names and its pod.
var noContainer = []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"}

func TestStatusNeedsNoContainer(t *testing.T) {
	w := newAgent(t, ok)
	got := execPlugin(t, environ("STATUS", noContainer...), w.netconf())
	got.succeeded(t)
	want := []wire.Request{{Protocol: wire.Protocol, Verb: wire.VerbStatus, Network: "macvlan-net"}}
	if diff := cmp.Diff(want, w.asked()); diff != "" || got.stdout != "" {
		t.Errorf("stdout %q, (-want +asked):\n%s", got.stdout, diff)
	}
}

func TestGCNamesTheValidAttachments(t *testing.T) {
	const key, older = "cni.dev/valid-attachments", "cni.dev/attachments"
	c1 := []object{{"containerID": "c1", "ifname": "net1"}}
	all := []object{{"containerID": "c1", "ifname": "net1"}, {"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"}}
	wantC1 := []wire.Attachment{{ContainerID: "c1", Interface: "net1"}}
	wantAll := append(slices.Clone(wantC1), wire.Attachment{ContainerID: "c1", Interface: "eth0"}, wire.Attachment{ContainerID: "c2", Interface: "eth0"})
	tests := []struct {
		name string
		env  []string
		keys object // further keys of the network configuration
		want []wire.Attachment
	}{
		{"both keys, as libcni gives them", noContainer, object{key: all, older: all}, wantAll},
		{"the key alone", noContainer, object{key: all}, wantAll},
		{"the older key alone", noContainer, object{older: c1}, wantC1},
		{"the newer key goes first", noContainer, object{key: c1, older: all}, wantC1},
		{"an empty list", noContainer, object{key: []object{}}, nil},
		{"an empty list as CRI-O writes it", noContainer, object{key: nil, older: nil}, nil},
		{"an empty list goes before an older one", noContainer, object{key: []object{}, older: all}, nil},
		{"keys of the future", noContainer, object{key: []object{{"containerID": "c1", "ifname": "net1", "netns": "x"}}}, wantC1},
		{"an environment with more than it needs", []string{"CNI_ARGS=FOO=bar"}, object{key: c1}, wantC1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newAgent(t, ok)
			got := execPlugin(t, environ("GC", test.env...), w.netconf(func(net, _ object) { maps.Copy(net, test.keys) }))
			got.succeeded(t)
			want := []wire.Request{{Protocol: wire.Protocol, Verb: wire.VerbGC, Network: "macvlan-net", Attachments: test.want}}
			if diff := cmp.Diff(want, w.asked()); diff != "" || got.stdout != "" {
				t.Errorf("stdout %q, (-want +asked):\n%s", got.stdout, diff)
			}
		})
	}
}

func TestGCWithoutAnAgentMayBeTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	failed := execPlugin(t, environ("GC", noContainer...), w.netconf(netKey("cni.dev/valid-attachments", []object{}))).failure(t)
	if failed.Code != wire.CodeTryAgain || !strings.Contains(failed.Msg, w.socket) {
		t.Errorf("code %d: %s", failed.Code, failed.Msg)
	}
	if notes := w.notes(t); len(notes) != 0 {
		t.Errorf("notes %v", notes)
	}
}

func TestStatusWaitsForAnAgentThatIsReplaced(t *testing.T) {
	t.Run("it comes", func(t *testing.T) {
		t.Parallel()
		var asked atomic.Int32
		w := newAgent(t, func(context.Context, *wire.Request) *wire.Reply {
			switch asked.Add(1) {
			case 1:
				return &wire.Reply{Error: &wire.Error{Code: wire.CodeTryAgain, Msg: "stopping"}}
			case 2:
				return &wire.Reply{Error: &wire.Error{Code: wire.CodeNotReady, Msg: "starting"}}
			}
			return &wire.Reply{}
		})
		execPlugin(t, environ("STATUS"), w.netconf()).succeeded(t)
		if n := asked.Load(); n != 3 {
			t.Errorf("the agent was asked %d times", n)
		}
	})
	t.Run("it does not come", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		failed := execPlugin(t, environ("STATUS"), w.netconf()).failure(t)
		if failed.Code != wire.CodeNotReady || !strings.Contains(failed.Msg, w.socket) {
			t.Errorf("code %d: %s", failed.Code, failed.Msg)
		}
	})
	t.Run("it never finishes its answer", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		rawAgent(t, w, func(io.Closer, wire.Verb) string { return "{" })
		if failed := execPlugin(t, environ("STATUS"), w.netconf()).failure(t); failed.Code != wire.CodeNotReady {
			t.Errorf("code %d: %s", failed.Code, failed.Msg)
		}
	})
}

func TestCheckAsksForTheAddressesOfItsInterface(t *testing.T) {
	ip := func(address string, index ...int) object {
		out := object{"address": address, "version": "4"}
		if len(index) > 0 {
			out["interface"] = index[0]
		}
		return out
	}
	interfaces := []object{{"name": "veth0"}, {"name": "net1", "sandbox": "/run/netns/x"}, {"name": "net2", "sandbox": "/run/netns/x"}}
	tests := []struct {
		name string
		ips  []object
		want []string
	}{
		{"without an index", []object{ip("10.6.1.7/16"), ip("fd00::7/64")}, []string{"10.6.1.7", "fd00::7"}},
		{"of several interfaces", []object{ip("10.6.1.6/16", 0), ip("10.6.1.7/16", 1), ip("10.6.1.8/16", 2), ip("fd00::7/64", 1)},
			[]string{"10.6.1.7", "fd00::7"}},
		{"of an interface that is not listed beside", []object{ip("10.6.1.7/16", 3), ip("10.6.1.8/16", -1), ip("10.6.1.9/16", 1)}, []string{"10.6.1.9"}},
	}
	for _, cniVersion := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		for _, test := range tests {
			t.Run(cniVersion+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				w := newAgent(t, ok)
				got := execPlugin(t, environ("CHECK"), w.netconf(netKey("cniVersion", cniVersion),
					netKey("prevResult", object{"cniVersion": cniVersion, "interfaces": interfaces, "ips": test.ips})))
				got.succeeded(t)
				want := wire.Request{Protocol: wire.Protocol, Verb: wire.VerbCheck, Network: "macvlan-net", ContainerID: "c1",
					Interface: "net1", Netns: "/run/netns/absent", Pod: noteOfC1.Pod}
				for _, s := range test.want {
					want.Held = append(want.Held, netip.MustParseAddr(s))
				}
				if diff := cmp.Diff([]wire.Request{want}, w.asked(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
					t.Errorf("(-want +asked):\n%s", diff)
				}
			})
		}
	}
}

func TestDelSucceedsInEveryState(t *testing.T) {
	tests := []struct {
		name  string
		env   []string
		edits []func(net, ipam object)
		want  func(*wire.Note)
		warns string // what the log names, if anything is odd
	}{
		{"as it should be", nil, []func(net, ipam object){netKey("prevResult", object{"cniVersion": "1.1.0"})}, nil, ""},
		{"no prevResult", nil, nil, nil, ""},
		{"bad prevResult", nil, []func(net, ipam object){netKey("prevResult", "x")}, nil, ""},
		{"no namespace", []string{"CNI_NETNS"}, nil, func(n *wire.Note) { n.Netns = "" }, ""},
		{"the namespace is the plugin's own", []string{"CNI_NETNS=/proc/self/ns/net"}, nil, func(n *wire.Note) { n.Netns = "/proc/self/ns/net" }, ""},
		{"no path", []string{"CNI_PATH"}, nil, nil, ""},
		{"no pod", []string{"CNI_ARGS"}, nil, func(n *wire.Note) { n.Pod = wire.Pod{} }, ""},
		{"unknown argument", []string{"CNI_ARGS=FOO=bar"}, nil, func(n *wire.Note) { n.Pod = wire.Pod{} }, "FOO=bar"},
		{"half of the arguments are bad", []string{"CNI_ARGS=K8S_POD_NAME=a;IP=x"}, nil, func(n *wire.Note) { n.Pod = wire.Pod{Name: "a"} }, "CNI_ARGS IP"},
		{"no version", nil, []func(net, ipam object){netKey("cniVersion", nil)}, nil, ""},
		{"unknown version", nil, []func(net, ipam object){netKey("cniVersion", "9.9.9")}, nil, "9.9.9"},
		{"no name", nil, []func(net, ipam object){netKey("name", nil)}, func(n *wire.Note) { n.Network = "" }, ""},
		{"unknown key", nil, []func(net, ipam object){ipamKey("foo", 1)}, nil, "foo"},
		{"wrong types", nil, []func(net, ipam object){ipamKey("clean_gateway", "x"), ipamKey("default_ipv4_ippool", 7)}, nil, "clean_gateway"},
		{"contradiction", []string{"CNI_ARGS=IP=10.6.1.8;" + k8sArgs}, []func(net, ipam object){netKey("runtimeConfig",
			object{"ips": []string{"10.6.1.7"}})}, nil, ""},
	}
	for _, test := range tests {
		want := noteOfC1
		if test.want != nil {
			test.want(&want)
		}
		t.Run(test.name+"/agent there", func(t *testing.T) {
			t.Parallel()
			w := newAgent(t, ok)
			got := execPlugin(t, environ("DEL", test.env...), w.netconf(test.edits...))
			got.succeeded(t)
			if got.stdout != "" {
				t.Errorf("stdout %q", got.stdout)
			}
			request := wire.Request{Protocol: wire.Protocol, Verb: wire.VerbDel, Network: want.Network, ContainerID: "c1",
				Interface: "net1", Netns: want.Netns, Pod: want.Pod}
			if diff := cmp.Diff([]wire.Request{request}, w.asked()); diff != "" {
				t.Errorf("(-want +asked):\n%s", diff)
			}
			if notes := w.notes(t); len(notes) != 0 {
				t.Errorf("notes: %v", notes)
			}
			if log := w.logged(t); !strings.Contains(log, test.warns) || (test.warns == "") != (log == "") {
				t.Errorf("log %q, want %q in it", log, test.warns)
			}
		})
		t.Run(test.name+"/agent away", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for range 2 {
				execPlugin(t, environ("DEL", test.env...), w.netconf(test.edits...)).succeeded(t)
			}
			if diff := cmp.Diff([]wire.Note{want}, w.notes(t)); diff != "" {
				t.Errorf("notes (-want +left):\n%s", diff)
			}
		})
	}
}

func TestDelLeavesANoteUnlessTheAgentTookIt(t *testing.T) {
	for name, answer := range map[string]string{
		"error":              `{"protocol":1,"error":{"code":5,"msg":"disk full"}}` + "\n",
		"older protocol":     `{"protocol":1,"error":{"code":11,"msg":"the plugin speaks protocol 2"}}` + "\n",
		"half a reply":       `{"protocol":1`,
		"no reply":           "",
		"not a reply at all": "HTTP/1.1 400 Bad Request\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			rawAgent(t, w, func(io.Closer, wire.Verb) string { return answer })
			execPlugin(t, environ("DEL"), w.netconf()).succeeded(t)
			if diff := cmp.Diff([]wire.Note{noteOfC1}, w.notes(t)); diff != "" {
				t.Errorf("notes (-want +left):\n%s", diff)
			}
			if log := w.logged(t); !strings.Contains(log, "level=WARN") {
				t.Errorf("log %q", log)
			}
		})
	}
}

// Without a word of the configuration the default socket is asked, so these run where the default is another.
func TestDelOfAnUnreadableConfiguration(t *testing.T) {
	inputs := map[string]io.Reader{
		"nothing": strings.NewReader(""), "no JSON": strings.NewReader("{"), "array": strings.NewReader("[]"),
		"empty": strings.NewReader("{}"), "ipam of a wrong type": strings.NewReader(`{"ipam":7}`),
		"stdin fails": iotest.ErrReader(errors.New("broken stdin")),
	}
	for name, stdin := range inputs {
		t.Run(name, func(t *testing.T) {
			w := newAgent(t, ok)
			c := newCall()
			c.conf.socket, c.conf.log.file = w.socket, w.log
			env := map[string]string{"CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1"}
			if err := c.del(context.Background(), func(key string) string { return env[key] }, stdin); err != nil {
				t.Error(err)
			}
			want := []wire.Request{{Protocol: wire.Protocol, Verb: wire.VerbDel, ContainerID: "c1", Interface: "net1"}}
			if diff := cmp.Diff(want, w.asked()); diff != "" {
				t.Errorf("(-want +asked):\n%s", diff)
			}
			if log := w.logged(t); !strings.Contains(log, "level=WARN") {
				t.Errorf("log %q", log)
			}
		})
	}
}

func TestDelFails(t *testing.T) {
	for name, env := range map[string]string{"no container": "CNI_CONTAINERID", "no interface": "CNI_IFNAME"} {
		t.Run(name, func(t *testing.T) {
			w := newAgent(t, ok)
			failed := execPlugin(t, environ("DEL", env), w.netconf()).failure(t)
			if failed.Code != wire.CodeEnvironment || !strings.Contains(failed.Msg, env) || w.verbs() != "" {
				t.Errorf("code %d: %s; the agent was asked %s", failed.Code, failed.Msg, w.verbs())
			}
		})
	}
	t.Run("no note can be written", func(t *testing.T) {
		w := newWorld(t)
		dir := wire.NotesDir(w.socket)
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		failed := execPlugin(t, environ("DEL"), w.netconf()).failure(t)
		if failed.Code != wire.CodeIO || !strings.Contains(failed.Msg, dir) {
			t.Errorf("code %d: %s", failed.Code, failed.Msg)
		}
	})
}

func TestLogFile(t *testing.T) {
	refuse := answer(&wire.Reply{Error: &wire.Error{Code: wire.CodeNoPool, Msg: "no pool fits"}})
	t.Run("success writes nothing", func(t *testing.T) {
		w := newAgent(t, anAddress)
		execPlugin(t, environ("ADD"), w.netconf()).succeeded(t)
		if _, err := os.Stat(filepath.Dir(w.log)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("even the directory of the log must not be made: %v", err)
		}
	})
	t.Run("success at debug", func(t *testing.T) {
		w := newAgent(t, anAddress)
		execPlugin(t, environ("ADD"), w.netconf(ipamKey("log_level", "DEBUG"))).succeeded(t)
		if log := w.logged(t); strings.Count(log, "\n") != 1 || !strings.Contains(log, "ADD served") {
			t.Errorf("%q", log)
		}
	})
	t.Run("failure writes a line that names all", func(t *testing.T) {
		w := newAgent(t, refuse)
		execPlugin(t, environ("ADD"), w.netconf(ipamKey("log_file_max_size", "10"))).failure(t)
		log := w.logged(t)
		for _, want := range []string{"level=ERROR", "ADD failed", "code=100", "no pool fits", "container=c1", "interface=net1", "web-0", "macvlan-net"} {
			if !strings.Contains(log, want) {
				t.Errorf("%q does not hold %q", log, want)
			}
		}
		if strings.Count(log, "\n") != 1 {
			t.Errorf("%q", log)
		}
	})
	t.Run("failure at fatal writes nothing", func(t *testing.T) {
		w := newAgent(t, refuse)
		execPlugin(t, environ("ADD"), w.netconf(ipamKey("log_level", "fatal"))).failure(t)
		if log := w.logged(t); log != "" {
			t.Errorf("%q", log)
		}
	})
}

// TestLogFileOfManyProcesses: none of their lines is lost while they make the file.
func TestLogFileOfManyProcesses(t *testing.T) {
	w := newWorld(t)
	const processes = 30
	var done sync.WaitGroup
	for i := range processes {
		done.Go(func() { execPlugin(t, environ("DEL", fmt.Sprint("CNI_CONTAINERID=c", i)), w.netconf()) })
	}
	done.Wait()
	log := w.logged(t)
	for i := range processes {
		if want := fmt.Sprintf("container=c%d ", i); !strings.Contains(log, want) {
			t.Errorf("%q is lost", want)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(w.log)); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}

// TestLogFileLeavesForeignFilesAlone: who may write a network configuration chooses the file, and root writes it.
func TestLogFileLeavesForeignFilesAlone(t *testing.T) {
	root, outside := temporary(t, logRoot), t.TempDir()
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte(logMark), 0o600),
		os.WriteFile(filepath.Join(root, "auth.log"), []byte("of sshd\n"), 0o600),
		os.WriteFile(filepath.Join(root, "empty.log"), nil, 0o600),
		os.Mkdir(filepath.Join(root, "real"), 0o755),
		os.Mkdir(filepath.Join(root, "directory.log"), 0o755),
		os.Symlink("real", filepath.Join(root, "inside")),
		os.Symlink(outside, filepath.Join(root, "absolute")),
		os.Symlink(filepath.Join("../../..", outside), filepath.Join(root, "relative")),
		os.Symlink(secret, filepath.Join(root, "link.log")),
		os.Symlink(filepath.Join(outside, "new.log"), filepath.Join(root, "dangling.log")),
		os.Link(filepath.Join(root, "auth.log"), filepath.Join(root, "hard.log")),
		syscall.Mkfifo(filepath.Join(root, "fifo.log"), 0o600),
		syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, root) + listing(t, outside)
	for _, name := range []string{"auth.log", "empty.log", "directory.log", "inside/x.log", "absolute/x.log", "relative/x.log", "absolute/secret",
		"link.log", "dangling.log", "hard.log", "fifo.log", "fifo/x.log", "auth.log/x.log", "inside"} {
		w := newAgent(t, anAddress)
		// The plugin would rotate a file at every line.
		c := logConfig{file: filepath.Join(root, name), sizeMB: 1, files: 1}
		if _, err := c.Write(make([]byte, 1<<20)); err == nil {
			t.Errorf("%s is written", name)
		}
		// A log that cannot be written fails no call.
		execPlugin(t, environ("ADD"), w.netconf(ipamKey("log_level", "debug"), ipamKey("log_file_path", c.file))).succeeded(t)
	}
	if diff := cmp.Diff(before, listing(t, root)+listing(t, outside)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// listing names the files below dir with mode, size and content.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s %s", path, info.Mode())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %.100q of %d bytes", content, len(content))
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestLogFileRotation says which files are there after a line is written to one that is full.
func TestLogFileRotation(t *testing.T) {
	old := func(days int) string {
		return "plugin-" + time.Now().UTC().Add(-time.Duration(days)*24*time.Hour).Format(rotatedAt) + ".log"
	}
	const new = "(rotated)"
	full := logMark + strings.Repeat("x", 1<<20)
	day1, day2, day40 := old(1), old(2), old(40)
	tests := []struct {
		name          string
		ageDays, most count
		files         map[string]string // name → content
		want          []string
	}{
		{"nothing to remove", 30, 10, map[string]string{day1: logMark, day2: logMark}, []string{day1, day2, new}},
		{"too many", 30, 2, map[string]string{day1: logMark, day2: logMark}, []string{day1, new}},
		{"too old", 30, 10, map[string]string{day1: logMark, day40: logMark}, []string{day1, new}},
		{"no limits", 0, 0, map[string]string{day1: logMark, day40: logMark}, []string{day1, day40, new}},
		{"foreign files", 1, 1, map[string]string{day40: "precious", "plugin-2001.log": logMark, "x" + day40: logMark, day40 + ".gz": logMark,
			strings.TrimSuffix(day40, ".log"): logMark},
			[]string{day40, "plugin-2001.log", "x" + day40, day40 + ".gz", strings.TrimSuffix(day40, ".log"), new}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newAgent(t, answer(&wire.Reply{Error: &wire.Error{Code: wire.CodeNoPool, Msg: "no pool fits"}}))
			dir := filepath.Dir(w.log)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			test.files["plugin.log"] = full
			for name, content := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			execPlugin(t, environ("ADD"), w.netconf(ipamKey("log_file_max_size", "1"), ipamKey("log_file_max_age", int(test.ageDays)),
				ipamKey("log_file_max_count", int(test.most)))).failure(t)
			if log := w.logged(t); strings.Count(log, "\n") != 1 || !strings.Contains(log, "ADD failed") {
				t.Errorf("the log has %d bytes: %.100q", len(log), log)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, entry := range entries {
				name := entry.Name()
				if content, _ := os.ReadFile(filepath.Join(dir, name)); string(content) == full {
					name = new
				}
				got = append(got, name)
			}
			want := append([]string{"plugin.log"}, test.want...)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogFileWithoutADirectory(t *testing.T) {
	w := newWorld(t)
	w.log = temporary(t, logRoot) + ".log"
	defer os.Remove(w.log)
	execPlugin(t, environ("DEL"), w.netconf()).succeeded(t)
	if log := w.logged(t); !strings.Contains(log, "level=WARN") {
		t.Errorf("%q", log)
	}
}

// TestLogFileOfAnOlderVersion: in the product's own directory a file needs no mark.
func TestLogFileOfAnOlderVersion(t *testing.T) {
	if err := os.MkdirAll(filepath.Join(logRoot, ownLogs), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := temporary(t, filepath.Join(logRoot, ownLogs))
	path := filepath.Join(dir, "spiderpool.log")
	if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	logConfig{file: path, sizeMB: 1}.logger().Error("out of cheese")
	if content, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(content), "{}\n") || !strings.Contains(string(content), "cheese") {
		t.Errorf("%q, %v", content, err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	failed := guard(func() error { panic("out of cheese") })
	if failed == nil || failed.Code != wire.CodeInternal || !strings.Contains(failed.Msg, "out of cheese") {
		t.Errorf("%v", failed)
	}
}

// A runtime reaches the plugin through libcni, which makes the environment, keeps results and passes them to CHECK.
func TestThroughTheRuntimesLibrary(t *testing.T) {
	for _, cniVersion := range version.All.SupportedVersions() {
		t.Run(cniVersion, func(t *testing.T) {
			t.Parallel()
			w := newAgent(t, func(_ context.Context, req *wire.Request) *wire.Reply {
				if req.Verb == wire.VerbAdd {
					return &wire.Reply{IPs: []wire.IP{v4, v6}, Routes: routes4}
				}
				return &wire.Reply{}
			})
			list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"macvlan-net","plugins":[%s]}`, cniVersion,
				w.netconf(netKey("type", "spiderpool"), netKey("name", nil), netKey("cniVersion", nil))))
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			runtime := libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(plugin)}, t.TempDir(), nil)
			pod := &libcni.RuntimeConf{ContainerID: "c1", NetNS: "/run/netns/absent", IfName: "net1",
				Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web-0"}}}

			result, err := runtime.AddNetworkList(ctx, list, pod)
			if err != nil {
				t.Fatalf("ADD: %v", err)
			}
			got, err := types100.NewResultFromResult(result)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.IPs) != 2 || got.IPs[0].Address.String() != "10.6.1.7/16" || got.IPs[1].Gateway.String() != "fd00::1" || len(got.Routes) != 2 {
				t.Errorf("result %v", got)
			}
			want := "ADD"
			if atLeast(t, cniVersion, "0.4.0") {
				want += " CHECK"
				if err := runtime.CheckNetworkList(ctx, list, pod); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				if held := w.asked()[1].Held; fmt.Sprint(held) != "[10.6.1.7 fd00::7]" {
					t.Errorf("CHECK asked for %v", held)
				}
			}
			if atLeast(t, cniVersion, "1.1.0") {
				want += " STATUS GC"
				if err := runtime.GetStatusNetworkList(ctx, list); err != nil {
					t.Errorf("STATUS: %v", err)
				}
				if err := runtime.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
					{ContainerID: "c1", IfName: "net1"}}}); err != nil {
					t.Errorf("GC: %v", err)
				}
			}
			for range 2 { // the second time there is nothing left
				want += " DEL"
				if err := runtime.DelNetworkList(ctx, list, pod); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if w.verbs() != want {
				t.Errorf("the agent was asked %s, want %s", w.verbs(), want)
			}
		})
	}
}

func atLeast(t *testing.T, v, other string) bool {
	t.Helper()
	is, err := version.GreaterThanOrEqualTo(v, other)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// A main plugin hands its own input on to its IPAM plugin. This one does it for every verb.
func TestGCThroughAMainPlugin(t *testing.T) {
	w := newAgent(t, anAddress)
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %q\n", plugin)
	if err := os.WriteFile(filepath.Join(dir, "macvlan"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"macvlan-net","plugins":[%s]}`,
		w.netconf(netKey("name", nil), netKey("cniVersion", nil))))
	if err != nil {
		t.Fatal(err)
	}
	runtime := libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
	for _, id := range []string{"c1", "c2"} {
		pod := &libcni.RuntimeConf{ContainerID: id, NetNS: "/run/netns/absent", IfName: "net1",
			Args: [][2]string{{"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web-0"}}}
		if _, err := runtime.AddNetworkList(t.Context(), list, pod); err != nil {
			t.Fatalf("ADD: %v", err)
		}
	}
	// The library itself sends the DELs of what it remembers and is not listed.
	for _, valid := range [][]types.GCAttachment{{{ContainerID: "c2", IfName: "net1"}}, nil} {
		if err := runtime.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
			t.Errorf("GC: %v", err)
		}
	}
	var got []string
	for _, req := range w.asked() {
		got = append(got, fmt.Sprintf("%s %s%v", req.Verb, req.ContainerID, req.Attachments))
	}
	want := []string{"ADD c1[]", "ADD c2[]", "DEL c1[]", "GC [{c2 net1}]", "DEL c2[]", "GC []"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +asked):\n%s", diff)
	}
	// A runtime that does not say what is valid.
	if err := runtime.GCNetworkList(t.Context(), list, nil); err == nil || !strings.Contains(err.Error(), "cni.dev/valid-attachments") {
		t.Errorf("GC without a list: %v", err)
	}
}
