package drill

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// ErrNotBack is returned for a drill that ended before the service was healthy.
var ErrNotBack = errors.New("the service is not back")

// Practice says who is drilled, and where it is kept.
type Practice struct {
	As, Team string // Team "" stands for the runbook's owner
	Store    Store
	Seat     Seat
	// Begun is called when the shell is about to start; may be nil.
	Begun func(Drill)
}

// Start puts an operator into a shell in a rehearsal's vacuum, where the service is
// dead, and watches from outside until it is healthy and stays so. The drill ends
// with the shell, or with ctx. An error is one of this host or the caller's;
// ErrNotBack, of a drill that is returned as well, says that it was to no avail.
func Start(ctx context.Context, o Options, pr Practice, file *runbooks.File, h *runbooks.Rehearsal, others ...*runbooks.File) (_ Drill, err error) {
	rb, err := file.Runbook(h, others...)
	if err != nil {
		return Drill{}, err
	}
	j, err := o.enter(ctx, rb, h)
	if err != nil {
		return Drill{}, err
	}
	closed := false
	defer func() {
		if !closed {
			_, closeErr := j.v.Close()
			err = errors.Join(err, closeErr)
		}
	}()
	ro := recovery.RunbookOptions{Bound: j.bound, Ground: j.ground, Tell: o.Tell, Output: j.output, FirstWait: 100 * time.Millisecond}
	if err := j.lay(ctx, ro); err != nil {
		return Drill{}, fmt.Errorf("%w\n%s", err, j.said.String())
	}
	r := &running{judge: j, seat: pr.Seat, store: pr.Store, mask: j.bound.Masker(), changed: make(chan struct{}, 1)}
	if err := r.begin(ctx, pr, of(rb, file, others), rb); err != nil {
		return r.drill, err
	}
	if pr.Begun != nil {
		pr.Begun(r.drill)
	}
	end := r.run(ctx)
	attempts, closeErr := j.v.Close()
	closed = true
	end.Dark = r.dark(attempts)
	if closeErr != nil {
		end.Unproven = closeErr.Error()
	}
	if err := r.finish(end); err != nil {
		return r.drill, err
	}
	if !end.Recovered {
		return r.drill, fmt.Errorf("%w: %s", ErrNotBack, end.Why)
	}
	return r.drill, nil
}

// of is the file that holds a runbook.
func of(rb *runbooks.Runbook, file *runbooks.File, others []*runbooks.File) *runbooks.File {
	for _, f := range others {
		if slices.Contains(f.Runbooks, rb) {
			return f
		}
	}
	return file
}

// running is a drill that is being done.
type running struct {
	*judge
	seat  Seat
	store Store
	mask  *runbooks.Masker
	word  string // of the shell's marks
	bash  bool
	clock time.Time // when it began, for what passes
	tasks []runbooks.Task

	events  *os.File // locked for as long as the drill runs
	castTo  *os.File
	cast    *cast
	out, in io.WriteCloser // of the recording, masked

	sitting atomic.Pointer[sitting] // nil: nobody sits there

	mu      sync.Mutex
	drill   Drill
	log     []Event
	logErr  error
	why     string  // it is not healthy
	since   float64 // it is healthy
	healthy bool
	looked  int     // the number of the look that said so
	back    float64 // when it was healthy to stay so; 0: not yet
	changed chan struct{}
}

// begin writes down that the drill begins.
func (r *running) begin(ctx context.Context, pr Practice, file *runbooks.File, rb *runbooks.Runbook) error {
	plan, err := r.bound.Plan(runbooks.Selection{})
	if err != nil {
		return err
	}
	r.tasks = plan.Tasks
	code, err := r.ground.Shell(ctx, "command -v bash", nil, "", io.Discard)
	if err != nil {
		return err
	}
	r.bash, r.word = code == 0, rand.Text()
	// What was tried until now is the dead service's and that of the probes.
	if err := r.tried(ctx); err != nil {
		return err
	}
	d := Drill{
		Runbook: rb.Title, Service: rb.Service, Rehearsal: r.h.Title, File: filepath.Base(file.Name), Digest: file.Digest, As: pr.As, Team: pr.Team,
		Within: r.h.Within, Hold: r.h.Hold, Shell: "sh", Blind: !r.bash, Vars: map[string]string{},
	}
	if r.bash {
		d.Shell = "bash"
	}
	if d.Team == "" {
		d.Team = rb.Owner
	}
	for _, t := range r.tasks {
		s := Step{ID: t.ID, Number: t.Number, Host: t.Host, Kind: string(t.Step.Kind()), Command: r.mask.Text(t.Step.Command()), Needs: t.Needs}
		s.Text = r.mask.Text(strings.TrimSpace(t.Step.Confirm + t.Step.Note))
		d.Steps = append(d.Steps, s)
	}
	for _, kv := range r.env("") {
		k, v, _ := strings.Cut(kv, "=")
		if def := rb.Vars[k]; def == nil || !def.Secret {
			d.Vars[k] = v
		}
	}
	r.clock = time.Now()
	d.Began = r.clock.UTC()
	if d.ID, err = r.store.add(d.Service, d.Began); err != nil {
		return err
	}
	if r.events, err = os.OpenFile(r.store.Path(d.ID, "events.jsonl"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
		return err
	}
	if err := unix.Flock(int(r.events.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("locking the drill: %w", err)
	}
	r.drill = d
	if err := r.store.write(d); err != nil {
		return err
	}
	if r.castTo, err = os.OpenFile(r.store.Path(d.ID, "drill.cast"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	head := castHeader{Width: int(r.seat.Cols), Height: int(r.seat.Rows), Title: d.Runbook + ", drill of " + d.As, Env: map[string]string{"SHELL": d.Shell, "TERM": os.Getenv("TERM")}}
	if r.cast, err = newCast(r.castTo, r.clock, head); err != nil {
		return err
	}
	r.out, r.in = r.mask.Writer(castWriter{r.cast, "o"}), r.mask.Writer(castWriter{r.cast, "i"})
	return nil
}

// env are the runbook's variables, and those of a host that its steps name.
func (r *running) env(host string) []string {
	var all []string
	add := func(kv []string) {
		for _, one := range kv {
			k, _, _ := strings.Cut(one, "=")
			if k != "host" && k != "ip" && !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	for _, t := range r.tasks {
		add(t.Env)
		if t.Host == host && host != "" {
			all = append(all, "host="+host, "ip="+t.Addr.String())
			host = ""
		}
	}
	if _, env, err := r.bound.Healthy(r.h); err == nil {
		add(env)
	}
	return all
}

// at is now, in seconds after the beginning.
func (r *running) at() float64 { return float64(time.Since(r.clock).Milliseconds()) / 1000 }

// note keeps an event. r.mu is not held.
func (r *running) note(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record(e)
}

// record is note where r.mu is held.
func (r *running) record(e Event) {
	if len(r.log) >= eventCount {
		return
	}
	e.At, e.Text = r.at(), r.mask.Text(e.Text)
	r.log = append(r.log, e)
	b, err := json.Marshal(e)
	if err == nil {
		_, err = r.events.Write(append(b, '\n'))
	}
	r.logErr = errors.Join(r.logErr, err)
}

// progress is how far the operator is.
func (r *running) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drill.Progress(r.log)
}

// run is the drill itself: the shell, and what watches it.
func (r *running) run(ctx context.Context) End {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watching, unwatch := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.watch(watching) })
	err := r.sit(ctx)
	left := r.at()
	unwatch()
	wg.Wait()
	end := End{}
	if err == nil {
		r.checks(ctx, true) // the last command may have done a step
	}
	switch {
	case r.back > 0:
	case ctx.Err() != nil:
		end.Why = "it was interrupted"
	case err != nil:
		end.Why = "the shell could not be run: " + err.Error()
	default:
		// Who leaves believes that it is done: a last look says whether it is.
		r.last(ctx)
		end.Why = "the shell has ended, and this is not healthy: " + r.why
		if ctx.Err() != nil {
			end.Why = "it was interrupted"
		}
	}
	if end.Recovered = r.back > 0; end.Recovered {
		end.Why = ""
	}
	end.Took = left
	if end.Recovered {
		end.Took = r.back
	}
	end.Why = r.mask.Text(end.Why)
	end.At = r.drill.Began.Add(time.Duration(r.at() * float64(time.Second)))
	return end
}

// finish writes down how it ended.
func (r *running) finish(end End) error {
	r.drill.End = &end
	err := errors.Join(r.logErr, r.out.Close(), r.in.Close(), r.cast.err, r.castTo.Sync(), r.castTo.Close(), r.events.Sync())
	if err != nil {
		err = fmt.Errorf("recording the drill: %w", err)
	}
	return errors.Join(err, r.store.write(r.drill), r.events.Close())
}

// dark are the blocked attempts of what the operator ran: not those of what watches,
// nor those that the dead service or the probes had begun before.
func (r *running) dark(attempts []sandbox.Attempt) []Dark {
	type who struct{ exe, proto, to string }
	before := map[who]bool{}
	for _, a := range attempts {
		if a.First.Before(r.drill.Began) {
			before[who{a.Executable, a.Proto, a.Destination}] = true
		}
	}
	var all []Dark
	at := map[who]int{}
	for _, a := range attempts {
		w := who{a.Executable, a.Proto, a.Destination}
		if a.Verdict != sandbox.Blocked || before[w] || a.Executable == r.o.Self && slices.Equal(a.Command[max(len(a.Command)-2, 0):], []string{"runbook", "step"}) {
			continue
		}
		if i, ok := at[w]; ok {
			all[i].Count += max(a.Count, 1)
			continue
		}
		if len(all) == maxDark {
			continue
		}
		at[w] = len(all)
		program := a.Executable
		if len(a.Command) > 0 {
			program = a.Command[0]
		}
		all = append(all, Dark{At: a.First.Sub(r.drill.Began).Seconds(), Program: r.mask.Text(program), Proto: a.Proto, To: r.mask.Text(a.Destination), Count: max(a.Count, 1)})
	}
	return all
}

const maxDark = 1000
