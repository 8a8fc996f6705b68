package journal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// writerEnv makes this test binary a process that appends to a journal and prints the number of each entry
// once Append has returned.
const writerEnv = "JOURNAL_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		if err := write(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func write(path string) error {
	j, err := Open(path)
	if err != nil {
		return err
	}
	for i := 0; os.Getenv("JOURNAL_TEST_COUNT") == "" || i < 50; i++ {
		e, err := j.Append(noon, "step", Who{UID: os.Getpid()}, strings.Repeat("x", i*997%60000))
		if err != nil {
			return err
		}
		fmt.Println(e.Seq)
	}
	return j.Close()
}

func writer(t *testing.T, path string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(append(os.Environ(), writerEnv+"="+path), env...)
	c.Stderr = os.Stderr
	return c
}

func TestKilledWriterLosesNothingThatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	for round := range 8 {
		c := writer(t, path)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var last uint64
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
				t.Fatal(err)
			}
			if n == 5+3*round {
				// In the midst of whatever it does now.
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := c.Wait(); err == nil {
			t.Fatal("the writer ended by itself; want it killed")
		}
		j, err := Open(path)
		if err != nil {
			t.Fatalf("round %d: Open() after kill -9 = %v", round, err)
		}
		if h := j.Head(); h.Seq < last {
			t.Errorf("round %d: the journal ends with entry %d; want at least %d, which was acknowledged", round, h.Seq, last)
		}
		j.Close()
	}
}

func TestSeveralProcessesAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var wg sync.WaitGroup
	for range 4 {
		c := writer(t, path, "JOURNAL_TEST_COUNT=50")
		wg.Go(func() {
			if err := c.Run(); err != nil {
				t.Errorf("a writer beside others: %v", err)
			}
		})
	}
	wg.Wait()
	if h, err := Verify(path); err != nil || h.Seq != 200 || h.Torn != 0 {
		t.Errorf("Verify() = %+v, %v; want 200 entries", h, err)
	}
}

func TestFullDisk(t *testing.T) {
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
	written := uint64(0)
	for {
		if _, err = j.Append(noon, "fill", root, strings.Repeat("x", 5000)); err != nil {
			break
		}
		written++
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Append() on a full disk = %v; want ENOSPC", err)
	}
	if h, err := Verify(path); err != nil || h.Seq != written || h.Torn != 0 {
		t.Errorf("Verify() = %+v, %v; want %d entries and nothing torn", h, err, written)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if e, err := j.Append(time.Now(), "after", root, nil); err != nil || e.Seq != written+1 {
		t.Errorf("Append() with room again = entry %d, %v; want %d", e.Seq, err, written+1)
	}
}
