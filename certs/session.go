package certs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Bounds of a session: how long it may last, bytes of a message, and how long one exchange may take.
const (
	MaxSession   = 12 * time.Hour
	maxMessage   = 1 << 20
	exchangeTime = 30 * time.Second
)

// SessionStatus says what a session is.
type SessionStatus struct {
	Name   string        `json:"name"`   // of the intermediate
	Left   time.Duration `json:"left"`   // in nanoseconds, of the session
	Until  time.Time     `json:"until"`  // end of the intermediate
	PID    int           `json:"pid"`    // of the process that holds the keys
	Issued uint64        `json:"issued"` // certificates given out so far
	Root   []byte        `json:"root"`   // PEM
}

type sessionCall struct {
	Op  string      `json:"op"`
	TLS *Request    `json:"tls,omitempty"`
	SSH *SSHRequest `json:"ssh,omitempty"`
	CRL *crlCall    `json:"crl,omitempty"`
}

type crlCall struct {
	Previous []byte   `json:"previous,omitempty"`
	Serials  []string `json:"serials"`
}

type sessionReply struct {
	Error  string         `json:"error,omitempty"`
	Kind   string         `json:"kind,omitempty"` // which sentinel the error wraps
	TLS    *Issued        `json:"tls,omitempty"`
	SSH    *SSHIssued     `json:"ssh,omitempty"`
	CRL    []byte         `json:"crl,omitempty"`
	Status *SessionStatus `json:"status,omitempty"`
}

// sessionErrors are the sentinels that cross the socket.
var sessionErrors = map[string]error{"invalid": ErrInvalid, "refused": ErrRefused, "expired": ErrExpired}

// ListenSession makes a session's socket, mode 0600, in a directory that it makes with mode 0700. A socket that nobody
// answers any more is replaced.
//
// Errors: ErrInvalid where a session is open there already.
func ListenSession(ctx context.Context, path string) (*net.UnixListener, error) {
	l, err := listenSession(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("opening a session at %s: %w", path, err)
	}
	return l, nil
}

func listenSession(ctx context.Context, path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if conn, err := dialSession(ctx, path); err == nil {
		return nil, errors.Join(fmt.Errorf("%w: there is one already; close it first", ErrInvalid), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func dialSession(ctx context.Context, path string) (net.Conn, error) {
	return (&net.Dialer{Timeout: exchangeTime}).DialContext(ctx, "unix", path)
}

// ServeSession answers on l, for this user and root alone, until lasts has passed on the monotonic clock, ctx ends or
// somebody closes the session; then the authority is closed. It closes l.
func ServeSession(ctx context.Context, l *net.UnixListener, a *Authority, lasts time.Duration) error {
	defer a.Close()
	if lasts <= 0 || lasts > MaxSession {
		return errors.Join(fmt.Errorf("serving a session: %w: it lasts %s; want at most %s", ErrInvalid, lasts, MaxSession), l.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	s := &session{authority: a, end: time.Now().Add(lasts), stop: cancel}
	// What Accept says afterwards is what matters.
	unlisten := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer unlisten()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if conn != nil {
				return conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("serving a session: %w", err)
		}
		wg.Go(func() {
			if conn.SetDeadline(time.Now().Add(exchangeTime)) == nil {
				done := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
				s.answer(conn)
				done()
			}
			_ = conn.Close() // the answer is sent or the client has gone
		})
	}
}

type session struct {
	authority *Authority
	end       time.Time // with its monotonic reading
	stop      func()

	mu     sync.Mutex
	issued uint64
}

// answer serves one call. What the client does wrong ends its connection and nothing else.
func (s *session) answer(conn *net.UnixConn) {
	by, err := peer(conn)
	if err != nil {
		return
	}
	var call sessionCall
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&call); err != nil {
		return
	}
	reply, err := s.do(call, by)
	if err != nil {
		reply = sessionReply{Error: err.Error()}
		for kind, e := range sessionErrors {
			if errors.Is(err, e) {
				reply.Kind = kind
			}
		}
	}
	if err := json.NewEncoder(conn).Encode(reply); err != nil {
		return
	}
	if call.Op == "close" {
		s.stop()
	}
}

func (s *session) do(call sessionCall, by string) (r sessionReply, err error) {
	switch {
	case call.Op == "issue" && call.TLS != nil:
		call.TLS.By = by
		out, err := s.authority.Issue(time.Now(), *call.TLS)
		if err != nil {
			return r, err
		}
		s.count()
		return sessionReply{TLS: &out}, nil
	case call.Op == "ssh" && call.SSH != nil:
		call.SSH.By = by
		out, err := s.authority.IssueSSH(time.Now(), *call.SSH)
		if err != nil {
			return r, err
		}
		s.count()
		return sessionReply{SSH: &out}, nil
	case call.Op == "revoke" && call.CRL != nil:
		out, err := s.authority.Revoke(time.Now(), call.CRL.Previous, call.CRL.Serials, by)
		return sessionReply{CRL: out}, err
	case call.Op == "status" || call.Op == "close":
		s.mu.Lock()
		defer s.mu.Unlock()
		c := s.authority.intermediate
		return sessionReply{Status: &SessionStatus{Name: c.Subject.CommonName, Left: time.Until(s.end), Until: c.NotAfter, PID: os.Getpid(), Issued: s.issued, Root: pemCert(s.authority.root)}}, nil
	}
	return r, fmt.Errorf("%w: unknown call %.20q", ErrInvalid, call.Op)
}

func (s *session) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
}

// Session is an open session, by the path of its socket.
type Session struct{ Path string }

// Issue has a certificate issued.
//
// Errors: those of Authority.Issue; ErrExpired where no session is open.
func (s Session) Issue(ctx context.Context, r Request) (Issued, error) {
	reply, err := s.call(ctx, sessionCall{Op: "issue", TLS: &r})
	if err == nil && reply.TLS == nil {
		err = fmt.Errorf("asking the session: %w: it gave no certificate", ErrInvalid)
	}
	if err != nil {
		return Issued{}, err
	}
	return *reply.TLS, nil
}

// IssueSSH has an SSH certificate issued.
func (s Session) IssueSSH(ctx context.Context, r SSHRequest) (SSHIssued, error) {
	reply, err := s.call(ctx, sessionCall{Op: "ssh", SSH: &r})
	if err == nil && reply.SSH == nil {
		err = fmt.Errorf("asking the session: %w: it gave no certificate", ErrInvalid)
	}
	if err != nil {
		return SSHIssued{}, err
	}
	return *reply.SSH, nil
}

// Revoke has a revocation list made, as Authority.Revoke does.
func (s Session) Revoke(ctx context.Context, previous []byte, serials []string) ([]byte, error) {
	reply, err := s.call(ctx, sessionCall{Op: "revoke", CRL: &crlCall{previous, serials}})
	return reply.CRL, err
}

// Status asks what the session is.
func (s Session) Status(ctx context.Context) (SessionStatus, error) { return s.status(ctx, "status") }

// Close ends the session, and gives its last status.
func (s Session) Close(ctx context.Context) (SessionStatus, error) { return s.status(ctx, "close") }

func (s Session) status(ctx context.Context, op string) (SessionStatus, error) {
	reply, err := s.call(ctx, sessionCall{Op: op})
	if err == nil && reply.Status == nil {
		err = fmt.Errorf("asking the session: %w: it gave no status", ErrInvalid)
	}
	if err != nil {
		return SessionStatus{}, err
	}
	return *reply.Status, nil
}

func (s Session) call(ctx context.Context, c sessionCall) (r sessionReply, err error) {
	conn, err := dialSession(ctx, s.Path)
	if err != nil {
		return r, fmt.Errorf("asking the session: %w: none is open: %w", ErrExpired, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(exchangeTime)); err != nil {
		return r, fmt.Errorf("asking the session: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(c); err != nil {
		return r, fmt.Errorf("asking the session: %w", errors.Join(err, ctx.Err()))
	}
	if err := json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&r); err != nil {
		return r, fmt.Errorf("asking the session: %w", errors.Join(err, ctx.Err()))
	}
	if r.Error == "" {
		return r, nil
	}
	if e := sessionErrors[r.Kind]; e != nil {
		return r, sessionError{r.Error, e}
	}
	return r, errors.New(r.Error)
}

// sessionError is an error from the other side: its text, and the sentinel it wraps.
type sessionError struct {
	text string
	kind error
}

func (e sessionError) Error() string { return e.text }
func (e sessionError) Unwrap() error { return e.kind }
