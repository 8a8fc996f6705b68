package container

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"
)

// checkHealth repeats the health check until ctx ends. When the container has
// been unhealthy and the restart policy can mend it, it says so on reason once.
func (s *supervisor) checkHealth(ctx context.Context, h Health, r *run, reason chan<- string) {
	probe, err := ParseProbe(h.Check)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	state := healthState{State: "starting", Checked: time.Now().UTC()}
	_ = writeJSON(s.c.path("health.json"), state, false)
	every := time.Duration(h.Interval)
	for wait := min(every, time.Second); pause(ctx, wait) == nil; {
		err := s.probe(ctx, probe, time.Duration(h.Timeout))
		if ctx.Err() != nil {
			return
		}
		state.Checked, state.Last = time.Now().UTC(), "ok"
		switch {
		case err == nil:
			state.State, state.Failures = "healthy", 0
		case state.State == "starting" && time.Since(r.started) < time.Duration(h.Start):
			state.Last = err.Error()
		default:
			state.Failures++
			state.Last = err.Error()
			if state.Failures >= h.Retries {
				state.State = "unhealthy"
			}
		}
		_ = writeJSON(s.c.path("health.json"), state, false)
		if state.State != "starting" { // until then, the sooner it is known the better
			wait = every
		}
		if state.State == "unhealthy" && s.c.rec.Spec.Restart != RestartNo && s.c.rec.Spec.Restart != "" {
			reason <- "unhealthy: " + state.Last
			return
		}
	}
}

func (s *supervisor) probe(ctx context.Context, p Probe, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return p.Check(ctx, func(ctx context.Context, command string) (int, string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.c.output(ctx, []string{"/bin/sh", "-c", command})
	})
}

// output runs a command inside the container and returns what it printed, at
// most 4 KiB of it.
func (c *Container) output(ctx context.Context, args []string) (int, string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			out.Write(buf[:min(n, 4096-out.Len())])
			if err != nil {
				return
			}
		}
	}()
	code, err := c.Exec(ctx, ExecOptions{Args: args, Stdout: w, Stderr: w})
	w.Close()
	select {
	case <-read:
	case <-ctx.Done(): // something it left behind still holds the pipe
		r.Close()
		<-read
	}
	return code, out.String(), err
}
