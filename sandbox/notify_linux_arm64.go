package sandbox

import "golang.org/x/sys/unix"

// abis are the system call conventions a program can use on this machine. A
// call by any other is refused with ENOSYS.
func abis() []abi {
	return []abi{
		{
			arch: unix.AUDIT_ARCH_AARCH64, word: 8,
			connect: unix.SYS_CONNECT, sendto: unix.SYS_SENDTO, sendmsg: unix.SYS_SENDMSG,
			sendmmsg: unix.SYS_SENDMMSG, socket: unix.SYS_SOCKET, socketcall: noCall,
		},
		{ // arch/arm64/tools/syscall_32.tbl
			arch: unix.AUDIT_ARCH_ARM, word: 4,
			connect: 283, sendto: 290, sendmsg: 296, sendmmsg: 374, socket: 281, socketcall: noCall,
		},
	}
}
