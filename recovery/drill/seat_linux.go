package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/sandbox"
)

// Seat is where the operator sits.
type Seat struct {
	In  io.Reader
	Out io.Writer
	// Terminal says that In is a terminal that passes on every key. Else each line
	// of In is typed when the shell asks for one, and its end ends the shell.
	Terminal   bool
	Rows, Cols uint16
	Resized    <-chan [2]uint16 // rows and columns; may be nil
}

// afterShell is how long the terminal of a shell that has ended is read on, where
// something that it left in the background holds it open.
const afterShell = 300 * time.Millisecond

// sitting is the operator at the shells of a drill.
type sitting struct {
	r     *running
	ready chan struct{} // a shell waits for a line
	wg    sync.WaitGroup

	mu     sync.Mutex
	shells []*hostShell // the last one has the keyboard
	size   [2]uint16
	outMu  sync.Mutex
}

// hostShell is a shell on a host of the vacuum.
type hostShell struct {
	host string
	tty  *os.File
}

// sit runs the shell until it ends.
func (r *running) sit(ctx context.Context) error {
	s := &sitting{r: r, ready: make(chan struct{}, 1), size: [2]uint16{r.seat.Rows, r.seat.Cols}}
	r.sitting.Store(s)
	defer r.sitting.Store(nil)
	ctx, stop := context.WithCancel(ctx)
	go s.keys(ctx) // ends with its reader, or with ctx where that is not read
	if r.seat.Resized != nil {
		s.wg.Go(func() { s.resize(ctx) })
	}
	host := ""
	if len(r.bound.Hosts) > 0 {
		host = r.bound.Hosts[0]
	}
	err := s.shell(ctx, host)
	stop()
	s.wg.Wait()
	return err
}

// shell runs one on a host until it ends.
func (s *sitting) shell(ctx context.Context, host string) error {
	r := s.r
	prompt := "(drill " + r.drill.Service
	if host != "" {
		prompt += ", " + host
	}
	args, rc := shellOf(r.bash, r.word, prompt+")")
	g := r.ground
	if host != "" {
		var err error
		if g, err = g.On(host); err != nil {
			return err
		}
	}
	if code, err := g.Shell(ctx, `mkdir -p "${rc_path%/*}"; printf %s "$rc" >"$rc_path"`, []string{"rc=" + rc, "rc_path=" + rcPath}, "", io.Discard); err != nil || code != 0 {
		return errors.Join(fmt.Errorf("preparing the shell: status %d", code), err)
	}
	env := append(os.Environ(), r.env(host)...)
	env = append(env, "BLACKSTART_DRILL="+r.drill.ID, "BLACKSTART_DATA="+r.o.Site.Host.Data, "BLACKSTART_STATE="+r.o.Site.Host.State)
	if !r.bash {
		env = append(env, "ENV="+rcPath)
	}
	if os.Getenv("TERM") == "" {
		env = append(env, "TERM=dumb")
	}
	s.mu.Lock()
	c := sandbox.Cmd{Args: args, Env: env, Dir: "/", TTY: true, Rows: s.size[0], Cols: s.size[1]}
	s.mu.Unlock()
	p, err := r.v.Spawn(ctx, max(slices.Index(r.bound.Hosts, host), 0), c)
	if err != nil {
		return err
	}
	h := &hostShell{host: host, tty: p.Terminal()}
	if h.tty == nil {
		return errors.New("the shell got no terminal")
	}
	s.mu.Lock()
	s.shells = append(s.shells, h)
	s.mu.Unlock()
	read := make(chan struct{})
	go func() {
		defer close(read)
		m := newMarks(r.word, s.show, func(kind byte, text string) { s.marked(ctx, h, kind, text) })
		_, _ = io.Copy(m, h.tty) // EIO is how a terminal ends
		m.flush()
	}()
	_, err = p.Wait()
	s.mu.Lock()
	s.shells = slices.DeleteFunc(s.shells, func(o *hostShell) bool { return o == h })
	s.mu.Unlock()
	// What the shell left in the background may hold the terminal open: that it is
	// closed here ends the reading, and hangs it up for them.
	select {
	case <-read:
	case <-time.After(afterShell):
	}
	_ = h.tty.Close()
	<-read
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that it was killed is what was asked for
	}
	return err
}

// show passes on what a shell writes.
func (s *sitting) show(b []byte) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	_, _ = s.r.seat.Out.Write(b) // who sits there may be gone: the drill goes on to its end
	_, _ = s.r.out.Write(b)      // the recording remembers what went wrong
}

// tell says something to the operator, between what the shell writes.
func (r *running) tell(text string) {
	if s := r.sitting.Load(); s != nil {
		s.show([]byte("\r\n\x1b[1m== " + printableLines(r.mask.Text(text)) + "\x1b[0m\r\n"))
	}
}

// printableLines is text for a terminal, whatever it holds.
func printableLines(s string) string {
	s = strings.Map(func(c rune) rune {
		if c != '\n' && (c < ' ' || c >= 0x7f && c < 0xa0) {
			return '?'
		}
		return c
	}, s)
	return strings.ReplaceAll(s, "\n", "\r\n")
}

// marked does what a shell's mark says.
func (s *sitting) marked(ctx context.Context, h *hostShell, kind byte, text string) {
	r := s.r
	switch kind {
	case markReady:
		select {
		case s.ready <- struct{}{}:
		default:
		}
	case markBegan:
		r.note(Event{Kind: CommandBegan, Host: h.host, Text: text})
	case markEnded:
		status := 0
		_, _ = fmt.Sscanf(text, "%d", &status) // else it is 0
		r.note(Event{Kind: CommandEnded, Host: h.host, Status: status})
		select {
		case r.changed <- struct{}{}:
		default:
		}
	case markHint:
		now, cancel := context.WithTimeout(ctx, lookLimit)
		r.checks(now, true) // what was done just now is no hint
		cancel()
		p := r.progress()
		i := p.Next()
		if i < 0 {
			r.note(Event{Kind: Hint})
			r.tell("every step is done, as far as can be seen")
			return
		}
		r.note(Event{Kind: Hint, Step: p.Steps[i].ID})
		r.tell("the next step: " + p.Steps[i].Print())
	case markSteps:
		var all []string
		for _, st := range r.progress().Steps {
			all = append(all, st.Print())
		}
		r.tell(strings.Join(all, "\n"))
	case markVisit:
		s.wg.Go(func() {
			if err := s.shell(ctx, text); err != nil {
				r.tell(err.Error())
			}
			_, _ = h.tty.WriteString("\n") // the shell that waits goes on
		})
	}
}

// keys passes on what the operator types.
func (s *sitting) keys(ctx context.Context) {
	if s.r.seat.Terminal {
		b := make([]byte, 4096)
		for {
			n, err := s.r.seat.In.Read(b)
			if n > 0 {
				s.typed(b[:n])
			}
			if err != nil || ctx.Err() != nil {
				return
			}
		}
	}
	lines := bufio.NewReader(s.r.seat.In)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ready:
		}
		line, err := lines.ReadString('\n')
		if err != nil && line == "" {
			line = "\x04" // the end, for each shell that asks
		}
		s.typed([]byte(line))
	}
}

// typed gives bytes to the shell that has the keyboard. They are recorded unless
// it reads a line without showing it, as programs ask for passwords.
func (s *sitting) typed(b []byte) {
	s.mu.Lock()
	n := len(s.shells)
	if n == 0 {
		s.mu.Unlock()
		return
	}
	to := s.shells[n-1].tty
	control(to, func(fd int) {
		if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil && (t.Lflag&unix.ICANON == 0 || t.Lflag&unix.ECHO != 0) {
			_, _ = s.r.in.Write(b) // the recording remembers what went wrong
		}
	})
	s.mu.Unlock()
	_, _ = to.Write(b) // the shell may have ended just then
}

// control does something with a terminal's descriptor; nothing where it is closed.
func control(f *os.File, do func(fd int)) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { do(int(fd)) }) // closed: there is nothing to do
	}
}

// resize passes on the size of the operator's terminal.
func (s *sitting) resize(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case size := <-s.r.seat.Resized:
			s.mu.Lock()
			s.size = size
			for _, h := range s.shells {
				control(h.tty, func(fd int) {
					_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size[0], Col: size[1]}) // only its looks
				})
			}
			s.mu.Unlock()
			s.r.cast.add("r", fmt.Appendf(nil, "%dx%d", size[1], size[0]))
		}
	}
}
