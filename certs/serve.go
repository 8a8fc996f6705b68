package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// ServeOptions say what certs serve does. The server holds no authority's keys: it asks a session.
type ServeOptions struct {
	Issue  func(context.Context, Request) (Issued, error) // Session.Issue
	Tokens *Tokens
	Self   Issued // the server's own certificate, for the addresses it listens on
	Floor  time.Time
	Extra  http.Handler // serves what is below /acme/; nil for nothing
}

// Serve gives certificates to hosts, over TLS on l, until ctx ends:
//
//	GET  /v1/root     the root in PEM
//	POST /v1/enroll   a CSR in PEM or DER, with "Authorization: Bearer TOKEN"; the chain in PEM comes back
//	POST /v1/renew    a CSR, from whoever shows a certificate of this authority: the same names for a new key
//
// Errors come as {"error": "…"} with the status 400, 403, 410 (over) or 500.
func Serve(ctx context.Context, l net.Listener, o ServeOptions) error {
	pair, err := tls.X509KeyPair(o.Self.Cert, o.Self.Key)
	if err != nil {
		return errors.Join(fmt.Errorf("serving certificates: %w: %w", ErrInvalid, err), l.Close())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.Self.Root) {
		return errors.Join(fmt.Errorf("serving certificates: %w: no root", ErrInvalid), l.Close())
	}
	now := func() time.Time { return later(time.Now(), o.Floor) }
	s := &server{ServeOptions: o, now: now, roots: roots}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/root", func(w http.ResponseWriter, _ *http.Request) { writePEM(w, o.Self.Root) })
	mux.HandleFunc("POST /v1/enroll", s.enroll)
	mux.HandleFunc("POST /v1/renew", s.renew)
	if o.Extra != nil {
		mux.Handle("/acme/", o.Extra)
	}
	srv := &http.Server{
		Handler: mux, ReadTimeout: exchangeTime, WriteTimeout: 2 * exchangeTime, IdleTimeout: exchangeTime, MaxHeaderBytes: 16 << 10,
		ErrorLog:  log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, ClientCAs: roots, Time: now},
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true) // the other is not linked
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// What is being answered may end; a host must not get half a chain.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(srv.Shutdown(bounded), <-done)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving certificates: %w", err)
}

type server struct {
	ServeOptions
	now   func() time.Time
	roots *x509.CertPool
}

func (s *server) enroll(w http.ResponseWriter, r *http.Request) {
	csr, ok := readCSR(w, r)
	if !ok {
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		refuse(w, fmt.Errorf("%w: want Authorization: Bearer TOKEN", ErrToken))
		return
	}
	// What is wrong with the CSR costs no token.
	if _, err := ParseCSR(csr); err != nil {
		refuse(w, err)
		return
	}
	g, err := s.Tokens.Spend(s.now(), token)
	if err != nil {
		refuse(w, err)
		return
	}
	s.issue(w, r, g.Request, csr)
}

func (s *server) renew(w http.ResponseWriter, r *http.Request) {
	if err := s.known(r.TLS); err != nil {
		refuse(w, err)
		return
	}
	csr, ok := readCSR(w, r)
	if !ok {
		return
	}
	s.issue(w, r, requestOf(r.TLS.PeerCertificates[0]), csr)
}

// known says why whoever asks may not renew. A certificate for servers alone will do: the handshake has shown that they
// hold its key.
func (s *server) known(c *tls.ConnectionState) error {
	if c == nil || len(c.PeerCertificates) == 0 {
		return fmt.Errorf("%w: show a client certificate of this authority", ErrRefused)
	}
	inter := x509.NewCertPool()
	for _, i := range c.PeerCertificates[1:] {
		inter.AddCert(i)
	}
	_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: inter, CurrentTime: s.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("%w: your certificate: %w", ErrRefused, err)
	}
	return nil
}

// issue gives the names that were granted, and none that the CSR adds.
func (s *server) issue(w http.ResponseWriter, r *http.Request, req Request, csr []byte) {
	parsed, err := ParseCSR(csr)
	if err != nil {
		refuse(w, err)
		return
	}
	if err := subset(parsed, req); err != nil {
		refuse(w, err)
		return
	}
	req.CSR = csr
	out, err := s.Issue(r.Context(), req)
	if err != nil {
		refuse(w, err)
		return
	}
	writePEM(w, out.Cert)
}

func subset(csr *x509.CertificateRequest, req Request) error {
	granted, err := req.names(nil)
	if err != nil {
		return err
	}
	only := Request{Service: req.Service}
	if len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.URIs) == 0 {
		return nil
	}
	asked, err := only.names(csr)
	if err != nil {
		return err
	}
	for _, n := range asked.subj {
		if !contains(granted.subj, n) {
			return fmt.Errorf("%w: the CSR asks for %s, which was not granted", ErrRefused, n)
		}
	}
	return nil
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

// requestOf asks for what a certificate has: its service, names, uses and life.
func requestOf(c *x509.Certificate) Request {
	r := Request{Service: c.Subject.CommonName, DNS: c.DNSNames, For: c.NotAfter.Sub(c.NotBefore) - Backdate}
	if ou := c.Subject.OrganizationalUnit; r.Service == "" && len(ou) == 1 {
		r.Service = ou[0]
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			r.IP = append(r.IP, a.Unmap())
		}
	}
	for _, u := range c.URIs {
		r.URI = append(r.URI, u.String())
	}
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			r.Use = append(r.Use, Server)
		case x509.ExtKeyUsageClientAuth:
			r.Use = append(r.Use, Client)
		}
	}
	if r.For < time.Minute {
		r.For = 0 // it had been shortened to the intermediate's end
	}
	return r
}

func readCSR(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCSR))
	if err != nil {
		refuse(w, fmt.Errorf("%w: reading the CSR: %w", ErrInvalid, err))
		return nil, false
	}
	return b, true
}

func writePEM(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = w.Write(b) // the client has gone, and will ask again
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, ErrRefused), errors.Is(err, ErrToken):
		status = http.StatusForbidden
	case errors.Is(err, ErrExpired):
		status = http.StatusGone
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
