package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// segmentName is the whole command line of the process that holds a segment.
const segmentName = "blackstart-segment"

// join asks the holder to start a host's first process, whose control socket
// comes with it.
type join struct {
	Host int `json:"host"`
}

// hold starts the process whose network namespace the segment is in. The hosts'
// first processes are its children: so it has power over their network
// namespaces without any privilege on the host (user_namespaces(7)).
func (f *Fabric) hold() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	if f.control, err = newControl(os.NewFile(uintptr(pair[0]), "control")); err != nil {
		return err
	}
	attr := namespaces()
	attr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET
	f.holder = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{segmentName}, Env: []string{"GOMAXPROCS=2"}, Dir: "/",
		ExtraFiles: []*os.File{theirs}, SysProcAttr: attr,
	}
	if err := f.holder.Start(); err != nil {
		_ = f.control.conn.Close()
		return fmt.Errorf("%w: making namespaces: %w%s", ErrUnresolved, err, userNamespaceHint())
	}
	return nil
}

// holdSegment serves the supervisor until it is gone. Then this process ends, its
// network namespace with it, and with that the segment; the hosts end by their
// own control sockets.
func holdSegment() error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	unix.CloseOnExec(controlFD)
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	c, err := newControl(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	bridge := 0
	for {
		m, fds, err := c.receive()
		if err != nil {
			return err
		}
		answer, out := message{ID: m.ID}, []int(nil)
		if m.Join == nil || len(fds) == 0 || len(fds) > 2 {
			err = errors.New("an unknown request")
		} else if bridge == 0 {
			bridge, err = addBridge()
		}
		if err == nil {
			var pidfd int
			if answer.PID, pidfd, err = startHost(bridge, m.Join.Host, fds); err == nil {
				out = []int{pidfd}
			}
		} else {
			closeAll(fds)
		}
		if err != nil {
			answer.Error = err.Error()
			var errno syscall.Errno
			if errors.As(err, &errno) {
				answer.Errno = int(errno)
			}
		}
		err = c.send(answer, out...)
		closeAll(out)
		if err != nil {
			return err
		}
	}
}

// addBridge makes the segment.
func addBridge() (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "segment"
	snooping := false // it would hold back what nobody has asked for
	return addLink(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
}

// addLink makes an interface that has no addresses of its own, and brings it up.
func addLink(l netlink.Link) (index int, err error) {
	if err = netlink.LinkAdd(l); err == nil {
		l, err = netlink.LinkByName(l.Attrs().Name)
	}
	if err == nil {
		err = netlink.LinkSetIP6AddrGenMode(l, nl6AddrGenNone)
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return 0, fmt.Errorf("making the segment's %s %s: %w", l.Type(), l.Attrs().Name, err)
	}
	return l.Attrs().Index, nil
}

// startHost starts a vacuum's first process, with an eth0 that leads to the
// bridge. It owns the descriptors: the control socket, and the cgroup if there is
// one.
func startHost(bridge, host int, fds []int) (pid, pidfd int, err error) {
	theirs := os.NewFile(uintptr(fds[0]), "control")
	defer theirs.Close()
	cgroup := -1
	if len(fds) > 1 {
		cgroup = fds[1]
		defer unix.Close(cgroup)
	}
	attr := namespaces()
	// Here the user is root, whoever it is outside. A namespace whose parent may
	// not set groups must not either.
	if b, err := os.ReadFile("/proc/self/setgroups"); err == nil && strings.TrimSpace(string(b)) == "deny" {
		attr.GidMappingsEnableSetgroups = false
	}
	pidfd = -1
	attr.PidFD = &pidfd
	cmd, err := startFirst(theirs, attr, cgroup)
	if err != nil {
		return 0, -1, fmt.Errorf("making namespaces: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = hostName(host), bridge
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = "eth0", netlink.NsPid(cmd.Process.Pid), hardwareAddress(host)
	_, err = addLink(veth)
	if err == nil && pidfd < 0 {
		err = errors.New("the kernel gave no process descriptor")
	}
	if err != nil {
		_ = cmd.Process.Kill()
		if pidfd >= 0 {
			_ = unix.Close(pidfd)
		}
		return 0, -1, err
	}
	return cmd.Process.Pid, pidfd, nil
}

// hardwareAddress is that of a host's eth0, one of the locally administered.
func hardwareAddress(host int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'b', 'l', 'a', 'c', byte(host)}
}

// addressesOf are a host's addresses on the segment, alone.
func addressesOf(host int) [2]netip.Prefix {
	v4, v6 := ownAddresses(host)
	return [2]netip.Prefix{netip.PrefixFrom(v4.Addr(), 32), netip.PrefixFrom(v6.Addr(), 128)}
}

// addPeer makes another host reachable by eth0. The routes stand in the table
// where every address is local, and are the longer ones there.
func addPeer(h *netlink.Handle, eth, self, host int) error {
	own := addressesOf(self)
	for i, p := range addressesOf(host) {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Bits())}
		n := netlink.Neigh{LinkIndex: eth, IP: dst.IP, HardwareAddr: hardwareAddress(host), State: unix.NUD_PERMANENT}
		if err := h.NeighSet(&n); err != nil {
			return fmt.Errorf("naming the neighbour %s: %w", p.Addr(), err)
		}
		r := netlink.Route{LinkIndex: eth, Dst: dst, Src: own[i].Addr().AsSlice(), Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_LINK}
		if err := h.RouteAdd(&r); err != nil {
			return fmt.Errorf("adding a route to %s: %w", p.Addr(), err)
		}
	}
	return nil
}
