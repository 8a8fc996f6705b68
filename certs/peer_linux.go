package certs

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer says who is at the other end of a unix socket (SO_PEERCRED, unix(7)), where that is this user or root.
func peer(conn *net.UnixConn) (string, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return "", err
	}
	if credErr != nil {
		return "", credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Getuid() {
		return "", fmt.Errorf("%w: uid %d", ErrRefused, cred.Uid)
	}
	return fmt.Sprintf("uid %d pid %d", cred.Uid, cred.Pid), nil
}
