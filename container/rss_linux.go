package container

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropText gives back the pages of the program file that only the start needed.
// They are clean and come back from the page cache when touched (madvise(2),
// MADV_DONTNEED on a private mapping of a file that is not writable).
func dropText() {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 6 || !strings.HasPrefix(w[5], "/") || strings.Contains(w[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(w[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || b <= a {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(a), uintptr(b-a), unix.MADV_DONTNEED)
	}
}
