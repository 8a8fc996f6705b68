//go:build unix

package fetch

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the file's lock (flock(2)), or tells that another has it. The
// kernel gives it back when the process ends, however it ends.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
