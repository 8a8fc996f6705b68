package salvage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxStorageRecords bounds one file of records, in bytes. A layer's record has
// some 500.
const maxStorageRecords = 64 << 20

// The records of containers/storage, with the fields used here.
type (
	storageContainer struct {
		ID       string      `json:"id"`
		Names    []string    `json:"names"`
		Image    string      `json:"image"`
		Layer    string      `json:"layer"`
		Metadata string      `json:"metadata"` // JSON again, by whoever made the container
		Created  storageTime `json:"created"`
	}
	storageImage struct {
		ID     string        `json:"id"`
		Digest digest.Digest `json:"digest"` // of the manifest as pulled
		Names  []string      `json:"names"`
		Layer  string        `json:"layer"` // the topmost
	}
	storageLayer struct {
		ID         string        `json:"id"`
		Parent     string        `json:"parent"`
		DiffDigest digest.Digest `json:"diff-digest"`
		DiffSize   int64         `json:"diff-size"` // bytes of the tar archive
	}
)

// storageID reports whether an id is one: 64 hexadecimal digits. Every id that
// becomes part of a path is checked with it.
func storageID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

// readStorage reads the records of one kind up to where a file is damaged. It
// reports whether there was a file and none was damaged.
func readStorage[T any](l *storageLoader, kind string, id func(T) string, add func(T)) bool {
	found, whole := false, true
	for _, file := range []string{kind + ".json", "volatile-" + kind + ".json"} {
		name := filepath.Join(l.store.driver+"-"+kind, file)
		data, err := readBounded(l.store.path, name, maxStorageRecords)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found = true
		if err == nil {
			err = eachRecord(data, id, add)
		}
		if err != nil {
			whole = false
			l.problem(name, err)
		}
	}
	return found && whole
}

// eachRecord decodes a JSON array and skips the elements that are no records.
// It returns why it stopped and what it skipped.
func eachRecord[T any](data []byte, id func(T) string, add func(T)) error {
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil // how an empty list may be written
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('[') {
		return fmt.Errorf("decoding records: no list, %d bytes: %w", len(data), errors.Join(ErrIncomplete, err))
	}
	var skipped []error
	for decoder.More() {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return errors.Join(append(skipped, fmt.Errorf("decoding records: %w: %w", ErrIncomplete, err))...)
		}
		var record T
		switch err := json.Unmarshal(raw, &record); {
		case err != nil:
			skipped = append(skipped, fmt.Errorf("decoding record: %w", err))
		case !storageID(id(record)):
			skipped = append(skipped, fmt.Errorf("record's id %.80q is none", id(record)))
		default:
			add(record)
		}
	}
	if _, err := decoder.Token(); err != nil {
		skipped = append(skipped, fmt.Errorf("decoding records: %w: %w", ErrIncomplete, err))
	}
	return errors.Join(skipped...)
}

// scan finds the containers that lost their record but still have a config.json.
func (l *storageLoader) scan() {
	root, err := beneath(l.store.path, l.store.driver+"-containers")
	if err != nil {
		return // reading the records said so
	}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.problem(root, err)
	}
	for _, entry := range entries {
		id := entry.Name()
		if _, known := l.store.containers[id]; known || !storageID(id) ||
			!isFileBeneath(l.store.path, filepath.Join(l.store.driver+"-containers", id, "userdata/config.json")) {
			continue
		}
		l.store.containers[id] = storageContainer{ID: id}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
