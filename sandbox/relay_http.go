package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// origin is the http capabilities that lead to one server. Each request passes
// under the one that permits it.
type origin struct {
	relay      *Relay
	gates      []*gate
	transports map[*gate]*http.Transport
	refused    atomic.Bool // a client did not take our certificate
	unseen     atomic.Bool // something passed by its server name alone
}

const (
	lingerBytes = 256 << 10
	lingerTime  = time.Second
)

func (o *origin) first() *Capability { return &o.gates[0].Capability }

// open is the first capability that is not dark.
func (o *origin) open() *gate {
	for _, g := range o.gates {
		if !g.dark() {
			return g
		}
	}
	return nil
}

// join adds a capability, with its own way upstream.
func (o *origin) join(g *gate) {
	o.gates = append(o.gates, g)
	t := &http.Transport{
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return o.relay.dial(ctx, g, "tcp", netip.AddrPortFrom(netip.Addr{}, g.httpPort()))
		},
		Protocols: new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if g.TLS {
		t.TLSClientConfig = o.relay.upstreamTLS(&g.Capability)
		t.TLSHandshakeTimeout = dialLimit
	}
	o.transports[g] = t
}

// serve carries a connection whose requests are looked at.
func (o *origin) serve(ctx context.Context, f *flow, to netip.AddrPort) {
	e := &end{Conn: f.client, f: f, free: len(o.gates) > 1}
	if o.first().TLS {
		o.serveTLS(ctx, f, e, to)
		return
	}
	f.add(Allowed, 1, "", "")
	o.requests(ctx, f, e)
	f.total("", "")
}

// client is the program's side of the pathway.
type client struct {
	f  *flow
	c  net.Conn // an *end, or TLS over it
	br *bufio.Reader
}

// requests answers one request after the other.
func (o *origin) requests(ctx context.Context, f *flow, c net.Conn) {
	p := &client{f, c, bufio.NewReaderSize(c, maxLine)}
	for {
		r, err := readRequest(p.br)
		if err != nil {
			if errors.Is(err, errBadRequest) {
				a := Attempt{Destination: "? " + o.first().origin(), Capability: f.about.Capability}
				o.deny(p, a, http.StatusBadRequest, err)
			} else if !errors.Is(err, io.EOF) {
				f.abort()
			}
			return
		}
		if !o.request(ctx, p, r) {
			return
		}
	}
}

// request judges and forwards one request. It says whether another may follow.
func (o *origin) request(ctx context.Context, p *client, r *request) bool {
	a := Attempt{Destination: r.method + " " + o.first().origin() + r.path, Capability: p.f.about.Capability}
	g, raw, err := o.judge(r)
	if g != nil {
		a.Capability = g.Label()
	}
	if err != nil {
		status := http.StatusForbidden
		if errors.Is(err, errBadRequest) {
			status = http.StatusBadRequest
		}
		o.deny(p, a, status, err)
		return false
	}
	p.f.gate.Store(g)
	if mode, _ := g.state(); mode != ModeAllow {
		o.report(p.f, a, Blocked, map[Mode]Outcome{ModeRefuse: Refused}[mode], "")
		if g.wait(p.f.done) != nil {
			p.f.abort()
			return false
		}
	}
	return o.forward(ctx, p, r, g, raw, a)
}

// judge finds the capability that permits a request and the path to send on,
// else says why not.
func (o *origin) judge(r *request) (g *gate, raw string, err error) {
	c := o.first()
	if r.method == http.MethodConnect {
		return nil, "", errors.New("CONNECT opens a tunnel that no rule can look into")
	}
	if u := r.header["Upgrade"]; len(u) > 0 {
		return nil, "", fmt.Errorf("an upgrade to %q leaves HTTP/1.1, which the rules look at", strings.Join(u, ", "))
	}
	if !c.isHost(r.host) {
		return nil, "", fmt.Errorf("host %q is not %s", r.host, c.origin())
	}
	if scheme, host, ok := strings.Cut(r.origin, "://"); ok && (!strings.HasPrefix(c.origin(), scheme+"://") || !c.isHost(host)) {
		return nil, "", fmt.Errorf("target %q is not %s", r.origin, c.origin())
	}
	s := seen{path: r.path, literal: r.path, raw: r.path}
	methods, paths := false, false
	for _, g := range o.gates {
		methods, paths = methods || len(g.Methods) > 0, paths || len(g.Paths) > 0
	}
	if paths {
		if s, err = normalise(r.path); err != nil {
			return nil, "", err
		}
	}
	for k := range r.header {
		if (methods && (k == "X-Http-Method-Override" || k == "X-Http-Method" || k == "X-Method-Override")) ||
			(paths && (k == "X-Original-Url" || k == "X-Rewrite-Url")) {
			return nil, "", fmt.Errorf("header %s asks the server for another request than the one seen", k)
		}
	}
	var why []error
	for _, next := range o.gates {
		err := next.permits(r.method, s.path)
		if err == nil {
			err = next.permits(r.method, s.literal)
		}
		if err != nil {
			why = append(why, fmt.Errorf("%s: %w", next.Label(), err))
		} else if g == nil || g.dark() {
			g = next
		}
	}
	if g == nil {
		return nil, "", errors.Join(why...)
	}
	return g, s.raw, nil
}

// isHost says whether a Host header or authority names the capability's origin.
func (c *Capability) isHost(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = s
		port = map[bool]string{false: "80", true: "443"}[c.TLS]
		if in, ok := strings.CutPrefix(s, "["); ok {
			host, ok = strings.CutSuffix(in, "]")
			if !ok {
				return false
			}
		}
	}
	if port != strconv.Itoa(int(c.httpPort())) {
		return false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String() == c.Host
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), c.Host)
}

func (o *origin) report(f *flow, a Attempt, v Verdict, outcome Outcome, detail string) {
	a.Proto, a.Verdict, a.Outcome, a.Detail, a.Count, a.Name = "http", v, outcome, detail, 1, f.about.Name
	if a.Outcome == "" && v == Blocked {
		a.Outcome = Wedged
	}
	o.relay.add(a.Via(f.about.Proto, f.about.Destination))
}

// deny answers with the reason, and ends the connection.
func (o *origin) deny(p *client, a Attempt, status int, why error) {
	label := a.Capability
	if label == "" {
		label = o.first().Label()
	}
	// Every line of the reason is one capability's.
	reason := strings.ReplaceAll(why.Error(), "\n", "; ")
	if status == http.StatusForbidden && len(o.gates) == 1 {
		reason = strings.TrimPrefix(reason, label+": ")
	}
	o.report(p.f, a, Blocked, Denied, reason)
	if g := o.open(); g != nil {
		p.f.gate.Store(g)
	}
	p.say(status, fmt.Sprintf("blackstart: %s does not let this pass: %s\n", label, reason))
	p.linger()
}

// say writes a short answer of our own, the last on its connection.
func (p *client) say(status int, text string) {
	_, _ = fmt.Fprintf(p.c, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(text), text)
}

// linger lets the client read the answer before a reset destroys it: closing
// with bytes unread would send one (RFC 9112, 9.6).
func (p *client) linger() {
	_ = closeWrite(p.c)
	t := time.AfterFunc(lingerTime, p.f.abort)
	defer t.Stop()
	_, _ = io.CopyN(io.Discard, p.f.client, lingerBytes) // past p.c, which a body may still be read from
}

// forward sends a request on and its response back. It says whether another
// request may follow.
func (o *origin) forward(ctx context.Context, p *client, r *request, g *gate, raw string, a Attempt) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := (&http.Request{
		Method: r.method, Header: r.header, Host: strings.TrimPrefix(strings.TrimPrefix(g.origin(), "https://"), "http://"),
		URL:           &url.URL{Scheme: map[bool]string{false: "http", true: "https"}[g.TLS], Host: net.JoinHostPort(g.Host, strconv.Itoa(int(g.httpPort()))), RawQuery: r.query},
		ContentLength: r.length, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	out.URL.Path, _ = url.PathUnescape(raw)
	out.URL.RawPath = raw
	if out.URL.Path == "" || out.URL.EscapedPath() != raw {
		out.URL.Opaque = "//" + out.URL.Host + raw // as it came, whatever net/url thinks of it
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // and not Go's
	}
	if !r.body.whole() {
		out.Body = r.body
		if r.expects {
			r.body.before = func() error {
				_, err := io.WriteString(p.c, "HTTP/1.1 100 Continue\r\n\r\n")
				return err
			}
		}
	}
	var gone chan struct{}
	if r.length == 0 {
		gone = p.watch(cancel)
	}
	resp, err := o.transports[g].RoundTrip(out)
	if err != nil {
		if p.f.isDone() {
			return false
		}
		o.report(p.f, a, Allowed, Broken, err.Error())
		p.say(http.StatusBadGateway, fmt.Sprintf("blackstart: %s could not be reached: %v\n", g.Label(), err))
		if !errors.Is(r.body.failed(), errBadRequest) && gone == nil {
			p.linger()
		}
		return false
	}
	defer resp.Body.Close()
	o.report(p.f, a, Allowed, Answered, "")
	again, err := p.respond(r, resp)
	if err != nil {
		p.f.abort() // what was sent is not the whole
		return false
	}
	if !again || !r.body.whole() {
		if gone == nil {
			p.linger()
		}
		return false
	}
	if gone != nil {
		select {
		case <-gone:
		case <-p.f.done:
			return false
		}
	}
	return true
}

// watch cancels a request whose client has gone. What it returns is closed when
// the next request is there, or the end.
func (p *client) watch(cancel func()) chan struct{} {
	gone := make(chan struct{})
	p.f.background.Go(func() {
		defer close(gone)
		if _, err := p.br.Peek(1); errors.Is(err, io.EOF) {
			time.AfterFunc(holdLimit, cancel) // perhaps it only has no more to say
		} else if err != nil {
			cancel()
		}
	})
	return gone
}

// closeIdle gives up connections that are kept for the next request.
func (r *Relay) closeIdle() {
	for _, o := range r.https {
		for _, t := range o.transports {
			t.CloseIdleConnections()
		}
	}
}
