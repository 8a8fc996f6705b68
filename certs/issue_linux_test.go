package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIssueRefuses(t *testing.T) {
	var events []Event
	c, alice := ceremony(t, noon, nil)
	a := openCeremony(t, c, alice.key, AuthorityOptions{Policy: policy(t, examplePolicy), Record: func(e Event) error {
		events = append(events, e)
		return nil
	}})
	for name, x := range map[string]struct {
		r    Request
		want error
		word string
	}{
		"unknown service":     {Request{Service: "mysql", DNS: []string{"a.etcd.example.org"}}, ErrRefused, "no service of this name"},
		"another's name":      {Request{Service: "etcd", DNS: []string{"a.web.example.org"}}, ErrRefused, "policy does not give"},
		"two labels deep":     {Request{Service: "etcd", DNS: []string{"a.b.etcd.example.org"}}, ErrRefused, "policy does not give"},
		"another domain":      {Request{Service: "etcd", DNS: []string{"example.com"}}, ErrRefused, "constraints"},
		"a domain's suffix":   {Request{Service: "etcd", DNS: []string{"notexample.org"}}, ErrRefused, "constraints"},
		"another network":     {Request{Service: "etcd", IP: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, ErrRefused, "constraints"},
		"in scope, not ours":  {Request{Service: "etcd", IP: []netip.Addr{netip.MustParseAddr("10.0.9.1")}}, ErrRefused, "policy"},
		"an IPv6 address":     {Request{Service: "etcd", IP: []netip.Addr{netip.MustParseAddr("::1")}}, ErrRefused, "constraints"},
		"another domain's id": {Request{Service: "etcd", URI: []string{"spiffe://example.com/etcd"}}, ErrRefused, "constraints"},
		"another id":          {Request{Service: "etcd", URI: []string{"spiffe://recovery.example.org/etcdx"}}, ErrRefused, "policy"},
		"id with dots":        {Request{Service: "etcd", URI: []string{"spiffe://recovery.example.org/etcd/../web"}}, ErrInvalid, "SPIFFE"},
		"a URI of an IP":      {Request{Service: "etcd", URI: []string{"https://10.0.0.1/"}}, ErrInvalid, "address"},
		"a use":               {Request{Service: "web", DNS: []string{"a.web.example.org"}, Use: []Use{Client}}, ErrRefused, "client"},
		"the default uses":    {Request{Service: "web", DNS: []string{"a.web.example.org"}}, ErrRefused, "client"},
		"too long":            {Request{Service: "etcd", DNS: []string{"etcd.example.org"}, For: 49 * time.Hour}, ErrRefused, "48h"},
		"negative life":       {Request{Service: "etcd", DNS: []string{"etcd.example.org"}, For: -time.Hour}, ErrInvalid, "minute"},
		"no names":            {Request{Service: "web"}, ErrInvalid, "no name"},
		"no service":          {Request{DNS: []string{"etcd.example.org"}}, ErrInvalid, "service"},
		"a bad name":          {Request{Service: "etcd", DNS: []string{"etcd.example.org\x00.example.com"}}, ErrInvalid, "no DNS name"},
		"an address as name":  {Request{Service: "etcd", DNS: []string{"10.0.0.1"}}, ErrInvalid, "address"},
		"too many names":      {Request{Service: "etcd", DNS: slices.Repeat([]string{"etcd.example.org"}, 101)}, ErrInvalid, "more than"},
		"a key type":          {Request{Service: "etcd", DNS: []string{"etcd.example.org"}, Key: "dsa"}, ErrInvalid, "dsa"},
		"a name in the CSR":   {Request{Service: "etcd", DNS: []string{"etcd.example.org"}, CSR: csrOf(t, "a.web.example.org")}, ErrRefused, "a.web"},
		"ASN.1 garbage":       {Request{Service: "etcd", CSR: []byte{0x30, 0x82, 0xff, 0xff, 1}}, ErrInvalid, ""},
	} {
		events = nil
		out, err := a.Issue(noon, x.r)
		wantErr(t, "Issue("+name+")", err, x.want, x.word)
		if out.Cert != nil || out.Key != nil {
			t.Errorf("Issue(%s) gave something out beside its error", name)
		}
		if errors.Is(err, ErrRefused) && (len(events) != 1 || events[0].Refused == "" || events[0].Serial != "") {
			t.Errorf("Issue(%s) recorded %+v; want one refusal", name, events)
		}
	}
	out, err := a.Issue(noon, Request{Service: "web", DNS: []string{"x.y.web.example.org"}, Use: []Use{Server}})
	if err != nil {
		t.Fatal(err)
	}
	l := leafOf(t, out)
	if !slices.Equal(l.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || l.IsCA {
		t.Errorf("a server's certificate has the usages %v, authority %v", l.ExtKeyUsage, l.IsCA)
	}
	secret, _ := pem.Decode(out.Key)
	for _, e := range events {
		text, err := json.Marshal(e)
		if err != nil || bytes.Contains(text, []byte("PRIVATE")) || bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(secret.Bytes)[:40])) {
			t.Errorf("a record holds a private key, or %v: %s", err, text)
		}
	}
	if e := events[len(events)-1]; e.Serial != out.Serial || e.Service != "web" || e.Names[0] != "dns:x.y.web.example.org" || e.Key == "" || !e.NotAfter.Equal(out.NotAfter) {
		t.Errorf("Issue() recorded %+v; want what it gave out", e)
	}
}

func TestNothingIsGivenOutUnrecorded(t *testing.T) {
	full := errors.New("no space left on device")
	c, alice := ceremony(t, noon, nil)
	a := openCeremony(t, c, alice.key, AuthorityOptions{Policy: policy(t, examplePolicy), Record: func(Event) error { return full }})
	out, err := a.Issue(noon, etcd())
	wantErr(t, "Issue() with a full disk", err, full)
	if out.Cert != nil || out.Key != nil {
		t.Error("Issue() gave out a certificate that is not recorded")
	}
	s, err := a.IssueSSH(noon, SSHRequest{Service: "etcd", Kind: SSHHost, Principals: []string{"10.0.0.1"}, PublicKey: sshPub(t)})
	wantErr(t, "IssueSSH() with a full disk", err, full)
	if s.Cert != nil {
		t.Error("IssueSSH() gave out a certificate that is not recorded")
	}
	_, err = a.Issue(noon, Request{Service: "mysql", DNS: []string{"etcd.example.org"}})
	wantErr(t, "Issue() refused with a full disk", err, full)
	wantErr(t, "Issue() refused with a full disk", err, ErrRefused)
}

func TestClocksThatAreOff(t *testing.T) {
	c, alice := ceremony(t, noon, nil)
	floor := noon.AddDate(0, 3, 0)
	a := openCeremony(t, c, alice.key, AuthorityOptions{Policy: policy(t, examplePolicy), Floor: floor})
	for name, x := range map[string]struct{ now, want time.Time }{
		"the clock is right":  {floor.Add(time.Hour), floor.Add(time.Hour)},
		"years behind":        {time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), floor},
		"a little behind":     {floor.Add(-time.Minute), floor},
		"in another timezone": {floor.Add(time.Hour).In(time.FixedZone("x", 3600)), floor.Add(time.Hour)},
	} {
		out, err := a.Issue(x.now, etcd())
		if err != nil {
			t.Fatal(err)
		}
		l := leafOf(t, out)
		if !l.NotBefore.Equal(x.want.Add(-24*time.Hour)) || !l.NotAfter.Equal(x.want.Add(24*time.Hour)) || out.Shortened {
			t.Errorf("Issue(%s): valid %s to %s; want a day each way of %s", name, l.NotBefore, l.NotAfter, x.want)
		}
	}
	end := c.Intermediate.NotAfter
	out, err := a.Issue(end.Add(-time.Hour), etcd())
	if err != nil || !out.Shortened || !leafOf(t, out).NotAfter.Equal(end) {
		t.Errorf("Issue() an hour before the end = until %s, shortened %v, %v; want until %s", out.NotAfter, out.Shortened, err, end)
	}
	_, err = a.Issue(end.Add(time.Hour), etcd())
	wantErr(t, "Issue() after the intermediate's end", err, ErrExpired)
	_, err = a.Issue(noon.AddDate(50, 0, 0), etcd())
	wantErr(t, "Issue() with the clock 50 years ahead", err, ErrExpired)
	// A ceremony knows when it was held, so a host without any floor does not go back before it.
	b := openCeremony(t, c, alice.key, AuthorityOptions{})
	out, err = b.Issue(time.Unix(0, 0), etcd())
	if err != nil || !out.NotBefore.Equal(noon.Add(-24*time.Hour)) {
		t.Errorf("Issue() at the epoch: from %s, %v; want a day before the ceremony", out.NotBefore, err)
	}
}

func TestCSRsThatAreRefused(t *testing.T) {
	sign := func(k any, tm *x509.CertificateRequest) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, tm, k)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, _ := pem.Decode(csrOf(t, "a.etcd.example.org"))
	broken := slices.Clone(good.Bytes)
	broken[len(broken)-3] ^= 1
	p256, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		csr  []byte
		word string
	}{
		"RSA of 1024 bits":  {sign(weak, &x509.CertificateRequest{}), "1024 bits"},
		"P-224":             {sign(p224, &x509.CertificateRequest{}), "P-224"},
		"a wrong signature": {broken, "signature"},
		"a certificate":     {pemCert(leafOf(t, mustIssue(t))), "CERTIFICATE"},
		"two":               {slices.Repeat(csrOf(t, "a.etcd.example.org"), 2), "PEM"},
		"too large":         {make([]byte, maxCSR+1), "larger"},
		"cut":               {good.Bytes[:len(good.Bytes)/2], ""},
		"with mail":         {sign(p256, &x509.CertificateRequest{EmailAddresses: []string{"a@example.org"}}), "mail"},
		"nothing":           {[]byte{}, ""},
	} {
		_, err := ParseCSR(c.csr)
		wantErr(t, "ParseCSR("+name+")", err, ErrInvalid, c.word)
	}
	if r, err := ParseCSR(good.Bytes); err != nil || r.DNSNames[0] != "a.etcd.example.org" {
		t.Errorf("ParseCSR(DER) = %v; want it read", err)
	}
}

func mustIssue(t testing.TB) Issued {
	t.Helper()
	out, err := authority(t, noon, nil).Issue(noon, etcd())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPoliciesThatAreRefused(t *testing.T) {
	for text, word := range map[string]string{
		"service a\nservice a\n":                "line 2",
		"dns a.example.org\n":                   "before the first",
		"service a\n dns -x-\n":                 "no name",
		"service a\n ip 10.0.0.1/8\n":           "host bits",
		"service a\n ip fe80::1%eth0\n":         "neither",
		"service a\n uri etcd\n":                "no URI",
		"service a\n use everything\n":          "no use",
		"service a\n for ever\n":                "duration",
		"service a\n for 1h\n for 2h\n":         "once",
		"service a\n allow all\n":               "unknown word",
		"service a b\n":                         "one service",
		"service a\n user $(id)\n":              "principal",
		"service\n":                             "says nothing",
		"max 1h\nmax 2h\n":                      "once",
		"service " + strings.Repeat("x", 70000): "line 1",
	} {
		_, err := ParsePolicy([]byte(text))
		wantErr(t, "ParsePolicy("+text[:min(len(text), 40)]+")", err, ErrInvalid, word)
	}
}

func TestCRLIsReadByOpenSSL(t *testing.T) {
	a := authority(t, time.Now(), nil)
	var crl []byte
	for n, serials := range [][]string{nil, {"4f4f"}, {"this"}, {"this", "4f4f"}} {
		out, err := a.Issue(time.Now(), etcd())
		if err != nil {
			t.Fatal(err)
		}
		revoked := n > 1
		serials = slices.Clone(serials)
		if revoked {
			serials[0] = out.Serial
		}
		if crl, err = a.Revoke(time.Now(), crl, serials, "uid 0"); err != nil {
			t.Fatal(err)
		}
		dir := pki(t, a, out.Cert, out.Key)
		d := write(t, map[string][]byte{"crl.pem": crl})
		got, err := tool(t, dir, "openssl", "verify", "-crl_check", "-CRLfile", d+"/crl.pem", "-CAfile", "root.pem", "-untrusted", "inter.pem", "leaf.pem")
		if (err != nil) != revoked || revoked && !strings.Contains(got, "revoked") {
			t.Errorf("openssl verify -crl_check, revoked %v: %v\n%s", revoked, err, got)
		}
		got, err = tool(t, d, "openssl", "crl", "-in", "crl.pem", "-noout", "-text")
		if want := max(0, n); err != nil || strings.Count(got, "Serial Number:") != want || !strings.Contains(got, fmt.Sprintf("CRL Number: \n                %d\n", n+1)) {
			t.Errorf("list %d = %v, want %d serial numbers and its own:\n%s", n+1, err, want, got)
		}
	}
	for word, previous := range map[string][]byte{"PEM": []byte("hello"), "not this authority's": crlOf(t, authority(t, time.Now(), nil), time.Now())} {
		_, err := a.Revoke(time.Now(), previous, []string{"4f"}, "")
		wantErr(t, "Revoke() after another list", err, ErrInvalid, word)
	}
	for _, serial := range []string{"", "0", "-1", "xyz", strings.Repeat("f", 41)} {
		_, err := a.Revoke(time.Now(), nil, []string{serial}, "")
		wantErr(t, "Revoke("+serial+")", err, ErrInvalid, "serial number")
	}
	a.Close()
	_, err := a.Revoke(time.Now(), crl, nil, "")
	wantErr(t, "Revoke() after Close", err, ErrExpired)
}

func crlOf(t testing.TB, a *Authority, now time.Time) []byte {
	t.Helper()
	b, err := a.Revoke(now, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParseCSR(f *testing.F) {
	b, _ := pem.Decode(csrOf(f, "a.etcd.example.org"))
	f.Add(b.Bytes)
	f.Add(csrOf(f, "b.example.org"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseCSR(b)
		if err != nil {
			return
		}
		if _, err := (Request{Service: "x"}).names(r); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("names() = %v; want ErrInvalid", err)
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(examplePolicy))
	f.Add([]byte("service a\n dns *. .\n ip ::/0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParsePolicy() = %v; want ErrInvalid", err)
			}
			return
		}
		for _, s := range p.Services() {
			r := p.rules[s]
			r.allowsDNS("a.example.org")
			r.allowsURI("spiffe://a/b")
			r.allowsIP(netip.MustParseAddr("10.0.0.1"))
			p.limit(r)
		}
	})
}

// TestPolicyNames has the policy name what a request does not, and never what it only bounds.
func TestPolicyNames(t *testing.T) {
	p := policy(t, `service a
	dns a.example.org *.a.example.org .deep.example.org
	ip 10.0.0.0/24 10.0.1.7
	uri spiffe://example.org/a spiffe://example.org/a/*
	use client
`)
	r := Request{Service: "a"}
	p.fill(&r)
	want := Request{Service: "a", DNS: []string{"a.example.org"}, IP: []netip.Addr{netip.MustParseAddr("10.0.1.7")}, URI: []string{"spiffe://example.org/a"}, Use: []Use{Client}}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("fill() = %+v; want %+v", r, want)
	}
	r = Request{Service: "a", DNS: []string{"b.a.example.org"}}
	if p.fill(&r); len(r.DNS) != 1 || len(r.IP)+len(r.URI)+len(r.Use) != 0 {
		t.Errorf("fill() of a request with a name = %+v; want it as it was", r)
	}
}
