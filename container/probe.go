package container

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// ErrBadProbe is returned for a probe that ParseProbe does not understand.
var ErrBadProbe = errors.New("bad health probe")

// Probe is one question that a healthy service answers, see ParseProbe. The
// zero Probe asks nothing.
type Probe struct {
	text    string
	kind    string         // http, https, tcp, unix or exec
	addr    netip.AddrPort // of http, https and tcp
	url     string         // of http and https, with the address in place of localhost
	host    string         // the Host header, as it was written
	path    string         // of unix
	command string         // of exec
}

const (
	probeTime   = 5 * time.Second // without another deadline
	probeBody   = 200             // bytes of an answer that an error shows
	probeHeader = 64 << 10        // bytes of HTTP header that are read
	maxProbe    = 4 << 10         // bytes of a probe's text
)

// ParseProbe reads one of
//
//	http://IP[:PORT][/PATH]    a 2xx or 3xx status is healthy; redirects are not followed
//	https://IP[:PORT][/PATH]   likewise; the certificate is NOT verified, since the authority may be down too
//	tcp://IP:PORT              a connection is accepted
//	unix:///PATH               likewise
//	exec:COMMAND LINE          the command ends with status 0
//
// IPv6 addresses stand in brackets and localhost means 127.0.0.1. Any other
// name is refused: nothing is ever looked up. Errors wrap ErrBadProbe.
func ParseProbe(s string) (Probe, error) {
	p, err := parseProbe(s)
	if err != nil {
		return Probe{}, fmt.Errorf("%w %q: %w", ErrBadProbe, s[:min(len(s), probeBody)], err)
	}
	return p, nil
}

func parseProbe(s string) (Probe, error) {
	if len(s) > maxProbe || strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || unicode.IsControl(r) }) {
		return Probe{}, fmt.Errorf("want one printable line of at most %d bytes", maxProbe)
	}
	if line, ok := strings.CutPrefix(s, "exec:"); ok {
		if line = strings.TrimSpace(line); line == "" {
			return Probe{}, errors.New("the command is missing: exec:COMMAND LINE")
		}
		return Probe{text: s, kind: "exec", command: line}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return Probe{}, errors.New("it is not a URL")
	}
	p := Probe{text: s, kind: u.Scheme}
	defaultPort := ""
	switch u.Scheme {
	case "unix":
		if u.Host != "" || u.RawQuery != "" || !filepath.IsAbs(u.Path) {
			return Probe{}, errors.New("want an absolute path: unix:///PATH")
		}
		p.path = filepath.Clean(u.Path)
		return p, nil
	case "tcp":
		if u.Path != "" || u.RawQuery != "" {
			return Probe{}, errors.New("a path means nothing to tcp: tcp://IP:PORT")
		}
	case "http":
		defaultPort = "80"
	case "https":
		defaultPort = "443"
	default:
		return Probe{}, errors.New("want http://, https://, tcp://, unix:/// or exec:COMMAND")
	}
	if u.User != nil || u.Fragment != "" {
		return Probe{}, errors.New("credentials and fragments are not taken; use exec: with a client that reads them from a file")
	}
	if p.addr, err = probeAddr(u, defaultPort); err != nil {
		return Probe{}, err
	}
	if p.kind != "tcp" {
		p.host, u.Host = u.Host, p.addr.String()
		p.url = u.String()
	}
	return p, nil
}

func probeAddr(u *url.URL, defaultPort string) (netip.AddrPort, error) {
	host, port := u.Hostname(), u.Port()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("give an IP in place of %q, for names are not looked up", host)
	}
	if port == "" {
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, errors.New("the port is missing or not between 1 and 65535")
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

// String is the text that ParseProbe read.
func (p Probe) String() string { return p.text }

// Port is the TCP port that a probe by address asks.
func (p Probe) Port() (Port, bool) {
	if !p.addr.IsValid() {
		return Port{}, false
	}
	return Port{Proto: "tcp", Addr: p.addr.Addr(), Port: p.addr.Port()}, true
}

// Check asks once, over a connection of its own, and is nil for healthy. The
// error says what was seen. Without a deadline in ctx it takes at most 5 s.
// exec runs the command of an exec: probe where it belongs and gives its status
// and output; it is not called for other probes.
func (p Probe) Check(ctx context.Context, exec func(ctx context.Context, command string) (exit int, output string, err error)) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, probeTime)
		defer cancel()
	}
	var err error
	switch p.kind {
	case "http", "https":
		err = p.get(ctx)
	case "tcp":
		err = connect(ctx, "tcp", p.addr.String())
	case "unix":
		err = connect(ctx, "unix", p.path)
	case "exec":
		err = p.run(ctx, exec)
	default:
		err = ErrBadProbe
	}
	if err != nil {
		return fmt.Errorf("asking %s: %w", p, err)
	}
	return nil
}

func connect(ctx context.Context, network, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (p Probe) get(ctx context.Context) error {
	var d net.Dialer
	tr := &http.Transport{
		DialContext:            d.DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: probeHeader,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, // as documented
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return err
	}
	req.Host = p.host
	req.Header.Set("User-Agent", "blackstart")
	res, err := tr.RoundTrip(req) // a transport alone follows no redirect
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 400 {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, probeBody))
	if err != nil && len(body) == 0 {
		return fmt.Errorf("status %d, and reading the answer: %w", res.StatusCode, err)
	}
	return fmt.Errorf("status %d: %s", res.StatusCode, oneLine(body))
}

func (p Probe) run(ctx context.Context, exec func(context.Context, string) (int, string, error)) error {
	if exec == nil {
		return errors.New("no container to run the command in")
	}
	exit, output, err := exec(ctx, p.command)
	if err != nil {
		return err
	}
	if exit != 0 {
		return fmt.Errorf("exit status %d: %s", exit, oneLine([]byte(output[:min(len(output), probeBody)])))
	}
	return nil
}

// oneLine makes an answer fit to be shown: printable, without line ends.
func oneLine(b []byte) string {
	b = bytes.ToValidUTF8(bytes.TrimSpace(b), []byte("?"))
	if len(b) == 0 {
		return "(no text)"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, string(b))
}
