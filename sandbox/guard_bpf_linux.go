package sandbox

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// guardRule denies or allows one prefix.
type guardRule struct {
	deny   bool
	proto  uint8
	prefix netip.Prefix
	ports  []PortRange
}

func rulesOf(c Capability, deny bool) []guardRule {
	switch c.Kind {
	case KindLoopback:
		return []guardRule{
			{deny, unix.IPPROTO_TCP, netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), c.Ports},
			{deny, unix.IPPROTO_TCP, netip.PrefixFrom(netip.IPv6Loopback(), 128), c.Ports},
		}
	case KindUDP:
		return []guardRule{{deny, unix.IPPROTO_UDP, c.Prefix, c.Ports}}
	case KindTCP, KindDNS, KindHTTP, KindUnix, KindFile: // the caller has let no other kind than TCP come here
	}
	return []guardRule{{deny, unix.IPPROTO_TCP, c.Prefix, c.Ports}}
}

// guardKey counts what was denied. All zero, it counts what found no place.
type guardKey struct {
	Addr [4]uint32 // IPv4 as ::ffff:a.b.c.d; for a socket that was not made, zero
	Port uint16    // for a socket, its type
	_    uint8
	IP   uint8 // the protocol
}

const maxDenied = 4096 // destinations counted one by one

// guardPrograms are in the kernel, attached to a cgroup.
type guardPrograms struct{ counts *ebpf.Map }

// attachGuard loads the programs and attaches them to a cgroup. They stay
// attached when this process ends, until the cgroup is removed.
func attachGuard(cgroup *os.File, rules []guardRule, othersDenied bool) (*guardPrograms, error) {
	spec := ebpf.MapSpec{Name: "denied", Type: ebpf.Hash, KeySize: 20, ValueSize: 8, MaxEntries: maxDenied + 1}
	counts, err := ebpf.NewMap(&spec)
	if err != nil {
		return nil, fmt.Errorf("making the table of what is denied: %w", err)
	}
	p := &guardPrograms{counts}
	if err := counts.Put(guardKey{}, uint64(0)); err != nil {
		p.close()
		return nil, fmt.Errorf("making the table of what is denied: %w", err)
	}
	a := guardAssembler{counts: counts, rules: rules, othersDenied: othersDenied}
	for _, s := range []struct {
		name   string
		attach ebpf.AttachType
		kind   ebpf.ProgramType
		code   asm.Instructions
	}{
		{"connect4", ebpf.AttachCGroupInet4Connect, ebpf.CGroupSockAddr, a.address(false)},
		{"connect6", ebpf.AttachCGroupInet6Connect, ebpf.CGroupSockAddr, a.address(true)},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, ebpf.CGroupSockAddr, a.address(false)},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, ebpf.CGroupSockAddr, a.address(true)},
		{"socket", ebpf.AttachCGroupInetSockCreate, ebpf.CGroupSock, a.socket()},
	} {
		if err := attachProgram(cgroup, s.kind, s.attach, "guard_"+s.name, s.code); err != nil {
			p.close()
			return nil, fmt.Errorf("guarding %s: %w", s.name, err)
		}
	}
	return p, nil
}

// attachProgram loads a program that runs beside those of the cgroups above. It
// is attached without a link, which would take it away when this process ends.
func attachProgram(cgroup *os.File, kind ebpf.ProgramType, at ebpf.AttachType, name string, code asm.Instructions) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, AttachType: at, Instructions: code, License: "MIT"})
	if err != nil {
		return fmt.Errorf("loading a program: %w", err)
	}
	defer func() { _ = prog.Close() }()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(cgroup.Fd()), Program: prog, Attach: at, Flags: unix.BPF_F_ALLOW_MULTI})
	if err != nil {
		return fmt.Errorf("attaching a program to a cgroup: %w", err)
	}
	return nil
}

func (p *guardPrograms) close() { _ = p.counts.Close() }

// denied reads the counts.
func (p *guardPrograms) denied(deny []Capability, first, last time.Time) ([]Attempt, error) {
	var all []Attempt
	var k guardKey
	var n uint64
	it := p.counts.Iterate()
	for it.Next(&k, &n) {
		if n == 0 {
			continue
		}
		a := k.attempt()
		a.Verdict, a.Outcome, a.Sources, a.Detail = Blocked, Refused, []Source{FromGuard}, guardDetail
		a.First, a.Last, a.Count = first, last, int(n)
		if to, err := netip.ParseAddrPort(a.Destination); err == nil {
			for _, c := range deny {
				if (c.Kind == KindUDP) == (a.Proto == "udp") && c.Matches(to) {
					a.Capability = c.Label()
					break
				}
			}
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Attempt) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Destination, b.Destination))
	})
	for i := range all {
		all[i].ID = i + 1
	}
	return all, it.Err()
}

// attempt is what a key stands for.
func (k guardKey) attempt() Attempt {
	switch {
	case k == guardKey{}:
		return Attempt{Proto: protoUnknown, Destination: "more than " + strconv.Itoa(maxDenied) + " destinations"}
	case k.Addr == [4]uint32{} && int(k.IP) == unix.IPPROTO_MPTCP&0xff:
		return Attempt{Proto: "mptcp", Destination: "socket"}
	case k.Addr == [4]uint32{}:
		return Attempt{Proto: protoName(int(k.IP)), Destination: "socket"}
	}
	var b [16]byte
	for i, w := range k.Addr {
		binary.BigEndian.PutUint32(b[4*i:], w)
	}
	return Attempt{Proto: protoName(int(k.IP)), Destination: Endpoint(netip.AddrPortFrom(netip.AddrFrom16(b), k.Port))}
}
