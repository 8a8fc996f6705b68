package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// The descriptors that a supervisor is started with.
const (
	readyFD = 3 // pipe on which it says that the container runs, or why not
	lockFD  = 4 // the container's lock, held from the reservation on
)

// The pause before a restart doubles from the first to the last, and starts over
// after a run that lasted.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Minute
	lasted     = 10 * time.Second
)

type readiness struct {
	PID   int    `json:"pid"`
	Error string `json:"error,omitempty"`
}

// StepEnv is the variable by which the programs that a runbook's step has begun are found, if it is cut off: they are ended
// then. What is meant to last does not have it.
const StepEnv = "BLACKSTART_STEP"

// LastingEnv is this process's environment for a program that is meant to last.
func LastingEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, StepEnv+"=") })
}

// superviseCmd is this program, to be started once more as a supervisor in a session of its own.
func (c *Container) superviseCmd(log *os.File, flags ...string) *exec.Cmd {
	args := append([]string{"--state", c.host.State, "--data", c.host.Data, "supervise"}, flags...)
	cmd := exec.Command("/proc/self/exe", append(args, c.name)...)
	cmd.Args[0], cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "blackstart", "/", LastingEnv(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// Detach hands the container to a supervisor: this program started once more as
// `supervise NAME`, in a session of its own so that the operator's connection may
// drop. It returns when the first process runs.
func (c *Container) Detach(ctx context.Context) (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("starting supervisor: %w", err)
	}
	defer r.Close()
	own, err := os.OpenFile(c.path("supervisor.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("starting supervisor: %w", err), w.Close())
	}
	defer own.Close()
	cmd := c.superviseCmd(own)
	cmd.ExtraFiles = []*os.File{w, c.lock}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("starting supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM); r.Close() })
	defer stop()
	var ready readiness
	err = json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&ready)
	switch {
	case ctx.Err() != nil:
		_ = cmd.Wait()
		return 0, context.Cause(ctx)
	case err != nil:
		_ = cmd.Wait()
		return 0, fmt.Errorf("starting supervisor: it ended before the container ran; see %s", own.Name())
	case ready.Error != "":
		_ = cmd.Wait()
		return 0, errors.New(ready.Error)
	}
	// From here on the lock is the supervisor's alone.
	errs := errors.Join(c.lock.Close(), cmd.Process.Release())
	c.lock = nil
	return ready.PID, errs
}

// supervisor watches one container until it has ended for good.
type supervisor struct {
	c    *Container
	log  *logFile
	live live
	mu   sync.Mutex // held while a child of our own is made or waited for
	term chan os.Signal
}

// Supervise is what `supervise NAME` runs. With adopt it takes over a container
// whose supervisor was killed; else the descriptors of Detach must be open.
func (h Host) Supervise(ctx context.Context, name string, adopt bool) error {
	c, err := h.Load(name)
	if err != nil {
		return err
	}
	ready := os.NewFile(readyFD, "ready")
	if adopt {
		if err := c.inCharge(ctx); err != nil {
			return err
		}
	} else {
		c.lock = os.NewFile(lockFD, "lock")
		unix.CloseOnExec(readyFD)
		unix.CloseOnExec(lockFD)
	}
	// Caught rather than ignored: an ignored signal would stay ignored in the
	// container, and nobody there expects that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	s := &supervisor{c: c, term: make(chan os.Signal, 1), live: live{Supervisor: os.Getpid()}}
	signal.Notify(s.term, unix.SIGTERM, unix.SIGINT)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "becoming a subreaper: %v\n", err)
	}
	if leave, err := enterOwnCgroup(supervisorCgroup(name)); err != nil {
		fmt.Fprintf(os.Stderr, "the supervisor stays in the cgroup it was started in: %v\n", err)
	} else {
		defer leave()
	}
	report := func(r readiness) {
		if !adopt {
			_ = json.NewEncoder(ready).Encode(r)
			ready.Close()
		}
	}
	s.log, err = openLog(c.LogPath(), c.rec.Spec)
	if err != nil {
		report(readiness{Error: err.Error()})
		return err
	}
	defer s.log.Close()
	var first *run
	if adopt {
		first = s.adopt()
	} else if first, err = s.start(); err != nil {
		report(readiness{Error: err.Error()})
		return err
	}
	if first != nil {
		report(readiness{PID: first.pid})
	}
	debug.SetGCPercent(50)
	debug.FreeOSMemory() // what the start needed, the watch does not
	dropText()
	return s.watch(ctx, first)
}

// run is one run of the container's first process.
type run struct {
	pid     int
	started time.Time
	done    chan Exit // receives once
}

func (s *supervisor) start() (*run, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.c.start(stdio{in: null, out: s.log.f, err: s.log.f})
	if err != nil {
		return nil, err
	}
	r := &run{pid: p.pid, started: time.Now(), done: make(chan Exit, 1)}
	go func() { r.done <- p.wait(r.started) }()
	return r, s.tell(r)
}

// adopt watches a first process that is not our child: its status is never known.
func (s *supervisor) adopt() *run {
	var before live
	_ = readJSON(s.c.path("live.json"), &before)
	s.live.Restarts = before.Restarts
	st := s.c.Status()
	r := &run{pid: st.PID, started: st.Started, done: make(chan Exit, 1)}
	go func() {
		if r.pid > 0 {
			_ = waitPID(context.Background(), r.pid)
		}
		r.done <- Exit{Code: -1, Reason: "its supervisor had been killed", Started: r.started, Finished: time.Now().UTC()}
	}()
	if r.pid > 0 {
		_ = s.tell(r)
	}
	return r
}

func (s *supervisor) tell(r *run) error {
	s.live.PID, s.live.Started, s.live.NextTry = r.pid, r.started.UTC(), time.Time{}
	return writeJSON(s.c.path("live.json"), s.live, false)
}

// watch waits for the end of each run and starts the next one, as the restart
// policy says, until the container has ended for good.
func (s *supervisor) watch(ctx context.Context, r *run) error {
	wait := firstPause
	for {
		e := s.attend(ctx, r)
		if e.Finished.Sub(r.started) >= lasted {
			wait = firstPause
		}
		if err := s.c.destroy(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		var err error
		for r = nil; r == nil; wait = min(2*wait, lastPause) {
			if !s.again(e) || !s.rest(ctx, wait) {
				return s.c.finish(e)
			}
			s.live.Restarts++
			if r, err = s.start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				e = Exit{Code: -1, Reason: err.Error(), Finished: time.Now().UTC()}
			}
		}
	}
}

// again says whether the restart policy wants another run after e.
func (s *supervisor) again(e Exit) bool {
	if s.c.stopWanted() {
		return false
	}
	switch s.c.rec.Spec.Restart {
	case RestartAlways:
		return true
	case RestartOnFailure:
		return e.Code != 0
	case RestartNo, "":
	}
	return false
}

// rest waits before a restart. It says no when the container is to stop instead.
func (s *supervisor) rest(ctx context.Context, d time.Duration) bool {
	s.live.PID, s.live.NextTry = 0, time.Now().Add(d).UTC()
	_ = writeJSON(s.c.path("live.json"), s.live, false)
	for time.Now().Before(s.live.NextTry) {
		select {
		case <-ctx.Done():
			return false
		case <-s.term:
			return false
		case <-time.After(min(d, 50*time.Millisecond)):
		}
		if s.c.stopWanted() {
			return false
		}
	}
	return true
}

// attend does what goes on while the container runs: health checks, the log's
// size, orphans; and passes a request to end on to the container.
func (s *supervisor) attend(ctx context.Context, r *run) Exit {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	reason := make(chan string, 1)
	if h := s.c.rec.Spec.Health; h != nil {
		wg.Go(func() { s.checkHealth(ctx, h.withDefaults(), r, reason) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	defer signal.Stop(orphans)
	why, ticks := "", 0
	for {
		select {
		case e := <-r.done:
			if why != "" {
				e.Reason = why
			}
			s.log.note(time.Now())
			return e
		case <-tick.C:
			s.log.note(time.Now())
			if ticks++; ticks%10 == 0 {
				dropText()
			}
		case <-orphans:
			s.reap(r.pid)
		case why = <-reason:
			wg.Go(func() { _ = s.c.signalThenKill(ctx, stopSignal(s.c.rec.Spec), 10*time.Second) })
		case <-s.term:
			why = "the supervisor was asked to end"
			_ = s.c.wantStop()
			wg.Go(func() { _ = s.c.signalThenKill(ctx, stopSignal(s.c.rec.Spec), 10*time.Second) })
		}
	}
}

// reap waits for children that are not ours: processes of a container that
// shares the host's process ids, whose parents ended. The first process, which
// p.wait waits for, is left alone, and so is everything while a health check runs.
func (s *supervisor) reap(first int) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			return
		}
		pid := siginfoPID(&info)
		if pid == 0 || pid == first {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// finish writes down how the container ended and puts the host back.
func (c *Container) finish(e Exit) error {
	_ = os.Remove(c.path("live.json"))
	_ = os.Remove(c.path("health.json"))
	return errors.Join(writeJSON(c.path("exit.json"), e, true), c.destroy(), c.unmount(), c.enter(exited))
}

// enterOwnCgroup moves this process into a cgroup of its own.
func enterOwnCgroup(path string) (leave func(), err error) {
	m, err := cgroupManager(path)
	if err != nil {
		return nil, err
	}
	if err := m.Apply(os.Getpid()); err != nil {
		return nil, err
	}
	return func() { leaveOwnCgroup(m, path) }, nil
}

// leaveOwnCgroup goes to the root of each hierarchy and removes the cgroup that
// was ours: a cgroup with a process in it cannot be removed.
func leaveOwnCgroup(m cgroups.Manager, own string) {
	for _, p := range m.GetPaths() {
		_ = os.WriteFile(strings.TrimSuffix(p, own)+"/cgroup.procs", []byte("0"), 0)
		_ = unix.Rmdir(p)
	}
}
