package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

const sshGreet = 15 * time.Second // for the handshake and the login

// connect gives the connection, a new one where there is none.
func (s *sshSource) connect(ctx context.Context) (*ssh.Client, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.turn }()
	s.mu.Lock()
	c, closed := s.client, s.closed
	s.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if c != nil {
		return c, nil
	}
	c, err := s.login.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	s.client = c
	s.wg.Go(func() { s.watch(c) })
	return c, nil
}

// watch keeps the server talking, so that silence means that it is gone, and
// forgets the connection when it has died.
func (s *sshSource) watch(c *ssh.Client) {
	dead := make(chan struct{})
	s.wg.Go(func() {
		_ = c.Wait() // why does not matter: each session has its own error
		s.mu.Lock()
		if s.client == c {
			s.client = nil
		}
		s.mu.Unlock()
		close(dead)
	})
	keepAlive(c, s.login.silence, dead)
}

// silentConn takes a peer that says nothing for a while as gone. With a slow link
// the answer to a question is long on its way, but then other bytes come.
type silentConn struct {
	net.Conn
	limit time.Duration
}

func (c silentConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c silentConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// sshLogin is what a connection takes.
type sshLogin struct {
	place   Place
	net     Net
	host    string // as the URL has it
	address string // host:port
	user    string
	silence time.Duration // after which the server is gone
}

// dial connects and logs in. It returns ErrPeer where the server has no key that
// is known.
func (l sshLogin) dial(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, sshGreet)
	defer cancel()
	known, err := l.hostKeys()
	if err != nil {
		return nil, err
	}
	// A server shows the key of the kind that was agreed on, and the known one may be
	// of another kind, so each is asked for. Certificates count in known_hosts only.
	kinds := [][]string{
		{ssh.KeyAlgoED25519},
		{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
		{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
	}
	if len(l.place.Pins) == 0 {
		kinds = append(kinds, []string{
			ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01,
			ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
		})
	}
	var refused []error
	for _, algos := range kinds {
		var refusal error
		var c *ssh.Client
		c, err = l.handshake(ctx, algos, func(host string, remote net.Addr, key ssh.PublicKey) error {
			refusal = known(host, remote, key)
			return refusal
		})
		if err == nil {
			return c, nil
		}
		if refusal != nil {
			refused = append(refused, refusal)
			continue
		}
		if other := (*ssh.AlgorithmNegotiationError)(nil); !errors.As(err, &other) {
			return nil, err
		}
	}
	if len(refused) > 0 {
		return nil, errors.Join(refused...)
	}
	return nil, err
}

// handshake makes one attempt.
func (l sshLogin) handshake(ctx context.Context, algos []string, known ssh.HostKeyCallback) (*ssh.Client, error) {
	raw, err := l.net.DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })() // the handshake fails by it
	auth, unread := l.auth(ctx)
	conn, channels, requests, err := ssh.NewClientConn(silentConn{raw, l.silence}, l.address, &ssh.ClientConfig{
		User: l.user, Auth: auth, HostKeyCallback: known, HostKeyAlgorithms: algos,
	})
	if err != nil {
		_ = raw.Close() // it mostly is
		return nil, fmt.Errorf("logging in as %s at %s: %w", l.user, l.address, errors.Join(ctx.Err(), err, unread()))
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// hostKeys tells which keys the server may have. It refuses with ErrPeer.
func (l sshLogin) hostKeys() (ssh.HostKeyCallback, error) {
	refuse := func(key ssh.PublicKey, why string) error {
		return fmt.Errorf("%w: the key of %s, %s %s (%s), is %s",
			ErrPeer, l.address, key.Type(), hostPin(key), ssh.FingerprintSHA256(key), why)
	}
	if len(l.place.Pins) > 0 {
		return func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if slices.Contains(l.place.Pins, hostPin(key)) {
				return nil
			}
			return refuse(key, "not the pinned one")
		}, nil
	}
	var files []string
	for _, f := range []string{inHome("known_hosts"), "/etc/ssh/ssh_known_hosts"} {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, fmt.Errorf("reading the known hosts: %w", err)
	}
	return func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := check(host, remote, key)
		if err == nil {
			return nil
		}
		// Not wrapped: the key that was expected would be taken for the one that came.
		return refuse(key, fmt.Sprintf("not one of the known hosts' (%v)", err))
	}, nil
}

// hostPin is the SHA-256 digest of a key's wire format (RFC 4253, section 6.6):
// what ssh-keygen -l prints in base64.
func hostPin(key ssh.PublicKey) digest.Digest { return digest.FromBytes(key.Marshal()) }

// auth is how to log in. Of each method a server is asked for, only the first
// entry counts, so all keys are in one. unread tells, afterwards, which of them
// could not be had. The agent is let go of when ctx ends.
func (l sshLogin) auth(ctx context.Context) (auth []ssh.AuthMethod, unread func() error) {
	var problems []error
	keys := func() (all []ssh.Signer, _ error) {
		// Those that were asked for come first: a server hangs up after six.
		for _, f := range l.net.SSHKeys {
			k, err := readKey(f)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			all = append(all, k)
		}
		if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", sock)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = c.Close() }) // nothing was written that could be lost
				var held []ssh.Signer
				held, err = agent.NewClient(c).Signers()
				all = append(all, held...)
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("asking the ssh agent: %w", err))
			}
		}
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			k, err := readKey(inHome(name))
			switch {
			case err == nil:
				all = append(all, k)
			case !errors.Is(err, fs.ErrNotExist):
				problems = append(problems, err)
			}
		}
		return all, nil
	}
	auth = append(auth, ssh.PublicKeysCallback(keys))
	if user, password, ok := l.net.login(l.host); ok && user == l.user {
		auth = append(auth, ssh.Password(password))
	}
	return auth, func() error { return errors.Join(problems...) }
}

func readKey(file string) (ssh.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	k, err := ssh.ParsePrivateKey(b)
	if secret := (*ssh.PassphraseMissingError)(nil); errors.As(err, &secret) {
		return nil, fmt.Errorf("reading key %s: it has a passphrase, so only an agent can use it", file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", file, err)
	}
	return k, nil
}

// inHome is a file of the user's own SSH settings.
func inHome(name string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".ssh", name)
}
