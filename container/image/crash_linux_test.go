package image

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain turns the test binary into a program that unpacks, for tests that kill it: layout, store.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "unpack-for-test" {
		if err := unpackMain(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func unpackMain(layout, dir string) error {
	s, removed, err := OpenStore(dir)
	if err != nil {
		return err
	}
	for _, r := range removed {
		fmt.Println(r)
	}
	im, err := OpenLayout(layout, "")
	if err != nil {
		return err
	}
	started := false
	u, err := s.Unpack(context.Background(), im, Options{Progress: func(Progress) {
		if !started {
			started = true
			fmt.Println("started")
		}
	}})
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(u.Layers, " "))
	return u.Close()
}

// crashImage has layers that take some time and differ in everything that matters.
func crashImage(t *testing.T) (*builder, []string) {
	t.Helper()
	b := build(t)
	for l := range 4 {
		files := []file{dir("d", 0o751)}
		for i := range 150 {
			files = append(files, reg(fmt.Sprintf("d/%d-%d", l, i), strings.Repeat(fmt.Sprint(l, i), 3000)))
		}
		if l > 0 {
			files = append(files[1:], reg(fmt.Sprintf("d/.wh.%d-0", l-1), ""))
		}
		b.layers(files)
	}
	b.write()
	return b, tree(t, mounted(t, unpacked(t, open(t, b.dir, ""))))
}

func child(t *testing.T, layout, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "unpack-for-test", layout, dir)
	cmd.Stderr = os.Stderr
	return cmd
}

// Killed at any moment, the next process cleans up, says so, and ends with the right layers.
func TestCrash(t *testing.T) {
	b, want := crashImage(t)
	began := time.Now()
	must(t, child(t, b.dir, t.TempDir()).Run())
	whole := time.Since(began)
	swept, unswept := 0, 0
	for i := range 25 {
		dir := t.TempDir()
		cmd := child(t, b.dir, dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if i%2 == 0 { // from the first byte read on; else from the start of the process on
			_, err = bufio.NewReader(out).ReadString('\n')
			must(t, err)
		}
		timer := time.AfterFunc(rand.N(whole), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		half := slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.HasSuffix(n, tmpSuffix) })
		s, removed, err := OpenStore(dir)
		must(t, err)
		if half != (len(removed) > 0) {
			t.Fatalf("OpenStore reports %q; want sentences: %v", removed, half)
		}
		for _, n := range names(t, dir) {
			if n != "lock" && !layerName().MatchString(n) {
				t.Fatalf("OpenStore left %s in the store", n)
			}
		}
		if half {
			swept++
		} else {
			unswept++
		}
		u, err := s.Unpack(t.Context(), open(t, b.dir, ""), Options{})
		must(t, err)
		must(t, u.Close())
		if got := tree(t, mounted(t, u.Layers)); !slices.Equal(got, want) {
			t.Fatalf("after a crash the merged root = %q; want %q", got, want)
		}
	}
	t.Logf("%d crashes left something half-made, %d did not", swept, unswept)
	if swept == 0 {
		t.Error("no crash left anything half-made; want some")
	}
}

// Several processes unpack the same image into the same store at once, while the store is opened again and again.
func TestConcurrentProcesses(t *testing.T) {
	b, want := crashImage(t)
	dir := t.TempDir()
	var all []*exec.Cmd
	for range 4 {
		cmd := child(t, b.dir, dir)
		cmd.Stdout = new(strings.Builder)
		must(t, cmd.Start())
		all = append(all, cmd)
	}
	for _, cmd := range all {
		_ = store(t, dir)
		if err := cmd.Wait(); err != nil {
			t.Errorf("one of several processes = %v; want success", err)
		}
		if out := cmd.Stdout.(*strings.Builder).String(); strings.Contains(out, "removed") {
			t.Errorf("one of several processes says %q; want it to leave the others' work alone", out)
		}
	}
	u, err := store(t, dir).Unpack(t.Context(), open(t, b.dir, ""), Options{})
	must(t, err)
	defer u.Close()
	if got := tree(t, mounted(t, u.Layers)); !slices.Equal(got, want) {
		t.Errorf("merged root = %q; want %q", got, want)
	}
}

// What a living process works on is not swept, and Prune keeps off while an unpack is not on record yet.
func TestStoreBusy(t *testing.T) {
	s := store(t, t.TempDir())
	im := build(t).layers([]file{reg("a", "1")}, []file{reg("b", "2")}).image()
	u, err := s.Unpack(t.Context(), im, Options{})
	must(t, err)
	if removed, err := s.Prune(nil); err == nil || len(removed) != 0 {
		t.Errorf("Prune beside an open Unpacked = %q, %v; want ErrBusy", removed, err)
	}
	must(t, u.Close())

	tmp := u.Layers[0] + "0"
	tmp = tmp[:len(tmp)-2] + "f" // another layer's name
	if tmp == u.Layers[0] {
		tmp = tmp[:len(tmp)-1] + "e"
	}
	must(t, os.Mkdir(tmp+tmpSuffix, 0o755))
	l, err := tryLock(tmp+lockSuffix, unix.LOCK_EX)
	must(t, err)
	if _, removed, err := OpenStore(s.Dir()); err != nil || len(removed) != 0 {
		t.Errorf("OpenStore beside a living unpack = %q, %v; want nothing removed", removed, err)
	}
	must(t, l.release())
	_, removed, err := OpenStore(s.Dir())
	if err != nil || len(removed) != 1 || !strings.Contains(removed[0], "sha256:"+filepath.Base(tmp)[7:]) {
		t.Errorf("OpenStore after it died = %q, %v; want one sentence with its digest", removed, err)
	}

	removed, err = s.Prune(u.Layers[:1])
	if err != nil || !slices.Equal(removed, u.Layers[1:]) {
		t.Errorf("Prune(first layer in use) = %q, %v; want %q", removed, err, u.Layers[1:])
	}
	if got, want := names(t, s.Dir()), []string{"lock", filepath.Base(u.Layers[0])}; !slices.Equal(got, want) {
		t.Errorf("store has %q; want %q", got, want)
	}
}
