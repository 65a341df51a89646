package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/spidernet-io/spiderpool/test/lab/apiserver"
	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// controlPlane names the namespace, cgroup and directory of the control plane.
const controlPlane = "control-plane"

func (l *Lab) controlPlaneDir() string { return filepath.Join(l.dir, controlPlane) }

func (l *Lab) startControlPlane(ctx context.Context) error {
	procs, err := makeCgroup(cgroupOf(l.cfg.Name, controlPlane))
	if err != nil {
		return err
	}
	place := apiserver.Place{Netns: l.netns(controlPlane), Cgroup: procs}
	for _, f := range l.cfg.Families.each() {
		place.Addresses = append(place.Addresses, management[f].gateway)
		place.Services = append(place.Services, management[f].services)
	}
	if place.Endpoint, err = l.startForwarder(); err != nil {
		return err
	}
	l.API, err = apiserver.Start(ctx, apiserver.Options{Dir: l.controlPlaneDir(), Out: l.out, Place: &place, Args: []string{
		"--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=5",
	}})
	if err != nil {
		return err
	}
	if err := l.startControllerManager(); err != nil {
		return err
	}
	return l.startScheduler()
}

// apiURL is where nodes and pods reach the API server without a service.
func (l *Lab) apiURL() string {
	return "https://" + netip.AddrPortFrom(management[l.cfg.Families.each()[0]].gateway, 6443).String()
}

// startForwarder gives the API server an address on the machine's loopback.
// The socket is made here, in the machine's network, and inherited by a
// program in the control plane's.
func (l *Lab) startForwarder() (endpoint string, err error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", err
	}
	defer func() { _ = ln.Close() }()
	socket, err := ln.File()
	if err != nil {
		return "", err
	}
	defer func() { _ = socket.Close() }()
	err = l.startControl("forward", []*os.File{socket}, strings.TrimPrefix(l.apiURL(), "https://"))
	return "https://" + ln.Addr().String(), err
}

func (l *Lab) startControllerManager() error {
	kubeconfig, err := l.controlKubeconfig("kube-controller-manager")
	if err != nil {
		return err
	}
	return l.startControl("kube-controller-manager", nil, "--kubeconfig="+kubeconfig, "--leader-elect=false", "--secure-port=0",
		"--use-service-account-credentials=true", "--service-account-private-key-file="+l.API.ServiceAccountKey(), "--root-ca-file="+l.API.CA().File,
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--node-monitor-period=2s", "--node-monitor-grace-period=12s")
}

func (l *Lab) startScheduler() error {
	kubeconfig, err := l.controlKubeconfig("kube-scheduler")
	if err != nil {
		return err
	}
	return l.startControl("kube-scheduler", nil, "--kubeconfig="+kubeconfig, "--leader-elect=false", "--secure-port=0")
}

// startProxy starts kube-proxy in the namespace that routes between nodes and
// segments, in the name of one of the nodes, and waits until the API server's
// service answers on that node. It ends when that node is deleted.
func (l *Lab) startProxy(ctx context.Context, nodeName string) error {
	kubeconfig, err := l.controlKubeconfig("kube-proxy")
	if err != nil {
		return err
	}
	config := filepath.Join(l.controlPlaneDir(), "kube-proxy.yaml")
	// Answers must come back by the router, or they could not be translated
	// back; hence masqueradeAll.
	if err := writeFile(config, fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %s}
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {masqueradeAll: true, syncPeriod: 30s, minSyncPeriod: 200ms}
`, kubeconfig, nodeName)); err != nil {
		return err
	}
	if err := l.startControl("kube-proxy", nil, "--config="+config); err != nil {
		return err
	}
	return l.waitService(ctx, nodeName)
}

func (l *Lab) waitService(ctx context.Context, nodeName string) error {
	service := management[l.cfg.Families.each()[0]].services.Addr().Next().String()
	ctx, cancel := context.WithTimeoutCause(ctx, registerTimeout, fmt.Errorf("%s does not answer from %s after %s", service, nodeName, registerTimeout))
	defer cancel()
	for {
		err := l.inNetns(ctx, nodeName, "busybox nc -w 1 "+service+" 443 < /dev/null")
		if err == nil {
			return nil
		}
		if p := process.Load(l.controlRecord("kube-proxy")); !p.Alive() {
			return fmt.Errorf("kube-proxy ended; %s", p.Tail(8))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; %s", context.Cause(ctx), process.Load(l.controlRecord("kube-proxy")).Tail(8))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// controlKubeconfig writes the credentials of a component, which its built-in
// role of the same name expects.
func (l *Lab) controlKubeconfig(component string) (string, error) {
	file := filepath.Join(l.controlPlaneDir(), component+".kubeconfig")
	return file, l.writeKubeconfig(file, "system:"+component)
}

// writeKubeconfig writes credentials for use inside the lab.
func (l *Lab) writeKubeconfig(file, user string, groups ...string) error {
	cfg, err := l.API.ConfigFor(user, groups...)
	if err != nil {
		return err
	}
	inside := rest.CopyConfig(cfg)
	inside.Host = l.apiURL()
	data, err := apiserver.Kubeconfig(inside)
	if err != nil {
		return err
	}
	return writeFile(file, data)
}

func (l *Lab) controlRecord(program string) string {
	return filepath.Join(l.controlPlaneDir(), program+".json")
}

// startControl starts a program of the control plane and records it.
func (l *Lab) startControl(program string, files []*os.File, args ...string) error {
	procs, err := makeCgroup(cgroupOf(l.cfg.Name, controlPlane))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.controlPlaneDir(), 0o700); err != nil {
		return err
	}
	part := "kubernetes"
	if program == "forward" {
		part = program
	}
	p, err := process.Start(process.Options{
		Args:     append([]string{filepath.Join(l.bins[part], program)}, args...),
		Enter:    process.Namespaces{Net: l.netns(controlPlane)},
		Cgroup:   procs,
		Log:      filepath.Join(l.controlPlaneDir(), program+".log"),
		Files:    files,
		Detached: true,
	})
	if err != nil {
		return err
	}
	return p.Save(l.controlRecord(program))
}
