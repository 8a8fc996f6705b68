package names

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"
)

// A Mode says which goes first, the data or upstream. Overrides go before both.
type Mode uint8

// The modes.
const (
	Auth          Mode = iota // the data only; what it does not know is a failure
	LastKnownGood             // upstream; the data where upstream fails, and where it denies what the data knows
	Pin                       // the data; upstream for what it does not know
)

func (m Mode) String() string {
	switch m {
	case Auth:
		return "auth"
	case LastKnownGood:
		return "lkg"
	case Pin:
		return "pin"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// ParseMode reads auth, lkg or pin.
func ParseMode(s string) (Mode, error) {
	for m := Auth; m <= Pin; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q is none of auth, lkg, pin", s)
}

// Options are how a Server listens and answers.
type Options struct {
	// Listen are the addresses for UDP and TCP. Port 0 takes a free one, the same for both.
	Listen []netip.AddrPort
	Mode   Mode
	// Upstreams are asked in this order. They are never found by name, and none may be an address of this server.
	Upstreams []netip.AddrPort
	// Overrides go before everything else; nil for none.
	Overrides *Set
	// Allow are the clients whose resolver this is: for them upstream is asked; anybody else gets the data alone. Nil stands for loopback,
	// link-local and private addresses, never for everybody.
	Allow []netip.Prefix
	// Timeout is how long upstream may take before the data answers; 400 ms where it is 0. What the data does not
	// know waits up to four times as long.
	Timeout time.Duration
	// Rate is how many UDP answers in a second each client network (IPv4 /24, IPv6 /56) gets at most from a socket
	// that does not listen on loopback; 1,000 where it is 0, no limit where it is negative. Beyond it every other
	// answer is an empty, truncated one, which lets real clients come back over TCP, and the others are not sent.
	Rate int
	// Workers is how many UDP sockets share each address, one goroutine each; as many as CPUs where it is 0.
	Workers int
	// Conns bounds TCP connections, 4,096 where it is 0. Beyond it the one that is idle longest is closed.
	Conns int
	// Idle is how long a TCP connection may be silent between queries, 10 s where it is 0.
	Idle time.Duration
	// Sample is called with every SampleEvery-th answer, from the goroutine that answers; 0 for none.
	Sample      func(Sample)
	SampleEvery uint64
}

// Sample is an answer as the query log has it.
type Sample struct {
	Client netip.AddrPort
	TCP    bool
	Name   string
	Type   string
	Rcode  string // such as NOERROR; "" if nothing was sent
	From   string // data, override, upstream, frozen, nothing, error
}

// ErrLoop: an upstream is this server itself.
var ErrLoop = errors.New("upstream is an address this server listens on")

// complete checks the options and fills in what they leave open.
func (o *Options) complete() error {
	if len(o.Listen) == 0 {
		return errors.New("no address to listen on")
	}
	for _, l := range o.Listen {
		if !l.Addr().IsValid() {
			return errors.New("an address to listen on is not valid")
		}
	}
	if o.Mode > Pin {
		return fmt.Errorf("there is no mode %d", o.Mode)
	}
	if o.Mode == LastKnownGood && len(o.Upstreams) == 0 {
		return errors.New("mode lkg needs an upstream")
	}
	if o.Mode == Auth && len(o.Upstreams) != 0 {
		return errors.New("mode auth asks no upstream")
	}
	if o.Timeout <= 0 {
		o.Timeout = 400 * time.Millisecond
	}
	if o.Rate == 0 {
		o.Rate = 1000
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Conns <= 0 {
		o.Conns = 4096
	}
	if o.Idle <= 0 {
		o.Idle = 10 * time.Second
	}
	if o.Allow == nil {
		for _, p := range [...]string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"} {
			o.Allow = append(o.Allow, netip.MustParsePrefix(p))
		}
	}
	return nil
}

// loops refuses upstreams that are this server.
func loops(upstreams, listen []netip.AddrPort) error {
	own := map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("listing this host's addresses: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	for _, u := range upstreams {
		if !u.Addr().IsValid() || u.Port() == 0 {
			return fmt.Errorf("upstream %v is not an address with a port", u)
		}
		a := u.Addr().Unmap().WithZone("")
		for _, l := range listen {
			here := l.Addr().Unmap().WithZone("") == a || l.Addr().IsUnspecified() && (own[a] || a.IsLoopback() || a.IsUnspecified())
			if here && l.Port() == u.Port() {
				return fmt.Errorf("%w: %v", ErrLoop, u)
			}
		}
	}
	return nil
}
