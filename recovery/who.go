package recovery

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

// who is whoever runs this program.
func who() journal.Who {
	return journal.Who{UID: os.Getuid(), SudoUser: os.Getenv("SUDO_USER"), SSH: session("SSH_CONNECTION")}
}

// session is a variable that sshd sets. sudo does not pass it on: then it is that of the process that called sudo, or of one before
// it. Like all of the environment it belongs to the user, and is worth that much.
func session(name string) string {
	if v := os.Getenv(name); v != "" || os.Getenv("SUDO_UID") == "" || os.Getuid() != 0 {
		return v
	}
	pid := os.Getppid()
	for range 16 {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return ""
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
				return string(value)
			}
		}
		if pid = parent(pid); pid <= 1 {
			return ""
		}
	}
	return ""
}

// parent is a process' parent (proc_pid_stat(5)); 0 where there is none.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	up, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return up
}
