package recovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/runbooks"
)

// farHere is an SSH server on loopback behind a front that can fall silent, and a site
// that knows it as the host far.
type farHere struct {
	site  Site
	fleet *fleet

	mu     sync.Mutex
	frozen chan struct{} // closed while bytes pass
	pause  time.Duration // before each piece
	taken  int
}

func newFarHere(t *testing.T, silence time.Duration) *farHere {
	t.Helper()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"user", "host"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		t.Fatal(err)
	}
	server := freePort(t)
	config := fmt.Sprintf("HostKey %s/host\nListenAddress %s\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxSessions 3\nAuthorizedKeysFile %[1]s/user.pub\nSetEnv HOME=%[1]s\n", dir, server)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	waitUntil(t, "the server answers", func() bool {
		c, err := net.Dial("tcp", server.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	f := &farHere{frozen: make(chan struct{})}
	close(f.frozen)
	front := f.front(t, server.String())
	t.Setenv("HOME", dir)
	t.Setenv("SSH_AUTH_SOCK", "")
	f.site = Site{Host: container.Host{State: filepath.Join(dir, "state"), Data: filepath.Join(dir, "data")}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	f.site.From.Net.SSHKeys = []string{filepath.Join(dir, "user")}
	f.fleet = f.site.fleet(map[string]Login{"far": {User: "root", Addr: front, Pin: digest.FromBytes(pub.Marshal())}}, nil)
	f.fleet.silence, f.fleet.lease = silence, silence*4/5
	t.Cleanup(f.fleet.Close)
	return f
}

// freePort is one that nobody listens on now, and outside of the range of ephemeral
// ports, where nobody would begin to.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 25000+rand.IntN(7000))); err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).AddrPort()
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

func waitUntil(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// front passes on what comes, unless it is frozen: then bytes are lost in both
// directions, and nobody is told.
func (f *farHere) front(t *testing.T, to string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	pass := func(a, b net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := a.Read(buf)
			f.mu.Lock()
			wait, pause := f.frozen, f.pause
			f.mu.Unlock()
			time.Sleep(pause)
			<-wait
			if err != nil {
				_ = b.Close()
				return
			}
			if _, err := b.Write(buf[:n]); err != nil {
				_ = a.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			f.mu.Lock()
			conns = append(conns, a, b)
			f.taken++
			f.mu.Unlock()
			wg.Go(func() { pass(a, b) })
			wg.Go(func() { pass(b, a) })
		}
	})
	t.Cleanup(func() {
		f.thaw()
		_ = l.Close()
		for _, c := range conns {
			_ = c.Close()
		}
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// slow makes a thin line of the network.
func (f *farHere) slow(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pause = 0; on {
		f.pause = 2 * time.Millisecond // for 32 KiB
	}
}

func (f *farHere) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = make(chan struct{})
}

func (f *farHere) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.frozen:
	default:
		close(f.frozen)
	}
}

func (f *farHere) on(t *testing.T) Ground {
	t.Helper()
	g, err := hostGround{f.site, f.fleet}.On("far")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sleepers are the processes that sleep for so many seconds.
func sleepers(seconds string) int {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, f := range found {
		if line, err := os.ReadFile(f); err == nil && string(line) == "sleep\x00"+seconds+"\x00" {
			n++
		}
	}
	return n
}

// A host that falls silent in the middle of a step fails it, and ends it by itself before
// that, so that it is never tried again beside itself.
func TestFleetSilence(t *testing.T) {
	const silence = 1500 * time.Millisecond
	f := newFarHere(t, silence)
	g := f.on(t)
	if err := g.Ready(t.Context()); err != nil {
		t.Fatalf("Ready() = %v; want nil", err)
	}
	type ended struct {
		code int
		err  error
	}
	done := make(chan ended, 1)
	go func() {
		code, err := g.Shell(t.Context(), "trap '' TERM HUP; sleep 4715", nil, "", io.Discard)
		done <- ended{code, err}
	}()
	waitUntil(t, "the step is begun", func() bool { return sleepers("4715") == 1 })
	select { // a step may be quiet for as long as it likes
	case e := <-done:
		t.Fatalf("Shell() = %d, %v; want that it goes on", e.code, e.err)
	case <-time.After(silence + 300*time.Millisecond):
	}
	f.freeze()
	began := time.Now()
	waitUntil(t, "the step is ended there", func() bool { return sleepers("4715") == 0 })
	there := time.Since(began)
	e := <-done
	here := time.Since(began)
	if !errors.Is(e.err, ErrLost) || !strings.Contains(e.err.Error(), "host far") {
		t.Errorf("Shell() = %d, %v; want %v", e.code, e.err, ErrLost)
	}
	if there > here || here > silence+time.Second {
		t.Errorf("silent for %s: ended there after %s and seen here after %s; want there first, and both soon", silence, there, here)
	}
	f.thaw()
	var out bytes.Buffer
	if code, err := g.Shell(t.Context(), "echo again; exit 3", nil, "", &out); code != 3 || err != nil || out.String() != "again\n" {
		t.Errorf("Shell() on a new connection = %d, %v, %q; want 3, nil, again", code, err, &out)
	}
}

// A copy of this program that is cut off leaves nothing behind, and is made again.
func TestFleetCopyCutOff(t *testing.T) {
	const silence = time.Second
	f := newFarHere(t, silence)
	g := f.on(t)
	f.slow(true)
	done := make(chan error, 1)
	go func() { done <- g.Ready(t.Context()) }()
	bin := filepath.Join(f.site.Host.State, "bin")
	half := func() bool { parts, _ := filepath.Glob(bin + "/.[0-9a-f]*"); return len(parts) > 0 }
	waitUntil(t, "the copy is begun", half)
	f.freeze()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "copying this program to "+bin) {
		t.Errorf("Ready() = %v; want that the copy failed", err)
	}
	f.slow(false)
	f.thaw()
	waitUntil(t, "what was copied is removed", func() bool { return !half() })
	if err := g.Ready(t.Context()); err != nil {
		t.Errorf("Ready() = %v; want nil", err)
	}
	if found, err := os.ReadDir(bin); err != nil || len(found) != 1 || len(found[0].Name()) != 64 {
		t.Errorf("%s holds %v, %v; want the program alone", bin, found, err)
	}
	if st, err := os.Stat(bin); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("%s is %v, %v; want that nobody else writes there", bin, st, err)
	}
	// Where it is damaged, it is copied anew, to a place that programs are run from.
	site := f.site
	if err := errors.Join(os.RemoveAll(bin), os.WriteFile(bin, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	again := site.fleet(f.fleet.logins, nil)
	defer again.Close()
	far, err := again.on("far")
	if err != nil {
		t.Fatal(err)
	}
	if code, err := far.Shell(t.Context(), "exit 4", nil, "", io.Discard); err != nil || code != 4 {
		t.Errorf("Shell() = %d, %v; want 4, nil", code, err)
	}
	if found, err := filepath.Glob(site.Host.Data + "/bin/*"); err != nil || len(found) != 1 {
		t.Errorf("%s/bin holds %v, %v; want the program", site.Host.Data, found, err)
	}
}

// One connection carries all that is done on a host.
func TestFleetOneConnection(t *testing.T) {
	f := newFarHere(t, time.Minute)
	g := f.on(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var out bytes.Buffer
			script := "printf '%s' \"$text\"; cat /dev/zero | head -c 300000; exit $code"
			text := "a'b\"c $HOME\\n\n\xff"
			code, err := g.Shell(t.Context(), script, []string{"text=" + text, fmt.Sprintf("code=%d", i)}, "/", &out)
			if want := text + strings.Repeat("\x00", 300000); err != nil || code != i || out.String() != want {
				t.Errorf("Shell() = %d, %v, %d bytes; want %d, nil, %d bytes", code, err, out.Len(), i, len(want))
			}
		})
	}
	wg.Wait()
	if f.taken != 1 {
		t.Errorf("%d connections; want one", f.taken)
	}
	file := filepath.Join(t.TempDir(), "it")
	probe := &runbooks.Probe{File: file, Contains: "x"}
	if err := g.Probe(t.Context(), probe, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Probe() = %v; want that there is no such file", err)
	}
	if err := os.WriteFile(file, []byte("axb"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Probe(t.Context(), probe, nil); err != nil {
		t.Errorf("Probe() = %v; want nil", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := g.Shell(ctx, "sleep 4716", nil, "", io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shell() = %v; want %v", err, context.DeadlineExceeded)
	}
	if n := sleepers("4716"); n != 0 {
		t.Errorf("%d processes are left of a step that was given up; want none when Shell returns", n)
	}
	// What is left in the background neither holds the step up nor is ended with it.
	began := time.Now()
	if code, err := g.Shell(t.Context(), "sleep 4717 & echo $! >"+file, nil, "", io.Discard); code != 0 || err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("Shell() = %d, %v after %s; want 0, nil, soon", code, err, time.Since(began))
	}
	if n := sleepers("4717"); n != 1 {
		t.Errorf("%d processes are left in the background; want one", n)
	}
	if pid, err := os.ReadFile(file); err != nil || exec.Command("kill", strings.TrimSpace(string(pid))).Run() != nil {
		t.Errorf("ending it: %v", err)
	}
}

func TestSameMachine(t *testing.T) {
	for said, want := range map[string]bool{"Linux x86_64": true, "Linux aarch64": false, "Darwin x86_64": false, "": false, "Linux": false, "Linux x86_64 more": false} {
		if err := sameMachine(said); (err == nil) != want || err != nil && !errors.Is(err, ErrMachine) {
			t.Errorf("sameMachine(%q) = %v; want no error: %v", said, err, want)
		}
	}
}

// What is read as a step is refused or done, and never more than it says.
func FuzzErrand(f *testing.F) {
	for _, e := range []errand{
		{Probe: &runbooks.Probe{File: "/nonexistent", Contains: "x", Within: runbooks.DefaultWithin}},
		{Do: &runbooks.Task{ID: "x", Step: &runbooks.Step{Name: "x", Note: "x"}}},
	} {
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`{"do":{}}`)
	f.Add(`{"from":{"kit":{}}}`)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		var e errand
		if json.Unmarshal([]byte(text), &e) == nil && (e.Shell != nil || e.Do != nil && e.Do.Step != nil && e.Do.Step.Kind() != runbooks.Note || e.Probe != nil && e.Probe.Kind() != runbooks.FileProbe || e.Issued != nil) {
			t.Skip("it would do something")
		}
		s := Site{Host: container.Host{State: t.TempDir(), Data: t.TempDir()}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		var out bytes.Buffer
		if code, err := s.RunErrand(t.Context(), strings.NewReader(text), &out); code != 0 || out.Len() > 0 {
			t.Errorf("RunErrand(%q) = %d, %v, %q; want nothing done", text, code, err, &out)
		}
	})
}
