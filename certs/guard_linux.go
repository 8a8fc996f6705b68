package certs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Guard keeps this process's memory out of core dumps, other users' debuggers and swap: prctl(2) PR_SET_DUMPABLE,
// RLIMIT_CORE 0, and mlockall(2) of what is there and what will be. It is called before the first secret is read, and
// holds until the process ends.
//
// Errors: ErrUnguarded with what could not be done, such as locking memory without CAP_IPC_LOCK; the rest is done.
func Guard() error {
	var all []error
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		all = append(all, fmt.Errorf("forbidding core dumps: %w", err))
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		all = append(all, fmt.Errorf("forbidding core dumps: %w", err))
	}
	// On fault, for the Go runtime reserves much more than it ever touches.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		all = append(all, fmt.Errorf("locking memory: %w", err))
	}
	if len(all) > 0 {
		return fmt.Errorf("%w: %w", ErrUnguarded, errors.Join(all...))
	}
	return nil
}
