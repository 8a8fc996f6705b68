package sandbox

import "golang.org/x/sys/unix"

// abis are the system call conventions a program can use on this machine. A
// call by any other is refused with ENOSYS.
func abis() []abi {
	return []abi{
		{
			arch: unix.AUDIT_ARCH_X86_64, word: 8, x32: true,
			connect: unix.SYS_CONNECT, sendto: unix.SYS_SENDTO, sendmsg: unix.SYS_SENDMSG,
			sendmmsg: unix.SYS_SENDMMSG, socket: unix.SYS_SOCKET, socketcall: noCall,
		},
		{ // arch/x86/entry/syscalls/syscall_32.tbl
			arch: unix.AUDIT_ARCH_I386, word: 4,
			connect: 362, sendto: 369, sendmsg: 370, sendmmsg: 345, socket: 359, socketcall: 102,
		},
	}
}
