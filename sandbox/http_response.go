package sandbox

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// hopHeaders are not passed on; with Alt-Svc a client would leave the pathway.
var hopHeaders = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Transfer-Encoding", "Trailer", "Upgrade", "Content-Length", "Alt-Svc"}

// respond writes a response. again says that the connection may go on.
func (p *client) respond(r *request, resp *http.Response) (again bool, err error) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return false, errors.New("the server switched protocols without being asked")
	}
	for _, l := range resp.Header["Connection"] {
		for k := range strings.SplitSeq(l, ",") {
			resp.Header.Del(strings.TrimSpace(k))
		}
	}
	length := resp.Header.Get("Content-Length")
	for _, k := range hopHeaders {
		resp.Header.Del(k)
	}
	bodiless := r.method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified
	again = !r.close
	chunked := false
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %03d %s\r\n", resp.StatusCode, strings.TrimPrefix(strings.TrimPrefix(resp.Status, strconv.Itoa(resp.StatusCode)), " "))
	switch {
	case bodiless:
		if length != "" && resp.StatusCode != http.StatusNoContent {
			fmt.Fprintf(&head, "Content-Length: %s\r\n", length)
		}
	case resp.ContentLength >= 0:
		fmt.Fprintf(&head, "Content-Length: %d\r\n", resp.ContentLength)
	case r.minor == 1:
		chunked = true
		head.WriteString("Transfer-Encoding: chunked\r\n")
	default:
		again = false
	}
	if !again {
		head.WriteString("Connection: close\r\n")
	}
	for _, k := range slices.Sorted(maps.Keys(resp.Header)) {
		for _, v := range resp.Header[k] {
			fmt.Fprintf(&head, "%s: %s\r\n", k, strings.NewReplacer("\r", " ", "\n", " ").Replace(v))
		}
	}
	head.WriteString("\r\n")
	if _, err := io.WriteString(p.c, head.String()); err != nil || bodiless {
		return again, err
	}
	if !chunked {
		n, err := io.CopyBuffer(struct{ io.Writer }{p.c}, struct{ io.Reader }{resp.Body}, make([]byte, flowChunk))
		if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
			err = io.ErrUnexpectedEOF
		}
		return again, err
	}
	return again, writeChunks(p.c, resp.Body)
}

// writeChunks sends each part as it comes.
func writeChunks(w io.Writer, r io.Reader) error {
	const room = 10 // for the size in hex and CRLF
	buf := make([]byte, room+flowChunk+2)
	for {
		n, err := r.Read(buf[room : room+flowChunk])
		if n > 0 {
			size := strconv.FormatInt(int64(n), 16) + "\r\n"
			at := room - len(size)
			copy(buf[at:], size)
			copy(buf[room+n:], "\r\n")
			if _, err := w.Write(buf[at : room+n+2]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			_, err := io.WriteString(w, "0\r\n\r\n")
			return err
		}
		if err != nil {
			return err
		}
	}
}
