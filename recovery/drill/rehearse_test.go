package drill

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/blackstart-project/blackstart/runbooks"
)

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// options are those of a rehearsal in a test.
func options(t T) Options {
	var o Options
	if err := o.fill(t); err != nil {
		t.Fatalf("%v", err)
	}
	return o
}

func parse(t testing.TB, doc string) (*runbooks.File, *runbooks.Rehearsal) {
	t.Helper()
	f, err := runbooks.Parse("test.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return f, f.Rehearsals[0]
}

// shop is a runbook with a script, and a rehearsal with what is added to it.
func shop(script, more string) string {
	return fmt.Sprintf("runbook: shop\nservice: shop\nsteps:\n  - name: open\n    run: |\n      %s\n---\nrehearsal: the shop recovers\nservice: shop\nwithin: 10s\n%s\n",
		strings.ReplaceAll(script, "\n", "\n      "), more)
}

func TestRehearseTellsWhatBecomesOfTheService(t *testing.T) {
	const there = `healthy: [{file: /etc/goods}]`
	for _, c := range []struct {
		name, script, more string
		want               Verdict
		reason             string
	}{
		{"it comes back", "echo goods >/etc/goods", there, Pass, ""},
		{"a step fails", "echo no goods; exit 3", there, Fail, `step "open": it ended with status 3`},
		{"it does not come back", "true", there + "\nwithin: 600ms", Fail, "it is not healthy: file /etc/goods"},
		{"it is slow", "sleep 20", there + "\nwithin: 300ms", Fail, "it is not back within 300ms"},
		{"it does not last", "echo goods >/etc/goods; (sleep 0.3; rm /etc/goods) >/dev/null 2>&1 &", there + "\nhold: 5s", Fail, "it did not stay healthy for 5s"},
		{"a tool is missing", "true", there + "\ntools: [no-such-tool]", Fail, "the tool no-such-tool is not there"},
		{"the dead service cannot be laid out", "true", there + "\ngiven: [{name: lay, run: exit 1}]", Unresolved, "laying out the dead service"},
		{"it was given", "cp /etc/given /etc/goods", there + "\ngiven: [{name: lay, run: echo goods >/etc/given}]", Pass, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			doc := shop(c.script, c.more)
			if strings.Count(doc, "within:") == 2 {
				doc = strings.Replace(doc, "within: 10s\n", "", 1)
			}
			f, h := parse(t, doc)
			r, err := Rehearse(t.Context(), options(t), f, h)
			if err != nil || r.Verdict != c.want || !strings.Contains(r.Reason, c.reason) {
				t.Errorf("Rehearse = %s, %q, %v; want %s, %q", r.Verdict, r.Reason, err, c.want, c.reason)
			}
			if err := Judgement([]Result{r}); (err == nil) != (c.want == Pass) || errors.Is(err, ErrFailed) != (c.want == Fail) {
				t.Errorf("Judgement(%s) = %v", r.Verdict, err)
			}
		})
	}
}

// A hidden dependency fails the rehearsal, and what would have let it pass is named.
func TestRehearseNamesAHiddenDependency(t *testing.T) {
	f, h := parse(t, shop("curl -s -m 0.5 http://10.9.8.7/goods", `healthy: [{exec: "true"}]`))
	r, err := Rehearse(t.Context(), options(t), f, h)
	if err != nil || r.Verdict != Fail || !slices.Contains(r.Suggest, "tcp:10.9.8.7:80") {
		t.Errorf("Rehearse = %s, %q, suggesting %q, %v; want FAIL, suggesting tcp:10.9.8.7:80", r.Verdict, r.Reason, r.Suggest, err)
	}
}

// Two conditions that stand in for each other are found to, and the one that is never
// asked for is left out.
func TestPareFindsSubstitutes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("goods")) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	port := l.Addr().(*net.TCPAddr).Port

	f, h := parse(t, shop(
		fmt.Sprintf("curl -sSf -m 0.5 -o /etc/goods http://store.example:%d/ ||\n  curl -sSf -m 0.5 -o /etc/goods http://mirror.example:%[1]d/\ncurl -sSf -m 0.5 -o /dev/null http://key.example:%[1]d/", port),
		fmt.Sprintf("healthy: [{file: /etc/goods, contains: goods}]\nconditions: [%q, %q, %q, \"udp:10.0.0.6:123\"]",
			fmt.Sprintf("dns:store.example:%d,at=127.0.0.1", port), fmt.Sprintf("dns:mirror.example:%d,at=127.0.0.1", port), fmt.Sprintf("dns:key.example:%d,at=127.0.0.1", port))))
	p, err := Pare(t.Context(), options(t), 2, f, h)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Needs) != 2 || !strings.Contains(p.Needs[0], "key.example") || !strings.Contains(p.Needs[1], "any_of") ||
		!strings.Contains(p.Needs[1], "store.example") || !strings.Contains(p.Needs[1], "mirror.example") {
		t.Errorf("Pare needs %q; want the key, and any of the store and its mirror", p.Needs)
	}
	for _, e := range p.Why {
		if want := strings.Contains(e.Condition, "key.example"); e.Needed != want || (e.Tried != "") != want {
			t.Errorf("evidence of %s = needed %v, tried %q; want needed %v, with an attempt where it is", e.Condition, e.Needed, e.Tried, want)
		}
	}
}

func TestPareOfWhatFailsAnyway(t *testing.T) {
	f, h := parse(t, shop("exit 1", "healthy: [{exec: \"true\"}]\nconditions: [\"tcp:10.0.0.1:1\"]"))
	if _, err := Pare(t.Context(), options(t), 1, f, h); !errors.Is(err, ErrFailed) {
		t.Errorf("Pare = %v; want ErrFailed, with all its conditions", err)
	}
}

// A rehearsal in a Go test.
func TestTest(t *testing.T) {
	dir := t.TempDir()
	write := func(name, doc string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	book, proof, _ := strings.Cut(shop("echo goods >/etc/goods", "healthy: [{file: /etc/goods}]\nrunbook: book.yaml"), "---\n")
	write("book.yaml", book)
	Test(t, Options{}, write("proof.yaml", proof))

	for doc, want := range map[string]string{
		shop("exit 1", `healthy: [{exec: "true"}]`):                                    "FAIL: the shop recovers: ",
		shop("true", "healthy: [{exec: \"true\"}]\ngiven: [{name: lay, run: exit 1}]"): "UNRESOLVED: the shop recovers: ",
		"runbook: shop\nservice: shop\nsteps: [{name: a, run: b}]\n":                   "has no rehearsal",
		"nonsense": "want a mapping",
	} {
		if got := fails(t, func(t T) { Test(t, Options{}, write("bad.yaml", doc)) }); !strings.Contains(got, want) {
			t.Errorf("Test(%q) fails with %q; want %q", doc, got, want)
		}
	}
}

// fake is a test that may fail.
type fake struct {
	*testing.T
	said string
}

func (f *fake) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fails is what a test says when it fails.
func fails(t *testing.T, test func(T)) string {
	f := &fake{T: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(f)
	}()
	<-done
	return f.said
}
