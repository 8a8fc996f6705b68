package recovery

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

func copySite(t *testing.T) (s Site, said *bytes.Buffer) {
	t.Helper()
	said = &bytes.Buffer{}
	return Site{Host: container.Host{State: t.TempDir(), Data: t.TempDir()}, Log: slog.New(slog.NewTextHandler(said, nil))}, said
}

func (s Site) command(t *testing.T) {
	t.Helper()
	begun, err := s.Begin(Command{Words: []string{"test"}})
	if err != nil {
		t.Fatal(err)
	}
	begun.End(0)
}

// Commands that run at once leave a copy that has all of them.
func TestCopyOfManyCommands(t *testing.T) {
	s, said := copySite(t)
	s.command(t)
	to := filepath.Join(t.TempDir(), "copy")
	if _, err := s.KeepCopy(t.Context(), Copy{To: "file:" + to}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				s.command(t)
			}
		})
	}
	all.Wait()
	want, err := os.ReadFile(s.journalPath())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(want, []byte("\n")); n != 82 || !bytes.Equal(got, want) {
		t.Errorf("record of %d lines, copy of %d; want 82 in both, said: %s", n, bytes.Count(got, []byte("\n")), said)
	}
	if copies, err := s.Copies(); err != nil || len(copies) != 1 || copies[0].Entries != 82 || copies[0].Problem != "" {
		t.Errorf("Copies() = %+v, %v; want one of 82 entries", copies, err)
	}
}

// Notes that are damaged are said, and hide neither the other copies nor what is done.
func TestCopyWithoutNotes(t *testing.T) {
	s, said := copySite(t)
	s.command(t)
	good, bad := filepath.Join(t.TempDir(), "good"), "file:"+filepath.Join(t.TempDir(), "bad")
	for _, to := range []string{"file:" + good, bad} {
		if _, err := s.KeepCopy(t.Context(), Copy{To: to}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.copiesDir(), "begun"), 0o700); err != nil { // and cut off there
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.copyDir(bad), copyNotes), []byte(`{"to": `), 0o600); err != nil {
		t.Fatal(err)
	}
	s.command(t)
	if copies, err := s.Copies(); err == nil || len(copies) != 1 || copies[0].Entries != 4 {
		t.Errorf("Copies() = %+v, %v; want the good one, and an error for the other", copies, err)
	}
	if !strings.Contains(said.String(), "not every copy") {
		t.Errorf("it says %q; want that not every copy is kept", said)
	}
	if err := s.ForgetCopy(t.Context(), bad); err != nil {
		t.Errorf("ForgetCopy() = %v; want nil", err)
	}
	if _, err := s.Copies(); err != nil {
		t.Errorf("Copies() after that = %v; want nil", err)
	}
	if err := s.ForgetCopy(t.Context(), bad); !errors.Is(err, ErrNoCopy) {
		t.Errorf("ForgetCopy() again = %v; want ErrNoCopy", err)
	}
}

// A copy can be forgotten while others are bringing it up to the record.
func TestCopyForgotten(t *testing.T) {
	s, said := copySite(t)
	s.command(t)
	for range 10 {
		to := "file:" + filepath.Join(t.TempDir(), "copy")
		if _, err := s.KeepCopy(t.Context(), Copy{To: to}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { s.command(t) })
		}
		if err := s.ForgetCopy(t.Context(), to); err != nil {
			t.Errorf("ForgetCopy() = %v; want nil", err)
		}
		all.Wait()
	}
	if strings.Contains(said.String(), "behind") || exists(s.copiesDir()) {
		t.Errorf("it says %s, and the notes are there: %v; want neither", said, exists(s.copiesDir()))
	}
}

// A copy that cannot be made is not kept, and one that differs is left alone.
func TestCopyThatDiffers(t *testing.T) {
	s, _ := copySite(t)
	s.command(t)
	other, _ := copySite(t)
	other.command(t)
	if _, err := s.KeepCopy(t.Context(), Copy{To: "file:" + other.journalPath()}); !errors.Is(err, journal.ErrTampered) {
		t.Errorf("KeepCopy() of another record = %v; want ErrTampered", err)
	}
	if copies, err := s.Copies(); err != nil || len(copies) != 0 {
		t.Errorf("Copies() = %v, %v; want none", copies, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.bring(ctx, s.copyDir("file:/nowhere")); err == nil {
		t.Error("bring() of what is not kept = nil; want an error")
	}
}
