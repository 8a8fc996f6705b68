package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// maxSyslog bounds a message, in bytes: what RFC 5424 (section 6.1) says a receiver should take.
const maxSyslog = 2048

// SendSyslog sends the entries after a number to syslog, and says up to which it came. network is "unixgram" with the address
// /dev/log, or "udp" or "tcp" with an IP address and a port; host names this host to a receiver elsewhere. An entry that
// is too long goes without its data; its hash shows that it was there.
//
// Messages are of the facility authpriv; those for /dev/log are in the form of RFC 3164, others in that of RFC 5424,
// with the length before them on TCP (RFC 6587).
func SendSyslog(journal string, since uint64, network, address, host string) (uint64, error) {
	sent, err := sendSyslog(journal, since, network, address, host)
	if err != nil {
		return sent, fmt.Errorf("sending journal %s to syslog at %s: %w", journal, address, err)
	}
	return sent, nil
}

func sendSyslog(journal string, since uint64, network, address, host string) (_ uint64, err error) {
	f, err := os.OpenFile(journal, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return since, err
	}
	defer f.Close()
	at, err := scanTo(f, since)
	if err != nil || at.Seq != since {
		return since, errors.Join(err, fmt.Errorf("%w: it has no entry %d", ErrTampered, since))
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, address)
	if err != nil {
		return since, err
	}
	defer conn.Close()
	for {
		lines, err := readLines(f, at.Size, copyChunk)
		if err != nil || len(lines) == 0 {
			return at.Seq, err
		}
		for len(lines) > 0 {
			end := 1
			for lines[end-1] != '\n' {
				end++
			}
			e, next, err := at.check(lines[:end])
			if err != nil {
				return at.Seq, fmt.Errorf("%w: line %d: %w", ErrTampered, at.Seq+1, err)
			}
			m, err := message(e, next.Hash, network, host)
			if err != nil {
				return at.Seq, err
			}
			if err := conn.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return at.Seq, err
			}
			if _, err := conn.Write(m); err != nil {
				return at.Seq, err
			}
			at, lines = next, lines[end:]
		}
	}
}

func message(e Entry, hash, network, host string) ([]byte, error) {
	const authprivNotice = 10<<3 | 5
	const tag = "blackstart"
	text, err := brief(e, hash, maxSyslog-256)
	if err != nil {
		return nil, err
	}
	if network == "unixgram" {
		return fmt.Appendf(nil, "<%d>%s %s[%d]: %s", authprivNotice, e.Time.Local().Format(time.Stamp), tag, os.Getpid(), text), nil
	}
	m := fmt.Appendf(nil, "<%d>1 %s %s %s %d journal - %s", authprivNotice, e.Time.Format("2006-01-02T15:04:05.000000Z07:00"), host, tag, os.Getpid(), text)
	if network == "tcp" {
		m = append(fmt.Appendf(nil, "%d ", len(m)), m...)
	}
	return m, nil
}

// brief is an entry for a channel that takes short lines alone: data that is too long is left out, and its place in the chain remains.
func brief(e Entry, hash string, limit int) ([]byte, error) {
	type line struct {
		Entry
		Hash string `json:"hash"`
		Cut  int    `json:"cut,omitempty"` // bytes of data that were left out
	}
	b, err := json.Marshal(line{Entry: e, Hash: hash})
	if err == nil && len(b) > limit {
		cut := len(e.Data)
		e.Data = nil
		b, err = json.Marshal(line{Entry: e, Hash: hash, Cut: cut})
	}
	return b, err
}
