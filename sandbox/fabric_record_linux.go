package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// segmentChain has the rules for what comes from other hosts.
const segmentChain = "segment"

// peerGroup is the netlink group to which a host logs what another one sent it
// and nothing took: only here it is known, and only there it can be counted.
func peerGroup(host int) uint16 { return uint16(nflogGroup + 1 + host) }

// segment lets in what another host sends to a listener here, from its own
// address to this host's.
func (b builder) segment() {
	if len(b.set.Peers) == 0 {
		return
	}
	ch := b.c.AddChain(&nftables.Chain{Name: segmentChain, Table: b.t})
	add := func(parts ...exprs) {
		var all exprs
		for _, p := range parts {
			all = append(all, p...)
		}
		b.c.AddRule(&nftables.Rule{Table: b.t, Chain: ch, Exprs: all})
	}
	own := addressesOf(b.set.Host)
	for _, host := range b.set.Peers {
		for i, a := range addressesOf(host) {
			add(from(a), towards(own[i]), listening(), verdict(expr.VerdictAccept))
			darken(add, from(a), b.logTo(peerGroup(host), prefixDark), b.set.Dark)
		}
	}
}

// openPeerLog is openNFLOG for what comes from another host.
func openPeerLog(host int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("opening the log of host %d: %w", host, err)
	}
	if err = bindPeerLog(fd, peerGroup(host)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("binding the log of host %d: %w", host, err)
	}
	return fd, nil
}

func bindPeerLog(fd int, group uint16) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, nflogBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, nflogBuffer); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, group)
	body = append(body, nlAttr(cfgCmd, []byte{cmdBind})...)
	body = append(body, nlAttr(cfgMode, append(binary.BigEndian.AppendUint32(nil, nflogHeaders), copyPacket, 0))...)
	body = append(body, nlAttr(cfgQthresh, binary.BigEndian.AppendUint32(nil, 1))...)
	body = append(body, nlAttr(cfgFlags, binary.BigEndian.AppendUint16(nil, flagSeq))...)
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.NFNL_SUBSYS_ULOG<<8|msgConfig)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(append(msg, make([]byte, 8)...), body...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is no acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// watchPeers reads what the other hosts sent here in vain, in the order of
// Peers, into the records of those.
func (w *World) watchPeers(logs []int) {
	ctx, cancel := context.WithCancel(context.Background())
	stop := w.stop
	w.stop = func() { stop(); cancel() }
	outcome := Silent
	if w.options.Dark == ModeRefuse {
		outcome = Refused
	}
	for i, host := range w.rules.Peers {
		r := w.fabric.records[host]
		w.watchers.Go(func() {
			err := watchPackets(ctx, logs[i], func(a Attempt) {
				a.Host, a.Outcome = host, outcome
				r.Add(a)
			})
			if err != nil {
				r.Lost(FromPacket, err.Error())
			}
		})
	}
}
