package certs

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Bounds of a policy: bytes, and rules.
const (
	maxPolicy = 4 << 20
	maxRules  = 50_000
)

// Policy says which service may have which names. It narrows the authority's scope and never widens it.
type Policy struct {
	max   time.Duration
	rules map[string]*rule
}

type rule struct {
	dns, users []string
	ip         []netip.Prefix
	uri        []string
	uses       []Use
	life       time.Duration
}

// ParsePolicy reads the issuance policy:
//
//	# a comment
//	max 72h                                   longest life of any certificate
//	service etcd
//	    dns  etcd.example.org *.etcd.example.org .members.example.org
//	    ip   10.0.0.0/24 10.1.0.7
//	    uri  spiffe://example.org/etcd spiffe://example.org/etcd/*
//	    use  server client                    both when left out
//	    for  24h                              longest life
//	    user etcd-admin                       principals of SSH user certificates
//
// "*." stands for one label, and allows that wildcard itself; a leading dot for any number of labels. A URI matches as
// a whole, or up to "/*". A word may be repeated. SSH host certificates are checked by dns and ip.
//
// Errors: ErrInvalid with the line.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("reading policy: %w: larger than %d bytes", ErrInvalid, maxPolicy)
	}
	p := &Policy{rules: map[string]*rule{}}
	var now *rule
	lines := bufio.NewScanner(bytes.NewReader(text))
	n := 0
	for lines.Scan() {
		n++
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var err error
		if now, err = p.line(now, words[0], words[1:]); err != nil {
			return nil, fmt.Errorf("reading policy: %w: line %d: %w", ErrInvalid, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading policy: %w: line %d: %w", ErrInvalid, n+1, err)
	}
	return p, nil
}

func (p *Policy) line(now *rule, word string, args []string) (*rule, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("%.40q says nothing", word)
	}
	switch word {
	case "max":
		return now, life(&p.max, args)
	case "service":
		if len(args) != 1 || !serviceName(args[0]) {
			return nil, fmt.Errorf("want one service's name, of at most 64 letters, digits, ., _, -, /")
		}
		if p.rules[args[0]] != nil {
			return nil, fmt.Errorf("service %s is there twice: a second block would quietly widen the first", args[0])
		}
		if len(p.rules) == maxRules {
			return nil, fmt.Errorf("more than %d services", maxRules)
		}
		p.rules[args[0]] = &rule{}
		return p.rules[args[0]], nil
	}
	if now == nil {
		return nil, fmt.Errorf("%.40q before the first service", word)
	}
	return now, now.line(word, args)
}

func (r *rule) line(word string, args []string) error {
	switch word {
	case "dns":
		for _, a := range args {
			if !hostname(strings.TrimPrefix(strings.TrimPrefix(a, "*"), ".")) {
				return fmt.Errorf("%.260q is no name", a)
			}
			r.dns = append(r.dns, strings.ToLower(a))
		}
	case "ip":
		for _, a := range args {
			n, err := parseNet(a)
			if err != nil {
				return err
			}
			r.ip = append(r.ip, n)
		}
	case "uri":
		for _, a := range args {
			if u, err := url.Parse(a); err != nil || u.Scheme == "" || u.Host == "" {
				return fmt.Errorf("%.260q is no URI with a host", a)
			}
			r.uri = append(r.uri, a)
		}
	case "user":
		for _, a := range args {
			if !plainName(a) {
				return fmt.Errorf("%.80q is no principal", a)
			}
			r.users = append(r.users, a)
		}
	case "use":
		for _, a := range args {
			if u := Use(a); u != Server && u != Client {
				return fmt.Errorf("%.40q is no use; want server or client", a)
			}
			r.uses = append(r.uses, Use(a))
		}
	case "for":
		return life(&r.life, args)
	default:
		return fmt.Errorf("unknown word %.40q; want dns, ip, uri, use, for or user", word)
	}
	return nil
}

func life(to *time.Duration, args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil || len(args) != 1 || d < time.Minute || *to != 0 {
		return fmt.Errorf("want one duration of at least a minute, such as 24h, once")
	}
	*to = d
	return nil
}

func parseNet(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	if err != nil || n != n.Masked() || n.Addr().Is4In6() {
		return n, fmt.Errorf("%.60q is neither an address nor a network with its host bits zero", s)
	}
	return n, nil
}

// Services lists the services with a rule, sorted.
func (p *Policy) Services() []string {
	all := make([]string, 0, len(p.rules))
	for s := range p.rules {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

func (r *rule) allowsDNS(name string) bool {
	for _, p := range r.dns {
		if p == name || p[0] == '.' && strings.HasSuffix(name, p) {
			return true
		}
		if rest, ok := strings.CutPrefix(p, "*"); ok {
			if label, ok := strings.CutSuffix(name, rest); ok && label != "" && !strings.Contains(label, ".") {
				return true
			}
		}
	}
	return false
}

func (r *rule) allowsIP(a netip.Addr) bool {
	return slices.ContainsFunc(r.ip, func(n netip.Prefix) bool { return n.Contains(a) })
}

func (r *rule) allowsURI(u string) bool {
	for _, p := range r.uri {
		if p == u {
			return true
		}
		if rest, ok := strings.CutSuffix(p, "*"); ok && strings.HasSuffix(rest, "/") && len(u) > len(rest) && strings.HasPrefix(u, rest) {
			return true
		}
	}
	return false
}

func serviceName(s string) bool {
	return plainName(strings.ReplaceAll(s, "/", "-"))
}

// Find gives the service that may have all the names of a request and uses, for those who ask with nothing else.
//
// Errors: ErrRefused where there is none, or more than one.
func (p *Policy) Find(r Request) (string, error) {
	n, err := r.names(nil)
	if err != nil {
		return "", err
	}
	found := ""
	for _, s := range p.Services() {
		if p.rules[s].allow(r, n) != nil {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("finding the service of %v: %w: %s and %s may both have them", n.subj, ErrRefused, found, s)
		}
		found = s
	}
	if found == "" {
		return "", fmt.Errorf("finding the service of %v: %w: none may have them", n.subj, ErrRefused)
	}
	return found, nil
}

// fill gives a request that names nothing what the policy names in full for its service.
func (p *Policy) fill(r *Request) {
	rl := p.rules[r.Service]
	if rl == nil || len(r.DNS)+len(r.IP)+len(r.URI) > 0 {
		return
	}
	for _, d := range rl.dns {
		if hostname(d) {
			r.DNS = append(r.DNS, d)
		}
	}
	for _, n := range rl.ip {
		if n.IsSingleIP() {
			r.IP = append(r.IP, n.Addr())
		}
	}
	for _, u := range rl.uri {
		if !strings.HasSuffix(u, "*") {
			r.URI = append(r.URI, u)
		}
	}
	if len(r.Use) == 0 {
		r.Use = rl.uses
	}
}
