package certs

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Issued is a certificate that was given out.
type Issued struct {
	Serial    string    `json:"serial"`        // hexadecimal
	Cert      []byte    `json:"cert"`          // PEM: the leaf, then the intermediate
	Key       []byte    `json:"key,omitempty"` // PEM PKCS #8; nil for a CSR
	Root      []byte    `json:"root"`          // PEM, for whoever is to trust it
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Shortened bool      `json:"shortened,omitempty"` // it ends with the intermediate, sooner than was asked for
}

// Issue checks a request against the policy and the authority's scope, records it, and gives out the certificate.
//
// Errors: ErrInvalid; ErrRefused with what is not allowed; ErrExpired once the authority is closed or over.
func (a *Authority) Issue(now time.Time, r Request) (Issued, error) {
	out, err := a.issue(later(now, a.floor), r)
	if err != nil {
		return Issued{}, fmt.Errorf("issuing a certificate for %.64q: %w", r.Service, err)
	}
	return out, nil
}

func (a *Authority) issue(at time.Time, r Request) (Issued, error) {
	out := Issued{NotBefore: at.Add(-Backdate)}
	if !serviceName(r.Service) {
		return out, fmt.Errorf("%w: want a service's name, of at most 64 letters, digits, ., _, -, /", ErrInvalid)
	}
	var csr *x509.CertificateRequest
	var err error
	if r.CSR != nil {
		if csr, err = ParseCSR(r.CSR); err != nil {
			return out, err
		}
	}
	if a.policy != nil && csr == nil {
		a.policy.fill(&r)
	}
	n, err := r.names(csr)
	if err != nil {
		return out, err
	}
	ev := Event{Kind: "x509", Service: r.Service, Names: n.subj, By: r.By}
	life, err := a.allow(r, n)
	if err != nil {
		return out, a.refuse(ev, err)
	}
	out.NotAfter = at.Add(life)
	if out.NotAfter.After(a.intermediate.NotAfter) {
		out.NotAfter, out.Shortened = a.intermediate.NotAfter, true
	}
	if !out.NotAfter.After(at) {
		return out, a.refuse(ev, fmt.Errorf("%w: the intermediate ended %s", ErrExpired, day(a.intermediate.NotAfter)))
	}
	var pub crypto.PublicKey
	var key crypto.Signer
	if csr != nil {
		pub = csr.PublicKey
	} else {
		if r.Key == "" {
			r.Key = P256
		}
		if key, err = newKey(r.Key); err != nil {
			return out, err
		}
		pub = key.Public()
	}
	return out, a.give(&out, ev, r, n, pub, key)
}

// give signs and records, and only then fills in what is given out.
func (a *Authority) give(out *Issued, ev Event, r Request, n names, pub crypto.PublicKey, key crypto.Signer) error {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	sum := sha256.Sum256(spki)
	num, err := serial()
	if err != nil {
		return err
	}
	out.Serial = fmt.Sprintf("%x", num)
	ev.Serial, ev.Key, ev.NotBefore, ev.NotAfter = out.Serial, fmt.Sprintf("%x", sum), out.NotBefore, out.NotAfter
	der, err := a.sign(leaf{serial: num, service: r.Service, names: n, use: r.Use, pub: pub, from: out.NotBefore, to: out.NotAfter})
	if err != nil {
		return err
	}
	var keyPEM []byte
	if key != nil {
		p8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8})
		clear(p8)
	}
	if a.record != nil {
		if err := a.record(ev); err != nil {
			clear(keyPEM)
			return fmt.Errorf("recording it, without which nothing is given out: %w", err)
		}
	}
	out.Cert = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.chain...)
	out.Key, out.Root = keyPEM, bytes.Clone(a.anchor)
	return nil
}

// allow checks names and uses, and says how long the certificate may live.
func (a *Authority) allow(r Request, n names) (time.Duration, error) {
	for _, u := range r.Use {
		if u != Server && u != Client {
			return 0, fmt.Errorf("%w: use %.40q; want server or client", ErrInvalid, u)
		}
	}
	if err := a.inScope(n); err != nil {
		return 0, err
	}
	limit := longestLife
	if a.policy != nil {
		rl := a.policy.rules[r.Service]
		if rl == nil {
			return 0, fmt.Errorf("%w: the policy has no service of this name", ErrRefused)
		}
		if err := rl.allow(r, n); err != nil {
			return 0, err
		}
		limit = a.policy.limit(rl)
	}
	switch {
	case r.For == 0:
		return min(DefaultFor, limit), nil
	case r.For < time.Minute:
		return 0, fmt.Errorf("%w: a life of %s; want a minute at least", ErrInvalid, r.For)
	case r.For > limit:
		return 0, fmt.Errorf("%w: a life of %s; %s at most", ErrRefused, r.For, limit)
	}
	return r.For, nil
}

func (a *Authority) inScope(n names) error {
	for _, d := range n.dns {
		if !a.scope.dns(d) {
			return fmt.Errorf("%w: %s is outside the authority's constraints", ErrRefused, d)
		}
	}
	for _, ip := range n.ip {
		if !a.scope.ip(ip) {
			return fmt.Errorf("%w: %s is outside the authority's constraints", ErrRefused, ip)
		}
	}
	for _, u := range n.uri {
		if !a.scope.uri(u) {
			return fmt.Errorf("%w: %s is outside the authority's constraints", ErrRefused, u)
		}
	}
	return nil
}

func (p *Policy) limit(r *rule) time.Duration {
	limit := longestLife
	if p.max != 0 {
		limit = p.max
	}
	if r.life != 0 {
		limit = min(limit, r.life)
	}
	return limit
}

func (rl *rule) allow(r Request, n names) error {
	for _, d := range n.dns {
		if !rl.allowsDNS(d) {
			return fmt.Errorf("%w: the policy does not give %s to this service", ErrRefused, d)
		}
	}
	for _, ip := range n.ip {
		if !rl.allowsIP(ip) {
			return fmt.Errorf("%w: the policy does not give %s to this service", ErrRefused, ip)
		}
	}
	for _, u := range n.uri {
		if !rl.allowsURI(u.String()) {
			return fmt.Errorf("%w: the policy does not give %s to this service", ErrRefused, u)
		}
	}
	want := r.Use
	if len(want) == 0 {
		want = []Use{Server, Client}
	}
	if len(rl.uses) == 0 {
		return nil
	}
	for _, u := range want {
		if !slices.Contains(rl.uses, u) {
			return fmt.Errorf("%w: the policy does not give this service certificates for the use %s; ask for %v", ErrRefused, u, rl.uses)
		}
	}
	return nil
}

// refuse records a refusal; where even that fails, both are told.
func (a *Authority) refuse(ev Event, why error) error {
	if a.record == nil {
		return why
	}
	ev.Refused = why.Error()
	if err := a.record(ev); err != nil {
		return errors.Join(why, fmt.Errorf("recording the refusal: %w", err))
	}
	return why
}
