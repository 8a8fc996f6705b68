package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
)

// stepMark is a variable for what a step of a run begins. A run that is itself begun by a step adds to what is there.
func stepMark(run, task string) string {
	return container.StepEnv + "=" + strings.TrimPrefix(os.Getenv(container.StepEnv)+"\n"+run+" "+task, "\n")
}

// cutOffPatience is how long a killed program may take to end.
const cutOffPatience = 10 * time.Second

// endCutOff ends what is left on this host of the steps that a killed process was at: otherwise their scripts would go on beside
// their own repetition. Other hosts have seen to that themselves when the connection was lost.
func (s Site) endCutOff(ctx context.Context, run string, p past) error {
	cut := map[string]string{}
	for task, f := range p.last {
		if f.State == StepRunning || f.State == StepUndoing {
			cut[run+" "+task] = task
		}
	}
	if len(cut) == 0 {
		return nil
	}
	return s.endMarked(ctx, cut)
}

// endStep ends what a script has begun that is not in its process group. env is the script's.
func (g hostGround) endStep(ctx context.Context, env []string) error {
	i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, container.StepEnv+"=") })
	if i < 0 {
		return nil
	}
	lines := strings.Split(env[i][len(container.StepEnv)+1:], "\n")
	mark := lines[len(lines)-1]
	_, task, _ := strings.Cut(mark, " ")
	return g.site.endMarked(ctx, map[string]string{mark: task})
}

// endMarked kills the processes that have one of the marks, each of which stands for a step.
func (s Site) endMarked(ctx context.Context, marks map[string]string) error {
	said := map[int]bool{}
	for deadline := time.Now().Add(cutOffPatience); ; {
		left, err := killMarked(marks, func(pid int, task string) {
			if !said[pid] {
				said[pid] = true
				s.Log.Info(fmt.Sprintf("ending process %d, which is left of step %q", pid, task))
			}
		})
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of steps that are over do not end", left)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// killMarked kills the processes whose environment has one of the marks, and says how many there were.
func killMarked(marks map[string]string, tell func(pid int, task string)) (n int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0) // so that nobody else who gets the number is killed
		if err != nil {
			continue
		}
		task, ok := markOf(dir, marks)
		if ok {
			n++
			tell(pid, task)
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil && !errors.Is(err, unix.ESRCH) {
			return n, fmt.Errorf("ending process %d of step %q: %w", pid, task, err)
		}
	}
	return n, nil
}

// markOf is the step to which a process belongs. One that has ended, or is another user's, cannot be looked at.
func markOf(dir string, marks map[string]string) (task string, ok bool) {
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return "", false
	}
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		value, found := bytes.CutPrefix(kv, []byte(container.StepEnv+"="))
		if !found {
			continue
		}
		lines := strings.Split(string(value), "\n")
		if i := slices.IndexFunc(lines, func(l string) bool { _, is := marks[l]; return is }); i >= 0 {
			return marks[lines[i]], true
		}
	}
	return "", false
}
