package salvage

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// boltBucket is one bucket. Its pages are read on first use and kept. All
// methods accept nil, the bucket that is not there.
type boltBucket struct {
	db     *boltDB
	page   uint64 // 0: the bucket is inline
	inline []byte

	loaded  bool
	content []boltEntry
	index   map[string]int
	damage  []error
}

// boltEntry is a key with its value, or with a nested bucket.
type boltEntry struct {
	key, value []byte
	bucket     *boltBucket
}

// entries returns what is readable of the bucket, in key order if it is sound.
func (b *boltBucket) entries() []boltEntry {
	if b == nil {
		return nil
	}
	b.load()
	return b.content
}

// err returns what is unreadable of this bucket itself; nested ones have their own.
func (b *boltBucket) err() error {
	if b == nil {
		return nil
	}
	b.load()
	return errors.Join(b.damage...)
}

// get returns a key's value, nil if there is none.
func (b *boltBucket) get(key string) []byte {
	if b == nil {
		return nil
	}
	b.load()
	if i, ok := b.index[key]; ok {
		return b.content[i].value
	}
	return nil
}

// bucket follows names down to a nested bucket, nil if there is none.
func (b *boltBucket) bucket(names ...string) *boltBucket {
	for _, name := range names {
		if b == nil {
			return nil
		}
		b.load()
		i, ok := b.index[name]
		if !ok {
			return nil
		}
		b = b.content[i].bucket
	}
	return b
}

func (b *boltBucket) load() {
	if b.loaded {
		return
	}
	b.loaded = true
	if b.page != 0 {
		b.walk(b.page, 0)
	} else if err := b.leaf(b.inline); err != nil {
		b.broken(fmt.Errorf("inline bucket: %w", err))
	}
	b.inline = nil
	b.index = make(map[string]int, len(b.content))
	for i, entry := range b.content {
		b.index[string(entry.key)] = i
	}
}

// broken notes damage for the bucket and for the database.
func (b *boltBucket) broken(err error) {
	b.damage = append(b.damage, err)
	b.db.damage = append(b.db.damage, err)
}

// walk collects the leaves below a page. A page that cannot be read costs only
// the entries under it.
func (b *boltBucket) walk(id uint64, depth int) {
	raw, err := b.db.page(id)
	if err != nil {
		b.broken(err)
		return
	}
	switch flags := binary.NativeEndian.Uint16(raw[8:]); {
	case flags&boltLeafPage != 0:
		if err := b.leaf(raw); err != nil {
			b.broken(fmt.Errorf("page %d: %w", id, err))
		}
	case flags&boltBranchPage != 0 && depth < boltMaxDepth:
		count := int(binary.NativeEndian.Uint16(raw[10:]))
		if boltPageHeader+count*boltElement > len(raw) {
			b.broken(fmt.Errorf("page %d: %d elements do not fit", id, count))
			return
		}
		for i := range count {
			b.walk(binary.NativeEndian.Uint64(raw[boltPageHeader+i*boltElement+8:]), depth+1)
		}
	default:
		b.broken(fmt.Errorf("page %d: neither branch nor leaf (flags %#x, depth %d)", id, flags, depth))
	}
}

// leaf adds the elements of a leaf page. A bad element costs only itself.
func (b *boltBucket) leaf(raw []byte) error {
	if len(raw) < boltPageHeader {
		return errors.New("shorter than a page header")
	}
	count := int(binary.NativeEndian.Uint16(raw[10:]))
	if boltPageHeader+count*boltElement > len(raw) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	bad := 0
	from := uint64(boltPageHeader)
	for i := range count {
		entry, end, ok := b.element(raw, boltPageHeader+i*boltElement, from)
		if !ok {
			bad++
			continue
		}
		from = end
		b.content = append(b.content, entry)
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d elements are damaged", bad, count)
	}
	return nil
}

// element decodes the element at an offset. Its bytes must not begin before
// from: bbolt writes them one after another, and bytes shared by thousands of
// elements would make a small file expand without bound.
func (b *boltBucket) element(raw []byte, at int, from uint64) (boltEntry, uint64, bool) {
	flags := binary.NativeEndian.Uint32(raw[at:])
	start := uint64(at) + uint64(binary.NativeEndian.Uint32(raw[at+4:]))
	middle := start + uint64(binary.NativeEndian.Uint32(raw[at+8:]))
	end := middle + uint64(binary.NativeEndian.Uint32(raw[at+12:]))
	if end > uint64(len(raw)) || start < from || start == middle {
		return boltEntry{}, 0, false
	}
	entry := boltEntry{key: raw[start:middle:middle], value: raw[middle:end:end]}
	if flags&boltBucketLeaf == 0 {
		return entry, end, true
	}
	if len(entry.value) < boltBucketSize {
		return boltEntry{}, 0, false
	}
	entry.bucket = &boltBucket{
		db:     b.db,
		page:   binary.NativeEndian.Uint64(entry.value),
		inline: entry.value[boltBucketSize:],
	}
	entry.value = nil
	return entry, end, true
}
