package drill

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/runbooks"
)

// ErrNoDrill is returned where a store has no such drill.
var ErrNoDrill = errors.New("no such drill")

// ErrBadRecord is returned for a drill's record that cannot be read.
var ErrBadRecord = errors.New("damaged record of a drill")

// Store is a directory with the drills that were done, each in
//
//	SERVICE/TIME/drill.json     what it is, and how it ended; synced when it begins and ends
//	SERVICE/TIME/events.jsonl   what happens, an Event on each line
//	SERVICE/TIME/drill.cast     the terminal, an asciicast v2
//	SERVICE/TIME/report.html    when it has ended
//
// TIME is UTC, as in 20060102T150405Z. The directory may be shared, in a git
// repository for instance: drills are only added.
type Store struct{ Dir string }

// Drill is what drill.json holds.
type Drill struct {
	ID        string            `json:"id"` // SERVICE/TIME
	Runbook   string            `json:"runbook"`
	Service   string            `json:"service"`
	Rehearsal string            `json:"rehearsal"`
	File      string            `json:"file"`
	Digest    string            `json:"digest"` // of the runbook's file
	As        string            `json:"as"`
	Team      string            `json:"team,omitempty"`
	Began     time.Time         `json:"began"` // when the operator got the shell
	Within    runbooks.Duration `json:"within"`
	Hold      runbooks.Duration `json:"hold,omitempty"`
	Shell     string            `json:"shell"`
	// Blind says that the shell does not tell what is typed into it.
	Blind bool              `json:"blind,omitempty"`
	Steps []Step            `json:"steps"`
	Vars  map[string]string `json:"vars,omitempty"` // of the steps' shell texts; no secrets
	End   *End              `json:"end,omitempty"`  // nil: it runs, or was cut off

	Running bool `json:"-"` // its process holds it
}

// Step is a step of the runbook, on one host, as the operator is shown it.
type Step struct {
	ID      string   `json:"id"`
	Number  int      `json:"number"`
	Host    string   `json:"host,omitempty"`
	Kind    string   `json:"kind"`
	Command string   `json:"command,omitempty"`
	Text    string   `json:"text,omitempty"` // a question, or a note
	Needs   []string `json:"needs,omitempty"`
}

// Seen says whether anything can show that a step was done: nobody sees an answer
// that is only thought of.
func (s Step) Seen() bool {
	return s.Kind != string(runbooks.Confirm) && s.Kind != string(runbooks.Note)
}

// End is how a drill ended.
type End struct {
	At        time.Time `json:"at"`
	Recovered bool      `json:"recovered"`
	Took      float64   `json:"took"` // seconds until it was healthy to stay so, or else until the end
	Why       string    `json:"why,omitempty"`
	Dark      []Dark    `json:"dark,omitempty"`
	// Unproven says why not all that was tried was seen.
	Unproven string `json:"unproven,omitempty"`
}

// Dark is something that the operator's programs tried to reach and that was dark.
type Dark struct {
	At      float64 `json:"at"` // seconds after the beginning
	Program string  `json:"program"`
	Proto   string  `json:"proto"`
	To      string  `json:"to"`
	Count   int     `json:"count"`
}

// EventKind is a kind of Event.
type EventKind string

// The kinds of events.
const (
	CommandBegan EventKind = "command" // Text
	CommandEnded EventKind = "ended"   // Status
	Hint         EventKind = "hint"    // Step
	StepSeen     EventKind = "step"    // Step, by what it asks itself: Text is check or probe
	Health       EventKind = "health"  // Healthy, or else Text says what is not
	Recovered    EventKind = "recovered"
)

// Event is something that happens in a drill.
type Event struct {
	At      float64   `json:"at"` // seconds after the beginning
	Kind    EventKind `json:"kind"`
	Host    string    `json:"host,omitempty"`
	Text    string    `json:"text,omitempty"`
	Status  int       `json:"status,omitempty"`
	Step    string    `json:"step,omitempty"` // its ID
	Healthy bool      `json:"healthy,omitempty"`
}

const (
	maxRecord    = 16 << 20 // bytes of drill.json
	maxEvents    = 64 << 20
	maxEventLine = 256 << 10
	eventCount   = 20_000
	maxSteps     = 5000
	maxDrills    = 100_000
)

func idPattern() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?/[0-9]{8}T[0-9]{6}Z(-[0-9]{1,3})?$`)
}

// add makes the directory of a drill that begins.
func (s Store) add(service string, began time.Time) (id string, err error) {
	if err := os.MkdirAll(filepath.Join(s.Dir, service), 0o755); err != nil {
		return "", fmt.Errorf("making the drill's directory: %w", err)
	}
	at := service + "/" + began.UTC().Format("20060102T150405Z")
	for n := 1; n < 1000; n++ {
		id = at
		if n > 1 {
			id += "-" + strconv.Itoa(n)
		}
		if err = os.Mkdir(s.Path(id), 0o755); !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("making the drill's directory: %w", err)
	}
	return id, nil
}

// Path is where a drill's directory, or a file in it, is.
func (s Store) Path(id string, name ...string) string {
	return filepath.Join(append([]string{s.Dir, filepath.FromSlash(id)}, name...)...)
}

// write puts drill.json in place, synced.
func (s Store) write(d Drill) (err error) {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	tmp := s.Path(d.ID, ".drill.json")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing the drill's record: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, s.Path(d.ID, "drill.json"))
	}
	if err == nil {
		err = syncDir(s.Path(d.ID))
	}
	if err != nil {
		return fmt.Errorf("writing the drill's record: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open opens a file of a drill for reading. Nothing outside of the store is
// opened, whatever the drill's directory holds.
func (s Store) Open(id, name string) (*os.File, error) {
	if !idPattern().MatchString(id) {
		return nil, fmt.Errorf("%w: %.100q: want SERVICE/TIME", ErrNoDrill, id)
	}
	root, err := os.OpenRoot(s.Dir)
	if err == nil {
		defer root.Close()
		var f *os.File
		if f, err = root.OpenFile(id+"/"+name, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			if st, serr := f.Stat(); serr == nil && st.Mode().IsRegular() {
				return f, nil
			}
			_ = f.Close()
			err = fmt.Errorf("%w: %s is not a regular file", ErrBadRecord, name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoDrill
	}
	return nil, fmt.Errorf("opening %s of drill %s: %w", name, id, err)
}

// Read reads a drill and what happened in it.
func (s Store) Read(id string) (Drill, []Event, error) {
	d, err := s.readDrill(id)
	if err != nil {
		return d, nil, err
	}
	f, err := s.Open(id, "events.jsonl")
	if errors.Is(err, ErrNoDrill) {
		return d, nil, nil // it was killed before anything happened
	}
	if err != nil {
		return d, nil, err
	}
	defer f.Close()
	d.Running = d.End == nil && unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
	events, err := readEvents(f)
	return d, events, err
}

func (s Store) readDrill(id string) (d Drill, err error) {
	f, err := s.Open(id, "drill.json")
	if err != nil {
		return d, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return d, fmt.Errorf("reading drill %s: %w", id, err)
	}
	if len(b) > maxRecord {
		return d, fmt.Errorf("%w: %s is larger than %d bytes", ErrBadRecord, id, maxRecord)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("%w: %s: %w", ErrBadRecord, id, err)
	}
	if len(d.Steps) > maxSteps {
		return d, fmt.Errorf("%w: %s has %d steps; at most %d", ErrBadRecord, id, len(d.Steps), maxSteps)
	}
	d.ID = id // what the file says does not count
	return d, nil
}

// readEvents reads lines until one that is torn.
func readEvents(r io.Reader) ([]Event, error) {
	var all []Event
	lines := bufio.NewScanner(io.LimitReader(r, maxEvents))
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() && len(all) < eventCount {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			return all, nil
		}
		all = append(all, e)
	}
	if err := lines.Err(); err != nil {
		return all, fmt.Errorf("%w: %w", ErrBadRecord, err)
	}
	return all, nil
}

// List reads all drills, the newest first. What cannot be read is left out, and
// said.
func (s Store) List() (all []Drill, damaged []error, err error) {
	services, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the drills: %w", err)
	}
	pattern := idPattern()
	for _, service := range services {
		if !service.IsDir() {
			continue
		}
		times, err := os.ReadDir(filepath.Join(s.Dir, service.Name()))
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		for _, t := range times {
			id := service.Name() + "/" + t.Name()
			if !pattern.MatchString(id) || len(all) >= maxDrills {
				continue
			}
			d, err := s.readDrill(id)
			if err != nil {
				damaged = append(damaged, err)
				continue
			}
			d.Running = d.End == nil && s.running(id)
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Drill) int {
		if c := b.Began.Compare(a.Began); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	return all, damaged, nil
}

// running says whether a process of this host holds a drill.
func (s Store) running(id string) bool {
	f, err := s.Open(id, "events.jsonl")
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// Find is the drill that a person means: an ID, a service's latest, or with ""
// the one that runs, else the latest of all.
func (s Store) Find(which string) (string, error) {
	if idPattern().MatchString(which) {
		return which, nil
	}
	all, _, err := s.List()
	if err != nil {
		return "", err
	}
	latest := ""
	for _, d := range all {
		if which != "" && d.Service != which {
			continue
		}
		if d.Running {
			return d.ID, nil
		}
		if latest == "" {
			latest = d.ID
		}
	}
	if latest == "" {
		return "", fmt.Errorf("%w: %.100q", ErrNoDrill, which)
	}
	return latest, nil
}
