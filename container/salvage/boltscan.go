package salvage

import "encoding/binary"

// looseBucket is a bucket found on a page that no readable bucket leads to.
type looseBucket struct {
	name   string // its key in the bucket that held it, "" if that is lost
	bucket *boltBucket
}

// loose reads every page that no bucket owns so far and returns the buckets
// found there. Some were freed and hold what was deleted or is out of date. It
// is the last resort for a damaged database, after all that is wanted from it
// was read the regular way.
func (db *boltDB) loose() []looseBucket {
	names := map[uint64]string{}
	var pages []looseBucket
	var found []looseBucket
	known := db.damage
	for id := uint64(2); id < uint64(db.size/db.pageSize); id++ {
		if _, owned := db.read[id]; owned {
			continue
		}
		var header [boltPageHeader]byte
		if _, err := db.file.ReadAt(header[:], int64(id)*db.pageSize); err != nil {
			break
		}
		if binary.NativeEndian.Uint64(header[:]) != id || binary.NativeEndian.Uint16(header[8:]) != boltLeafPage {
			continue
		}
		page := &boltBucket{db: db, page: id}
		pages = append(pages, looseBucket{bucket: page})
		for _, entry := range page.entries() {
			switch {
			case entry.bucket == nil:
			case entry.bucket.page == 0:
				found = append(found, looseBucket{name: string(entry.key), bucket: entry.bucket})
			default:
				names[entry.bucket.page] = string(entry.key)
			}
		}
	}
	for _, page := range pages {
		page.name = names[page.bucket.page]
		found = append(found, page)
	}
	db.damage = known // damage of freed pages means nothing
	return found
}
