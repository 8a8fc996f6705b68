package certs

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

func (s *acme) account(w http.ResponseWriter, a asked) error {
	var in struct {
		OnlyReturnExisting bool `json:"onlyReturnExisting"`
	}
	if err := json.Unmarshal(a.payload, &in); err != nil {
		return fmt.Errorf("%w: no account", ErrInvalid)
	}
	s.mu.Lock()
	_, known := s.accounts[a.account]
	full := len(s.accounts) >= maxAccounts
	if !known && !full && !in.OnlyReturnExisting {
		s.accounts[a.account] = &acmeAccount{key: a.key}
	}
	s.mu.Unlock()
	status := http.StatusOK
	if !known {
		switch {
		case in.OnlyReturnExisting:
			return problem("accountDoesNotExist", "no account for this key")
		case full:
			return problem("rateLimited", "more than %d accounts", maxAccounts)
		}
		status = http.StatusCreated
	}
	w.Header().Set("Location", a.base+"account/"+a.account)
	s.answer(w, status, map[string]string{"status": "valid"})
	return nil
}

func (s *acme) order(w http.ResponseWriter, a asked) error {
	var in struct {
		Identifiers []acmeName `json:"identifiers"`
	}
	if err := json.Unmarshal(a.payload, &in); err != nil || len(in.Identifiers) == 0 || len(in.Identifiers) > maxNames {
		return fmt.Errorf("%w: an order of 1 to %d names", ErrInvalid, maxNames)
	}
	o := &acmeOrder{account: a.account, names: in.Identifiers, expires: s.o.Now().Add(orderLife), request: Request{Use: []Use{Server}}}
	for _, n := range in.Identifiers {
		switch ip, err := netip.ParseAddr(n.Value); {
		case n.Type == "ip" && err == nil:
			o.request.IP = append(o.request.IP, ip.Unmap())
		case n.Type == "dns" && err != nil && hostname(n.Value):
			o.request.DNS = append(o.request.DNS, n.Value)
		default:
			return problem("rejectedIdentifier", "%.20q %.260q: want a DNS name without wildcard, or an address", n.Type, n.Value)
		}
		o.authz = append(o.authz, acmeAuthz{token: secretName(), status: "pending"})
	}
	var err error
	if o.request.Service, err = s.o.Service(o.request); err != nil {
		return problem("rejectedIdentifier", "%v", err)
	}
	id := secretName()
	s.mu.Lock()
	for k, old := range s.orders {
		if s.o.Now().After(old.expires) {
			delete(s.orders, k)
		}
	}
	full := len(s.orders) >= maxOrders
	if !full {
		s.orders[id] = o
	}
	view := o.view(a.base, id)
	s.mu.Unlock()
	if full {
		return problem("rateLimited", "more than %d orders", maxOrders)
	}
	w.Header().Set("Location", a.base+"order/"+id)
	s.answer(w, http.StatusCreated, view)
	return nil
}

// view is an order as a client sees it. Its lock is held.
func (o *acmeOrder) view(base, id string) map[string]any {
	status := "ready"
	var authz []string
	for n, z := range o.authz {
		authz = append(authz, fmt.Sprintf("%sauthz/%s/%d", base, id, n))
		switch {
		case z.status == "invalid":
			status = "invalid"
		case z.status != "valid" && status == "ready":
			status = "pending"
		}
	}
	v := map[string]any{"identifiers": o.names, "authorizations": authz, "finalize": base + "finalize/" + id, "expires": o.expires.UTC().Format(time.RFC3339)}
	if o.chain != nil {
		status = "valid"
		v["certificate"] = base + "cert/" + id
	}
	v["status"] = status
	return v
}

// find gives an order of the account that asks. The lock is held.
func (s *acme) find(a asked) (*acmeOrder, error) {
	o := s.orders[a.PathValue("id")]
	if o == nil || o.account != a.account || s.o.Now().After(o.expires) {
		return nil, problem("malformed", "no such order")
	}
	return o, nil
}

func (s *acme) show(w http.ResponseWriter, a asked) error {
	s.mu.Lock()
	o, err := s.find(a)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	view := o.view(a.base, a.PathValue("id"))
	s.mu.Unlock()
	s.answer(w, http.StatusOK, view)
	return nil
}

// piece gives an order and the number of one of its names. The lock is held.
func (s *acme) piece(a asked) (*acmeOrder, int, error) {
	o, err := s.find(a)
	if err != nil {
		return nil, 0, err
	}
	for n := range o.authz {
		if a.PathValue("n") == fmt.Sprint(n) {
			return o, n, nil
		}
	}
	return nil, 0, problem("malformed", "no such authorization")
}

func (o *acmeOrder) challenge(base, id string, n int) map[string]any {
	z := o.authz[n]
	c := map[string]any{"type": "http-01", "url": fmt.Sprintf("%schallenge/%s/%d", base, id, n), "token": z.token, "status": z.status}
	if z.why != "" {
		c["error"] = map[string]string{"type": "urn:ietf:params:acme:error:connection", "detail": z.why}
	}
	return c
}

func (s *acme) authz(w http.ResponseWriter, a asked) error {
	s.mu.Lock()
	o, n, err := s.piece(a)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	status := o.authz[n].status
	if status == "processing" {
		status = "pending"
	}
	view := map[string]any{"identifier": o.names[n], "status": status, "expires": o.expires.UTC().Format(time.RFC3339), "challenges": []any{o.challenge(a.base, a.PathValue("id"), n)}}
	s.mu.Unlock()
	s.answer(w, http.StatusOK, view)
	return nil
}

func (s *acme) cert(w http.ResponseWriter, a asked) error {
	s.mu.Lock()
	o, err := s.find(a)
	if err == nil && o.chain == nil {
		err = problem("orderNotReady", "there is no certificate yet")
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.nonce(w)
	writePEM(w, o.chain)
	return nil
}

// challenge fetches what the client put under the name. The request waits for it: the client finds the answer at its first look.
func (s *acme) challenge(w http.ResponseWriter, a asked) error {
	id := a.PathValue("id")
	s.mu.Lock()
	o, n, err := s.piece(a)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	try := o.authz[n].status == "pending"
	if try {
		o.authz[n].status = "processing"
	}
	token, name := o.authz[n].token, o.names[n]
	s.mu.Unlock()
	if try {
		status, why := "valid", ""
		if err := s.fetch(a.Context(), name.Value, token, token+"."+a.key.thumbprint()); err != nil {
			status, why = "invalid", err.Error()
		}
		s.mu.Lock()
		o.authz[n].status, o.authz[n].why = status, why
		s.mu.Unlock()
	}
	s.mu.Lock()
	view := o.challenge(a.base, id, n)
	s.mu.Unlock()
	w.Header().Add("Link", fmt.Sprintf("<%sauthz/%s/%d>;rel=\"up\"", a.base, id, n))
	s.answer(w, http.StatusOK, view)
	return nil
}

// fetch is the validation of http-01 (RFC 8555, section 8.3), without redirects: nobody needs them here, and they would send this host
// anywhere.
func (s *acme) fetch(ctx context.Context, name, token, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return s.o.Dial(ctx, network, net.JoinHostPort(name, fmt.Sprint(s.o.Port)))
	}}
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/.well-known/acme-challenge/"+token, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || subtle.ConstantTimeCompare([]byte(strings.TrimSpace(string(got))), []byte(want)) != 1 {
		return fmt.Errorf("%s answers %s, and not what it should", name, resp.Status)
	}
	return nil
}

func (s *acme) finalize(w http.ResponseWriter, a asked) error {
	var in struct {
		CSR string `json:"csr"`
	}
	if err := json.Unmarshal(a.payload, &in); err != nil {
		return fmt.Errorf("%w: no CSR", ErrInvalid)
	}
	csr, err := b64(in.CSR)
	if err != nil {
		return problem("badCSR", "not in base64url")
	}
	parsed, err := ParseCSR(csr)
	if err != nil {
		return problem("badCSR", "%v", err)
	}
	s.mu.Lock()
	o, err := s.find(a)
	if err == nil && (o.view(a.base, "")["status"] != "ready" || o.busy) {
		err = problem("orderNotReady", "not every name has been proven, or it is done already")
	}
	if err == nil {
		err = subset(parsed, o.request)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	o.busy = true
	req := o.request
	s.mu.Unlock()
	req.CSR, req.By = csr, "acme "+a.account+" from "+a.RemoteAddr
	out, err := s.o.Issue(a.Context(), req)
	s.mu.Lock()
	o.busy = false
	o.chain = out.Cert
	view := o.view(a.base, a.PathValue("id"))
	s.mu.Unlock()
	if err != nil {
		return err
	}
	w.Header().Set("Location", a.base+"order/"+a.PathValue("id"))
	s.answer(w, http.StatusOK, view)
	return nil
}
