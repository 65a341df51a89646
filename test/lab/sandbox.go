package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"k8s.io/apimachinery/pkg/types"

	"github.com/spidernet-io/spiderpool/test/lab/process"
)

// Sandbox is a pod's sandbox as the container runtime of a node has it, which
// may be there when the pod's object is long gone.
type Sandbox struct {
	Node, ID             string
	Namespace, Name, UID string // of the pod
	// Netns is the path of the network namespace on the node, as plugins get
	// it in CNI_NETNS; empty for a pod on the host's network.
	Netns string
	// Made is when the runtime wrote it down.
	Made time.Time
}

// Sandboxes lists the pod sandboxes that run on a node. They are read from the
// runtime's files, so it and the kubelet may be stopped.
func (l *Lab) Sandboxes(nodeName string) ([]Sandbox, error) {
	n, err := l.node(nodeName)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(l.hostPath(n, "run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json"))
	if err != nil {
		return nil, err
	}
	var all []Sandbox
	for _, f := range files {
		s, err := readSandbox(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if s.ID != "" {
			s.Node = nodeName
			all = append(all, s)
		}
	}
	return all, nil
}

// readSandbox reads an OCI runtime bundle's configuration. That of a container
// inside a sandbox gives the zero value, and so does one that the runtime is
// writing, of what does not run yet.
func readSandbox(file string) (Sandbox, error) {
	f, err := os.Open(file)
	if err != nil {
		return Sandbox{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return Sandbox{}, err
	}
	var bundle struct {
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			Namespaces []struct{ Type, Path string } `json:"namespaces"`
		} `json:"linux"`
	}
	switch err := json.NewDecoder(f).Decode(&bundle); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Sandbox{}, nil
	case err != nil:
		return Sandbox{}, fmt.Errorf("%s: %w", file, err)
	}
	const cri = "io.kubernetes.cri."
	a := bundle.Annotations
	if a[cri+"container-type"] != "sandbox" {
		return Sandbox{}, nil
	}
	s := Sandbox{ID: a[cri+"sandbox-id"], Namespace: a[cri+"sandbox-namespace"], Name: a[cri+"sandbox-name"], UID: a[cri+"sandbox-uid"], Made: info.ModTime()}
	for _, ns := range bundle.Linux.Namespaces {
		if ns.Type == "network" {
			s.Netns = ns.Path
		}
	}
	return s, nil
}

// PodSandbox is the sandbox of a pod on a node; of several, which a restart
// leaves for a moment, the last. It goes by the pod's UID, as the sandbox of a
// StatefulSet's pod may still be there when the next one of its name runs.
func (l *Lab) PodSandbox(nodeName string, uid types.UID) (Sandbox, error) {
	all, err := l.Sandboxes(nodeName)
	if err != nil {
		return Sandbox{}, err
	}
	last := lastOf(all, uid)
	if last.ID == "" {
		return Sandbox{}, fmt.Errorf("the pod with the UID %s has no sandbox on %s", uid, nodeName)
	}
	return last, nil
}

func lastOf(all []Sandbox, uid types.UID) (last Sandbox) {
	for _, s := range all {
		if s.UID == string(uid) && s.Made.After(last.Made) {
			last = s
		}
	}
	return last
}

// PodNamespaces are the network namespaces that a node keeps for pods, as
// paths on the node, also those that a failed teardown left.
func (l *Lab) PodNamespaces(nodeName string) ([]string, error) {
	n, err := l.node(nodeName)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(l.hostPath(n, "run/netns"))
	var paths []string
	for _, e := range entries {
		paths = append(paths, "/run/netns/"+e.Name())
	}
	return paths, err
}

// Addresses are the global addresses found inside a network namespace of a
// node (Sandbox.Netns, or one of PodNamespaces), by interface. Link-local and
// loopback ones are left out.
func (l *Lab) Addresses(nodeName, netnsPath string) (map[string][]netip.Prefix, error) {
	path, err := l.netnsFile(nodeName, netnsPath)
	if err != nil {
		return nil, err
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace %s of %s: %w", netnsPath, nodeName, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	found := map[string][]netip.Prefix{}
	for _, link := range links {
		addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); ok && ip.IsGlobalUnicast() {
				ones, _ := a.Mask.Size()
				found[link.Attrs().Name] = append(found[link.Attrs().Name], netip.PrefixFrom(ip, ones))
			}
		}
	}
	return found, nil
}

// NetnsCommand is a command that runs in a network namespace of a node but
// otherwise on this machine.
func (l *Lab) NetnsCommand(ctx context.Context, nodeName, netnsPath string, args ...string) *exec.Cmd {
	path, err := l.netnsFile(nodeName, netnsPath)
	if err != nil {
		return &exec.Cmd{Err: err}
	}
	return l.command(ctx, node{Name: nodeName}, process.Namespaces{Net: path}, args)
}

// netnsFile finds a namespace's file from this machine: it is mounted on the
// node alone, whose keeper shows it.
func (l *Lab) netnsFile(nodeName, path string) (string, error) {
	enter, err := l.namespaces(node{Name: nodeName})
	if err != nil {
		return "", err
	}
	path = strings.TrimPrefix(path, "/var") // /var/run is a link, which would lead out of the node
	if !strings.HasPrefix(path, "/run/netns/") {
		return "", fmt.Errorf("%q is no network namespace of a pod: those are below /run/netns", path)
	}
	return filepath.Join(fmt.Sprintf("/proc/%d/root", enter.Of), path), nil
}
