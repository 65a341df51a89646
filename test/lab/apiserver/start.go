package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// prepare makes the directory with keys and certificates, and chooses ports.
func (s *Server) prepare() (err error) {
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "spiderpool-apiserver-"); err != nil {
			return err
		}
		if s.guard, err = guard(s.dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.file("pki"), 0o700); err != nil {
		return err
	}
	if s.Place != nil {
		s.Port, s.EtcdPorts = 6443, [2]int{2379, 2380}
	} else if s.Port, s.EtcdPorts, err = freePorts(); err != nil {
		return err
	}
	if err := s.writeKeys(); err != nil {
		return err
	}
	data, err := json.Marshal(s.settings)
	if err != nil {
		return err
	}
	return os.WriteFile(s.file("server.json"), data, 0o600)
}

// guard starts a shell that removes dir when the returned pipe is closed,
// which the kernel does if this process ends without having done it.
func guard(dir string) (io.Closer, error) {
	cmd := exec.Command("sh", "-c", `trap "" INT TERM HUP; read _; until rm -rf "$0"; do sleep 0.1; done`, dir)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go cmd.Wait() //nolint:errcheck // it is only reaped
	return pipe, nil
}

// freePorts finds ports below the range from which the kernel gives ports to
// outgoing connections, so that they are still free at a restart.
func freePorts() (api int, etcd [2]int, err error) {
	var found []int
	for range 1000 {
		port := 20000 + rand.IntN(10000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // keeps it from being found twice
		if found = append(found, port); len(found) == 3 {
			return found[0], [2]int{found[1], found[2]}, nil
		}
	}
	return 0, etcd, errors.New("no 3 free ports on 127.0.0.1 between 20000 and 30000")
}

func (s *Server) writeKeys() (err error) {
	if s.ca, err = newCA(s.file("pki")); err != nil {
		return err
	}
	if _, err := newKey(s.ServiceAccountKey()); err != nil {
		return err
	}
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"}
	if s.Place != nil {
		for _, a := range s.Place.Addresses {
			names = append(names, a.String())
		}
		for _, p := range s.Place.Services { // the first address of a range is the API server's service
			names = append(names, p.Masked().Addr().Next().String())
		}
	}
	server, key, err := s.ca.Server(names...)
	if err != nil {
		return err
	}
	client, clientKey, err := s.ca.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"server.crt": server, "server.key": key, "kubelet-client.crt": client, "kubelet-client.key": clientKey,
	} {
		if err := os.WriteFile(s.file(filepath.Join("pki", name)), data, 0o600); err != nil {
			return err
		}
	}
	admin, err := Kubeconfig(s.Config())
	if err != nil {
		return err
	}
	return os.WriteFile(s.Kubeconfig(), admin, 0o600)
}

func (s *Server) start(ctx context.Context) error {
	if err := s.startEtcd(); err != nil {
		return err
	}
	return s.startAPI(ctx)
}

func (s *Server) startEtcd() (err error) {
	clients, peers := loopbackURL(s.EtcdPorts[0]), loopbackURL(s.EtcdPorts[1])
	s.etcd, err = s.run("etcd", "etcd",
		"--data-dir="+s.file("etcd"),
		"--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers,
		"--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=4294967296",
	)
	return err
}

func loopbackURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

func (s *Server) startAPI(ctx context.Context) (err error) {
	args := []string{
		"--etcd-servers=" + loopbackURL(s.EtcdPorts[0]),
		"--secure-port=" + strconv.Itoa(s.Port),
		"--tls-cert-file=" + s.file("pki/server.crt"), "--tls-private-key-file=" + s.file("pki/server.key"),
		"--client-ca-file=" + s.ca.File,
		"--kubelet-certificate-authority=" + s.ca.File,
		"--kubelet-client-certificate=" + s.file("pki/kubelet-client.crt"), "--kubelet-client-key=" + s.file("pki/kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + s.ServiceAccountKey(), "--service-account-key-file=" + s.ServiceAccountKey(),
		"--authorization-mode=RBAC,Node", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--enable-aggregator-routing=true",
	}
	args = append(append(args, s.placeArgs()...), s.Args...)
	if s.api, err = s.run("kubernetes", "kube-apiserver", args...); err != nil {
		return err
	}
	return s.waitReady(ctx)
}

// placeArgs are the flags that differ between a server on loopback, which has
// no address to advertise and no controllers, and that of a lab.
func (s *Server) placeArgs() []string {
	if s.Place == nil {
		return []string{
			"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount",
			// Some distributions, as OpenShift, have it: roles must be enough there too.
			"--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
		}
	}
	bind := netip.IPv4Unspecified()
	for _, a := range s.Place.Addresses {
		if a.Is6() {
			bind = netip.IPv6Unspecified() // takes IPv4 too
		}
	}
	var services []string
	for _, p := range s.Place.Services {
		services = append(services, p.String())
	}
	return []string{
		"--bind-address=" + bind.String(), "--advertise-address=" + s.Place.Addresses[0].String(),
		"--service-cluster-ip-range=" + strings.Join(services, ","),
	}
}

// run starts one of the two programs and records it.
func (s *Server) run(part, program string, args ...string) (process.Process, error) {
	o := process.Options{
		Args: append([]string{filepath.Join(s.Bins[part], program)}, args...),
		Log:  s.file(program + ".log"),
	}
	if s.Place != nil {
		o.Enter.Net, o.Cgroup, o.Detached = s.Place.Netns, s.Place.Cgroup, true
	}
	p, err := process.Start(o)
	if err != nil {
		return p, err
	}
	return p, p.Save(s.file(program + ".json"))
}

// waitReady returns when /readyz answers ok, or says what the logs say.
func (s *Server) waitReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.Config())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready after %s", readyTimeout))
	defer cancel()
	for {
		err := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			return nil
		}
		for _, p := range []process.Process{s.etcd, s.api} {
			if !p.Alive() {
				return fmt.Errorf("%s ended before the API server was ready; %s", p.Name, p.Tail(8))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the API server: %w; last answer: %w; %s", context.Cause(ctx), err, s.api.Tail(8))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
