package main

import (
	"bytes"
	wire "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// prober runs in a container: it makes each system call NAME:NUMBER:ARG... and
// says how it ended, then prints what the kernel says of it, and stays.
const prober = `package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, call := range os.Args[1:] {
		var n [7]uintptr
		words := strings.Split(call, ":")
		for i, w := range words[1:] {
			v, err := strconv.ParseUint(w, 0, 64)
			if err != nil {
				panic(err)
			}
			n[i] = uintptr(v)
		}
		_, _, errno := syscall.Syscall6(n[0], n[1], n[2], n[3], n[4], n[5], n[6])
		fmt.Printf("call %s %d\n", words[0], int(errno))
	}
	for _, file := range []string{"status", "limits"} {
		b, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			panic(err)
		}
		for line := range strings.Lines(string(b)) {
			fmt.Print(file + " " + line)
		}
	}
	fmt.Println("done")
	time.Sleep(time.Hour)
}
`

// calls are system calls that a container's profile or capabilities decide on,
// with arguments that do no harm where they are allowed: the kernel looks at those
// only after both.
func calls() []string {
	const bad = "0xffffffffffffffff"
	list := []string{
		"unshare-user:" + nr(unix.SYS_UNSHARE) + ":0x10000000", "unshare-mount:" + nr(unix.SYS_UNSHARE) + ":0x20000",
		"personality-query:" + nr(unix.SYS_PERSONALITY) + ":0xffffffff", "personality-odd:" + nr(unix.SYS_PERSONALITY) + ":0x0040000",
		"socket-vsock:" + nr(unix.SYS_SOCKET) + ":40:1:0", "socket-alg:" + nr(unix.SYS_SOCKET) + ":38:5:0", "socket-raw:" + nr(unix.SYS_SOCKET) + ":2:3:1",
		"socket-packet:" + nr(unix.SYS_SOCKET) + ":17:3:0", "socket-netlink:" + nr(unix.SYS_SOCKET) + ":16:3:0",
		"mknod-device:" + nr(unix.SYS_MKNODAT) + ":" + bad + ":0:0x2000:0x103",
		"syslog-size:" + nr(unix.SYS_SYSLOG) + ":10:0:0", "swapoff:" + nr(unix.SYS_SWAPOFF) + ":0",
		"clone3:" + nr(unix.SYS_CLONE3) + ":0:0", "landlock:" + nr(unix.SYS_LANDLOCK_CREATE_RULESET) + ":0:0:1",
		"setns:" + nr(unix.SYS_SETNS) + ":" + bad + ":0", "ptrace:" + nr(unix.SYS_PTRACE) + ":16:0:0:0",
	}
	for name, n := range map[string]uintptr{
		"mount": unix.SYS_MOUNT, "umount2": unix.SYS_UMOUNT2, "pivot_root": unix.SYS_PIVOT_ROOT, "chroot": unix.SYS_CHROOT, "swapon": unix.SYS_SWAPON,
		"reboot": unix.SYS_REBOOT, "init_module": unix.SYS_INIT_MODULE, "finit_module": unix.SYS_FINIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE,
		"kexec_load": unix.SYS_KEXEC_LOAD, "bpf": unix.SYS_BPF, "perf_event_open": unix.SYS_PERF_EVENT_OPEN, "userfaultfd": unix.SYS_USERFAULTFD,
		"keyctl": unix.SYS_KEYCTL, "add_key": unix.SYS_ADD_KEY, "request_key": unix.SYS_REQUEST_KEY, "process_vm_readv": unix.SYS_PROCESS_VM_READV,
		"kcmp": unix.SYS_KCMP, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "name_to_handle_at": unix.SYS_NAME_TO_HANDLE_AT,
		"quotactl": unix.SYS_QUOTACTL, "acct": unix.SYS_ACCT, "settimeofday": unix.SYS_SETTIMEOFDAY, "clock_settime": unix.SYS_CLOCK_SETTIME,
		"clock_adjtime": unix.SYS_CLOCK_ADJTIME, "sethostname": unix.SYS_SETHOSTNAME, "setdomainname": unix.SYS_SETDOMAINNAME,
		"fanotify_init": unix.SYS_FANOTIFY_INIT, "io_uring_setup": unix.SYS_IO_URING_SETUP, "io_uring_enter": unix.SYS_IO_URING_ENTER,
		"mbind": unix.SYS_MBIND, "move_pages": unix.SYS_MOVE_PAGES, "set_mempolicy": unix.SYS_SET_MEMPOLICY, "memfd_create": unix.SYS_MEMFD_CREATE,
		"memfd_secret": unix.SYS_MEMFD_SECRET, "pidfd_open": unix.SYS_PIDFD_OPEN, "pidfd_getfd": unix.SYS_PIDFD_GETFD, "mount_setattr": unix.SYS_MOUNT_SETATTR,
		"open_tree": unix.SYS_OPEN_TREE, "fsopen": unix.SYS_FSOPEN, "fsmount": unix.SYS_FSMOUNT, "move_mount": unix.SYS_MOVE_MOUNT,
		"quotactl_fd": unix.SYS_QUOTACTL_FD, "lookup_dcookie": unix.SYS_LOOKUP_DCOOKIE, "nosuch": 5000,
	} {
		list = append(list, name+":"+nr(n)+strings.Repeat(":"+bad, 6))
	}
	slices.Sort(list)
	return list
}

func nr(n uintptr) string { return strconv.FormatUint(uint64(n), 10) }

// TestOrdinaryProfile compares a container of ours with one that a real containerd
// makes with its defaults: capabilities, limits, what becomes of system calls, and
// what the filters themselves decide for every system call.
func TestOrdinaryProfile(t *testing.T) {
	s := newCrashSite(t, "profile")
	s.write("prober.go", []byte(prober))
	build := exec.Command("go", "build", "-o", filepath.Join(s.dir, "rootfs/bin/prober"), filepath.Join(s.dir, "prober.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	probe := append([]string{"/bin/prober"}, calls()...)

	s.must(slices.Concat([]string{"run", "--rootfs", filepath.Join(s.dir, "rootfs"), "--name", s.name, "--detach", "--"}, probe)...)
	ours := s.until(func() string { out, _ := s.run("logs", s.name); return out })
	theirs, pid := s.containerd(probe)

	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	// What containerd 2, whose profile ours is, does otherwise than 1.6.
	later := map[string]string{
		"call io_uring_setup": "EPERM", "call io_uring_enter": "EPERM", "call socket-vsock": "EPERM", "call socket-alg": "EPERM",
		"call name_to_handle_at": "EINVAL", "call process_vm_readv": "EINVAL", // that the capability once decided on
		"limits Max open files": fmt.Sprintf("%d %d files", own.Cur, own.Max), // no longer 1024: as its caller has
	}
	for kind, want := range theirs {
		for key, value := range want {
			if got := ours[kind][key]; got != value && got != later[kind+" "+key] {
				t.Errorf("%s %s = %q; want containerd's %q", kind, key, got, value)
			}
		}
	}
	if n := len(theirs["call"]); n != len(calls()) || len(theirs["status"]) != 8 || len(theirs["limits"]) != 16 {
		t.Errorf("compared %d calls, %d lines of status and %d limits", n, len(theirs["status"]), len(theirs["limits"]))
	}
	compareFilters(t, filters(t, s.pid()), filters(t, pid))
}

// pid is the first process of the container.
func (s *crashSite) pid() int {
	s.t.Helper()
	var all []struct{ PID int }
	if err := json.Unmarshal([]byte(s.must("ps", "--output", "json")), &all); err != nil || len(all) != 1 || all[0].PID == 0 {
		s.t.Fatalf("ps: %+v, %v", all, err)
	}
	return all[0].PID
}

// until waits for all that the prober says, by its kind and key.
func (s *crashSite) until(output func() string) map[string]map[string]string {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		out := output()
		if strings.HasSuffix(out, "\ndone\n") {
			return reported(out)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the prober says:\n%s", out)
		}
	}
}

func reported(out string) map[string]map[string]string {
	said := map[string]map[string]string{"call": {}, "status": {}, "limits": {}}
	for line := range strings.Lines(out) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch kind {
		case "call":
			name, errno, _ := strings.Cut(rest, " ")
			n, _ := strconv.Atoi(errno)
			said[kind][name] = unix.ErrnoName(unix.Errno(n))
		case "status":
			key, value, _ := strings.Cut(rest, ":")
			if strings.HasPrefix(key, "Cap") || key == "Seccomp" || key == "Seccomp_filters" || key == "NoNewPrivs" {
				said[kind][key] = strings.TrimSpace(value)
			}
		case "limits":
			if key, value := rest[:min(25, len(rest))], strings.Fields(rest[min(25, len(rest)):]); !strings.HasPrefix(key, "Limit") {
				said[kind][strings.TrimSpace(key)] = strings.Join(value, " ")
			}
		}
	}
	return said
}

// containerd runs the prober under a containerd of its own, as `ctr run --seccomp`
// does, and returns what it says and its process id.
func (s *crashSite) containerd(probe []string) (map[string]map[string]string, int) {
	s.t.Helper()
	for _, name := range []string{"containerd", "ctr"} {
		if _, err := exec.LookPath(name); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write("config.toml", []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"))
	socket := filepath.Join(s.dir, "s")
	daemon := exec.Command("containerd", "--config", filepath.Join(s.dir, "config.toml"), "--root", filepath.Join(s.dir, "root"),
		"--state", filepath.Join(s.dir, "run"), "--address", socket)
	log := &bytes.Buffer{}
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		s.t.Fatal(err)
	}
	ctr := func(args ...string) (string, error) {
		out, err := exec.Command("ctr", append([]string{"-a", socket}, args...)...).CombinedOutput()
		return string(out), err
	}
	group := "/blackstart-test-" + s.name
	s.t.Cleanup(func() {
		_, _ = ctr("tasks", "kill", "--signal", "9", s.name)
		_, _ = ctr("tasks", "delete", "--force", s.name)
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		groups, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
		for _, g := range append(groups, "/sys/fs/cgroup"+group) {
			if err := os.Remove(g); err != nil && !errors.Is(err, os.ErrNotExist) {
				s.t.Errorf("removing %s: %v", g, err)
			}
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := ctr("version"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatal("containerd does not answer")
		}
	}
	logFile, pidFile := filepath.Join(s.dir, "theirs.log"), filepath.Join(s.dir, "theirs.pid")
	out, err := ctr(slices.Concat([]string{
		"run", "--detach", "--rootfs", "--seccomp", "--net-host", "--cgroup", group, "--runc-root", filepath.Join(s.dir, "runc"),
		"--log-uri", "file://" + logFile, "--pid-file", pidFile, filepath.Join(s.dir, "rootfs"), s.name,
	}, probe)...)
	if err != nil {
		s.t.Fatalf("ctr run: %v\n%s", err, out)
	}
	said := s.until(func() string { b, _ := os.ReadFile(logFile); return string(b) })
	b, err := os.ReadFile(pidFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		s.t.Fatal(err)
	}
	return said, pid
}

// filters are the seccomp filters of a process, as the kernel runs them.
func filters(t *testing.T, pid int) [][]unix.SockFilter {
	t.Helper()
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatalf("tracing %d: %v", pid, err)
	}
	defer func() { _ = unix.PtraceDetach(pid) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		t.Fatalf("stopping %d: %v", pid, err)
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		t.Fatalf("waiting for %d: %v", pid, err)
	}
	const getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER, ptrace(2)
	var all [][]unix.SockFilter
	for i := 0; ; i++ {
		n, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), 0, 0, 0)
		if errno == unix.ENOENT {
			return all
		}
		if errno != 0 {
			t.Fatalf("reading the seccomp filter of %d: %v", pid, errno)
		}
		program := make([]unix.SockFilter, n)
		_, _, errno = unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), uintptr(i), uintptr(unsafe.Pointer(&program[0])), 0, 0)
		if errno != 0 {
			t.Fatalf("reading the seccomp filter of %d: %v", pid, errno)
		}
		all = append(all, program)
	}
}

// compareFilters asks both for what becomes of every system call, in each of the
// machine's instruction sets, with arguments that tell rules apart.
func compareFilters(t *testing.T, ours, theirs [][]unix.SockFilter) {
	t.Helper()
	if len(ours) != len(theirs) || len(ours) == 0 {
		t.Fatalf("%d filters; want containerd's %d", len(ours), len(theirs))
	}
	arguments := []uint64{0, 1, 8, 16, 40, 0x20, 0x20000, 0x20008, 0x10000000, 0x7e020000, 0xffffffff, 0xffffffffffffffff}
	decided := map[uint32]int{}
	for arch, later := range laterCalls() {
		for call := range uint32(600) {
			different := 0
			for _, a := range arguments {
				got, want := decide(t, ours, arch, call, a), decide(t, theirs, arch, call, a)
				decided[want]++
				if got != want {
					different++
				}
			}
			// From 450 on it depends on the age of libseccomp what a name stands for.
			if different > 0 && call < 450 && !slices.Contains(later, call) {
				t.Errorf("instruction set %#x, call %d: for %d of %d arguments another answer than containerd's", arch, call, different, len(arguments))
			}
		}
	}
	if len(decided) < 3 {
		t.Errorf("containerd's filter only ever decides %v", decided)
	}
}

// laterCalls are the calls on which containerd 2 decides otherwise than 1.6, by
// instruction set: io_uring and some sockets are forbidden, name_to_handle_at and
// looking into processes no longer are.
func laterCalls() map[uint32][]uint32 {
	const ioUringSetup, ioUringEnter, ioUringRegister = 425, 426, 427 // everywhere
	later := map[uint32][]uint32{}
	native := []uint32{unix.SYS_SOCKET, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV}
	switch runtime.GOARCH {
	case "amd64":
		later[unix.AUDIT_ARCH_X86_64] = native
		later[unix.AUDIT_ARCH_I386] = []uint32{359, 341, 347, 348} // the same
		later[unix.AUDIT_ARCH_AARCH64] = nil                       // not this machine's
	case "arm64":
		later[unix.AUDIT_ARCH_AARCH64] = native
		later[unix.AUDIT_ARCH_X86_64] = nil
	}
	for arch, calls := range later {
		if calls != nil {
			later[arch] = append(calls, ioUringSetup, ioUringEnter, ioUringRegister)
		}
	}
	return later
}

// decide runs the filters over one system call (seccomp(2), struct seccomp_data)
// and returns the strictest answer.
func decide(t *testing.T, programs [][]unix.SockFilter, arch, call uint32, arg uint64) uint32 {
	t.Helper()
	data := wire.LittleEndian.AppendUint32(nil, call)
	data = wire.LittleEndian.AppendUint32(data, arch)
	data = wire.LittleEndian.AppendUint64(data, 0)
	for range 6 {
		data = wire.LittleEndian.AppendUint64(data, arg)
	}
	strictest := uint32(unix.SECCOMP_RET_ALLOW)
	for _, p := range programs {
		if v := interpret(t, p, data); int32(v&unix.SECCOMP_RET_ACTION_FULL) < int32(strictest&unix.SECCOMP_RET_ACTION_FULL) {
			strictest = v
		}
	}
	return strictest
}

// interpret is the part of classic BPF that libseccomp writes.
func interpret(t *testing.T, p []unix.SockFilter, data []byte) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(p); pc++ {
		in := p[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = wire.LittleEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %#x in a filter", in.Code)
		}
	}
	t.Fatal("a filter ends without an answer")
	return 0
}
