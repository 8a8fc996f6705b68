package runbooks

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// names are the variables that a runbook's texts may use, apart from ip and host.
func (b *Runbook) names() map[string]bool {
	all := map[string]bool{}
	for name := range b.Vars {
		all[name] = true
	}
	for _, h := range b.Hosts {
		all[hostVar(h)] = true
	}
	return all
}

// varNames are the variables declared, sorted.
func (b *Runbook) varNames() []string {
	all := make([]string, 0, len(b.Vars))
	for name := range b.Vars {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// expand replaces each ${name} by what value gives, and $${ by ${. An IPv6 address of a host gets brackets where a
// port follows it or a URL's scheme comes before.
func expand(t string, value func(name string) (string, error)) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(t, "${")
		if i < 0 {
			out.WriteString(t)
			return out.String(), nil
		}
		if i > 0 && t[i-1] == '$' {
			out.WriteString(t[:i-1] + "${")
			t = t[i+2:]
			continue
		}
		name, rest, ok := strings.Cut(t[i+2:], "}")
		if !ok || !vocabulary()["var"].pattern.MatchString(name) {
			return "", fmt.Errorf("%.40q is no variable: write ${name}, or $${ for ${", t[i:])
		}
		v, err := value(name)
		if err != nil {
			return "", err
		}
		out.WriteString(t[:i])
		if (name == "ip" || strings.HasPrefix(name, "ip_")) && strings.Contains(v, ":") && (strings.HasPrefix(rest, ":") || strings.HasSuffix(t[:i], "://")) {
			v = "[" + v + "]"
		}
		out.WriteString(v)
		t = rest
	}
}

// unknownVars says which variable of a text there is not.
func unknownVars(t string, names map[string]bool, onHost bool) string {
	_, err := expand(t, func(name string) (string, error) {
		if names[name] || (onHost && (name == "ip" || name == "host")) {
			return "", nil
		}
		return "", fmt.Errorf("no variable ${%s}: vars declares them, and $${ stands for ${", name)
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

// eachText calls f for every text of a step in which variables are replaced.
func eachText(s *Step, f func(*node, *string)) {
	for key, t := range map[string]*string{"fetch": &s.Fetch, "confirm": &s.Confirm, "note": &s.Note} {
		f(s.get(key), t)
	}
	if s.WaitFor != nil {
		eachProbeText(s.WaitFor, f)
	}
	if s.With == nil {
		return
	}
	v := reflect.ValueOf(s.With).Elem()
	for _, field := range fields(v.Type()) {
		at := s.With.get(field.key)
		switch w := v.Field(field.index).Addr().Interface().(type) {
		case *string:
			f(at, w)
		case *[]string:
			for i := range *w {
				f(s.With.item(field.key, i), &(*w)[i])
			}
		case *map[string]string:
			for k, t := range *w {
				f(at.get(k), &t)
				(*w)[k] = t
			}
		}
	}
}

// eachProbeText calls f for every text of a probe in which variables are replaced: all but the command.
func eachProbeText(p *Probe, f func(*node, *string)) {
	for key, t := range map[string]*string{"tcp": &p.TCP, "http": &p.HTTP, "dns": &p.DNS, "file": &p.File, "log": &p.Log, "unix": &p.Unix, "contains": &p.Contains} {
		f(p.get(key), t)
	}
}

// Bound is a runbook with a value for every variable and an address for every host.
type Bound struct {
	*Runbook
	values map[string]string
	hosts  map[string]netip.Addr
}

// Bind gives a runbook its values: those of vars, else the defaults.
//
// Errors: ErrInvalid for a variable or host that is not declared, or has no value or address, and for a secret that is
// too short to be kept out of what is shown.
func (b *Runbook) Bind(vars map[string]string, hosts map[string]netip.Addr) (*Bound, error) {
	bound := &Bound{Runbook: b, values: map[string]string{}, hosts: hosts}
	for name := range vars {
		if b.Vars[name] == nil {
			return nil, fmt.Errorf("%w: no variable %.80q in %q", ErrInvalid, name, b.Title)
		}
	}
	for _, name := range b.varNames() {
		declared := b.Vars[name]
		v, ok := vars[name]
		switch {
		case !ok && declared.Default == nil:
			return nil, fmt.Errorf("%w: variable %s has no value: give it with --var %[2]s=VALUE", ErrInvalid, name)
		case !ok:
			v = *declared.Default
		case declared.Secret && len(v) < minSecret:
			return nil, fmt.Errorf("%w: secret %s is shorter than %d bytes: it could not be kept out of what is shown", ErrInvalid, name, minSecret)
		case strings.ContainsRune(v, 0) || len(v) > maxText:
			return nil, fmt.Errorf("%w: the value of %s holds a NUL or more than %d bytes", ErrInvalid, name, maxText)
		}
		bound.values[name] = v
	}
	for name := range hosts {
		if !slices.Contains(b.Hosts, name) {
			return nil, fmt.Errorf("%w: no host %.80q in %q", ErrInvalid, name, b.Title)
		}
	}
	for _, h := range b.Hosts {
		a, ok := hosts[h]
		if !ok || !a.IsValid() {
			return nil, fmt.Errorf("%w: host %s has no address: give it with --host %[2]s=IP", ErrInvalid, h)
		}
		bound.values[hostVar(h)] = a.String()
	}
	return bound, nil
}

// Masker keeps the secrets' values out of what is shown and recorded.
func (b *Bound) Masker() *Masker {
	var secrets []string
	for name, v := range b.Vars {
		if v.Secret {
			secrets = append(secrets, b.values[name])
		}
	}
	return NewMasker(secrets...)
}

// at are the values on one host; "" is here.
func (b *Bound) at(host string) func(string) (string, error) {
	return func(name string) (string, error) {
		if host != "" && name == "host" {
			return host, nil
		}
		if host != "" && name == "ip" {
			return b.hosts[host].String(), nil
		}
		if v, ok := b.values[name]; ok {
			return v, nil
		}
		return "", fmt.Errorf("%w: no variable ${%s}", ErrInvalid, name)
	}
}

// env are the variables as K=V, sorted, for shell texts on one host. A secret is among them only if a text names it.
func (b *Bound) env(host string, texts ...string) []string {
	var all []string
	for name, v := range b.values {
		if d := b.Vars[name]; d != nil && d.Secret && !strings.Contains(strings.Join(texts, "\n"), name) {
			continue
		}
		all = append(all, name+"="+v)
	}
	if host != "" {
		all = append(all, "host="+host, "ip="+b.hosts[host].String())
	}
	slices.Sort(all)
	return all
}
