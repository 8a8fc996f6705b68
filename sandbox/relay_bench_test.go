package sandbox

import (
	"io"
	"net"
	"testing"
)

// Direct and through the relay, in the same run, so that they can be compared.
func BenchmarkRelayStream(b *testing.B) {
	server := tcpServer(b, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _, _ = c.Write([]byte{1}) })
	r := newRig(b, "10.0.0.1:80", server, nil, "tcp:10.0.0.1:80")
	for _, way := range [][2]string{{"direct", server}, {"relay", r.addr}} {
		b.Run(way[0], func(b *testing.B) {
			c := dial(b, way[1])
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.CloseWrite()
			expect(b, c, "\x01")
		})
	}
}

func BenchmarkRelayRoundTrip(b *testing.B) {
	server := tcpServer(b, echo)
	r := newRig(b, "10.0.0.1:80", server, nil, "tcp:10.0.0.1:80")
	for _, way := range [][2]string{{"direct", server}, {"relay", r.addr}} {
		b.Run(way[0], func(b *testing.B) {
			c := dial(b, way[1])
			buf := make([]byte, 64)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRelayConnection(b *testing.B) {
	server := tcpServer(b, echo)
	r := newRig(b, "10.0.0.1:80", server, nil, "tcp:10.0.0.1:80")
	for _, way := range [][2]string{{"direct", server}, {"relay", r.addr}} {
		b.Run(way[0], func(b *testing.B) {
			for b.Loop() {
				c := dial(b, way[1])
				send(b, c, "x")
				expect(b, c, "x")
				_ = c.SetLinger(0)
				c.Close()
			}
		})
	}
}
