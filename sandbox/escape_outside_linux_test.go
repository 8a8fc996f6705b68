package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// outside is what listens on the host for one attempt.
type outside struct {
	token string
	env   []string

	mu  sync.Mutex
	got map[string]int
}

// groups that the UDP listener joins on the host's loopback interface.
const (
	group4 = "239.7.7.7"
	group6 = "ff02::7:7"
)

// listen opens a listener of each kind. They count who comes, and answer.
func (s suite) listen(t *testing.T, token string) *outside {
	t.Helper()
	o := &outside{token: token, got: map[string]int{}}
	tcp, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := udp.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		v4 := &unix.IPMreqn{Multiaddr: [4]byte(net.ParseIP(group4).To4()), Ifindex: loopback}
		v6 := &unix.IPv6Mreq{Multiaddr: [16]byte(net.ParseIP(group6)), Interface: loopback}
		if err := unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, v4); err != nil {
			t.Errorf("joining %s: %v", group4, err)
		}
		if err := unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, v6); err != nil {
			t.Errorf("joining %s: %v", group6, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	path, abstract, fifo := filepath.Join(s.dir, token+".sock"), "blackstart-"+token+itoa(os.Getpid()), filepath.Join(s.dir, token+".fifo")
	unixPath, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	unixAbstract, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for kind, l := range map[string]net.Listener{"tcp": tcp, "unix": unixPath, "abstract": unixAbstract} {
		go o.accept(kind, l)
		t.Cleanup(func() { _ = l.Close() })
	}
	go func() {
		b := make([]byte, 4096)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			o.count("udp")
			_, _ = udp.WriteTo([]byte("reached"), from)
		}
	}()
	go func() {
		b := make([]byte, 4096)
		for {
			if _, err := pipe.Read(b); err != nil {
				return
			}
			o.count("fifo")
		}
	}()
	t.Cleanup(func() { _ = udp.Close(); _ = pipe.Close() })
	o.env = []string{
		"TOKEN=" + token, "TCP=" + itoa(tcp.Addr().(*net.TCPAddr).Port), "UDP=" + itoa(udp.LocalAddr().(*net.UDPAddr).Port),
		"http_proxy=http://127.0.0.1:" + itoa(tcp.Addr().(*net.TCPAddr).Port), // as an operator's environment may have it
		"UNIX=" + path, "ABSTRACT=" + abstract, "FIFO=" + fifo, "HOSTPID=" + itoa(os.Getpid()), "PROGRAMS=" + s.path, "PATH=" + s.path + ":" + os.Getenv("PATH"),
	}
	return o
}

func (o *outside) accept(kind string, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		o.count(kind)
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Read(make([]byte, 256))
			_, _ = c.Write([]byte("reached"))
		}()
	}
}

func (o *outside) count(kind string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got[kind]++
}

// contacts says how often each listener was reached.
func (o *outside) contacts() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.got)
}

// reached waits for a contact.
func (o *outside) reached(kind string) bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if o.contacts()[kind] > 0 {
			return true
		}
	}
	return false
}

// sniffer sees every packet on every interface of the host that holds a token.
type sniffer struct {
	mu   sync.Mutex
	seen map[string]bool
}

// newSniffer listens until the test ends; without root it sees nothing.
func newSniffer(t *testing.T, root bool) *sniffer {
	t.Helper()
	s := &sniffer{seen: map[string]bool{}}
	if !root {
		return s
	}
	every := binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	if n := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}); n != every {
		every = n // the protocol is given in network order
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(every))
	if err != nil {
		t.Fatal(err)
	}
	filter := unusual()
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "sniffer")
	done := make(chan struct{})
	token := regexp.MustCompile(`(control|inside)[0-9]+x`)
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, err := f.Read(b)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("sniffing: %v", err)
				return
			}
			for _, m := range token.FindAll(bytes.Clone(b[:n]), -1) {
				s.mu.Lock()
				s.seen[string(m)] = true
				s.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { _ = f.Close(); <-done })
	return s
}

// unusual passes what no listener sees: all that is short and neither TCP but a
// SYN, nor UDP but from the port that made-up datagrams have. So the traffic of
// others does not fill the buffer.
func unusual() []unix.SockFilter {
	const (
		byteAt = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		halfAt = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		jeq    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: 400, Jt: 14},
		{Code: halfAt, K: 12},
		{Code: jeq, K: unix.ETH_P_IPV6, Jt: 6},
		{Code: jeq, K: unix.ETH_P_IP, Jf: 10},
		{Code: byteAt, K: 14 + 9},
		{Code: jeq, K: unix.IPPROTO_UDP, Jt: 6},
		{Code: jeq, K: unix.IPPROTO_TCP, Jf: 7},
		{Code: byteAt, K: 14 + 20 + 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 2, Jt: 5, Jf: 6},
		{Code: byteAt, K: 14 + 6},
		{Code: jeq, K: unix.IPPROTO_UDP, Jt: 4},
		{Code: jeq, K: unix.IPPROTO_TCP, Jt: 3, Jf: 2},
		{Code: halfAt, K: 14 + 20},
		{Code: jeq, K: 9, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 400},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
}

func (s *sniffer) saw(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[token]
}
