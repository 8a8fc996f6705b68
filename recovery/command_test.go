package recovery

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// TestFloor has clocks that are off by years, in both directions.
func TestFloor(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		built, last time.Duration // from now
		want        time.Duration
	}{
		"right":                                   {-24 * time.Hour, -time.Hour, 0},
		"clock is behind the build":               {3 * 365 * 24 * time.Hour, -time.Hour, 3 * 365 * 24 * time.Hour},
		"clock is behind the record":              {-24 * time.Hour, 2 * 365 * 24 * time.Hour, 2 * 365 * 24 * time.Hour},
		"one entry was written by a wrong clock":  {-24 * time.Hour, 73 * 365 * 24 * time.Hour, 0},
		"the same, and the clock is behind since": {24 * time.Hour, 73 * 365 * 24 * time.Hour, 24 * time.Hour},
	} {
		s := Site{Host: container.Host{Data: t.TempDir()}, Built: now.Add(c.built)}
		j, err := journal.Open(s.journalPath())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append(now.Add(c.last), "x", journal.Who{}, nil); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if got := s.now().Sub(now.Add(c.want)); got < 0 || got > time.Minute {
			t.Errorf("%s: now() = %s; want %s", name, s.now(), now.Add(c.want))
		}
	}
}

// TestRecordIsNotRead holds the record's cost to that of its last line: a command must not get slower with every other one.
func TestRecordIsNotRead(t *testing.T) {
	s := Site{Host: container.Host{Data: t.TempDir()}}
	if err := s.record("x", nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.Host.Data, "journal.jsonl"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Holes cost nothing on the disk, and reading them would take minutes.
	const far = 1 << 38
	line := make([]byte, 4096)
	n, err := f.ReadAt(line, 0)
	if err != nil && n == 0 {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(append([]byte("\n"), line[:n]...), far); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.record("y", nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("record() took %s on a large journal; want it to read the last line only", took)
	}
	if head, err := journal.Last(s.journalPath()); err != nil || head.Seq != 2 || head.Size < far {
		t.Errorf("Last() = %+v, %v; want entry 2 behind %d", head, err, int64(far))
	}
}
