package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/sandbox"
)

// ErrNoVacuum is returned where no vacuum has a name.
var ErrNoVacuum = errors.New("no such vacuum")

// A named vacuum has a unix socket, STATE/vacuums/NAME, for its own user and root.
// Whoever connects sends one spawnRequest with the program's standard input,
// output and error as descriptors (unix(7)), then a signalRequest for each signal,
// and gets one spawnAnswer when the program has ended. The end of the connection
// ends the program.
type (
	spawnRequest struct {
		Args []string `json:"args"`
		Env  []string `json:"env"`
		Host int      `json:"host"`
	}
	signalRequest struct {
		Signal int `json:"signal"`
	}
	spawnAnswer struct {
		Code  int    `json:"code"`
		Error string `json:"error,omitempty"`
	}
)

const maxSpawn = 1 << 20 // bytes of a spawnRequest

func (s Site) vacuumSocket(name string) string { return filepath.Join(s.Host.State, "vacuums", name) }

// SweepVacuums removes the sockets of vacuums that were killed, and returns their
// paths.
func (s Site) SweepVacuums() (removed []string) {
	found, _ := filepath.Glob(s.vacuumSocket("*")) // the pattern is a good one
	for _, path := range found {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) && os.Remove(path) == nil {
			removed = append(removed, path)
		}
	}
	return removed
}

// Serve gives the vacuum a name, until it is closed: see [Site.RunIn].
func (v *Vacuum) Serve(ctx context.Context, name string) error {
	if !container.ValidName(name) {
		return fmt.Errorf("%w: %q cannot be a vacuum's name", ErrUsage, name)
	}
	path := v.site.vacuumSocket(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("naming the vacuum: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: a vacuum with the name %s is there", ErrUsage, name)
	}
	if err != nil {
		return fmt.Errorf("naming the vacuum: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	v.close = append(v.close, func() error { cancel(); return l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			go v.attend(ctx, c)
		}
	}()
	return nil
}

// attend runs what one connection asks for.
func (v *Vacuum) attend(ctx context.Context, c *net.UnixConn) {
	defer func() { _ = c.Close() }() // nothing waits to be written
	var a spawnAnswer
	var err error
	if a.Code, err = v.spawnFor(ctx, c); err != nil {
		a.Error = err.Error()
	}
	_ = json.NewEncoder(c).Encode(a) // whoever asked may be gone
}

func (v *Vacuum) spawnFor(ctx context.Context, c *net.UnixConn) (int, error) {
	b, oob := make([]byte, maxSpawn), make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return 0, err
	}
	files, err := received(oob[:oobn])
	for _, f := range files {
		defer f.Close()
	}
	if err != nil {
		return 0, err
	}
	d := json.NewDecoder(io.MultiReader(strings.NewReader(string(b[:n])), io.LimitReader(c, maxSpawn)))
	var r spawnRequest
	if err := d.Decode(&r); err != nil {
		return 0, fmt.Errorf("reading the request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := v.Spawn(ctx, r.Host, sandbox.Cmd{Args: r.Args, Env: r.Env, Stdin: files[0], Stdout: files[1], Stderr: files[2]})
	if err != nil {
		return 0, err
	}
	go func() {
		defer cancel()
		for {
			var s signalRequest
			if d.Decode(&s) != nil {
				return
			}
			_ = p.Signal(unix.Signal(s.Signal)) // it may have ended
		}
	}()
	return p.Wait()
}

// received are the three descriptors of a message.
func received(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("reading the request's descriptors: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("reading the request's descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	if len(files) != 3 {
		return files, fmt.Errorf("reading the request's descriptors: %d of them, want 3", len(files))
	}
	return files, nil
}

// RunIn runs a program in the vacuum that target names, NAME or NAME:HOST with the
// host's number from 0, and returns its status. signals are passed on to it; when
// ctx ends, it is killed. Errors: ErrNoVacuum.
func (s Site) RunIn(ctx context.Context, target string, args, env []string, streams [3]*os.File, signals <-chan os.Signal) (code int, err error) {
	r := spawnRequest{Args: args, Env: env}
	name, host, ok := strings.Cut(target, ":")
	if ok {
		if r.Host, err = strconv.Atoi(host); err != nil {
			return 0, fmt.Errorf("%w: vacuum %q: want NAME or NAME:HOST, the host's number", ErrUsage, target)
		}
	}
	if !container.ValidName(name) {
		return 0, fmt.Errorf("%w: %q", ErrNoVacuum, name)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.vacuumSocket(name), Net: "unix"})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return 0, fmt.Errorf("%w: %s; start one with sandbox run --name %s or sandbox shell --name %s", ErrNoVacuum, name, name, name)
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // nothing waits to be written
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	b, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	var fds []int
	for _, f := range streams {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := c.WriteMsgUnix(b, unix.UnixRights(fds...), nil); err != nil {
		return 0, fmt.Errorf("asking the vacuum: %w", err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				if n, ok := sig.(unix.Signal); ok {
					_ = json.NewEncoder(c).Encode(signalRequest{int(n)})
				}
			}
		}
	}()
	var a spawnAnswer
	if err := json.NewDecoder(io.LimitReader(c, maxSpawn)).Decode(&a); err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, fmt.Errorf("%w: %s ended meanwhile", ErrNoVacuum, name)
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	return a.Code, nil
}
