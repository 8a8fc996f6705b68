package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// This file reads bbolt databases (containerd, older Podman) without bbolt.
// The library maps the file and trusts its pages: a page that names itself as
// its child overflows the stack, which no recover can catch. Here every page is
// checked, read at most once, and lost alone.
//
// Format, in the byte order of the machine that wrote it (bbolt's
// internal/common): a page is id u64, flags u16, count u16, overflow u32, then
// count elements of 16 bytes. Branch: pos u32, ksize u32, child u64. Leaf: flags
// u32, pos u32, ksize u32, vsize u32; pos counts from the element. A nested
// bucket's value is root u64, sequence u64, and if root is 0 a page inline.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltPageHeader = 16
	boltElement    = 16
	boltBucketSize = 16
	boltMetaSize   = 64 // with its checksum

	boltBranchPage = 0x01
	boltLeafPage   = 0x02
	boltBucketLeaf = 0x01 // flag of a leaf element

	boltMaxDepth = 32
	boltMaxPage  = 64 << 20 // bytes, overflow pages included
)

// boltDB is a private copy of a bbolt database.
type boltDB struct {
	file     *os.File
	size     int64
	pageSize int64
	root     *boltBucket         // nil if neither meta page is good
	read     map[uint64]struct{} // pages some bucket owns
	damage   []error             // what was unreadable so far
}

// openBolt copies a database below root and reads its meta pages. The error is
// for a file that cannot be read at all; damage within it shows in db.damage as
// buckets are read.
func openBolt(ctx context.Context, root, name string) (*boltDB, error) {
	file, err := copyDB(ctx, root, name)
	if err != nil && !errors.Is(err, errUnsettled) {
		return nil, err
	}
	db, openErr := newBolt(file)
	if openErr != nil {
		_ = file.Close()
		return nil, openErr
	}
	if err != nil {
		db.damage = append(db.damage, err)
	}
	return db, nil
}

// newBolt reads the meta pages of a copy, which it then owns.
func newBolt(file *os.File) (*boltDB, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return nil, errors.New("database has 0 bytes, as after a power loss")
	}
	db := &boltDB{file: file, size: info.Size(), read: map[uint64]struct{}{}}
	db.findRoot()
	return db, nil
}

// Close frees the copy.
func (db *boltDB) Close() error { return db.file.Close() }

// findRoot takes the newer of the two meta pages. The second sits one page
// after the first, whatever a page is.
func (db *boltDB) findRoot() {
	var newest uint64
	found := 0
	for _, at := range []int64{0, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 10, 1 << 11} {
		var raw [boltPageHeader + boltMetaSize]byte
		if _, err := db.file.ReadAt(raw[:], at); err != nil {
			continue
		}
		meta := raw[boltPageHeader:]
		pageSize := int64(binary.NativeEndian.Uint32(meta[8:]))
		if binary.NativeEndian.Uint32(meta) != boltMagic || binary.NativeEndian.Uint32(meta[4:]) != boltVersion ||
			boltChecksum(meta) != binary.NativeEndian.Uint64(meta[56:]) || !boltPageSize(pageSize) || at != 0 && at != pageSize {
			continue
		}
		found++
		if txid := binary.NativeEndian.Uint64(meta[48:]); db.root == nil || txid > newest {
			newest = txid
			db.pageSize = pageSize
			db.root = &boltBucket{db: db, page: binary.NativeEndian.Uint64(meta[16:])}
		}
	}
	switch found {
	case 0:
		db.pageSize = db.guessPageSize()
		db.damage = append(db.damage, errors.New("both meta pages are damaged"))
	case 1:
		db.damage = append(db.damage, errors.New("one of two meta pages is damaged: records may be one transaction old"))
	}
}

// guessPageSize returns the size at whose multiples most pages carry their own
// number.
func (db *boltDB) guessPageSize() int64 {
	best, most := int64(1<<12), 0
	for size := int64(1 << 12); size <= 1<<16; size *= 2 {
		matches := 0
		for id := int64(2); id < 64; id++ {
			var header [8]byte
			if _, err := db.file.ReadAt(header[:], id*size); err == nil && binary.NativeEndian.Uint64(header[:]) == uint64(id) {
				matches++
			}
		}
		if matches > most {
			best, most = size, matches
		}
	}
	return best
}

func boltPageSize(n int64) bool { return n >= 1<<10 && n <= 1<<16 && n&(n-1) == 0 }

func boltChecksum(meta []byte) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write(meta[:56]) // never fails
	return hash.Sum64()
}

// page reads page id with its overflow. A page read before belongs to another
// bucket: following it again would let a crafted file never end.
func (db *boltDB) page(id uint64) ([]byte, error) {
	if _, again := db.read[id]; again {
		return nil, fmt.Errorf("page %d: used twice", id)
	}
	if id < 2 || id > uint64(db.size/db.pageSize) {
		return nil, fmt.Errorf("page %d: beyond the end of the database", id)
	}
	db.read[id] = struct{}{}
	raw, err := db.rawPage(id)
	if err != nil {
		return nil, err
	}
	if got := binary.NativeEndian.Uint64(raw); got != id {
		return nil, fmt.Errorf("page %d: holds something else (id %d)", id, got)
	}
	return raw, nil
}

// rawPage reads the bytes at page id's place, with its overflow.
func (db *boltDB) rawPage(id uint64) ([]byte, error) {
	at := int64(id) * db.pageSize
	var header [boltPageHeader]byte
	if _, err := db.file.ReadAt(header[:], at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, boltTruncated(err))
	}
	size := (int64(binary.NativeEndian.Uint32(header[12:])) + 1) * db.pageSize
	if size > boltMaxPage || at+size > db.size {
		return nil, fmt.Errorf("page %d: %d bytes do not fit the database", id, size)
	}
	raw := make([]byte, size)
	if _, err := db.file.ReadAt(raw, at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, boltTruncated(err))
	}
	return raw, nil
}

func boltTruncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
