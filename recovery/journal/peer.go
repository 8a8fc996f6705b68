package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"
)

// maxPush bounds what a peer takes at once, in bytes.
const maxPush = copyChunk + MaxLine

// peerHead is what a peer answers.
type peerHead struct {
	Seq   uint64 `json:"seq"`
	Hash  string `json:"hash"`
	Error string `json:"error,omitempty"`
}

// Receive keeps the journals of peers in a directory, each as ORIGIN.journal, for PushPeer:
//
//	GET  /v1/journal/ORIGIN          {"seq": …, "hash": …}
//	POST /v1/journal/ORIGIN?after=N  lines; they have to follow entry N, the last one here
//
// What is here is never changed, only added to: 409 answers whoever would. allowed says whether a request may speak for an
// origin, by its client certificate for instance.
func Receive(dir string, allowed func(r *http.Request, origin string) bool) http.Handler {
	mux := http.NewServeMux()
	handle := func(do func(r *http.Request, j *Journal) (Head, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			from := r.PathValue("origin")
			if !origin(from) || !allowed(r, from) {
				answer(w, http.StatusForbidden, peerHead{Error: "not yours to send"})
				return
			}
			j, err := Open(filepath.Join(dir, from+".journal"))
			if err != nil {
				answer(w, http.StatusInternalServerError, peerHead{Error: err.Error()})
				return
			}
			head, err := do(r, j)
			err = errors.Join(err, j.Close())
			status := http.StatusOK
			told := peerHead{Seq: head.Seq, Hash: head.Hash}
			if err != nil {
				told.Error, status = err.Error(), http.StatusInternalServerError
				if errors.Is(err, ErrTampered) || errors.Is(err, errBehind) {
					status = http.StatusConflict
				}
			}
			answer(w, status, told)
		}
	}
	mux.HandleFunc("GET /v1/journal/{origin}", handle(func(_ *http.Request, j *Journal) (Head, error) { return j.Head(), nil }))
	mux.HandleFunc("POST /v1/journal/{origin}", handle(func(r *http.Request, j *Journal) (Head, error) {
		after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		if err != nil || after != j.Head().Seq {
			return j.Head(), fmt.Errorf("%w: here is entry %d", errBehind, j.Head().Seq)
		}
		lines, err := io.ReadAll(io.LimitReader(r.Body, maxPush+1))
		if err != nil {
			return j.Head(), err
		}
		if len(lines) > maxPush {
			return j.Head(), fmt.Errorf("%w: more than %d bytes at once", ErrTooLarge, maxPush)
		}
		return j.extend(j.Head(), lines)
	}))
	return mux
}

func answer(w http.ResponseWriter, status int, told peerHead) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(told) // the peer has gone, and will ask again
}

// PushPeer brings a peer's copy up to what a journal holds. url is that of the peer, such as https://10.0.0.2:8446; client brings its
// own dialer and certificates.
//
// Errors: ErrTampered where the peer holds something else than this journal: one of the two has been changed.
func PushPeer(ctx context.Context, client *http.Client, url, from, journal string) (Head, error) {
	head, err := pushPeer(ctx, client, url+"/v1/journal/"+from, from, journal)
	if err != nil {
		return head, fmt.Errorf("sending journal %s to %s: %w", journal, url, err)
	}
	return head, nil
}

func pushPeer(ctx context.Context, client *http.Client, url, from, journal string) (Head, error) {
	var at Head
	if !origin(from) {
		return at, fmt.Errorf("%.80q cannot name a journal", from)
	}
	for n := 0; ; n++ {
		if n == 0 {
			told, err := call(ctx, client, http.MethodGet, url, nil)
			if err != nil {
				return at, err
			}
			at = Head{Seq: told.Seq, Hash: told.Hash}
		}
		lines, err := linesAfter(journal, at, copyChunk)
		if err != nil || len(lines) == 0 {
			return at, err
		}
		told, err := call(ctx, client, http.MethodPost, url+"?after="+strconv.FormatUint(at.Seq, 10), lines)
		if err != nil {
			return at, err
		}
		if told.Seq <= at.Seq {
			return at, errors.New("the peer takes nothing")
		}
		at = Head{Seq: told.Seq, Hash: told.Hash}
	}
}

func call(ctx context.Context, client *http.Client, method, url string, body []byte) (peerHead, error) {
	var told peerHead
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return told, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return told, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return told, err
	}
	if err := json.Unmarshal(b, &told); err != nil {
		return told, fmt.Errorf("the peer answers %s, and no journal's head", resp.Status)
	}
	switch {
	case resp.StatusCode == http.StatusConflict:
		return told, fmt.Errorf("%w: the peer says: %.300q", ErrTampered, told.Error)
	case resp.StatusCode != http.StatusOK:
		return told, fmt.Errorf("the peer answers %s: %.300q", resp.Status, told.Error)
	}
	return told, nil
}
