package fetch

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHSilence is how long an SSH server may say nothing before it is taken as gone.
const SSHSilence = 15 * time.Second

// DialSSH logs in to ssh://USER@HOST[:PORT], as an ssh source does: by a key that is
// pinned or known, with the agent's keys and those of n, and without looking a name up.
//
// The server is asked now and then whether it is there: where it says nothing for as
// long as silence, the connection ends, and so does all that waits on it. Close the client after
// use.
//
// Errors: ErrPlace for the URL, ErrPeer where the server has another key, ErrName.
func DialSSH(ctx context.Context, p Place, n Net, silence time.Duration) (*ssh.Client, error) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "ssh" {
		return nil, fmt.Errorf("%w: %s: want ssh://USER@HOST", ErrPlace, p.URL)
	}
	l, err := newSSHLogin(u, p, n)
	if err != nil {
		return nil, err
	}
	l.silence = silence
	c, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	dead := make(chan struct{})
	go func() {
		_ = c.Wait() // why does not matter: each session has its own error
		close(dead)
	}()
	go keepAlive(c, silence, dead)
	return c, nil
}

// newSSHLogin reads who logs in where.
func newSSHLogin(u *url.URL, p Place, n Net) (sshLogin, error) {
	if _, secret := u.User.Password(); secret {
		return sshLogin{}, fmt.Errorf("%w: %s: a password does not belong in a URL", ErrPlace, u.Redacted())
	}
	if u.Hostname() == "" {
		return sshLogin{}, fmt.Errorf("%w: %s: it names no host", ErrPlace, u)
	}
	l := sshLogin{place: p, net: n, host: u.Host, user: u.User.Username(), silence: SSHSilence}
	if l.user == "" {
		l.user, _, _ = n.login(u.Host)
	}
	if l.user == "" {
		return sshLogin{}, fmt.Errorf("%w: %s: it names no user", ErrPlace, u)
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	l.address = net.JoinHostPort(u.Hostname(), port)
	return l, nil
}

// keepAlive keeps a server talking, so that silence means that it is gone, until dead
// is closed.
func keepAlive(c *ssh.Client, silence time.Duration, dead <-chan struct{}) {
	t := time.NewTicker(silence / 3)
	defer t.Stop()
	for {
		select {
		case <-dead:
			return
		case <-t.C:
			if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				_ = c.Close() // which may have died by itself
			}
		}
	}
}
