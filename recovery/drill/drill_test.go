package drill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const drilled = `runbook: shop
service: shop
owner: shop-oncall
vars:
  place: {default: /etc/goods, about: where they are}
  key: {secret: true, about: what opens it}
steps:
  - name: get the goods
    run: echo goods >"${place}"
  - name: lock
    check: test -e /etc/locked
    run: echo "${key}" >/etc/locked
---
rehearsal: the shop recovers
service: shop
vars: {key: opensesame}
healthy: [{file: /etc/goods, contains: goods}]
within: 10s
`

// screen is what an operator sees.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// until waits for a text on the screen.
func (s *screen) until(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(s.String(), want); {
		if time.Now().After(end) {
			t.Fatalf("the screen never has %q:\n%s", want, s)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

func practice(t *testing.T, in io.Reader, out io.Writer) Practice {
	return Practice{As: "alice", Store: Store{t.TempDir()}, Seat: Seat{In: in, Out: out, Rows: 24, Cols: 80}}
}

func TestDrillRecovers(t *testing.T) {
	f, h := parse(t, drilled)
	var out screen
	p := practice(t, strings.NewReader("echo goods >\"$place\"\ncat <<EOF >/etc/locked\n$key \\x\nEOF\nhint\n"), &out)
	d, err := Start(t.Context(), options(t), p, f, h)
	if err != nil {
		t.Fatalf("Start = %v\n%s", err, &out)
	}
	stored, events, err := p.Store.Read(d.ID)
	if err != nil || stored.Outcome() != DidRecover || stored.Team != "shop-oncall" || stored.Running {
		t.Fatalf("the store has %+v, %v; want it recovered, of the owner's team", stored, err)
	}
	s := NewScore(stored, events, nil)
	if s.Count(InOrder) != 2 || s.Commands != 2 || len(s.Hints) != 1 || len(s.Dark) != 0 {
		t.Errorf("score = %+v; want both steps in order, by two commands, and a hint", s)
	}
	if st := s.Steps[1]; st.By != "check" {
		t.Errorf("%s was seen done by its %s; want its check: the command was another", st.ID, st.By)
	}
	if p := stored.Progress(events); p.Commands[1].Text != "cat <<EOF >/etc/locked\n$key \\x\nEOF" {
		t.Errorf("the second command is %q; want it as it was typed", p.Commands[1].Text)
	}
	if !strings.Contains(out.String(), "every step is done") {
		t.Errorf("the hint says nothing: %s", &out)
	}
}

// A secret of the runbook is in nothing that is kept.
func TestDrillKeepsSecrets(t *testing.T) {
	f, h := parse(t, drilled)
	var out screen
	p := practice(t, strings.NewReader("echo $key\nprintf 'open'; printf 'sesame\\n'\necho opensesame\n"), &out)
	d, err := Start(t.Context(), options(t), p, f, h)
	if !errors.Is(err, ErrNotBack) {
		t.Fatalf("Start = %v; want ErrNotBack", err)
	}
	out.until(t, "opensesame")
	var report bytes.Buffer
	if err := p.Store.Report(&report, d.ID, nil); err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.Store.Path(d.ID, "report.html"), report.Bytes())
	for _, name := range []string{"drill.json", "events.jsonl", "drill.cast", "report.html"} {
		b, err := os.ReadFile(p.Store.Path(d.ID, name))
		if err != nil || len(b) == 0 || bytes.Contains(b, []byte("opensesame")) {
			t.Errorf("%s has %d bytes, %v, the secret among them: %v", name, len(b), err, bytes.Contains(b, []byte("opensesame")))
		}
	}
}

func TestDrillIsInterrupted(t *testing.T) {
	f, h := parse(t, drilled)
	var out screen
	in, keys := io.Pipe()
	defer keys.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	p := practice(t, in, &out)
	go func() {
		_, _ = keys.Write([]byte("sleep 1000\n"))
		for ctx.Err() == nil && !strings.Contains(out.String(), "sleep 1000") {
			time.Sleep(5 * time.Millisecond) // between two looks
		}
		interrupt()
	}()
	d, err := Start(ctx, options(t), p, f, h)
	if !errors.Is(err, ErrNotBack) || d.End == nil || d.End.Why != "it was interrupted" {
		t.Errorf("Start = %+v, %v; want a drill that was interrupted", d.End, err)
	}
	if all, _, err := p.Store.List(); err != nil || len(all) != 1 || all[0].Outcome() != DidNotRecover {
		t.Errorf("List = %+v, %v; want the drill, not recovered", all, err)
	}
}

// Where there is no bash the shell is sh: the drill goes on, and says what it does not
// know.
func TestDrillWithoutBash(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"sh", "cat", "mkdir", "printf", "test", "stty"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	f, h := parse(t, drilled)
	o := options(t)
	o.Show = []string{bin}
	var out screen
	p := practice(t, strings.NewReader("hint\necho goods >\"$place\"\n"), &out)
	d, err := Start(t.Context(), o, p, f, h)
	if err != nil || !d.Blind || d.Shell != "sh" {
		t.Fatalf("Start = %+v, %v; want sh, blind\n%s", d, err, &out)
	}
	_, events, err := p.Store.Read(d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := NewScore(d, events, nil); len(s.Hints) != 1 || s.Count(Skipped) != 0 || s.Count(NotSeen) != 2 {
		t.Errorf("score = %+v; want a hint, and no step called skipped: nobody knows", s)
	}
}

func TestDrillThatCannotBegin(t *testing.T) {
	f, h := parse(t, strings.Replace(drilled, "within: 10s", "within: 10s\ngiven: [{name: lay, run: echo it is out of stock; exit 1}]", 1))
	p := practice(t, strings.NewReader(""), io.Discard)
	_, err := Start(t.Context(), options(t), p, f, h)
	if err == nil || !strings.Contains(err.Error(), "out of stock") {
		t.Errorf("Start = %v; want what the step said", err)
	}
	if all, _, err := p.Store.List(); len(all) != 0 || err != nil {
		t.Errorf("List = %v, %v; want no drill", all, err)
	}
}

func TestReportShowsTextsAsTheyAre(t *testing.T) {
	const evil = `</title></style></svg></script><script>alert(1)</script><img src=x onerror=alert(1)>`
	s := Store{t.TempDir()}
	d := practised()
	d.Runbook, d.As, d.Team, d.File, d.Digest = evil, evil, evil, evil, evil
	d.Steps[0].ID = evil
	d.End.Why, d.End.Unproven, d.End.Dark = evil, evil, []Dark{{Program: evil, To: evil}}
	id, err := s.add("etcd", d.Began)
	if err != nil {
		t.Fatal(err)
	}
	d.ID = id
	if err := s.write(d); err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.Path(id, "events.jsonl"), []byte(`{"kind":"command","text":"<img src=x>"}`+"\n"+`{"kind":"health","text":"<img src=x>"}`+"\n"))
	writeFile(t, s.Path(id, "drill.cast"), []byte("{\"version\":2}\n[0,\"o\",\"<img src=x>\"]\n"))
	var page bytes.Buffer
	if err := s.Report(&page, id, nil); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<img", "ZgotmplZ"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the report has %s", bad)
		}
	}
	if n := strings.Count(page.String(), "&lt;img src=x"); n < 10 {
		t.Errorf("%d of the texts are there as text; want all", n)
	}
}

func TestStoreReadsNothingOutside(t *testing.T) {
	s := Store{t.TempDir()}
	id, err := s.add("shop", time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "drill.json")
	writeFile(t, outside, []byte(`{"service":"shop"}`))
	if err := os.Symlink(outside, s.Path(id, "drill.json")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{id, "../" + id, "shop/../" + id, "shop/20010909T014640Z/..", "/etc/passwd", "shop", "shop/20010909T014640Z\n"} {
		if d, _, err := s.Read(bad); err == nil {
			t.Errorf("Read(%q) = %+v; want an error", bad, d)
		}
	}
	if again, err := s.add("shop", time.Unix(1e9, 0)); err != nil || again != id+"-2" {
		t.Errorf("a second drill in the same second is %q, %v; want %s-2", again, err, id)
	}
}

// What is healthy for a moment only is not back.
func TestDrillMustStayHealthy(t *testing.T) {
	f, h := parse(t, strings.Replace(drilled, "within: 10s", "within: 10s\nhold: 1m", 1))
	p := practice(t, nil, new(screen))
	in, keys := io.Pipe()
	defer keys.Close()
	p.Seat.In = in
	store := p.Store
	go func() {
		_, _ = keys.Write([]byte("echo goods >\"$place\"\n"))
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			if all, _, _ := store.List(); len(all) == 1 {
				if _, events, err := store.Read(all[0].ID); err == nil && len(events) > 0 && NewStanding(all[0], events, time.Now()).Healthy {
					break
				}
			}
			time.Sleep(5 * time.Millisecond) // between two looks
		}
		_, _ = keys.Write([]byte("rm \"$place\"\n"))
		_ = keys.Close()
	}()
	d, err := Start(t.Context(), options(t), p, f, h)
	if !errors.Is(err, ErrNotBack) || d.End.Recovered {
		t.Fatalf("Start = %+v, %v; want ErrNotBack: it was healthy for a moment", d.End, err)
	}
	_, events, err := store.Read(d.ID)
	var seen []bool
	for _, e := range events {
		if e.Kind == Health {
			seen = append(seen, e.Healthy)
		}
	}
	if err != nil || !slices.Contains(seen, true) || seen[len(seen)-1] {
		t.Errorf("health went %v, %v; want up, and down at the end", seen, err)
	}
}
