package container

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// mountAPI tries fsopen(2), which mounts without any path in between.
func mountAPI() Feature {
	f := Feature{Name: "mount-api", Have: Yes, Need: Optional, Detail: "fsopen works"}
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		_ = unix.Close(fd) // nothing was configured
	case errors.Is(err, unix.ENOSYS):
		f.Have, f.Detail = No, "kernel before 5.2"
	default:
		f.Have, f.Detail = Unknown, "fsopen: "+err.Error()
	}
	return f.missing("the classic mount(2) is used")
}

// seccompFeatures asks for actions and flags without installing any filter.
func seccompFeatures() []Feature {
	filter := Feature{Name: "seccomp", Have: Yes, Need: Degrades, Detail: "filters can return errors"}
	ret := uint32(unix.SECCOMP_RET_ERRNO)
	if err := seccompCall(unix.SECCOMP_GET_ACTION_AVAIL, 0, unsafe.Pointer(&ret)); err != nil {
		filter.Have, filter.Detail = No, "seccomp: "+err.Error()
	}
	notify := Feature{Name: "seccomp-notify", Have: Yes, Need: Optional, Detail: "with WAIT_KILLABLE_RECV"}
	ret = unix.SECCOMP_RET_USER_NOTIF
	if err := seccompCall(unix.SECCOMP_GET_ACTION_AVAIL, 0, unsafe.Pointer(&ret)); err != nil {
		notify.Have, notify.Detail = No, "seccomp: "+err.Error()
	} else if err := seccompCall(unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, nil); !errors.Is(err, unix.EFAULT) {
		// A filter at address 0 is looked at only after the flags were taken.
		notify.Have, notify.Detail = No, "without WAIT_KILLABLE_RECV: kernel before 5.19"
	}
	return []Feature{
		filter.missing("containers run without a system call filter, like root on this host"),
		notify.missing("the sandbox cannot record which process tried what"),
	}
}

func seccompCall(op, flags uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, op, flags, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func pidfd() Feature {
	f := Feature{Name: "pidfd", Have: Yes, Need: Optional, Detail: "pidfd_open works"}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		f.Have, f.Detail = No, "pidfd_open: "+err.Error()
	} else {
		_ = unix.Close(fd) // only a reference
	}
	return f.missing("processes are watched by number, as on kernels before 5.3")
}

// nftables asks the kernel for the generation of its rule set, over netlink.
func nftables() Feature {
	f := Feature{Name: "nftables", Have: Yes, Need: Optional, Detail: "answers over netlink"}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); errors.Is(err, unix.EPERM) {
		f.Have, f.Detail = Unknown, "netlink: "+err.Error()
	} else if err != nil {
		f.Have, f.Detail = No, fmt.Sprintf("netlink: %v", err)
	}
	return f.missing("no sandbox and no rehearsal here; modprobe nf_tables if the kernel has it")
}
