package access

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const example = `
group storage-oncall  unix:storage user:alice cert:storage-oncall
group oncall          group:storage-oncall user:zoe
group leads           key:carol key:dave key:erin

allow group:oncall to run stop exec on etcd zk-*
allow anyone to ps logs on *
allow unix:sre to run exec on etcd needs 2 of group:leads for 30m   # break-glass
deny  user:mallory to * on *
allow uid:0 to * on *
deny  uid:0 to exec on vault
`

func compileText(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Compile([]Source{{Name: "policy", Text: []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
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

func TestDecide(t *testing.T) {
	p := compileText(t, example)
	for _, c := range []struct {
		s             Subject
		verb, service string
		want          Outcome
		line          int // 0: no line
		through       string
	}{
		{Subject{User: "alice", UID: 1000}, "run", "etcd", Allowed, 6, "user:alice in group:oncall"},
		{Subject{User: "bob", UID: 1001, Unix: []string{"storage"}}, "stop", "zk-1", Allowed, 6, "unix:storage in group:oncall"},
		{Subject{User: "bob", UID: 1001, Principals: []string{"storage-oncall"}}, "stop", "zk-", Allowed, 6, "cert:storage-oncall in group:oncall"},
		{Subject{User: "bob", UID: 1001, Unix: []string{"storage"}}, "stop", "zk", Denied, 0, ""},
		{Subject{User: "bob", UID: 1001, Unix: []string{"storage"}}, "rm", "etcd", Denied, 0, ""},
		{Subject{User: "bob", UID: 1001}, "logs", "anything", Allowed, 7, "anyone"},
		{Subject{User: "bob", UID: 1001, Unix: []string{"sre"}}, "run", "etcd", Needed, 8, "unix:sre"},
		{Subject{User: "alice", UID: 1001, Unix: []string{"sre"}}, "run", "etcd", Allowed, 6, "user:alice in group:oncall"},
		{Subject{User: "mallory", UID: 1002, Unix: []string{"storage"}}, "run", "etcd", Denied, 9, "user:mallory"},
		{Subject{User: "mallory", UID: 1002}, "logs", "etcd", Denied, 9, "user:mallory"},
		{Subject{User: "root", UID: 0}, "rm", "vault", Allowed, 10, "uid:0"},
		{Subject{User: "root", UID: 0}, "exec", "vault", Denied, 11, "uid:0"},
		{Subject{User: "root", UID: -1}, "rm", "vault", Denied, 0, ""},
	} {
		d := p.Decide(noon, c.s, c.verb, c.service, nil)
		line := 0
		if d.By != nil {
			line = d.By.Line
		}
		if d.Outcome != c.want || line != c.line || d.Through != c.through {
			t.Errorf("Decide(%s %v, %s %s) = %s; want %s by line %d through %q", c.s.User, c.s.Unix, c.verb, c.service, d, c.want, c.line, c.through)
		}
	}
	e := p.Explain(noon, Subject{User: "alice", UID: 0, Unix: []string{"sre"}}, "exec", "etcd", nil)
	var lines []int
	for _, f := range e.Fits {
		lines = append(lines, f.Line)
	}
	if fmt.Sprint(lines) != "[6 8 10]" || e.Outcome != Allowed || e.By.Line != 6 {
		t.Errorf("Explain() = %s, lines %v; want line 6 of 6, 8 and 10", e.Decision, lines)
	}
}

func TestPoliciesThatAreRefused(t *testing.T) {
	for text, c := range map[string]struct {
		want error
		word string
	}{
		"allow user:a to run on etcd\ndeny user:a to run on etcd":     {ErrContradiction, "policy:2"},
		"deny user:a to * on *\nallow user:b user:a to * on *":        {ErrContradiction, "policy:1"},
		"allow group:nobody to run on etcd":                           {ErrInvalid, "no group nobody"},
		"group a group:b\ngroup b group:a":                            {ErrInvalid, "member of itself"},
		"group a group:c":                                             {ErrInvalid, "no group c"},
		"group a user:x\ngroup a user:y":                              {ErrInvalid, "there already"},
		"group a anyone":                                              {ErrInvalid, "no group"},
		"allow alice to run on etcd":                                  {ErrInvalid, "no subject"},
		"allow user:a to run":                                         {ErrInvalid, "want allow"},
		"allow user:a on etcd":                                        {ErrInvalid, "want allow"},
		"permit user:a to run on etcd":                                {ErrInvalid, "begins with"},
		"allow user:a to run on e*d":                                  {ErrInvalid, "beginning"},
		"allow uid:007 to run on etcd":                                {ErrInvalid, "number"},
		"allow user:a to run on etcd needs 2":                         {ErrInvalid, "needs"},
		"allow user:a to run on etcd needs 2 of user:b":               {ErrInvalid, "key:"},
		"allow user:a to run on etcd needs 1 of key:b for 1000h":      {ErrInvalid, "duration"},
		"deny user:a to run on etcd needs 1 of key:b":                 {ErrInvalid, "needs nothing"},
		"allow user:\x1b[2J to run on etcd":                           {ErrInvalid, "visible"},
		"allow user:" + strings.Repeat("a", maxLine) + " to run on x": {ErrInvalid, "policy:1"},
	} {
		_, err := Compile([]Source{{Name: "policy", Text: []byte(text)}}, Options{})
		wantErr(t, "Compile("+text[:min(60, len(text))]+")", err, c.want, c.word)
	}
	_, err := Compile([]Source{{Name: "p", Text: []byte("allow user:a to dance on etcd")}}, Options{Verbs: []string{"run", "stop"}})
	wantErr(t, "Compile() with an unknown verb", err, ErrInvalid, "dance", "run stop")
	many := strings.Repeat("allow "+strings.Repeat("user:a ", 160)+"to "+strings.Repeat("run ", 160)+"on "+strings.Repeat("x ", 160)+"\n", 2)
	_, err = Compile([]Source{{Name: "p", Text: []byte(many)}}, Options{})
	wantErr(t, "Compile() of rules that multiply", err, ErrInvalid, "multiply")
}

func TestTable(t *testing.T) {
	p := compileText(t, example)
	cases, err := ParseTable([]byte(`
user:alice               may            run  etcd     # on call
user:bob unix:sre        needs approval run  etcd
user:mallory uid:5       may not        logs etcd
gid:4 tls:x org:y cert:z may            ps   web
user:bob                 may            run  etcd     # this one is wrong
`))
	if err != nil || len(cases) != 5 {
		t.Fatalf("ParseTable() = %d cases, %v; want 5", len(cases), err)
	}
	failed := p.Test(noon, cases)
	if len(failed) != 1 || failed[0].Line != 6 || failed[0].Got.Outcome != Denied {
		t.Errorf("Test() = %+v; want line 6 alone", failed)
	}
	for _, bad := range []string{"user:a run etcd", "user:a may run", "alice may run etcd", "group:x may run etcd", "user:a may not run", "uid:x may run etcd"} {
		_, err := ParseTable([]byte(bad))
		wantErr(t, "ParseTable("+bad+")", err, ErrInvalid, "line 1")
	}
}

func TestMissingSubjects(t *testing.T) {
	groups, err := ParseGroups([]byte("root:x:0:\nstorage:x:100:alice,bob\n+nis\n# c\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := compileText(t, example).Missing([]string{"alice", "root"}, groups)
	if want := "[group oncall: user:zoe policy:8: unix:sre policy:9: user:mallory]"; fmt.Sprint(got) != want {
		t.Errorf("Missing() = %v; want %s", got, want)
	}
	s := Subject{GIDs: []int{100, 7}}
	if s.NameGroups(groups); fmt.Sprint(s.Unix) != "[storage]" {
		t.Errorf("NameGroups() = %v; want storage", s.Unix)
	}
	for _, bad := range []string{"x:y\n", "a:x:-1:\n", ":x:1:\n", "a:x:99999999999:\n"} {
		_, err := ParseGroups([]byte(bad))
		wantErr(t, "ParseGroups("+bad+")", err, ErrInvalid, "line 1")
	}
}

// people makes keys with ssh-keygen, and a list of signers.
func people(t *testing.T, names ...string) (dir string, s Signers) {
	t.Helper()
	dir = t.TempDir()
	var list strings.Builder
	for _, n := range names {
		sh(t, dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", n, "-f", n)
		b, err := os.ReadFile(filepath.Join(dir, n+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "%s %s", n, b)
	}
	s, err := ParseSigners([]byte(list.String()), Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func sh(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil && os.Getenv("REQUIRE_KERNEL") == "" {
		t.Skip(err)
	}
	c := exec.Command(args[0], args[1:]...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// sign is what an approver does on their own machine.
func sign(t *testing.T, dir, who string, text []byte, namespace string) []byte {
	t.Helper()
	f := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(f, text, 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, dir, "ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", who, f)
	b, err := os.ReadFile(f + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOwnersSign(t *testing.T) {
	dir, signers := people(t, "storage", "web", "other")
	owners := map[string]string{"etcd": "storage", "zk": "storage", "nginx": "web"}
	text := []byte("allow user:a to run on etcd\nallow user:b to run on *\ndeny user:c to run on *\n")
	with := func(names ...string) (*Policy, error) {
		s := Source{Name: "storage.policy", Text: text}
		for _, n := range names {
			s.Signatures = append(s.Signatures, sign(t, dir, n, text, Namespace))
		}
		return Compile([]Source{s, {Name: "none", Text: []byte("allow user:d to run on *")}}, Options{Owners: owners, Signers: signers})
	}
	_, err := with()
	wantErr(t, "Compile() unsigned", err, ErrUnsigned, "storage.policy:1", "storage")
	_, err = with("web", "other")
	wantErr(t, "Compile() signed by others", err, ErrUnsigned, "storage.policy:1")
	p, err := with("storage")
	if err != nil {
		t.Fatal(err)
	}
	// A star reaches as far as its signer's services; an unsigned file reaches nothing.
	for _, c := range []struct {
		user, service string
		want          Outcome
	}{{"a", "etcd", Allowed}, {"b", "zk", Allowed}, {"b", "nginx", Denied}, {"d", "zk", Denied}, {"d", "nginx", Denied}} {
		if d := p.Decide(noon, Subject{User: c.user, UID: 1}, "run", c.service, nil); d.Outcome != c.want {
			t.Errorf("Decide(%s, %s) = %s; want %s", c.user, c.service, d, c.want)
		}
	}
	for name, sig := range map[string][]byte{
		"another namespace": sign(t, dir, "storage", text, "file"),
		"another text":      sign(t, dir, "storage", append(text, '\n'), Namespace),
		"garbage":           []byte("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"),
	} {
		_, err := Compile([]Source{{Name: "p", Text: text, Signatures: [][]byte{sig}}}, Options{Owners: owners, Signers: signers})
		wantErr(t, "Compile() with a signature of "+name, err, ErrUnsigned)
	}
	_, err = Compile([]Source{{Name: "p", Text: []byte("allow user:a to run on mysql")}}, Options{Owners: owners, Signers: signers})
	wantErr(t, "Compile() with an unknown service", err, ErrInvalid, "no service mysql")
}

func TestSignersThatAreRefused(t *testing.T) {
	dir, _ := people(t, "a")
	pub, err := os.ReadFile(filepath.Join(dir, "a.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for text, word := range map[string]string{
		"a " + string(pub) + "b " + string(pub):      "count twice",
		"a valid-before=\"20300101\" " + string(pub): "not taken",
		"a,b " + string(pub):                         "plain",
		"a ssh-ed25519 AAAA":                         "NAME KEYTYPE KEY",
		"a":                                          "NAME KEYTYPE KEY",
	} {
		_, err := ParseSigners([]byte(text), Namespace)
		wantErr(t, "ParseSigners("+text[:min(len(text), 30)]+")", err, ErrInvalid, word)
	}
	s, err := ParseSigners([]byte("a namespaces=\"git\" "+string(pub)), Namespace)
	if err != nil || s.has("a") {
		t.Errorf("ParseSigners() of a key for git = %v, %v; want it left out", s.has("a"), err)
	}
}

// large has rules of every kind, for subjects that many lines speak of.
func large(n int) string {
	var b strings.Builder
	for i := range n {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "allow user:u%d to run stop on svc-%d\n", i%50, i)
		case 1:
			fmt.Fprintf(&b, "allow unix:team%d to * on svc-%d-*\n", i%100, i)
		case 2:
			fmt.Fprintf(&b, "allow anyone to logs on svc-%d*\n", i)
		case 3:
			fmt.Fprintf(&b, "deny user:u%d to exec on svc-%d\n", i%50, i)
		case 4:
			fmt.Fprintf(&b, "allow cert:p%d to run on svc-%d needs 2 of group:leads\n", i%20, i)
		}
	}
	return b.String() + "group leads key:a key:b\n"
}

func BenchmarkCompile10000(b *testing.B) {
	text := []byte(large(10_000))
	for b.Loop() {
		if _, err := Compile([]Source{{Name: "p", Text: text}}, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("allow anyone to * on * needs 1 of key:a for 1m"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Compile([]Source{{Name: "p", Text: b}}, Options{})
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrContradiction) {
				t.Errorf("Compile() = %v; want ErrInvalid or ErrContradiction", err)
			}
			return
		}
		// Whatever the rules are, a deny that fits wins, and nothing is allowed that no line allows.
		s := Subject{User: "alice", UID: 0, Unix: []string{"storage"}}
		e := p.Explain(noon, s, "run", "etcd", nil)
		deny, allow := false, false
		for _, fit := range e.Fits {
			deny, allow = deny || fit.Deny, allow || !fit.Deny
		}
		if deny && e.Outcome != Denied || !allow && e.Outcome != Denied {
			t.Errorf("Explain() = %s with denies %v, allows %v", e.Decision, deny, allow)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte("user:a may run etcd\nunix:b may not stop x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseTable(b); err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseTable() = %v; want ErrInvalid", err)
		}
	})
}
