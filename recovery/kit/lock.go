package kit

import (
	"fmt"
	"syscall"
)

// lock keeps a second Build or Sign from the same layout. The kernel lets go of it when the process dies.
func (l *Layout) lock() (unlock func(), err error) {
	d, err := l.root.Open(".")
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.Close()
		return nil, fmt.Errorf("locking kit %s, which another process is writing: %w", l.dir, err)
	}
	return func() { d.Close() }, nil
}
