package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of what is shown.
const (
	maxShow  = 16 << 20 // bytes
	maxItems = 2000
)

// Item is something that was found in what a person pointed at.
type Item struct {
	Kind        string    `json:"kind"` // certificate, csr, crl, ssh certificate, ssh key, private key
	Subject     string    `json:"subject,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`
	Names       []string  `json:"names,omitempty"` // dns:, ip:, uri:, principals
	CA          bool      `json:"ca,omitempty"`
	Key         string    `json:"key,omitempty"` // such as ECDSA P-256
	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 in hexadecimal; SHA256:BASE64 for SSH
	Findings    []Finding `json:"findings,omitempty"`

	cert *x509.Certificate
}

// Finding is something that breaks, or will.
type Finding struct {
	Text   string    `json:"text"`
	At     time.Time `json:"at,omitzero"` // zero: from the start
	Broken bool      `json:"broken"`      // at the time of asking, and for everybody
}

// Show reads anything that may hold certificates, and says what will break and when: PEM and DER, Java's key stores, PKCS #12
// trust stores, SSH certificates and public keys. Private keys are named, never shown.
//
// Errors: ErrInvalid where nothing in it is known.
func Show(now time.Time, data []byte) ([]Item, error) {
	if len(data) > maxShow {
		return nil, fmt.Errorf("reading certificates: %w: larger than %d bytes", ErrInvalid, maxShow)
	}
	all, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	if len(all) > maxItems {
		return nil, fmt.Errorf("reading certificates: %w: more than %d", ErrInvalid, maxItems)
	}
	judge(now, all)
	return all, nil
}

// ShowHost shows what a TLS server presents, without trusting it. name is sent as SNI; "" for none.
func ShowHost(ctx context.Context, now time.Time, server netip.AddrPort, name string) ([]Item, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	var chain []*x509.Certificate
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{
		ServerName: name, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			chain = s.PeerCertificates
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", server.String())
	if conn != nil {
		defer conn.Close()
	}
	// A server that wants a certificate from the client has shown its own by then.
	if err != nil && len(chain) == 0 {
		return nil, fmt.Errorf("asking %s for its certificates: %w", server, err)
	}
	var all []Item
	for _, c := range chain {
		all = append(all, certItem(c))
	}
	judge(now, all)
	want := name
	if want == "" {
		want = server.Addr().String()
	}
	if len(chain) > 0 {
		if err := chain[0].VerifyHostname(want); err != nil {
			all[0].Findings = append(all[0].Findings, Finding{Text: "it does not name " + want, Broken: true})
		}
	}
	return all, nil
}

func read(data []byte) ([]Item, error) {
	text := bytes.TrimSpace(data)
	switch {
	case bytes.Contains(text, []byte("-----BEGIN ")):
		return readPEM(text)
	case bytes.HasPrefix(data, []byte{0xfe, 0xed, 0xfe, 0xed}):
		entries, err := parseJKS(data)
		if err != nil {
			return nil, err
		}
		var all []Item
		for _, e := range entries {
			all = append(all, derItem(e.cert))
		}
		return all, nil
	}
	if k, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return []Item{sshItem(k)}, nil
	}
	if len(data) > 0 && data[0] == 0x30 {
		if item, ok := der(data); ok {
			return []Item{item}, nil
		}
		if certs, err := parseP12(data); err == nil {
			var all []Item
			for _, c := range certs {
				all = append(all, certItem(c))
			}
			return all, nil
		}
	}
	return nil, fmt.Errorf("%w: neither PEM, DER, a Java key store, PKCS #12 nor an SSH key", ErrInvalid)
}

func readPEM(text []byte) ([]Item, error) {
	var all []Item
	for p, rest := pem.Decode(text); p != nil && len(all) <= maxItems; p, rest = pem.Decode(rest) {
		switch {
		case strings.HasSuffix(p.Type, "PRIVATE KEY"):
			all = append(all, Item{Kind: "private key", Key: p.Type})
		case p.Type == "CERTIFICATE" || p.Type == "TRUSTED CERTIFICATE":
			all = append(all, derItem(p.Bytes))
		default:
			if item, ok := der(p.Bytes); ok {
				all = append(all, item)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: PEM without certificates", ErrInvalid)
	}
	return all, nil
}

// der tries the forms that DER may have.
func der(b []byte) (Item, bool) {
	if c, err := x509.ParseCertificate(b); err == nil {
		return certItem(c), true
	}
	if r, err := x509.ParseCertificateRequest(b); err == nil {
		item := Item{Kind: "csr", Subject: r.Subject.String(), Key: keyName(r.PublicKey)}
		for _, d := range r.DNSNames {
			item.Names = append(item.Names, "dns:"+d)
		}
		for _, ip := range r.IPAddresses {
			item.Names = append(item.Names, "ip:"+ip.String())
		}
		for _, u := range r.URIs {
			item.Names = append(item.Names, "uri:"+u.String())
		}
		if _, err := ParseCSR(b); err != nil {
			item.Findings = append(item.Findings, Finding{Text: err.Error(), Broken: true})
		}
		return item, true
	}
	if l, err := x509.ParseRevocationList(b); err == nil {
		return Item{Kind: "crl", Issuer: l.Issuer.String(), NotBefore: l.ThisUpdate, NotAfter: l.NextUpdate, Subject: fmt.Sprintf("%d revoked", len(l.RevokedCertificateEntries))}, true
	}
	return Item{}, false
}

// derItem is a certificate that may be too broken for Go: then others may refuse it as well.
func derItem(b []byte) Item {
	c, err := x509.ParseCertificate(b)
	if err != nil {
		return Item{Kind: "certificate", Findings: []Finding{{Text: "cannot be read: " + err.Error(), Broken: true}}}
	}
	return certItem(c)
}

func certItem(c *x509.Certificate) Item {
	i := Item{
		Kind: "certificate", Subject: c.Subject.String(), Issuer: c.Issuer.String(), CA: c.IsCA, Key: keyName(c.PublicKey),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fingerprint: Fingerprint(c), cert: c,
	}
	for _, d := range c.DNSNames {
		i.Names = append(i.Names, "dns:"+d)
	}
	for _, ip := range c.IPAddresses {
		i.Names = append(i.Names, "ip:"+ip.String())
	}
	for _, u := range c.URIs {
		i.Names = append(i.Names, "uri:"+u.String())
	}
	return i
}

func sshItem(k ssh.PublicKey) Item {
	c, ok := k.(*ssh.Certificate)
	if !ok {
		return Item{Kind: "ssh key", Key: k.Type(), Fingerprint: ssh.FingerprintSHA256(k)}
	}
	i := Item{Kind: "ssh certificate", Subject: c.KeyId, Issuer: ssh.FingerprintSHA256(c.SignatureKey), Names: c.ValidPrincipals, Key: c.Key.Type(), Fingerprint: ssh.FingerprintSHA256(c.Key)}
	// The bounds of what fits a time.
	if c.ValidAfter > 0 && c.ValidAfter < 1<<40 {
		i.NotBefore = time.Unix(int64(c.ValidAfter), 0).UTC()
	}
	if c.ValidBefore < 1<<40 {
		i.NotAfter = time.Unix(int64(c.ValidBefore), 0).UTC()
	} else {
		i.Findings = append(i.Findings, Finding{Text: "it never ends"})
	}
	if len(c.ValidPrincipals) == 0 {
		i.Findings = append(i.Findings, Finding{Text: "it has no principals: old servers take it for everybody, new ones for nobody", Broken: true})
	}
	return i
}
