package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// pciDevices is where the kernel lists the devices of the PCI bus.
const pciDevices = "/sys/bus/pci/devices"

// parentAddresses are the addresses of the interface of the node on which the main plugin makes the pod's: that of the
// key "master", or for a virtual function ("deviceID") the one of its physical function. Link-local addresses are left
// out: every link has them.
func (c *config) parentAddresses() ([]netip.Addr, error) {
	name, err := c.parentName()
	if err != nil {
		return nil, err
	}
	link, err := net.InterfaceByName(name)
	var prefixes []net.Addr
	if err == nil {
		prefixes, err = link.Addrs()
	}
	if err != nil {
		return nil, fmt.Errorf("the addresses of the parent interface %s cannot be read: %w", name, err)
	}
	var out []netip.Addr
	for _, p := range prefixes {
		prefix, err := netip.ParsePrefix(p.String())
		if err == nil && !prefix.Addr().IsLinkLocalUnicast() {
			out = append(out, prefix.Addr().Unmap())
		}
	}
	return out, nil
}

func (c *config) parentName() (string, error) {
	if c.device == "" && c.master == "" {
		return "", errors.New(`the network configuration names no parent interface: it has neither "master" nor "deviceID"`)
	}
	if c.device == "" {
		return c.master, nil
	}
	links, err := os.ReadDir(filepath.Join(pciDevices, filepath.Base(c.device), "physfn", "net"))
	if err != nil || len(links) == 0 {
		return "", fmt.Errorf("device %q has no physical function with a network interface: %w", c.device, err)
	}
	return links[0].Name(), nil
}
