package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Denial is what a [Resolver] does with a name that no capability has.
type Denial string

// The denials.
const (
	DenySilence Denial = "silence" // no answer
	DenyUnknown Denial = "nxdomain"
	DenyRefused Denial = "refused"
)

const (
	resolverTTL   = 60   // seconds; the addresses hold as long as the vacuum
	maxQuestion   = 4096 // bytes of a query, far more than one question needs
	maxDNSStreams = 256
	dnsIdle       = 30 * time.Second
)

// ResolverOptions say what a [Resolver] answers.
type ResolverOptions struct {
	Capabilities []Capability // the names of its dns and http ones are answered
	Names        *Names       // shared with the [Relay]
	Denied       Denial       // empty means DenySilence
	Record       *Record      // nil: nothing is recorded
	Host         int          // the vacuum's host, for the record
	// Address is the resolver's as programs use it, like 127.0.0.53:53: the record
	// finds by it whose question it was.
	Address string
}

// Resolver is a vacuum's DNS server (RFC 1035). It answers from what it has and
// asks nobody, so no question gets out in any form: an allowed name has one
// synthetic address of each family and no other record; of another name even the
// existence is not known.
type Resolver struct {
	o     ResolverOptions
	names map[string]string // to the capability's label
}

// NewResolver makes a resolver. It may serve several sockets at once.
func NewResolver(o ResolverOptions) *Resolver {
	r := &Resolver{o: o, names: map[string]string{}}
	for _, c := range o.Capabilities {
		if (c.Kind == KindDNS || c.Kind == KindHTTP) && !c.hostIsAddress() && r.names[c.Host] == "" {
			r.names[c.Host] = c.Label()
		}
	}
	return r
}

// ServeUDP answers what arrives at conn until ctx ends, and closes conn. The
// error is the socket's, nil after ctx.
func (r *Resolver) ServeUDP(ctx context.Context, conn net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("reading DNS questions: %w", err)
		}
		if answer := r.answer("udp", buf[:n]); answer != nil {
			_, _ = conn.WriteTo(answer, from) // who has gone misses nothing
		}
	}
}

// ServeTCP is ServeUDP for connections, with messages as RFC 7766 frames them.
func (r *Resolver) ServeTCP(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()
	slots := make(chan struct{}, maxDNSStreams)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if isOutOfFiles(err) {
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			reset(c)
			continue
		}
		streams.Go(func() {
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer c.Close()
			r.stream(c)
		})
	}
}

func (r *Resolver) stream(c net.Conn) {
	buf := make([]byte, 2+maxQuestion)
	for {
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(buf))
		if n > maxQuestion {
			return
		}
		if _, err := io.ReadFull(c, buf[:n]); err != nil {
			return
		}
		answer := r.answer("tcp", buf[:n])
		if answer == nil {
			continue // its asker waits, as it would for a server that is gone
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

var errNotQuestion = errors.New("not one question")

// parseQuestion reads a query with one question, whatever follows it.
func parseQuestion(b []byte) (h dnsmessage.Header, q dnsmessage.Question, edns bool, err error) {
	var p dnsmessage.Parser
	if h, err = p.Start(b); err != nil {
		return h, q, false, err
	}
	if h.Response {
		return h, q, false, errNotQuestion
	}
	if q, err = p.Question(); err != nil {
		return h, q, false, err
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return h, q, false, errNotQuestion
	}
	if p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		for {
			a, err := p.AdditionalHeader()
			if err != nil {
				break
			}
			edns = edns || a.Type == dnsmessage.TypeOPT
			if p.SkipAdditional() != nil {
				break
			}
		}
	}
	return h, q, edns, nil
}

// answer is the reply to a message, nil for silence.
func (r *Resolver) answer(via string, b []byte) []byte {
	h, q, edns, err := parseQuestion(b)
	if err != nil || h.OpCode != 0 {
		if len(b) < 12 || h.Response {
			return nil
		}
		code := dnsmessage.RCodeFormatError
		if err == nil {
			code = dnsmessage.RCodeNotImplemented
		}
		return reply(h, code, nil, false, nil)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if name == "" {
		name = "."
	}
	a := Attempt{
		Proto: "dns", Destination: name + " " + typeName(q.Type), Host: r.o.Host, First: time.Now(), Count: 1,
		Sources: []Source{FromDNS},
	}
	a.Capability = r.names[name]
	code, silent := dnsmessage.RCodeSuccess, false
	var answers []dnsmessage.ResourceBody
	switch {
	case a.Capability != "" && q.Class == dnsmessage.ClassINET:
		a.Verdict, a.Outcome = Allowed, Answered
		v4, v6, err := r.o.Names.Addresses(name)
		switch {
		case err != nil:
			a.Outcome, a.Detail, code = Broken, err.Error(), dnsmessage.RCodeServerFailure
		case q.Type == dnsmessage.TypeA:
			answers = append(answers, &dnsmessage.AResource{A: v4.As4()})
		case q.Type == dnsmessage.TypeAAAA:
			answers = append(answers, &dnsmessage.AAAAResource{AAAA: v6.As16()})
		}
	case r.o.Denied == DenyUnknown:
		a.Verdict, a.Outcome, code = Blocked, NotFound, dnsmessage.RCodeNameError
	case r.o.Denied == DenyRefused:
		a.Verdict, a.Outcome, code = Blocked, Denied, dnsmessage.RCodeRefused
	default:
		a.Verdict, a.Outcome, silent = Blocked, Silent, true
	}
	if r.o.Record != nil {
		r.o.Record.Add(a.Via(via, r.o.Address))
	}
	if silent {
		return nil
	}
	return reply(h, code, &q, edns, answers)
}

// reply packs an answer. The question goes back in the letters it was asked in,
// for clients that check that.
func reply(h dnsmessage.Header, code dnsmessage.RCode, q *dnsmessage.Question, edns bool, answers []dnsmessage.ResourceBody) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
		CheckingDisabled: h.CheckingDisabled, RCode: code,
	}}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
		for _, a := range answers {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: resolverTTL},
				Body:   a,
			})
		}
	}
	if edns {
		var o dnsmessage.ResourceHeader
		if err := o.SetEDNS0(maxQuestion, code, false); err == nil {
			m.Additionals = []dnsmessage.Resource{{Header: o, Body: &dnsmessage.OPTResource{}}}
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

func typeName(t dnsmessage.Type) string {
	if s, ok := strings.CutPrefix(t.String(), "Type"); ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}
