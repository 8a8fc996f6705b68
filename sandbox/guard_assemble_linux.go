package sandbox

import (
	"encoding/binary"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// guardAssembler writes the guard's programs. Each ends with 1, let it go on, or
// 0, EPERM. In all of them
//
//	R2-R5  are the address, as words of the host, IPv4 as ::ffff:a.b.c.d
//	R6     is the context
//	R7     is 1 where the address is IPv4
//	R8     is the port, or the type of a socket
//	R9     is the IP protocol
type guardAssembler struct {
	counts       *ebpf.Map
	rules        []guardRule
	othersDenied bool
}

var addressWords = [...]asm.Register{asm.R2, asm.R3, asm.R4, asm.R5}

// offsets in struct bpf_sock_addr and struct bpf_sock of linux/bpf.h.
const (
	sockAddrIP4      = 4
	sockAddrIP6      = 8
	sockAddrPort     = 24
	sockAddrProtocol = 36
	sockType         = 8
	sockProtocol     = 12
)

// address is the program for where something is connected or sent to.
func (a guardAssembler) address(ipv6 bool) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R8, asm.R6, sockAddrPort, asm.Word),
		asm.HostTo(asm.BE, asm.R8, asm.Half),
		asm.LoadMem(asm.R9, asm.R6, sockAddrProtocol, asm.Word),
		asm.Mov.Imm(asm.R7, 0),
	}
	if ipv6 {
		for i, r := range addressWords {
			code = append(code, asm.LoadMem(r, asm.R6, int16(sockAddrIP6+4*i), asm.Word), asm.HostTo(asm.BE, r, asm.Word))
		}
		code = append(
			code,
			asm.JNE.Imm(asm.R2, 0, "family"),
			asm.JNE.Imm(asm.R3, 0, "family"),
			asm.JEq.Imm(asm.R4, 0xffff, "mapped"),
			// Nothing is the loopback address to the kernel.
			asm.JNE.Imm(asm.R4, 0, "family"),
			asm.JNE.Imm(asm.R5, 0, "family"),
			asm.Mov.Imm(asm.R5, 1),
			asm.Ja.Label("family"),
			asm.Mov.Imm(asm.R7, 1).WithSymbol("mapped"),
		)
	} else {
		code = append(
			code,
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 0xffff),
			asm.LoadMem(asm.R5, asm.R6, sockAddrIP4, asm.Word),
			asm.HostTo(asm.BE, asm.R5, asm.Word),
			asm.Mov.Imm(asm.R7, 1),
		)
	}
	probe := guardProbe.Addr().As4()
	code = append(
		code,
		asm.JNE.Imm(asm.R5, 0, "probe"),
		asm.Mov.Imm(asm.R5, 127<<24|1),
		asm.LoadImm(asm.R0, int64(binary.BigEndian.Uint32(probe[:])), asm.DWord).WithSymbol("probe"),
		asm.JNE.Reg(asm.R5, asm.R0, "family"),
		asm.JNE.Imm(asm.R8, int32(guardProbe.Port()), "family"),
		asm.JNE.Imm(asm.R9, unix.IPPROTO_UDP, "family"),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	)
	for i, r := range a.rules {
		first := ruleLabel(i)
		if i == 0 {
			first = "family"
		}
		code = append(code, r.assemble(first, ruleLabel(i), ruleLabel(i+1))...)
	}
	last := asm.Ja.Label("allow")
	if a.othersDenied {
		last = asm.Ja.Label("deny")
	}
	code = append(code, last.WithSymbol(ruleLabel(len(a.rules))))
	return append(code, a.end()...)
}

func ruleLabel(i int) string { return "rule" + strconv.Itoa(i) }

// assemble compares with one rule. What it does not match goes on at next.
func (r guardRule) assemble(first, name, next string) asm.Instructions {
	code := asm.Instructions{asm.JNE.Imm(asm.R9, int32(r.proto), next).WithSymbol(first)}
	words := r.prefix.Addr().AsSlice()
	registers := addressWords[:]
	if r.prefix.Addr().Is4() {
		code = append(code, asm.JEq.Imm(asm.R7, 0, next))
		registers = registers[3:]
	} else {
		code = append(code, asm.JNE.Imm(asm.R7, 0, next))
	}
	for i, reg := range registers {
		bits := min(32, r.prefix.Bits()-32*i)
		if bits <= 0 {
			break
		}
		if bits < 32 {
			code = append(
				code,
				asm.Mov.Reg(asm.R1, reg),
				asm.RSh.Imm(asm.R1, int32(32-bits)),
				asm.LSh.Imm(asm.R1, int32(32-bits)),
			)
			reg = asm.R1
		}
		code = append(
			code,
			asm.LoadImm(asm.R0, int64(binary.BigEndian.Uint32(words[4*i:])), asm.DWord),
			asm.JNE.Reg(reg, asm.R0, next),
		)
	}
	to := "allow"
	if r.deny {
		to = "deny"
	}
	for i, p := range r.ports {
		after := next
		if i+1 < len(r.ports) {
			after = name + "-" + strconv.Itoa(i+1)
		}
		below := asm.JLT.Imm(asm.R8, int32(p.First), after)
		if i > 0 {
			below = below.WithSymbol(name + "-" + strconv.Itoa(i))
		}
		code = append(code, below, asm.JLE.Imm(asm.R8, int32(p.Last), to))
	}
	return append(code, asm.Ja.Label(next))
}

// socket is the program for sockets that are made: what no rule could be about is
// denied, for it would get past them (MPTCP connects by sockets of its own).
func (a guardAssembler) socket() asm.Instructions {
	code := asm.Instructions{
		asm.LoadMem(asm.R8, asm.R1, sockType, asm.Word),
		asm.LoadMem(asm.R9, asm.R1, sockProtocol, asm.Word),
		asm.JEq.Imm(asm.R8, unix.SOCK_RAW, "unknown"),
		asm.JEq.Imm(asm.R9, unix.IPPROTO_TCP, "allow"),
		asm.JEq.Imm(asm.R9, unix.IPPROTO_UDP, "allow"),
	}
	if !a.othersDenied {
		code = append(
			code,
			asm.JEq.Imm(asm.R9, unix.IPPROTO_ICMP, "allow"),
			asm.JEq.Imm(asm.R9, unix.IPPROTO_ICMPV6, "allow"),
		)
	}
	for i, r := range addressWords {
		zero := asm.Mov.Imm(r, 0)
		if i == 0 {
			zero = zero.WithSymbol("unknown")
		}
		code = append(code, zero)
	}
	return append(append(code, asm.Ja.Label("deny")), a.end()...)
}

// end has what all programs jump to: allow, and deny, which counts.
func (a guardAssembler) end() asm.Instructions {
	const key, zero = -24, -32 // on the stack
	lookup := asm.Instructions{
		asm.LoadMapPtr(asm.R1, a.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "count"),
	}
	code := asm.Instructions{
		asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"),
		asm.Return(),
		asm.StoreImm(asm.RFP, key+16, 0, asm.Word).WithSymbol("deny"),
		asm.StoreMem(asm.RFP, key+16, asm.R8, asm.Half),
		asm.StoreMem(asm.RFP, key+19, asm.R9, asm.Byte),
	}
	for i, r := range addressWords {
		code = append(code, asm.StoreMem(asm.RFP, int16(key+4*i), r, asm.Word))
	}
	code = append(code, lookup...)
	code = append(
		code,
		asm.StoreImm(asm.RFP, zero, 0, asm.DWord),
		asm.LoadMapPtr(asm.R1, a.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, zero),
		asm.Mov.Imm(asm.R4, unix.BPF_NOEXIST), // another processor may have been first
		asm.FnMapUpdateElem.Call(),
	)
	code = append(code, lookup...)
	for i := range 5 { // the table is full
		code = append(code, asm.StoreImm(asm.RFP, int16(key+4*i), 0, asm.Word))
	}
	code = append(code, lookup...)
	return append(
		code,
		asm.Ja.Label("denied"),
		asm.Mov.Imm(asm.R1, 1).WithSymbol("count"),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("denied"),
		asm.Return(),
	)
}
