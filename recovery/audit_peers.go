package recovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// peerTime bounds one exchange with a peer.
const peerTime = 30 * time.Second

// peerTLS is an identity as both sides of a connection use it: each has to show a certificate of the same root.
func (s Site) peerTLS(identity string) (*tls.Config, error) {
	id, err := certs.ReadIdentity(identity)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		return nil, fmt.Errorf("reading identity %s: %w: %w", identity, certs.ErrInvalid, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(id.Root) {
		return nil, fmt.Errorf("reading identity %s: %w: it has no root", identity, certs.ErrInvalid)
	}
	floor := s.now()
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12, Time: func() time.Time { return later(time.Now(), floor) },
	}, nil
}

// ReceiveOptions say where the records of peers are kept.
type ReceiveOptions struct {
	Listen   netip.AddrPort
	Identity string // directory
	Dir      string // of the records, made where it is missing
	Ready    func(netip.AddrPort) error
}

// ReceiveAudits keeps the records of peers until ctx ends. A peer speaks for the names and addresses in its certificate.
func (s Site) ReceiveAudits(ctx context.Context, o ReceiveOptions) error {
	config, err := s.peerTLS(o.Identity)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("receiving records: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen.String())
	if err != nil {
		return fmt.Errorf("receiving records: %w", err)
	}
	srv := &http.Server{
		Handler: journal.Receive(o.Dir, speaksFor), TLSConfig: config, MaxHeaderBytes: 16 << 10,
		ReadTimeout: peerTime, WriteTimeout: 2 * peerTime, IdleTimeout: peerTime, ErrorLog: log.New(io.Discard, "", 0),
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true) // the other is not linked
	if err := o.Ready(l.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		return errors.Join(err, l.Close())
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// What is being written may end; what a peer did not hear of it sends again.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTime)
		defer cancel()
		err = errors.Join(srv.Shutdown(bounded), <-done)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("receiving records: %w", err)
}

func speaksFor(r *http.Request, origin string) bool {
	leaf := r.TLS.PeerCertificates[0]
	for _, ip := range leaf.IPAddresses {
		if ip.String() == origin {
			return true
		}
	}
	return slices.Contains(leaf.DNSNames, origin)
}

// PushAudit brings a peer's copy up to what the journal holds. origin is a name or an address in the identity's
// certificate; "" stands for this host's name.
func (s Site) PushAudit(ctx context.Context, peer netip.AddrPort, identity, origin string) (journal.Head, error) {
	config, err := s.peerTLS(identity)
	if err != nil {
		return journal.Head{}, err
	}
	if origin == "" {
		if origin, err = hostname(); err != nil {
			return journal.Head{}, err
		}
	}
	t := &http.Transport{TLSClientConfig: config, DialContext: (&net.Dialer{Timeout: peerTime}).DialContext}
	defer t.CloseIdleConnections()
	return journal.PushPeer(ctx, &http.Client{Transport: t, Timeout: 2 * peerTime}, "https://"+peer.String(), origin, s.journalPath())
}
