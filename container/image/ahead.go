package image

import "io"

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

// ahead reads from another reader in a goroutine of its own, up to aheadBuffers times aheadSize bytes in advance, so that
// reading, decompressing and writing overlap.
type ahead struct {
	full chan filled
	free chan []byte
	stop chan struct{}
	done chan struct{}
	cur  filled
	rest []byte
}

type filled struct {
	buf []byte
	n   int
	err error
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{
		full: make(chan filled, aheadBuffers),
		free: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.done)
	for {
		select {
		case <-a.stop:
			return
		case buf := <-a.free:
			var n int
			var err error
			for n < len(buf) && err == nil {
				var m int
				m, err = r.Read(buf[n:])
				n += m
			}
			a.full <- filled{buf: buf, n: n, err: err} // never blocks: there are no more buffers than slots
			if err != nil {
				return
			}
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.buf != nil {
			a.free <- a.cur.buf
		}
		a.cur = <-a.full
		a.rest = a.cur.buf[:a.cur.n]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it. It is called once, and nothing is read afterwards.
func (a *ahead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
