package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// parseHTTP reads URL[;METHODS][;PATH]…. A path in the URL counts as the first
// of the paths, unless it is / alone.
func (c *Capability) parseHTTP(s string) error {
	parts := strings.Split(s, ";")
	u, err := url.Parse(parts[0])
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q is not an http:// or https:// URL", parts[0])
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.ContainsAny(parts[0], "?#") {
		return errors.New("a URL here has no user, query or fragment")
	}
	c.TLS = u.Scheme == "https"
	if c.Host, err = parseHost(u.Hostname()); err != nil {
		return err
	}
	port := uint16(80)
	if c.TLS {
		port = 443
	}
	if p := u.Port(); p != "" {
		if port, err = parsePort(p); err != nil {
			return fmt.Errorf("%q is not a port", p)
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return errors.New("a colon without a port")
	}
	c.Ports = []PortRange{{port, port}}
	rest := parts[1:]
	if p := u.EscapedPath(); p != "" && p != "/" {
		rest = append([]string{p}, rest...)
	}
	for _, part := range rest {
		if strings.HasPrefix(part, "/") {
			p, err := parsePattern(part)
			if err != nil {
				return err
			}
			c.Paths = append(c.Paths, p)
			continue
		}
		if c.Methods != nil {
			return fmt.Errorf("%q: the methods stand once, a path starts with /", part)
		}
		for m := range strings.SplitSeq(part, ",") {
			if m == "" || strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" || len(m) > 32 {
				return fmt.Errorf("%q is neither a method (GET) nor a path (/v2/*)", m)
			}
			if m == "CONNECT" {
				return errors.New("CONNECT opens a tunnel that no rule can look into; allow its destination as tcp")
			}
			c.Methods = append(c.Methods, m)
		}
	}
	return nil
}

// parseHost reads a host name or an address without brackets.
func parseHost(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return parseName(s)
	}
	if a.Zone() != "" || a.Is4In6() {
		return "", fmt.Errorf("%q is not a plain IP address", s)
	}
	return a.String(), nil
}

// parsePattern reads an exact path, or a prefix that ends in /*.
func parsePattern(s string) (string, error) {
	base, star := strings.CutSuffix(s, "*")
	if star && !strings.HasSuffix(base, "/") {
		return "", fmt.Errorf("%q: a prefix ends at a slash, /v2/*", s)
	}
	p, err := unescapePath(base)
	if err != nil {
		return "", err
	}
	if strings.Contains(p, "*") {
		return "", fmt.Errorf("%q: * stands at the end only", s)
	}
	if clean := path.Clean(p); p != clean && p != clean+"/" {
		return "", fmt.Errorf("%q is not a clean path; write %s", s, clean)
	}
	if star {
		p += "*"
	}
	return p, nil
}

// origin is scheme, host and port, the port only where it is not the usual one.
func (c Capability) origin() string {
	scheme, usual := "http", uint16(80)
	if c.TLS {
		scheme, usual = "https", 443
	}
	host := c.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p := c.httpPort(); p != usual {
		host = net.JoinHostPort(c.Host, strconv.Itoa(int(p)))
	}
	return scheme + "://" + host
}

func (c Capability) httpPort() uint16 {
	if len(c.Ports) == 0 {
		return 0
	}
	return c.Ports[0].First
}

// permits says whether a request may pass, and the rule that says no. The path
// is the normalised one.
func (c Capability) permits(method, p string) error {
	if len(c.Methods) > 0 && !slices.Contains(c.Methods, method) {
		return fmt.Errorf("method %s is not among %s", method, strings.Join(c.Methods, ","))
	}
	if len(c.Paths) == 0 {
		return nil
	}
	for _, pattern := range c.Paths {
		if prefix, star := strings.CutSuffix(pattern, "*"); p == pattern || (star && strings.HasPrefix(p, prefix)) {
			return nil
		}
	}
	return fmt.Errorf("path %s is not under %s", escapePath(p), strings.Join(c.Paths, " "))
}

// parsePath reads the path of a socket or file.
func parsePath(s string) (string, error) {
	p, err := unescapePath(s)
	if err != nil {
		return "", err
	}
	if !path.IsAbs(p) || p != path.Clean(p) || p == "/" {
		return "", fmt.Errorf("%q is not an absolute, clean path below /", s)
	}
	return p, nil
}

func unescapePath(s string) (string, error) {
	p, err := url.PathUnescape(s)
	if err != nil || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%q: %% is written %%25, and no path holds a zero byte", s)
	}
	return p, nil
}

// escapePath writes what unescapePath reads, without a comma or semicolon.
func escapePath(p string) string {
	var b strings.Builder
	for i := range len(p) {
		if ch := p[i]; ch <= ' ' || ch >= 0x7f || strings.IndexByte(",;%?#\"", ch) >= 0 || (ch == '*' && i < len(p)-1) {
			fmt.Fprintf(&b, "%%%02X", ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}
