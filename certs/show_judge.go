package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// soon is how long before its end a certificate is worth a word.
const soon = 30 * 24 * time.Hour

func oidNameConstraints() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 30} }

// judge says of each item what breaks, and of a chain whether its links hold.
func judge(now time.Time, all []Item) {
	for n := range all {
		i := &all[n]
		i.dates(now)
		if i.cert == nil {
			continue
		}
		i.crypto()
		if i.CA {
			i.authority()
		} else {
			i.leaf()
		}
		if i.cert.Version < 3 {
			i.find("it is of version 1, without extensions", false)
		}
		for _, oid := range i.cert.UnhandledCriticalExtensions {
			i.find("clients that do not know the critical extension "+oid.String()+" refuse it", false)
		}
	}
	chain(all)
}

func (i *Item) find(text string, broken bool) {
	i.Findings = append(i.Findings, Finding{Text: text, Broken: broken})
}

func (i *Item) dates(now time.Time) {
	if !i.NotBefore.IsZero() && now.Before(i.NotBefore) {
		i.Findings = append(i.Findings, Finding{Text: fmt.Sprintf("not yet valid for %s", i.NotBefore.Sub(now).Round(time.Minute)), At: i.NotBefore, Broken: true})
	}
	if i.NotAfter.IsZero() {
		return
	}
	switch left := i.NotAfter.Sub(now); {
	case left < 0:
		i.Findings = append(i.Findings, Finding{Text: fmt.Sprintf("over for %s", (-left).Round(time.Minute)), At: i.NotAfter, Broken: true})
	case left < soon:
		i.Findings = append(i.Findings, Finding{Text: fmt.Sprintf("ends in %s", left.Round(time.Minute)), At: i.NotAfter})
	}
}

func (i *Item) crypto() {
	if err := checkKey(i.cert.PublicKey); err != nil {
		i.find(err.Error(), false)
	}
	if _, ok := i.cert.PublicKey.(ed25519.PublicKey); ok {
		i.find("Ed25519: browsers, Java before 15 and many appliances refuse it", false)
	}
	switch i.cert.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		// Nobody checks the signature of an anchor.
		if !bytes.Equal(i.cert.RawSubject, i.cert.RawIssuer) {
			i.find(fmt.Sprintf("signed with %s, which nearly everybody refuses", i.cert.SignatureAlgorithm), true)
		}
	}
}

func (i *Item) authority() {
	c := i.cert
	if !c.BasicConstraintsValid || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		i.find("an authority that may not sign certificates", true)
	}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidNameConstraints()) {
			continue
		}
		if e.Critical {
			i.find("clients with mbedTLS before 3 refuse critical name constraints", false)
		} else {
			i.find("name constraints that are not critical: who does not know them does not keep them", false)
		}
		for kind, open := range map[string]bool{
			"DNS names":    len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains) == 0,
			"IP addresses": len(c.PermittedIPRanges)+len(c.ExcludedIPRanges) == 0,
			"URIs":         len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) == 0,
		} {
			if open {
				i.find("its name constraints leave "+kind+" open", false)
			}
		}
	}
}

func (i *Item) leaf() {
	c := i.cert
	if len(i.Names) == 0 {
		i.find("no subject alternative names: a server with it is refused", false)
	}
	if c.NotAfter.Sub(c.NotBefore) > 398*24*time.Hour {
		i.find("valid for more than 398 days: browsers refuse a server with it", false)
	}
	server := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0
	for _, u := range c.ExtKeyUsage {
		server = server || u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny
	}
	if !server {
		i.find("not for servers", false)
	}
	if c.Subject.CommonName != "" && len(c.DNSNames) == 0 && len(i.Names) > 0 {
		i.find("a common name beside no DNS name: below DNS constraints GnuTLS and Java refuse it", false)
	}
}

// chain looks at certificates that follow one another, as a server sends them.
func chain(all []Item) {
	if len(all) == 0 || all[0].cert == nil || all[0].CA {
		return
	}
	for n := 1; n < len(all) && all[n].cert != nil && all[n].CA; n++ {
		child, parent := &all[n-1], all[n].cert
		if !bytes.Equal(child.cert.RawIssuer, parent.RawSubject) || child.cert.CheckSignatureFrom(parent) != nil {
			child.find("the next certificate did not sign it: the chain is broken here", true)
			continue
		}
		if parent.NotAfter.Before(child.NotAfter) {
			child.Findings = append(child.Findings, Finding{Text: "its issuer ends before it", At: parent.NotAfter})
		}
		if all[0].outside(parent) {
			all[0].find("outside the name constraints of "+all[n].Subject, true)
		}
	}
}

// outside says whether an authority's constraints forbid a leaf; Go's own check decides.
func (i *Item) outside(parent *x509.Certificate) bool {
	roots := x509.NewCertPool()
	roots.AddCert(parent)
	_, err := i.cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: i.cert.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	var bad x509.CertificateInvalidError
	ok := errors.As(err, &bad)
	return ok && bad.Reason == x509.CANotAuthorizedForThisName
}

func keyName(k crypto.PublicKey) string {
	switch k := k.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", k)
}
