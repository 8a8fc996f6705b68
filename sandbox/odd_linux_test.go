package sandbox

import (
	"strings"
	"testing"
)

// Unusual ways to send are as silent as the usual ones, and never an error that
// would tell a program where it is.
func TestOddTrafficIsSilent(t *testing.T) {
	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	got := python(t, w, `
import select, socket, struct
I4, I6, ST, DG, RAW = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
def tcp(fam, addr, dev=None):
    s = socket.socket(fam, ST); s.settimeout(0.3)
    if dev: s.setsockopt(socket.SOL_SOCKET, 25, dev)
    s.connect(addr); return "connected"
def udp(fam, addr, dev=None, broadcast=False):
    s = socket.socket(fam, DG); s.settimeout(0.3)
    if dev: s.setsockopt(socket.SOL_SOCKET, 25, dev)
    if broadcast: s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.sendto(b"x", addr); return s.recvfrom(99)
def ping(fam, addr):
    s = socket.socket(fam, RAW, 1 if fam == I4 else 58); s.settimeout(0.3)
    s.sendto((b"\x08" if fam == I4 else b"\x80") + b"\0\xf7\xff\0\0\0\0" if fam == I4 else b"\x80\0\0\0\0\0\0\0", addr)
    while True:
        b = s.recv(99)
        if (b[20] == 0 if fam == I4 else b[0] == 129): return "echo"
def tfo(fam, addr):
    s = socket.socket(fam, ST); s.settimeout(0.3)
    try: s.sendto(b"x", 0x20000000, addr)
    except BlockingIOError:
        if not select.select([], [s], [], 0.3)[1]: raise socket.timeout
    return s.recv(9)
def raw(addr):
    s = socket.socket(I4, RAW, 255); s.settimeout(0.3)
    s.sendto(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, socket.inet_aton("192.0.2.1"), socket.inet_aton(addr)) + struct.pack("!HHLLBBHHH", 9, 80, 0, 0, 0x50, 2, 99, 0, 0), (addr, 0))
    return s.recv(99)
def packet():
    s = socket.socket(socket.AF_PACKET, RAW, 0); s.settimeout(0.3); s.bind(("eth0", 0x806))  # hears no packets of the others
    s.send(b"\xff" * 6 + b"\0" * 54); return s.recv(99)
def lladdr(a, port): return socket.getaddrinfo(a, port)[0][4]
cases = [
    ("bound to eth0", tcp, I4, ("10.0.0.1", 443), b"eth0"),
    ("bound to eth0, v6", tcp, I6, ("2001:db8::1", 443), b"eth0"),
    ("bound to lo", tcp, I4, ("10.0.0.1", 443), b"lo"),
    ("link-local", tcp, I6, lladdr("fe80::1%eth0", 443)),
    ("mapped", tcp, I6, ("::ffff:127.0.0.1", 443)),
    ("neighbour", tcp, I4, ("192.0.2.77", 443)),
    ("multicast", udp, I4, ("224.0.0.251", 5353)),
    ("multicast, v6", udp, I6, lladdr("ff02::fb%eth0", 5353)),
    ("broadcast", udp, I4, ("255.255.255.255", 67), None, True),
    ("own broadcast", udp, I4, ("192.0.2.255", 67), None, True),
    ("udp bound", udp, I4, ("10.0.0.1", 53), b"eth0"),
    ("ping", ping, I4, ("10.0.0.1", 0)), ("ping own", ping, I4, ("127.0.0.1", 0)),
    ("ping v6", ping, I6, ("2001:db8::1", 0)), ("ping own v6", ping, I6, ("::1", 0)),
    ("fast open", tfo, I4, ("10.0.0.1", 80)), ("fast open v6", tfo, I6, ("::1", 80)),
    ("raw", raw, "10.0.0.9"), ("packet", packet),
]
def one(c):
    name, f, *a = c
    try: return "%s: %s\n" % (name, f(*a))
    except socket.timeout: return ""
    except OSError as e: return "%s: %s\n" % (name, e)
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(32) as e: print("".join(e.map(one, cases)), end="")
`)
	if got != "" {
		t.Errorf("not silent:\n%s", got)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	if got := recordLines(r); strings.Contains(got, "inside") || strings.Contains(got, "allowed") {
		t.Errorf("recorded\n%s\nwant everything blocked", got)
	}
}
