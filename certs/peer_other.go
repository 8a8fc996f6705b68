//go:build !linux

package certs

import "net"

// peer cannot tell who it is here; the socket's mode keeps others away.
func peer(*net.UnixConn) (string, error) { return "", nil }
