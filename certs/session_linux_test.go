package certs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes this test binary another process: "session DIR SOCKET" or "bare DIR SOCKET" hold a session, the one
// guarded, the other not.
const helperEnv = "CERTS_TEST_HELPER"

func TestMain(m *testing.M) {
	if how := os.Getenv(helperEnv); how != "" {
		if err := helper(strings.Fields(how)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func helper(args []string) error {
	switch args[0] {
	case "session", "bare":
		return holdSession(args[0] == "session", args[1], args[2])
	case "tokens":
		return spendTokens(args[1])
	case "trust":
		return plantTrust(args[1], args[2], args[3])
	}
	return fmt.Errorf("unknown helper %q", args[0])
}

func holdSession(guarded bool, dir, socket string) error {
	if guarded {
		if err := Guard(); err != nil {
			return err
		}
	}
	passphrase, err := bufio.NewReader(os.Stdin).ReadBytes('\n')
	if err != nil {
		return err
	}
	c, err := LoadCeremony(dir)
	if err != nil {
		return err
	}
	o, err := c.Begin()
	if err != nil {
		return err
	}
	a, err := c.Open(o, Unlock{Identities: [][]byte{passphrase}}, AuthorityOptions{})
	if err != nil {
		return err
	}
	l, err := ListenSession(context.Background(), socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return ServeSession(context.Background(), l, a, time.Hour)
}

// spawn runs this test binary as a helper.
func spawn(t *testing.T, stdin string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), helperEnv+"="+strings.Join(args, " "), "GOTRACEBACK=crash")
	c.Stdin = strings.NewReader(stdin)
	c.Stderr = io.Discard
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	return c, bufio.NewReader(out)
}

func ready(t *testing.T, out *bufio.Reader) {
	t.Helper()
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the helper said %q, %v; want ready", line, err)
	}
}

func TestSession(t *testing.T) {
	var events []Event
	c, alice := ceremony(t, noon, nil)
	a := openCeremony(t, c, alice.key, AuthorityOptions{Policy: policy(t, examplePolicy), Record: func(e Event) error {
		events = append(events, e)
		return nil
	}})
	ctx := t.Context()
	s := Session{Path: filepath.Join(t.TempDir(), "d", "session")}
	l, err := ListenSession(ctx, s.Path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ServeSession(ctx, l, a, time.Hour) }()
	out, err := s.Issue(ctx, etcd())
	if err != nil || leafOf(t, out).DNSNames[0] != "a.etcd.example.org" || len(out.Key) == 0 {
		t.Fatalf("Session.Issue() = %+v, %v; want a certificate", out, err)
	}
	if want := fmt.Sprintf("uid %d pid %d", os.Getuid(), os.Getpid()); len(events) != 1 || events[0].By != want {
		t.Errorf("the session recorded %+v; want it asked by %s", events, want)
	}
	_, err = s.Issue(ctx, Request{Service: "mysql", DNS: []string{"etcd.example.org"}})
	wantErr(t, "Session.Issue(mysql)", err, ErrRefused, "no service of this name")
	_, err = s.IssueSSH(ctx, SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: sshPub(t)})
	if err != nil {
		t.Errorf("Session.IssueSSH() = %v; want a certificate", err)
	}
	if _, err := ListenSession(ctx, s.Path); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("ListenSession() beside another = %v; want it refused", err)
	}
	// Clients that say nothing sensible disturb nobody.
	for _, garbage := range []string{"", "\x00\x01", `{"op":"issue"}`, strings.Repeat(`{"op":"`, 1000), "[" + strings.Repeat("[", 100000)} {
		conn, err := net.Dial("unix", s.Path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(garbage))
		_ = conn.(*net.UnixConn).CloseWrite()
		_, _ = io.ReadAll(conn)
		conn.Close()
	}
	st, err := s.Close(ctx)
	if err != nil || st.Issued != 2 || st.Left <= 0 || st.PID != os.Getpid() {
		t.Errorf("Session.Close() = %+v, %v; want 2 issued", st, err)
	}
	if err := <-done; err != nil {
		t.Errorf("ServeSession() = %v; want nil", err)
	}
	_, err = s.Status(ctx)
	wantErr(t, "Status() of a closed session", err, ErrExpired)
	_, err = a.Issue(noon, etcd())
	wantErr(t, "Issue() after the session", err, ErrExpired)
}

func TestSessionEndsByItself(t *testing.T) {
	a := authority(t, noon, nil)
	s := Session{Path: filepath.Join(t.TempDir(), "session")}
	l, err := ListenSession(t.Context(), s.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := ServeSession(t.Context(), l, a, 20*time.Millisecond); err != nil {
		t.Errorf("ServeSession(20ms) = %v; want nil", err)
	}
	_, err = s.Status(t.Context())
	wantErr(t, "Status() of a session that is over", err, ErrExpired)
	l, err = ListenSession(t.Context(), s.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "ServeSession(a day)", ServeSession(t.Context(), l, a, 24*time.Hour), ErrInvalid)
}

// The keys are looked for where they must not be: argv, environment, swap, and a core dump.
func TestGuardKeepsSecretsIn(t *testing.T) {
	c, alice := ceremony(t, noon, nil)
	dir := filepath.Join(t.TempDir(), "ceremony")
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSpace(string(alice.key.Identities[0]))
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &old); err != nil {
		t.Fatal(err)
	}
	cored := map[string]bool{}
	for _, how := range []string{"bare", "session"} {
		socket := filepath.Join(t.TempDir(), "session")
		if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: old.Max, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		p, out := spawn(t, secret+"\n", how, dir, socket)
		if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &old); err != nil {
			t.Fatal(err)
		}
		ready(t, out)
		proc := fmt.Sprintf("/proc/%d/", p.Process.Pid)
		for _, f := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(proc + f)
			if err != nil || bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte("AGE-SECRET")) {
				t.Errorf("%s%s holds a secret, or %v", proc, f, err)
			}
		}
		status, err := os.ReadFile(proc + "status")
		if err != nil {
			t.Fatal(err)
		}
		field := func(name string) string {
			m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
			if m == nil {
				return ""
			}
			return string(m[1])
		}
		if how == "session" && (field("VmLck") == "0" || field("VmSwap") != "0") {
			t.Errorf("a guarded session has VmLck %s, VmSwap %s; want all locked, none swapped", field("VmLck"), field("VmSwap"))
		}
		if err := p.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		err = p.Wait()
		ws, ok := p.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !ws.Signaled() {
			t.Fatalf("the helper ended with %v; want a signal", err)
		}
		cored[how] = ws.CoreDump()
		cores, err := filepath.Glob(filepath.Join(p.Dir, "core*"))
		if err != nil || (how == "session" && len(cores) > 0) {
			t.Errorf("a guarded session left the core dumps %v, %v", cores, err)
		}
		for _, f := range cores {
			b, err := os.ReadFile(f)
			if err != nil || !bytes.Contains(b, []byte(secret[20:])) {
				t.Errorf("the core dump of an unguarded process does not hold the secret, %v; the test shows nothing", err)
			}
		}
		// A dead session's socket does not stand in the way of the next one.
		l, err := ListenSession(t.Context(), socket)
		if err != nil {
			t.Errorf("ListenSession() after a crash = %v; want a new one", err)
			continue
		}
		l.Close()
	}
	if cored["session"] {
		t.Error("a guarded session dumped core")
	}
	if old.Max != 0 && !strings.HasPrefix(string(pattern), "|") && !cored["bare"] {
		t.Error("an unguarded process dumped no core; the test shows nothing")
	}
}
