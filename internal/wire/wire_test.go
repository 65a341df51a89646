package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// deadline is when a test that waits for something gives up.
const deadline = time.Minute

var byValue = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
}

// newSocket returns a path short enough for a unix socket whatever TMPDIR and the test's name are.
func newSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

// serve serves a new socket with handle until the test ends or stop is called, which waits for Serve to return.
func serve(t *testing.T, handle func(context.Context, *Request) *Reply) (socket string, stop func()) {
	t.Helper()
	socket = newSocket(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, 0, handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := await(t, done); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return socket, stop
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func fullRequest() *Request {
	return &Request{
		Verb: VerbAdd, Network: "macvlan", ContainerID: "c1", Interface: "net1", Netns: "/run/netns/x",
		Pod:       Pod{Namespace: "default", Name: "web-0", UID: "u-1"},
		IPv4Pools: []string{"v4-a", "v4-b"}, IPv6Pools: []string{"v6"}, CleanGateway: true, MatchMasterSubnet: true,
		RequestedIPs: []netip.Addr{netip.MustParseAddr("10.6.1.7"), netip.MustParseAddr("fd00::7")},
		Held:         []netip.Addr{netip.MustParseAddr("10.6.1.8")},
		Attachments:  []Attachment{{ContainerID: "c1", Interface: "eth0"}},
	}
}

func fullReply() *Reply {
	return &Reply{
		IPs: []IP{
			{Address: netip.MustParsePrefix("10.6.1.7/16"), Gateway: netip.MustParseAddr("10.6.0.1"), Pool: "v4-a"},
			{Address: netip.MustParsePrefix("fd00::7/64"), Pool: "v6"},
		},
		Routes: []Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), GW: netip.MustParseAddr("10.6.0.1")},
			{Dst: netip.MustParsePrefix("192.168.0.0/16")},
		},
	}
}

func TestEveryFieldArrives(t *testing.T) {
	got := make(chan *Request, 1)
	socket, _ := serve(t, func(_ context.Context, req *Request) *Reply {
		got <- req
		return fullReply()
	})
	reply, err := Call(testContext(t), socket, fullRequest())
	if err != nil {
		t.Fatal(err)
	}
	wantRequest, wantReply := fullRequest(), fullReply()
	wantRequest.Protocol, wantReply.Protocol = Protocol, Protocol
	if diff := cmp.Diff(wantRequest, await(t, got), byValue); diff != "" {
		t.Errorf("request (-sent +received):\n%s", diff)
	}
	if diff := cmp.Diff(wantReply, reply, byValue); diff != "" {
		t.Errorf("reply (-sent +received):\n%s", diff)
	}
}

func TestErrorReplyIsTheError(t *testing.T) {
	sent := &Error{Code: CodeNoPool, Msg: "no pool fits", Details: "v4-a: disabled"}
	socket, _ := serve(t, func(context.Context, *Request) *Reply { return &Reply{Error: sent} })
	_, err := Call(testContext(t), socket, fullRequest())
	var got *Error
	if !errors.As(err, &got) || *got != *sent {
		t.Errorf("error %v, want %v", err, sent)
	}
	if errors.Is(err, ErrNoAgent) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("an answered error counts as a broken call: %v", err)
	}
	if want := "no pool fits; v4-a: disabled"; err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
}

// exchange sends raw bytes to the server and returns its whole answer.
func exchange(t *testing.T, socket string, raw []byte) []byte {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	if _, err := conn.Write(raw); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return answer
}

func TestServerRefusesBadRequests(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, req *Request) *Reply { return fullReply() })
	tests := []struct {
		name, request string
		code          uint // 0: served
		text          string
	}{
		{"known fields", `{"protocol":1,"verb":"STATUS"}`, 0, ""},
		{"a field of a newer plugin", `{"protocol":1,"verb":"STATUS","colour":{"red":[1]}}`, 0, ""},
		{"spaces", ` { "protocol" : 1 , "verb" : "STATUS" } `, 0, ""},
		{"no JSON", `hello`, CodeDecode, "invalid character"},
		{"empty line", ``, CodeDecode, "unexpected end"},
		{"half", `{"protocol":1,"verb":"STA`, CodeDecode, "string literal"},
		{"two on one line", `{"protocol":1,"verb":"STATUS"}{"protocol":1}`, CodeDecode, "after top-level value"},
		{"wrong type", `{"protocol":1,"verb":7}`, CodeDecode, "verb"},
		{"bad address", `{"protocol":1,"verb":"ADD","requestedIPs":["10.6.1"]}`, CodeDecode, "10.6.1"},
		{"no protocol", `{"verb":"STATUS"}`, CodeDecode, "protocol"},
		{"newer protocol", `{"protocol":2,"verb":"STATUS"}`, CodeTryAgain, "protocol 2 and the agent 1"},
		{"unknown verb", `{"protocol":1,"verb":"EXPLODE"}`, CodeDecode, `"EXPLODE"`},
		{"no verb", `{"protocol":1}`, CodeDecode, `unknown verb ""`},
		{"too long", strings.Repeat(" ", MaxMessage) + `{}`, CodeDecode, "limit is 1048576"},
		{"just short enough", `{"protocol":1,"verb":"STATUS"}` + strings.Repeat(" ", MaxMessage-31), 0, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var reply Reply
			answer := exchange(t, socket, []byte(test.request+"\n"))
			if err := json.Unmarshal(answer, &reply); err != nil {
				t.Fatalf("answer %q: %v", answer, err)
			}
			if reply.Protocol != Protocol {
				t.Errorf("protocol %d", reply.Protocol)
			}
			switch {
			case test.code == 0 && reply.Error != nil:
				t.Errorf("refused: %v", reply.Error)
			case test.code != 0 && (reply.Error == nil || reply.Error.Code != test.code):
				t.Errorf("error %v, want code %d", reply.Error, test.code)
			case test.code != 0 && !strings.Contains(reply.Error.Msg, test.text):
				t.Errorf("text %q does not hold %q", reply.Error.Msg, test.text)
			}
		})
	}
}

// answerRaw accepts connections and answers each with the bytes that answer returns, then closes.
func answerRaw(t *testing.T, answer func() []byte) string {
	t.Helper()
	socket := newSocket(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_, _ = conn.Write(answer())
			_ = conn.Close()
		}
	}()
	return socket
}

func TestReplyCutAnywhereIsAnUnknownOutcome(t *testing.T) {
	whole, err := encode(&Reply{Protocol: Protocol, IPs: fullReply().IPs})
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan int, 1)
	socket := answerRaw(t, func() []byte { return whole[:<-cut] })
	for n := range len(whole) {
		cut <- n
		_, err := Call(testContext(t), socket, fullRequest())
		if !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("reply cut after %d of %d bytes: %v", n, len(whole), err)
		}
	}
	cut <- len(whole)
	if _, err := Call(testContext(t), socket, fullRequest()); err != nil {
		t.Errorf("whole reply: %v", err)
	}
}

func TestReplyThatMakesNoSenseIsAnUnknownOutcome(t *testing.T) {
	tests := map[string]string{
		"no JSON":        "hello\n",
		"wrong type":     `{"protocol":1,"ips":7}` + "\n",
		"newer protocol": `{"protocol":2}` + "\n",
		"no protocol":    `{}` + "\n",
		"too long":       `{"protocol":1}` + strings.Repeat(" ", MaxMessage) + "\n",
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			socket := answerRaw(t, func() []byte { return []byte(answer) })
			if _, err := Call(testContext(t), socket, fullRequest()); !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("error of a newer protocol is understood", func(t *testing.T) {
		socket := answerRaw(t, func() []byte { return []byte(`{"protocol":2,"error":{"code":11,"msg":"later"}}` + "\n") })
		var got *Error
		if _, err := Call(testContext(t), socket, fullRequest()); !errors.As(err, &got) || got.Code != CodeTryAgain {
			t.Errorf("%v", err)
		}
	})
	t.Run("field of a newer agent is ignored", func(t *testing.T) {
		socket := answerRaw(t, func() []byte { return []byte(`{"protocol":1,"weather":"fine"}` + "\n") })
		if _, err := Call(testContext(t), socket, fullRequest()); err != nil {
			t.Error(err)
		}
	})
}

func TestNobodyTakesTheRequest(t *testing.T) {
	stale := newSocket(t)
	leaveStale(t, stale)
	tests := map[string]string{
		"no directory":      filepath.Join(filepath.Dir(newSocket(t)), "absent", "s.sock"),
		"no socket":         newSocket(t),
		"nobody listens":    stale,
		"its queue is full": fullQueue(t),
	}
	for name, socket := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Call(testContext(t), socket, fullRequest())
			if !errors.Is(err, ErrNoAgent) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("request too long", func(t *testing.T) {
		req := &Request{Verb: VerbGC, Network: strings.Repeat("x", MaxMessage)}
		_, err := Call(testContext(t), stale, req)
		if err == nil || errors.Is(err, ErrNoAgent) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%v", err)
		}
	})
}

// leaveStale leaves a socket file that nobody listens on, as a killed agent does.
func leaveStale(t *testing.T, socket string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

// fullQueue returns a socket of a process that accepts nothing and whose queue has no room.
func fullQueue(t *testing.T) string {
	t.Helper()
	socket := newSocket(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", socket)
		if errors.Is(err, syscall.EAGAIN) {
			return socket
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func TestClientThatGoesAwayCancelsItsHandler(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	socket, _ := serve(t, func(ctx context.Context, _ *Request) *Reply {
		close(begun)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return &Reply{}
	})
	ctx, cancel := context.WithCancel(testContext(t))
	called := make(chan error, 1)
	go func() {
		_, err := Call(ctx, socket, fullRequest())
		called <- err
	}()
	await(t, begun)
	cancel()
	if err := await(t, called); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("Call: %v", err)
	}
	if err := await(t, ended); !errors.Is(err, errClientGone) {
		t.Errorf("handler's context ended with %v", err)
	}
}

func TestSlowClientsAreServedAndHoldUpNobody(t *testing.T) {
	socket, stop := serve(t, func(context.Context, *Request) *Reply { return fullReply() })
	silent, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	slow, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	line, err := encode(&Request{Protocol: Protocol, Verb: VerbStatus})
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range line {
		if _, err := slow.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if _, err := Call(testContext(t), socket, fullRequest()); err != nil {
				t.Fatalf("another client, while one sends byte %d: %v", i, err)
			}
		}
	}
	var reply Reply
	_ = slow.SetReadDeadline(time.Now().Add(deadline))
	if err := decode(slow, &reply); err != nil || reply.Error != nil {
		t.Errorf("slow client: %v, %v", err, reply.Error)
	}

	// The silent client must not keep Serve from returning, and is told that its request was not begun.
	stop()
	_ = silent.SetReadDeadline(time.Now().Add(deadline))
	if err := decode(silent, &reply); err != nil || reply.Error == nil || reply.Error.Code != CodeTryAgain {
		t.Errorf("silent client: %v, %v", err, reply.Error)
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	const clients = 64
	var together sync.WaitGroup
	together.Add(clients)
	socket, _ := serve(t, func(_ context.Context, req *Request) *Reply {
		together.Done()
		together.Wait() // every call is in its handler at the same time
		return &Reply{Error: &Error{Code: CodeNoPool, Msg: req.ContainerID}}
	})
	var done sync.WaitGroup
	for i := range clients {
		done.Go(func() {
			id := fmt.Sprint("c", i)
			_, err := Call(testContext(t), socket, &Request{Verb: VerbAdd, ContainerID: id})
			if err == nil || err.Error() != id {
				t.Errorf("%s was answered %v", id, err)
			}
		})
	}
	done.Wait()
}

func TestServerSurvivesItsHandlers(t *testing.T) {
	socket, _ := serve(t, func(_ context.Context, req *Request) *Reply {
		switch req.ContainerID {
		case "panic":
			panic("out of cheese")
		case "nil":
			return nil
		case "long":
			return &Reply{Error: &Error{Code: 1, Msg: strings.Repeat("x", MaxMessage)}}
		}
		return fullReply()
	})
	for _, test := range []struct{ id, text string }{
		{"panic", "out of cheese"}, {"nil", "no answer to ADD"}, {"long", "limit is 1048576"},
	} {
		_, err := Call(testContext(t), socket, &Request{Verb: VerbAdd, ContainerID: test.id})
		var got *Error
		if !errors.As(err, &got) || got.Code != CodeInternal || !strings.Contains(got.Msg, test.text) {
			t.Errorf("%s: %v", test.id, err)
		}
		if _, err := Call(testContext(t), socket, fullRequest()); err != nil {
			t.Errorf("after %s: %v", test.id, err)
		}
	}
}

func TestServeEndsWhenItsHandlersHave(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	socket := newSocket(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, 0, func(ctx context.Context, _ *Request) *Reply {
			close(begun)
			<-ctx.Done()
			<-finish
			return fullReply()
		})
	}()
	called := make(chan error, 1)
	go func() {
		_, err := Call(testContext(t), socket, fullRequest())
		called <- err
	}()
	await(t, begun)
	cancel()

	// New calls find nobody, yet no second agent can begin while the handler works.
	untilNobodyServes(t, socket)
	if second, err := Listen(socket); err == nil {
		_ = second.Close()
		t.Error("a second agent could listen while a handler of the first was at work")
	}
	select {
	case err := <-served:
		t.Fatalf("Serve returned %v before its handler", err)
	default:
	}

	close(finish)
	if err := await(t, called); err != nil {
		t.Errorf("the call that was being served: %v", err)
	}
	if err := await(t, served); err != nil {
		t.Errorf("Serve: %v", err)
	}
	second, err := Listen(socket)
	if err != nil {
		t.Fatalf("after Serve has returned: %v", err)
	}
	_ = second.Close()
}

func untilNobodyServes(t *testing.T, socket string) {
	t.Helper()
	eventually(t, "nobody serves the socket", func() bool {
		_, err := Call(testContext(t), socket, &Request{Verb: VerbStatus})
		return errors.Is(err, ErrNoAgent)
	})
}

// TestServeGivesGrace: a handler at work is not cancelled with Serve, but when the grace is over.
func TestServeGivesGrace(t *testing.T) {
	for _, grace := range []time.Duration{time.Hour, 50 * time.Millisecond} {
		begun, finish := make(chan struct{}), make(chan struct{})
		socket := newSocket(t)
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		served, called := make(chan error, 1), make(chan error, 1)
		go func() {
			served <- Serve(ctx, l, grace, func(ctx context.Context, _ *Request) *Reply {
				close(begun)
				select {
				case <-finish:
					return fullReply()
				case <-ctx.Done():
					return &Reply{Error: &Error{Code: CodeTryAgain, Msg: context.Cause(ctx).Error()}}
				}
			})
		}()
		go func() {
			_, err := Call(testContext(t), socket, fullRequest())
			called <- err
		}()
		await(t, begun)
		cancel()
		untilNobodyServes(t, socket)
		finished := grace == time.Hour
		if finished {
			close(finish)
		}
		if err := await(t, called); (err == nil) != finished {
			t.Errorf("grace %s: the call that was being served: %v", grace, err)
		}
		if err := await(t, served); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestServeReportsAListenerThatIsClosed(t *testing.T) {
	l, err := Listen(newSocket(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = Serve(testContext(t), l, 0, func(context.Context, *Request) *Reply { return nil })
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestListenMakesASocketForTheOwnerAlone(t *testing.T) {
	socket := filepath.Join(filepath.Dir(newSocket(t)), "new", "dir", "s.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if want := fs.ModeSocket | 0o600; info.Mode() != want {
		t.Errorf("mode %v, want %v", info.Mode(), want)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there after Close: %v", err)
	}
}

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	socket := newSocket(t)
	leaveStale(t, socket)
	l, err := Listen(socket)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	_ = l.Close()

	precious := []byte("not a socket")
	if err := os.WriteFile(socket, precious, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(socket); err == nil || !strings.Contains(err.Error(), socket) {
		t.Errorf("a file in the place of the socket: %v", err)
	}
	if content, err := os.ReadFile(socket); err != nil || !bytes.Equal(content, precious) {
		t.Errorf("the file is now %q, %v", content, err)
	}
	_ = os.Remove(socket)
	if l, err = Listen(socket); err != nil {
		t.Fatalf("a failed Listen kept the lock: %v", err)
	}
	_ = l.Close()
}

// childSocket makes the test binary an agent that serves this socket until it is killed.
const childSocket = "WIRE_TEST_SERVE"

func TestMain(m *testing.M) {
	if socket := os.Getenv(childSocket); socket != "" {
		l, err := Listen(socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("listening")
		_ = Serve(context.Background(), l, 0, func(context.Context, *Request) *Reply { return &Reply{} })
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTwoAgentsNeverServeOneSocket(t *testing.T) {
	socket := newSocket(t)
	first := exec.Command(os.Args[0])
	first.Env = append(os.Environ(), childSocket+"="+socket)
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = first.Process.Kill()
		_ = first.Wait()
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the first agent said %q, %v", line, err)
	}

	_, err = Listen(socket)
	if err == nil {
		t.Fatal("the second agent listens too")
	}
	for _, want := range []string{socket, fmt.Sprint("process ", first.Process.Pid)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	if _, err := Call(testContext(t), socket, &Request{Verb: VerbStatus}); err != nil {
		t.Errorf("the first agent does not serve any more: %v", err)
	}

	_ = first.Process.Kill()
	_ = first.Wait()
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("want a stale socket of the killed agent: %v", err)
	}
	l, err := Listen(socket)
	if err != nil {
		t.Fatalf("after the first was killed: %v", err)
	}
	_ = l.Close()
}
