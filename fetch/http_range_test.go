package fetch

import (
	"fmt"
	"strings"
	"testing"
)

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{
		"bytes 0-99/1000", "bytes 0-0/1", "bytes 5-8/*", "bytes */100", "Bytes 1-2/3", "bytes 2-1/3", "bytes 0-3/3", "bytes 0-99/100, bytes 0-99/100",
		"bytes=0-99/100", "bytes 0-9223372036854775807/*", "bytes 0-9223372036854775808/*", "bytes +0-1/2", "bytes 0-1/-1", "bytes  0-1/2", "bytes 0-1/2 ",
		"bytes 0-1", "lines 0-1/2", "", "bytes 0_0-1_0/1_00", "bytes 0x0-0x1/2", "bytes 00-01/02", "bytes 0-1/2/3", "bytes 0-1-2/3",
	} {
		f.Add(s, int64(0), int64(100))
	}
	f.Fuzz(func(t *testing.T, s string, offset, n int64) {
		r, ok := parseContentRange(s)
		if !ok {
			return
		}
		if r.first < 0 || r.last < r.first || r.total != -1 && r.total <= r.last {
			t.Fatalf("parseContentRange(%q) = %+v; want bytes that can be", s, r)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", r.first, r.last, r.total)
		again = strings.TrimSuffix(again, "-1")
		if r.total == -1 {
			again += "*"
		}
		if b, ok := parseContentRange(again); !ok || b != r {
			t.Errorf("parseContentRange(%q) = %+v, %t; want %+v", again, b, ok, r)
		}
		if offset, n := offset&(1<<40-1), n&(1<<30-1); n > 0 && r.answers(offset, n) &&
			(r.first != offset || r.last-r.first >= n || r.last-r.first < n-1 && r.last != r.total-1) {
			t.Errorf("%+v answers %d, %d; want that it does not", r, offset, n)
		}
	})
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string]contentRange{
		"bytes 0-99/1000": {0, 99, 1000},
		"Bytes 5-5/*":     {5, 5, -1},
		"bytes 00-01/02":  {0, 1, 2},
		"bytes 0-9223372036854775806/9223372036854775807": {0, 1<<63 - 2, 1<<63 - 1},
	} {
		if r, ok := parseContentRange(s); r != want || !ok {
			t.Errorf("parseContentRange(%q) = %+v, %t; want %+v", s, r, ok, want)
		}
	}
	for _, s := range []string{
		"", "bytes", "bytes 0-1", "bytes 0-1/", "bytes 0-/2", "bytes -1/2", "bytes */2", "bytes 1-0/2", "bytes 0-2/2", "bytes 0-1/-2", "bytes +0-1/2",
		"bytes=0-1/2", "lines 0-1/2", "bytes  0-1/2", "bytes 0-1/2 ", " bytes 0-1/2", "bytes 0 - 1/2", "bytes 0-1/2, bytes 0-1/2", "bytes 0-1/2/3",
		"bytes 0-9223372036854775808/*", "bytes 0x0-0x1/2", "bytes 0-1/2\x00",
	} {
		if r, ok := parseContentRange(s); ok {
			t.Errorf("parseContentRange(%q) = %+v; want that it is none", s, r)
		}
	}
}
