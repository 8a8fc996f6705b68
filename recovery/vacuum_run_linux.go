package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/sandbox"
)

// Run runs a command on a host of the vacuum to its end, while the faults happen.
// started may be nil.
func (v *Vacuum) Run(ctx context.Context, host int, cmd sandbox.Cmd, started func(*sandbox.Process)) (code int, err error) {
	p, err := v.Spawn(ctx, host, cmd)
	if err != nil {
		return 0, err
	}
	if started != nil {
		started(p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, f := range v.o.Timeline {
		v.wg.Go(func() { v.failed(v.fault(ctx, f)) })
	}
	if v.Record != nil {
		v.wg.Go(func() { v.failed(v.flush(ctx)) })
	}
	return p.Wait()
}

// flush keeps the record's file close behind.
func (v *Vacuum) flush(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			if err := v.Record.Flush(now); err != nil {
				return err
			}
		}
	}
}

// fault waits for its time and does what it says. One that cannot be done leaves
// the run without a verdict.
func (v *Vacuum) fault(ctx context.Context, f Fault) error {
	t := time.NewTimer(f.At)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-t.C:
	}
	var err error
	switch f.Kind {
	case FaultDark, FaultAllow:
		err = v.Set(ctx, f.Name, f.Kind == FaultDark)
	case FaultKill:
		err = v.kill(f.Name)
	case FaultCut, FaultHeal:
		err = v.cut(ctx, f)
	}
	switch {
	case err == nil:
		v.site.Log.Info(fmt.Sprintf("after %s: %s %s", f.At, f.Kind, f.Name))
		return nil
	case ctx.Err() != nil || errors.Is(err, sandbox.ErrGone):
		return nil // it was over just then
	}
	return fmt.Errorf("after %s, %s %s: %w", f.At, f.Kind, f.Name, err)
}

// cut parts hosts from each other, or joins all of them again.
func (v *Vacuum) cut(ctx context.Context, f Fault) error {
	if v.fabric == nil {
		return fmt.Errorf("%w: there is one host", ErrUsage)
	}
	if f.Kind == FaultHeal {
		return v.fabric.Heal(ctx)
	}
	var sides [2][]int
	a, b, _ := strings.Cut(f.Name, "|")
	for i, side := range []string{a, b} {
		for one := range strings.SplitSeq(side, ",") {
			n, err := strconv.Atoi(one)
			if err != nil || n < 0 || n >= len(v.hosts) {
				return fmt.Errorf("%w: cut:%s: want hosts from 0 to %d, such as 0,1|2", ErrUsage, f.Name, len(v.hosts)-1)
			}
			sides[i] = append(sides[i], n)
		}
	}
	return v.fabric.Partition(ctx, sides[0], sides[1])
}

// ErrNoProcess is returned where no program's command line holds a pattern.
var ErrNoProcess = errors.New("no such program in the vacuum")

// kill ends the programs in the vacuum whose command line, with blanks between
// the words, holds a text.
func (v *Vacuum) kill(text string) error {
	ours := map[string]int{} // the hosts' process namespaces, to their first processes
	for _, h := range v.hosts {
		ns, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(h.PID()), "ns/pid"))
		if err != nil {
			return err
		}
		ours[ns] = h.PID()
	}
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	killed := 0
	for _, dir := range found {
		pid, err := strconv.Atoi(filepath.Base(dir))
		ns, nsErr := os.Readlink(dir + "/ns/pid")
		if first, here := ours[ns]; err != nil || nsErr != nil || !here || pid == first {
			continue
		}
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil || !bytes.Contains(bytes.ReplaceAll(line, []byte{0}, []byte{' '}), []byte(text)) {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
		killed++
	}
	if killed == 0 {
		return fmt.Errorf("%w: %q", ErrNoProcess, text)
	}
	return nil
}
