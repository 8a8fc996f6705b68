package fetch

import (
	"fmt"
	"strconv"
	"strings"
)

// httpRange is the Range header (RFC 9110, 14.2) for n bytes from an offset, or
// all from there where n is -1. It is empty for everything.
func httpRange(offset, n int64) string {
	switch {
	case n >= 0:
		return fmt.Sprintf("bytes=%d-%d", offset, offset+n-1)
	case offset > 0:
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return ""
}

// contentRange is a Content-Range header (RFC 9110, 14.4): which bytes come, the
// last one included, of how many; -1 where it does not tell.
type contentRange struct{ first, last, total int64 }

// parseContentRange takes a header of the form "bytes 0-99/1000" or "bytes
// 0-99/*".
func parseContentRange(s string) (contentRange, bool) {
	unit, rest, _ := strings.Cut(s, " ")
	span, size, _ := strings.Cut(rest, "/")
	first, last, _ := strings.Cut(span, "-")
	r := contentRange{total: -1}
	ok := strings.EqualFold(unit, "bytes") && digits(first, &r.first) && digits(last, &r.last) && r.first <= r.last
	if size != "*" {
		ok = ok && digits(size, &r.total) && r.last < r.total
	}
	return r, ok
}

func digits(s string, to *int64) bool {
	n, err := strconv.ParseUint(s, 10, 63) // takes no sign
	*to = int64(n)
	return err == nil
}

// answers tells whether these are the bytes that were asked for: fewer only where
// the blob ends.
func (r contentRange) answers(offset, n int64) bool {
	end := r.total >= 0 && r.last == r.total-1
	if n < 0 {
		return r.first == offset && (end || r.total < 0)
	}
	last := offset + n - 1
	return r.first == offset && (r.last == last || r.last < last && end)
}
