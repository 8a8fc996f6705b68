package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/blackstart-project/blackstart/recovery"
)

// segment is an operator's network with other hosts on it, each a process, mount and
// network namespace of its own with a real SSH server. Below state and data every one has
// files of its own.
type segment struct {
	t                      *testing.T
	dir, home, state, data string
	operator               string // a process in its network
	hosts                  []*farMachine
}

type farMachine struct {
	seg    *segment
	name   string
	number int
	outer  *exec.Cmd // in its network and mount namespaces
	pin    string
}

func (m *farMachine) v4() string { return fmt.Sprintf("10.99.%d.2", m.number) }
func (m *farMachine) v6() string { return fmt.Sprintf("fd99:%d::2", m.number) }

// newSegment makes one with hosts of these names, until the test ends.
func newSegment(t *testing.T, names ...string) *segment {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	s := &segment{t: t, dir: dir, home: dir + "/home", state: dir + "/state", data: dir + "/data"}
	for _, d := range []string{s.home, s.state, s.data, "/run/sshd"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.keygen("user")
	cmd := s.held("unshare", "-n", "sh", "-c", "ip link set lo up; echo ready; exec cat")
	s.operator = strconv.Itoa(cmd.Process.Pid)
	for i, name := range names {
		m := &farMachine{seg: s, name: name, number: i + 1}
		m.pin = s.keygen("host-" + name)
		s.hosts = append(s.hosts, m)
		m.boot()
	}
	return s
}

// keygen makes a key and gives the pin of it.
func (s *segment) keygen(name string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(pub.Marshal())
	return "sha256:" + hex.EncodeToString(sum[:])
}

// held starts a program that says ready, and ends with the test at the latest.
func (s *segment) held(args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		s.t.Fatalf("%q says %q, %v; want ready", args, line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return cmd
}

func (s *segment) sh(script string) {
	s.t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// boot starts the host, with nothing on it.
func (m *farMachine) boot() {
	s := m.seg
	s.t.Helper()
	config := fmt.Sprintf("HostKey %s/host-%s\nPort 22\nPort 2222\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nAuthorizedKeysFile %s/user.pub\nSetEnv HOME=%s\n", s.dir, m.name, s.dir, s.home)
	file := filepath.Join(s.dir, "sshd-"+m.name)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	m.outer = s.held("unshare", "-n", "-m", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", fmt.Sprintf(
		"mount -t tmpfs tmpfs %s && mount -t tmpfs tmpfs %s && ip link set lo up && echo ready && exec /usr/sbin/sshd -D -f %s", s.state, s.data, file))
	s.sh(fmt.Sprintf(`n=%d; op="nsenter -t %s -n ip"; far="nsenter -t %d -n ip"
$op link del far$n 2>/dev/null || true
$op link add far$n type veth peer name eth0 netns %[3]d
$op addr add 10.99.$n.1/24 dev far$n; $op addr add fd99:$n::1/64 dev far$n nodad; $op link set far$n up
$far addr add 10.99.$n.2/24 dev eth0; $far addr add fd99:$n::2/64 dev eth0 nodad; $far link set eth0 up`, m.number, s.operator, m.outer.Process.Pid))
	eventually(s.t, time.Minute, "the SSH server answers", func() bool {
		return exec.Command("nsenter", "-t", s.operator, "-n", "bash", "-c", "exec 3<>/dev/tcp/"+m.v4()+"/2222").Run() == nil
	})
}

// do runs a script on the host, beside its SSH server.
func (m *farMachine) do(script string) string {
	m.seg.t.Helper()
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(m.outer.Process.Pid), "-n", "-m", "sh", "-ec", script).CombinedOutput()
	if err != nil {
		m.seg.t.Fatalf("on %s: %s: %v\n%s", m.name, script, err, out)
	}
	return string(out)
}

// die ends everything on the host at once.
func (m *farMachine) die() {
	_ = m.outer.Process.Kill()
	_ = m.outer.Wait()
}

// silence makes the host's network a black hole.
func (m *farMachine) silence() {
	m.do("nft add table inet dark; nft add chain inet dark in '{ type filter hook input priority 0; policy drop; }'")
}

// processes are those of the host whose command line ends with these words.
func (m *farMachine) processes(text string) int {
	m.seg.t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid_for_children", m.outer.Process.Pid))
	if err != nil {
		m.seg.t.Fatal(err)
	}
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, f := range found {
		line, err := os.ReadFile(f)
		if of, nsErr := os.Readlink(filepath.Dir(f) + "/ns/pid"); err == nil && nsErr == nil && of == ns && strings.HasSuffix(strings.ReplaceAll(string(line), "\x00", " "), text+" ") {
			n++
		}
	}
	return n
}

// eventually looks until it is so.
func eventually(t *testing.T, within time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// command is the program on the operator's host.
func (s *segment) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", s.operator, "-n", binary, "--state", s.state, "--data", s.data}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.home}
	cmd.Dir = s.dir
	return cmd
}

// run gives what the program says and its exit status.
func (s *segment) run(args ...string) (string, int) {
	s.t.Helper()
	out, err := s.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// runbook writes one to a file.
func (s *segment) runbook(text string) string {
	s.t.Helper()
	f, err := os.CreateTemp(s.dir, "*.yaml")
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
	return f.Name()
}

// reach are the flags that say how all hosts are reached.
func (s *segment) reach() []string {
	args := []string{"--ssh-key", s.dir + "/user"}
	for _, m := range s.hosts {
		args = append(args, "--host", fmt.Sprintf("%s=%s#pin=%s", m.name, m.v4(), m.pin))
	}
	return args
}

// states are those of the tasks of the latest run.
func (s *segment) states() map[string]string {
	s.t.Helper()
	out, err := s.command("runbook", "show", "--output", "json").Output()
	var r recovery.Run
	if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		s.t.Fatalf("runbook show: %v\n%s", err, out)
	}
	all := map[string]string{}
	for _, t := range r.Tasks {
		all[t.ID] = string(t.State)
	}
	return all
}

func wantStates(t *testing.T, got map[string]string, want map[string]string) {
	t.Helper()
	for id, state := range want {
		if got[id] != state {
			t.Errorf("step %q is %q; want %q", id, got[id], state)
		}
	}
}

const threeHosts = `
runbook: three hosts
service: three
hosts: [a, b, c]
vars:
  token: {secret: true, about: of the store}
steps:
  - name: make
    hosts: [a, b]
    needs: []
    with: {env: {WHAT: made}, dir: /}
    run: |
      echo "$WHAT on $host, $ip, in $(pwd)" >&2
      umask 077; d="$(mktemp)"; printf %s "$token" >"$d"; seen="$(grep -lFf "$d" /proc/[0-9]*/cmdline || :)"; rm "$d"
      test -z "$seen"
      echo "the token is $token"
  - name: gone
    hosts: [c]
    needs: []
    run: "true"
  - name: the server is there
    hosts: [a]
    needs: [make]
    wait_for: {tcp: "127.0.0.1:22", within: 5s}
  - name: status
    hosts: [b]
    needs: [make]
    check: exit 3
    run: exit 43
  - name: nothing to stop
    hosts: [b]
    needs: [make]
    stop: nothing
  - name: here
    needs: [the server is there]
    run: "true"
  - name: after it
    needs: [gone]
    run: "true"
`

// Steps are done on other hosts. One that is gone fails its own, and what needs them.
func TestRunbookHosts(t *testing.T) {
	t.Parallel()
	s := newSegment(t, "a", "b", "c")
	a, b, c := s.hosts[0], s.hosts[1], s.hosts[2]
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(program))
	kept := s.state + "/bin/" + sum
	a.do(fmt.Sprintf("mkdir -p %s/bin && cp %s %s && touch -d 2001-01-01 %[3]s", s.state, binary, kept))
	b.do(fmt.Sprintf("mkdir -p %s/bin && echo damaged >%s && chmod 755 %[2]s", s.state, kept))
	c.silence()
	began := time.Now()
	out, code := s.run(append([]string{"runbook", "run", s.runbook(threeHosts), "--var", "token=s3cr3t-s3cr3t"}, s.reach()...)...)
	took := time.Since(began)
	if code != 1 {
		t.Fatalf("exit status %d; want 1\n%s", code, out)
	}
	if took > 10*time.Second {
		t.Errorf("it took %s; want at most 10s for a host that is gone", took)
	}
	wantStates(t, s.states(), map[string]string{
		"make @ a": "done", "make @ b": "done", "gone @ c": "failed", "the server is there @ a": "done",
		"status @ b": "failed", "nothing to stop @ b": "failed", "here": "done", "after it": "not begun",
	})
	for _, want := range []string{
		"this program is not on b: copying it there", "failed: gone @ c: host c: ", "failed: status @ b: it ended with status 43",
		"failed: nothing to stop @ b: no such container: nothing",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the operator does not see %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "not on a:") {
		t.Errorf("the program is copied to a, where it is:\n%s", out)
	}
	if got := a.do("stat -c %Y " + kept); got != "978307200\n" {
		t.Errorf("the program on a was changed at %s; want that it was not", got)
	}
	if got := b.do("sha256sum <" + kept + "; stat -c %a " + kept + "; ls -A " + s.state + "/bin"); got != sum+"  -\n755\n"+sum+"\n" {
		t.Errorf("on b there is %q; want the program alone", got)
	}
	for name, want := range map[string]string{
		"01-a.log": "made on a, 10.99.1.2, in /\nthe token is ********\n", "01-b.log": "made on b, 10.99.2.2, in /\nthe token is ********\n",
	} {
		files, _ := filepath.Glob(filepath.Join(s.data, "runs/three/*", name))
		if len(files) != 1 {
			t.Fatalf("%d files %s; want one", len(files), name)
		}
		if got, err := os.ReadFile(files[0]); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
	if out, err := exec.Command("grep", "-rl", "s3cr3t-s3cr3t", s.data, s.state).CombinedOutput(); err == nil {
		t.Errorf("the secret is in %s", out)
	}
	for _, m := range s.hosts {
		if n := m.processes("runbook step"); n != 0 {
			t.Errorf("on %s %d steps are under way after the run; want none", m.name, n)
		}
	}
}

// A host is known by its key, and the operator by one of theirs.
func TestRunbookHostsKeys(t *testing.T) {
	t.Parallel()
	s := newSegment(t, "a")
	a := s.hosts[0]
	a.do("mount -o remount,noexec " + s.state) // as many systems have /run
	text := "runbook: one\nservice: one\nhosts: [a]\nsteps:\n  - name: touch\n    hosts: [a]\n    retries: RETRIES\n    run: touch " + s.data + "/touched\n"
	rb := s.runbook(strings.ReplaceAll(text, "RETRIES", "0"))
	stubborn := s.runbook(strings.ReplaceAll(text, "RETRIES", "5"))
	key := []string{"--ssh-key", s.dir + "/user"}
	wrong := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"wrong pin", append(key, "--host", "a="+a.v4()+"#pin="+wrong), 5, "not the server that was meant: the key of 10.99.1.2:22, ssh-ed25519 " + a.pin},
		{"wrong pin for all", append(key, "--host", "a="+a.v4(), "--pin", wrong), 5, "not the pinned one"},
		{"nothing known", append(key, "--host", "a="+a.v4()), 5, "not one of the known hosts'"},
		{"no key", []string{"--host", "a=" + a.v4() + "#pin=" + a.pin}, 1, "logging in as root at 10.99.1.2:22"},
		{"another user", append(key, "--host", "a=nobody-here@"+a.v4()+"#pin="+a.pin), 1, "logging in as nobody-here at 10.99.1.2:22"},
		{"no address", key, 2, "host a has no address"},
		{"a name", append(key, "--host", "a=storage"), 2, "want [USER@]IP[:PORT]"},
	} {
		began, file := time.Now(), rb
		if c.code == 5 {
			file = stubborn
		}
		out, code := s.run(append([]string{"runbook", "run", file}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit status %d; want %d and %q\n%s", c.name, code, c.code, c.says, out)
		}
		if took := time.Since(began); c.code == 5 && took > 3*time.Second {
			t.Errorf("%s: refused after %s; want that it is not tried again", c.name, took)
		}
	}
	a.do("test ! -e " + s.data + "/touched")
	sock := s.dir + "/agent"
	agent := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = agent.Process.Kill(), agent.Wait() }()
	eventually(t, time.Minute, "the agent has the key", func() bool {
		add := exec.Command("ssh-add", "-q", s.dir+"/user")
		add.Env = []string{"SSH_AUTH_SOCK=" + sock}
		return add.Run() == nil
	})
	cmd := s.command("runbook", "run", rb, "--host", "a="+a.v4()+"#pin="+a.pin)
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+sock)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with the agent's key: %v; want nil\n%s", err, out)
	}
	a.do("rm " + s.data + "/touched")
	for name, host := range map[string]string{"IPv6": "[" + a.v6() + "]:2222", "a user, and --pin": "root@" + a.v4()} {
		out, code := s.run(append([]string{"runbook", "run", rb, "--host", "a=" + host, "--pin", a.pin}, key...)...)
		if code != 0 {
			t.Errorf("%s: exit status %d; want 0\n%s", name, code, out)
		}
		a.do("rm " + s.data + "/touched")
	}
	if got := a.do("ls -A " + s.state + "/bin; ls " + s.data + "/bin"); len(got) != 65 {
		t.Errorf("where programs are not run from, and where they are: %q; want the one in the second", got)
	}
	// What was refused goes on when the key is known, and a host may have moved.
	if out, code := s.run("runbook", "run", rb, "--host", "a="+a.v4(), "--ssh-key", s.dir+"/user"); code != 5 {
		t.Fatalf("exit status %d; want 5\n%s", code, out)
	}
	if out, code := s.run("runbook", "resume", "--host", "a=["+a.v6()+"]:2222", "--pin", a.pin, "--ssh-key", s.dir+"/user"); code != 0 {
		t.Errorf("resume: exit status %d; want 0\n%s", code, out)
	}
	a.do("rm " + s.data + "/touched")
}

const slowHosts = `
runbook: slowly
service: slow
hosts: [a, b]
steps:
  - name: first
    hosts: [a, b]
    run: echo first >>DATA/log
  - name: slow
    hosts: [b]
    run: |
      echo slow >>DATA/log; echo begun
      test -e DATA/go || { sleep 4713 & sleep 4713; }
  - name: last
    hosts: [a, b]
    run: echo last >>DATA/log
`

// A runner that is killed leaves nothing running on the hosts, and resume repeats
// nothing that is done. So it is with a host that dies in the middle of a step.
func TestRunbookHostsKilled(t *testing.T) {
	t.Parallel()
	s := newSegment(t, "a", "b")
	a, b := s.hosts[0], s.hosts[1]
	rb := s.runbook(strings.ReplaceAll(slowHosts, "DATA", s.data))
	begun := func() bool {
		logs, _ := filepath.Glob(s.data + "/runs/slow/*/02-b.log")
		for _, l := range logs {
			if text, _ := os.ReadFile(l); string(text) == "begun\n" {
				return b.processes("sleep 4713") == 2
			}
		}
		return false
	}
	var said strings.Builder
	defer func() {
		if t.Failed() {
			t.Logf("the last run: %s", &said)
		}
	}()
	start := func(args ...string) (kill func(), wait func() int) {
		cmd := s.command(args...)
		said.Reset()
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait = func() int { _ = cmd.Wait(); return cmd.ProcessState.ExitCode() }
		return func() { _ = cmd.Process.Kill(); wait() }, wait
	}
	kill, _ := start(append([]string{"runbook", "run", rb}, s.reach()...)...)
	eventually(t, time.Minute, "the step's output arrives while it runs", begun)
	kill()
	eventually(t, 3*time.Second, "the killed runner's step is ended", func() bool { return b.processes("sleep 4713")+b.processes("runbook step") == 0 })

	// The same with a host that dies. Its disk is lost, and so is this program there.
	logs, _ := filepath.Glob(s.data + "/runs/slow/*/02-b.log")
	if err := os.Truncate(logs[0], 0); err != nil {
		t.Fatal(err)
	}
	_, wait := start("runbook", "resume", "--ssh-key", s.dir+"/user")
	eventually(t, time.Minute, "the step is begun again", begun)
	b.die()
	died := time.Now()
	if code := wait(); code != 1 || !strings.Contains(said.String(), "host b: the connection was lost in the middle of it") {
		t.Errorf("a host dies: exit status %d; want 1, and that it was lost\n%s", code, &said)
	}
	if took := time.Since(died); took > 5*time.Second {
		t.Errorf("the end of the host was seen after %s; want at most 5s", took)
	}
	wantStates(t, s.states(), map[string]string{"first @ a": "done already", "first @ b": "done already", "slow @ b": "failed", "last @ a": "not begun"})
	b.boot()
	b.do("touch " + s.data + "/go")
	out, code := s.run("runbook", "resume", "--ssh-key", s.dir+"/user")
	if code != 0 {
		t.Fatalf("resume: exit status %d; want 0\n%s", code, out)
	}
	if got := a.do("cat " + s.data + "/log"); got != "first\nlast\n" {
		t.Errorf("on a: %q; want what was done to be done once", got)
	}
	if got := b.do("cat " + s.data + "/log"); got != "slow\nlast\n" {
		t.Errorf("on b: %q; want the one step that was not done, and the last", got)
	}

	// A step that takes too long, and an operator who interrupts, end it there.
	for name, c := range map[string]struct {
		with string
		code int
	}{"timeout": {"timeout: 1s", 1}, "interrupt": {"timeout: 1h", 130}} {
		end := s.runbook("runbook: endless\nservice: end\nhosts: [b]\nsteps:\n  - name: never ends\n    hosts: [b]\n    " + c.with + "\n    run: trap '' TERM HUP INT; sleep 4714\n")
		cmd := s.command("runbook", "run", end, "--ssh-key", s.dir+"/user", "--host", "b="+b.v4()+"#pin="+b.pin)
		said.Reset()
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, name+": it is begun", func() bool { return b.processes("sleep 4714") > 0 })
		if c.code == 130 {
			_ = cmd.Process.Signal(os.Interrupt)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%s: exit status %d; want %d\n%s", name, code, c.code, &said)
		}
		if n := b.processes("sleep 4714"); n != 0 {
			t.Errorf("%s: %d processes are left on the host; want none", name, n)
		}
	}
}
