package sandbox

import (
	"os"
	"strings"
	"testing"
)

// A user namespace inside can mount a /proc for its processes, and no setting of
// the host's kernel can be written by it; it may listen on every port.
func TestNestedNamespaces(t *testing.T) {
	const setting = "/proc/sys/kernel/core_pattern"
	before, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	w := up(t, Options{})
	out, code := inside(t, w, "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c", `
mount -t proc proc /mnt 2>/dev/null || echo refused
mount -t proc -o ro proc /mnt && ls /mnt/1/status
mount -o remount,rw /mnt 2>/dev/null && echo writable
echo hole 2>/dev/null >/mnt/sys/kernel/core_pattern && echo written
umount -l /run 2>/dev/null && ls /run
mount -t proc proc /srv 2>/dev/null && echo hole >/srv/sys/kernel/core_pattern && echo written
python3 -c 'import socket; socket.create_server(("127.0.0.1", 80)); print("listens")'`)
	if want := "refused\n/mnt/1/status\nlistens"; code != 0 || out != want {
		t.Errorf("a nested namespace: %d, %q; want 0, %q", code, out, want)
	}
	after, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(before) || strings.Contains(string(after), "hole") {
		t.Errorf("%s = %q; want %q", setting, after, before)
	}
}
