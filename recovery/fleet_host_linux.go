package recovery

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/blackstart-project/blackstart/fetch"
)

// ErrMachine is returned for a host that cannot run this program.
var ErrMachine = errors.New("this program does not run on that host")

// farHost is a host that is reached over SSH.
type farHost struct {
	fleet *fleet
	name  string
	login Login

	mu   sync.Mutex
	link *link // nil: nobody has tried, or what was there has died
}

// link is a connection, in the making or made.
type link struct {
	done    chan struct{} // closed when the rest is there
	client  *ssh.Client
	program string // this one, there
	err     error
}

const (
	prepareLimit = 10 * time.Minute // for the connection and the copy of this program
	answerLimit  = 64 << 10         // of what a host says while it is prepared, in bytes
)

// connect gives the connection, with this program in place there. It is made only once,
// however many steps wait for it, and goes on when a step has lost patience: a probe
// that looks every few seconds would never get through else.
func (h *farHost) connect(ctx context.Context) (*link, error) {
	h.mu.Lock()
	l := h.link
	if l == nil {
		l = &link{done: make(chan struct{})}
		h.link = l
		h.fleet.wg.Go(func() { h.make(l) })
	}
	h.mu.Unlock()
	select {
	case <-l.done:
		if l.err != nil {
			return nil, l.err
		}
		return l, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("it is not ready: %w", context.Cause(ctx))
	}
}

// make connects, and keeps the connection until it dies or the run is over.
func (h *farHost) make(l *link) {
	defer h.forget(l)
	ctx, cancel := h.fleet.lasting(prepareLimit)
	defer cancel()
	l.client, l.err = fetch.DialSSH(ctx, h.fleet.place(h.name, h.login), h.fleet.site.From.Net, h.fleet.silence)
	if l.err != nil {
		close(l.done)
		return
	}
	defer func() { _ = l.client.Close() }()                           // it mostly is
	unstop := context.AfterFunc(ctx, func() { _ = l.client.Close() }) // what waits on it ends
	l.program, l.err = h.prepare(l.client)
	unstop()
	if l.err != nil {
		l.err = errors.Join(l.err, ctx.Err())
		close(l.done)
		return
	}
	close(l.done)
	dead := make(chan struct{})
	go func() {
		_ = l.client.Wait() // why does not matter: each step has its own error
		close(dead)
	}()
	select {
	case <-dead:
	case <-h.fleet.closed:
	}
}

// forget makes the next step connect anew.
func (h *farHost) forget(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.link == l {
		h.link = nil
	}
}

// prepare looks for this program on the host, and copies it there if need be.
func (h *farHost) prepare(c *ssh.Client) (string, error) {
	p, err := h.fleet.self()
	if err != nil {
		return "", err
	}
	s := h.fleet.site.Host
	said, err := ask(c, findScript(p.sha256, []string{s.State + "/bin", s.Data + "/bin"}), nil)
	if err != nil {
		return "", fmt.Errorf("looking for this program there: %w", err)
	}
	if err := sameMachine(said[markHost]); err != nil {
		return "", err
	}
	if f := said[markHave]; strings.HasPrefix(f, "/") {
		return f, nil
	}
	dir := said[markPut]
	if dir == "" {
		return "", fmt.Errorf("%w: no directory there can be written, and programs be run from it: %s, %s", ErrMachine, s.State, s.Data)
	}
	h.fleet.site.Log.Info(fmt.Sprintf("this program is not on %s: copying it there, %.1f MiB", h.name, float64(p.size)/(1<<20)))
	file, err := self()
	if err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	_, err = ask(c, putScript(p.sha256, dir), file)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("copying this program to %s there: %w", dir, err)
	}
	return dir + "/" + p.sha256, nil
}

// What a host's answers begin with: its login shell may print more.
const (
	markHost = "blackstart-host"
	markHave = "blackstart-have"
	markPut  = "blackstart-put"
)

// findScript tells what machine it is, and where this program is, or can be put: the
// first directory that can be written and that programs can be run from.
func findScript(sha256 string, dirs []string) string {
	var have, put strings.Builder
	for _, d := range dirs {
		have.WriteString(quote(d+"/"+sha256) + " ")
		put.WriteString(quote(d) + " ")
	}
	return `umask 066; echo ` + markHost + ` $(uname -s) $(uname -m);
for f in ` + have.String() + `"$(command -v blackstart)"; do
  [ -f "$f" ] && [ -x "$f" ] || continue;
  set -- $(sha256sum "$f"); [ "$1" = ` + sha256 + ` ] || continue;
  echo ` + markHave + ` "$f"; exit 0;
done;
for d in ` + put.String() + `; do
  mkdir -p "$d" 2>/dev/null || continue;
  t="$d/.try.$$"; printf "#!/bin/sh\n" 2>/dev/null >"$t" && chmod 700 "$t" && "$t" 2>/dev/null; s=$?; rm -f "$t";
  [ $s = 0 ] || continue;
  echo ` + markPut + ` "$d"; exit 0;
done`
}

// putScript writes standard input to a directory, under its digest: whole or not at all,
// also where the connection ends in the middle.
func putScript(sha256, dir string) string {
	return `umask 022; t=` + quote(dir) + `/.` + sha256 + `.$$; trap "" PIPE HUP; trap "rm -f \"$t\"" EXIT;
dd of="$t" bs=65536 conv=fsync 2>/dev/null || { echo "it cannot be written" >&2; exit 1; };
set -- $(sha256sum "$t"); [ "$1" = ` + sha256 + ` ] || { echo "the copy has the digest $1" >&2; exit 1; };
chmod 755 "$t" && mv -f "$t" ` + quote(dir) + `/` + sha256 + ` && { sync ` + quote(dir) + ` 2>/dev/null || sync; }`
}

// ask runs a script there, with in as its standard input, and gives the marked lines of
// its answer.
func ask(c *ssh.Client, text string, in io.Reader) (map[string]string, error) {
	ses, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ses.Close() }() // it mostly is
	out, said := &firstBytes{left: answerLimit}, &firstBytes{left: answerLimit}
	ses.Stdin, ses.Stdout, ses.Stderr = in, out, said
	// The login shell may be any: it gets words in single quotes, which they all read.
	if err := ses.Run("exec sh -c " + quote(strings.ReplaceAll(text, "\n", " "))); err != nil {
		if line := strings.TrimSpace(said.b.String()); line != "" {
			return nil, fmt.Errorf("%w: %.300q", err, line)
		}
		return nil, err
	}
	answers := map[string]string{}
	for lines := bufio.NewScanner(&out.b); lines.Scan(); {
		mark, rest, _ := strings.Cut(lines.Text(), " ")
		answers[mark] = strings.TrimSpace(rest)
	}
	return answers, nil
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct {
	b    bytes.Buffer
	left int
}

func (f *firstBytes) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	f.b.Write(b[:n])
	return len(b), nil
}

// sameMachine says whether a host that is what uname -sm says runs this program.
func sameMachine(said string) error {
	system, machine, _ := strings.Cut(said, " ")
	arch := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[machine]
	if system != "Linux" || arch != runtime.GOARCH {
		return fmt.Errorf("%w: it is %.60q, and this is for Linux on %s: run a blackstart for it there", ErrMachine, said, runtime.GOARCH)
	}
	return nil
}

// quote makes one word of any text, for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
