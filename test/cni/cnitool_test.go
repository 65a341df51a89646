package cni_test

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// TestCnitool drives the chain by the command line of the CNI project, twice
// with the container ID that it makes of the path of the namespace.
func TestCnitool(t *testing.T) {
	t.Parallel()
	c := theCluster(t)
	v4, v6 := c.pool(t, "10.72.0.0/24", "10.72.0.16-10.72.0.255"), c.pool(t, "fd00:72::/64", "fd00:72::10-fd00:72::ffff")
	h := newHost(t)
	network := h.network(t, "1.0.0", "macvlan", v4, v6)
	s := h.sandbox(t, network)
	hash := sha512.Sum512([]byte(s.path))
	s.conf.ContainerID = fmt.Sprintf("cnitool-%x", hash[:10])
	confs, state := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(confs, "10-macvlan.conflist"), network, 0o600); err != nil {
		t.Fatal(err)
	}
	tool := func(verb string) string {
		t.Helper()
		out, err := s.cnitool(confs, state, verb)
		if err != nil {
			t.Fatalf("cnitool %s: %v", verb, err)
		}
		return out
	}
	for range 2 {
		result, err := types100.NewResult([]byte(tool("add")))
		if err != nil {
			t.Fatal(err)
		}
		s.addresses = nil
		for _, ip := range result.(*types100.Result).IPs {
			s.addresses = append(s.addresses, netip.MustParsePrefix(ip.Address.String()).Addr())
		}
		s.wantResult(t, result.(*types100.Result), v4, v6)
		s.wantWiring(t, "macvlan", v4, v6)
		c.wantHolders(t, v4, s)
		c.wantHolders(t, v6, s)
		tool("check")
		tool("del")
		s.wantInterfaces(t)
		c.wantHolders(t, v4)
		c.wantHolders(t, v6)
	}
}

// cnitool runs the program in the namespace of the host. It keeps results below
// /var/lib, which is a directory of the test here.
func (s *sandbox) cnitool(confs, state, verb string) (string, error) {
	const private = `mount --bind "$0" /var/lib && exec "$@"`
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-c", private, state,
		filepath.Join(programs.cni, "cnitool"), verb, s.list.Name, s.path)
	var args []string
	for _, a := range s.conf.Args {
		args = append(args, a[0]+"="+a[1])
	}
	cmd.Env = append(os.Environ(), "NETCONFPATH="+confs, "CNI_PATH="+programs.ours+":"+programs.cni, "CNI_ARGS="+strings.Join(args, ";"))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := s.host.in(cmd.Run)
	if err != nil {
		err = fmt.Errorf("%w: %s%s", err, out.String(), complaints.String())
	}
	return out.String(), err
}
