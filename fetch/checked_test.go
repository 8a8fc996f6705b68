package fetch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestChecked(t *testing.T) {
	content := pattern(3 << 20)
	d := digest.FromBytes(content)
	first, second := t.TempDir(), t.TempDir()
	a, b := storeWith(t, first, content), storeWith(t, second)
	open := Checked(b, a)
	read := func() (string, error) {
		f, err := open(d)
		if err != nil {
			return "", err
		}
		defer f.Close()
		got, err := io.ReadAll(f)
		return string(got), err
	}
	for range 2 {
		if got, err := read(); err != nil || got != string(content) {
			t.Fatalf("open() gave %d bytes, %v; want the content", len(got), err)
		}
	}
	path := filepath.Join(first, "blobs/sha256", d.Encoded())
	bad := append([]byte(nil), content...)
	bad[1<<20] ^= 1
	if err := errors.Join(os.WriteFile(path, bad, 0o600), os.Chtimes(path, time.Now(), time.Now().Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := read(); !errors.Is(err, ErrVerification) {
		t.Errorf("open() of a damaged file = %v; want %v", err, ErrVerification)
	}
	// A right one elsewhere is good enough.
	if err := b.Put(d, content); err != nil {
		t.Fatal(err)
	}
	if got, err := read(); err != nil || got != string(content) {
		t.Errorf("open() gave %d bytes, %v; want the content of the other store", len(got), err)
	}
	if _, err := open(digest.FromString("absent")); !errors.Is(err, ErrNotFound) {
		t.Errorf("open() of what is not there = %v; want %v", err, ErrNotFound)
	}
}
