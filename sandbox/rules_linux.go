package sandbox

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule says what happens to the traffic of one destination. The first rule that
// matches holds; what none matches is dark.
type Rule struct {
	Proto string       `json:"proto"` // tcp or udp
	To    netip.Prefix `json:"to"`
	Ports []PortRange  `json:"ports"` // empty: every port
	Mode  Mode         `json:"mode"`
	// Port is, for ModeAllow, the port on 127.0.0.1 or ::1, inside, that gets the
	// traffic instead: a listener made with [World.Listen], which finds out what
	// was meant with SO_ORIGINAL_DST.
	Port uint16 `json:"port,omitempty"`
}

// ruleset is all the rules of a vacuum.
type ruleset struct {
	Own   []netip.Prefix `json:"own"` // where programs inside reach each other
	Dark  Mode           `json:"dark"`
	Wedge uint16         `json:"wedge"` // the port of the listener that nobody accepts from
	Log   bool           `json:"log"`
	Rules []Rule         `json:"rules"`

	Host  int   `json:"host"`  // this one's number
	Peers []int `json:"peers"` // the hosts that eth0 leads to
	Cut   []int `json:"cut"`   // those of them that are partitioned off
}

// The rules, as nft(8) would show them (out, lost and the logging only with a record):
//
//	table inet blackstart {
//	  chain out {
//	    type filter hook output priority mangle
//	    ct direction original ct state new,untracked log prefix "out" group 1 snaplen 128 queue-threshold 1
//	  }
//	  chain turn {
//	    type nat hook output priority dstnat
//	    PEERS: return
//	    RULE: redirect to :PORT          allow; OWN left out where a rule is wider
//	    RULE: log "dark" redirect to :W  wedge, tcp
//	    RULE: return                     drop, refuse
//	    OWN: return                      with --dark wedge only, as is the next
//	    meta l4proto tcp log "dark" redirect to :W
//	  }
//	  chain lost {
//	    type filter hook output priority filter
//	    PEERS that are not cut: accept
//	    oif != lo ct state new,untracked log "dark"
//	    MULTICAST: ct state new,untracked log "dark"
//	  }
//	  chain in {
//	    type filter hook input priority filter; policy drop
//	    from CUT: drop
//	    ct state established,related accept
//	    iif != lo goto segment           with PEERS only, as is that chain
//	    RULE: log "dark" drop | reject
//	    PORT of a RULE: ct status ! dnat log "dark" drop | reject
//	    OWN: socket wildcard { 0, 1 } accept
//	    log "dark" drop | reject
//	  }
//	  chain segment {
//	    from PEER to this host: socket wildcard { 0, 1 } accept
//	    from PEER: log "dark" group of the peer drop | reject
//	  }
//	}
//
// Nothing is dropped in output: that would be an error to the program (EPERM)
// and no silence. Programs inside reach each other only by the vacuum's own
// addresses: every other one is local here too, and a server that listens on
// 0.0.0.0 must not answer for it.
const tableName = "blackstart"

// apply replaces the rules of this network namespace in one transaction.
func (s ruleset) apply(replace bool) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	if replace {
		c.DelTable(t)
	}
	c.AddTable(t)
	b := builder{c: c, t: t, set: s}
	b.out()
	b.turn()
	b.lost()
	b.segment()
	b.in()
	if err := c.Flush(); err != nil {
		return fmt.Errorf("loading the nftables rules: %w", err)
	}
	return nil
}

type builder struct {
	c   *nftables.Conn
	t   *nftables.Table
	set ruleset
}

type exprs = []expr.Any

func (b builder) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, policy nftables.ChainPolicy) func(parts ...exprs) {
	ch := b.c.AddChain(&nftables.Chain{Name: name, Table: b.t, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy})
	return func(parts ...exprs) {
		var all exprs
		for _, p := range parts {
			all = append(all, p...)
		}
		b.c.AddRule(&nftables.Rule{Table: b.t, Chain: ch, Exprs: all})
	}
}

func (b builder) out() {
	if !b.set.Log {
		return
	}
	add := b.chain("out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityMangle, nftables.ChainPolicyAccept)
	add(
		exprs{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}}},
		ctState(expr.CtStateBitNEW|expr.CtStateBitUNTRACKED),
		b.log(prefixOut),
	)
}

func (b builder) turn() {
	add := b.chain("turn", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, nftables.ChainPolicyAccept)
	for _, host := range b.set.Peers {
		for _, a := range addressesOf(host) {
			add(towards(a), verdict(expr.VerdictReturn))
		}
	}
	for _, r := range b.set.Rules {
		for _, m := range r.matches(b.set.Own) {
			switch {
			case r.Mode == ModeAllow:
				add(m, redirect(r.Port))
			case r.Mode == ModeWedge && r.Proto == "tcp":
				add(m, b.log(prefixDark), redirect(b.set.Wedge))
			default:
				add(m, verdict(expr.VerdictReturn))
			}
		}
	}
	if b.set.Dark == ModeWedge {
		for _, p := range b.set.Own {
			add(towards(p), verdict(expr.VerdictReturn))
		}
		add(proto(unix.IPPROTO_TCP), b.log(prefixDark), redirect(b.set.Wedge))
	}
}

// lost logs what does not come to the input hook: groups that nobody has joined,
// and what leaves by eth0, which leads nowhere.
func (b builder) lost() {
	if !b.set.Log {
		return
	}
	add := b.chain("lost", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, nftables.ChainPolicyAccept)
	fresh := ctState(expr.CtStateBitNEW | expr.CtStateBitUNTRACKED)
	for _, host := range b.set.Peers {
		if slices.Contains(b.set.Cut, host) {
			continue
		}
		for _, a := range addressesOf(host) {
			add(towards(a), verdict(expr.VerdictAccept))
		}
	}
	add(
		notLoopback(expr.MetaKeyOIF),
		fresh, b.log(prefixDark), verdict(expr.VerdictAccept),
	)
	for _, p := range []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8)} {
		add(towards(p), fresh, b.log(prefixDark))
	}
}

func (b builder) in() {
	add := b.chain("in", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop)
	for _, host := range b.set.Cut {
		for _, a := range addressesOf(host) {
			add(from(a), verdict(expr.VerdictDrop))
		}
	}
	add(ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	if len(b.set.Peers) > 0 {
		add(notLoopback(expr.MetaKeyIIF), exprs{&expr.Verdict{Kind: expr.VerdictGoto, Chain: segmentChain}})
	}
	dark := func(m exprs, mode Mode) { darken(add, m, b.log(prefixDark), mode) }
	for _, r := range b.set.Rules {
		if r.Mode == ModeAllow || (r.Mode == ModeWedge && r.Proto == "tcp") {
			continue // turned away in output
		}
		for _, m := range r.matches(b.set.Own) {
			dark(m, r.Mode)
		}
	}
	for _, m := range b.set.ends() {
		dark(m, b.set.Dark)
	}
	for _, p := range b.set.Own {
		add(towards(p), listening(), verdict(expr.VerdictAccept))
	}
	dark(nil, b.set.Dark)
}

// darken adds rules that leave what m matches without an answer, or refuse it.
func darken(add func(...exprs), m, log exprs, mode Mode) {
	if mode != ModeRefuse {
		add(m, log, verdict(expr.VerdictDrop))
		return
	}
	add(m, proto(unix.IPPROTO_TCP), log, exprs{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add(m, log, exprs{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
}

// ends matches what comes to the listeners that rules turn traffic over to
// without having been turned. Taken for a destination, their own address would
// be one of the host's loopback.
func (s ruleset) ends() []exprs {
	type end struct {
		proto string
		port  uint16
	}
	var all []exprs
	seen := map[end]bool{}
	for _, r := range s.Rules {
		e := end{r.Proto, r.Port}
		if r.Mode != ModeAllow || seen[e] {
			continue
		}
		seen[e] = true
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			to := Rule{Proto: r.Proto, To: netip.PrefixFrom(a, a.BitLen()), Ports: []PortRange{{r.Port, r.Port}}}
			for _, m := range to.matches(nil) {
				all = append(all, append(m,
					&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
					&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
				))
			}
		}
	}
	return all
}

const statusDNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h

// matches gives the rule's conditions, one list per range of ports. A rule that
// names more than the vacuum's own addresses is not about those: what is allowed
// everywhere must not turn a program's own loopback over to the host's.
func (r Rule) matches(own []netip.Prefix) []exprs {
	number := byte(unix.IPPROTO_TCP)
	if r.Proto == "udp" {
		number = unix.IPPROTO_UDP
	}
	base := append(towards(r.To), proto(number)...)
	for _, p := range own {
		if r.wider(p) {
			not := towards(p)
			not[len(not)-1].(*expr.Cmp).Op = expr.CmpOpNeq
			base = append(base, not[2:]...) // the family is known
		}
	}
	if len(r.Ports) == 0 {
		return []exprs{base}
	}
	var all []exprs
	for _, p := range r.Ports {
		m := append(exprs{}, base...)
		m = append(m,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint16(nil, p.First), ToData: binary.BigEndian.AppendUint16(nil, p.Last)},
		)
		all = append(all, m)
	}
	return all
}

// wider says that the rule names a prefix and more.
func (r Rule) wider(p netip.Prefix) bool {
	return r.To.Bits() < p.Bits() && r.To.Contains(p.Addr())
}

// towards matches the destination address, and with it the family.
func towards(p netip.Prefix) exprs { return address(p, 16, 24) }

// from matches the source address, and with it the family.
func from(p netip.Prefix) exprs { return address(p, 12, 8) }

// address matches what stands at an offset of the IPv4 or the IPv6 header.
func address(p netip.Prefix, offset4, offset6 uint32) exprs {
	family, offset, size := byte(unix.NFPROTO_IPV4), offset4, uint32(4)
	if p.Addr().Is6() {
		family, offset, size = unix.NFPROTO_IPV6, offset6, 16
	}
	m := exprs{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
	if p.Bits() == 0 {
		return m
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(m,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
}

func proto(number byte) exprs {
	return exprs{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

func ctState(bits uint32) exprs {
	return exprs{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// listening matches where a socket takes the packet: without one the expression
// itself ends the rule.
func listening() exprs { return exprs{&expr.Socket{Key: expr.SocketKeyWildcard, Register: 1}} }

func notLoopback(key expr.MetaKey) exprs {
	return exprs{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(loopback)}}
}

func (b builder) log(prefix string) exprs { return b.logTo(nflogGroup, prefix) }

func (b builder) logTo(group uint16, prefix string) exprs {
	if !b.set.Log {
		return nil
	}
	return exprs{&expr.Log{
		Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD,
		Group: group, Data: []byte(prefix), Snaplen: nflogHeaders, QThreshold: 1,
	}}
}

func redirect(port uint16) exprs {
	return exprs{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}
}

func verdict(kind expr.VerdictKind) exprs { return exprs{&expr.Verdict{Kind: kind}} }
