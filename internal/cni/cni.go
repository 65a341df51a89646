// Package cni is the plugin: it turns one CNI call into one request to the agent of the node, and the agent's reply
// into the result that the runtime reads. It decides nothing about addresses.
//
// It implements the CNI specifications 0.1.0 to 1.1.0 as a delegated IPAM plugin. A result holds addresses, gateways and
// routes; interfaces and DNS belong to the main plugin. Errors carry a code, one line of text, and details.
//
// A log file is written at the configured level: failures at error, a DEL that met an obstacle at warn, successful calls
// at debug only. So at the default level, info, a healthy node opens no file at all. A log file that cannot be written
// never fails a call.
package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/spidernet-io/spiderpool/internal/buildinfo"
	"github.com/spidernet-io/spiderpool/internal/wire"
)

// All durations of the plugin.
const (
	// addTimeout is more than agentWait and the 55 s after which the agent ends an ADD by itself, 45 of which may be a wait
	// for an address: so the runtime gets the agent's reason and not a broken call. The kubelet gives all interfaces of a
	// pod 4 minutes together.
	addTimeout = 60 * time.Second
	// The agent answers the other verbs at once; these are for a node in need. libcni calls DEL one network after the other.
	checkTimeout  = 30 * time.Second
	delTimeout    = 10 * time.Second
	statusTimeout = 5 * time.Second
	gcTimeout     = 30 * time.Second
	// takeBackTimeout is what a failed ADD has left to take back what it may have claimed.
	takeBackTimeout = 5 * time.Second
	// agentWait is how long a call looks for the socket, and agentInterval how often: while an agent is replaced there is
	// none. STATUS also waits so long for an agent that is starting, within statusTimeout.
	agentWait     = 3 * time.Second
	agentInterval = 50 * time.Millisecond
)

// call is one execution of the plugin.
type call struct {
	began time.Time
	// conf is the default configuration until the one on stdin has been read.
	conf config
	// socketFrom says where conf.socket comes from, for people.
	socketFrom string
	log        *slog.Logger
	// result is what an ADD prints.
	result *types100.Result
	// pending is the attachment of an ADD that may hold addresses of which the runtime has not been told.
	pending *wire.Note
}

// Main serves the CNI call that the environment and stdin describe, prints its result or its error to stdout, and
// returns the exit code. Called by cmd/spiderpool.
func Main(ctx context.Context) int {
	c := &call{began: time.Now(), conf: defaults(), log: slog.New(slog.DiscardHandler)}
	verb := os.Getenv("CNI_COMMAND")
	failed := guard(func() error { return c.serve(ctx, verb) })
	if failed == nil {
		c.log.Debug(verb + " served")
		return 0
	}
	if verb == "ADD" {
		// What people and tools look for in the Events of a pod.
		failed.Msg = "spiderpool IP allocation error: " + failed.Msg
	}
	c.log.Error(verb+" failed", "code", failed.Code, "error", failed)
	if taken := guard(func() error { return c.takeBack(ctx) }); taken != nil {
		c.log.Error("addresses that this ADD may hold are not taken back before a DEL comes", "error", taken)
	}
	printError(os.Stdout, c.conf.cniVersion, failed)
	return 1
}

// serve dispatches the call. DEL goes past skel, which would refuse it for a configuration that is broken or of an
// unknown version: a container must be removable whatever became of its configuration.
func (c *call) serve(ctx context.Context, verb string) error {
	if verb == "DEL" {
		return c.del(ctx, os.Getenv, os.Stdin)
	}
	within := func(timeout time.Duration, serve func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(in *skel.CmdArgs) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return serve(ctx, in)
		}
	}
	funcs := skel.CNIFuncs{Add: within(addTimeout, c.add), Check: within(checkTimeout, c.check),
		Status: within(statusTimeout, c.status), GC: within(gcTimeout, c.gc)}
	if failed := skel.PluginMainFuncsWithError(funcs, version.All, about(verb)); failed != nil {
		return failed
	}
	if c.result == nil {
		return nil
	}
	return c.deliver(os.Stdout)
}

// deliver prints the result of an ADD. skel calls the verbs too early for that: it may still find a fault afterwards.
func (c *call) deliver(stdout io.Writer) error {
	converted, err := c.result.GetAsVersion(c.conf.cniVersion)
	if err == nil {
		err = converted.PrintTo(stdout)
	}
	if err != nil {
		return wire.Errorf(wire.CodeIO, "print the result: %v", err)
	}
	return nil
}

// guard returns the error of serve as the runtime is told it, and turns a panic into one, so that it is reported as CNI
// wants and never taken for success.
func guard(serve func() error) (failed *types.Error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", p, debug.Stack())
			failed = types.NewError(wire.CodeInternal, fmt.Sprintf("spiderpool failed: panic: %v", p), "stderr has the stack")
		}
	}()
	return cniError(serve())
}

// cniError returns err as the runtime is told it: its text on one line.
func cniError(err error) *types.Error {
	if err == nil {
		return nil
	}
	told := &wire.Error{Msg: err.Error()}
	errors.As(err, &told)
	lines := strings.FieldsFunc(told.Msg, func(r rune) bool { return r == '\n' || r == '\r' })
	return types.NewError(cmp.Or(told.Code, wire.CodeInternal), strings.Join(lines, " "), told.Details)
}

// printError prints the error structure of CNI, in which types.Error lacks the version.
func printError(stdout io.Writer, cniVersion string, failed *types.Error) {
	out := json.NewEncoder(stdout)
	out.SetIndent("", "    ")
	out.SetEscapeHTML(false)
	_ = out.Encode(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{cniVersion, failed})
}

// about is what skel prints for a person who executes the plugin without a call.
func about(verb string) string {
	if verb != "" {
		return ""
	}
	return "CNI IPAM plugin spiderpool " + buildinfo.Version()
}
