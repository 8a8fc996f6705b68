package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxTokens bounds a file of tokens, in bytes.
const maxTokens = 16 << 20

// Grant is what a token is good for, once.
type Grant struct {
	Request Request   `json:"request"` // names, uses and life; the CSR comes with the token
	Expires time.Time `json:"expires"`
}

// Tokens are one-time tokens in a file: JSON lines, a token's SHA-256 with its grant, and later again with the time it
// was used. Every line is on disk before it counts; a torn last line is cut off. Several processes may share the file.
type Tokens struct {
	mu   sync.Mutex
	file *os.File
	size int64
	all  map[string]*tokenLine
}

type tokenLine struct {
	Hash  string    `json:"hash"`
	Grant *Grant    `json:"grant,omitempty"`
	Used  time.Time `json:"used,omitzero"`
}

// OpenTokens opens a file of tokens, and makes one where there is none. Close it after use.
func OpenTokens(path string) (_ *Tokens, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening tokens: %w", err)
	}
	t := &Tokens{file: f, all: map[string]*tokenLine{}}
	err = t.locked(func() error {
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return errors.Join(err, fmt.Errorf("%w: not a regular file", ErrInvalid))
		}
		return errors.Join(t.catchUp(), syncDir(filepath.Dir(path)))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening tokens %s: %w", path, err), f.Close())
	}
	return t, nil
}

// Close closes the file.
func (t *Tokens) Close() error { return t.file.Close() }

// New makes a token for a grant. It holds the fingerprint of the root as well, so that a host needs nothing else to know whom it
// talks to.
func (t *Tokens) New(g Grant, root *x509.Certificate) (string, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", err
	}
	if g.Expires.IsZero() || !serviceName(g.Request.Service) || g.Request.CSR != nil {
		return "", fmt.Errorf("making a token: %w: want a service, an end, and no CSR", ErrInvalid)
	}
	line := tokenLine{Hash: hashToken(secret), Grant: &g}
	if err := t.locked(func() error { return errors.Join(t.catchUp(), t.write(line)) }); err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	pin := sha256.Sum256(root.Raw)
	return "bs1." + base64.RawURLEncoding.EncodeToString(secret) + "." + base64.RawURLEncoding.EncodeToString(pin[:]), nil
}

// Spend uses a token up: when it returns, that is on disk, whatever happens next.
//
// Errors: ErrToken where it is unknown or used; ErrExpired.
func (t *Tokens) Spend(now time.Time, token string) (Grant, error) {
	secret, _, err := splitToken(token)
	if err != nil {
		return Grant{}, fmt.Errorf("using a token: %w", err)
	}
	var g Grant
	err = t.locked(func() error {
		if err := t.catchUp(); err != nil {
			return err
		}
		l := t.all[hashToken(secret)]
		switch {
		case l == nil || l.Grant == nil:
			return fmt.Errorf("%w: unknown", ErrToken)
		case !l.Used.IsZero():
			return fmt.Errorf("%w: it was used %s", ErrToken, day(l.Used))
		case now.After(l.Grant.Expires):
			return fmt.Errorf("%w: the token ended %s", ErrExpired, day(l.Grant.Expires))
		}
		g = *l.Grant
		return t.write(tokenLine{Hash: l.Hash, Used: now.UTC()})
	})
	if err != nil {
		return Grant{}, fmt.Errorf("using a token: %w", err)
	}
	return g, nil
}

func hashToken(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

func splitToken(token string) (secret, pin []byte, err error) {
	parts := strings.Split(token, ".")
	if len(token) > 200 || len(parts) != 3 || parts[0] != "bs1" {
		return nil, nil, fmt.Errorf("%w: not of the form bs1.SECRET.FINGERPRINT", ErrToken)
	}
	secret, err1 := base64.RawURLEncoding.DecodeString(parts[1])
	pin, err2 := base64.RawURLEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || len(secret) != 32 || len(pin) != sha256.Size {
		return nil, nil, fmt.Errorf("%w: not of the form bs1.SECRET.FINGERPRINT", ErrToken)
	}
	return secret, pin, nil
}

// locked does something while the file is locked; the kernel lets go of the lock if the process dies.
func (t *Tokens) locked(do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		err := syscall.Flock(int(t.file.Fd()), syscall.LOCK_EX)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("locking: %w", err)
		}
	}
	return errors.Join(do(), syscall.Flock(int(t.file.Fd()), syscall.LOCK_UN))
}

// catchUp reads what other processes have written, and cuts off a torn line.
func (t *Tokens) catchUp() error {
	st, err := t.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() < t.size || st.Size() > maxTokens {
		return fmt.Errorf("%w: the file of tokens has %d bytes, after %d", ErrChanged, st.Size(), t.size)
	}
	b := make([]byte, st.Size()-t.size)
	if _, err := t.file.ReadAt(b, t.size); err != nil && len(b) > 0 {
		return err
	}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		var l tokenLine
		if !whole || (len(rest) == 0 && bytes.IndexByte(line, 0) >= 0) {
			// Nobody can still be writing it, for this process holds the lock.
			return errors.Join(t.file.Truncate(t.size), t.file.Sync())
		}
		if err := json.Unmarshal(line, &l); err != nil || l.Hash == "" {
			return fmt.Errorf("%w: the file of tokens has a line that is none", ErrChanged)
		}
		t.take(l)
		t.size += int64(len(line)) + 1
		b = rest
	}
	return nil
}

func (t *Tokens) take(l tokenLine) {
	if have := t.all[l.Hash]; have != nil {
		if have.Used.IsZero() {
			have.Used = l.Used
		}
		return
	}
	t.all[l.Hash] = &l
}

func (t *Tokens) write(l tokenLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if _, err = t.file.WriteAt(b, t.size); err == nil {
		err = t.file.Sync()
	}
	if err != nil {
		return errors.Join(err, t.file.Truncate(t.size))
	}
	t.take(l)
	t.size += int64(len(b))
	return nil
}
