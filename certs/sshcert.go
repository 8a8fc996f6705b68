package certs

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHKind says whether an SSH certificate is a host's or a user's.
type SSHKind string

// The kinds of SSH certificates.
const (
	SSHHost SSHKind = "host"
	SSHUser SSHKind = "user"
)

// SSHRequest asks for an SSH certificate (OpenSSH's PROTOCOL.certkeys).
type SSHRequest struct {
	Service    string        `json:"service"`
	Kind       SSHKind       `json:"kind"`
	Principals []string      `json:"principals"`    // host names and addresses, or user names
	PublicKey  []byte        `json:"public_key"`    // a line of authorized_keys, such as id_ed25519.pub
	For        time.Duration `json:"for,omitempty"` // as in Request
	ID         string        `json:"id"`            // who it is for; sshd logs it
	By         string        `json:"-"`             // who asks, for the record
}

// SSHIssued is an SSH certificate that was given out.
type SSHIssued struct {
	Serial    string    `json:"serial"` // decimal
	Cert      []byte    `json:"cert"`   // a line, the content of id_ed25519-cert.pub
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// IssueSSH is Issue for SSH. SSH authorities have no constraints that a server would check, so the scope is checked here alone, and
// user certificates are given only where the policy lists the principals.
func (a *Authority) IssueSSH(now time.Time, r SSHRequest) (SSHIssued, error) {
	out, err := a.issueSSH(later(now, a.floor), r)
	if err != nil {
		return SSHIssued{}, fmt.Errorf("issuing an SSH %.10s certificate for %.64q: %w", r.Kind, r.Service, err)
	}
	return out, nil
}

func (a *Authority) issueSSH(at time.Time, r SSHRequest) (SSHIssued, error) {
	var out SSHIssued
	if !serviceName(r.Service) || len(r.ID) > 256 || strings.ContainsFunc(r.ID, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return out, fmt.Errorf("%w: want a service's name, and an ID of at most 256 characters", ErrInvalid)
	}
	if len(r.Principals) == 0 || len(r.Principals) > maxNames {
		// A certificate without principals is one for everybody.
		return out, fmt.Errorf("%w: want 1 to %d principals", ErrInvalid, maxNames)
	}
	key, err := parseSSHKey(r.PublicKey)
	if err != nil {
		return out, err
	}
	ev := Event{Kind: "ssh-" + string(r.Kind), Service: r.Service, Names: r.Principals, By: r.By, Key: ssh.FingerprintSHA256(key)}
	life, err := a.allowSSH(r)
	if err != nil {
		return out, a.refuse(ev, err)
	}
	out.NotBefore, out.NotAfter = at.Add(-Backdate), at.Add(life)
	if end := a.intermediate.NotAfter; out.NotAfter.After(end) {
		out.NotAfter = end
	}
	if !out.NotAfter.After(at) {
		return out, a.refuse(ev, fmt.Errorf("%w: the ceremony's authorities ended %s", ErrExpired, day(a.intermediate.NotAfter)))
	}
	c := &ssh.Certificate{
		Key: key, CertType: ssh.HostCert, KeyId: r.ID, ValidPrincipals: r.Principals,
		ValidAfter: uint64(out.NotBefore.Unix()), ValidBefore: uint64(out.NotAfter.Unix()),
	}
	if r.Kind == SSHUser {
		c.CertType = ssh.UserCert
		c.Extensions = map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-user-rc": ""}
	}
	var num [8]byte
	if _, err := rand.Read(num[:]); err != nil {
		return out, err
	}
	c.Serial = binary.BigEndian.Uint64(num[:])
	out.Serial = fmt.Sprint(c.Serial)
	if err := a.signSSH(r.Kind, c); err != nil {
		return out, err
	}
	ev.Serial, ev.NotBefore, ev.NotAfter = out.Serial, out.NotBefore, out.NotAfter
	if a.record != nil {
		if err := a.record(ev); err != nil {
			return out, fmt.Errorf("recording it, without which nothing is given out: %w", err)
		}
	}
	out.Cert = ssh.MarshalAuthorizedKey(c)
	return out, nil
}

func (a *Authority) signSSH(kind SSHKind, c *ssh.Certificate) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.isClosed {
		return fmt.Errorf("%w: the session is closed", ErrExpired)
	}
	return c.SignCert(rand.Reader, a.ssh[kind])
}

func parseSSHKey(b []byte) (ssh.PublicKey, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("%w: the SSH key is larger than %d bytes", ErrInvalid, maxKeyFile)
	}
	key, _, _, rest, err := ssh.ParseAuthorizedKey(b)
	if err != nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fmt.Errorf("%w: want one SSH public key", ErrInvalid)
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return key, nil
	case ssh.KeyAlgoRSA:
		if c, ok := key.(ssh.CryptoPublicKey); ok {
			if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && checkKey(r) == nil {
				return key, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: an SSH key of the type %.60s is not certified: want ed25519, ecdsa, their FIDO kinds, or RSA of 2048 bits and more", ErrInvalid, key.Type())
}

func (a *Authority) allowSSH(r SSHRequest) (time.Duration, error) {
	var rl *rule
	limit := longestLife
	if a.policy != nil {
		if rl = a.policy.rules[r.Service]; rl == nil {
			return 0, fmt.Errorf("%w: the policy has no service of this name", ErrRefused)
		}
		limit = a.policy.limit(rl)
	}
	if r.For < 0 || r.For > limit {
		return 0, fmt.Errorf("%w: a life of %s; %s at most", ErrRefused, r.For, limit)
	}
	if r.For == 0 {
		r.For = min(DefaultFor, limit)
	}
	switch r.Kind {
	case SSHUser:
		for _, p := range r.Principals {
			if rl == nil || !slices.Contains(rl.users, p) {
				return 0, fmt.Errorf("%w: the policy gives no user certificate for %.80q", ErrRefused, p)
			}
		}
		return r.For, nil
	case SSHHost:
		var n names
		for _, p := range r.Principals {
			if ip, err := netip.ParseAddr(p); err == nil {
				n.ip = append(n.ip, ip.Unmap())
			} else if p = strings.ToLower(p); hostname(p) {
				n.dns = append(n.dns, p)
			} else {
				return 0, fmt.Errorf("%w: %.260q is neither a host's name nor an address", ErrInvalid, p)
			}
		}
		if err := a.inScope(n); err != nil {
			return 0, err
		}
		if rl != nil {
			return r.For, rl.allow(Request{Use: rl.uses}, n)
		}
		return r.For, nil
	}
	return 0, fmt.Errorf("%w: kind %.20q; want %s or %s", ErrInvalid, r.Kind, SSHHost, SSHUser)
}
