package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/spidernet-io/spiderpool/internal/wire"
)

// add asks for addresses and keeps the result for deliver.
func (c *call) add(ctx context.Context, in *skel.CmdArgs) error {
	req, err := c.prepare(wire.VerbAdd, in)
	if err != nil {
		return err
	}
	if req.Pod.Namespace == "" || req.Pod.Name == "" {
		return wire.Errorf(wire.CodeEnvironment, "CNI_ARGS names no pod: K8S_POD_NAMESPACE and K8S_POD_NAME must be set, "+
			"as the container runtimes of Kubernetes do; spiderpool serves pods only")
	}
	if req.MatchMasterSubnet {
		if req.Parent, err = c.conf.parentAddresses(); err != nil {
			return wire.Errorf(wire.CodeConfig, "ipam.match_master_subnet: %v", err)
		}
	}
	c.pending = &wire.Note{Network: req.Network, ContainerID: req.ContainerID, Interface: req.Interface, Netns: req.Netns, Pod: req.Pod}
	reply, err := c.ask(ctx, req, nothingHappened)
	if err != nil {
		if !errors.Is(err, wire.ErrUnknownOutcome) {
			c.pending = nil
		}
		return c.explain(err)
	}
	c.result, err = resultOf(reply, in.IfName)
	return err
}

// check asks whether the attachment still holds the addresses of its previous result.
func (c *call) check(ctx context.Context, in *skel.CmdArgs) error {
	req, err := c.prepare(wire.VerbCheck, in)
	if err != nil {
		return err
	}
	if req.Held, err = held(in.StdinData, in.IfName); err != nil {
		return err
	}
	_, err = c.ask(ctx, req, nothingHappened)
	return c.explain(err)
}

// status says whether an ADD would be served. Whatever is wrong may be an agent that is being replaced, and is asked
// again for a while, because the kubelet takes a failure for a node without a network.
func (c *call) status(ctx context.Context, in *skel.CmdArgs) error {
	if err := c.configure(in); err != nil {
		return err
	}
	req := &wire.Request{Verb: wire.VerbStatus, Network: c.conf.network}
	_, err := c.ask(ctx, req, func(error) bool { return true })
	if err == nil {
		return nil
	}
	failed := cniError(c.explain(err))
	if failed.Code != wire.CodeLimitedConnectivity {
		failed.Code = wire.CodeNotReady
	}
	return failed
}

// gc tells the agent which attachments of the network are valid, so that it may release all others. Runtimes carry on
// after a GC that failed, so nothing is kept for later; the agent finds by itself what is gone.
func (c *call) gc(ctx context.Context, in *skel.CmdArgs) error {
	if err := c.configure(in); err != nil {
		return err
	}
	attachments, err := valid(in.StdinData)
	if err != nil {
		return err
	}
	_, err = c.ask(ctx, &wire.Request{Verb: wire.VerbGC, Network: c.conf.network, Attachments: attachments}, nothingHappened)
	return c.explain(err)
}

// del gives the addresses back and succeeds in every state that it finds: the agent away, the network namespace or the
// pod gone, the configuration broken. What no agent could take becomes a note, which the agent reads when it is back. A
// DEL fails only if the container is not named, or if even the note cannot be written.
func (c *call) del(ctx context.Context, env func(string) string, stdin io.Reader) error {
	in, err := delArgs(env)
	if err != nil {
		return err
	}
	in.StdinData, err = io.ReadAll(stdin)
	err = errors.Join(err, c.configure(in))
	pod, _, argsErr := parseArgs(in.Args)
	if err = errors.Join(err, argsErr); err != nil {
		c.log.Warn("DEL goes on though its input is not as it should be", "error", err)
	}
	return c.release(ctx, delTimeout, &wire.Note{Network: c.conf.network, ContainerID: in.ContainerID, Interface: in.IfName,
		Netns: in.Netns, Pod: pod})
}

// delArgs reads the environment of a DEL.
func delArgs(env func(string) string) (*skel.CmdArgs, error) {
	in := &skel.CmdArgs{ContainerID: env("CNI_CONTAINERID"), Netns: env("CNI_NETNS"), IfName: env("CNI_IFNAME"),
		Args: env("CNI_ARGS")}
	failed := validateAttachment(in.ContainerID, in.IfName)
	if failed == nil {
		return in, nil
	}
	failed.Code = wire.CodeEnvironment
	failed.Msg = fmt.Sprintf("DEL of CNI_CONTAINERID=%q, CNI_IFNAME=%q: %s", in.ContainerID, in.IfName, failed.Msg)
	return nil, failed
}

// release sends a DEL to the agent, and leaves a note if the agent did not say that it took it.
func (c *call) release(ctx context.Context, timeout time.Duration, note *wire.Note) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := wire.Call(ctx, c.conf.socket, &wire.Request{Verb: wire.VerbDel, Network: note.Network,
		ContainerID: note.ContainerID, Interface: note.Interface, Netns: note.Netns, Pod: note.Pod})
	if err == nil {
		return nil
	}
	dir := wire.NotesDir(c.conf.socket)
	c.log.Warn("the agent did not take the DEL: leave it a note", "dir", dir, "because", c.socketFrom, "error", err)
	if noteErr := wire.WriteNote(dir, *note); noteErr != nil {
		return &wire.Error{Code: wire.CodeIO, Msg: fmt.Sprintf("spiderpool-agent did not take the DEL, and no note of it can "+
			"be left in %s (%s): %v", dir, c.socketFrom, noteErr), Details: err.Error()}
	}
	return nil
}

// takeBack releases what a failed ADD may have claimed. The runtime should send a DEL as well, but need not.
func (c *call) takeBack(ctx context.Context) error {
	if c.pending == nil {
		return nil
	}
	return c.release(ctx, takeBackTimeout, c.pending)
}

// prepare reads the configuration and CNI_ARGS of an attachment's call.
func (c *call) prepare(verb wire.Verb, in *skel.CmdArgs) (*wire.Request, error) {
	if err := c.configure(in); err != nil {
		return nil, err
	}
	pod, ips, err := parseArgs(in.Args)
	if err != nil {
		return nil, err
	}
	requested, err := agree(append(slices.Clone(c.conf.requested), ips))
	if err != nil {
		return nil, err
	}
	return &wire.Request{
		Verb: verb, Network: c.conf.network, ContainerID: in.ContainerID, Interface: in.IfName, Netns: in.Netns, Pod: pod,
		IPv4Pools: c.conf.ipv4Pools, IPv6Pools: c.conf.ipv6Pools,
		CleanGateway: c.conf.cleanGateway, MatchMasterSubnet: c.conf.matchMasterSubnet, RequestedIPs: requested,
	}, nil
}

// configure reads stdin. What could be read is in force even if the rest is an error.
func (c *call) configure(in *skel.CmdArgs) error {
	err := c.conf.parse(in.StdinData)
	c.findSocket()
	c.log = c.conf.log.logger().With("network", c.conf.network, "container", in.ContainerID, "interface", in.IfName, "args", in.Args)
	return err
}

// findSocket takes the socket that the configuration names, or else that of the installation.
func (c *call) findSocket() {
	if c.conf.socket != "" {
		c.socketFrom = "the socket that ipam.ipam_unix_socket_path names"
		return
	}
	self, err := os.Executable()
	dir := filepath.Dir(self)
	in, found := wire.Installation{Socket: wire.DefaultSocket}, false
	if err == nil {
		in, found, err = wire.ReadInstallation(dir)
	}
	c.conf.socket = in.Socket
	switch file := filepath.Join(dir, wire.InstallationFile); {
	case found:
		c.socketFrom = "the socket that " + file + " names"
	case err != nil:
		c.socketFrom = fmt.Sprintf("the default socket: %v", err)
	default:
		c.socketFrom = fmt.Sprintf("the default socket: the network configuration names none and %s is missing", file)
	}
}

func nothingHappened(err error) bool { return errors.Is(err, wire.ErrNoAgent) }

// ask calls the agent, and again for agentWait if the error is one that may pass.
func (c *call) ask(ctx context.Context, req *wire.Request, passing func(error) bool) (*wire.Reply, error) {
	giveUp := time.After(agentWait)
	for {
		req.Age = time.Since(c.began)
		reply, err := wire.Call(ctx, c.conf.socket, req)
		if err == nil || !passing(err) {
			return reply, err
		}
		select {
		case <-giveUp:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-time.After(agentInterval):
		}
	}
}

// explain turns an error of the socket into what the runtime is told; the agent's own errors stay as they are.
func (c *call) explain(err error) error {
	var answered *wire.Error
	switch {
	case err == nil, errors.As(err, &answered):
		return err
	case errors.Is(err, wire.ErrNoAgent):
		return &wire.Error{Code: wire.CodeTryAgain, Msg: fmt.Sprintf("unhealthy spiderpool-agent backend: nobody serves %s (%s); "+
			"look at the spiderpool-agent pod of this node: "+
			"kubectl get pods -A -o wide -l app.kubernetes.io/component=spiderpool-agent", c.conf.socket, c.socketFrom), Details: err.Error()}
	case errors.Is(err, wire.ErrUnknownOutcome):
		return &wire.Error{Code: wire.CodeIO, Msg: fmt.Sprintf("spiderpool-agent broke off its answer on %s: "+
			"the log of the agent of this node may say why", c.conf.socket), Details: err.Error()}
	}
	return wire.Errorf(wire.CodeIO, "unhealthy spiderpool-agent backend: %v (%s)", err, c.socketFrom)
}

// resultOf returns the abbreviated result of an IPAM plugin: addresses and routes without interfaces.
func resultOf(reply *wire.Reply, ifName string) (*types100.Result, error) {
	if len(reply.IPs) == 0 {
		return nil, fmt.Errorf("no Interface %s IP allocation found: spiderpool-agent answered without an address", ifName)
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, ip := range reply.IPs {
		if !ip.Address.IsValid() {
			return nil, fmt.Errorf("spiderpool-agent answered with a bad address from pool %q for %s", ip.Pool, ifName)
		}
		result.IPs = append(result.IPs, &types100.IPConfig{Address: ipNet(ip.Address), Gateway: ip.Gateway.AsSlice()})
	}
	for _, route := range reply.Routes {
		if !route.Dst.IsValid() {
			return nil, fmt.Errorf("spiderpool-agent answered with a bad route by way of %q for %s", route.GW, ifName)
		}
		result.Routes = append(result.Routes, &types.Route{Dst: ipNet(route.Dst), GW: route.GW.AsSlice()})
	}
	return result, nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
