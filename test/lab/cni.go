package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// WriteCNI writes a file into /etc/cni/net.d of a node, or of every node that
// there is if nodeName is empty. The runtime notices by itself.
func (l *Lab) WriteCNI(nodeName, file, content string) error {
	return l.eachNode(nodeName, func(n node) error {
		return writeFile(filepath.Join(l.hostPath(n, "etc/cni/net.d"), file), []byte(content))
	})
}

// RemoveCNI removes a file from /etc/cni/net.d of a node, or of every node.
func (l *Lab) RemoveCNI(nodeName, file string) error {
	return l.eachNode(nodeName, func(n node) error {
		return os.Remove(filepath.Join(l.hostPath(n, "etc/cni/net.d"), file))
	})
}

// InstallPlugin copies a program into /opt/cni/bin of a node, or of every node.
func (l *Lab) InstallPlugin(nodeName, program string) error {
	return l.eachNode(nodeName, func(n node) error {
		dir := l.hostPath(n, "opt/cni/bin")
		tmp := filepath.Join(dir, "."+filepath.Base(program)+".new")
		if err := run(context.Background(), "cp", "--", program, tmp); err != nil {
			return err
		}
		return os.Rename(tmp, filepath.Join(dir, filepath.Base(program)))
	})
}

// RemovePlugin removes a program from /opt/cni/bin of a node, or of every node.
func (l *Lab) RemovePlugin(nodeName, name string) error {
	return l.eachNode(nodeName, func(n node) error {
		return os.Remove(filepath.Join(l.hostPath(n, "opt/cni/bin"), name))
	})
}

func (l *Lab) eachNode(name string, do func(node) error) error {
	nodes, err := l.nodes()
	if err != nil {
		return err
	}
	if name != "" {
		n, err := l.node(name)
		if err != nil {
			return err
		}
		nodes = []node{n}
	}
	for _, n := range nodes {
		if err := do(n); err != nil {
			return fmt.Errorf("on %s: %w", n.Name, err)
		}
	}
	return nil
}

// MacvlanConflist is a network of macvlan interfaces on a segment, with the
// ipam section given, which is anything that becomes a JSON object.
func MacvlanConflist(cniVersion, network string, on Segment, ipam any) string {
	return conflist(cniVersion, network, map[string]any{"type": "macvlan", "master": on.Interface, "mode": "bridge", "ipam": ipam})
}

// HostLocal is an ipam section for the plugin host-local that gives out
// addresses .N.10 to .N.250 of a segment and as many IPv6 ones, with N from 1
// to 255. Nodes with different N never give the same address.
func HostLocal(on Segment, n byte) map[string]any {
	span := func(subnet netip.Prefix, gateway netip.Addr) []map[string]string {
		b := subnet.Addr().AsSlice()
		at := func(last byte) string {
			b[len(b)-2], b[len(b)-1] = n, last
			addr, _ := netip.AddrFromSlice(b)
			return addr.String()
		}
		return []map[string]string{{"subnet": subnet.String(), "rangeStart": at(10), "rangeEnd": at(250), "gateway": gateway.String()}}
	}
	return map[string]any{
		"type":   "host-local",
		"ranges": []any{span(on.IPv4, on.IPv4Gateway), span(on.IPv6, on.IPv6Gateway)},
		"routes": []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
	}
}

func conflist(cniVersion, network string, plugins ...map[string]any) string {
	data, err := json.MarshalIndent(map[string]any{"cniVersion": cniVersion, "name": network, "plugins": plugins}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("the ipam section of CNI network %s is no JSON: %v", network, err))
	}
	return string(data)
}
