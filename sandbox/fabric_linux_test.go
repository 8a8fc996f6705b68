package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fabricUp makes a fabric that ends with the test.
func fabricUp(t testing.TB, hosts ...Options) *Fabric {
	t.Helper()
	f, err := UpFabric(t.Context(), hosts)
	if err != nil {
		t.Fatalf("UpFabric(%d hosts) = %v; want a fabric", len(hosts), err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	for i, w := range f.Hosts() {
		for _, warning := range w.Warnings() {
			t.Logf("host %d: warning: %s", i, warning)
		}
	}
	return f
}

// servers listens on every address, TCP port 443 and UDP port 53, and says the
// host's name to whoever comes. It says ready when it does.
const servers = `
import socket, threading, sys
def serve(l):
    while True:
        c = l.accept()[0]; c.send(sys.argv[1].encode()); threading.Thread(target=lambda: [c.send(b) for b in iter(lambda: c.recv(99), b"")], daemon=True).start()
def echo(d):
    while True:
        b, a = d.recvfrom(9); d.sendto(sys.argv[1].encode(), a)
for fam, bind in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    l = socket.socket(fam); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    d = socket.socket(fam, socket.SOCK_DGRAM)
    if fam == socket.AF_INET6: l.setsockopt(41, 26, 1); d.setsockopt(41, 26, 1)
    l.bind((bind, 443)); l.listen(); d.bind((bind, 53))
    threading.Thread(target=serve, args=(l,), daemon=True).start()
    threading.Thread(target=echo, args=(d,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
`

// serving runs a program that says ready, until the test ends.
func serving(t testing.TB, w *World, args ...string) *Process {
	t.Helper()
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	t.Cleanup(func() { _ = r.Close() })
	p, err := w.Spawn(t.Context(), Cmd{Args: args, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatalf("Spawn(%q) = %v; want a process", args[0], err)
	}
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if l, err := bufio.NewReader(r).ReadString('\n'); l != "ready\n" {
		t.Fatalf("%q said %q, %v; want ready", args[0], l, err)
	}
	return p
}

func TestFabricHostsTalk(t *testing.T) {
	var hosts []Options
	for range 3 {
		hosts = append(hosts, Options{Record: NewRecord(nil)})
	}
	f := fabricUp(t, hosts...)
	for i, w := range f.Hosts() {
		serving(t, w, "python3", "-c", servers, fmt.Sprint("host", i))
	}
	for i, w := range f.Hosts() {
		var places, want []string
		for j := range 3 {
			for _, a := range addressesOf(j) {
				for _, p := range []string{"tcp,%s,443", "udp,%s,53"} {
					place := fmt.Sprintf(p, a.Addr())
					places = append(places, place)
					want = append(want, fmt.Sprintf("%s answer host%d", place, j))
				}
			}
		}
		peer := addressesOf((i + 1) % 3)
		for _, place := range append([]string{
			"tcp," + peer[0].Addr().String() + ",444", "tcp," + peer[1].Addr().String() + ",444", "udp," + peer[0].Addr().String() + ",54",
			"tcp,fd62:6c61:636b::77,443", "tcp,127.0.0.1,7777",
		}, darkPlaces[:6]...) {
			places = append(places, place)
			want = append(want, place+" silent")
		}
		if got := python(t, w, probe, places...); got != strings.Join(want, "\n") {
			t.Errorf("on host %d:\n%s\nwant\n%s", i, got, strings.Join(want, "\n"))
		}
	}
	out, code := inside(t, f.Hosts()[1], "sh", "-c", "hostname; curl -s --http0.9 -m2 telnet://host2:443 </dev/null | head -c5; echo; tail -n +7 /etc/hosts")
	etc, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	if want := "host1\nhost2\n" + strings.TrimRight(string(etc), "\n"); out != want || code != 0 {
		t.Errorf("the names: %q, %d; want %q", out, code, want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, o := range hosts {
		if err := o.Record.Complete(); err != nil {
			t.Errorf("Complete() of host %d = %v; want nil", i, err)
		}
		got, peer := recordLines(o.Record), addressesOf((i+1)%3)
		for _, want := range []string{
			fmt.Sprintf("inside tcp %s:443 1 %q [syscall nflog]", peer[0].Addr(), ""),
			fmt.Sprintf("inside tcp [%s]:443 1 %q [syscall nflog]", peer[1].Addr(), ""),
			fmt.Sprintf("inside udp %s:53 1 %q [syscall nflog]", peer[0].Addr(), ""),
			fmt.Sprintf("blocked tcp %s:444 1 %q [syscall nflog]", peer[0].Addr(), Silent),
			fmt.Sprintf("blocked tcp [%s]:444 1 %q [syscall nflog]", peer[1].Addr(), Silent),
			fmt.Sprintf("blocked udp %s:54 1 %q [syscall nflog]", peer[0].Addr(), Silent),
			fmt.Sprintf("blocked tcp 192.0.2.77:443 1 %q [syscall nflog]", Silent),
		} {
			if i != 1 && !strings.Contains(got, want) {
				t.Errorf("host %d has no line %s in\n%s", i, want, got)
			}
		}
		for _, a := range o.Record.Attempts() {
			if a.Host != i || a.HostPID == 0 {
				t.Errorf("host %d recorded %+v; want its own programs' only", i, a)
			}
		}
	}
}

// The kinds of dark hold between hosts too, where nothing listens.
func TestFabricDark(t *testing.T) {
	for _, c := range []struct {
		mode              Mode
		peer, other, told string
	}{
		{ModeRefuse, "ConnectionRefusedError 111", "ConnectionRefusedError 111", string(Refused)},
		{ModeWedge, "silent", "wedged", string(Silent)},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			t.Parallel()
			r := NewRecord(nil)
			f := fabricUp(t, Options{Dark: c.mode, Record: r}, Options{Dark: c.mode, Record: r})
			serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
			got := python(t, f.Hosts()[0], probe, "tcp,192.0.2.2,443", "tcp,192.0.2.2,444", "tcp,fd62:6c61:636b::2,444", "tcp,192.0.2.3,443")
			want := fmt.Sprintf("tcp,192.0.2.2,443 answer host1\ntcp,192.0.2.2,444 %s\ntcp,fd62:6c61:636b::2,444 %s\ntcp,192.0.2.3,443 %s", c.peer, c.peer, c.other)
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got, want := recordLines(r), fmt.Sprintf("blocked tcp 192.0.2.2:444 1 %q [syscall nflog]", c.told); !strings.Contains(got, want) {
				t.Errorf("no line %s in\n%s", want, got)
			}
			if err := r.Complete(); err != nil {
				t.Errorf("Complete() = %v; want nil", err)
			}
		})
	}
}

// A connection that stays open over a partition is silent while it lasts.
func TestPartition(t *testing.T) {
	var hosts []Options
	for range 3 {
		hosts = append(hosts, Options{Record: NewRecord(nil), Dark: ModeRefuse})
	}
	f := fabricUp(t, hosts...)
	for i, w := range f.Hosts() {
		serving(t, w, "python3", "-c", servers, fmt.Sprint("host", i))
	}
	reach := func(from int) string {
		t.Helper()
		var places []string
		for j := range 3 {
			for _, a := range addressesOf(j) {
				places = append(places, fmt.Sprintf("tcp,%s,443", a.Addr()), fmt.Sprintf("udp,%s,53", a.Addr()))
			}
		}
		var b strings.Builder
		for l := range strings.Lines(python(t, f.Hosts()[from], probe, places...)) {
			b.WriteString(strings.TrimPrefix(strings.Join(strings.Fields(l)[1:], " "), "answer ") + " ")
		}
		return b.String()
	}
	all, dark := "host0 host0 host0 host0 host1 host1 host1 host1 host2 host2 host2 host2 ", "silent silent silent silent "
	if got := reach(0); got != all {
		t.Fatalf("from host 0 before: %s; want %s", got, all)
	}
	in, toServer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromServer, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*os.File{in, toServer, fromServer, out} {
		defer c.Close()
	}
	_, err = f.Hosts()[0].Spawn(t.Context(), Cmd{Args: []string{"python3", "-c", `
import socket, sys, threading
s = socket.create_connection(("host1", 443))
threading.Thread(target=lambda: [(sys.stdout.write(b.decode()), sys.stdout.flush()) for b in iter(lambda: s.recv(99), b"")], daemon=True).start()
for l in iter(sys.stdin.readline, ""): s.send(l.encode())
`}, Stdin: in, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	read := func(limit time.Duration) string {
		b := make([]byte, 99)
		_ = fromServer.SetReadDeadline(time.Now().Add(limit))
		n, _ := fromServer.Read(b)
		return string(b[:n])
	}
	if got := read(10 * time.Second); got != "host1" {
		t.Fatalf("the connection said %q; want host1", got)
	}
	if err := f.Partition(t.Context(), []int{0}, []int{1, 2}); err != nil {
		t.Fatalf("Partition() = %v; want nil", err)
	}
	if _, err := toServer.WriteString("lost\n"); err != nil {
		t.Fatal(err)
	}
	if got := read(300 * time.Millisecond); got != "" {
		t.Errorf("over a partition the connection said %q; want silence", got)
	}
	if err := f.Heal(t.Context()); err != nil {
		t.Fatalf("Heal() = %v; want nil", err)
	}
	if got := read(20 * time.Second); got != "lost\n" {
		t.Errorf("healed, the connection said %q; want what was lost", got)
	}
	if err := f.Partition(t.Context(), []int{0}, []int{1, 2}); err != nil {
		t.Fatalf("Partition() = %v; want nil", err)
	}
	if got, want := reach(0), all[:24]+dark+dark; got != want {
		t.Errorf("from host 0 when cut off: %s; want %s", got, want)
	}
	if got, want := reach(1), dark+all[24:]; got != want {
		t.Errorf("from host 1 when cut off: %s; want %s", got, want)
	}
	// A change of a host's own rules does not heal it.
	if err := f.Hosts()[1].SetRules(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := reach(1), dark+all[24:]; got != want {
		t.Errorf("from host 1 with other rules: %s; want %s", got, want)
	}
	if err := f.Heal(t.Context()); err != nil {
		t.Fatalf("Heal() = %v; want nil", err)
	}
	if got := reach(1); got != all {
		t.Errorf("from host 1 when healed: %s; want %s", got, all)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"192.0.2.2:443", "192.0.2.1:443", "192.0.2.1:443"} {
		if err := hosts[i].Record.Complete(); err != nil {
			t.Errorf("Complete() of host %d = %v; want nil", i, err)
		}
		if got, want := recordLines(hosts[i].Record), fmt.Sprintf("blocked tcp %s 1 %q [syscall nflog]", want, Silent); i < 2 && !strings.Contains(got, want) {
			t.Errorf("host %d has no line %s in\n%s", i, want, got)
		}
	}
}

// What one host puts on the wire by hand comes to another only at its own address.
func TestFabricFrames(t *testing.T) {
	f := fabricUp(t, Options{}, Options{})
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer out.Close()
	_, err = f.Hosts()[1].Spawn(t.Context(), Cmd{Args: []string{"python3", "-uc", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 53)); print("ready")
while True: print(s.recv(99).decode())
`}, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewReader(r)
	if l, err := lines.ReadString('\n'); l != "ready\n" {
		t.Fatalf("the listener said %q, %v; want ready", l, err)
	}
	python(t, f.Hosts()[0], `
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(("eth0", 0))
def frame(src, dst):
    data = (src + ">" + dst).encode()
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
    t = sum(struct.unpack("!10H", h)); t = (t & 0xffff) + (t >> 16); t = (t & 0xffff) + (t >> 16)
    h = h[:10] + struct.pack("!H", 0xffff ^ t) + h[12:]
    s.send(b"\x02blac\x01" + b"\x02blac\x00" + b"\x08\x00" + h + struct.pack("!HHHH", 999, 53, 8 + len(data), 0) + data)
for src in ("192.0.2.1", "10.0.0.9", "127.0.0.1", "192.0.2.2"):
    for dst in ("10.0.0.1", "127.0.0.1", "192.0.2.1", "192.0.2.255", "255.255.255.255", "224.0.0.1"): frame(src, dst)
frame("10.0.0.9", "192.0.2.2"); frame("192.0.2.1", "192.0.2.2")
`)
	if l, err := lines.ReadString('\n'); l != "192.0.2.1>192.0.2.2\n" {
		t.Errorf("first came %q, %v; want only what another host sent to this one", l, err)
	}
}

func TestFabricBadOptions(t *testing.T) {
	r := NewRecord(nil)
	segment := cutRules([]int{1})
	for name, hosts := range map[string][]Options{
		"no host":         {},
		"too many":        make([]Options, maxHosts+1),
		"half a record":   {{Record: r}, {}},
		"a peer's rule":   {{Rules: segment}, {}},
		"bad in one only": {{}, {Dark: "grey"}},
	} {
		if f, err := UpFabric(t.Context(), hosts); f != nil || !errors.Is(err, ErrBadOptions) {
			t.Errorf("UpFabric() with %s = %v, %v; want %v", name, f, err, ErrBadOptions)
		}
	}
	f := fabricUp(t, Options{}, Options{})
	for _, pair := range [][2]int{{0, 0}, {0, 2}, {-1, 0}} {
		if err := f.Partition(t.Context(), pair[:1], pair[1:]); !errors.Is(err, ErrBadOptions) {
			t.Errorf("Partition(%v) = %v; want %v", pair, err, ErrBadOptions)
		}
	}
	if err := f.Hosts()[0].SetRules(t.Context(), segment); !errors.Is(err, ErrBadOptions) {
		t.Errorf("SetRules() about a peer = %v; want %v", err, ErrBadOptions)
	}
}

// A host that is gone does not keep the others from being cut and healed.
func TestPartitionWithoutAHost(t *testing.T) {
	f := fabricUp(t, Options{}, Options{}, Options{})
	serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
	if err := f.Hosts()[2].Close(); err != nil {
		t.Fatal(err)
	}
	const place = "tcp,192.0.2.2,443"
	for _, c := range []struct {
		change func() error
		want   string
	}{
		{func() error { return f.Partition(t.Context(), []int{0}, []int{1, 2}) }, "silent"},
		{func() error { return f.Heal(t.Context()) }, "answer host1"},
	} {
		if err := c.change(); err != nil {
			t.Errorf("changing the partitions: %v; want nil", err)
		}
		if got := python(t, f.Hosts()[0], probe, place); got != place+" "+c.want {
			t.Errorf("%s; want %s", got, c.want)
		}
	}
}

// leftovers lists what fabrics leave: processes of theirs, and links in this
// network namespace.
func leftovers(t *testing.T) []string {
	t.Helper()
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && (string(b) == segmentName+"\x00" || string(b) == initName+"\x00") {
			if st, err := os.ReadFile(filepath.Join(filepath.Dir(p), "status")); err == nil && ownedByTest(string(st)) {
				found = append(found, p)
			}
		}
	}
	links, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := filepath.Base(l); strings.HasPrefix(name, "host") || name == "segment" || strings.HasPrefix(name, "veth") {
			found = append(found, l)
		}
	}
	return found
}

// ownedByTest says that a process belongs to this test's user and is ours: its
// parent, or its parent's, is this process.
func ownedByTest(status string) bool {
	for range 3 {
		var ppid int
		for l := range strings.Lines(status) {
			if v, ok := strings.CutPrefix(l, "PPid:"); ok {
				_, _ = fmt.Sscan(v, &ppid)
			}
		}
		if ppid == os.Getpid() {
			return true
		}
		b, err := os.ReadFile("/proc/" + itoa(ppid) + "/status")
		if err != nil {
			return false
		}
		status = string(b)
	}
	return false
}

func TestFabricsLeaveNothing(t *testing.T) {
	before := leftovers(t)
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for i := range 20 {
		f, err := UpFabric(t.Context(), make([]Options, 3))
		if err != nil {
			t.Fatalf("UpFabric() number %d = %v; want a fabric", i, err)
		}
		if out, code := inside(t, f.Hosts()[i%3], "sh", "-c", "exit 5"); code != 5 {
			t.Fatalf("exit 5 in number %d = %d, %q; want 5", i, code, out)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("Close() of number %d = %v; want nil", i, err)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("a second Close() = %v; want nil", err)
		}
	}
	if after := leftovers(t); len(after) > len(before) {
		t.Errorf("%v are left; want %v", after, before)
	}
	if now, _ := filepath.Glob("/proc/self/fd/*"); len(now) > len(fds)+2 {
		t.Errorf("%d descriptors are open; want %d as before", len(now), len(fds))
	}
}

// TestFabricKilled is also the supervisor that is killed.
func TestFabricKilled(t *testing.T) {
	if os.Getenv("BLACKSTART_TEST_SUPERVISOR") != "" {
		r := NewRecord(nil)
		f, err := UpFabric(t.Context(), []Options{{Record: r}, {Record: r}})
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprint("ready ", f.holder.Process.Pid)
		for _, w := range f.Hosts() {
			p, err := w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & while :; do sleep 1000; done"}})
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprint(" ", w.PID(), " ", p.HostPID())
		}
		fmt.Println(line)
		<-f.Hosts()[0].Gone()
		t.Fatal("the vacuum has ended")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestFabricKilled$")
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_SUPERVISOR=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids [5]int
	n := 0
	for lines := bufio.NewScanner(out); n < len(pids) && lines.Scan(); {
		n, _ = fmt.Sscanf(lines.Text(), "ready %d %d %d %d %d", &pids[0], &pids[1], &pids[2], &pids[3], &pids[4])
		if n < len(pids) {
			t.Log(lines.Text())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if n != len(pids) {
		t.Fatalf("the supervisor named %d processes; want %d", n, len(pids))
	}
	for _, pid := range pids {
		for deadline := time.Now().Add(10 * time.Second); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(5 * time.Millisecond) {
			if b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat"); err == nil && strings.Contains(string(b), ") Z ") {
				break // gone but for whoever reaps it
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d is left of a killed supervisor; want none of %v", pid, pids)
			}
		}
	}
}

func BenchmarkFabricUpAndDown(b *testing.B) {
	for b.Loop() {
		f, err := UpFabric(b.Context(), make([]Options, 3))
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
