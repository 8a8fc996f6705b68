package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
)

const (
	sshSessions = 4        // at once; an OpenSSH server gives 10 to a connection
	sshBlock    = 64 << 10 // of dd, in bytes
	sshPreamble = 64 << 10 // what a login shell may print before the answer, in bytes
	sshComplain = 1 << 10  // of a command's standard error that is kept, in bytes

	exitFailed   = 43 // of the script
	exitNotFound = 44
)

// sshSource reads an OCI layout with a POSIX shell, wc or stat, and dd: what a
// host that is otherwise broken, or has no more than busybox, still has.
type sshSource struct {
	login sshLogin
	text  string // its URL
	dir   string

	sessions chan struct{} // one element for each that is open
	turn     chan struct{} // full while somebody connects
	wg       sync.WaitGroup

	mu     sync.Mutex
	client *ssh.Client           // nil where there is no connection
	bodies map[*sshBody]struct{} // that are being read
	closed bool
}

// newSSH makes a source of ssh://USER@HOST[:PORT]/DIR.
func newSSH(u *url.URL, p Place, n Net) (Source, error) {
	if !strings.HasPrefix(u.Path, "/") || strings.ContainsRune(u.Path, 0) {
		return nil, fmt.Errorf("%w: %s: want ssh://USER@HOST/DIR", ErrPlace, u.Redacted())
	}
	l, err := newSSHLogin(u, p, n)
	if err != nil {
		return nil, err
	}
	return &sshSource{
		login: l, text: u.String(), dir: u.Path,
		sessions: make(chan struct{}, sshSessions), turn: make(chan struct{}, 1), bodies: map[*sshBody]struct{}{},
	}, nil
}

func (s *sshSource) String() string { return s.text }

// Close ends the connection and whatever reads from it.
func (s *sshSource) Close() error {
	s.mu.Lock()
	s.closed = true
	c := s.client
	s.client = nil
	for b := range s.bodies {
		b.cancel() // nobody may be reading it
	}
	s.mu.Unlock()
	if c != nil {
		_ = c.Close() // it may have died already
	}
	s.wg.Wait()
	return nil
}

func (s *sshSource) Stat(ctx context.Context, blob digest.Digest) (int64, error) {
	body, size, err := s.run(ctx, blob, "")
	if err != nil {
		return 0, fmt.Errorf("looking for %s: %w", blob, err)
	}
	return size, body.Close()
}

func (s *sshSource) Open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	// POSIX dd counts in blocks, and only with those does it seek everywhere: what
	// tail -c and head -c would do exactly, busybox does by reading all that comes
	// before. So whole blocks come, and what is too much is dropped here.
	lead := offset % sshBlock
	dd := fmt.Sprintf(`exec dd if="$f" bs=%d skip=%d`, sshBlock, offset/sshBlock)
	if n >= 0 {
		dd += fmt.Sprintf(" count=%d", (lead+n+sshBlock-1)/sshBlock)
	}
	body, size, err := s.run(ctx, blob, dd)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %s: %w", blob, err)
	}
	left := max(size-offset, 0)
	if n >= 0 {
		left = min(left, n)
	}
	body.lead, body.left = lead, left
	return body, size, nil
}

// script finds the blob and tells its size, in a line that begins with the mark.
// then is the rest of it. It goes to sh by standard input, since the user's login
// shell, which gets the command line, may be any.
func script(dir string, blob digest.Digest, then string) string {
	return fmt.Sprintf(`f=%s
if [ -d "$f" ]; then cd "$f" || exit %d; f=blobs/sha256/%s; fi
[ -f "$f" ] || exit %d
n=$(stat -Lc %%s "$f" 2>/dev/null || wc -c <"$f") || exit %d
echo %s $n
%s
`, quote(dir), exitFailed, blob.Encoded(), exitNotFound, exitFailed, sshMark, then)
}

const sshMark = "blackstart-size"

// quote makes one word of any text, for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// run starts the script and reads its first answer.
func (s *sshSource) run(ctx context.Context, blob digest.Digest, then string) (_ *sshBody, size int64, err error) {
	if err := blob.Validate(); err != nil || blob.Algorithm() != digest.SHA256 {
		return nil, 0, errors.New("not a sha256 digest")
	}
	select {
	case s.sessions <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	c, err := s.connect(ctx)
	if err != nil {
		<-s.sessions
		return nil, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	// A server that has gone silent answers nothing, not even that it closes, so the
	// reader is let go at once and the session when the connection is found dead.
	stop := context.AfterFunc(ctx, func() { _ = pw.CloseWithError(ctx.Err()) })
	s.wg.Go(func() {
		defer func() { <-s.sessions }()
		text := script(s.dir, blob, then)
		err := session(ctx, c, text, pw)
		if errors.Is(err, errNoSession) && ctx.Err() == nil {
			// The connection had died, and nobody had noticed.
			s.drop(c)
			if c, err = s.connect(ctx); err == nil {
				err = session(ctx, c, text, pw)
			}
		}
		_ = pw.CloseWithError(err) // it never fails
	})
	b := &sshBody{r: bufio.NewReader(pr), pipe: pr, cancel: cancel}
	b.done = func() { stop(); cancel(); s.forget(b) }
	s.mu.Lock()
	s.bodies[b] = struct{}{}
	if s.closed {
		cancel()
	}
	s.mu.Unlock()
	size, err = b.size()
	if err != nil {
		return nil, 0, errors.Join(err, b.Close())
	}
	return b, size, nil
}

func (s *sshSource) forget(b *sshBody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.bodies, b)
}

// drop forgets a connection.
func (s *sshSource) drop(c *ssh.Client) {
	s.mu.Lock()
	if s.client == c {
		s.client = nil
	}
	s.mu.Unlock()
	_ = c.Close() // it has died
}

var errNoSession = errors.New("starting a session")

// session runs a script until it ends or ctx does. It returns ErrNotFound where
// the script says so, and errNoSession where it never began.
func session(ctx context.Context, c *ssh.Client, text string, out io.Writer) error {
	ses, err := c.NewSession()
	if err != nil {
		return fmt.Errorf("%w: %w", errNoSession, err)
	}
	defer context.AfterFunc(ctx, func() { _ = ses.Close() })() // it may be over
	var said complaint
	ses.Stdin, ses.Stdout, ses.Stderr = strings.NewReader(text), out, &said
	err = ses.Run("sh")
	_ = ses.Close() // it mostly is
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
		if exit.ExitStatus() == exitNotFound {
			return ErrNotFound
		}
		return fmt.Errorf("reading: %w: %s", err, said.line())
	}
	return err
}

// complaint keeps the beginning of what a command says on standard error.
type complaint struct{ text []byte }

func (c *complaint) Write(b []byte) (int, error) {
	c.text = append(c.text, b[:min(len(b), sshComplain-len(c.text))]...)
	return len(b), nil
}

// line is the first one, fit to be shown.
func (c *complaint) line() string {
	l, _, _ := strings.Cut(strings.TrimSpace(string(c.text)), "\n")
	q := strconv.Quote(l)
	return q[1 : len(q)-1]
}

// sshBody is what comes after the size: a few bytes too many on both sides.
type sshBody struct {
	r          *bufio.Reader
	pipe       *io.PipeReader
	cancel     func() // ends the session; Read gives the error
	done       func()
	lead, left int64
}

// size reads up to the line with the mark. What a login shell prints before it is
// passed over.
func (b *sshBody) size() (int64, error) {
	for read := 0; read < sshPreamble; {
		line, err := b.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = errors.New("the host's shell gave no answer")
			}
			return 0, err
		}
		read += len(line)
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), sshMark+" "); ok {
			size, err := strconv.ParseInt(v, 10, 64)
			if err != nil || size < 0 {
				return 0, fmt.Errorf("the host tells the size %.40q", v)
			}
			return size, nil
		}
	}
	return 0, errors.New("the host's shell printed something else")
}

func (b *sshBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.lead > 0 {
		n, err := io.CopyN(io.Discard, b.r, b.lead)
		b.lead -= n
		if err != nil {
			return 0, err
		}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Close ends the session, also in the middle.
func (b *sshBody) Close() error {
	b.done()
	return b.pipe.Close()
}
