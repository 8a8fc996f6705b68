package sandbox

import (
	"net/netip"
	"time"
)

// Verdict is what became of an attempt.
type Verdict string

// The verdicts.
const (
	Allowed Verdict = "allowed" // it went through a capability
	Blocked Verdict = "blocked" // nothing answered it, or a rule said no
	Inside  Verdict = "inside"  // it stayed in the vacuum: a listener in there took it, or the call failed on its own
)

// Outcome is what the program saw.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered" // bytes came back
	Silent   Outcome = "never answered"
	Refused  Outcome = "refused"      // a reset or an ICMP error
	NotFound Outcome = "not found"    // a unix path or abstract name that does not exist in there
	Denied   Outcome = "denied"       // an HTTP 403 of the pathway, or a DNS refusal
	Broken   Outcome = "broken"       // allowed, but what it leads to could not be reached from outside
	Wedged   Outcome = "wedged"       // accepted and left without an answer
	NoMethod Outcome = "not enforced" // it passed, but its method and path could not be seen
)

// Source is where the knowledge of an attempt comes from.
type Source string

// The sources.
const (
	FromSyscall Source = "syscall" // seccomp user notification
	FromPacket  Source = "nflog"   // a packet the kernel logged
	FromRelay   Source = "relay"   // a connection the supervisor carried
	FromDNS     Source = "dns"     // a question to the vacuum's resolver
)

// Attempt is something a program in the vacuum tried to reach, alike attempts
// of one process counted together. A record file holds one as JSON per line.
type Attempt struct {
	ID      int     `json:"id"` // in a record file the last line with an id holds
	Verdict Verdict `json:"verdict"`
	// Proto is tcp, udp, icmp, raw, packet, vsock, unix, abstract, dns, http, or
	// family-N for an address family (a number of socket(2)) without a name here.
	Proto string `json:"proto"`
	// Destination is ADDRESS:PORT, [ADDRESS]:PORT, an address alone (icmp, raw),
	// a path, @NAME (abstract), NAME and TYPE (dns) or METHOD and URL (http).
	Destination string `json:"destination"`
	// Name is what the program asked for when it got the destination's address.
	Name       string    `json:"name,omitempty"`
	Capability string    `json:"capability,omitempty"` // its Label
	PID        int       `json:"pid,omitempty"`        // as the process itself sees it
	HostPID    int       `json:"host_pid,omitempty"`   // as the host sees it
	Executable string    `json:"executable,omitempty"`
	Command    []string  `json:"command,omitempty"`   // at most 4096 bytes together
	Container  string    `json:"container,omitempty"` // blackstart's container, if the process is in one
	Host       int       `json:"host"`                // the vacuum's host, counted from 0
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Count      int       `json:"count"`
	Sent       int64     `json:"sent,omitempty"`     // bytes from the program
	Received   int64     `json:"received,omitempty"` // bytes to the program
	Packets    int64     `json:"packets,omitempty"`  // that left the program and were logged, repeats included
	Outcome    Outcome   `json:"outcome,omitempty"`
	Detail     string    `json:"detail,omitempty"` // why, for people
	Sources    []Source  `json:"sources"`

	via    [2]string // proto and destination of what carried it
	flow   uint64    // packets: source port and sequence number, which tell a repeated SYN from a new attempt
	device uint64    // unix: the file system that the path leads to; 0 if that is not known
}

// Via says which connection carried the attempt, so that a [Record] can tell
// whose it was: a question by the resolver it went to ("udp", "127.0.0.53:53"),
// a request by the connection's original destination ("tcp", "10.0.0.1:80").
func (a Attempt) Via(proto, destination string) Attempt {
	a.via = [2]string{proto, destination}
	return a
}

// Endpoint is the one spelling of an address that every source uses as
// [Attempt.Destination]: IPv4 as IPv4, no zone, the unspecified address as the
// loopback address the kernel takes it for, and no port where it is 0.
func Endpoint(a netip.AddrPort) string {
	ip := a.Addr().Unmap().WithZone("")
	switch {
	case ip == netip.IPv4Unspecified():
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case ip == netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	}
	if a.Port() == 0 {
		return ip.String()
	}
	return netip.AddrPortFrom(ip, a.Port()).String()
}
