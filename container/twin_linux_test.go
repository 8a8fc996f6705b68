package container

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTwinHelper is no test: the test binary runs it as another process that
// holds what the arguments after "--" say until its standard input ends.
func TestTwinHelper(t *testing.T) {
	args := os.Args[slices.Index(os.Args, "--")+1:]
	if os.Getenv("TWIN_HELPER") == "" {
		return
	}
	var held any
	var err error
	switch args[0] {
	case "tcp", "tcp4", "tcp6":
		held, err = net.Listen(args[0], args[1])
	case "udp":
		held, err = net.ListenPacket("udp", args[1])
	case "write":
		held, err = os.OpenFile(args[1], os.O_CREATE|os.O_WRONLY, 0o600)
	case "read":
		held, err = os.Open(args[1])
	case "deleted":
		if held, err = os.OpenFile(args[1], os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			err = os.Remove(args[1])
		}
	case "mapped":
		var f *os.File
		if f, err = os.OpenFile(args[1], os.O_CREATE|os.O_RDWR, 0o600); err == nil {
			err = f.Truncate(4096)
		}
		if err == nil {
			held, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			_ = f.Close()
		}
	case "cwd":
		err = os.Chdir(args[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	_ = held
}

// hold starts the helper in another process and waits until it holds.
func hold(t *testing.T, args ...string) int {
	t.Helper()
	return holdIn(t, nil, args...)
}

func holdIn(t *testing.T, wrapper []string, args ...string) int {
	t.Helper()
	line := slices.Concat(wrapper, []string{os.Args[0], "-test.run=^TestTwinHelper$", "--"}, args)
	return start(t, line, "ready", "TWIN_HELPER=1")
}

// start runs a command until the test ends and waits until it prints a line.
func start(t *testing.T, line []string, ready string, env ...string) int {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for sc := bufio.NewScanner(stdout); sc.Scan(); {
		if sc.Text() == ready {
			return cmd.Process.Pid
		}
	}
	t.Fatalf("%q ended without printing %q", line, ready)
	return 0
}

func twins(t *testing.T, q TwinQuery) []Conflict {
	t.Helper()
	found, err := Twins(t.Context(), q)
	if err != nil {
		t.Fatalf("Twins(%+v) = %v; want no error", q, err)
	}
	return found
}

// eventually polls until the conflicts satisfy ok.
func eventually(t *testing.T, q TwinQuery, want string, ok func([]Conflict) bool) []Conflict {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		found := twins(t, q)
		if ok(found) {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("Twins() = %v; want %s", found, want)
		}
		wait(t, 20*time.Millisecond)
	}
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestTwinsEtcd(t *testing.T) {
	data := filepath.Join(t.TempDir(), "etcd data")
	client, peer := closedPort(t), closedPort(t)
	args := func(client, peer string) []string {
		return []string{
			"etcd", "--name=a", "--data-dir=" + data, "--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
			"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer, "--initial-cluster=a=http://" + peer,
		}
	}
	line := args(client, peer)
	q := TwinQuery{Args: line, Ports: PortsOf(line, nil, nil), Data: []string{data}}
	if found := twins(t, q); len(found) != 0 {
		t.Fatalf("Twins() before the start = %v; want none", found)
	}
	first := etcd(t, line)
	found := eventually(t, q, "lock, both ports and program", func(found []Conflict) bool { return len(found) == 4 })
	kinds := map[string]int{}
	for _, c := range found {
		kinds[c.Kind]++
		if c.PID != first || !c.Certain || c.Waiting || !strings.HasPrefix(c.Command, "etcd --name=a") {
			t.Errorf("Twins() holds %+v; want a certain conflict with etcd's process %d", c, first)
		}
		if c.Kind == "lock" && !strings.HasPrefix(c.What, data+"/member/") {
			t.Errorf("Twins() names %s; want a file below %s", c.What, data)
		}
	}
	if kinds["lock"] != 1 || kinds["port"] != 2 || kinds["program"] != 1 {
		t.Errorf("Twins() = %v; want one lock, two ports, one program", found)
	}
	waitHealthy(t, "http://"+client+"/health")
	port, _ := mustProbe(t, "http://"+client+"/health").Port()
	if owners, err := PortOwner(t.Context(), port); err != nil || !slices.Equal(owners, []int{first}) {
		t.Errorf("PortOwner(%v) = %v, %v; want [%d]", port, owners, err, first)
	}

	// A second one, on other ports: what the orchestrator's own would do.
	second := etcd(t, args(closedPort(t), closedPort(t)))
	q.Ignore = func(pid int) bool { return pid == first }
	found = eventually(t, q, "the second one waiting", func(found []Conflict) bool {
		return slices.ContainsFunc(found, func(c Conflict) bool { return c.Waiting })
	})
	if c := found[0]; c.Kind != "lock" || c.PID != second || !c.Certain || filepath.Base(c.What) != "db" {
		t.Errorf("Twins() = %+v; want process %d waiting for the lock on db", c, second)
	}
	if len(found) != 2 || found[1].Kind != "program" || found[1].Certain {
		t.Errorf("Twins() = %v; want besides only a hint at the program", found)
	}
	q.Ignore = func(pid int) bool { return pid == first || pid == second }
	if found := twins(t, q); len(found) != 0 {
		t.Errorf("Twins() with both ignored = %v; want none", found)
	}
	q.Ignore = func(pid int) bool { return pid == second }
	q.Data = []string{t.TempDir()}
	q.Args = []string{"etcd", "--data-dir=/elsewhere"}
	q.Ports = q.Ports[:1]
	if found := twins(t, q); len(found) != 1 || found[0].Kind != "port" {
		t.Errorf("Twins() with another etcd's data = %v; want the port alone", found)
	}
}

func etcd(t *testing.T, line []string) int {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func mustProbe(t *testing.T, text string) Probe {
	t.Helper()
	p, err := ParseProbe(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func waitHealthy(t *testing.T, text string) {
	t.Helper()
	p, deadline := mustProbe(t, text), time.Now().Add(20*time.Second)
	for {
		err := p.Check(t.Context(), nil)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Check(%s) = %v; want nil", text, err)
		}
		wait(t, 20*time.Millisecond)
	}
}

func TestTwinsData(t *testing.T) {
	for _, c := range []struct {
		how, kind, why string
		certain        bool
	}{
		{"write", "data", "open for writing", true},
		{"deleted", "data", "open for writing", true},
		{"mapped", "data", "open for writing", true},
		{"cwd", "data", "used as working directory", false},
		{"read", "", "", false},
	} {
		t.Run(c.how, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "sub", "file")
			if err := os.MkdirAll(file+".d", 0o755); err != nil {
				t.Fatal(err)
			}
			if c.how == "read" || c.how == "cwd" {
				file += ".d"
			}
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			pid := hold(t, c.how, file)
			var want []Conflict
			if c.kind != "" {
				want = []Conflict{{Kind: c.kind, What: file, PID: pid, Certain: c.certain, Why: c.why}}
			}
			for _, data := range []string{dir, link, filepath.Dir(file)} {
				found := twins(t, TwinQuery{Data: []string{data}})
				for i := range found {
					found[i].Command = ""
				}
				if !slices.Equal(found, want) {
					t.Errorf("Twins(data %s) = %+v; want %+v", data, found, want)
				}
			}
			for _, data := range []string{t.TempDir(), filepath.Join(dir, "none"), filepath.Join(dir, "su")} {
				if found := twins(t, TwinQuery{Data: []string{data}}); len(found) != 0 {
					t.Errorf("Twins(data %s) = %v; want none", data, found)
				}
			}
		})
	}
}

func TestTwinsKernelQueue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "LOCK")
	holder := start(t, []string{"flock", "--no-fork", file, "sh", "-c", "echo ready; exec cat"}, "ready")
	waiter := exec.Command("flock", file, "true")
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = waiter.Process.Kill(); _ = waiter.Wait() })
	found := eventually(t, TwinQuery{Data: []string{filepath.Dir(file)}}, "one that waits", func(found []Conflict) bool {
		return slices.ContainsFunc(found, func(c Conflict) bool { return c.Waiting })
	})
	for _, c := range found {
		if c.Kind != "lock" || c.What != file || c.Waiting != (c.PID == waiter.Process.Pid) || (!c.Waiting && c.PID != holder) {
			t.Errorf("Twins() holds %+v; want %d to wait for %d", c, waiter.Process.Pid, holder)
		}
	}
	if len(found) != 2 {
		t.Errorf("Twins() = %v; want the holder and the waiter", found)
	}
}

// inContainer runs a shell command in a root of its own, where the data is /data.
func inContainer(t *testing.T, data, options, command string) int {
	t.Helper()
	root := t.TempDir()
	script := `set -e
mount -t tmpfs none "$1"; cd "$1"; mkdir bin data old dev; : >dev/null
cp "$(command -v busybox)" bin/busybox; mount --bind "$2" data; mount -o remount,bind,` + options + ` data
pivot_root . old; exec /bin/busybox chroot . /bin/busybox sh -c '/bin/busybox umount -l /old; ` + command + `; echo ready; exec /bin/busybox cat'`
	return start(t, []string{"unshare", "--mount", "sh", "-c", script, "sh", root, data}, "ready")
}

func TestTwinsOtherMountNamespace(t *testing.T) {
	data := t.TempDir()
	q := TwinQuery{Data: []string{data}}
	t.Run("open", func(t *testing.T) {
		pid := inContainer(t, data, "rw", "exec 3>>/data/log")
		if found := twins(t, q); len(found) != 1 || found[0].PID != pid || !found[0].Certain || found[0].What != filepath.Join(data, "log") {
			t.Errorf("Twins() = %+v; want process %d with %s/log open", found, pid, data)
		}
	})
	t.Run("mounted", func(t *testing.T) {
		pid := inContainer(t, data, "rw", ":")
		if found := twins(t, q); len(found) != 1 || found[0].PID != pid || found[0].Certain || found[0].Why != "mounted writable in a container" {
			t.Errorf("Twins() = %+v; want a hint at process %d", found, pid)
		}
		q := TwinQuery{Data: q.Data, Ignore: func(p int) bool { return p == pid }}
		if found := twins(t, q); len(found) != 0 {
			t.Errorf("Twins() with it ignored = %+v; want none", found)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		inContainer(t, data, "ro", ":")
		if found := twins(t, q); len(found) != 0 {
			t.Errorf("Twins() = %+v; want none", found)
		}
	})
	t.Run("same name, other directory", func(t *testing.T) {
		inContainer(t, t.TempDir(), "rw", "/bin/busybox mkdir -p "+data+"; exec 3>>"+data+"/log")
		if found := twins(t, q); len(found) != 0 {
			t.Errorf("Twins() = %+v; want none", found)
		}
	})
	t.Run("beside a chroot", func(t *testing.T) {
		// The first process of the namespace sees no data from its root.
		inContainer(t, data, "rw", "exec 4<&0; (exec 3>>/data/log; exec /bin/busybox cat <&4) & echo ready; exec /bin/busybox chroot /bin /busybox cat")
		eventually(t, q, "log open", func(found []Conflict) bool {
			return len(found) == 1 && found[0].Certain && found[0].What == filepath.Join(data, "log")
		})
	})
	t.Run("in a chroot", func(t *testing.T) {
		inContainer(t, data, "rw", `/bin/busybox cp /bin/busybox /data; echo ready; exec /bin/busybox chroot /data /busybox sh -c "exec 3>>/log; exec /busybox cat"`)
		eventually(t, q, "log open", func(found []Conflict) bool {
			return len(found) == 1 && found[0].Certain && found[0].What == filepath.Join(data, "log")
		})
	})
	t.Run("private mounts of a service", func(t *testing.T) {
		start(t, []string{"unshare", "--mount", "sh", "-c", "echo ready; exec cat"}, "ready")
		if found := twins(t, q); len(found) != 0 {
			t.Errorf("Twins() = %+v; want none", found)
		}
	})
}

func TestTwinsPorts(t *testing.T) {
	addr := netip.MustParseAddrPort(closedPort(t))
	number := strconv.Itoa(int(addr.Port()))
	want := func(proto, host string) []Port {
		return []Port{{Proto: proto, Addr: netip.MustParseAddr(host), Port: addr.Port()}}
	}
	t.Run("tcp", func(t *testing.T) {
		pid := hold(t, "tcp", addr.String())
		found := twins(t, TwinQuery{Ports: want("tcp", "0.0.0.0")})
		if len(found) != 1 || found[0].PID != pid || !found[0].Certain || found[0].What != addr.String()+"/tcp" {
			t.Errorf("Twins() = %+v; want %v of process %d", found, addr, pid)
		}
		if found := twins(t, TwinQuery{Ports: want("udp", "0.0.0.0")}); len(found) != 0 {
			t.Errorf("Twins(udp) = %+v; want none", found)
		}
	})
	t.Run("udp", func(t *testing.T) {
		pid := hold(t, "udp", addr.String())
		if found := twins(t, TwinQuery{Ports: want("udp", "127.0.0.1")}); len(found) != 1 || found[0].PID != pid {
			t.Errorf("Twins() = %+v; want process %d", found, pid)
		}
	})
	t.Run("dual-stack", func(t *testing.T) {
		pid := hold(t, "tcp", ":"+number)
		if found := twins(t, TwinQuery{Ports: want("tcp", "127.0.0.1")}); len(found) != 1 || found[0].PID != pid || !found[0].Certain {
			t.Errorf("Twins() = %+v; want process %d", found, pid)
		}
		if got, err := PortOwner(t.Context(), want("tcp", "192.0.2.1")[0]); err != nil || len(got) != 0 {
			t.Errorf("PortOwner(192.0.2.1) = %v, %v; want none, for it is another host", got, err)
		}
	})
	t.Run("one for each family", func(t *testing.T) {
		four, six := hold(t, "tcp4", "0.0.0.0:"+number), hold(t, "tcp6", "[::]:"+number)
		for host, owner := range map[string]int{"127.0.0.1": four, "::1": six} {
			if got, err := PortOwner(t.Context(), want("tcp", host)[0]); err != nil || !slices.Equal(got, []int{owner}) {
				t.Errorf("PortOwner(%s) = %v, %v; want [%d]", host, got, err, owner)
			}
		}
	})
	t.Run("other network namespace", func(t *testing.T) {
		pid := holdIn(t, []string{"unshare", "--net"}, "tcp", "0.0.0.0:"+number)
		if found := twins(t, TwinQuery{Ports: want("tcp", "127.0.0.1")}); len(found) != 0 {
			t.Errorf("Twins() = %+v; want none", found)
		}
		q := TwinQuery{Ports: want("tcp", "127.0.0.1"), NetNS: fmt.Sprintf("/proc/%d/ns/net", pid)}
		if found := twins(t, q); len(found) != 1 || found[0].PID != pid {
			t.Errorf("Twins(in %s) = %+v; want process %d", q.NetNS, found, pid)
		}
	})
	t.Run("none", func(t *testing.T) {
		if got, err := PortOwner(t.Context(), want("tcp", "127.0.0.1")[0]); err != nil || got != nil {
			t.Errorf("PortOwner() = %v, %v; want none", got, err)
		}
	})
}

func TestTwinsErrors(t *testing.T) {
	if found, err := Twins(t.Context(), TwinQuery{NetNS: "/none"}); err == nil {
		t.Errorf("Twins(no such namespace) = %v, nil; want an error", found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := Twins(ctx, TwinQuery{Data: []string{t.TempDir()}}); err == nil {
		t.Errorf("Twins(cancelled) = %v, nil; want an error", found)
	}
}

// BenchmarkTwins looks at a host with 300 more processes of 20 open files each.
func BenchmarkTwins(b *testing.B) {
	cmd := exec.Command("sh", "-c", `for f in 3 4 5 6 7 8 9; do eval "exec $f</dev/null"; done
		i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); all="$all $!"; done; echo ready; cat >/dev/null; kill $all; wait`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	line := []string{"etcd", "--data-dir=/srv/etcd", "--listen-client-urls=http://127.0.0.1:2379"}
	q := TwinQuery{Args: line, Ports: PortsOf(line, nil, nil), Data: []string{b.TempDir()}}
	for b.Loop() {
		if _, err := Twins(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
	_ = stdin.Close()
	_ = cmd.Wait()
}
