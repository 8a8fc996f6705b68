package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestFabricPeersComeFirst reaches the other host under rules that are about every
// address: what is allowed everywhere is no way around the segment.
func TestFabricPeersComeFirst(t *testing.T) {
	const port = 61999
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	o := Options{Listen: []Place{{"tcp4", fmt.Sprint("127.0.0.1:", port)}, {"tcp6", fmt.Sprintf("[::1]:%d", port)}}}
	for _, to := range everywhere {
		o.Rules = append(o.Rules, Rule{Proto: "tcp", To: to, Mode: ModeAllow, Port: port}, Rule{Proto: "udp", To: to, Mode: ModeRefuse})
	}
	f := fabricUp(t, o, Options{})
	for _, p := range o.Listen {
		l, err := f.Hosts()[0].Listen(t.Context(), p.Network, p.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("relay"))
				_ = c.(*net.TCPConn).CloseWrite()
			}
		}()
	}
	serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
	places, want := []string{"tcp,10.0.0.1,443", "tcp,fd00::1,443", "udp,10.0.0.1,53"}, []string{"answer relay", "answer relay", "ConnectionRefusedError 111"}
	for _, a := range addressesOf(1) {
		places = append(places, fmt.Sprintf("tcp,%s,443", a.Addr()), fmt.Sprintf("udp,%s,53", a.Addr()))
		want = append(want, "answer host1", "answer host1")
	}
	for i := range want {
		want[i] = places[i] + " " + want[i]
	}
	if got := python(t, f.Hosts()[0], probe, places...); got != strings.Join(want, "\n") {
		t.Errorf("under rules about every address:\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
