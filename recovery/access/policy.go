package access

import (
	"fmt"
	"slices"
	"strings"
)

// Options say what a policy is checked against.
type Options struct {
	// Owners are the owner of each service, as the kit has them; a file counts for the services whose owner signed
	// it, and for what has no owner. nil: signatures are not looked at, and every file counts for everything.
	Owners map[string]string
	// Signers are the keys of owners and approvers by name.
	Signers Signers
	// Verbs are the commands there are; nil: any.
	Verbs []string
}

// Policy is a policy that was read, ready to decide. It may be used by several goroutines.
type Policy struct {
	rules   []Rule
	scopes  []int
	signed  []map[string]bool // of each source, the services it counts for; nil: all
	groups  map[string][]string
	members map[string][]string // from a subject to the groups that it is in, through groups as well
	index   map[pair]*byObject
	signers Signers
	owners  map[string]string // Options.Owners
}

type pair struct{ subject, verb string }

// byObject are numbers of rules: for one service, or for all that begin so.
type byObject struct {
	exact, prefix map[string][]int
	longest       int // of the prefixes, in bytes
}

// maxIndex bounds what many subjects, verbs and objects on a line multiply to.
const maxIndex = 2_000_000

// Compile reads a policy.
//
// Errors: ErrInvalid with file and line; ErrContradiction with both lines; ErrUnsigned where a file names a service whose
// owner did not sign it.
func Compile(sources []Source, o Options) (*Policy, error) {
	p, err := compile(sources, o)
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	return p, nil
}

func compile(sources []Source, o Options) (*Policy, error) {
	size := 0
	in := &parser{groups: map[string][]string{}, whereG: map[string]Where{}}
	p := &Policy{groups: in.groups, members: map[string][]string{}, index: map[pair]*byObject{}, signers: o.Signers, owners: o.Owners}
	for n, s := range sources {
		if size += len(s.Text); size > maxPolicy {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxPolicy)
		}
		if err := in.file(n, s); err != nil {
			return nil, err
		}
		var covers map[string]bool
		if o.Owners != nil {
			covers = signedBy(s, o)
		}
		p.signed = append(p.signed, covers)
	}
	p.rules, p.scopes = in.rules, in.scopes
	if err := p.checkWords(in, o); err != nil {
		return nil, err
	}
	for name := range p.groups {
		if err := p.spread(in, name, "group:"+name, nil); err != nil {
			return nil, err
		}
	}
	if err := p.build(); err != nil {
		return nil, err
	}
	return p, p.contradiction()
}

// signedBy gives the services whose owner signed a source.
func signedBy(s Source, o Options) map[string]bool {
	names := map[string]bool{}
	for _, sig := range s.Signatures {
		// A signature that is wrong adds nothing; what is missing for it is told where it is needed.
		if who, err := o.Signers.Verify(s.Text, sig); err == nil {
			names[who] = true
		}
	}
	covers := map[string]bool{}
	for service, owner := range o.Owners {
		if names[owner] {
			covers[service] = true
		}
	}
	return covers
}

func (p *Policy) checkWords(in *parser, o Options) error {
	for i, r := range p.rules {
		bad := func(kind error, format string, args ...any) error {
			return fmt.Errorf("%w: %s:%d: %s", kind, r.File, r.Line, fmt.Sprintf(format, args...))
		}
		for _, v := range r.Verbs {
			if v != "*" && o.Verbs != nil && !slices.Contains(o.Verbs, v) {
				return bad(ErrInvalid, "there is no verb %s; there are %s", v, strings.Join(o.Verbs, " "))
			}
		}
		covers := p.signed[p.scopes[i]]
		for _, obj := range r.Objects {
			if o.Owners == nil || strings.HasSuffix(obj, "*") {
				continue
			}
			owner, known := o.Owners[obj]
			if !known {
				return bad(ErrInvalid, "there is no service %s", obj)
			}
			if !covers[obj] {
				return bad(ErrUnsigned, "%s belongs to %q, who has not signed %s", obj, owner, r.File)
			}
		}
		refs := r.Subjects
		if r.Needs != nil {
			refs = append(slices.Clip(refs), r.Needs.Of)
		}
		for _, s := range refs {
			if name, ok := strings.CutPrefix(s, "group:"); ok && p.groups[name] == nil {
				return bad(ErrInvalid, "there is no group %s", name)
			}
		}
		if n := r.Needs; n != nil && o.Signers.keys != nil {
			if have := p.approvers(n.Of); len(have) < n.Count {
				return bad(ErrInvalid, "%d approvals are needed of %s, which has %d signers", n.Count, n.Of, len(have))
			}
		}
	}
	for name, members := range p.groups {
		for _, m := range members {
			if ref, ok := strings.CutPrefix(m, "group:"); ok && p.groups[ref] == nil {
				w := in.whereG[name]
				return fmt.Errorf("%w: %s:%d: there is no group %s", ErrInvalid, w.File, w.Line, ref)
			}
		}
	}
	return nil
}

// spread notes of every member below a group that it is in top. A group that is in itself is an error.
func (p *Policy) spread(in *parser, name, top string, path []string) error {
	if slices.Contains(path, name) {
		w := in.whereG[name]
		return fmt.Errorf("%w: %s:%d: group %s is a member of itself", ErrInvalid, w.File, w.Line, name)
	}
	if len(path) > 32 {
		return fmt.Errorf("%w: groups within groups, more than 32 deep", ErrInvalid)
	}
	for _, m := range p.groups[name] {
		if ref, ok := strings.CutPrefix(m, "group:"); ok {
			if err := p.spread(in, ref, top, append(path, name)); err != nil {
				return err
			}
			continue
		}
		if !slices.Contains(p.members[m], top) {
			p.members[m] = append(p.members[m], top)
		}
	}
	return nil
}

func (p *Policy) build() error {
	total := 0
	for n, r := range p.rules {
		if total += len(r.Subjects) * len(r.Verbs) * len(r.Objects); total > maxIndex {
			return fmt.Errorf("%w: %s:%d: subjects, verbs and services multiply to more than %d", ErrInvalid, r.File, r.Line, maxIndex)
		}
		for _, s := range r.Subjects {
			for _, v := range r.Verbs {
				at := p.index[pair{s, v}]
				if at == nil {
					at = &byObject{exact: map[string][]int{}, prefix: map[string][]int{}}
					p.index[pair{s, v}] = at
				}
				for _, o := range r.Objects {
					if begin, ok := strings.CutSuffix(o, "*"); ok {
						at.prefix[begin] = append(at.prefix[begin], n)
						at.longest = max(at.longest, len(begin))
					} else {
						at.exact[o] = append(at.exact[o], n)
					}
				}
			}
		}
	}
	return nil
}

// contradiction finds an allow and a deny of the very same subject, verb and object: one of the two is a mistake. A deny that is
// wider or narrower than an allow is an exception, and meant.
func (p *Policy) contradiction() error {
	for _, at := range p.index {
		for _, lists := range []map[string][]int{at.exact, at.prefix} {
			for _, list := range lists {
				for _, i := range list {
					if a, b := p.rules[list[0]], p.rules[i]; a.Deny != b.Deny {
						return fmt.Errorf("%w: %s:%d %q and %s:%d %q", ErrContradiction, a.File, a.Line, a.Text, b.File, b.Line, b.Text)
					}
				}
			}
		}
	}
	return nil
}

// covers says whether a rule counts for a service. For what nobody owns, the host among it, every file counts: whoever signed
// the kit vouches for it.
func (p *Policy) covers(rule int, service string) bool {
	c := p.signed[p.scopes[rule]]
	if c == nil || c[service] {
		return true
	}
	_, owned := p.owners[service]
	return !owned
}

// approvers are the names of signers below a subject.
func (p *Policy) approvers(of string) map[string]bool {
	names := map[string]bool{}
	var walk func(string, int)
	walk = func(s string, depth int) {
		if name, ok := strings.CutPrefix(s, "key:"); ok {
			if p.signers.has(name) {
				names[name] = true
			}
		} else if name, ok := strings.CutPrefix(s, "group:"); ok && depth < 32 {
			for _, m := range p.groups[name] {
				walk(m, depth+1)
			}
		}
	}
	walk(of, 0)
	return names
}
