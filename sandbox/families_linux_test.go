package sandbox

import (
	"fmt"
	"strings"
	"testing"
)

// What is refused is in the record, by 64-bit and by 32-bit calls.
func TestRefusedFamiliesAreRecorded(t *testing.T) {
	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	got := python(t, w, `
import socket, ctypes
for f in (40, 38, 31, 2**31 - 1):
    try: socket.socket(f, socket.SOCK_STREAM); print("made", f)
    except OSError as e: print(e.errno)
l = ctypes.CDLL(None, use_errno=True)
print(l.syscall(41, ctypes.c_long(1 << 32 | 40), 1, 0), ctypes.get_errno())
for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX): socket.socket(f, socket.SOCK_DGRAM)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
`)
	if want := "97\n97\n97\n97\n-1 97"; got != want {
		t.Errorf("sockets of vsock, alg, bluetooth and nothing: %q; want %q", got, want)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	lines := recordLines(r)
	for _, want := range []string{
		fmt.Sprintf("blocked vsock socket 2 %q [syscall]\n", Refused),
		fmt.Sprintf("blocked family-38 socket 1 %q [syscall]\n", Refused),
		fmt.Sprintf("blocked family-31 socket 1 %q [syscall]\n", Refused),
		fmt.Sprintf("blocked family-%d socket 1 %q [syscall]\n", 1<<31-1, Refused),
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("no line %s in\n%s", want, lines)
		}
	}
	if n := strings.Count(lines, " socket "); n != 4 {
		t.Errorf("%d sockets; want 4:\n%s", n, lines)
	}
}

func TestRefusal(t *testing.T) {
	for _, a := range abis() {
		for _, c := range []struct {
			nr     uint32
			first  uint64
			errno  string
			exists bool
		}{
			{a.socket, 40, "address family not supported by protocol", true},
			{a.socket, 1<<32 | 40, "address family not supported by protocol", true},
			{a.socket, afInet, "errno 0", true},
			{a.socket, afPacket, "errno 0", true},
			{a.connect, 40, "errno 0", true},
			{a.socketcall, callSocket, "function not implemented", a.socketcall != noCall},
			{a.socketcall, callConnect, "errno 0", a.socketcall != noCall},
		} {
			got := call{abi: a, nr: c.nr, args: [6]uint64{c.first}}.refusal()
			if c.exists && got.Error() != c.errno {
				t.Errorf("refusal() of call %d (%d) = %v; want %s", c.nr, c.first, got, c.errno)
			}
		}
	}
}
