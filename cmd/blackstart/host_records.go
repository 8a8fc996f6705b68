package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// hostRecords writes the lines of a record to a file for each host: NAME-host0.jsonl
// and so on for NAME.jsonl, or NAME.jsonl itself where there is one host.
type hostRecords struct {
	files []*os.File
	rest  []byte // the beginning of a line
}

func openRecords(path string, hosts int) (_ *hostRecords, err error) {
	h := &hostRecords{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	for i := range max(hosts, 1) {
		at := path
		if hosts > 1 {
			ext := filepath.Ext(path)
			at = fmt.Sprintf("%s-host%d%s", strings.TrimSuffix(path, ext), i, ext)
		}
		f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, usage("opening --record: %w", err)
		}
		h.files = append(h.files, f)
	}
	return h, nil
}

func (h *hostRecords) Write(b []byte) (int, error) {
	h.rest = append(h.rest, b...)
	for {
		i := bytes.IndexByte(h.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		var of struct {
			Host int `json:"host"`
		}
		if err := json.Unmarshal(h.rest[:i], &of); err != nil {
			return 0, fmt.Errorf("writing the record: %w", err)
		}
		if _, err := h.files[min(max(of.Host, 0), len(h.files)-1)].Write(h.rest[:i+1]); err != nil {
			return 0, err
		}
		h.rest = h.rest[i+1:]
	}
}

func (h *hostRecords) Close() error {
	var errs []error
	for _, f := range h.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
