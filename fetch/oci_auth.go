package fetch

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	maxChallenge = 8 << 10  // in bytes
	maxToken     = 64 << 10 // of the answer that has it, in bytes
	tokenLife    = time.Minute
	askTimeout   = 30 * time.Second // for an answer that is small
)

// ociAuth knows what a registry wants to be shown: a token of the server that it
// names (Docker Registry v2 authentication via central service), or the login
// itself (RFC 7617).
type ociAuth struct {
	client   *http.Client
	net      Net
	registry *url.URL
	repo     string
	turn     chan struct{} // full while somebody asks for a token

	mu      sync.Mutex
	header  string // of requests; "" where there is none
	push    bool   // it is good for changes
	expires time.Time
}

// current is the Authorization header for a request, "" where none is known that
// would do.
func (a *ociAuth) current(push bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if push && !a.push || !a.expires.IsZero() && time.Now().After(a.expires) {
		return ""
	}
	return a.header
}

// renew gives the header that an answer asks for, where shown did not do.
func (a *ociAuth) renew(ctx context.Context, resp *http.Response, shown string, push bool) (string, error) {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-a.turn }()
	if h := a.current(push); h != "" && h != shown {
		return h, nil // somebody else asked meanwhile
	}
	challenges, err := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	if err != nil {
		return "", fmt.Errorf("reading how %s wants to know who asks: %w", a.registry.Host, err)
	}
	for _, c := range challenges {
		if c.scheme != "bearer" {
			continue
		}
		token, life, err := a.token(ctx, c, push)
		if err != nil {
			return "", fmt.Errorf("asking for a token for %s: %w", a.registry.Host, err)
		}
		return a.keep("Bearer "+token, push, time.Now().Add(life-min(life/10, 10*time.Second))), nil
	}
	user, password, known := a.net.login(a.registry.Host)
	for _, c := range challenges {
		if c.scheme != "basic" {
			continue
		}
		if !known {
			return "", fmt.Errorf("%s wants a login, and none is known for it", a.registry.Host)
		}
		header := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
		if header == shown {
			return "", fmt.Errorf("%s refuses the login of %q", a.registry.Host, user)
		}
		return a.keep(header, true, time.Time{}), nil
	}
	return "", fmt.Errorf("%s wants to know who asks, and neither by a token nor by a login", a.registry.Host)
}

func (a *ociAuth) keep(header string, push bool, expires time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.header, a.push, a.expires = header, push, expires
	return header
}

// token asks the server that a challenge names.
func (a *ociAuth) token(ctx context.Context, c challenge, push bool) (string, time.Duration, error) {
	realm, err := a.realm(c.params["realm"])
	if err != nil {
		return "", 0, err
	}
	// What is asked for is this repository, whatever the challenge says: a registry
	// could have a token made out for another.
	scope := "repository:" + a.repo + ":pull"
	if push {
		scope += ",push"
	}
	q := realm.Query()
	q.Set("scope", scope)
	if s, ok := c.params["service"]; ok {
		q.Set("service", s)
	}
	user, password, known := a.net.login(a.registry.Host)
	known = known && (realm.Scheme == "https" || realm.Hostname() == a.registry.Hostname())
	if known {
		q.Set("account", user)
	}
	realm.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", 0, err
	}
	if known {
		req.SetBasicAuth(user, password)
	}
	resp, err := ask(a.client, req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }() // what was read is what counts
	switch {
	case resp.StatusCode == http.StatusOK:
	case known:
		return "", 0, fmt.Errorf("%s says %s to the login of %q", realm.Host, status(resp), user)
	default:
		return "", 0, fmt.Errorf("%s says %s, and no login is known for %s", realm.Host, status(resp), a.registry.Host)
	}
	raw, err := readBounded(resp.Body, maxToken)
	if err != nil {
		return "", 0, fmt.Errorf("reading the answer of %s: %w", realm.Host, err)
	}
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"` // in seconds
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", 0, fmt.Errorf("reading the answer of %s: %w", realm.Host, err)
	}
	token := t.Token
	if token == "" {
		token = t.AccessToken
	}
	if token == "" {
		return "", 0, fmt.Errorf("the answer of %s has no token", realm.Host)
	}
	life := tokenLife
	if t.ExpiresIn > 0 {
		life = time.Duration(min(t.ExpiresIn, 24*3600)) * time.Second
	}
	return token, life, nil
}

// realm is the URL of a token server, where one may be asked.
func (a *ociAuth) realm(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("the realm %.200q is no URL of a token server", text)
	}
	if a.registry.Scheme == "https" && u.Scheme != "https" {
		return nil, fmt.Errorf("the realm %.200q is without TLS, unlike the registry", text)
	}
	return u, nil
}

// challenge is one of a WWW-Authenticate field (RFC 9110, section 11.6.1). Scheme
// and names are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

var errChallenge = errors.New("not a WWW-Authenticate field")

// parseChallenges reads the field's values in order.
func parseChallenges(values []string) ([]challenge, error) {
	text := strings.Join(values, ",")
	if len(text) > maxChallenge {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errChallenge, len(text), maxChallenge)
	}
	var all []challenge
	for {
		begin := strings.TrimLeft(text, ", \t")
		if begin == "" {
			return all, nil
		}
		next := len(all) == 0 || strings.Contains(text[:len(text)-len(begin)], ",")
		text = begin
		name, rest := cutToken(text)
		if name == "" {
			return nil, fmt.Errorf("%w: %.40q", errChallenge, text)
		}
		name = strings.ToLower(name)
		value, isParam := strings.CutPrefix(strings.TrimLeft(rest, " \t"), "=")
		if !isParam {
			if !next {
				return nil, fmt.Errorf("%w: no comma before %.40q", errChallenge, text)
			}
			all = append(all, challenge{name, map[string]string{}})
			text = skipToken68(rest)
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%w: %.40q before any scheme", errChallenge, text)
		}
		var err error
		if value, text, err = cutValue(strings.TrimLeft(value, " \t")); err != nil {
			return nil, err
		}
		params := all[len(all)-1].params
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("%w: %q twice", errChallenge, name)
		}
		params[name] = value
		if t := strings.TrimLeft(text, " \t"); t != "" && t[0] != ',' {
			return nil, fmt.Errorf("%w: %.40q", errChallenge, text)
		}
	}
}

// skipToken68 drops what some schemes have in place of parameters.
func skipToken68(s string) string {
	t := strings.TrimLeft(s, " \t")
	end := strings.TrimLeftFunc(t, func(r rune) bool { return isToken(r) && !strings.ContainsRune("!#$%&'*^`|", r) || r == '/' })
	end = strings.TrimLeft(strings.TrimLeft(end, "="), " \t")
	if end == "" || end[0] == ',' {
		return end
	}
	return t
}

// cutValue takes a token or a quoted string off the beginning.
func cutValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		if value == "" {
			return "", "", fmt.Errorf("%w: no value in %.40q", errChallenge, s)
		}
		return value, rest, nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", fmt.Errorf("%w: a control character", errChallenge)
		case c == '\\' && i+1 < len(s) && s[i+1] >= ' ':
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("%w: a quoted string does not end", errChallenge)
}

func cutToken(s string) (token, rest string) {
	rest = strings.TrimLeftFunc(s, isToken)
	return s[:len(s)-len(rest)], rest
}

func isToken(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
