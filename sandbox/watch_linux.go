package sandbox

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// watch starts the readers of both sources of the record.
func (w *World) watch(nflog, listener int) {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	r := w.options.Record
	shared := devicesBelow(w.options.Binds)
	log, err := unix.FcntlInt(uintptr(nflog), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		r.Lost(FromPacket, err.Error())
	}
	reading, read := context.WithCancel(ctx)
	w.watchers.Go(func() {
		defer unix.Close(log)
		if err := watch(ctx, listener, func(a Attempt) {
			w.seen(w.throughBind(a, shared))
			waitForRoom(reading, log)
		}); err != nil {
			r.Lost(FromSyscall, err.Error())
		}
	})
	w.watchers.Go(func() {
		defer read()
		if err := watchPackets(ctx, nflog, w.seen); err != nil {
			r.Lost(FromPacket, err.Error())
		}
	})
}

// devicesBelow are the numbers of the file systems at and below directories.
func devicesBelow(dirs []string) map[uint64]bool {
	all := map[uint64]bool{}
	if len(dirs) == 0 {
		return all
	}
	add := func(path string) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			all[st.Dev] = true
		}
	}
	mounts, _ := mountinfo.GetMounts(nil) // without it, the directories' own are known
	for _, d := range dirs {
		add(d)
		for _, m := range mounts {
			if within(m.Mountpoint, d) {
				add(m.Mountpoint)
			}
		}
	}
	return all
}

// throughBind says of a unix socket whether it is one of the host's, which is
// there because the directory it is in was let in. Nothing inside can have made
// one there, whatever it calls its own.
func (w *World) throughBind(a Attempt, shared map[uint64]bool) Attempt {
	switch {
	case a.Proto != protoUnix || a.Outcome == NotFound || len(shared) == 0:
	case a.device == 0:
		return Attempt{Proto: protoUnknown, First: a.First, Count: 1, Sources: a.Sources, Detail: fmt.Sprintf("process %d connected to %s, and it is not known whether that is a socket of the host", a.HostPID, a.Destination)}
	case shared[a.device]:
		a.Verdict, a.Outcome, a.Detail = Allowed, "", "a socket of the host, by a path that was let in"
	}
	return a
}

// seen adds to an observation what only the world knows.
func (w *World) seen(a Attempt) {
	a.Host = w.options.Host
	if a.source() == FromPacket && a.Verdict == Blocked {
		a.Outcome = w.outcome(a)
	}
	w.options.Record.Add(a)
}

// outcome is how a dark destination looked to the program.
func (w *World) outcome(a Attempt) Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	mode := w.rules.Dark
	addr, err := netip.ParseAddrPort(a.Destination)
	if err != nil {
		ip, _ := netip.ParseAddr(a.Destination)
		addr = netip.AddrPortFrom(ip, 0)
	}
	var own []netip.Prefix
	for _, p := range w.rules.Own {
		if p.Contains(addr.Addr()) {
			own = append(own, p)
		}
	}
	if len(own) > 0 && mode == ModeWedge {
		mode = ModeDrop // a port of the vacuum's own that nobody listens on
	}
	for _, r := range w.rules.Rules {
		if r.Proto == a.Proto && r.To.Contains(addr.Addr()) && !slices.ContainsFunc(own, r.wider) && (Capability{Ports: r.Ports}.HasPort(addr.Port()) || len(r.Ports) == 0) {
			if r.Mode != ModeAllow {
				mode = r.Mode
			}
			break
		}
	}
	switch {
	case addr.Addr().IsMulticast():
		return Silent // lost, not rejected
	case mode == ModeRefuse:
		return Refused
	case mode == ModeWedge && a.Proto == "tcp":
		return Wedged
	}
	return Silent
}
