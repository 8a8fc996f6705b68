package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs a function in a network namespace of its own, on a thread that goes away with it.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		} else if os.Getenv("REQUIRE_KERNEL") == "" && errors.Is(err, unix.EPERM) {
			err = errSkip
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, errSkip) {
		t.Skip("no network namespace without CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
}

var errSkip = errors.New("not allowed")

// twoHosts joins two namespaces by a cable: f runs on the one, with the interface a, and calls on the other, with b.
func twoHosts(t *testing.T, f func(other func(func() error) error) error) {
	calls, results, ready := make(chan func() error), make(chan error), make(chan int)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- -1
			return
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fd = -1
		}
		ready <- fd
		for c := range calls {
			results <- c()
		}
	}()
	other := <-ready
	if other >= 0 {
		defer unix.Close(other)
	}
	defer close(calls)
	inNamespace(t, func() error {
		if other < 0 {
			return errors.New("no second namespace")
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("adding a cable: %w", err)
		}
		peer, err := netlink.LinkByName("b")
		if err != nil {
			return err
		}
		call := func(f func() error) error { calls <- f; return <-results }
		if err := errors.Join(netlink.LinkSetNsFd(peer, other), netlink.LinkSetUp(veth)); err != nil {
			return err
		}
		if err := call(func() error {
			b, err := netlink.LinkByName("b")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(b)
		}); err != nil {
			return err
		}
		return f(call)
	})
}

// on adds an address to an interface.
func on(device, address string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrReplace(link, a)
}

// addresses are those of an interface, without link-local ones.
func addresses(device string) (list []string) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return []string{err.Error()}
	}
	addrs, _ := i.Addrs()
	for _, a := range addrs {
		if p := netip.MustParsePrefix(a.String()); !p.Addr().IsLinkLocalUnicast() {
			list = append(list, a.String())
		}
	}
	return list
}

// listen reads frames of a protocol at b until one passes, for at most 5 s.
func listen(protocol uint16, passes func([]byte) bool) (wait func() error, err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(swap16(protocol)))
	if err != nil {
		return nil, err
	}
	return func() error {
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(int64(5 * time.Second))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		for buf := make([]byte, 2048); ; {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return fmt.Errorf("no such frame: %w", err)
			}
			if passes(buf[:n]) {
				return nil
			}
		}
	}, nil
}

func TestVIP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, address, bits string
		protocol            uint16
		announced           func(p []byte) bool
	}{
		{"IPv4", "10.77.0.53", "/32", unix.ETH_P_ARP, func(p []byte) bool {
			return len(p) >= arpSize && string(p[14:18]) == "\x0a\x4d\x00\x35" && string(p[24:28]) == "\x0a\x4d\x00\x35"
		}},
		{"IPv6", "fd00::53", "/128", unix.ETH_P_IPV6, func(p []byte) bool {
			vip := netip.MustParseAddr("fd00::53").As16()
			return len(p) >= 72 && p[6] == 58 && p[7] == 255 && p[40] == 136 && p[44] == 0x20 && string(p[48:64]) == string(vip[:])
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			twoHosts(t, func(other func(func() error) error) error {
				vip := netip.MustParseAddr(c.address)
				if err := other(func() error { return on("b", c.address+"/24") }); err != nil {
					return err
				}
				if _, err := RaiseVIP(context.Background(), vip, "a"); !errors.Is(err, ErrConflict) {
					t.Errorf("RaiseVIP() of an address the other host has = %v; want ErrConflict", err)
				}
				if got := addresses("a"); len(got) != 0 {
					t.Errorf("after a conflict the interface has %v; want nothing", got)
				}
				var heard func() error
				if err := other(func() (err error) {
					link, _ := netlink.LinkByName("b")
					a, _ := netlink.ParseAddr(c.address + "/24")
					if err := netlink.AddrDel(link, a); err != nil {
						return err
					}
					heard, err = listen(c.protocol, c.announced)
					return err
				}); err != nil {
					return err
				}
				v, err := RaiseVIP(context.Background(), vip, "a")
				if err != nil {
					return err
				}
				if err := other(heard); err != nil {
					t.Errorf("the other host did not hear of it: %v", err)
				}
				if got := addresses("a"); len(got) != 1 || got[0] != c.address+c.bits {
					t.Errorf("the interface has %v; want %s", got, c.address+c.bits)
				}
				// A process that was killed: its address is taken over.
				v.shut()
				if v, err = RaiseVIP(context.Background(), vip, "a"); err != nil {
					return fmt.Errorf("over one that was left: %w", err)
				}
				// Lost, and set again.
				if err := v.remove(); err != nil {
					return err
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error)
				go func() { done <- v.Hold(ctx, nil) }()
				for end := time.Now().Add(5 * time.Second); len(addresses("a")) == 0; {
					if time.Now().After(end) {
						t.Error("Hold() did not set the address again within 5 s")
						break
					}
					unix.Nanosleep(&unix.Timespec{Nsec: 1e7}, nil) // on this thread, in this namespace
				}
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Hold() = %v; want nil", err)
				}
				if got := addresses("a"); len(got) != 0 {
					t.Errorf("after Hold() the interface has %v; want nothing", got)
				}
				// Somebody else's.
				if err := on("a", c.address+c.bits); err != nil {
					return err
				}
				if _, err := RaiseVIP(context.Background(), vip, "a"); !errors.Is(err, ErrPresent) {
					t.Errorf("RaiseVIP() of an address that is there = %v; want ErrPresent", err)
				}
				return nil
			})
		})
	}
}

func TestVIPNeedsAnInterface(t *testing.T) {
	inNamespace(t, func() error {
		vip := netip.MustParseAddr("10.77.0.53")
		if _, err := RaiseVIP(context.Background(), vip, "nosuch"); err == nil {
			t.Error("RaiseVIP() on no interface = nil; want an error")
		}
		if _, err := RaiseVIP(context.Background(), vip, "lo"); err == nil {
			t.Error("RaiseVIP() on one that is down = nil; want an error")
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		v, err := RaiseVIP(context.Background(), vip, "lo")
		if err != nil {
			return err
		}
		return v.Close()
	})
}
