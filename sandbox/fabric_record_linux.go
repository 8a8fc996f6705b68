package sandbox

import (
	"context"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
