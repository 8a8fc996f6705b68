package sandbox

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	javaOptions = "-Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx64m -Dzookeeper.sasl.client=false -cp /usr/share/java/zookeeper.jar "
	zooClient   = "java " + javaOptions + "org.apache.zookeeper.ZooKeeperMain -server "
	sshClient   = "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=1 "
)

// In a vacuum real programs behave as in an outage: they wait as long as they
// would for a server that is gone, and none gets an error at once.
func (s suite) outage(t *testing.T) {
	o := s.listen(t, "outage")
	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	cases := []struct {
		line, says string
		code       int
		program    string // its name in the record
		to         string
	}{
		{"curl -sS --connect-timeout 1 http://10.0.0.1/", "timed out|Timeout", 28, "curl", "tcp 10.0.0.1:80"},
		{"curl -sS --connect-timeout 1 'http://[2001:db8::1]/'", "timed out|Timeout", 28, "curl", "tcp [2001:db8::1]:80"},
		{"curl -sS --connect-timeout 1 http://store.example/", "timed out", 28, "curl", "udp 127.0.0.53:53"},
		{"dig +time=1 +tries=1 store.example", "timed out", 9, "dig", "udp 127.0.0.53:53"},
		{"dig +time=1 +tries=1 @10.0.0.2 store.example", "timed out", 9, "dig", "udp 10.0.0.2:53"},
		{"python3 -c 'import urllib.request; urllib.request.urlopen(\"http://10.0.0.3/\", timeout=1)'", "timed out", 1, "python3", "tcp 10.0.0.3:80"},
		{sshClient + "root@10.0.0.4 true", "timed out", 255, "ssh", "tcp 10.0.0.4:22"},
		{"timeout 1 git ls-remote git://10.0.0.5/repo", "", 124, "git", "tcp 10.0.0.5:9418"},
		{"GIT_SSH_COMMAND='" + sshClient + "' git ls-remote ssh://git@10.0.0.5/repo", "timed out", 128, "ssh", "tcp 10.0.0.5:22"},
		{"ETCDCTL_API=3 etcdctl --dial-timeout=1s --command-timeout=1s --endpoints=http://10.0.0.6:2379 get x", "deadline exceeded", 1, "etcdctl", "tcp 10.0.0.6:2379"},
		{"timeout 1 etcd --data-dir /tmp/etcd --name a --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster a=http://127.0.0.1:2380,b=http://10.0.0.7:2380,c=http://10.0.0.8:2380 2>&1", "", 124, "etcd", "tcp 10.0.0.7:2380"},
		{zooClient + "10.0.0.9:2181 -timeout 1000 ls /", "ConnectionLoss", 1, "java", "tcp 10.0.0.9:2181"},
		{"client 10.0.0.10:80", "i/o timeout", 1, "client", "tcp 10.0.0.10:80"},
		{"attempt-musl tcp 10.0.0.11 80 x; sleep 0.7; exit 1", "silent", 1, "attempt-musl", "tcp 10.0.0.11:80"},
	}
	var all sync.WaitGroup
	limit := make(chan struct{}, 8)
	for _, c := range cases {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			start := time.Now()
			out := s.attempt(t, w, "("+c.line+"); echo exit $?", o)
			took := time.Since(start)
			if !strings.HasSuffix(out, fmt.Sprintf("exit %d", c.code)) || !containsOne(out, c.says) {
				t.Errorf("%s: it says %s; want %q and exit %d", c.line, out, c.says, c.code)
			}
			if took < 900*time.Millisecond || strings.Contains(out, "refused") || strings.Contains(out, "unreachable") {
				t.Errorf("%s: it ended after %v: %s; want its own timeout of a second", c.line, took, out)
			}
		})
	}
	all.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	for _, c := range cases {
		found := false
		for _, a := range r.Attempts() {
			found = found || (strings.HasPrefix(filepath.Base(a.Executable), c.program) && a.Proto+" "+a.Destination == c.to && a.Verdict == Blocked)
		}
		if !found {
			t.Errorf("%s: no blocked attempt of %s at %s in\n%s", c.line, c.program, c.to, recordLines(r))
		}
	}
}

func containsOne(s, alternatives string) bool {
	for a := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(s, a) {
			return true
		}
	}
	return false
}

// What is let in works for real programs with real servers.
func (s suite) allowed(t *testing.T) {
	o := s.listen(t, "allowed")
	dir := t.TempDir()
	repo := filepath.Join(dir, "repo")
	if out := run("git init -q "+repo+" && cd "+repo+" && touch git-daemon-export-ok .git/git-daemon-export-ok && git -c user.name=x -c user.email=x@x commit -q --allow-empty -m first && git branch kept", o); out != "" {
		t.Fatalf("making a repository: %s", out)
	}
	nginx, etcd, peer, zoo, sshd, git := nginxAt(t, "", ""), freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	config := fmt.Sprintf("tickTime=500\ndataDir=%s/zoo\nclientPort=%s\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", dir, port(zoo))
	if err := os.WriteFile(dir+"/zoo.cfg", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	serve(t, zoo, "java "+javaOptions+"org.apache.zookeeper.server.ZooKeeperServerMain "+dir+"/zoo.cfg")
	// It takes connections, and drops them, before it serves.
	for deadline := time.Now().Add(time.Minute); !strings.Contains(ask(t, zoo, "srvr"), "Mode:"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("ZooKeeper does not serve")
		}
	}
	serve(t, etcd, fmt.Sprintf("etcd --data-dir %s/etcd --listen-client-urls http://%s --advertise-client-urls http://%s --listen-peer-urls http://%s --unsafe-no-fsync", dir, etcd, etcd, peer))
	// It listens before it has a leader.
	if out := run("ETCDCTL_API=3 etcdctl --command-timeout=30s --endpoints=http://"+etcd+" endpoint health", o); !strings.Contains(out, "is healthy") {
		t.Fatalf("etcd does not serve: %s", out)
	}
	ssh := "true"
	if s.root { // OpenSSH does not work for a user without a name
		if out := run("ssh-keygen -q -t ed25519 -N '' -f "+dir+"/key", o); out != "" {
			t.Fatalf("making a key: %s", out)
		}
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its chroot
			t.Fatal(err)
		}
		serve(t, sshd, fmt.Sprintf("/usr/sbin/sshd -D -e -f /dev/null -h %s/key -o PidFile=none -o UsePAM=no -o ListenAddress=%s", dir, sshd))
		ssh = sshClient + "-o ConnectTimeout=20 nobody@10.0.0.4 true"
	}
	serve(t, git, "$(git --exec-path)/git-daemon --reuseaddr --listen=127.0.0.1 --port="+port(git)+" --base-path="+dir+" "+dir)
	p := letIn(t, map[string]string{
		"10.0.0.1:80": nginx, "store.example:80": nginx, "10.0.0.6:2379": etcd, "10.0.0.9:2181": zoo, "10.0.0.4:22": sshd, "10.0.0.5:9418": git,
	}, "tcp:10.0.0.1:80", "dns:store.example:80", "tcp:10.0.0.6:2379", "tcp:10.0.0.9:2181", "tcp:10.0.0.4:22", "tcp:10.0.0.5:9418")
	var all sync.WaitGroup
	limit := make(chan struct{}, 8)
	for _, c := range []struct{ line, says string }{
		{"curl -sS -m20 http://10.0.0.1/a.txt", "content of a"},
		{"curl -sS -m20 http://store.example/a.txt", "content of a"},
		{"curl -sS -6 -m20 http://store.example/a.txt", "content of a"},
		{"dig +short +time=20 +tries=1 store.example", "198.18.0."},
		{"python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://store.example/a.txt\", timeout=20).read())'", "content of a"},
		{ssh, map[bool]string{true: "Permission denied (publickey"}[s.root]},
		{"timeout 20 git ls-remote git://10.0.0.5/repo", "refs/heads/kept"},
		{"timeout 20 git clone -q git://10.0.0.5/repo /tmp/clone && git -C /tmp/clone log --format=%s", "first"},
		{"export ETCDCTL_API=3 ETCDCTL_COMMAND_TIMEOUT=20s ETCDCTL_ENDPOINTS=http://10.0.0.6:2379; timeout 20 etcdctl put key value && timeout 20 etcdctl get key", "OK\nkey\nvalue"},
		{zooClient + "10.0.0.9:2181 -timeout 20000 ls /", "[zookeeper]"},
		{"client 10.0.0.1:80", "content of a"},
		{"client store.example:80", "content of a"},
		{"attempt-musl tcp 10.0.0.1 80 nonsense", "answer HTTP/1.1 400"},
	} {
		all.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if out := s.attempt(t, p.World, c.line, o); !strings.Contains(out, c.says) {
				t.Errorf("%s: it says %s; want %q", c.line, out, c.says)
			}
		})
	}
	all.Wait()
	p.end(t)
	programs := map[string]string{
		"curl": "10.0.0.1:80", "python3": "store.example", "git": "10.0.0.5:9418", "etcdctl": "10.0.0.6:2379",
		"java": "10.0.0.9:2181", "client": "store.example", "attempt-musl": "10.0.0.1:80",
	}
	if s.root {
		programs["ssh"] = "10.0.0.4:22"
	}
	carried := func(program, to string) bool {
		return slices.ContainsFunc(p.record.Attempts(), func(a Attempt) bool {
			return strings.HasPrefix(filepath.Base(a.Executable), program) && (a.Destination == to || a.Name == to) && a.Verdict == Allowed
		})
	}
	for program, to := range programs {
		// Which of several programs that reach one destination at once sent what, nobody
		// can tell: so their bytes are not looked at.
		for deadline := time.Now().Add(time.Minute); !carried(program, to); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("no allowed connection of %s to %s in\n%s", program, to, recordLines(p.record))
				break
			}
		}
	}
}

// ask says something to a server and returns all it says.
func ask(t *testing.T, addr, what string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte(what)); err != nil {
		return ""
	}
	b, _ := io.ReadAll(c) // a server that is not ready closes
	return string(b)
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// freePort is an address that nobody listens on now, and outside of the range of
// ephemeral ports, where nobody would begin to.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 25000+rand.IntN(7000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// serve runs a server until the test ends, and waits until it listens.
func serve(t *testing.T, addr, line string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+line)
	log := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(log)
			t.Fatalf("%s does not listen at %s: %v\n%s", line, addr, err, b)
		}
	}
}
