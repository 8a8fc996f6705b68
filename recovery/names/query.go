package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// An Answer is what a server said, and why it did as far as that can be told from outside.
type Answer struct {
	Server     netip.AddrPort `json:"server"`
	TCP        bool           `json:"tcp,omitempty"` // the answer over UDP was truncated
	Took       time.Duration  `json:"took"`          // in nanoseconds
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Rcode      string         `json:"rcode"`
	Answer     []string       `json:"answer"` // records as in a zone file
	Authority  []string       `json:"authority,omitempty"`
	Additional []string       `json:"additional,omitempty"`
	Why        []string       `json:"why"` // sentences, the outcome first
}

// Found says whether there is a record of the type asked for.
func (a *Answer) Found() bool { return a.Rcode == "NOERROR" && len(a.Answer) > 0 }

// Ask asks a server for a name and a type, such as AAAA; an IP address as the name stands for its PTR record.
//
// Errors: ErrBadData for what is no name or no type, those of the connection, that of the context.
func Ask(ctx context.Context, name, typ string, server netip.AddrPort) (*Answer, error) {
	a, err := askServer(ctx, name, typ, server)
	if err != nil {
		return nil, fmt.Errorf("asking %v for %s %s: %w", server, name, typ, err)
	}
	return a, nil
}

func askServer(ctx context.Context, name, typ string, server netip.AddrPort) (*Answer, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		if name, err = dns.ReverseAddr(addr.Unmap().WithZone("").String()); err != nil {
			return nil, err
		}
		typ = "PTR"
	}
	t, ok := dns.StringToType[strings.ToUpper(typ)]
	if !ok {
		return nil, fmt.Errorf("%w: %q is not a type", ErrBadData, typ)
	}
	if _, err := wireName(name); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), t)
	m.SetEdns0(udpSize, false)
	a := &Answer{Server: server, Name: dns.Fqdn(name), Type: typeName(t)}
	begin := time.Now()
	c := dns.Client{Timeout: 5 * time.Second}
	r, _, err := c.ExchangeContext(ctx, m, server.String())
	if err == nil && r.Truncated {
		c.Net, a.TCP = "tcp", true
		r, _, err = c.ExchangeContext(ctx, m, server.String())
	}
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, a.Name) || r.Question[0].Qtype != t {
		if r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError {
			return nil, errors.New("the answer is to another question")
		}
	}
	a.Took = time.Since(begin)
	a.Rcode = dns.RcodeToString[r.Rcode]
	a.Answer, a.Authority, a.Additional = lines(r.Answer), lines(r.Ns), lines(r.Extra)
	a.Why = explain(r, a.Name, t)
	return a, nil
}

func lines(records []dns.RR) []string {
	list := []string{}
	for _, rr := range records {
		if rr.Header().Rrtype != dns.TypeOPT {
			list = append(list, rr.String())
		}
	}
	return list
}

// explain says in sentences what an answer means and where it comes from.
func explain(r *dns.Msg, name string, typ uint16) []string {
	var why []string
	last := name
	for _, rr := range r.Answer {
		if c, ok := rr.(*dns.CNAME); ok && typ != dns.TypeCNAME {
			why = append(why, fmt.Sprintf("%s is an alias of %s.", plainName(c.Hdr.Name), plainName(c.Target)))
			last = c.Target
		}
	}
	has := typ == dns.TypeANY && len(r.Answer) > 0
	for _, rr := range r.Answer {
		has = has || rr.Header().Rrtype == typ
	}
	var soa *dns.SOA
	delegated := ""
	for _, rr := range r.Ns {
		switch rr := rr.(type) {
		case *dns.SOA:
			soa = rr
		case *dns.NS:
			delegated = rr.Hdr.Name
		}
	}
	first := ""
	switch {
	case r.Rcode == dns.RcodeNameError && soa != nil:
		first = fmt.Sprintf("The zone %s has no name %s.", plainName(soa.Hdr.Name), plainName(last))
	case r.Rcode == dns.RcodeNameError:
		first = fmt.Sprintf("There is no name %s.", plainName(last))
	case r.Rcode == dns.RcodeRefused:
		first = "The server does not answer this question."
	case r.Rcode == dns.RcodeServerFailure:
		first = "The server has no answer."
	case r.Rcode != dns.RcodeSuccess:
		first = fmt.Sprintf("The server failed with %s.", dns.RcodeToString[r.Rcode])
	case has:
		first = fmt.Sprintf("%s has %s records.", plainName(last), typeName(typ))
	case soa == nil && delegated != "":
		first = fmt.Sprintf("%s is delegated to other servers, which have to be asked.", plainName(delegated))
	case len(r.Answer) > 0 && soa == nil:
		first = fmt.Sprintf("The server says nothing of %s.", plainName(last))
	default:
		first = fmt.Sprintf("%s is there, but has no %s record.", plainName(last), typeName(typ))
	}
	return append(append([]string{first}, why...), origin(r)...)
}

// origin says where an answer comes from.
func origin(r *dns.Msg) []string {
	var why []string
	if o := r.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if e, ok := opt.(*dns.EDNS0_EDE); ok {
				why = append(why, extended(e))
			}
		}
	}
	if len(why) > 0 {
		return why
	}
	switch {
	case r.Authoritative:
		return []string{"It is from the server's own data."}
	case r.RecursionAvailable && (r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError):
		return []string{"The server has it from other servers."}
	}
	return nil
}

// extended is an extended error (RFC 8914) in a sentence.
func extended(e *dns.EDNS0_EDE) string {
	what := map[uint16]string{
		dns.ExtendedErrorCodeStaleAnswer:          "It is the last known good answer",
		dns.ExtendedErrorCodeStaleNXDOMAINAnswer:  "It is the last known good denial",
		dns.ExtendedErrorCodeForgedAnswer:         "It was set by whoever runs the server",
		dns.ExtendedErrorCodeNotAuthoritative:     "The name is not in the server's data, and it asks nobody else for this client",
		dns.ExtendedErrorCodeNoReachableAuthority: "The name is not in the server's data, and upstream was of no help",
	}[e.InfoCode]
	if what == "" {
		what = fmt.Sprintf("Extended error %d, %s", e.InfoCode, dns.ExtendedErrorCodeToString[e.InfoCode])
	}
	if e.ExtraText != "" {
		what += ": " + strings.Map(printable, e.ExtraText)
	}
	return what + "."
}

// printable keeps control characters of a foreign text from the terminal.
func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return -1
	}
	return r
}
