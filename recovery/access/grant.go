package access

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// requestFormat is the first line of a request, so that a signature of something else never fits.
const requestFormat = "blackstart-access-request/1"

// skew is how far ahead of this host's clock a request may have been made.
const skew = 24 * time.Hour

// maxRequest bounds a request, in bytes.
const maxRequest = 64 << 10

// Request asks for something that needs approval. Its text is what the approvers read and sign.
type Request struct {
	Format   string        `json:"format"`
	ID       string        `json:"id"` // 16 hexadecimal digits
	Who      Subject       `json:"who"`
	Host     string        `json:"host"`
	Verbs    []string      `json:"verbs"`
	Services []string      `json:"services"`
	Reason   string        `json:"reason"`
	At       time.Time     `json:"at"`
	For      time.Duration `json:"for"` // in nanoseconds; a rule may grant less
}

// NewRequest makes a request. It is over LongestGrant after now at the latest.
//
// Errors: ErrInvalid, also where there is no reason.
func NewRequest(now time.Time, who Subject, host string, verbs, services []string, reason string, lasts time.Duration) (Request, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return Request{}, err
	}
	r := Request{
		Format: requestFormat, ID: hex.EncodeToString(id), Who: who, Host: host, Verbs: verbs, Services: services,
		Reason: reason, At: now.UTC().Truncate(time.Second), For: lasts,
	}
	if err := r.check(); err != nil {
		return r, fmt.Errorf("making a request: %w", err)
	}
	return r, nil
}

func (r Request) check() error {
	switch {
	case r.Format != requestFormat:
		return fmt.Errorf("%w: not of the format %s", ErrInvalid, requestFormat)
	case len(r.ID) != 16 || strings.Trim(r.ID, "0123456789abcdef") != "":
		return fmt.Errorf("%w: no ID of 16 hexadecimal digits", ErrInvalid)
	case len(strings.TrimSpace(r.Reason)) < 5 || len(r.Reason) > 4096:
		return fmt.Errorf("%w: say why, in 5 to 4096 bytes: those who approve have to know", ErrInvalid)
	case len(r.Verbs) == 0 || len(r.Services) == 0 || len(r.Verbs) > maxWords || len(r.Services) > maxWords:
		return fmt.Errorf("%w: name what is to be done, and to which services", ErrInvalid)
	case r.For < time.Minute || r.For > LongestGrant:
		return fmt.Errorf("%w: it lasts %s; want a minute to %s", ErrInvalid, r.For, LongestGrant)
	case r.At.IsZero():
		return fmt.Errorf("%w: it has no time", ErrInvalid)
	}
	for _, v := range r.Verbs {
		if !word(v) {
			return fmt.Errorf("%w: %.80q is no verb; a request names each", ErrInvalid, v)
		}
	}
	for _, s := range r.Services {
		if strings.HasSuffix(s, "*") || !objectPattern(s) {
			return fmt.Errorf("%w: %.80q is no service; a request names each", ErrInvalid, s)
		}
	}
	return nil
}

// Text is the document to be signed:
//
//	ssh-keygen -Y sign -n blackstart-access -f KEY request.json
func (r Request) Text() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing a request: %w", err)
	}
	return append(b, '\n'), nil
}

// Grant is a request and what its approvers signed.
type Grant struct {
	Request    Request
	text       []byte
	signatures [][]byte
}

// ParseGrant reads a request and the signatures of its exact bytes. Whether they are enough depends on the rule; Policy.Approvals and
// Policy.Decide say so.
//
// Errors: ErrInvalid.
func ParseGrant(text []byte, signatures [][]byte) (Grant, error) {
	g := Grant{text: text, signatures: signatures}
	if len(text) > maxRequest || len(signatures) > 100 {
		return g, fmt.Errorf("reading a request: %w: larger than %d bytes, or more than 100 signatures", ErrInvalid, maxRequest)
	}
	in := json.NewDecoder(bytes.NewReader(text))
	// A field that this does not know would be signed and not heeded.
	in.DisallowUnknownFields()
	if err := in.Decode(&g.Request); err != nil {
		return g, fmt.Errorf("reading a request: %w: %w", ErrInvalid, err)
	}
	if err := g.Request.check(); err != nil {
		return g, fmt.Errorf("reading a request: %w", err)
	}
	// Of two fields with one name the approver may have read the other one.
	if again, err := g.Request.Text(); err != nil || !bytes.Equal(again, text) {
		return g, fmt.Errorf("reading a request: %w: it is not written as access request writes it", ErrInvalid)
	}
	return g, nil
}

// covers says whether a request is this one's, for this.
func (g Grant) covers(s Subject, verb, service string) bool {
	w := g.Request.Who
	same := w.UID == s.UID && w.User == s.User && w.Key == s.Key && slices.Equal(w.TLS, s.TLS)
	return same && slices.Contains(g.Request.Verbs, verb) && slices.Contains(g.Request.Services, service)
}

// Approval is a signature that was looked at.
type Approval struct {
	Name   string `json:"name,omitempty"` // of the signer
	Counts bool   `json:"counts"`
	Why    string `json:"why,omitempty"` // where it does not count
}

// Approvals looks at the signatures of a request, for a rule's needs.
func (p *Policy) Approvals(g Grant, n Needs) []Approval {
	may := p.approvers(n.Of)
	seen := map[string]bool{}
	all := []Approval{}
	for _, sig := range g.signatures {
		name, err := p.signers.Verify(g.text, sig)
		a := Approval{Name: name}
		switch {
		case err != nil:
			a.Why = err.Error()
		case !may[name]:
			a.Why = "not one of " + n.Of
		case name == g.Request.Who.Key, g.Request.Who.User != "" && (name == g.Request.Who.User || strings.HasPrefix(name, g.Request.Who.User+"@")):
			a.Why = "nobody approves what they ask for themselves"
		case seen[name]:
			a.Why = "counted already"
		default:
			a.Counts, seen[name] = true, true
		}
		all = append(all, a)
	}
	return all
}

// approved says why a grant does not satisfy a rule's needs now; nil where it does.
func (p *Policy) approved(now time.Time, g Grant, n Needs) error {
	r := g.Request
	if end := g.end(n); !now.Before(end) {
		return fmt.Errorf("%w: the request %s ended %s", ErrApproval, r.ID, end.UTC().Format(time.RFC3339))
	}
	if r.At.After(now.Add(skew)) {
		return fmt.Errorf("%w: the request %s is of %s, more than %s ahead of this host's clock", ErrApproval, r.ID, r.At.Format(time.RFC3339), skew)
	}
	have := 0
	for _, a := range p.Approvals(g, n) {
		if a.Counts {
			have++
		}
	}
	if have < n.Count {
		return fmt.Errorf("%w: %d of %d approvals of %s", ErrApproval, have, n.Count, n.Of)
	}
	return nil
}

func (g Grant) end(n Needs) time.Time { return g.Request.At.Add(min(g.Request.For, n.For)) }

// Approved says whether a grant is enough for every verb and service it names, and until when.
//
// Errors: ErrApproval with what is missing.
func (p *Policy) Approved(now time.Time, g Grant) (until time.Time, err error) {
	r := g.Request
	for _, v := range r.Verbs {
		for _, s := range r.Services {
			var n *Needs
			var why error
			ok := false
			for _, m := range p.matches(r.Who, v, s) {
				rule := &p.rules[m.rule]
				if rule.Deny {
					return until, fmt.Errorf("%w: %s:%d denies it, which no approval changes: %s", ErrApproval, rule.File, rule.Line, rule.Text)
				}
				if n = rule.Needs; n == nil {
					ok = true
					continue
				}
				if err := p.approved(now, g, *n); err != nil {
					why = err
				} else {
					ok = true
					if end := g.end(*n); until.IsZero() || end.Before(until) {
						until = end
					}
				}
			}
			if !ok {
				if why == nil {
					why = fmt.Errorf("%w: no line would allow %s on %s even with approvals", ErrApproval, v, s)
				}
				return until, why
			}
		}
	}
	return until, nil
}

// Banner is what everybody on the host is to see while a grant is open; "" where it is over.
func (p *Policy) Banner(now time.Time, g Grant) string {
	until, err := p.Approved(now, g)
	if err != nil || until.IsZero() {
		return ""
	}
	names := map[string]bool{}
	for _, sig := range g.signatures {
		if name, err := p.signers.Verify(g.text, sig); err == nil {
			names[name] = true
		}
	}
	list := make([]string, 0, len(names))
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	r := g.Request
	who := r.Who.User
	if who == "" {
		who = fmt.Sprintf("uid %d", r.Who.UID)
	}
	return fmt.Sprintf("BREAK-GLASS %s: %s may %s on %s until %s (%s left), signed by %s: %q", r.ID, printable(who), strings.Join(r.Verbs, ", "), strings.Join(r.Services, ", "),
		until.UTC().Format(time.RFC3339), until.Sub(now).Round(time.Second), strings.Join(list, ", "), r.Reason)
}

// printable keeps what a terminal would obey out of what it shows.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
