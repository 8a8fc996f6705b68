package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// ErrNoAddresses is returned when every synthetic address is taken.
var ErrNoAddresses = errors.New("no synthetic address is left")

const maxNames = 1 << 16

// Names gives host names the addresses that a vacuum's resolver answers with:
// one of 198.18.0.0/15, the range for tests (RFC 2544), and one of a private
// IPv6 prefix (RFC 4193), both for as long as the Names lives. Nobody is at
// them, so that a connection to one can only have meant the name, whatever its
// real addresses are at that moment. Methods may be called from any goroutine.
type Names struct {
	mu     sync.Mutex
	number map[string]uint32
	names  []string
}

// NewNames makes an empty pool. The hosts of one vacuum share it.
func NewNames() *Names { return &Names{number: map[string]uint32{}} }

// pool4 and pool6 are fixed: every vacuum has a network of its own, and a run
// that is repeated sees the same addresses.
func pool4() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18}), 15) }

func pool6() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x62, 0x6c, 0x61, 0x63, 0x6b, 0, 53}), 64)
}

// Prefixes are where all synthetic addresses lie.
func (n *Names) Prefixes() []netip.Prefix { return []netip.Prefix{pool4(), pool6()} }

// Addresses returns the addresses of a name, which is lowercase and has no final
// dot. The first call takes them from the pool.
func (n *Names) Addresses(name string) (v4, v6 netip.Addr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i, ok := n.number[name]
	if !ok {
		if len(n.names) == maxNames {
			return netip.Addr{}, netip.Addr{}, fmt.Errorf("giving %s an address: %w", name, ErrNoAddresses)
		}
		i = uint32(len(n.names)) + 1 // the range's first address looks like a network
		n.names = append(n.names, name)
		n.number[name] = i
	}
	a4, a6 := pool4().Addr().As4(), pool6().Addr().As16()
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(a4[:])+i)
	binary.BigEndian.PutUint32(a6[12:], i)
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6), nil
}

// Name returns the name that a synthetic address was given to.
func (n *Names) Name(a netip.Addr) (string, bool) {
	var i uint32
	switch a = a.Unmap().WithZone(""); {
	case pool4().Contains(a):
		base, b := pool4().Addr().As4(), a.As4()
		i = binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
	case pool6().Contains(a):
		b := a.As16()
		if binary.BigEndian.Uint32(b[8:]) != 0 {
			return "", false
		}
		i = binary.BigEndian.Uint32(b[12:])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if i == 0 || uint64(i) > uint64(len(n.names)) {
		return "", false
	}
	return n.names[i-1], true
}
