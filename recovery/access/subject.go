package access

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxAuthInfo bounds what sshd says of a login, and maxGroups /etc/group, in bytes.
const (
	maxAuthInfo = 256 << 10
	maxGroups   = 16 << 20
)

// Principals reads the file that sshd names in $SSH_USER_AUTH where ExposeAuthInfo is on (sshd_config(5)), and gives the principals of
// the user certificates in it that one of the authorities signed and that are valid now for a login as user. authorities
// are lines such as those of TrustedUserCAKeys.
//
// The file and the variable belong to the user, and a certificate is no secret: somebody who has seen a colleague's
// certificate can put it there. It says who logged in where the user is honest, and no more.
//
// Errors: ErrInvalid where the file, or an authority, is not what it should be. A certificate that does not count is left out.
func Principals(now time.Time, authInfo, authorities []byte, user string) ([]string, error) {
	if len(authInfo) > maxAuthInfo || len(authorities) > maxSigners {
		return nil, fmt.Errorf("reading what sshd says of the login: %w: too large", ErrInvalid)
	}
	trusted := map[string]bool{}
	for rest := authorities; len(bytes.TrimSpace(rest)) > 0; {
		k, _, _, more, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return nil, fmt.Errorf("reading user authorities: %w: %w", ErrInvalid, err)
		}
		if err := checkKey(k); err != nil {
			return nil, fmt.Errorf("reading user authorities: %w: %w", ErrInvalid, err)
		}
		trusted[string(k.Marshal())], rest = true, more
	}
	check := ssh.CertChecker{
		Clock:           func() time.Time { return now },
		IsUserAuthority: func(k ssh.PublicKey) bool { return trusted[string(k.Marshal())] },
		// What the login was bound to has been checked by sshd.
		SupportedCriticalOptions: []string{"force-command", "source-address", "verify-required"},
	}
	var all []string
	for line := range strings.Lines(string(authInfo)) {
		method, key, _ := strings.Cut(strings.TrimSpace(line), " ")
		if method != "publickey" {
			continue
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil {
			return nil, fmt.Errorf("reading what sshd says of the login: %w: %w", ErrInvalid, err)
		}
		c, ok := k.(*ssh.Certificate)
		if !ok || c.CertType != ssh.UserCert || !check.IsUserAuthority(c.SignatureKey) || len(c.ValidPrincipals) == 0 {
			continue
		}
		// With AuthorizedPrincipalsFile a login need not be one of the principals.
		as := user
		if !slices.Contains(c.ValidPrincipals, as) {
			as = c.ValidPrincipals[0]
		}
		if check.CheckCert(as, c) != nil {
			continue
		}
		for _, p := range c.ValidPrincipals {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// SSHKeys gives the keys of a login that are in the list of signers, by name.
func (s Signers) SSHKeys(authInfo []byte) []string {
	var all []string
	if len(authInfo) > maxAuthInfo {
		return nil
	}
	for line := range strings.Lines(string(authInfo)) {
		key, ok := strings.CutPrefix(strings.TrimSpace(line), "publickey ")
		if !ok {
			continue
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil {
			continue
		}
		if c, ok := k.(*ssh.Certificate); ok {
			k = c.Key
		}
		if name, ok := s.keys[string(k.Marshal())]; ok && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// FromTLS adds the names of a client certificate that the caller has verified.
func (s *Subject) FromTLS(c *x509.Certificate) {
	if c.Subject.CommonName != "" {
		s.TLS = append(s.TLS, c.Subject.CommonName)
	}
	s.TLS = append(s.TLS, c.DNSNames...)
	for _, u := range c.URIs {
		s.TLS = append(s.TLS, u.String())
	}
	s.Orgs = append(s.Orgs, c.Subject.Organization...)
}

// UnixGroup is a line of /etc/group (group(5)).
type UnixGroup struct {
	Name    string
	GID     int
	Members []string
}

// ParseGroups reads /etc/group, or a list in its form. Lines of NIS (+ and -) are left out.
//
// Errors: ErrInvalid with the line.
func ParseGroups(text []byte) ([]UnixGroup, error) {
	if len(text) > maxGroups {
		return nil, fmt.Errorf("reading groups: %w: larger than %d bytes", ErrInvalid, maxGroups)
	}
	var all []UnixGroup
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.ContainsAny(line[:1], "#+-") {
			continue
		}
		f := strings.Split(line, ":")
		if len(f) != 4 || f[0] == "" {
			return nil, fmt.Errorf("reading groups: %w: line %d: want NAME:PASSWORD:GID:MEMBERS", ErrInvalid, n)
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("reading groups: %w: line %d: %w", ErrInvalid, n, errors.Unwrap(err))
		}
		g := UnixGroup{Name: f[0], GID: int(gid)}
		for m := range strings.SplitSeq(f[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				g.Members = append(g.Members, m)
			}
		}
		all = append(all, g)
	}
	return all, nil
}

// NameGroups adds the names of the groups whose numbers the kernel gave: getgroups(2) is right also where a directory service that
// is down would have been asked for names.
func (s *Subject) NameGroups(all []UnixGroup) {
	for _, g := range all {
		if slices.Contains(s.GIDs, g.GID) && !slices.Contains(s.Unix, g.Name) {
			s.Unix = append(s.Unix, g.Name)
		}
	}
}

// Missing lists the subjects of a policy that this host does not know: users and groups that are neither in /etc/passwd nor
// /etc/group. That is no error, for another host may know them.
func (p *Policy) Missing(users []string, groups []UnixGroup) []string {
	known := map[string]bool{}
	for _, u := range users {
		known["user:"+u] = true
	}
	for _, g := range groups {
		known["unix:"+g.Name] = true
		known["gid:"+strconv.Itoa(g.GID)] = true
	}
	var all []string
	note := func(s string, w string) {
		kind, _, _ := strings.Cut(s, ":")
		if (kind == "user" || kind == "unix" || kind == "gid") && !known[s] {
			all = append(all, w+": "+s)
			known[s] = true
		}
	}
	for _, r := range p.rules {
		for _, s := range r.Subjects {
			note(s, fmt.Sprintf("%s:%d", r.File, r.Line))
		}
	}
	for name, members := range p.groups {
		for _, m := range members {
			note(m, "group "+name)
		}
	}
	slices.Sort(all)
	return all
}
