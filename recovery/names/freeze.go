package names

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// frozenTypes are what is asked for of each name.
var frozenTypes = [...]uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeCAA, dns.TypeHTTPS, dns.TypeSVCB,
	dns.TypeNAPTR, dns.TypeSSHFP, dns.TypeTLSA, dns.TypePTR, dns.TypeNS,
}

const (
	// A resolver's TTL may be about to run out, which says nothing of how long the records will do.
	leastFrozenTTL = 30
	mostFrozenTTL  = 3600
	// maxFrozenNames bounds the names of one freeze, those that aliases lead to included.
	maxFrozenNames = 100_000
	freezeParallel = 16
)

// Freezing is how names are frozen.
type Freezing struct {
	// Resolvers are asked, all of them for everything.
	Resolvers []netip.AddrPort
	// Timeout is for one question; 2 s where it is 0. What is not answered is asked once more.
	Timeout time.Duration
}

// Frozen is what the resolvers said.
type Frozen struct {
	Observed      time.Time
	Names         []FrozenName // by name
	Absent        []string     // names that no resolver knows a record of
	Disagreements []Disagreement
	Failures      []Failure
}

// FrozenName is a name with its records.
type FrozenName struct {
	Name    string
	Records []dns.RR
	From    []netip.AddrPort // the resolvers that gave some of the records
}

// Disagreement is a question that resolvers answered differently. The answer of the most is kept, and of two that as
// many gave, that of the resolver named first.
type Disagreement struct {
	Name, Type string
	Answers    []GivenAnswer
	Kept       []string
}

// GivenAnswer is what one resolver said: the records' data, sorted.
type GivenAnswer struct {
	Resolver netip.AddrPort
	Data     []string
}

// Failure is a question that a resolver did not answer.
type Failure struct {
	Name, Type string
	Resolver   netip.AddrPort
	Err        error
}

// Freeze asks resolvers for all that is known of names, of the names their CNAME, MX and SRV records lead to, and so
// on. now is what the records are marked with. It is done with failures in the result; an error is for what cannot be
// asked at all.
//
// Errors: ErrBadData for what is no name, ErrTooLarge, those of the context.
func Freeze(ctx context.Context, list []string, o Freezing, now time.Time) (*Frozen, error) {
	if len(o.Resolvers) == 0 {
		return nil, errors.New("freezing names: no resolver")
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Second
	}
	f := &Frozen{Observed: now.UTC().Truncate(time.Second)}
	seen := map[string]bool{}
	var todo []string
	enter := func(name string) error {
		wire, err := wireName(name)
		if err != nil {
			return err
		}
		if name = textName(wire); !seen[name] {
			seen[name] = true
			todo = append(todo, name)
		}
		return nil
	}
	for _, name := range list {
		if err := enter(name); err != nil {
			return nil, fmt.Errorf("freezing names: %w", err)
		}
	}
	for len(todo) > 0 {
		if len(seen) > maxFrozenNames {
			return nil, fmt.Errorf("freezing names: %w: more than %d names", ErrTooLarge, maxFrozenNames)
		}
		name := todo[0]
		todo = todo[1:]
		records := f.one(ctx, name, o)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("freezing %s: %w", name, context.Cause(ctx))
		}
		for _, rr := range records {
			if target := leadsTo(rr); target != "" {
				_ = enter(target) // it was unpacked from a message
			}
		}
	}
	slices.SortFunc(f.Names, func(a, b FrozenName) int { return cmp.Compare(a.Name, b.Name) })
	return f, nil
}

// leadsTo is the name somebody who got a record asks for next.
func leadsTo(rr dns.RR) string {
	switch rr := rr.(type) {
	case *dns.CNAME:
		return rr.Target
	case *dns.MX:
		if rr.Mx != "." {
			return rr.Mx
		}
	case *dns.SRV:
		if rr.Target != "." {
			return rr.Target
		}
	case *dns.HTTPS:
		return leadsTo(&rr.SVCB)
	case *dns.SVCB:
		if rr.Target != "." {
			return rr.Target
		}
	}
	return ""
}

// given is what a resolver said to one question.
type given struct {
	records []dns.RR
	data    []string
	err     error
}

// one freezes one name.
func (f *Frozen) one(ctx context.Context, name string, o Freezing) []dns.RR {
	answers := make([][]given, len(frozenTypes)) // by type and resolver
	slots := make(chan struct{}, freezeParallel)
	var asking sync.WaitGroup
	for t, typ := range frozenTypes {
		answers[t] = make([]given, len(o.Resolvers))
		for r, at := range o.Resolvers {
			asking.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				answers[t][r] = askFrozen(ctx, name, typ, at, o.Timeout)
			})
		}
	}
	asking.Wait()
	n := FrozenName{Name: name}
	for t, typ := range frozenTypes {
		records, from := f.agree(name, typ, answers[t], o.Resolvers)
		n.Records = append(n.Records, records...)
		for _, at := range from {
			if !slices.Contains(n.From, at) {
				n.From = append(n.From, at)
			}
		}
	}
	n.Records = f.unalias(name, n.Records)
	if len(n.Records) == 0 {
		f.Absent = append(f.Absent, name)
		return nil
	}
	f.Names = append(f.Names, n)
	return n.Records
}

// askFrozen asks one resolver one question, twice if need be.
func askFrozen(ctx context.Context, name string, typ uint16, at netip.AddrPort, timeout time.Duration) (g given) {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	raw, err := m.Pack()
	if err != nil {
		return given{err: err}
	}
	var q query
	q.parse(raw, true)
	for range 2 {
		once, cancel := context.WithTimeout(ctx, timeout)
		m, g.err = (&upstream{addr: at}).exchange(once, &q)
		cancel()
		if g.err == nil || ctx.Err() != nil {
			break
		}
	}
	if g.err != nil {
		return g
	}
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype != typ || h.Class != dns.ClassINET || !strings.EqualFold(h.Name, name) {
			continue // the rest of a chain is asked for by its own name
		}
		h.Name = name
		if c, ok := rr.(*dns.CNAME); ok {
			c.Target = strings.ToLower(c.Target) // one made from a DNAME record has our random case
		}
		h.Ttl = min(max(h.Ttl, leastFrozenTTL), mostFrozenTTL)
		g.records = append(g.records, rr)
	}
	slices.SortFunc(g.records, func(a, b dns.RR) int { return cmp.Compare(dataOf(a), dataOf(b)) }) // a server may rotate them
	for _, rr := range g.records {
		g.data = append(g.data, dataOf(rr))
	}
	return g
}

// dataOf is a record without its name, type and TTL.
func dataOf(rr dns.RR) string { return strings.TrimPrefix(rr.String(), rr.Header().String()) }

// agree chooses between the answers to one question.
func (f *Frozen) agree(name string, typ uint16, answers []given, resolvers []netip.AddrPort) (records []dns.RR, from []netip.AddrPort) {
	votes := map[string]int{}
	for i, g := range answers {
		if g.err != nil {
			f.Failures = append(f.Failures, Failure{name, typeName(typ), resolvers[i], g.err})
			continue
		}
		votes[strings.Join(g.data, "\n")]++
	}
	best := -1
	for i, g := range answers {
		if g.err == nil && (best < 0 || votes[strings.Join(g.data, "\n")] > votes[strings.Join(answers[best].data, "\n")]) {
			best = i
		}
	}
	if best < 0 {
		return nil, nil
	}
	d := Disagreement{Name: name, Type: typeName(typ), Kept: answers[best].data}
	for i, g := range answers {
		if g.err != nil {
			continue
		}
		d.Answers = append(d.Answers, GivenAnswer{resolvers[i], g.data})
		if slices.Equal(g.data, answers[best].data) {
			from = append(from, resolvers[i])
		}
	}
	if len(votes) > 1 {
		f.Disagreements = append(f.Disagreements, d)
	}
	if len(answers[best].records) == 0 {
		return nil, nil
	}
	return answers[best].records, from
}

// unalias leaves a name either an alias or other records, as a zone must have it.
func (f *Frozen) unalias(name string, records []dns.RR) []dns.RR {
	var alias []string
	for _, rr := range records {
		if c, ok := rr.(*dns.CNAME); ok {
			alias = append(alias, c.Target)
		}
	}
	if len(alias) == 0 || len(records) == 1 {
		return records
	}
	d := Disagreement{Name: name, Type: "CNAME"}
	d.Answers = append(d.Answers, GivenAnswer{Data: alias})
	if len(alias) < len(records) {
		f.Disagreements = append(f.Disagreements, d)
		return slices.DeleteFunc(records, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeCNAME })
	}
	d.Kept = alias[:1]
	f.Disagreements = append(f.Disagreements, d)
	return records[:1]
}

// ParseNames reads names to freeze, one on each line; # and ; begin comments. It reads at most 100,000 names.
//
// Errors: ErrBadData, ErrNoNames, ErrTooLarge, those of r.
func ParseNames(r io.Reader) ([]string, error) {
	var list []string
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if _, err := wireName(words[0]); err != nil || len(words) > 1 {
			return nil, fmt.Errorf("reading names, line %d: %w: want one name", n, ErrBadData)
		}
		if list = append(list, words[0]); len(list) > maxFrozenNames {
			return nil, fmt.Errorf("reading names: %w: more than %d", ErrTooLarge, maxFrozenNames)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading names: %w", err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("reading names: %w", ErrNoNames)
	}
	return list, nil
}
