package names

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
)

// A limiter counts the answers to each client network in a table of fixed size, where networks may displace each
// other: it never grows, whatever addresses a flood claims to come from. It is for one goroutine.
type limiter struct {
	rate    uint32 // answers in a second; 0 for no limit
	seed    maphash.Seed
	buckets []bucket
}

type bucket struct {
	network uint64 // as key has it
	second  uint32
	sent    uint32
}

type permission uint8

const (
	send permission = iota
	slip            // an empty answer with TC set
	drop
)

func newLimiter(rate int) limiter {
	if rate <= 0 {
		return limiter{}
	}
	return limiter{rate: uint32(rate), seed: maphash.MakeSeed(), buckets: make([]bucket, 1<<14)}
}

// take asks for one answer. second is any clock's.
func (l *limiter) take(client netip.Addr, second uint32) permission {
	if l.rate == 0 {
		return send
	}
	network := key(client)
	at := maphash.Comparable(l.seed, network) & uint64(len(l.buckets)-1)
	b := &l.buckets[at]
	if b.network != network || b.second != second {
		*b = bucket{network: network, second: second}
	}
	b.sent++
	switch {
	case b.sent <= l.rate:
		return send
	case b.sent&1 == 0:
		return slip
	}
	return drop
}

// key is a client's network: an IPv4 /24 or an IPv6 /56.
func key(client netip.Addr) uint64 {
	if client.Is4() || client.Is4In6() {
		a := client.As4()
		return uint64(a[0])<<16 | uint64(a[1])<<8 | uint64(a[2])
	}
	a := client.As16()
	return 1<<63 | binary.BigEndian.Uint64(a[:])>>8
}
