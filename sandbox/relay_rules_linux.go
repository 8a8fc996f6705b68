package sandbox

import "net/netip"

// Rules are what [World.SetRules] needs for the relay's capabilities as they are
// now: what is allowed goes to port, where ServeTCP and ServeUDP serve on
// 127.0.0.1 and ::1, and what is dark stays so by the rules themselves. Their
// order is that in which the relay looks for a capability.
func (r *Relay) Rules(port uint16) ([]Rule, error) {
	var rules []Rule
	add := func(g *gate, mode Mode, proto string, to ...netip.Prefix) {
		for _, p := range to {
			rule := Rule{Proto: proto, To: p, Ports: g.Ports, Mode: mode}
			if mode == ModeAllow {
				rule.Port = port
			}
			rules = append(rules, rule)
		}
	}
	for _, kind := range []Kind{KindHTTP, KindDNS, KindTCP, KindUDP, KindLoopback} {
		for _, g := range r.gates {
			if g.Kind != kind {
				continue
			}
			mode, _ := g.state()
			switch kind {
			case KindHTTP:
				if r.https[g].open() != nil {
					mode = ModeAllow // each request is judged by itself
				}
				to, err := r.where(g)
				if err != nil {
					return nil, err
				}
				add(g, mode, "tcp", to...)
			case KindDNS:
				to, err := r.where(g)
				if err != nil {
					return nil, err
				}
				add(g, mode, "tcp", to...)
				add(g, mode, "udp", to...)
			case KindTCP, KindUDP:
				add(g, mode, string(kind), g.Prefix)
			case KindLoopback:
				add(g, mode, "tcp", netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128))
			case KindUnix, KindFile:
			}
		}
	}
	return rules, nil
}

// where a capability's host is found inside: at its synthetic addresses, or at
// the address that it is.
func (r *Relay) where(g *gate) ([]netip.Prefix, error) {
	if a, err := netip.ParseAddr(g.Host); err == nil {
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	v4, v6, err := r.o.Names.Addresses(g.Host)
	if err != nil {
		return nil, err
	}
	return []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)}, nil
}
