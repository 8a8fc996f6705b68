package access

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBreakGlass(t *testing.T) {
	dir, signers := people(t, "carol", "dave", "erin", "bob", "frank")
	p, err := Compile([]Source{{Name: "policy", Text: []byte(example)}}, Options{Signers: signers})
	if err != nil {
		t.Fatal(err)
	}
	bob := Subject{User: "bob", UID: 1001, Unix: []string{"sre"}}
	r, err := NewRequest(noon, bob, "host1", []string{"run", "exec"}, []string{"etcd"}, "the scheduler is down, <ticket> 4711", 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Text()
	if err != nil {
		t.Fatal(err)
	}
	sig := func(who string) []byte { return sign(t, dir, who, text, Namespace) }
	carol, dave := sig("carol"), sig("dave")
	decide := func(at time.Time, s Subject, verb, service string, sigs ...[]byte) Decision {
		t.Helper()
		g, err := ParseGrant(text, sigs)
		if err != nil {
			t.Fatal(err)
		}
		return p.Decide(at, s, verb, service, []Grant{g})
	}
	for name, d := range map[string]Decision{
		"no approvals":          decide(noon, bob, "run", "etcd"),
		"one":                   decide(noon, bob, "run", "etcd", carol),
		"the same twice":        decide(noon, bob, "run", "etcd", carol, carol),
		"the same signed twice": decide(noon, bob, "run", "etcd", carol, sig("carol")),
		"one who may not":       decide(noon, bob, "run", "etcd", carol, sig("frank")),
		"their own":             decide(noon, bob, "run", "etcd", carol, sig("bob")),
		"the wrong namespace":   decide(noon, bob, "run", "etcd", carol, sign(t, dir, "dave", text, "git")),
		"of another text":       decide(noon, bob, "run", "etcd", carol, sign(t, dir, "dave", append([]byte(" "), text...), Namespace)),
		"over":                  decide(noon.Add(30*time.Minute), bob, "run", "etcd", carol, dave),
		"years later":           decide(noon.AddDate(3, 0, 0), bob, "run", "etcd", carol, dave),
		"years before":          decide(noon.AddDate(-3, 0, 0), bob, "run", "etcd", carol, dave),
		"somebody else":         decide(noon, Subject{User: "eve", UID: 1003, Unix: []string{"sre"}}, "run", "etcd", carol, dave),
	} {
		if d.Outcome != Needed || d.Needs == nil || d.Needs.Count != 2 {
			t.Errorf("Decide() with %s = %s; want two approvals needed", name, d)
		}
	}
	for name, at := range map[string]time.Time{"at once": noon, "just before the end": noon.Add(30*time.Minute - time.Second), "a clock that is behind": noon.Add(-5 * time.Hour)} {
		if d := decide(at, bob, "run", "etcd", dave, carol); d.Outcome != Allowed || d.Grant != r.ID {
			t.Errorf("Decide() %s = %s; want allowed by %s", name, d, r.ID)
		}
	}
	if d := decide(noon, bob, "run", "vault", carol, dave); d.Outcome != Denied {
		t.Errorf("Decide() of another service = %s; want denied", d)
	}
	if d := decide(noon, bob, "stop", "etcd", carol, dave); d.Outcome != Denied {
		t.Errorf("Decide() of another verb = %s; want denied", d)
	}

	g, err := ParseGrant(text, [][]byte{carol, dave, []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	until, err := p.Approved(noon, g)
	if err != nil || !until.Equal(noon.Add(30*time.Minute)) {
		t.Errorf("Approved() = %s, %v; want until 12:30", until, err)
	}
	banner := p.Banner(noon, g)
	for _, w := range []string{"BREAK-GLASS", r.ID, "bob", "run, exec", "etcd", "30m0s left", "carol, dave", "4711"} {
		if !strings.Contains(banner, w) {
			t.Errorf("Banner() = %s; want %q in it", banner, w)
		}
	}
	if b := p.Banner(noon.Add(time.Hour), g); b != "" {
		t.Errorf("Banner() of a grant that is over = %q; want none", b)
	}
	if all := p.Approvals(g, Needs{Count: 2, Of: "group:leads"}); len(all) != 3 || !all[0].Counts || !all[1].Counts || all[2].Counts || all[2].Why == "" {
		t.Errorf("Approvals() = %+v; want two that count", all)
	}
	// Stock ssh-keygen checks the same approvals.
	for _, f := range []struct {
		name string
		b    []byte
	}{{"r.json", text}, {"r.sig", carol}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pub, err := os.ReadFile(filepath.Join(dir, "carol.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "allowed"), append([]byte("carol "), pub...), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("ssh-keygen", "-Y", "verify", "-n", Namespace, "-f", "allowed", "-I", "carol", "-s", "r.sig")
	c.Dir, c.Stdin = dir, bytes.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("ssh-keygen -Y verify = %s, %v", out, err)
	}
}

func TestNoApprovalBeatsADeny(t *testing.T) {
	dir, signers := people(t, "carol")
	p, err := Compile([]Source{{Name: "p", Text: []byte("allow user:bob to run on etcd needs 1 of key:carol\ndeny unix:interns to run on *\n")}}, Options{Signers: signers})
	if err != nil {
		t.Fatal(err)
	}
	intern := Subject{User: "bob", UID: 5, Unix: []string{"interns"}}
	r, err := NewRequest(noon, intern, "h", []string{"run"}, []string{"etcd"}, "because", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Text()
	if err != nil {
		t.Fatal(err)
	}
	g, err := ParseGrant(text, [][]byte{sign(t, dir, "carol", text, Namespace)})
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Decide(noon, intern, "run", "etcd", []Grant{g}); d.Outcome != Denied {
		t.Errorf("Decide() = %s; want denied", d)
	}
	_, err = p.Approved(noon, g)
	wantErr(t, "Approved()", err, ErrApproval, "no approval changes")
	_, err = Compile([]Source{{Name: "p", Text: []byte("allow user:bob to run on etcd needs 2 of key:carol")}}, Options{Signers: signers})
	wantErr(t, "Compile() with more approvals than there are people", err, ErrInvalid, "1 signers")
}

func TestRequestsThatAreRefused(t *testing.T) {
	who := Subject{User: "bob"}
	for name, f := range map[string]func() error{
		"no reason": func() error {
			_, err := NewRequest(noon, who, "h", []string{"run"}, []string{"etcd"}, "  ", time.Hour)
			return err
		},
		"too long": func() error {
			_, err := NewRequest(noon, who, "h", []string{"run"}, []string{"etcd"}, "because", 25*time.Hour)
			return err
		},
		"all verbs": func() error {
			_, err := NewRequest(noon, who, "h", []string{"*"}, []string{"etcd"}, "because", time.Hour)
			return err
		},
		"all services": func() error {
			_, err := NewRequest(noon, who, "h", []string{"run"}, []string{"*"}, "because", time.Hour)
			return err
		},
		"nothing": func() error { _, err := NewRequest(noon, who, "h", nil, nil, "because", time.Hour); return err },
	} {
		wantErr(t, "NewRequest("+name+")", f(), ErrInvalid)
	}
	r, err := NewRequest(noon, who, "h", []string{"run"}, []string{"etcd"}, "because", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) string{
		"a field twice":    func(s string) string { return strings.Replace(s, `"host": "h"`, `"host": "h", "host": "g"`, 1) },
		"an unknown field": func(s string) string { return strings.Replace(s, `"host"`, `"x": 1, "host"`, 1) },
		"other spaces":     func(s string) string { return strings.ReplaceAll(s, "\n", "\n ") },
		"more after it":    func(s string) string { return s + "{}" },
		"another format":   func(s string) string { return strings.Replace(s, "request/1", "request/2", 1) },
		"nothing":          func(string) string { return "" },
		"a longer life":    func(s string) string { return strings.Replace(s, "3600000000000", "3600000000000000", 1) },
	} {
		_, err := ParseGrant([]byte(change(string(text))), nil)
		wantErr(t, "ParseGrant("+name+")", err, ErrInvalid)
	}
}

func FuzzParseGrant(f *testing.F) {
	r, err := NewRequest(noon, Subject{User: "bob"}, "h", []string{"run"}, []string{"etcd"}, "because", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	text, err := r.Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, []byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"))
	p := compileText(f, example)
	f.Fuzz(func(t *testing.T, text, sig []byte) {
		g, err := ParseGrant(text, [][]byte{sig})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParseGrant() = %v; want ErrInvalid", err)
			}
			return
		}
		if p.Banner(noon, g) != "" {
			t.Error("Banner() shows a grant that nobody signed")
		}
	})
}

func FuzzSigners(f *testing.F) {
	f.Add([]byte("a ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqYxSSnRVAiBiFTCUNLqTPNqSsZ0Vxw4DGLTPV2bqxQ c\n"), []byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, list, sig []byte) {
		s, err := ParseSigners(list, Namespace)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseSigners() = %v; want ErrInvalid", err)
		}
		if _, err := s.Verify([]byte("text"), sig); err == nil {
			t.Error("verify() of a signature that nobody made = nil")
		}
		s.SSHKeys(list)
	})
}
