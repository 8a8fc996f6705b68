package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func findings(all []Item) string {
	var b strings.Builder
	for _, i := range all {
		for _, f := range i.Findings {
			fmt.Fprintf(&b, "%s: %s (broken %v)\n", i.Kind, f.Text, f.Broken)
		}
	}
	return b.String()
}

func TestShow(t *testing.T) {
	a := authority(t, noon, nil)
	out, err := a.Issue(noon, etcd())
	if err != nil {
		t.Fatal(err)
	}
	evil, _ := rogue(t, a, func(c *x509.Certificate) { c.DNSNames = []string{"www.example.com"} })
	foreign := authority(t, noon, nil)
	ssh, err := a.IssueSSH(noon, SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: sshPub(t), ID: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	crl := crlOf(t, a, noon)
	p12, err := writeP12([]*x509.Certificate{a.root})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csrOf(t, "x.example.org"))
	for name, c := range map[string]struct {
		data  []byte
		at    time.Time
		kinds string
		want  string // a line of the findings; "" for nothing broken
	}{
		"a chain":           {out.Cert, noon, "certificate certificate", ""},
		"a chain and a key": {append(slices.Clone(out.Cert), out.Key...), noon, "certificate certificate private key", ""},
		"too late":          {out.Cert, noon.Add(48 * time.Hour), "certificate certificate", "over for 24h0m0s (broken true)"},
		"too early":         {out.Cert, noon.Add(-48 * time.Hour), "certificate certificate", "not yet valid for 24h0m0s (broken true)"},
		"soon":              {out.Cert, noon, "certificate certificate", "ends in 24h0m0s (broken false)"},
		"another's chain":   {append(pemCert(leafOf(t, out)), foreign.chain...), noon, "certificate certificate", "the chain is broken here (broken true)"},
		"outside":           {evil, noon, "certificate certificate", "outside the name constraints"},
		"mbedTLS":           {a.chain, noon, "certificate", "mbedTLS"},
		"DER":               {leafOf(t, out).Raw, noon, "certificate", ""},
		"CSR":               {block.Bytes, noon, "csr", ""},
		"CRL":               {crl, noon.Add(8 * 24 * time.Hour), "crl", "over for 24h0m0s"},
		"JKS":               {writeJKS([]jksEntry{newJKSEntry("x", noon, a.root.Raw)}), noon, "certificate", ""},
		"PKCS #12":          {p12, noon, "certificate", ""},
		"SSH":               {ssh.Cert, noon.Add(25 * time.Hour), "ssh certificate", "over for 1h0m0s (broken true)"},
		"SSH key":           {sshPub(t), noon, "ssh key", ""},
	} {
		all, err := Show(c.at, c.data)
		if err != nil {
			t.Errorf("Show(%s) = %v", name, err)
			continue
		}
		var kinds []string
		for _, i := range all {
			kinds = append(kinds, i.Kind)
		}
		got := findings(all)
		if strings.Join(kinds, " ") != c.kinds || (c.want == "" && strings.Contains(got, "broken true")) || !strings.Contains(got, c.want) {
			t.Errorf("Show(%s) = %v\n%s; want %s, %q", name, kinds, got, c.kinds, c.want)
		}
	}
	for name, data := range map[string][]byte{"nothing": nil, "text": []byte("hello"), "zeros": make([]byte, 100), "too much": make([]byte, maxShow+1), "empty PEM": []byte("-----BEGIN X-----\n-----END X-----\n")} {
		_, err := Show(noon, data)
		wantErr(t, "Show("+name+")", err, ErrInvalid)
	}
}

func TestShowHost(t *testing.T) {
	a := authority(t, time.Now(), nil)
	at := serving(t, a, ServeOptions{})
	all, err := ShowHost(t.Context(), time.Now(), at, "a.etcd.example.org")
	if err != nil || len(all) != 2 || strings.Contains(findings(all), "broken true") {
		t.Errorf("ShowHost() = %d items, %v\n%s; want 2, none broken", len(all), err, findings(all))
	}
	all, err = ShowHost(t.Context(), time.Now(), at, "www.example.org")
	if err != nil || !strings.Contains(findings(all), "it does not name www.example.org (broken true)") {
		t.Errorf("ShowHost(another name) = %v\n%s", err, findings(all))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := ShowHost(ctx, time.Now(), netip.MustParseAddrPort(l.Addr().String()), ""); err == nil {
		t.Error("ShowHost() of a server that says nothing = nil; want an error")
	}
}

func TestIdentityIsReplacedAsAWhole(t *testing.T) {
	a := authority(t, noon, nil)
	id := Identity{Dir: filepath.Join(t.TempDir(), "id"), UID: 1234, GID: 1234}
	var serials []string
	for range 3 {
		out, err := a.Issue(noon, etcd())
		if err != nil {
			t.Fatal(err)
		}
		if err := id.Write(out); err != nil {
			t.Fatal(err)
		}
		back, err := ReadIdentity(id.Dir)
		if err != nil || back.Serial != out.Serial || !bytes.Equal(back.Key, out.Key) || !bytes.Equal(back.Root, out.Root) {
			t.Fatalf("ReadIdentity() = %s, %v; want %s", back.Serial, err, out.Serial)
		}
		serials = append(serials, out.Serial)
	}
	st, err := os.Stat(filepath.Join(id.Dir, "key.pem"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key = %v, %v; want 0600", st.Mode(), err)
	}
	if uid, _ := owner(st); os.Getuid() == 0 && uid != 1234 {
		t.Errorf("owner of the key = %d; want 1234", uid)
	}
	left, err := os.ReadDir(id.Dir)
	if err != nil || len(left) != 5 {
		t.Errorf("the identity has %v, %v; want 3 links, ..data and ..%s", left, err, serials[2])
	}
	wantErr(t, "Write() without a key", id.Write(Issued{Serial: "x"}), ErrInvalid)
}

func TestKeepRenews(t *testing.T) {
	a := authority(t, noon, nil)
	id := Identity{Dir: filepath.Join(t.TempDir(), "id"), UID: os.Getuid(), GID: os.Getgid()}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		first, err := a.Issue(noon, etcd())
		if err != nil {
			t.Fatal(err)
		}
		var log []string
		down := 0
		ctx, cancel := context.WithCancel(t.Context())
		go id.Keep(ctx, first, func(context.Context) (Issued, error) {
			if down++; down == 1 || down == 2 {
				return Issued{}, errors.New("down")
			}
			return a.Issue(noon, etcd())
		}, func(_ Issued, err error) { log = append(log, fmt.Sprintf("%s %v", time.Since(begin), err)) })
		time.Sleep(33 * time.Hour)
		cancel()
		synctest.Wait()
		want := []string{"16h0m0s down", "16h0m10s down", "16h0m30s <nil>", "32h0m30s <nil>"}
		if !slices.Equal(log, want) {
			t.Errorf("Keep() asked at %v; want %v", log, want)
		}
	})
}

func FuzzShow(f *testing.F) {
	a := authority(f, noon, nil)
	out, err := a.Issue(noon, etcd())
	if err != nil {
		f.Fatal(err)
	}
	s, err := a.IssueSSH(noon, SSHRequest{Service: "etcd", Kind: SSHHost, Principals: []string{"10.0.0.1"}, PublicKey: sshPub(f), ID: "x"})
	if err != nil {
		f.Fatal(err)
	}
	crl := crlOf(f, a, noon)
	for _, b := range [][]byte{out.Cert, leafOf(f, out).Raw, a.intermediate.Raw, s.Cert, crl, csrOf(f, "a.example.org")} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Show(noon, b); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("Show() = %v; want ErrInvalid", err)
		}
	})
}
