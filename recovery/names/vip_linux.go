package names

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

// Errors of RaiseVIP, wrapped.
var (
	// ErrConflict: another host on the link has the address. The message has its hardware address, where known.
	ErrConflict = errors.New("another host has the address")
	// ErrPresent: the interface has the address already, and not from here.
	ErrPresent = errors.New("the interface has the address already")
)

const (
	// vipLife is how long the address stays after a process that was killed, in seconds: the kernel removes it then.
	vipLife    = 60
	vipRefresh = 10 * time.Second
	vipCheck   = time.Second
	// vipAnnounce is how often neighbours are told again.
	vipAnnounce = time.Minute
	dadPatience = 5 * time.Second
)

// A VIP is a well-known address that this host has for as long as the process lives.
type VIP struct {
	address netip.Addr
	link    netlink.Link
	handle  *netlink.Handle
	fd      int // for announcements
}

// RaiseVIP gives an interface an address, alone in its network (/32 or /128), after asking on the link whether another
// host has it: by ARP probes (RFC 5227) or duplicate address detection (RFC 4862). Then it tells the link: by
// gratuitous ARP or unsolicited neighbour advertisements (RFC 4861, section 7.2.6). An address that an earlier process
// has left behind is taken over. Hold or Close the VIP.
//
// Errors: ErrConflict, ErrPresent, those of the kernel.
func RaiseVIP(ctx context.Context, address netip.Addr, device string) (*VIP, error) {
	v, err := raise(ctx, address.Unmap().WithZone(""), device)
	if err != nil {
		return nil, fmt.Errorf("raising %v on %s: %w", address, device, err)
	}
	return v, nil
}

func raise(ctx context.Context, address netip.Addr, device string) (*VIP, error) {
	if !address.IsValid() || address.IsUnspecified() || address.IsMulticast() {
		return nil, errors.New("not an address a host can have")
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	v := &VIP{address: address, handle: h, fd: -1}
	if v.link, err = h.LinkByName(device); err == nil {
		err = v.begin(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, v.shut())
	}
	return v, nil
}

func (v *VIP) begin(ctx context.Context) error {
	if v.link.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("the interface is down")
	}
	have, err := v.find()
	if err != nil {
		return err
	}
	bits, left := 0, false
	if have != nil {
		bits, _ = have.Mask.Size()
		left = bits == v.address.BitLen() && have.ValidLft > 0 && have.ValidLft <= vipLife
	}
	if have != nil && !left {
		return ErrPresent
	}
	if err := v.open(); err != nil {
		return err
	}
	if !left && v.address.Is4() && v.asks() {
		if err := v.probe(ctx); err != nil {
			return err
		}
	}
	if err := v.set(); err != nil {
		return err
	}
	if err := v.settled(ctx); err != nil {
		return errors.Join(err, v.remove())
	}
	if err := v.announce(); err != nil {
		return errors.Join(fmt.Errorf("announcing it: %w", err), v.remove())
	}
	return nil
}

// asks says whether hosts on the link find each other by ARP or neighbour discovery.
func (v *VIP) asks() bool {
	a := v.link.Attrs()
	return a.RawFlags&unix.IFF_NOARP == 0 && a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6
}

func (v *VIP) ip() *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: v.address.AsSlice(), Mask: net.CIDRMask(v.address.BitLen(), v.address.BitLen())}, ValidLft: vipLife}
	if v.address.Is4() {
		a.PreferedLft = vipLife // an IPv6 address that is deprecated is not what this host calls others from
	}
	return a
}

// find is the address as the interface has it, or nil.
func (v *VIP) find() (*netlink.Addr, error) {
	family := netlink.FAMILY_V6
	if v.address.Is4() {
		family = netlink.FAMILY_V4
	}
	list, err := v.handle.AddrList(v.link, family)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if a, ok := netip.AddrFromSlice(list[i].IP); ok && a.Unmap() == v.address {
			return &list[i], nil
		}
	}
	return nil, nil
}

// set gives the interface the address, or gives it a new lease of life.
func (v *VIP) set() error { return v.handle.AddrReplace(v.link, v.ip()) }

// settled waits for duplicate address detection.
func (v *VIP) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dadPatience)
	defer cancel()
	for {
		a, err := v.find()
		switch {
		case err != nil:
			return err
		case a == nil || a.Flags&unix.IFA_F_DADFAILED != 0:
			return ErrConflict
		case a.Flags&unix.IFA_F_TENTATIVE == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for duplicate address detection: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Hold keeps the address until the context ends and removes it then. Nothing else makes it go: where it got lost, it
// is set again. report, which may be nil, is told when that fails, and with nil when it works again.
func (v *VIP) Hold(ctx context.Context, report func(error)) error {
	tick := time.NewTicker(vipCheck)
	defer tick.Stop()
	refreshed, announced, bad, repeats := time.Now(), time.Now(), false, 2
	for {
		select {
		case <-ctx.Done():
			return v.Close()
		case now := <-tick.C:
			have, err := v.find()
			if err == nil && (have == nil || now.Sub(refreshed) >= vipRefresh) {
				if err = v.set(); err == nil {
					refreshed = now
				}
				if have == nil {
					repeats = 3
				}
			}
			// Some neighbours miss the first announcement.
			if err == nil && (repeats > 0 || now.Sub(announced) >= vipAnnounce) {
				repeats, announced = max(repeats-1, 0), now
				err = v.announce()
			}
			if report != nil && (err != nil) != bad {
				report(err)
			}
			bad = err != nil
		}
	}
}

// Close removes the address.
func (v *VIP) Close() error {
	if err := errors.Join(v.remove(), v.shut()); err != nil {
		return fmt.Errorf("removing %v from %s: %w", v.address, v.link.Attrs().Name, err)
	}
	return nil
}

func (v *VIP) remove() error {
	err := v.handle.AddrDel(v.link, v.ip())
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil // gone already
	}
	return err
}

func (v *VIP) shut() error {
	v.handle.Close()
	if v.fd < 0 {
		return nil
	}
	return unix.Close(v.fd)
}
