package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestGroupAppendsTogether(t *testing.T) {
	path, j := begin(t, 0)
	g := NewGroup(j)
	var wg sync.WaitGroup
	seen := make([]uint64, 400)
	for i := range seen {
		wg.Go(func() {
			e, err := g.Append(noon, "cert", root, i)
			if err != nil || string(e.Data) != fmt.Sprint(i) {
				t.Errorf("Group.Append(%d) = %+v, %v", i, e, err)
			}
			seen[i] = e.Seq
		})
	}
	if _, err := g.Append(noon, "big", root, strings.Repeat("x", MaxLine)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Group.Append(1 MiB) = %v; want ErrTooLarge", err)
	}
	wg.Wait()
	slices.Sort(seen)
	for i, s := range seen {
		if s != uint64(i)+1 {
			t.Fatalf("the entries have the numbers %v; want each once", seen)
		}
	}
	if h, err := Verify(path); err != nil || h.Seq != 400 {
		t.Errorf("Verify() = %+v, %v; want 400 entries", h, err)
	}
}

func TestGroupOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" && errors.Is(err, syscall.EPERM) {
			t.Skipf("mounting a tmpfs: %v", err)
		}
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(dir, "journal")
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	g := NewGroup(j)
	var mu sync.Mutex
	written, full := uint64(0), 0
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			_, err := g.Append(noon, "fill", root, strings.Repeat("x", 5000))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				written++
			} else if full++; !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Group.Append() on a full disk = %v; want ENOSPC", err)
			}
		})
	}
	wg.Wait()
	if h, err := Verify(path); err != nil || h.Seq != written || full == 0 || h.Torn != 0 {
		t.Errorf("Verify() = %+v, %v; want the %d entries that were acknowledged, and %d refused", h, err, written, full)
	}
}

func TestCheckpointsFindWhatTheChainCannot(t *testing.T) {
	path, j := begin(t, 5)
	at5 := j.Head().Checkpoint("host1")
	if _, err := j.Append(noon, "more", root, nil); err != nil {
		t.Fatal(err)
	}
	at6 := j.Head().Checkpoint("host1")
	back, err := ParseCheckpoint(at5.Text())
	if err != nil || back != at5 {
		t.Errorf("ParseCheckpoint(Text()) = %+v, %v; want %+v", back, err, at5)
	}
	if h, err := VerifyAt(path, []Checkpoint{at6, back}); err != nil || h.Seq != 6 {
		t.Errorf("VerifyAt() = %+v, %v; want 6 entries", h, err)
	}
	// The last line removed: the chain is whole, the checkpoint is not reached.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(cut); err != nil {
		t.Errorf("Verify() of a journal cut at a line = %v; want nil, the chain cannot know", err)
	}
	if _, err := VerifyAt(cut, []Checkpoint{at5}); err != nil {
		t.Errorf("VerifyAt(5) = %v; want nil", err)
	}
	if _, err := VerifyAt(cut, []Checkpoint{at6}); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), "entry 6") {
		t.Errorf("VerifyAt(6) of a journal of 5 = %v; want ErrTampered", err)
	}
	// All of it written anew: the chain is whole, every hash is another.
	anew, k := begin(t, 0)
	for range 7 {
		if _, err := k.Append(noon, "forged", root, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := VerifyAt(anew, []Checkpoint{at5}); !errors.Is(err, ErrTampered) {
		t.Errorf("VerifyAt() of a forged journal = %v; want ErrTampered", err)
	}
	wrong := at5
	wrong.Hash = at6.Hash
	if _, err := VerifyAt(path, []Checkpoint{at5, wrong}); !errors.Is(err, ErrTampered) {
		t.Errorf("VerifyAt() with checkpoints that differ = %v; want ErrTampered", err)
	}
	for _, bad := range []string{"", "x\n", string(at5.Text()) + "\n", strings.Replace(string(at5.Text()), "\n5\n", "\n05\n", 1), strings.Replace(string(at5.Text()), "host1", "../x", 1)} {
		if c, err := ParseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("ParseCheckpoint(%q) = %+v; want an error", bad, c)
		}
	}
}

func TestCopyOnASecondDisk(t *testing.T) {
	path, j := begin(t, 3)
	to := filepath.Join(t.TempDir(), "copy")
	same := func() {
		t.Helper()
		if h, err := CopyFile(path, to); err != nil || h.Seq != j.Head().Seq {
			t.Errorf("CopyFile() = %+v, %v; want entry %d", h, err, j.Head().Seq)
		}
		a, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(to); err != nil || !bytes.Equal(a, b) {
			t.Errorf("the copy has %d bytes, %v; want the journal's %d", len(b), err, len(a))
		}
	}
	same()
	for range 3 {
		if _, err := j.Append(noon, "big", root, strings.Repeat("y", 900_000)); err != nil {
			t.Fatal(err)
		}
	}
	same()
	// The disk lost power: the copy ends within a line.
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b[:len(b)-1000], 0o600); err != nil {
		t.Fatal(err)
	}
	same()
	// The journal is changed behind the copy's back; the copy shows it, and stays.
	other, _ := begin(t, 8)
	if _, err := CopyFile(other, to); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), "entry 6") {
		t.Errorf("CopyFile() of another journal = %v; want ErrTampered", err)
	}
	same()
}

func TestPeersKeepACopy(t *testing.T) {
	path, j := begin(t, 3)
	dir := t.TempDir()
	s := httptest.NewServer(Receive(dir, func(_ *http.Request, from string) bool { return from != "mallory" }))
	defer s.Close()
	push := func() (Head, error) { return PushPeer(t.Context(), s.Client(), s.URL, "host1", path) }
	if h, err := push(); err != nil || h.Seq != 3 {
		t.Fatalf("PushPeer() = %+v, %v; want 3 entries", h, err)
	}
	for range 6 {
		if _, err := j.Append(noon, "big", root, strings.Repeat("y", 1_000_000)); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := push(); err != nil || h.Seq != 9 {
		t.Fatalf("PushPeer() of more than fits at once = %+v, %v; want 9 entries", h, err)
	}
	a, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "host1.journal")); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the peer has %d bytes, %v; want the journal's %d", len(b), err, len(a))
	}
	other, _ := begin(t, 12)
	if _, err := PushPeer(t.Context(), s.Client(), s.URL, "host1", other); !errors.Is(err, ErrTampered) {
		t.Errorf("PushPeer() of another journal = %v; want ErrTampered", err)
	}
	for from, status := range map[string]int{"mallory": 403, "..": 404, "%2e%2e": 403, "a%2fb": 403} {
		resp, err := http.Post(s.URL+"/v1/journal/"+from+"?after=0", "", strings.NewReader("x\n"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status && resp.StatusCode != 404 && resp.StatusCode != 405 {
			t.Errorf("POST as %s = %d; want %d", from, resp.StatusCode, status)
		}
	}
	for _, body := range []string{"hello\n", string(a[:100]), string(a)} {
		resp, err := http.Post(s.URL+"/v1/journal/host1?after=9", "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusInternalServerError {
			t.Errorf("POST of what does not follow = %d; want 409", resp.StatusCode)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "host1.journal")); err != nil || !bytes.Equal(a, b) {
		t.Errorf("what the peer kept has changed: %d bytes, %v", len(b), err)
	}
}

func TestSyslogGetsEveryEntry(t *testing.T) {
	path, j := begin(t, 2)
	if _, err := j.Append(noon, "big", root, strings.Repeat("y", 5000)); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: sock, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := SendSyslog(path, 1, "unixgram", sock, "host1"); err != nil || n != 3 {
		t.Fatalf("SendSyslog() = %d, %v; want up to 3", n, err)
	}
	buf := make([]byte, 65536)
	for _, want := range []string{`^<85>Mar  1 \d\d:00:01 blackstart\[\d+\]: \{"seq":2,.*"data":\{"i":1\},"hash":"[0-9a-f]{64}"\}$`, `^<85>Mar  1 .*"seq":3,.*"kind":"big".*"cut":5002\}$`} {
		n, err := l.Read(buf)
		if err != nil || !regexp.MustCompile(want).Match(buf[:n]) || n > maxSyslog {
			t.Errorf("syslog got %s, %v; want %s", buf[:n], err, want)
		}
	}
	if n, err := SendSyslog(path, 3, "unixgram", sock, "host1"); err != nil || n != 3 {
		t.Errorf("SendSyslog() with nothing new = %d, %v; want 3", n, err)
	}
	if _, err := SendSyslog(path, 9, "unixgram", sock, "host1"); !errors.Is(err, ErrTampered) {
		t.Errorf("SendSyslog() after an entry that is not there = %v; want ErrTampered", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if _, err := SendSyslog(path, 0, "tcp", tcp.Addr().String(), "host1"); err != nil {
		t.Fatal(err)
	}
	conn, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	digits, err := in.ReadString(' ')
	if err != nil {
		t.Fatal(err)
	}
	length, err := strconv.Atoi(strings.TrimSpace(digits))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, length)
	if _, err := io.ReadFull(in, got); err != nil || !strings.HasPrefix(string(got), "<85>1 2026-03-01T12:00:00.000000Z host1 blackstart ") || got[len(got)-1] != '}' {
		t.Errorf("syslog over TCP got %q, %v", got, err)
	}
}

func TestFollow(t *testing.T) {
	path, j := begin(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan uint64, 10)
	done := make(chan error, 1)
	go func() {
		done <- Follow(ctx, path, 2, time.Millisecond, func(e Entry) error {
			got <- e.Seq
			return nil
		})
	}()
	if s := <-got; s != 3 {
		t.Errorf("Follow(2) begins with %d; want 3", s)
	}
	for want := uint64(4); want < 7; want++ {
		if _, err := j.Append(noon, "x", root, nil); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != want {
			t.Errorf("Follow() = %d; want %d", s, want)
		}
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrTampered) {
		t.Errorf("Follow() of a journal that became shorter = %v; want ErrTampered", err)
	}
}

func TestShout(t *testing.T) {
	kmsg := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(kmsg, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if err := Shout(&stderr, kmsg, "the journal is full\x1b[2J"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(kmsg)
	if want := "blackstart: \"the journal is full\\x1b[2J\"\n"; err != nil || stderr.String() != want || string(b) != "<2>"+want {
		t.Errorf("Shout() = %q and %q, %v; want %q", stderr.String(), b, err, want)
	}
	if err := Shout(&stderr, kmsg+"/none", "x"); err == nil {
		t.Error("Shout() without a kernel log = nil; want it said")
	}
}

func BenchmarkGroup64(b *testing.B) {
	path := filepath.Join(b.TempDir(), "journal")
	j, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	g := NewGroup(j)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Append(noon, "cert", root, map[string]string{"service": "etcd", "serial": "4f4f4f4f4f4f4f4f4f4f"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(Checkpoint{Origin: "h", Seq: 3, Hash: "ab", Time: noon}.Text())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCheckpoint(b); err == nil && !bytes.Equal(c.Text(), b) {
			t.Errorf("ParseCheckpoint(%q).Text() = %q", b, c.Text())
		}
	})
}
