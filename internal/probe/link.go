package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tries is how often a probe asks, and Interval how long it listens after each question. So a silent address costs
// Tries × Interval, which every ADD of a new address pays, and one that is in use as long as its host takes to answer.
//
// RFC 5227 (section 1.1) asks three times as well, but 1 to 2 s apart and after a pause, 4 to 7 s in all, and RFC 4862
// (section 5.1) once with 1 s: both are for hosts that may be far away behind slow links, or have just been switched on. Pods
// are on switched links, on which a host answers within a millisecond or two, and they cannot wait that long. What answers
// later than this is not seen.
const (
	Tries    = 3
	Interval = 100 * time.Millisecond
)

// carrierWait is how long an interface that is up may take to have a carrier, as a physical one does that has just been moved.
const carrierWait, carrierLook = time.Second, 10 * time.Millisecond

// Unprobed is the error of a probe that could not be made: nothing is known of the address. It never means that the address
// is free.
type Unprobed struct {
	// Why is one of the texts below: few and constant, so that a caller may keep or count by them.
	Why string
	// Err is the error behind it, or nil.
	Err error
}

// What keeps an address from being probed.
const (
	NoNamespace = "its network namespace cannot be entered"
	NoInterface = "the interface is not there: its main plugin makes it after it has the address"
	NoEthernet  = "the interface has no neighbours that could be asked, as ipvlan in mode l3, a tunnel or a loopback"
	NoAnswers   = "answers to an ipvlan interface go to its parent"
	NoUp        = "the interface cannot be set up, which takes the capability NET_ADMIN"
	NoCarrier   = "the interface has no carrier"
	NoSocket    = "no packet socket can be opened, which takes the capability NET_RAW"
	NoSending   = "the interface went down, or sends nothing"
)

// Error says why.
func (u *Unprobed) Error() string {
	if u.Err == nil {
		return u.Why
	}
	return u.Why + ": " + u.Err.Error()
}

// Unwrap returns the error behind it.
func (u *Unprobed) Unwrap() error { return u.Err }

// Link is an interface of a container from which probes are sent. Its methods may be called at once; Close ends it.
type Link struct {
	netns string
	index int
	mac   net.HardwareAddr
	links *netlink.Handle
	// raised says that Open has set it up.
	raised bool
}

// Open prepares an interface for probes. netnsPath and ifname are CNI_NETNS and CNI_IFNAME of an ADD. The error is
// *Unprobed, or the cause of ctx's end.
//
// It is called by the agent during the ADD of its plugin. By then the main plugins of containernetworking (v1.9) have made the
// interface and left it
//
//	bridge, host-device      up
//	macvlan, vlan            down; it is set up for the probe, which takes CAP_NET_ADMIN, and Close sets it down
//	ipvlan                   down; it cannot be probed: the kernel hands a unicast to the interface that has the destination's
//	                         address, and this one has none
//	ptp                      not made
//
// An interface that is up for a moment gets link-local addresses of IPv6, which it loses with Close.
func Open(ctx context.Context, netnsPath, ifname string) (_ *Link, err error) {
	l := &Link{netns: netnsPath}
	if err := enter(netnsPath, func() (err error) { l.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); return err }); err != nil {
		return nil, &Unprobed{NoNamespace, err}
	}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	link, err := l.links.LinkByName(ifname)
	if err != nil {
		return nil, &Unprobed{NoInterface, err}
	}
	attrs := link.Attrs()
	l.index, l.mac = attrs.Index, attrs.HardwareAddr
	if why := unfit(link); why != "" {
		return nil, &Unprobed{Why: why}
	}
	if attrs.RawFlags&unix.IFF_UP == 0 {
		if err := l.links.LinkSetUp(link); err != nil {
			return nil, &Unprobed{NoUp, err}
		}
		l.raised = true
	}
	if err := l.awaitCarrier(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// unfit says why nobody can be asked from an interface, empty if somebody can.
func unfit(link netlink.Link) string {
	switch {
	case !speaksEthernet(link.Attrs()):
		return NoEthernet
	case link.Type() == "ipvlan":
		return NoAnswers
	}
	return ""
}

func speaksEthernet(a *netlink.LinkAttrs) bool {
	return a.EncapType == "ether" && len(a.HardwareAddr) == 6 && a.RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) == 0
}

// awaitCarrier waits until the interface can send.
func (l *Link) awaitCarrier(ctx context.Context) error {
	for end := time.Now().Add(carrierWait); ; {
		err := l.running()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(carrierLook):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// running says why the interface cannot send, nil if it can.
func (l *Link) running() error {
	link, err := l.links.LinkByIndex(l.index)
	if err != nil {
		return &Unprobed{NoInterface, err}
	}
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return &Unprobed{Why: NoCarrier}
	}
	return nil
}

// Close sets the interface down again if Open has set it up.
func (l *Link) Close() error {
	defer l.links.Close()
	if !l.raised {
		return nil
	}
	err := l.links.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.index}})
	if errors.Is(err, unix.ENODEV) {
		return nil // its main plugin has removed it
	}
	return err
}

// Conflict asks whether another host has an address: by ARP after RFC 5227 (section 2.1.1), or by neighbour discovery after
// RFC 4862 (section 5.4). It is in conflict if somebody answers, speaks as it, or probes for it at the same time. Neither
// question tells any host that the address has moved, so nobody's traffic goes astray.
//
// It returns the hardware address of the other host, and nil if the address is silent. The error is *Unprobed, or the cause
// of ctx's end: then nothing is known.
func (l *Link) Conflict(ctx context.Context, address netip.Addr) (net.HardwareAddr, error) {
	return l.ask(ctx, l.question(address, netip.Addr{}, true))
}

// Gateway asks whether a gateway answers, in the same way: as a host without an address, so that nobody learns anything wrong.
// Some routers do not answer such a host, against RFC 826. So if from is valid the last question of IPv4 comes from it; it
// must be the interface's future address, and Conflict have found it silent.
//
// It returns the hardware address of the gateway, and nil if nobody answers. Errors as of Conflict.
func (l *Link) Gateway(ctx context.Context, gateway, from netip.Addr) (net.HardwareAddr, error) {
	return l.ask(ctx, l.question(gateway, from, false))
}

// ask sends a question and waits for who answers it.
func (l *Link) ask(ctx context.Context, q question) (net.HardwareAddr, error) {
	c, err := l.listen(q)
	if err != nil {
		return nil, &Unprobed{NoSocket, err}
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	sent := 0
	var failed error
	for try := range Tries {
		if err = c.send(q.frame(try)); err == nil {
			sent++
		} else if failed = err; !errors.Is(err, unix.ENOBUFS) { // which may pass
			sent = 0
			break
		}
		who, err := c.hear(q, time.Now().Add(Interval))
		if who != nil {
			return who, nil
		} else if err != nil {
			failed, sent = err, 0
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case sent == 0:
		return nil, &Unprobed{NoSending, failed}
	}
	return nil, l.running()
}

// Announce tells the neighbours of an interface that it has an address now, which another host had before: by an ARP
// announcement (RFC 5227, section 2.3) or an unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Otherwise they
// go on sending to the other host until their entries expire, routers for minutes or hours.
//
// Nothing is sent before the interface bears the address and the kernel has done its own duplicate address detection. Announce
// waits for this at most as long as most says. Called by the agent after it has answered an ADD; most is the time in which the
// main plugin configures the interface.
func Announce(ctx context.Context, netnsPath, ifname string, address netip.Addr, most time.Duration) error {
	for sent := range announcements {
		if sent > 0 {
			if err := pause(ctx, announceInterval); err != nil {
				return err
			}
		}
		if err := awaitBorne(ctx, netnsPath, ifname, address, most); err != nil {
			return err
		}
		if err := announce(netnsPath, ifname, address); err != nil {
			return err
		}
	}
	return nil
}

// announcements and announceInterval are ANNOUNCE_NUM and ANNOUNCE_INTERVAL of RFC 5227.
const announcements, announceInterval = 2, 2 * time.Second

// awaitBorne waits until an interface has an address and may speak as it.
func awaitBorne(ctx context.Context, netnsPath, ifname string, address netip.Addr, most time.Duration) error {
	end := time.Now().Add(most)
	for wait := firstLook; !borne(netnsPath, ifname, address, unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED); wait = min(2*wait, rarestLook) {
		if time.Now().After(end) {
			return fmt.Errorf("interface %s does not have %s yet, after %s", ifname, address, most)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

func announce(netnsPath, ifname string, address netip.Addr) error {
	l := &Link{netns: netnsPath}
	var link netlink.Link
	if !look(netnsPath, func(links *netlink.Handle) bool {
		var err error
		link, err = links.LinkByName(ifname)
		return err == nil
	}) {
		return &Unprobed{Why: NoInterface}
	}
	if !speaksEthernet(link.Attrs()) {
		return nil // nobody there has anything to forget
	}
	l.index, l.mac = link.Attrs().Index, link.Attrs().HardwareAddr
	q := l.announcement(address)
	c, err := l.listen(q)
	if err != nil {
		return &Unprobed{NoSocket, err}
	}
	defer func() { _ = c.Close() }()
	return c.send(q.frame(0))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
