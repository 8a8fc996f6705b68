package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// darkRules are the two log rules the packet log relies on, and silence.
const darkRules = `table inet v {
	chain out {
		type filter hook output priority mangle
		ct direction original ct state new,untracked log prefix "out" group 1 snaplen 128 queue-threshold 1
	}
	chain in {
		type filter hook input priority filter
		ct state established,related accept
		iif lo socket wildcard {0, 1} accept
		log prefix "dark" group 1 snaplen 128 queue-threshold 1
		drop
	}
}`

// darkNet makes a network namespace where every address is local and nothing
// answers, and opens its packet log. It lives as long as its descriptor.
func darkNet(t *testing.T) (netns, nflog int) {
	t.Helper()
	type result struct {
		netns, nflog int
		err          error
	}
	ready := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- result{err: err}
			return
		}
		cmd := exec.Command("sh", "-ec", "ip link set lo up; ip route add local default dev lo; ip -6 route add local default dev lo; nft -f -")
		cmd.Stdin = strings.NewReader(darkRules)
		if out, err := cmd.CombinedOutput(); err != nil {
			ready <- result{err: fmt.Errorf("%w: %s", err, out)}
			return
		}
		var r result
		if r.nflog, r.err = openNFLOG(nflogGroup); r.err == nil {
			r.netns, r.err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- r
	}()
	r := <-ready
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = unix.Close(r.netns) })
	return r.netns, r.nflog
}

// recorded runs commands in a dark network with both sources going into one
// record.
func recorded(t *testing.T, commands ...*exec.Cmd) *Record {
	t.Helper()
	netns, nflog := darkNet(t)
	thread, listener, err := startWatched()
	if err != nil {
		t.Fatal(err)
	}
	defer thread.close()
	r := NewRecord(nil)
	ctx, cancel := context.WithCancel(t.Context())
	packets := make(chan error, 1)
	go func() { packets <- watchPackets(ctx, nflog, r.Add) }()
	go func() {
		if err := watch(t.Context(), listener, r.Add); err != nil {
			r.Lost(FromSyscall, err.Error())
		}
	}()
	thread.do(func() { err = unix.Setns(netns, unix.CLONE_NEWNET) })
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range commands {
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		thread.do(func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Logf("%s: %v: %s", cmd.Args[0], err, out.String())
		}
	}
	cancel()
	if err := <-packets; err != nil {
		r.Lost(FromPacket, err.Error())
	}
	return r
}

func recordLines(r *Record) string {
	var b strings.Builder
	for _, a := range r.Attempts() {
		fmt.Fprintf(&b, "%s %s %s %d %q %v\n", a.Verdict, a.Proto, a.Destination, a.Count, a.Outcome, a.Sources)
	}
	return b.String()
}

func TestRecordOfADarkNetwork(t *testing.T) {
	t.Parallel()
	script := `
import socket, threading
def t(f, *a):
    try: return f(*a)
    except OSError: pass
I4, I6 = socket.AF_INET, socket.AF_INET6
ST, DG, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
def tcp(fam, addr, wait=0.05):
    x = socket.socket(fam, ST); x.settimeout(wait); t(x.connect, addr); return x
for i in range(3): tcp(I4, ("10.0.0.1", 443))
tcp(I6, ("2001:db8::1", 443))
tcp(I4, ("127.0.0.1", 7000))
l = socket.create_server(("127.0.0.1", 7000))
threading.Thread(target=lambda: l.accept()[0].recv(9), daemon=True).start()
tcp(I4, ("127.0.0.1", 7000), 2).send(b"hi")
d = socket.socket(I4, DG)
for i in range(4): d.sendto(b"x", ("10.0.0.2", 53))
c = socket.socket(I4, DG); c.connect(("10.0.0.3", 514)); [t(c.send, b"x") for i in range(5)]
t(socket.socket(I4, RAW, 1).sendto, b"\x08\0\0\0\0\0\0\0", ("10.0.0.4", 0))
t(socket.socket(I4, RAW, 6).sendto, b"\x04\x00\x00\x50"+b"\0"*16, ("10.0.0.5", 0))
`
	r := recorded(t, exec.Command("python3", "-c", script), exec.Command("dig", "+time=1", "+tries=2", "@10.0.0.9", "x.example"))
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	got := recordLines(r)
	for _, want := range []string{
		`blocked tcp 10.0.0.1:443 3 "never answered" [syscall nflog]`,
		`blocked tcp [2001:db8::1]:443 1 "never answered" [syscall nflog]`,
		`blocked tcp 127.0.0.1:7000 1 "never answered" [syscall nflog]`,
		`inside tcp 127.0.0.1:7000 1 "" [syscall nflog]`,
		`blocked udp 10.0.0.2:53 4 "never answered" [syscall nflog]`,
		`blocked udp 10.0.0.3:514 1 "never answered" [syscall nflog]`,
		`blocked icmp 10.0.0.4 1 "never answered" [syscall nflog]`,
		`blocked raw 10.0.0.5 1 "never answered" [syscall nflog]`,
		`blocked udp 10.0.0.9:53 2 "never answered" [syscall nflog]`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no line %s in\n%s", want, got)
		}
	}
}

// A packet that no seen system call explains makes the record incomplete.
func TestRecordNoticesAnUnseenPacket(t *testing.T) {
	netns, nflog := darkNet(t)
	r := NewRecord(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchPackets(ctx, nflog, r.Add) }()
	// Not under the filter.
	cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), netns), "python3", "-c",
		`import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.7.7.7", 77))`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	err := r.Complete()
	if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "10.7.7.7:77") {
		t.Errorf("Complete() = %v; want %v naming 10.7.7.7:77", err, ErrIncomplete)
	}
}

const flood = `
#include <arpa/inet.h>
#include <string.h>
#include <stdlib.h>
#include <time.h>
#include <stdio.h>
int main(int argc, char **argv) {
	int n = atoi(argv[1]), s = socket(AF_INET, SOCK_DGRAM, 0);
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < n; i++) {
		struct sockaddr_in d; memset(&d, 0, sizeof d);
		d.sin_family = AF_INET; d.sin_port = htons(9); d.sin_addr.s_addr = htonl(0x0a000000 + i % 4096);
		if (sendto(s, "x", 1, 0, (void *)&d, sizeof d) != 1) { perror("sendto"); return 1; }
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.3f\n", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9);
	return 0;
}`

func TestRecordLosesNothing(t *testing.T) {
	const n = 20000
	start := time.Now()
	r := recorded(t, exec.Command(compile(t, flood, "-O2", "-static"), fmt.Sprint(n)))
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	count, packets := 0, int64(0)
	for _, a := range r.Attempts() {
		if a.Verdict == Blocked && a.Proto == "udp" {
			count += a.Count
			packets += a.Packets
		}
	}
	if count != n || packets != n {
		t.Errorf("recorded %d attempts and %d packets; want %d", count, packets, n)
	}
	t.Logf("%d attempts in %v", n, time.Since(start))
}
