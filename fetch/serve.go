package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	serveConnections = 64               // by default
	serveHeader      = 8 << 10          // of a request, in bytes
	servePiece       = 16 << 10         // that is written at once, in bytes, at most
	serveAsk         = 5 * time.Second  // for a request to arrive in
	serveIdle        = 30 * time.Second // between two requests
	serveStuck       = 60 * time.Second // that a reader may take for one piece
	serveGrace       = 5 * time.Second  // for what is under way at the end
	serveTurns       = 2                // answers that share a limited rate
	serveQueue       = 5 * time.Second  // that a request waits for its turn
)

// ServeOptions says what is served, and how much of it.
type ServeOptions struct {
	// Blobs opens a blob, a regular file. It returns ErrNotFound where there is none.
	Blobs func(d digest.Digest) (*os.File, error)
	// BytesPerSecond limits the content of all answers together; 0: no limit.
	BytesPerSecond int64
	// Connections is how many are answered at once; 0 stands for 64. The others are
	// told to come back (503).
	Connections int
}

// NewHandler answers GET and HEAD of /blobs/sha256/HEX, with ranges (RFC 9110),
// and nothing else. It takes what Blobs opens for what it is: the other host
// checks it.
func NewHandler(o ServeOptions) http.Handler {
	if o.Connections <= 0 {
		o.Connections = serveConnections
	}
	h := &blobHandler{blobs: o.Blobs, busy: make(chan struct{}, o.Connections), piece: servePiece, stuck: serveStuck}
	if o.BytesPerSecond > 0 {
		// Ten times a second at least, or a reader would take the server for stuck.
		h.piece = int(min(servePiece, o.BytesPerSecond/10+1))
		h.rate = &bucket{perSecond: o.BytesPerSecond}
		h.turns = make(chan struct{}, serveTurns)
	}
	return h
}

type blobHandler struct {
	blobs func(d digest.Digest) (*os.File, error)
	busy  chan struct{} // an element for each request
	rate  *bucket       // nil: no limit
	turns chan struct{} // an element for each answer that is being written; nil: any number
	piece int           // that is written at once, in bytes
	stuck time.Duration
}

func (h *blobHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	// The deadline of the answer before would count for this one.
	if err := h.deadlines(c, r); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return
	}
	encoded, ok := strings.CutPrefix(r.URL.Path, "/blobs/sha256/")
	d := digest.NewDigestFromEncoded(digest.SHA256, encoded)
	if !ok || d.Validate() != nil {
		http.Error(w, "no such blob", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if r.ContentLength != 0 {
		http.Error(w, "a request with content", http.StatusBadRequest)
		return
	}
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	f, err := h.blobs(d)
	if errors.Is(err, ErrNotFound) {
		http.Error(w, "no such blob", http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, "the blob cannot be read", http.StatusInternalServerError)
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	if !h.turn(r) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	defer h.done(r)
	if err := h.deadlines(c, r); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+d.String()+`"`)
	http.ServeContent(&slowWriter{ResponseWriter: w, control: c, h: h, r: r}, r, "", time.Time{}, f)
}

// turn waits until one of few answers may begin. Many that share a limited rate
// would all end late, and those who got one could hand nothing on before.
func (h *blobHandler) turn(r *http.Request) bool {
	if h.turns == nil || r.Method != http.MethodGet {
		return true
	}
	t := time.NewTimer(serveQueue)
	defer t.Stop()
	select {
	case h.turns <- struct{}{}:
		return true
	case <-t.C:
	case <-r.Context().Done():
	}
	return false
}

func (h *blobHandler) done(r *http.Request) {
	if h.turns != nil && r.Method == http.MethodGet {
		<-h.turns
	}
}

func (h *blobHandler) deadlines(c *http.ResponseController, r *http.Request) error {
	err := c.SetWriteDeadline(time.Now().Add(h.stuck))
	if err == nil && r.ContentLength != 0 {
		// net/http reads what is left of a request's content, however slowly it comes.
		err = c.SetReadDeadline(time.Now().Add(serveAsk))
	}
	return err
}

// slowWriter keeps to the rate, and gives up on a reader that takes nothing.
type slowWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	h       *blobHandler
	r       *http.Request
}

func (w *slowWriter) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		piece := b[written:min(len(b), written+w.h.piece)]
		if err := w.h.rate.take(w.r.Context(), len(piece)); err != nil {
			return written, err
		}
		err := w.control.SetWriteDeadline(time.Now().Add(w.h.stuck))
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return written, err
		}
		n, err := w.ResponseWriter.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Serve answers requests over TLS until ctx ends, and then lets what is under way
// go on for a few seconds. It closes l.
func Serve(ctx context.Context, l net.Listener, cert tls.Certificate, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}},
		ReadHeaderTimeout: serveAsk,
		IdleTimeout:       serveIdle,
		MaxHeaderBytes:    serveHeader - 4<<10,        // net/http adds this much
		ErrorLog:          log.New(io.Discard, "", 0), // whoever knocks would fill it
		Protocols:         new(http.Protocols),
	}
	// One request at a time on a connection: HTTP/2 has many, which no limit here
	// would see.
	srv.Protocols.SetHTTP1(true)
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), serveGrace)
		defer cancel()
		err := srv.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		ended <- err
	})
	err := srv.ServeTLS(l, "", "")
	if !stop() {
		err = <-ended
	}
	if err != nil {
		return fmt.Errorf("serving blobs: %w", errors.Join(err, srv.Close()))
	}
	return nil
}
