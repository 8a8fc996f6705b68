package drill

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/blackstart-project/blackstart/runbooks"
)

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// practised is a drill of a runbook with four steps, each after the one above.
func practised() Drill {
	return Drill{
		ID: "etcd/20260101T120000Z", Digest: "sha256:old", Runbook: "etcd", Service: "etcd", As: "alice", Team: "storage", Began: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), Within: runbooks.Duration(90 * time.Second),
		Vars: map[string]string{"data": "/var/lib/etcd"},
		Steps: []Step{
			{ID: "keep a copy", Number: 1, Kind: "run", Command: "cp -a \"${data}\" \"${data}.before\"\nsync"},
			{ID: "ask", Number: 2, Kind: "confirm", Text: "Are they stopped?", Needs: []string{"keep a copy"}},
			{ID: "start", Number: 3, Kind: "run", Command: "blackstart run --detach --name etcd --spec kit:etcd", Needs: []string{"ask"}},
			{ID: "it answers", Number: 4, Kind: "wait_for", Command: "curl -sS --max-time 5 -f http://127.0.0.1:2379/health", Needs: []string{"start"}},
		},
		End: &End{Recovered: true, Took: 42},
	}
}

// typed are the events of commands that each take a second; a status follows a |.
func typed(lines ...string) []Event {
	var all []Event
	for i, l := range lines {
		text, failed := strings.CutSuffix(l, "|1")
		e := Event{At: float64(2*i + 1), Kind: CommandEnded}
		if failed {
			e.Status = 1
		}
		all = append(all, Event{At: float64(2 * i), Kind: CommandBegan, Text: text}, e)
	}
	return all
}

func TestScoreFindsStepsInCommands(t *testing.T) {
	const (
		keep, start = "cp -a /var/lib/etcd /var/lib/etcd.before && sync", "blackstart run --detach --spec kit:etcd --name etcd"
		answers     = "curl -sS -f http://127.0.0.1:2379/health 2>&1"
	)
	for _, c := range []struct {
		name    string
		events  []Event
		want    []StepState
		outside []string
		failed  int
	}{
		{"in order", typed(keep, start, answers), []StepState{InOrder, NotSeen, InOrder, InOrder}, nil, 0},
		{"in other words", typed(`cp -a "$data" ${data}.before; sync`, "blackstart run --name etcd --spec kit:etcd --detach --memory 1GiB"), []StepState{InOrder, NotSeen, InOrder, Skipped}, nil, 0},
		{"line by line", typed("cp -a $data $data.before", "sync", start), []StepState{InOrder, NotSeen, InOrder, Skipped}, nil, 0},
		{"half of it", typed("blackstart run --detach"), []StepState{Skipped, NotSeen, Skipped, Skipped}, nil, 0},
		{"before its time", typed(start, keep), []StepState{InOrder, NotSeen, OutOfOrder, Skipped}, nil, 0},
		{"one left out", typed(start, answers), []StepState{Skipped, NotSeen, OutOfOrder, InOrder}, nil, 0},
		{"failed, then not", typed(keep+"|1", "df -h", keep), []StepState{InOrder, NotSeen, Skipped, Skipped}, []string{"df -h"}, 1},
		{"other things", typed("systemctl restart etcd|1", "cp /etc/hosts /tmp", "", "hint", "exit"), []StepState{Skipped, NotSeen, Skipped, Skipped}, []string{"systemctl restart etcd", "cp /etc/hosts /tmp"}, 1},
		{"by the runbook", typed("blackstart runbook run etcd.yaml --yes|1", "/srv/bin/blackstart runbook resume"), []StepState{InOrder, InOrder, InOrder, InOrder}, nil, 1},
		{"by a runbook that failed", typed("blackstart runbook run etcd.yaml|1"), []StepState{Skipped, NotSeen, Skipped, Skipped}, nil, 1},
		{"seen otherwise", []Event{{At: 3, Kind: StepSeen, Step: "keep a copy", Text: "check"}, {At: 4, Kind: StepSeen, Step: "it answers", Text: "probe"}}, []StepState{InOrder, NotSeen, Skipped, InOrder}, nil, 0},
		{"of no step", []Event{{Kind: StepSeen, Step: "who knows"}, {Kind: CommandEnded}, {Kind: "what"}}, []StepState{Skipped, NotSeen, Skipped, Skipped}, nil, 0},
	} {
		s := NewScore(practised(), c.events, nil)
		var got []StepState
		for _, st := range s.Steps {
			got = append(got, st.State)
		}
		var outside []string
		for _, o := range s.Outside {
			outside = append(outside, o.Text)
		}
		if !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(outside, c.outside) || len(s.Failed) != c.failed {
			t.Errorf("%s: steps %q, outside %q, %d failed; want %q, %q, %d", c.name, got, outside, len(s.Failed), c.want, c.outside, c.failed)
		}
	}
}

func TestNextIsWhatCanBeDone(t *testing.T) {
	d := practised()
	for _, c := range []struct {
		events []Event
		want   string
	}{
		{nil, "keep a copy"},
		{typed("cp -a $data $data.before; sync"), "ask"},
		{typed("cp -a $data $data.before; sync", "blackstart run --detach --name etcd --spec kit:etcd|1"), "start"},
		{typed("cp -a $data $data.before; sync", "blackstart run --detach --name etcd --spec kit:etcd"), "it answers"},
	} {
		p := d.Progress(c.events)
		if i := p.Next(); i < 0 || p.Steps[i].ID != c.want {
			t.Errorf("Next after %v = %d; want %s", c.events, i, c.want)
		}
	}
}

func TestScoreComparesWithEarlierDrills(t *testing.T) {
	d := practised()
	var all []Drill
	for i, took := range []float64{50, 30, 40, 99} {
		e := practised()
		e.ID, e.Began, e.End = "etcd/"+string(rune('a'+i)), d.Began.Add(-time.Duration(i+1)*time.Hour), &End{Recovered: took != 99, Took: took}
		all = append(all, e)
	}
	later, other := practised(), practised()
	later.ID, later.Began, later.End = "etcd/later", d.Began.Add(time.Hour), &End{Recovered: true, Took: 1}
	other.ID, other.Runbook, other.Began = "etcd/other", "another", d.Began.Add(-time.Hour)
	s := NewScore(d, nil, append(all, later, other, d))
	if s.Earlier != 3 || s.Best != 30 || s.Median != 40 || s.Late {
		t.Errorf("earlier %d, best %v, median %v, late %v; want 3, 30, 40, false", s.Earlier, s.Best, s.Median, s.Late)
	}
	d.End.Took = 91
	if s := NewScore(d, nil, nil); !s.Late {
		t.Error("91 s of 90 s is not late; want it to be")
	}
}

// What is lost again after it was back is said.
func TestScoreSaysWhatWasLostAgain(t *testing.T) {
	up, down := Event{At: 1, Kind: Health, Healthy: true}, Event{At: 2, Kind: Health}
	for _, c := range []struct {
		events []Event
		want   bool
	}{{[]Event{down, up}, false}, {[]Event{up, down}, true}, {[]Event{up, down, up}, false}, {nil, false}} {
		if got := NewScore(practised(), c.events, nil).Lost; got != c.want {
			t.Errorf("Lost after %v = %v; want %v", c.events, got, c.want)
		}
	}
	d := practised()
	d.End.Recovered = false
	if NewScore(d, []Event{up, down}, nil).Lost {
		t.Error("Lost of a drill that did not recover; want it not to be said")
	}
}

func TestDueIn(t *testing.T) {
	now := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	old, fresh, failed := practised(), practised(), practised()
	fresh.As, fresh.Began, fresh.Runbook = "bob", now.Add(-time.Hour), "zk"
	failed.As, failed.Team, failed.Began, failed.End = "carol", "", now.Add(-time.Hour), &End{}
	f, err := runbooks.Parse("f.yaml", []byte("runbook: etcd\nservice: etcd\nsteps: [{name: a, run: b}]\n---\nrunbook: never\nservice: never\nsteps: [{name: a, run: b}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	say := func(due []Due) string {
		var all []string
		for _, d := range due {
			state := "ok"
			if d.Overdue {
				state = "overdue"
			}
			if d.Changed {
				state += " changed"
			}
			all = append(all, d.Kind+" "+d.Name+" "+state)
		}
		return strings.Join(all, "; ")
	}
	due, err := DueIn([]Drill{old, fresh, failed}, nil, 24*time.Hour, now)
	if want := "runbook etcd overdue; runbook zk ok; team storage ok; person carol overdue; person alice overdue; person bob ok"; say(due) != want || !errors.Is(err, ErrOverdue) {
		t.Errorf("DueIn = %s, %v; want %s", say(due), err, want)
	}
	due, err = DueIn([]Drill{old, fresh, failed}, []*runbooks.File{f}, 365*24*time.Hour, now)
	if want := "runbook never overdue; runbook etcd ok changed; team storage ok; person carol overdue; person alice ok"; say(due) != want || !errors.Is(err, ErrOverdue) {
		t.Errorf("DueIn of a file = %s, %v; want %s", say(due), err, want)
	}
	if due, err := DueIn([]Drill{fresh}, nil, 24*time.Hour, now); err != nil {
		t.Errorf("DueIn = %s, %v; want nothing overdue", say(due), err)
	}
}
