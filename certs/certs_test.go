package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var exampleScope = Scope{
	DNS: []string{"example.org"},
	IP:  []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/16")},
	URI: []string{"recovery.example.org"},
}

const examplePolicy = `
# the storage services
max 72h
service etcd
    dns  etcd.example.org *.etcd.example.org localhost.example.org
    ip   127.0.0.0/8 10.0.0.0/24
    uri  spiffe://recovery.example.org/etcd spiffe://recovery.example.org/etcd/*
    user etcd-admin root
    for  48h
service web
    dns .web.example.org
    use server
`

// person is somebody with an age identity.
type person struct {
	Person
	key Unlock
}

func newPerson(t testing.TB, name string) person {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return person{Person{Name: name, Lock: Lock{Recipients: []string{id.Recipient().String()}}}, Unlock{Identities: [][]byte{[]byte(id.String() + "\n")}}}
}

// ceremony holds a ceremony whose keys alice alone can open.
func ceremony(t testing.TB, now time.Time, change func(*InitOptions)) (*Ceremony, person) {
	t.Helper()
	alice := newPerson(t, "alice")
	o := InitOptions{Name: "Example", Scope: exampleScope, Now: now, RootCustody: Custody{Lock: alice.Lock}, Custody: Custody{Lock: alice.Lock}}
	if change != nil {
		change(&o)
	}
	c, err := Init(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, alice
}

func openCeremony(t testing.TB, c *Ceremony, u Unlock, opt AuthorityOptions) *Authority {
	t.Helper()
	o, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Open(o, u, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// authority is an open authority with the example's policy.
func authority(t testing.TB, now time.Time, change func(*InitOptions)) *Authority {
	t.Helper()
	c, alice := ceremony(t, now, change)
	return openCeremony(t, c, alice.key, AuthorityOptions{Policy: policy(t, examplePolicy)})
}

func policy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// etcd is a request that the example allows.
func etcd() Request {
	return Request{Service: "etcd", DNS: []string{"a.etcd.example.org"}, IP: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
}

func leafOf(t testing.TB, out Issued) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(out.Cert)
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write puts files into a new directory.
func write(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tool runs a stock tool and gives all of its output.
func tool(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		if os.Getenv("REQUIRE_KERNEL") != "" {
			t.Fatal(err)
		}
		t.Skipf("this test needs %s: %v", args[0], err)
	}
	c := exec.Command(args[0], args[1:]...)
	c.Dir = dir
	c.Stdin = strings.NewReader("")
	c.Env = append(os.Environ(), "JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
	out, err := c.CombinedOutput()
	return string(out), err
}

func mustTool(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := tool(t, dir, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func wantErr(t testing.TB, what string, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v; want %v", what, err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s = %v; want the words %q in it", what, err, w)
		}
	}
}

func TestCeremonyOnDisk(t *testing.T) {
	alice, bob, carol := newPerson(t, "alice"), newPerson(t, "bob"), newPerson(t, "carol")
	c, err := Init(InitOptions{
		Name: "Example", Scope: exampleScope, Now: noon, RootCustody: Custody{Lock: alice.Lock},
		Custody: Custody{Threshold: 2, People: []Person{alice.Person, bob.Person, carol.Person}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ceremony")
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(dir); !errors.Is(err, ErrInvalid) {
		t.Errorf("Write() over a ceremony = %v; want ErrInvalid", err)
	}
	if err := os.Remove(filepath.Join(dir, "emergency.share.bob.age")); err != nil {
		t.Fatal(err)
	}
	back, err := LoadCeremony(dir)
	if err != nil {
		t.Fatal(err)
	}
	if k, people := back.Holders(); k != 2 || len(people) != 3 || people[1].Name != "bob" || people[1].X != 2 {
		t.Errorf("Holders() = %d of %+v; want 2 of alice, bob and carol", k, people)
	}
	o, err := back.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []person{carol, alice} {
		b, ok := back.Share(p.Name)
		if !ok {
			t.Fatalf("the share of %s was not read", p.Name)
		}
		if _, err := o.Add(b, p.key); err != nil {
			t.Fatal(err)
		}
	}
	a, err := back.Open(o, Unlock{}, AuthorityOptions{Policy: policy(t, examplePolicy)})
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Clone(a.raw.X509)
	if _, err := a.Issue(noon, etcd()); err != nil {
		t.Errorf("Issue() = %v; want a certificate", err)
	}
	// Nothing that is secret lies there in the clear.
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 9 {
		t.Errorf("the ceremony has %d files, %v; want 9", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"AGE-SECRET-KEY", "PRIVATE KEY", string(raw), string(raw[len(raw)-40:])} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds a secret in the clear", f)
			}
		}
		if st, err := os.Stat(f); err != nil || filepath.Ext(f) == ".age" && st.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s = %v, %v; want 0600", f, st.Mode(), err)
		}
	}
	a.Close()
	if !bytes.Equal(a.raw.X509, make([]byte, len(raw))) {
		t.Error("Close() left the key in memory")
	}
	_, err = a.Issue(noon, etcd())
	wantErr(t, "Issue() after Close", err, ErrExpired)
}
