package recovery

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/blackstart-project/blackstart/runbooks"
)

// lookAt looks once at what needs no shell and no container. nil: it is true.
// Nothing is looked up, and no redirect followed.
func lookAt(ctx context.Context, p *runbooks.Probe) error {
	switch p.Kind() {
	case runbooks.TCPProbe:
		return connects(ctx, "tcp", p.TCP)
	case runbooks.UnixProbe:
		return connects(ctx, "unix", p.Unix)
	case runbooks.HTTPProbe:
		return answersHTTP(ctx, p)
	case runbooks.DNSProbe:
		return answersDNS(ctx, p)
	case runbooks.FileProbe:
		f, err := os.Open(p.File)
		if err != nil {
			return err
		}
		defer f.Close()
		if p.Contains == "" {
			return nil
		}
		var out limitedBuffer
		if _, err := io.Copy(&out, f); err != nil {
			return err
		}
		return out.contains(nil, p.Contains)
	case runbooks.ExecProbe, runbooks.LogProbe:
	}
	return fmt.Errorf("%w: probe %s", ErrNotHere, p.Kind())
}

func connects(ctx context.Context, network, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return c.Close()
}

// answersHTTP asks a URL. A certificate is not verified: in an outage its authority
// may be what is down, and the answer is no secret.
func answersHTTP(ctx context.Context, p *runbooks.Probe) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP, nil)
	if err != nil {
		return err
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	c := http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, keepOutput))
	switch {
	case p.Status > 0 && res.StatusCode != p.Status, p.Status == 0 && res.StatusCode/100 != 2:
		return fmt.Errorf("it answers %d", res.StatusCode)
	case err != nil:
		return err
	}
	return (&limitedBuffer{body}).contains(nil, p.Contains)
}

// answersDNS asks NAME [TYPE] @IP[:PORT] (RFC 1035).
func answersDNS(ctx context.Context, p *runbooks.Probe) error {
	question, server, _ := strings.Cut(p.DNS, "@")
	words := strings.Fields(question)
	if len(words) == 0 {
		return fmt.Errorf("%w: probe dns %q", ErrUsage, p.DNS)
	}
	kind := dnsmessage.TypeA
	if len(words) > 1 {
		var ok bool
		if kind, ok = dnsTypes()[strings.ToUpper(words[1])]; !ok {
			return fmt.Errorf("%w: probe dns of type %q", ErrUsage, words[1])
		}
	}
	server = strings.TrimSpace(server)
	if a, err := netip.ParseAddr(strings.Trim(server, "[]")); err == nil {
		server = netip.AddrPortFrom(a, 53).String()
	}
	name, err := dnsmessage.NewName(strings.TrimSuffix(words[0], ".") + ".")
	if err != nil {
		return err
	}
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: dnsmessage.ClassINET}},
	}
	packet, err := m.Pack()
	if err != nil {
		return err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := c.Write(packet); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		var a dnsmessage.Message
		if a.Unpack(buf[:n]) != nil || a.ID != m.ID || !a.Response {
			continue // not the answer
		}
		if a.RCode != dnsmessage.RCodeSuccess || len(a.Answers) == 0 {
			return fmt.Errorf("it answers %s, with %d records", a.RCode, len(a.Answers))
		}
		var all strings.Builder
		for _, r := range a.Answers {
			fmt.Fprintf(&all, "%s\n", rdata(r.Body))
		}
		return (&limitedBuffer{[]byte(all.String())}).contains(nil, p.Contains)
	}
}

func dnsTypes() map[string]dnsmessage.Type {
	return map[string]dnsmessage.Type{
		"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME, "MX": dnsmessage.TypeMX,
		"NS": dnsmessage.TypeNS, "PTR": dnsmessage.TypePTR, "SOA": dnsmessage.TypeSOA, "SRV": dnsmessage.TypeSRV, "TXT": dnsmessage.TypeTXT,
	}
}

// rdata is a record's content, as people write it.
func rdata(b dnsmessage.ResourceBody) string {
	switch r := b.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(r.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(r.AAAA).String()
	case *dnsmessage.TXTResource:
		return strings.Join(r.TXT, "")
	}
	return b.GoString()
}
