package certs

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Bounds of what an ACME server remembers. It forgets everything when it ends; a client begins anew.
const (
	maxAccounts = 1000
	maxOrders   = 5000
	maxNonces   = 10_000
	orderLife   = time.Hour
)

// ACMEOptions say what an ACME server gives, to whom.
type ACMEOptions struct {
	Issue func(context.Context, Request) (Issued, error)
	// Service says whose names these are; the request has nothing but names. An error refuses the order. Policy.Find does it.
	Service func(Request) (string, error)
	// Dial reaches a host by its name or address and a port, for the challenge http-01; it never asks the system's resolver.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Port int // of the challenge; 80 when 0
	Now  func() time.Time
}

// ACME is a server of the protocol (RFC 8555), for clients that speak nothing else: orders for DNS names and addresses (RFC
// 8738), the challenge http-01, and nothing of what else there is. It is the Extra handler of Serve; its directory is at
// /acme/directory.
func ACME(o ACMEOptions) http.Handler {
	if o.Port == 0 {
		o.Port = 80
	}
	s := &acme{o: o, nonces: map[string]bool{}, accounts: map[string]*acmeAccount{}, orders: map[string]*acmeOrder{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /acme/directory", func(w http.ResponseWriter, r *http.Request) {
		base := "https://" + r.Host + "/acme/"
		s.answer(w, http.StatusOK, map[string]any{"newNonce": base + "nonce", "newAccount": base + "account", "newOrder": base + "order", "revokeCert": base + "revoke", "keyChange": base + "key-change"})
	})
	mux.HandleFunc("/acme/nonce", func(w http.ResponseWriter, _ *http.Request) {
		s.nonce(w)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /acme/account", s.signed(s.account))
	mux.HandleFunc("POST /acme/order", s.signed(s.order))
	mux.HandleFunc("POST /acme/order/{id}", s.signed(s.show))
	mux.HandleFunc("POST /acme/authz/{id}/{n}", s.signed(s.authz))
	mux.HandleFunc("POST /acme/challenge/{id}/{n}", s.signed(s.challenge))
	mux.HandleFunc("POST /acme/finalize/{id}", s.signed(s.finalize))
	mux.HandleFunc("POST /acme/cert/{id}", s.signed(s.cert))
	return mux
}

type acme struct {
	o ACMEOptions

	mu       sync.Mutex
	nonces   map[string]bool
	accounts map[string]*acmeAccount // by thumbprint, which is their ID
	orders   map[string]*acmeOrder
}

type acmeAccount struct{ key jwk }

type acmeName struct {
	Type  string `json:"type"` // dns or ip
	Value string `json:"value"`
}

type acmeOrder struct {
	account string
	expires time.Time
	names   []acmeName
	request Request
	authz   []acmeAuthz
	chain   []byte
	busy    bool // it is being finalized
}

type acmeAuthz struct {
	token  string
	status string // pending, processing, valid, invalid
	why    string
}

// acmeError is a problem document (RFC 8555, section 6.7).
type acmeError struct {
	kind string
	text string
}

func (e acmeError) Error() string { return e.text }

func problem(kind, format string, args ...any) error {
	return acmeError{kind, fmt.Sprintf(format, args...)}
}

// asked is a request whose signature is right.
type asked struct {
	*http.Request
	payload []byte
	account string // thumbprint
	key     jwk
	base    string
}

// signed checks nonce, URL and signature of a request before it is looked at.
func (s *acme) signed(do func(http.ResponseWriter, asked) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.check(w, r, do)
		if err == nil {
			return
		}
		p := acmeError{"serverInternal", err.Error()}
		status := http.StatusInternalServerError
		switch {
		case errors.As(err, &p):
			status = map[string]int{"unauthorized": 403, "rejectedIdentifier": 403, "orderNotReady": 403, "accountDoesNotExist": 400, "rateLimited": 429}[p.kind]
			if status == 0 {
				status = http.StatusBadRequest
			}
		case errors.Is(err, ErrRefused):
			p.kind, status = "unauthorized", http.StatusForbidden
		case errors.Is(err, ErrInvalid):
			p.kind, status = "malformed", http.StatusBadRequest
		}
		s.nonce(w)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + p.kind, "detail": p.text, "status": status})
	}
}

func (s *acme) check(w http.ResponseWriter, r *http.Request, do func(http.ResponseWriter, asked) error) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCSR))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	m, h, err := parseJWS(body)
	if err != nil {
		return err
	}
	a := asked{Request: r, base: "https://" + r.Host + "/acme/"}
	if h.URL != "https://"+r.Host+r.URL.Path {
		return problem("unauthorized", "signed for another URL")
	}
	s.mu.Lock()
	fresh := s.nonces[h.Nonce]
	delete(s.nonces, h.Nonce)
	a.account = strings.TrimPrefix(h.KID, a.base+"account/")
	known := s.accounts[a.account]
	s.mu.Unlock()
	if !fresh {
		return problem("badNonce", "the nonce is unknown or used")
	}
	switch {
	case h.JWK != nil && r.URL.Path == "/acme/account":
		a.key = *h.JWK
		a.account = a.key.thumbprint()
	case h.JWK != nil || known == nil:
		return problem("accountDoesNotExist", "no such account here; it may be forgotten after a restart")
	default:
		a.key = known.key
	}
	pub, err := a.key.public()
	if err != nil {
		return problem("badPublicKey", "%v", err)
	}
	if a.payload, err = m.verify(h.Alg, pub); err != nil {
		return err
	}
	return do(w, a)
}

func (s *acme) nonce(w http.ResponseWriter) {
	n := secretName()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nonces) >= maxNonces {
		clear(s.nonces) // their clients ask for another one
	}
	s.nonces[n] = true
	w.Header().Set("Replay-Nonce", n)
}

func secretName() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, it says
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s *acme) answer(w http.ResponseWriter, status int, v any) {
	s.nonce(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone, and will ask again
}
