package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	arpProbes = 3
	arpWait   = 300 * time.Millisecond // after each probe
	arpSize   = 28
)

var broadcast = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// open opens the socket that announcements leave by: a packet socket for ARP, a raw one for ICMPv6.
func (v *VIP) open() (err error) {
	if !v.asks() {
		return nil
	}
	index := v.link.Attrs().Index
	if v.address.Is4() {
		if v.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(swap16(unix.ETH_P_ARP))); err != nil {
			return fmt.Errorf("opening a packet socket: %w", err)
		}
		return unix.Bind(v.fd, &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ARP), Ifindex: index})
	}
	if v.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6); err != nil {
		return fmt.Errorf("opening an ICMPv6 socket: %w", err)
	}
	var none [8]uint32
	for i := range none {
		none[i] = 1<<32 - 1
	}
	return errors.Join(
		unix.SetsockoptICMPv6Filter(v.fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &unix.ICMPv6Filter{Data: none}), // nothing is read
		unix.SetsockoptInt(v.fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(v.fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
	)
}

// swap16 is a number in network byte order.
func swap16(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// arp is an ARP packet for Ethernet and IPv4 (RFC 826).
func (v *VIP) arp(sender netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1} // a request
	p = append(p, v.link.Attrs().HardwareAddr...)
	p = append(p, sender.AsSlice()...)
	p = append(p, 0, 0, 0, 0, 0, 0)
	return append(p, v.address.AsSlice()...)
}

func (v *VIP) sendARP(sender netip.Addr) error {
	to := &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ARP), Ifindex: v.link.Attrs().Index, Halen: 6, Addr: broadcast}
	return unix.Sendto(v.fd, v.arp(sender), 0, to)
}

// probe asks whether another host has the address (RFC 5227, section 2.1).
func (v *VIP) probe(ctx context.Context) error {
	for range arpProbes {
		if err := v.sendARP(netip.IPv4Unspecified()); err != nil {
			return fmt.Errorf("sending an ARP probe: %w", err)
		}
		for end := time.Now().Add(arpWait); ; {
			if err := ctx.Err(); err != nil {
				return err
			}
			left := time.Until(end)
			if left <= 0 {
				break
			}
			poll := []unix.PollFd{{Fd: int32(v.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, int(min(left, 50*time.Millisecond).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("waiting for ARP: %w", err)
			}
			if mac := v.claimed(); mac != nil {
				return fmt.Errorf("%w: %v", ErrConflict, mac)
			}
		}
	}
	return nil
}

// claimed reads what has arrived and returns the hardware address of another host that has or wants the address.
func (v *VIP) claimed() net.HardwareAddr {
	var p [128]byte
	for {
		n, _, err := unix.Recvfrom(v.fd, p[:], unix.MSG_DONTWAIT)
		if err != nil {
			return nil
		}
		if n < arpSize || p[4] != 6 || p[5] != 4 {
			continue
		}
		mac := net.HardwareAddr(p[8:14])
		sender, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
		if mac.String() == v.link.Attrs().HardwareAddr.String() {
			continue
		}
		if sender == v.address || sender.IsUnspecified() && target == v.address {
			return mac
		}
	}
}

// announce tells the link who has the address now.
func (v *VIP) announce() error {
	if v.fd < 0 {
		return nil
	}
	if v.address.Is4() {
		return v.sendARP(v.address)
	}
	// A neighbour advertisement with the override flag and the target's hardware address (RFC 4861, section 4.4), to
	// all nodes; the kernel writes the checksum.
	p := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, v.address.AsSlice()...)
	p = append(append(p, 2, 1), v.link.Attrs().HardwareAddr...)
	oob := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: v.address.As16(), Ifindex: uint32(v.link.Attrs().Index)})
	to := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(v.link.Attrs().Index)}
	return unix.Sendmsg(v.fd, p, oob, to, 0)
}
