package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSpawnErrors(t *testing.T) {
	w := up(t, Options{})
	for _, c := range []struct {
		cmd  Cmd
		want error
	}{
		{Cmd{Args: []string{"no-such-program"}}, fs.ErrNotExist},
		{Cmd{Args: []string{"/no/such"}}, fs.ErrNotExist},
		{Cmd{Args: []string{"/etc/passwd"}}, fs.ErrPermission},
		{Cmd{Args: []string{"/bin"}}, fs.ErrPermission},
		{Cmd{Args: []string{"true"}, Dir: "/no/such"}, fs.ErrNotExist},
		{Cmd{Args: []string{"true"}, Env: []string{"PATH=/nowhere"}}, fs.ErrNotExist},
		{Cmd{}, ErrBadOptions},
	} {
		if _, err := w.Spawn(t.Context(), c.cmd); !errors.Is(err, c.want) {
			t.Errorf("Spawn(%+v) = %v; want %v", c.cmd, err, c.want)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Spawn(t.Context(), Cmd{Args: []string{"true"}}); !errors.Is(err, ErrGone) {
		t.Errorf("Spawn() after Close() = %v; want %v", err, ErrGone)
	}
}

func TestUpRefusesBadOptions(t *testing.T) {
	for _, o := range []Options{
		{Dark: "grey"},
		{Host: -1},
		{Host: 201},
		{Layers: []string{"/no/such"}},
		{Layers: []string{"/etc/passwd"}},
		{Binds: []string{"x"}},
		{Binds: []string{"/no/such"}},
		{Files: map[string][]byte{"/a/../b": nil}},
		{Rules: []Rule{{Proto: "icmp"}}},
		{Memory: -1},
	} {
		if _, err := Up(t.Context(), o); !errors.Is(err, ErrBadOptions) {
			t.Errorf("Up(%+v) = %v; want %v", o, err, ErrBadOptions)
		}
	}
}

// What cannot be built is unresolved and leaves nothing.
func TestUpUnresolved(t *testing.T) {
	before := children(t)
	_, err := Up(t.Context(), Options{Files: map[string][]byte{"/bin/x/y": nil}})
	if !errors.Is(err, ErrUnresolved) {
		t.Errorf("Up() with a file below a link = %v; want %v", err, ErrUnresolved)
	}
	if after := children(t); after != before {
		t.Errorf("%d children after a failed Up; want %d", after, before)
	}
}

func children(t *testing.T) int {
	t.Helper()
	n := 0
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err == nil {
			n += len(strings.Fields(string(b)))
		}
	}
	return n
}

func TestStreams(t *testing.T) {
	w := up(t, Options{})
	var out bytes.Buffer
	big := strings.Repeat("0123456789abcdef", 1<<16)
	p, err := w.Spawn(t.Context(), Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil || out.String() != big {
		t.Errorf("cat gave %d bytes, %d, %v; want %d, 0", out.Len(), code, err, len(big))
	}
	// An environment that fills several packets.
	out.Reset()
	env := []string{"PATH=/bin:/usr/bin", "LAST=end"}
	for i := range 2000 {
		env = append(env, "V"+itoa(i)+"="+strings.Repeat("x", 100))
	}
	p, err = w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "echo $LAST $(env | grep -c ^V)"}, Env: env, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil || out.String() != "end 2000\n" {
		t.Errorf("a large environment = %q, %d, %v; want end 2000", out.String(), code, err)
	}
	// The end of the command is the end, whoever holds its output open.
	out.Reset()
	start := time.Now()
	p, err = w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "sleep 60 & echo said"}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil || out.String() != "said\n" || time.Since(start) > 20*time.Second {
		t.Errorf("a command with a child left = %q, %d, %v after %v; want said, 0 at once", out.String(), code, err, time.Since(start))
	}
	// A file is copied: the program must not get at it, nor at a directory.
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out.Reset()
	p, err = w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "ls -l /proc/self/fd/0 /proc/self/fd/1 | sed 's/.*-> //; s/:.*//' >&2; echo written"}, Stdin: d, Stdout: f, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil {
		t.Errorf("Wait() = %d, %v; want 0", code, err)
	}
	if got, err := os.ReadFile(path); string(got) != "written\n" || out.String() != "pipe\npipe\n" {
		t.Errorf("the file holds %q, %v and the descriptors are %q; want written and two pipes", got, err, out.String())
	}
}

func TestSpawnEndsWithItsContext(t *testing.T) {
	w := up(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	p, err := w.Spawn(ctx, Cmd{Args: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	if name, err := os.ReadFile("/proc/" + itoa(p.HostPID()) + "/comm"); err != nil || string(name) != "sleep\n" {
		t.Errorf("HostPID() = %d, which is %q, %v; want sleep", p.HostPID(), name, err)
	}
	cancel()
	if code, err := p.Wait(); code != 137 || err != nil {
		t.Errorf("Wait() = %d, %v; want 137", code, err)
	}
	if p, err = w.Spawn(t.Context(), Cmd{Args: []string{"sleep", "60"}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("Signal() = %v; want nil", err)
	}
	if code, err := p.Wait(); code != 143 || err != nil {
		t.Errorf("Wait() = %d, %v; want 143", code, err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("Signal() after the end = %v; want nil", err)
	}
	if p, err = w.Spawn(t.Context(), Cmd{Args: []string{"sleep", "60"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); !errors.Is(err, ErrGone) {
		t.Errorf("Wait() = %v; want %v", err, ErrGone)
	}
}

func TestTerminal(t *testing.T) {
	w := up(t, Options{})
	p, err := w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "tty; stty size; read x; echo got $x"}, TTY: true, Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Terminal().WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(p.Terminal())
	if !errors.Is(err, unix.EIO) {
		t.Errorf("reading the terminal = %v; want %v at the end", err, unix.EIO)
	}
	if code, err := p.Wait(); code != 0 || err != nil {
		t.Errorf("Wait() = %d, %v; want 0", code, err)
	}
	for _, want := range []string{"/dev/pts/0", "33 77", "got typed"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the terminal shows %q; want %q in it", out, want)
		}
	}
}

func TestScrubEnv(t *testing.T) {
	got := strings.Join(ScrubEnv([]string{"A=b", "SSH_AUTH_SOCK=/x", "http_proxy=x", "HTTPS_PROXY=", "DBUS_SESSION_BUS_ADDRESS=y", "PATH=/bin", "DOCKER_HOST=z"}), " ")
	if want := "A=b PATH=/bin"; got != want {
		t.Errorf("ScrubEnv() = %q; want %q", got, want)
	}
}
