package sandbox

import (
	"context"
	"net/netip"
)

// watch starts the readers of both sources of the record.
func (w *World) watch(nflog, listener int) {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	r := w.options.Record
	w.watchers.Go(func() {
		if err := watch(ctx, listener, w.seen); err != nil {
			r.Lost(FromSyscall, err.Error())
		}
	})
	w.watchers.Go(func() {
		if err := watchPackets(ctx, nflog, w.seen); err != nil {
			r.Lost(FromPacket, err.Error())
		}
	})
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
	own := false
	for _, p := range w.rules.Own {
		own = own || p.Contains(addr.Addr())
	}
	if own && mode == ModeWedge {
		mode = ModeDrop // a port of the vacuum's own that nobody listens on
	}
	for _, r := range w.rules.Rules {
		if r.Proto == a.Proto && r.To.Contains(addr.Addr()) && (Capability{Ports: r.Ports}.HasPort(addr.Port()) || len(r.Ports) == 0) {
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
