package cni

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

var (
	v4 = wire.IP{Address: netip.MustParsePrefix("10.6.1.7/16"), Gateway: netip.MustParseAddr("10.6.0.1"), Pool: "v4"}
	v6 = wire.IP{Address: netip.MustParsePrefix("fd00::7/64"), Gateway: netip.MustParseAddr("fd00::1"), Pool: "v6"}

	routes4 = []wire.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), GW: netip.MustParseAddr("10.6.0.1")},
		{Dst: netip.MustParsePrefix("192.168.0.0/16")},
	}
	routes6 = []wire.Route{{Dst: netip.MustParsePrefix("::/0"), GW: netip.MustParseAddr("fd00::1")}}
)

func answer(reply *wire.Reply) func(context.Context, *wire.Request) *wire.Reply {
	return func(context.Context, *wire.Request) *wire.Reply { return reply }
}

func ok(context.Context, *wire.Request) *wire.Reply { return &wire.Reply{} }

func anAddress(context.Context, *wire.Request) *wire.Reply { return &wire.Reply{IPs: []wire.IP{v4}} }

// results are the printed results, compacted, per generation of the CNI specification and families. %s is the version.
var results = map[string]map[string]string{
	"0.1.0 0.2.0": {
		"v4": `{"cniVersion":"%s","ip4":{"ip":"10.6.1.7/16","gateway":"10.6.0.1","routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"}]},"dns":{}}`,
		"v6": `{"cniVersion":"%s","ip6":{"ip":"fd00::7/64","gateway":"fd00::1","routes":[{"dst":"::/0","gw":"fd00::1"}]},"dns":{}}`,
		"both": `{"cniVersion":"%s","ip4":{"ip":"10.6.1.7/16","gateway":"10.6.0.1","routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"}]},` +
			`"ip6":{"ip":"fd00::7/64","gateway":"fd00::1","routes":[{"dst":"::/0","gw":"fd00::1"}]},"dns":{}}`,
		"bare": `{"cniVersion":"%s","ip4":{"ip":"10.6.1.7/16"},"dns":{}}`,
	},
	"0.3.0 0.3.1 0.4.0": {
		"v4": `{"cniVersion":"%s","ips":[{"version":"4","address":"10.6.1.7/16","gateway":"10.6.0.1"}],"routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"}],"dns":{}}`,
		"v6": `{"cniVersion":"%s","ips":[{"version":"6","address":"fd00::7/64","gateway":"fd00::1"}],"routes":[` +
			`{"dst":"::/0","gw":"fd00::1"}],"dns":{}}`,
		"both": `{"cniVersion":"%s","ips":[{"version":"4","address":"10.6.1.7/16","gateway":"10.6.0.1"},` +
			`{"version":"6","address":"fd00::7/64","gateway":"fd00::1"}],"routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"},{"dst":"::/0","gw":"fd00::1"}],"dns":{}}`,
		"bare": `{"cniVersion":"%s","ips":[{"version":"4","address":"10.6.1.7/16"}],"dns":{}}`,
	},
	"1.0.0 1.1.0": {
		"v4": `{"cniVersion":"%s","ips":[{"address":"10.6.1.7/16","gateway":"10.6.0.1"}],"routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"}]}`,
		"v6": `{"cniVersion":"%s","ips":[{"address":"fd00::7/64","gateway":"fd00::1"}],"routes":[` +
			`{"dst":"::/0","gw":"fd00::1"}]}`,
		"both": `{"cniVersion":"%s","ips":[{"address":"10.6.1.7/16","gateway":"10.6.0.1"},` +
			`{"address":"fd00::7/64","gateway":"fd00::1"}],"routes":[` +
			`{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"192.168.0.0/16"},{"dst":"::/0","gw":"fd00::1"}]}`,
		"bare": `{"cniVersion":"%s","ips":[{"address":"10.6.1.7/16"}]}`,
	},
}

func TestAddPrintsTheResultOfEveryVersion(t *testing.T) {
	replies := map[string]*wire.Reply{
		"v4":   {IPs: []wire.IP{v4}, Routes: routes4},
		"v6":   {IPs: []wire.IP{v6}, Routes: routes6},
		"both": {IPs: []wire.IP{v4, v6}, Routes: append(routes4[:2:2], routes6...)},
		"bare": {IPs: []wire.IP{{Address: v4.Address}}},
	}
	for versions, families := range results {
		for _, version := range strings.Fields(versions) {
			for family, want := range families {
				t.Run(version+"/"+family, func(t *testing.T) {
					t.Parallel()
					w := newAgent(t, answer(replies[family]))
					got := execPlugin(t, environ("ADD"), w.netconf(netKey("cniVersion", version)))
					got.succeeded(t)
					var compact bytes.Buffer
					if err := json.Compact(&compact, []byte(got.stdout)); err != nil {
						t.Fatalf("%v: %q", err, got.stdout)
					}
					if diff := cmp.Diff(canonical(t, fmt.Sprintf(want, version)), canonical(t, compact.String())); diff != "" {
						t.Errorf("(-want +printed):\n%s", diff)
					}
				})
			}
		}
	}
}

// canonical returns JSON with its keys in order.
func canonical(t *testing.T, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v: %q", err, s)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAddWithoutCNIVersionIsOfTheFirst(t *testing.T) {
	w := newAgent(t, anAddress)
	got := execPlugin(t, environ("ADD"), w.netconf(netKey("cniVersion", nil)))
	got.succeeded(t)
	if !strings.Contains(got.stdout, `"cniVersion": "0.1.0"`) || !strings.Contains(got.stdout, `"ip4"`) {
		t.Errorf("%s", got.stdout)
	}
}

func TestAddPassesOnWhatItWasGiven(t *testing.T) {
	base := wire.Request{Protocol: wire.Protocol, Verb: wire.VerbAdd, Network: "macvlan-net", ContainerID: "c1",
		Interface: "net1", Netns: "/run/netns/absent", Pod: wire.Pod{Namespace: "default", Name: "web-0", UID: "u-1"}}
	asks := func(ips ...string) func(*wire.Request) {
		return func(req *wire.Request) {
			for _, ip := range ips {
				req.RequestedIPs = append(req.RequestedIPs, netip.MustParseAddr(ip))
			}
		}
	}
	runtime := func(ips ...string) func(net, ipam object) {
		return netKey("runtimeConfig", object{"ips": ips, "mac": "x"})
	}
	args := func(ips ...string) func(net, ipam object) {
		return netKey("args", object{"cni": object{"ips": ips}, "labels": object{"a": "b"}})
	}
	type edits = []func(net, ipam object)
	tests := []struct {
		name  string
		env   []string
		edits edits
		want  func(*wire.Request)
	}{
		{"nothing more", nil, nil, func(*wire.Request) {}},
		{"pools", nil, edits{ipamKey("default_ipv4_ippool", []string{"b", "a"}), ipamKey("default_ipv6_ippool", []string{"c"})},
			func(req *wire.Request) { req.IPv4Pools, req.IPv6Pools = []string{"b", "a"}, []string{"c"} }},
		{"flag", nil, edits{ipamKey("clean_gateway", true)}, func(req *wire.Request) { req.CleanGateway = true }},
		{"parent interface", nil, edits{ipamKey("match_master_subnet", true), netKey("master", "lo"), netKey("deviceID", "")},
			func(req *wire.Request) { req.MatchMasterSubnet, req.Parent = true, loopback(t) }},
		{"null and empty are absent", nil, edits{ipamKey("default_ipv4_ippool", nil), ipamKey("clean_gateway", nil),
			ipamKey("log_level", ""), ipamKey("log_file_max_size", nil), runtime(), args()}, func(*wire.Request) {}},
		{"every log key as number", nil, edits{ipamKey("log_level", "INFO"), ipamKey("log_file_max_size", 7),
			ipamKey("log_file_max_age", 0), ipamKey("log_file_max_count", 3)}, func(*wire.Request) {}},
		{"every log key as string", nil, edits{ipamKey("log_level", "fatal"), ipamKey("log_file_max_size", "7"),
			ipamKey("log_file_max_age", "30"), ipamKey("log_file_max_count", "0")}, func(*wire.Request) {}},
		{"keys of the main plugin", nil, edits{netKey("mode", "bridge"), netKey("dns", object{"nameservers": []string{"1.1.1.1"}}),
			netKey("capabilities", object{"ips": true})}, func(*wire.Request) {}},
		{"pod without UID", []string{"CNI_ARGS=K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"}, nil,
			func(req *wire.Request) { req.Pod = wire.Pod{Namespace: "a", Name: "b"} }},
		{"unknown argument to ignore", []string{"CNI_ARGS=FOO=bar;" + k8sArgs}, nil, func(*wire.Request) {}},
		{"runtimeConfig.ips", nil, edits{runtime("fd00::7/64", "10.6.1.7")}, asks("10.6.1.7", "fd00::7")},
		{"args.cni.ips", nil, edits{args("10.6.1.7/16")}, asks("10.6.1.7")},
		{"CNI_ARGS IP", []string{"CNI_ARGS=IP=10.6.1.7/24, fd00::7;" + k8sArgs}, nil, asks("10.6.1.7", "fd00::7")},
		{"all three agree", []string{"CNI_ARGS=IP=fd00::7,10.6.1.7,10.6.1.7;" + k8sArgs},
			edits{runtime("10.6.1.7/16", "fd00:0::7"), args("fd00::7", "::ffff:10.6.1.7")}, asks("10.6.1.7", "fd00::7")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newAgent(t, anAddress)
			execPlugin(t, environ("ADD", test.env...), w.netconf(test.edits...)).succeeded(t)
			want := base
			test.want(&want)
			if diff := cmp.Diff([]wire.Request{want}, w.asked(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +asked):\n%s", diff)
			}
		})
	}
}

// rawAgent serves w's socket with bytes: every request is shown to answer, which returns what is sent back before the
// connection is closed.
func rawAgent(t *testing.T, w *world, answer func(l io.Closer, verb wire.Verb) string) {
	t.Helper()
	l, err := wire.Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadBytes('\n')
			var req wire.Request
			if err := json.Unmarshal(line, &req); err != nil {
				t.Errorf("request %q: %v", line, err)
			}
			w.mu.Lock()
			w.requests = append(w.requests, req)
			w.mu.Unlock()
			_, _ = conn.Write([]byte(answer(l, req.Verb)))
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		done.Wait()
	})
}

var noteOfC1 = wire.Note{Network: "macvlan-net", ContainerID: "c1", Interface: "net1", Netns: "/run/netns/absent",
	Pod: wire.Pod{Namespace: "default", Name: "web-0", UID: "u-1"}}

func TestAddOfUnknownOutcomeIsTakenBack(t *testing.T) {
	const half = `{"protocol":1,"ips":[{"address":"10.6.1.7/16","gate`
	const whole = `{"protocol":1}` + "\n"
	tests := []struct {
		name   string
		answer func(l io.Closer, verb wire.Verb) string
		verbs  string
		notes  []wire.Note
	}{
		{"half a reply, then the agent is well", func(_ io.Closer, verb wire.Verb) string {
			if verb == wire.VerbAdd {
				return half
			}
			return whole
		}, "ADD DEL", nil},
		{"no reply, then the agent is well", func(_ io.Closer, verb wire.Verb) string {
			if verb == wire.VerbAdd {
				return ""
			}
			return whole
		}, "ADD DEL", nil},
		{"half a reply, then the agent is gone", func(l io.Closer, _ wire.Verb) string {
			_ = l.Close()
			return half
		}, "ADD", []wire.Note{noteOfC1}},
		{"half a reply to everything", func(io.Closer, wire.Verb) string { return half }, "ADD DEL", []wire.Note{noteOfC1}},
		{"half a reply, and an error to the DEL", func(_ io.Closer, verb wire.Verb) string {
			if verb == wire.VerbAdd {
				return half
			}
			return `{"protocol":1,"error":{"code":999,"msg":"no"}}` + "\n"
		}, "ADD DEL", []wire.Note{noteOfC1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			rawAgent(t, w, test.answer)
			failed := execPlugin(t, environ("ADD"), w.netconf()).failure(t)
			if failed.Code != wire.CodeIO || !strings.Contains(failed.Msg, w.socket) {
				t.Errorf("code %d, %q", failed.Code, failed.Msg)
			}
			if w.verbs() != test.verbs {
				t.Errorf("the agent was asked %s, want %s", w.verbs(), test.verbs)
			}
			for _, req := range w.asked() {
				if req.ContainerID != "c1" || req.Interface != "net1" {
					t.Errorf("%s of %s, %s", req.Verb, req.ContainerID, req.Interface)
				}
			}
			if diff := cmp.Diff(test.notes, w.notes(t)); diff != "" {
				t.Errorf("notes (-want +left):\n%s", diff)
			}
		})
	}
}

func TestAddThatTheRuntimeGivesUpIsTakenBack(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := newAgent(t, func(held context.Context, req *wire.Request) *wire.Reply {
		if req.Verb == wire.VerbAdd {
			cancel()
			<-held.Done()
		}
		return &wire.Reply{IPs: []wire.IP{v4}}
	})
	c := newCall()
	in := &skel.CmdArgs{ContainerID: "c1", IfName: "net1", Args: k8sArgs, StdinData: []byte(w.netconf())}
	if failed := cniError(c.add(ctx, in)); failed == nil || failed.Code != wire.CodeIO {
		t.Errorf("%v", failed)
	}
	if err := c.takeBack(context.Background()); err != nil {
		t.Error(err)
	}
	if w.verbs() != "ADD DEL" {
		t.Errorf("the agent was asked %s", w.verbs())
	}
}

func TestAddWhoseResultCannotBeDeliveredIsTakenBack(t *testing.T) {
	t.Run("stdout takes nothing", func(t *testing.T) {
		w := newAgent(t, anAddress)
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		cmd := exec.Command(plugin)
		cmd.Env, cmd.Stdin, cmd.Stdout = environ("ADD"), strings.NewReader(w.netconf()), full
		if err := cmd.Run(); err == nil {
			t.Error("exit code 0")
		}
		if w.verbs() != "ADD DEL" {
			t.Errorf("the agent was asked %s", w.verbs())
		}
	})
	t.Run("the network namespace is the plugin's own", func(t *testing.T) {
		w := newAgent(t, anAddress)
		failed := execPlugin(t, environ("ADD", "CNI_NETNS=/proc/self/ns/net"), w.netconf()).failure(t)
		if failed.Code != 8 {
			t.Errorf("code %d: %s", failed.Code, failed.Msg)
		}
		if w.verbs() != "ADD DEL" {
			t.Errorf("the agent was asked %s", w.verbs())
		}
	})
	for name, reply := range map[string]*wire.Reply{
		"the reply has no address":   {Routes: routes4},
		"the reply's address is bad": {IPs: []wire.IP{{Pool: "v4"}}},
		"the reply's route is bad":   {IPs: []wire.IP{v4}, Routes: []wire.Route{{GW: v4.Gateway}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newAgent(t, answer(reply))
			failed := execPlugin(t, environ("ADD"), w.netconf()).failure(t)
			if failed.Code != wire.CodeInternal || !strings.Contains(failed.Msg, "net1") {
				t.Errorf("code %d: %s", failed.Code, failed.Msg)
			}
			if w.verbs() != "ADD DEL" {
				t.Errorf("the agent was asked %s", w.verbs())
			}
		})
	}
}

func TestAddThatTheAgentRefusedIsNotTakenBack(t *testing.T) {
	w := newAgent(t, answer(&wire.Reply{Error: &wire.Error{Code: wire.CodeTryAgain, Msg: "full"}}))
	execPlugin(t, environ("ADD"), w.netconf()).failure(t)
	if w.verbs() != "ADD" || len(w.notes(t)) != 0 {
		t.Errorf("the agent was asked %s and left %v", w.verbs(), w.notes(t))
	}
}

func TestAddWaitsForTheSocketOfAnAgentThatIsReplaced(t *testing.T) {
	w := newWorld(t)
	c := newCall()
	in := &skel.CmdArgs{ContainerID: "c1", IfName: "net1", Args: k8sArgs, StdinData: []byte(w.netconf())}
	req, err := c.prepare(wire.VerbAdd, in)
	if err != nil {
		t.Fatal(err)
	}
	begin := sync.OnceFunc(func() { w.serve(t, anAddress) })
	reply, err := c.ask(context.Background(), req, func(err error) bool {
		begin()
		return nothingHappened(err)
	})
	if err != nil || len(reply.IPs) != 1 {
		t.Errorf("%v, %v", reply, err)
	}
}

func TestAddWithoutAnAgentSaysWhereToLook(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	failed := execPlugin(t, environ("ADD"), w.netconf()).failure(t)
	if failed.Code != wire.CodeTryAgain {
		t.Errorf("code %d", failed.Code)
	}
	for _, want := range []string{"spiderpool IP allocation error: unhealthy spiderpool-agent backend", w.socket, "kubectl"} {
		if !strings.Contains(failed.Msg, want) {
			t.Errorf("%q does not hold %q", failed.Msg, want)
		}
	}
	if notes := w.notes(t); len(notes) != 0 {
		t.Errorf("notes of an ADD that never began: %v", notes)
	}
}

// loopback are the addresses of the interface lo, which no machine is without.
func loopback(t *testing.T) (out []netip.Addr) {
	t.Helper()
	link, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := link.Addrs()
	if err != nil || len(addresses) == 0 {
		t.Fatalf("lo has the addresses %v, error %v", addresses, err)
	}
	for _, a := range addresses {
		out = append(out, netip.MustParsePrefix(a.String()).Addr())
	}
	return out
}
