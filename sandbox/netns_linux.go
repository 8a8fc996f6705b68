package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownAddresses are the addresses of a vacuum's eth0, of the ranges that nobody
// is at: TEST-NET-1 (RFC 5737) and a private prefix of IPv6 (RFC 4193).
func ownAddresses(host int) (v4, v6 netip.Prefix) {
	n := byte(host + 1)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x62, 0x6c, 0x61, 0x63, 0x6b, 15: n}), 64)
}

// ownPrefixes are the addresses by which programs inside reach each other.
func ownPrefixes(v4, v6 netip.Prefix) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
		netip.PrefixFrom(netip.IPv6Loopback(), 128),
		netip.PrefixFrom(v4.Addr(), 32),
		netip.PrefixFrom(v6.Addr(), 128),
	}
}

const loopback = 1 // the index of lo in every network namespace (LOOPBACK_IFINDEX)

// openPorts lets programs in a user namespace inside, such as a container's, listen
// on every port, as they may on a host (ip(7)). Nothing outside is changed: the
// setting is the network namespace's.
func openPorts() error {
	err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("opening the ports below 1024: %w", err)
	}
	return nil
}

// buildNetwork turns this process's new network namespace into one where every
// address is local and nothing answers. The rules are there before the first
// packet can be.
func buildNetwork(s *setup) (warning string, err error) {
	if err := s.Rules.apply(false); err != nil {
		return "", err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return "", fmt.Errorf("opening rtnetlink: %w", err)
	}
	defer h.Close()
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}); err != nil {
		return "", fmt.Errorf("bringing lo up: %w", err)
	}
	everywhere := []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	local := func(dev, metric int) error {
		for _, dst := range everywhere {
			r := netlink.Route{LinkIndex: dev, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Priority: metric}
			if err := h.RouteAdd(&r); err != nil {
				return fmt.Errorf("making every address local: %w", err)
			}
		}
		return nil
	}
	if err := local(loopback, 0); err != nil {
		return "", err
	}
	eth, err := eth0(h, s.Segment)
	switch {
	case err != nil && s.Segment:
		return "", err
	case err != nil:
		return err.Error(), nil // no traffic needs it
	}
	for _, p := range []netip.Prefix{s.Address4, s.Address6} {
		a := netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		// Without a route to its neighbours: IPv4 keeps all its routes in one tree,
		// where that would come before the one that makes everything local.
		a.Flags = unix.IFA_F_NOPREFIXROUTE
		if p.Addr().Is6() {
			a.Flags |= unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: eth}}, &a); err != nil {
			return "", fmt.Errorf("adding %s to eth0: %w", p, err)
		}
	}
	for _, host := range s.Rules.Peers {
		if err := addPeer(h, eth, s.Rules.Host, host); err != nil {
			return "", err
		}
	}
	// What a program binds to eth0, or sends to a link-local address there, is
	// local too; and whoever looks for the default route finds one.
	if err := local(eth, 4096); err != nil {
		return "", err
	}
	for _, dst := range everywhere {
		r := netlink.Route{LinkIndex: eth, Dst: dst, Scope: netlink.SCOPE_LINK}
		if err := h.RouteAdd(&r); err != nil {
			return "", fmt.Errorf("adding a default route: %w", err)
		}
	}
	return "", nil
}

// eth0 makes an interface without a link-local address, for software that looks
// for one: of the first kind that the kernel has. A bridge comes last, for the
// kernel takes 20 ms to undo one, and meanwhile no other vacuum gets on. On a
// segment it is there already.
func eth0(h *netlink.Handle, there bool) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	var l netlink.Link
	if !there {
		for _, l = range []netlink.Link{&netlink.Dummy{LinkAttrs: attrs}, &netlink.Ifb{LinkAttrs: attrs}, &netlink.Bridge{LinkAttrs: attrs}} {
			if err = h.LinkAdd(l); err == nil {
				break
			}
		}
	}
	if err == nil {
		l, err = h.LinkByName(attrs.Name)
	}
	if err == nil {
		err = h.LinkSetIP6AddrGenMode(l, nl6AddrGenNone)
	}
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return 0, fmt.Errorf("no eth0: %w", err)
	}
	return l.Attrs().Index, nil
}

const nl6AddrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
