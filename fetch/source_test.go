package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// testSecret is the password, or secret key, that the tests of sources log in
// with: testSource looks for it in everything a source says.
const testSecret = "hunter2-never-shown"

// sourceTrait is what a kind of source cannot do.
type sourceTrait int

const (
	noRanges   sourceTrait = iota // only reads from the beginning
	oneContent                    // gives the same content for every digest
)

// testSource is what every kind of source has to pass. src has the blob, whose
// content must be of 1 MiB at least and all different, so that pattern fits. It
// closes src.
func testSource(t *testing.T, src Source, blob digest.Digest, content []byte, traits ...sourceTrait) {
	t.Helper()
	size := int64(len(content))
	if size < 1<<20 {
		t.Fatalf("testSource with %d bytes; want 1 MiB at least", size)
	}
	ranges, missing := !slices.Contains(traits, noRanges), !slices.Contains(traits, oneContent)

	t.Run("stat", func(t *testing.T) {
		if n, err := src.Stat(t.Context(), blob); n != size || err != nil {
			t.Errorf("Stat() = %d, %v; want %d", n, err, size)
		}
	})
	t.Run("whole", func(t *testing.T) {
		wantPart(t, src, blob, content, 0, -1)
	})
	t.Run("parts", func(t *testing.T) {
		for _, r := range [][2]int64{
			{0, 1},
			{0, 4096},
			{0, size},
			{0, 0},
			{1, 65535},
			{size / 2, 65537},
			{size / 2, -1},
			{size / 2, 0},
			{size - 1, 1},
			{size - 100, 100},
			{size - 100, -1},
			{size - 100, 101},
			{size - 1, 1 << 40},
		} {
			if r[0] == 0 || ranges {
				wantPart(t, src, blob, content, r[0], r[1])
			} else if r[1] != 0 {
				wantNoRange(t, src, blob, r[0], r[1])
			}
		}
	})
	if ranges {
		t.Run("beyond the end", func(t *testing.T) {
			for _, r := range [][2]int64{{size, 1}, {size, -1}, {size + 1<<20, 4096}} {
				wantNothing(t, src, blob, r[0], r[1])
			}
		})
	}
	if missing {
		t.Run("missing", func(t *testing.T) {
			none := digest.FromString("no source has this")
			if n, err := src.Stat(t.Context(), none); !errors.Is(err, ErrNotFound) {
				t.Errorf("Stat(missing) = %d, %v; want %v", n, err, ErrNotFound)
			}
			for _, r := range [][2]int64{{0, -1}, {0, 4096}, {4096, 4096}, {0, 0}} {
				body, _, err := src.Open(t.Context(), none, r[0], r[1])
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("Open(missing, %d, %d) = %v; want %v", r[0], r[1], err, ErrNotFound)
				}
				if err == nil {
					_ = body.Close()
				}
			}
		})
	}
	t.Run("not a digest", func(t *testing.T) {
		for _, d := range []digest.Digest{"", "sha256:../../index.json", "sha256:00", digest.SHA512.FromString("x")} {
			if n, err := src.Stat(t.Context(), d); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Stat(%q) = %d, %v; want that it is no sha256 digest", d, n, err)
			}
			body, _, err := src.Open(t.Context(), d, 0, -1)
			if err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Open(%q) = %v; want that it is no sha256 digest", d, err)
			}
			if err == nil {
				_ = body.Close()
			}
		}
	})
	t.Run("at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range int64(8) {
			wg.Go(func() {
				offset := i * (size / 8)
				if !ranges {
					offset = 0
				}
				wantPart(t, src, blob, content, offset, size/8)
				if n, err := src.Stat(t.Context(), blob); n != size || err != nil {
					t.Errorf("Stat() = %d, %v; want %d", n, err, size)
				}
			})
		}
		wg.Wait()
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if body, _, err := src.Open(ctx, blob, 0, -1); err == nil {
			if _, err := io.ReadAll(body); !errors.Is(err, context.Canceled) {
				t.Errorf("reading after a cancel: %v; want %v", err, context.Canceled)
			}
			_ = body.Close()
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("Open() after a cancel = %v; want %v", err, context.Canceled)
		}

		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		body, _, err := src.Open(ctx, blob, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cancel()
		within(t, 5*time.Second, func() {
			if n, err := io.Copy(io.Discard, body); err == nil {
				t.Errorf("reading on after a cancel: %d bytes, no error; want one", n)
			}
		})
		wantCloseTwice(t, body)
		wantPart(t, src, blob, content, 0, 4096) // the source lives on
	})
	t.Run("not read to its end", func(t *testing.T) {
		body, _, err := src.Open(t.Context(), blob, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, func() { wantCloseTwice(t, body) })
		wantPart(t, src, blob, content, 0, 4096)
	})
	t.Run("name", func(t *testing.T) {
		u, err := url.Parse(src.String())
		if err != nil || u.Scheme == "" {
			t.Fatalf("String() = %q; want a URL", src.String())
		}
		if _, secret := u.User.Password(); secret || strings.Contains(src.String(), testSecret) {
			t.Errorf("String() = %q; want no secret in it", src.String())
		}
		if s := fmt.Sprintf("%v", src); s != src.String() {
			t.Errorf("printed: %q; want %q", s, src.String())
		}
	})
	for range 2 {
		if err := src.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
}

// wantPart opens a part of a blob, which must give the bytes that are there, and
// no more than were asked for.
func wantPart(t *testing.T, src Source, blob digest.Digest, content []byte, offset, n int64) {
	t.Helper()
	want := content[offset:]
	if n >= 0 && n < int64(len(want)) {
		want = want[:n]
	}
	body, total, err := src.Open(t.Context(), blob, offset, n)
	if err != nil {
		t.Errorf("Open(%d, %d) = %v; want a reader", offset, n, err)
		return
	}
	if total != int64(len(content)) && total != -1 {
		t.Errorf("Open(%d, %d): total %d; want %d or -1", offset, n, total, len(content))
	}
	got, err := io.ReadAll(body)
	if err != nil {
		t.Errorf("reading (%d, %d): after %d bytes: %v", offset, n, len(got), err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Open(%d, %d): %d bytes; want %d, the same ones", offset, n, len(got), len(want))
	}
	wantCloseTwice(t, body)
}

// wantNothing opens a part that is not there: that is an error, or no byte.
func wantNothing(t *testing.T, src Source, blob digest.Digest, offset, n int64) {
	t.Helper()
	body, _, err := src.Open(t.Context(), blob, offset, n)
	if err != nil {
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoRange) {
			t.Errorf("Open(%d, %d) = %v; want another error", offset, n, err)
		}
		return
	}
	if got, _ := io.ReadAll(body); len(got) != 0 {
		t.Errorf("Open(%d, %d): %d bytes; want none", offset, n, len(got))
	}
	wantCloseTwice(t, body)
}

func wantNoRange(t *testing.T, src Source, blob digest.Digest, offset, n int64) {
	t.Helper()
	body, _, err := src.Open(t.Context(), blob, offset, n)
	if !errors.Is(err, ErrNoRange) {
		t.Errorf("Open(%d, %d) = %v; want %v", offset, n, err, ErrNoRange)
	}
	if err == nil {
		_ = body.Close()
	}
}

func wantCloseTwice(t *testing.T, c io.Closer) {
	t.Helper()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
}

// within runs f, which must not take longer.
func within(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("still going on after %v", limit)
	}
}
