package container

import (
	"net/netip"
	"strings"
	"testing"
)

// Lines as Linux 6.18 printed them on a little-endian machine.
const (
	tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26034 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26035 1 0000000000000000 100 0 0 10 0
   2: 0100007F:094B 0100007F:BEEF 01 00000000:00000000 00:00000000 00000000     0        0 26036 1 0000000000000000 20 4 30 10 -1
`
	tcp6Table = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0
   1: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8 1 0
   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9 1 0
`
	udpTable = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1045: 0100007F:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0000000000000000 0
 1046: 0100007F:0203 0200007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 12 2 0000000000000000 0
`
)

func TestParseSockets(t *testing.T) {
	for _, c := range []struct{ table, text, want string }{
		{"tcp", tcpTable, "tcp 127.0.0.1:2379 26034, tcp 0.0.0.0:22 26035"},
		{"tcp6", tcp6Table, "tcp [::1]:80 7, tcp [::]:81 8, tcp 127.0.0.1:82 9"},
		{"udp", udpTable, "udp 127.0.0.1:514 11"},
		{"tcp", "x\n 0: zz 00:0 0A\n 1: 0100007F:0050 00000000:0000 0A 1 2 3 4 5 x\n", ""},
	} {
		socks, err := parseSockets(strings.NewReader(c.text), c.table)
		got := make([]string, 0, len(socks))
		for _, s := range socks {
			got = append(got, s.proto+" "+s.local.String()+" "+itoa(s.inode))
		}
		if strings.Join(got, ", ") != c.want || err != nil {
			t.Errorf("parseSockets(%s) = %q, %v; want %q", c.table, got, err, c.want)
		}
	}
}

func TestSocketClash(t *testing.T) {
	for _, c := range []struct {
		have, want  string // "" wants an address that is not known
		guess       bool
		meets, sure bool
	}{
		{have: "127.0.0.1", want: "127.0.0.1", meets: true, sure: true},
		{have: "127.0.0.1", want: "127.0.0.1", guess: true, meets: true},
		{have: "127.0.0.1", want: "127.0.0.2"},
		{have: "127.0.0.1", want: "0.0.0.0", meets: true, sure: true},
		{have: "127.0.0.1", want: "::", meets: true, sure: true},
		{have: "0.0.0.0", want: "127.0.0.1", meets: true, sure: true},
		{have: "0.0.0.0", want: "0.0.0.0", meets: true, sure: true},
		{have: "0.0.0.0", want: "::1"},
		{have: "::", want: "127.0.0.1", meets: true, sure: true},
		{have: "::", want: "0.0.0.0", meets: true, sure: true},
		{have: "::1", want: "0.0.0.0"},
		{have: "::1", want: "::", meets: true, sure: true},
		{have: "::1", want: "127.0.0.1"},
		{have: "127.0.0.1", want: "", meets: true},
		{have: "0.0.0.0", want: "", meets: true, sure: true},
		{have: "0.0.0.0", want: "", guess: true, meets: true},
	} {
		s := socket{proto: "tcp", local: netip.AddrPortFrom(netip.MustParseAddr(c.have), 80)}
		p := Port{Proto: "tcp", Port: 80, Guess: c.guess}
		if c.want != "" {
			p.Addr = netip.MustParseAddr(c.want)
		}
		if meets, sure := s.clash(p); meets != c.meets || sure != c.sure {
			t.Errorf("%s clash(%v) = %v, %v; want %v, %v", c.have, p, meets, sure, c.meets, c.sure)
		}
		p.Port = 81
		if meets, _ := s.clash(p); meets {
			t.Errorf("%s:80 clash(%v) = true; want false", c.have, p)
		}
		p.Port, p.Proto = 80, "udp"
		if meets, _ := s.clash(p); meets {
			t.Errorf("tcp clash(%v) = true; want false", p)
		}
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add(tcpTable, "tcp")
	f.Add(tcp6Table, "tcp6")
	f.Add(udpTable, "udp")
	f.Fuzz(func(t *testing.T, text, table string) {
		if len(table) < 3 {
			return
		}
		socks, err := parseSockets(strings.NewReader(text), table)
		for _, s := range socks {
			if !s.local.IsValid() || s.local.Port() == 0 {
				t.Errorf("parseSockets(%q) holds %v, %v; want valid addresses", text, s.local, err)
			}
		}
	})
}
