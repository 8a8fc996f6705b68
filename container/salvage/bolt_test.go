package salvage

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// makeBolt writes a database with the real library and returns its path.
func makeBolt(t testing.TB, fill func(tx *bbolt.Tx) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(fill); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func openTestBolt(t testing.TB, path string) *boltDB {
	t.Helper()
	db, err := openBolt(context.Background(), filepath.Dir(path), filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// tree fills a bucket with enough keys for branch pages, long values for
// overflow pages, and nested buckets both inline and on their own pages.
func tree(tx *bbolt.Tx) error {
	top, err := tx.CreateBucket([]byte("top"))
	if err != nil {
		return err
	}
	for i := range 3000 {
		if err := top.Put(fmt.Appendf(nil, "key-%05d", i), fmt.Appendf(nil, "value-%d", i)); err != nil {
			return err
		}
	}
	if err := top.Put([]byte("long"), []byte(strings.Repeat("x", 100_000))); err != nil {
		return err
	}
	for i := range 50 {
		nested, err := top.CreateBucket(fmt.Appendf(nil, "nested-%02d", i))
		if err != nil {
			return err
		}
		for j := range i * 10 {
			if err := nested.Put(fmt.Appendf(nil, "%04d", j), []byte("v")); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestBoltReadsWhatTheLibraryWrote(t *testing.T) {
	path := makeBolt(t, tree)
	db := openTestBolt(t, path)
	want, got := map[string]string{}, map[string]string{}
	lib, err := bbolt.Open(path, 0o600, nil) // holds the lock from here on
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	var theirs func(prefix string, b *bbolt.Bucket) error
	theirs = func(prefix string, b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return theirs(prefix+string(k)+"/", b.Bucket(k))
			}
			want[prefix+string(k)] = string(v)
			return nil
		})
	}
	if err := lib.View(func(tx *bbolt.Tx) error { return theirs("", tx.Bucket([]byte("top"))) }); err != nil {
		t.Fatal(err)
	}
	var ours func(prefix string, b *boltBucket)
	ours = func(prefix string, b *boltBucket) {
		for _, entry := range b.entries() {
			if entry.bucket != nil {
				ours(prefix+string(entry.key)+"/", entry.bucket)
				continue
			}
			got[prefix+string(entry.key)] = string(entry.value)
		}
	}
	ours("", db.root.bucket("top"))
	if len(want) < 15_000 || len(got) != len(want) || len(db.damage) > 0 {
		t.Fatalf("read %d keys of %d, damage %v", len(got), len(want), db.damage)
	}
	for key, value := range want {
		if got[key] != value {
			t.Fatalf("%s = %q; want %q", key, got[key], value)
		}
	}
	if got := string(db.root.bucket("top").get("key-01234")); got != "value-1234" {
		t.Errorf("get(key-01234) = %q; want value-1234", got)
	}
	if b := db.root.bucket("top", "nothing", "below"); b != nil || b.get("x") != nil || b.err() != nil {
		t.Errorf("bucket(nothing) = %v; want nil and no error", b)
	}
}

// TestBoltLoop has a branch page that is its own child, on which the library's
// search recurses until the process dies.
func TestBoltLoop(t *testing.T) {
	path := makeBolt(t, tree)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for id := 2; id < len(data)/page; id++ {
		raw := data[id*page:]
		if binary.NativeEndian.Uint64(raw) != uint64(id) || binary.NativeEndian.Uint16(raw[8:]) != boltBranchPage {
			continue
		}
		for i := range int(binary.NativeEndian.Uint16(raw[10:])) {
			binary.NativeEndian.PutUint64(raw[boltPageHeader+i*boltElement+8:], uint64(id))
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db := openTestBolt(t, path)
	db.root.bucket("top").entries()
	if len(db.damage) == 0 || !strings.Contains(db.damage[0].Error(), "used twice") {
		t.Errorf("damage = %v; want a page used twice", db.damage)
	}
}

func TestBoltOlderMetaPage(t *testing.T) {
	path := makeBolt(t, func(tx *bbolt.Tx) error { return putAll(tx, map[string][]byte{"b/key": []byte("old")}) })
	lib, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.Update(func(tx *bbolt.Tx) error { return putAll(tx, map[string][]byte{"b/key": []byte("new")}) }); err != nil {
		t.Fatal(err)
	}
	if err := lib.Close(); err != nil {
		t.Fatal(err)
	}
	if db := openTestBolt(t, path); string(db.root.bucket("b").get("key")) != "new" || len(db.damage) != 0 {
		t.Errorf("key = %q, damage %v; want new and none", db.root.bucket("b").get("key"), db.damage)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	txid := func(page int) uint64 {
		return binary.NativeEndian.Uint64(data[page*os.Getpagesize()+boltPageHeader+48:])
	}
	newer := 0
	if txid(1) > txid(0) {
		newer = 1
	}
	data[newer*os.Getpagesize()+boltPageHeader+16] ^= 0xff // its root page's number
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if db := openTestBolt(t, path); string(db.root.bucket("b").get("key")) != "old" || len(db.damage) != 1 {
		t.Errorf("key = %q, damage %v; want old and the damaged page named", db.root.bucket("b").get("key"), db.damage)
	}
}

// TestBoltSharedBytes has a page of many elements that all claim the same bytes.
func TestBoltSharedBytes(t *testing.T) {
	const count = 100
	raw := make([]byte, 4096)
	binary.NativeEndian.PutUint16(raw[10:], count)
	for i := range count {
		at := boltPageHeader + i*boltElement
		binary.NativeEndian.PutUint32(raw[at+4:], uint32(2000-at)) //nolint:gosec // small
		binary.NativeEndian.PutUint32(raw[at+8:], 1000)
		binary.NativeEndian.PutUint32(raw[at+12:], 1000)
	}
	b := &boltBucket{}
	if err := b.leaf(raw); err == nil || len(b.content) != 1 {
		t.Errorf("leaf = %v with %d elements; want an error and the first one", err, len(b.content))
	}
}

// TestBoltWhileWritten copies a database that another goroutine writes to as
// fast as it can: every copy is one transaction's, whole.
func TestBoltWhileWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "busy.db")
	lib, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan error)
	write := func(n int) error {
		return lib.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			for key := range 200 {
				if err := b.Put(fmt.Appendf(nil, "key-%03d", key), fmt.Appendf(nil, "%09d%s", n, strings.Repeat("x", 500))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := lib.Update(func(tx *bbolt.Tx) error { // takes time to copy
		b, err := tx.CreateBucket([]byte("filler"))
		if err != nil {
			return err
		}
		return b.Put([]byte("x"), make([]byte, 16<<20))
	}); err != nil {
		t.Fatal(err)
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	go func() {
		for n := 1; !stop.Load(); n++ {
			if err := write(n); err != nil {
				done <- err
				return
			}
			time.Sleep(20 * time.Millisecond) // the pace of a busy host, nothing is waited for
		}
		done <- nil
	}()
	settled := 0
	for range 50 {
		db, err := openBolt(context.Background(), filepath.Dir(path), filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]int{}
		for _, entry := range db.root.bucket("b").entries() {
			values[string(entry.value[:9])]++
		}
		if len(db.damage) == 0 {
			settled++
			if len(values) != 1 {
				t.Errorf("a copy without damage mixes transactions: %v", values)
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := lib.Close(); err != nil {
		t.Error(err)
	}
	if settled == 0 {
		t.Error("no copy of 50 was whole")
	}
	t.Logf("%d of 50 copies were whole", settled)
}

func FuzzBolt(f *testing.F) {
	path := makeBolt(f, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("v1"))
		if err != nil {
			return err
		}
		nested, err := b.CreateBucket([]byte("inline"))
		if err != nil {
			return err
		}
		return nested.Put([]byte("key"), []byte("value"))
	})
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "db"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := openBolt(context.Background(), dir, "db")
		if err != nil {
			return
		}
		defer db.Close()
		var walk func(b *boltBucket, depth int)
		walk = func(b *boltBucket, depth int) {
			for _, entry := range b.entries() {
				if entry.bucket != nil && depth < 10 {
					walk(entry.bucket, depth+1)
				}
			}
		}
		walk(db.root, 0)
		for _, found := range db.loose() {
			walk(found.bucket, 0)
		}
	})
}
