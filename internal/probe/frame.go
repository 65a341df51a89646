package probe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// question is what is sent on a link, and who has answered it.
type question struct {
	// protocol is the EtherType, to the group that frames are sent to, and groups those whose frames are read.
	protocol int
	to       net.HardwareAddr
	groups   []net.HardwareAddr
	filter   []bpf.Instruction
	// frame is what the try sends, without the Ethernet header.
	frame func(try int) []byte
	// answer returns who is meant by a frame that another host sent, nil if it is no answer.
	answer func(frame []byte, sender net.HardwareAddr) net.HardwareAddr
}

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
	noMAC     = make(net.HardwareAddr, 6)
)

// question asks for a target. Its last try comes from an address, if that is valid. probers says that who asks for the target
// at the same time counts as an answer.
func (l *Link) question(target, from netip.Addr, probers bool) question {
	if target.Is4() {
		return l.arpQuestion(target, from, probers)
	}
	return l.ndpQuestion(target, probers)
}

func (l *Link) arpQuestion(target, from netip.Addr, probers bool) question {
	return question{protocol: unix.ETH_P_ARP, to: broadcast, filter: forUs,
		frame: func(try int) []byte {
			sender := netip.IPv4Unspecified()
			if try == Tries-1 && from.IsValid() {
				sender = from
			}
			return l.arpRequest(sender, target)
		},
		answer: func(frame []byte, _ net.HardwareAddr) net.HardwareAddr {
			var p arp.Packet
			if p.UnmarshalBinary(frame) != nil || len(p.SenderHardwareAddr) != len(l.mac) {
				return nil
			}
			probes := probers && p.Operation == arp.OperationRequest && p.SenderIP.IsUnspecified() && p.TargetIP == target
			if p.SenderIP != target && !probes {
				return nil
			}
			return p.SenderHardwareAddr
		}}
}

func (l *Link) arpRequest(sender, target netip.Addr) []byte {
	p, err := arp.NewPacket(arp.OperationRequest, l.mac, sender, noMAC, target)
	if err != nil {
		panic(err) // the lengths of its arguments, which are right
	}
	b, _ := p.MarshalBinary() // never fails
	return b
}

// ndpQuestion asks for a target as a host that has no address yet does. Answers to that go to all nodes.
func (l *Link) ndpQuestion(target netip.Addr, probers bool) question {
	group, _ := ndp.SolicitedNodeMulticast(target) // fails for what is not IPv6
	b := ndpFrame(&ndp.NeighborSolicitation{TargetAddress: target}, netip.IPv6Unspecified(), group)
	return question{protocol: unix.ETH_P_IPV6, to: multicast(group), groups: []net.HardwareAddr{multicast(group), multicast(allNodes)},
		filter: slices.Concat(ndpOnly, forUs),
		frame:  func(int) []byte { return b },
		answer: func(frame []byte, sender net.HardwareAddr) net.HardwareAddr {
			source, message := parseNDP(frame)
			switch m := message.(type) {
			case *ndp.NeighborAdvertisement:
				if m.TargetAddress == target {
					return linkLayer(m.Options, sender)
				}
			case *ndp.NeighborSolicitation:
				if probers && m.TargetAddress == target && source.IsUnspecified() {
					return sender
				}
			}
			return nil
		}}
}

// announcement tells that the interface has an address.
func (l *Link) announcement(address netip.Addr) question {
	if address.Is4() {
		b := l.arpRequest(address, address)
		return question{protocol: unix.ETH_P_ARP, to: broadcast, frame: func(int) []byte { return b }}
	}
	b := ndpFrame(&ndp.NeighborAdvertisement{Override: true, TargetAddress: address,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: l.mac}}}, address, allNodes)
	return question{protocol: unix.ETH_P_IPV6, to: multicast(allNodes), frame: func(int) []byte { return b }}
}

// multicast is the Ethernet address of an IPv6 group (RFC 2464, section 7).
func multicast(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// hopLimit is that of all neighbour discovery: what comes by way of a router has less (RFC 4861, section 7.1).
const hopLimit = 255

// ndpFrame is an IPv6 packet with a message. It is made here because the kernel sends none from an address that the interface
// does not have.
func ndpFrame(m ndp.Message, source, to netip.Addr) []byte {
	body, err := ndp.MarshalMessageChecksum(m, source, to)
	if err != nil {
		panic(err) // addresses that are not IPv6
	}
	header := make([]byte, ipv6.HeaderLen)
	header[0] = 6 << 4
	header[4], header[5] = byte(len(body)>>8), byte(len(body))
	header[6], header[7] = unix.IPPROTO_ICMPV6, hopLimit
	src, dst := source.As16(), to.As16()
	copy(header[8:], src[:])
	copy(header[24:], dst[:])
	return append(header, body...)
}

// parseNDP returns the sender of a message of neighbour discovery and the message, nil if it is none. Checksums are not
// looked at: those of frames that stay on a host are not filled in.
func parseNDP(frame []byte) (source netip.Addr, m ndp.Message) {
	h, err := ipv6.ParseHeader(frame)
	if err != nil || h.NextHeader != unix.IPPROTO_ICMPV6 || h.HopLimit != hopLimit || len(frame) < ipv6.HeaderLen+h.PayloadLen {
		return netip.Addr{}, nil
	}
	m, err = ndp.ParseMessage(frame[ipv6.HeaderLen : ipv6.HeaderLen+h.PayloadLen])
	if err != nil {
		return netip.Addr{}, nil
	}
	source, _ = netip.AddrFromSlice(h.Src)
	return source, m
}

// linkLayer is the hardware address that an advertisement names, or that of its sender.
func linkLayer(options []ndp.Option, sender net.HardwareAddr) net.HardwareAddr {
	for _, o := range options {
		if a, ok := o.(*ndp.LinkLayerAddress); ok && a.Direction == ndp.Target {
			return a.Addr
		}
	}
	return sender
}

// forUs accepts what the link brings to this interface, and not what is another's or of a VLAN that it is not in.
var forUs = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

// ndpOnly goes on with solicitations and advertisements, or the traffic of a busy link would hide them.
var ndpOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
	bpf.LoadAbsolute{Off: ipv6.HeaderLen, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborSolicitation), SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborAdvertisement), SkipTrue: 1},
	bpf.RetConstant{Val: 0},
}

// conn sends and hears the frames of a question.
type conn struct {
	*packet.Conn
	to, mac net.HardwareAddr
}

// listen opens the socket of a question. Interrupted system calls are made again by the package socket under it.
func (l *Link) listen(q question) (*conn, error) {
	filter, err := bpf.Assemble(q.filter)
	if err != nil {
		return nil, err
	}
	c := &conn{to: q.to, mac: l.mac}
	err = enter(l.netns, func() (err error) {
		c.Conn, err = packet.Listen(&net.Interface{Index: l.index, HardwareAddr: l.mac}, packet.Datagram, q.protocol, &packet.Config{Filter: filter})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, group := range q.groups {
		if err := c.JoinGroup(group); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *conn) send(frame []byte) error {
	_, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: c.to})
	return err
}

// hear reads until another host answers, or until the end: then it returns nothing.
func (c *conn) hear(q question, end time.Time) (net.HardwareAddr, error) {
	if err := c.SetReadDeadline(end); err != nil {
		return nil, err
	}
	for frame := make([]byte, 1500); ; {
		n, from, err := c.ReadFrom(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		sender := from.(*packet.Addr).HardwareAddr
		who := q.answer(frame[:n], sender)
		if who != nil && !slices.Equal(who, c.mac) && !slices.Equal(sender, c.mac) {
			return slices.Clone(who), nil
		}
	}
}
