package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// phase is how far a container got. It is written before the step it names, so
// that whoever finds the record after a crash knows what to undo.
type phase string

const (
	creating phase = "creating" // the host is being changed
	running  phase = "running"  // the first process was started
	exited   phase = "exited"   // it ended and the host is as before, but for the files kept
	removing phase = "removing" // everything of it is being removed
)

// record is what DATA/containers/NAME/record.json holds. It is not fsynced: what
// it guards against is a killed process, and a power cut undoes mounts, cgroups
// and processes by itself.
type record struct {
	Spec     Spec      `json:"spec"`
	Phase    phase     `json:"phase"`
	Detached bool      `json:"detached"`
	Overlay  bool      `json:"overlay"`             // rootfs is a mount that is ours to undo
	InMemory bool      `json:"in_memory,omitempty"` // its writable layer is
	Layers   []string  `json:"layers,omitempty"`
	Created  time.Time `json:"created"`
	BootID   string    `json:"boot_id"`
}

// Exit says how a container ended. Code is the status as a shell reports it, 128
// plus the signal's number for a signal, and -1 where nobody was there to see.
type Exit struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oom_killed,omitempty"`
	Reason    string    `json:"reason,omitempty"` // what ended it, if not itself
	Started   time.Time `json:"started,omitzero"`
	Finished  time.Time `json:"finished"`
}

func (e Exit) String() string {
	s := fmt.Sprintf("exit %d", e.Code)
	if e.Code < 0 {
		s = "exit unknown"
	}
	if e.OOMKilled {
		s += ", out of memory"
	}
	if e.Reason != "" {
		s += ", " + e.Reason
	}
	return s
}

// live is what the supervisor tells of itself in live.json.
type live struct {
	Supervisor int       `json:"supervisor"`        // process id
	PID        int       `json:"pid,omitempty"`     // of the container's first process
	Started    time.Time `json:"started,omitzero"`  // of the present run
	Restarts   int       `json:"restarts"`          // since the container was made
	NextTry    time.Time `json:"next_try,omitzero"` // while it waits to start it again
}

// healthState is what health.json holds.
type healthState struct {
	State    string    `json:"state"` // starting, healthy or unhealthy
	Failures int       `json:"failures,omitempty"`
	Last     string    `json:"last,omitempty"` // what the last check said
	Checked  time.Time `json:"checked"`
}

// maxState bounds every file that is read back, in bytes.
const maxState = 16 << 20

// readJSON reads one file of a container's directory.
func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxState)).Decode(v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file as a whole: a reader sees the old or the new one.
// With durable set it also survives a power cut.
func writeJSON(path string, v any, durable bool) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return writable(err)
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writable turns a read-only directory into the error that says so.
func writable(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && (strings.Contains(pe.Err.Error(), "read-only") || errors.Is(pe.Err, fs.ErrPermission)) {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// bootID changes with every boot (random(4), /proc/sys/kernel/random/boot_id).
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
