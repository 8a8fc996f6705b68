package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// shelf is a source in memory that can be told to misbehave.
type shelf struct {
	name  string
	blobs map[digest.Digest][]byte
	asked atomic.Int64 // bytes that it gave
	// answer stands before each answer: it may wait, change the bytes or fail.
	answer func(ctx context.Context, d digest.Digest, offset int64, b []byte) ([]byte, error)
	size   func(int64) int64 // what it says a blob's size is
}

func (s *shelf) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	all, ok := s.blobs[d]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	b := all[offset:]
	if n >= 0 {
		b = b[:min(n, int64(len(b)))]
	}
	if s.answer != nil {
		var err error
		if b, err = s.answer(ctx, d, offset, bytes.Clone(b)); err != nil {
			return nil, 0, err
		}
	}
	return &counted{bytes.NewReader(b), &s.asked}, int64(len(all)), nil
}

type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counted) Close() error { return nil }

func (s *shelf) Stat(_ context.Context, d digest.Digest) (int64, error) {
	b, ok := s.blobs[d]
	if !ok {
		return 0, fmt.Errorf("%s: %w", d, ErrNotFound)
	}
	if s.size != nil {
		return s.size(int64(len(b))), nil
	}
	return int64(len(b)), nil
}

func (s *shelf) String() string { return "shelf:" + s.name }
func (s *shelf) Close() error   { return nil }

// cut makes content of about n bytes, half of which compresses, and its frames.
func cut(t *testing.T, n int) ([]byte, Ref, map[digest.Digest][]byte) {
	t.Helper()
	content := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	for i := 0; i < n; i += 8192 {
		_, _ = r.Read(content[i:min(i+4096, n)])
	}
	blobs := map[digest.Digest][]byte{}
	ref, err := Split(t.Context(), bytes.NewReader(content), func(frame []byte, c Chunk) error {
		blobs[c.Digest] = frame
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return content, ref, blobs
}

func store(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t *testing.T, g *Getter, ref Ref) ([]byte, error) {
	t.Helper()
	r, err := g.Open(t.Context(), ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func flip(_ context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) {
	b[len(b)/2] ^= 1
	return b, nil
}

func refuse(context.Context, digest.Digest, int64, []byte) ([]byte, error) {
	return nil, errors.New("connection refused")
}

func states(r Report) string {
	var all []string
	for _, s := range r.Sources {
		all = append(all, s.State)
	}
	return strings.Join(all, " ")
}

func TestOpenFrames(t *testing.T) {
	content, ref, blobs := cut(t, 30<<20+5)
	if len(ref.Chunks) != 8 || ref.Size != int64(len(content)) || ref.Digest != digest.FromBytes(content) {
		t.Fatalf("Split() = %d chunks, %d bytes, %s; want 8, %d, %s", len(ref.Chunks), ref.Size, ref.Digest, len(content), digest.FromBytes(content))
	}
	liar := &shelf{name: "liar", blobs: blobs, answer: flip}
	dead := &shelf{name: "dead", blobs: blobs, answer: refuse}
	empty := &shelf{name: "empty"}
	short := &shelf{name: "short", blobs: blobs, answer: func(_ context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) { return b[:len(b)/2], nil }}
	var g *Getter
	// The good one is not quicker than the liar: else nobody would have asked that.
	good := &shelf{name: "good", blobs: blobs, answer: func(_ context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) {
		for deadline := time.Now().Add(time.Minute); g.Report().Sources[0].State != "dropped" && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		return b, nil
	}}
	st := store(t)
	var last Progress
	g = NewGetter(st, []Source{liar, dead, empty, short, good}, Options{Progress: func(p Progress) { last = p }})
	got, err := get(t, g, ref)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("Open() gave %d bytes, %v; want the %d bytes", len(got), err, len(content))
	}
	r := g.Report()
	if r.Sources[0].State != "dropped" || r.Sources[4].State != "used" || r.Sources[0].Bytes+r.Sources[1].Bytes+r.Sources[3].Bytes != 0 {
		t.Errorf("Report() = %+v; want the liar dropped, and all from the good one", r)
	}
	if last.Done != r.Sources[4].Bytes {
		t.Errorf("the last progress has %d bytes; want %d", last.Done, r.Sources[4].Bytes)
	}
	// Once more: nothing is asked for, but for what got damaged meanwhile.
	damaged := filepath.Join(st.Dir(), "blobs/sha256", ref.Chunks[3].Digest.Encoded())
	if err := os.WriteFile(damaged, make([]byte, ref.Chunks[3].Size), 0o600); err != nil {
		t.Fatal(err)
	}
	good.asked.Store(0)
	good.answer = nil
	g = NewGetter(st, []Source{good}, Options{})
	if got, err := get(t, g, ref); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("Open() of what is there gave %d bytes, %v; want the %d bytes", len(got), err, len(content))
	}
	if n := good.asked.Load(); n != ref.Chunks[3].Size {
		t.Errorf("the source was asked for %d bytes; want the damaged frame's %d", n, ref.Chunks[3].Size)
	}
	if r := g.Report(); r.Reused == 0 || r.Sources[0].Pieces != 1 {
		t.Errorf("Report() = %+v; want one piece from the source, the rest reused", r)
	}
}

func TestOpenFails(t *testing.T) {
	_, ref, blobs := cut(t, 9<<20)
	dead := &shelf{name: "dead", blobs: blobs, answer: refuse}
	empty := &shelf{name: "empty"}
	liar := &shelf{name: "liar", blobs: blobs, answer: flip}
	for _, c := range []struct {
		sources []Source
		states  string
		missing bool
		say     string
	}{
		{nil, "", false, "there is no source"},
		{[]Source{empty}, "missing", true, "shelf:empty"},
		{[]Source{dead, empty}, "down missing", false, "connection refused"},
		{[]Source{liar, empty}, "dropped missing", false, "wrong digest"},
	} {
		g := NewGetter(store(t), c.sources, Options{})
		_, err := get(t, g, ref)
		var none *NoSourceError
		if !errors.As(err, &none) || errors.Is(err, ErrNotFound) != c.missing || !strings.Contains(err.Error(), c.say) {
			t.Errorf("Open() from %v = %v; want a NoSourceError that says %q, not found: %v", c.sources, err, c.say, c.missing)
		}
		if got := states(g.Report()); got != c.states {
			t.Errorf("states of %v = %q; want %q", c.sources, got, c.states)
		}
	}
}

// A source that is slow costs what is asked for twice, not its time.
func TestOpenSlow(t *testing.T) {
	content, ref, blobs := cut(t, 40<<20)
	slow := &shelf{name: "slow", blobs: blobs, answer: func(ctx context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Second):
			return b, nil
		}
	}}
	good := &shelf{name: "good", blobs: blobs}
	g := NewGetter(store(t), []Source{slow, good}, Options{})
	start := time.Now()
	got, err := get(t, g, ref)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("Open() gave %d bytes, %v; want the content", len(got), err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %v; want not to wait for the slow one", d)
	}
	if r := g.Report(); r.Sources[1].Pieces != len(ref.Chunks) {
		t.Errorf("Report() = %+v; want all from the good one", r)
	}
}

func TestOpenWhole(t *testing.T) {
	content, _, _ := cut(t, 21<<20+3)
	d := digest.FromBytes(content)
	blobs := map[digest.Digest][]byte{d: content}
	norange := func(_ context.Context, _ digest.Digest, offset int64, b []byte) ([]byte, error) {
		if offset > 0 {
			return nil, ErrNoRange
		}
		return b, nil
	}
	late := func(_ context.Context, _ digest.Digest, offset int64, b []byte) ([]byte, error) {
		if offset >= 8<<20 {
			b[0] ^= 1
		}
		return b, nil
	}
	longer := func(n int64) int64 { return n + 1000 }
	unsaid := func(int64) int64 { return -1 }
	for name, c := range map[string]struct {
		sources []Source
		ref     Ref
		partial []byte
		want    bool
	}{
		"two":                {[]Source{&shelf{name: "a", blobs: blobs}, &shelf{name: "b", blobs: blobs}}, Ref{Digest: d, Size: -1}, nil, true},
		"a liar":             {[]Source{&shelf{name: "a", blobs: blobs, answer: late}, &shelf{name: "b", blobs: blobs}}, Ref{Digest: d, Size: -1}, nil, true},
		"a liar about sizes": {[]Source{&shelf{name: "a", blobs: blobs, size: longer}, &shelf{name: "b", blobs: blobs}}, Ref{Digest: d, Size: -1}, nil, true},
		"no ranges":          {[]Source{&shelf{name: "a", blobs: blobs, answer: norange}}, Ref{Digest: d, Size: -1}, nil, true},
		"no ranges, unsaid":  {[]Source{&shelf{name: "a", blobs: blobs, answer: norange, size: unsaid}}, Ref{Digest: d, Size: -1}, nil, true},
		"size known":         {[]Source{&shelf{name: "a", blobs: blobs}}, Ref{Digest: d, Size: int64(len(content))}, nil, true},
		"begun":              {[]Source{&shelf{name: "a", blobs: blobs}}, Ref{Digest: d, Size: -1}, content[:9<<20+7], true},
		"begun wrongly":      {[]Source{&shelf{name: "a", blobs: blobs}}, Ref{Digest: d, Size: -1}, make([]byte, 10<<20), true},
		"begun too long":     {[]Source{&shelf{name: "a", blobs: blobs}}, Ref{Digest: d, Size: -1}, make([]byte, 30<<20), true},
		"only a liar":        {[]Source{&shelf{name: "a", blobs: blobs, answer: late}}, Ref{Digest: d, Size: -1}, nil, false},
		"wrong size":         {[]Source{&shelf{name: "a", blobs: blobs}}, Ref{Digest: d, Size: 1000}, nil, false},
		"dead":               {[]Source{&shelf{name: "a", blobs: blobs, answer: refuse}}, Ref{Digest: d, Size: -1}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			st := store(t)
			if c.partial != nil {
				if err := os.WriteFile(filepath.Join(st.Dir(), partialDir, d.Encoded()), c.partial, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := NewGetter(st, c.sources, Options{})
			got, err := get(t, g, c.ref)
			if c.want && (err != nil || !bytes.Equal(got, content)) {
				t.Fatalf("Open() gave %d bytes, %v; want the %d bytes", len(got), err, len(content))
			}
			if !c.want && err == nil {
				t.Fatalf("Open() gave %d bytes; want an error", len(got))
			}
			if st.Has(d, int64(len(content))) != c.want {
				t.Errorf("the store has the blob: %v; want %v", !c.want, c.want)
			}
			if name == "begun" {
				if n := c.sources[0].(*shelf).asked.Load(); n != int64(len(content))-(9<<20+7) {
					t.Errorf("the source gave %d bytes; want only the rest", n)
				}
			}
		})
	}
}

// Two fetches of the same bytes fetch them once.
func TestOpenTwice(t *testing.T) {
	content, ref, blobs := cut(t, 24<<20)
	dir := t.TempDir()
	var wg sync.WaitGroup
	var waited atomic.Int32
	var both sync.Once
	src := &shelf{name: "a", blobs: blobs, answer: func(_ context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) {
		both.Do(func() {
			for deadline := time.Now().Add(time.Minute); waited.Load() < 2 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
		})
		return b, nil
	}}
	for range 3 {
		st, err := OpenStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		g := NewGetter(st, []Source{src}, Options{Progress: func(p Progress) {
			if p.WaitingFor != "" {
				waited.Add(1)
			}
		}})
		wg.Go(func() {
			if got, err := get(t, g, ref); err != nil || !bytes.Equal(got, content) {
				t.Errorf("Open() gave %d bytes, %v; want the content", len(got), err)
			}
		})
	}
	wg.Wait()
	var size int64
	for _, c := range ref.Chunks {
		size += c.Size
	}
	if n := src.asked.Load(); n != size {
		t.Errorf("the source gave %d bytes; want each once, %d", n, size)
	}
	if waited.Load() != 2 {
		t.Errorf("%d waited; want 2", waited.Load())
	}
	left, err := os.ReadDir(filepath.Join(dir, partialDir))
	if err != nil || len(left) > 0 {
		t.Errorf("%s has %v, %v; want nothing left", partialDir, left, err)
	}
}

// Who has nothing yet may have it in a moment.
func TestOpenWaits(t *testing.T) {
	content, ref, blobs := cut(t, 12<<20)
	var from time.Time
	late := &shelf{name: "late", blobs: blobs, answer: func(_ context.Context, d digest.Digest, _ int64, b []byte) ([]byte, error) {
		if time.Now().Before(from) {
			return nil, ErrNotFound
		}
		return b, nil
	}}
	from = time.Now().Add(time.Second)
	if _, err := get(t, NewGetter(store(t), []Source{late}, Options{}), ref); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open() = %v; want %v at once", err, ErrNotFound)
	}
	if got, err := get(t, NewGetter(store(t), []Source{late}, Options{Wait: 20 * time.Second}), ref); err != nil || !bytes.Equal(got, content) {
		t.Errorf("Open() gave %d bytes, %v; want the content in the end", len(got), err)
	}
}

func TestFill(t *testing.T) {
	_, ref, blobs := cut(t, 30<<20)
	gone := ref.Chunks[2].Digest
	delete(blobs, gone)
	st := store(t)
	g := NewGetter(st, []Source{&shelf{name: "a", blobs: blobs}}, Options{})
	err := g.Fill(t.Context(), ref.Chunks)
	var none *NoSourceError
	if !errors.As(err, &none) || none.Blob != gone {
		t.Errorf("Fill() = %v; want that %s is not to be had", err, gone)
	}
	for i, c := range ref.Chunks {
		if st.Has(c.Digest, c.Size) != (i != 2) {
			t.Errorf("frame %d is there: %v; want %v", i, i == 2, i != 2)
		}
	}
}

func TestOpenHostileRef(t *testing.T) {
	content, ref, blobs := cut(t, 5<<20)
	src := &shelf{name: "a", blobs: blobs}
	for name, change := range map[string]func(*Ref){
		"a digest of another kind": func(r *Ref) { r.Digest = "sha512:00" },
		"a path":                   func(r *Ref) { r.Digest = "sha256:../../etc/passwd" },
		"a huge frame":             func(r *Ref) { r.Chunks[0].Size = 1 << 40 },
		"a bomb":                   func(r *Ref) { r.Chunks[0].Length, r.Size = 1<<40, -1 },
		"more than is said":        func(r *Ref) { r.Chunks[0].Length -= 1000; r.Size -= 1000 },
		"less than is said":        func(r *Ref) { r.Chunks[1].Length += 1000; r.Size += 1000 },
		"another order":            func(r *Ref) { r.Chunks = []Chunk{r.Chunks[0], r.Chunks[0]}; r.Size = -1 },
		"another size":             func(r *Ref) { r.Size++ },
	} {
		bad := Ref{ref.Digest, ref.Size, append([]Chunk(nil), ref.Chunks...)}
		change(&bad)
		if got, err := get(t, NewGetter(store(t), []Source{src}, Options{}), bad); !errors.Is(err, ErrVerification) {
			t.Errorf("%s: Open() gave %d bytes, %v; want %v", name, len(got), err, ErrVerification)
		}
	}
	if got, err := get(t, NewGetter(store(t), []Source{src}, Options{}), ref); err != nil || !bytes.Equal(got, content) {
		t.Errorf("Open() gave %d bytes, %v; want the content", len(got), err)
	}
}

func TestOpenCancelled(t *testing.T) {
	_, ref, blobs := cut(t, 12<<20)
	ctx, cancel := context.WithCancel(t.Context())
	hung := &shelf{name: "hung", blobs: blobs, answer: func(ctx context.Context, _ digest.Digest, _ int64, _ []byte) ([]byte, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	r, err := NewGetter(store(t), []Source{hung}, Options{}).Open(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading = %v; want %v", err, context.Canceled)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
