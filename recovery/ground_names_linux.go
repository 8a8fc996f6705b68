package recovery

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery/names"
	"github.com/blackstart-project/blackstart/runbooks"
)

// nameServer is what STATE/dns/ADDRESS.json says of a name server that a dns step left
// running. The server holds a lock on that file for as long as it lives.
type nameServer struct {
	Process int      `json:"process"`
	Args    []string `json:"args"`
}

const nameServerEnds = 5 * time.Second // after SIGTERM

func (g hostGround) dns(ctx context.Context, what string, w runbooks.With, out io.Writer) error {
	switch what {
	case "serve":
		return g.serveNames(ctx, w, out)
	case "takeover":
		var servers []netip.Addr
		for _, l := range listens(w) {
			at, err := netip.ParseAddrPort(l)
			if err != nil {
				return fmt.Errorf("%w: listen: %w", ErrUsage, err)
			}
			servers = append(servers, at.Addr())
		}
		taken, err := g.site.TakeResolver(ctx, "/", servers)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "this host asks %v; dns release puts it back\n", taken.Servers)
		return err
	case "release":
		return g.releaseNames(ctx, out)
	}
	return fmt.Errorf("%w: dns %s", ErrNotHere, what)
}

func listens(w runbooks.With) []string {
	if len(w.Listen) == 0 {
		return []string{"127.0.0.1:53"}
	}
	return w.Listen
}

// nameServerArgs is the command line that a dns step stands for.
func (g hostGround) nameServerArgs(w runbooks.With) []string {
	s := g.site
	args := []string{"--state", s.Host.State, "--data", s.Host.Data, "dns", "serve"}
	for _, l := range listens(w) {
		args = append(args, "--listen", l)
	}
	if w.Zone != "" {
		args = append(args, "--zone", w.Zone)
	} else {
		args = append(args, "--kit", "--threshold", strconv.Itoa(max(s.From.Kit.Threshold, 1)))
		if s.From.Kit.Trust != "" {
			args = append(args, "--trust", s.From.Kit.Trust)
		}
		if s.From.Kit.AcceptStale {
			args = append(args, "--accept-stale")
		}
	}
	if w.Answers != "" {
		args = append(args, "--mode", w.Answers)
	}
	for _, u := range w.Upstream {
		args = append(args, "--upstream", u)
	}
	for _, name := range slices.Sorted(maps.Keys(w.Overrides)) {
		args = append(args, "--override", name+"="+w.Overrides[name])
	}
	return args
}

// serveNames starts a name server that outlives this run, or leaves the one that runs.
func (g hostGround) serveNames(ctx context.Context, w runbooks.With, out io.Writer) (err error) {
	dir := filepath.Join(g.site.Host.State, "dns")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("starting a name server: %w", err)
	}
	args := g.nameServerArgs(w)
	f, err := os.OpenFile(filepath.Join(dir, fileName(listens(w)[0])), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("starting a name server: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		var was nameServer
		if err := json.NewDecoder(io.LimitReader(f, maxErrand)).Decode(&was); err != nil {
			return fmt.Errorf("reading %s: %w", f.Name(), err)
		}
		if slices.Equal(was.Args, args) {
			_, err := fmt.Fprintf(out, "it answers already: process %d at %s\n", was.Process, strings.Join(listens(w), ", "))
			return err
		}
		if err := endNameServer(ctx, f, was.Process); err != nil {
			return err
		}
	}
	pid, at, err := g.startNameServer(ctx, f, args, len(listens(w)))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "process %d answers at %s; a dns: release step, or kill %[1]d, ends it\n", pid, strings.Join(at, ", "))
	return err
}

// fileName makes a file's name of an address.
func fileName(address string) string {
	return strings.NewReplacer("/", "_", "[", "", "]", "").Replace(address) + ".json"
}

// startNameServer starts this program as one, in a session of its own so that the
// operator's connection may drop, and waits until it answers.
func (g hostGround) startNameServer(ctx context.Context, lock *os.File, args []string, listens int) (pid int, at []string, err error) {
	if err := os.MkdirAll(g.site.Host.Data, 0o711); err != nil {
		return 0, nil, fmt.Errorf("starting a name server: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(g.site.Host.Data, "dns.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, nil, fmt.Errorf("starting a name server: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, nil, fmt.Errorf("starting a name server: %w", err)
	}
	r, ready, err := os.Pipe()
	if err != nil {
		return 0, nil, fmt.Errorf("starting a name server: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0], cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "blackstart", "/", container.LastingEnv(), ready, log
	cmd.ExtraFiles = []*os.File{lock} // which goes with the process
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = errors.Join(cmd.Start(), ready.Close())
	if err != nil {
		return 0, nil, fmt.Errorf("starting a name server: %w", err)
	}
	undo := func(why error) (int, []string, error) {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // likewise
		return 0, nil, why
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	for lines := bufio.NewScanner(r); len(at) < listens && lines.Scan(); {
		at = append(at, lines.Text())
	}
	if ctx.Err() != nil {
		return undo(context.Cause(ctx))
	}
	if len(at) < listens {
		said := make([]byte, 4<<10)
		n := 0
		if l, err := os.Open(log.Name()); err == nil {
			n, _ = l.ReadAt(said, from) // what it said is all that there is
			_ = l.Close()               // only read from
		}
		return undo(fmt.Errorf("the name server ended: %s", failure(said[:n])))
	}
	text, err := json.Marshal(nameServer{cmd.Process.Pid, args})
	if err == nil {
		err = errors.Join(lock.Truncate(0), writeAt(lock, string(text)))
	}
	if err != nil {
		return undo(err)
	}
	pid = cmd.Process.Pid // which Release forgets
	return pid, at, cmd.Process.Release()
}

// endNameServer ends a name server, and returns when f is locked.
func endNameServer(ctx context.Context, f *os.File, pid int) error {
	if pid <= 1 {
		return fmt.Errorf("%w: %s names process %d", ErrUsage, f.Name(), pid)
	}
	end := func(with unix.Signal) error {
		if err := unix.Kill(pid, with); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending process %d: %w", pid, err)
		}
		ctx, cancel := context.WithTimeout(ctx, nameServerEnds)
		defer cancel()
		return poll(ctx, 20*time.Millisecond, func() bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil })
	}
	err := end(unix.SIGTERM)
	if err != nil && ctx.Err() == nil {
		err = end(unix.SIGKILL)
	}
	return err
}

// releaseNames ends what dns steps left running, and puts the host's resolver back.
func (g hostGround) releaseNames(ctx context.Context, out io.Writer) error {
	files, err := filepath.Glob(filepath.Join(g.site.Host.State, "dns", "*.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range files {
		errs = append(errs, releaseOne(ctx, path, out))
	}
	err = g.site.ReleaseResolver(ctx, "/")
	if errors.Is(err, names.ErrNotTaken) {
		err = nil // it was served from, and nobody was pointed at it
	}
	return errors.Join(append(errs, err)...)
}

func releaseOne(ctx context.Context, path string, out io.Writer) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("ending a name server: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		var was nameServer
		if err := json.NewDecoder(io.LimitReader(f, maxErrand)).Decode(&was); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		if err := endNameServer(ctx, f, was.Process); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "process %d has ended\n", was.Process); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
