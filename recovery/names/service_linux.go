package names

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SignalService makes systemd-resolved or NetworkManager read their files again, without D-Bus, which may be dead:
// NetworkManager does so on SIGHUP, systemd-resolved is ended with SIGTERM and started again by systemd, whose unit
// says Restart=always. A service that does not run in this mount namespace needs nothing.
func SignalService(ctx context.Context, service string) error {
	signals := map[string]syscall.Signal{"systemd-resolved": syscall.SIGTERM, "NetworkManager": syscall.SIGHUP}
	sig, ok := signals[service]
	if !ok {
		return fmt.Errorf("signalling %s: not a service this package knows", service)
	}
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return fmt.Errorf("signalling %s: %w", service, err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return fmt.Errorf("signalling %s: %w", service, err)
	}
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != service[:min(len(service), 15)] {
			continue // TASK_COMM_LEN; others have gone meanwhile
		}
		if ns, err := os.Readlink(filepath.Join(dir, "ns/mnt")); err != nil || ns != own {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signalling %s: %w", service, err)
		}
	}
	return nil
}
