package sandbox

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// The parts together: names, resolver, relay and rules in front of real servers,
// used by real programs in a vacuum.
func TestRelayInVacuum(t *testing.T) {
	t.Parallel()
	server := nginxAt(t, "", "")
	record, names := NewRecord(nil), NewNames()
	var caps []Capability
	for _, s := range []string{"http:http://store.example;GET;/v2/*,name=store", "tcp:10.0.0.0/8:80,name=ten", "dns:clock.example", "tcp:[2001:db8::/32]:80,name=six"} {
		caps = append(caps, mustCapability(t, s))
	}
	w := up(t, Options{Record: record})
	r, err := NewRelay(RelayOptions{
		Capabilities: caps, Names: names, Record: record, Original: OriginalDestination,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l4, err := w.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l4.Addr().(*net.TCPAddr).Port
	l6, err := w.Listen(t.Context(), "tcp6", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := w.ListenPacket(t.Context(), "udp4", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	resolver := NewResolver(ResolverOptions{Capabilities: caps, Names: names, Record: record, Denied: DenyUnknown, Address: "127.0.0.53:53"})
	background(t, func(ctx context.Context) error { return r.ServeTCP(ctx, l4) })
	background(t, func(ctx context.Context) error { return r.ServeTCP(ctx, l6) })
	background(t, func(ctx context.Context) error { return resolver.ServeUDP(ctx, pc) })
	rules, err := r.Rules(uint16(port))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	out := python(t, w, `
import subprocess, sys
for a in sys.argv[1:]:
    p = subprocess.run(["curl", "-sS", "-q", "-m", "1", "-w", "[%{http_code}]"] + a.split(), capture_output=True, text=True)
    print(p.stdout.replace("\n", " ") + str(p.returncode))
`, "http://store.example/v2/list", "-4 http://store.example/v2/list", "-X DELETE http://store.example/v2/list", "http://10.1.2.3/a.txt", "http://[2001:db8::5]/a.txt",
		"http://other.example/", "http://10.1.2.3:81/", fmt.Sprintf("http://127.0.0.1:%d/", port))
	want := []string{
		"[] [200]0", "[] [200]0", "blackstart: store does not let this pass: method DELETE is not among GET [403]0",
		"content of a [200]0", "content of a [200]0", "[000]6", "[000]28", "[000]28",
	}
	if got := strings.Split(strings.TrimSpace(out), "\n"); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("curl inside:\n%s\nwant\n%s", out, strings.Join(want, "\n"))
	}
	a := wantAttempt(t, record, "http", "DELETE http://store.example/v2/list", Blocked, whatever)
	if !strings.HasSuffix(a.Executable, "curl") || a.Outcome != Denied {
		t.Errorf("record = %+v; want curl denied", a)
	}
	if a := wantAttempt(t, record, "tcp", "10.1.2.3:80", Allowed, func(a Attempt) bool { return a.Received > 0 }); a.Count != 1 || !strings.HasSuffix(a.Executable, "curl") {
		t.Errorf("record = %+v; want one attempt of curl", a)
	}
	if a := wantAttempt(t, record, "dns", "other.example A", Blocked, whatever); !strings.HasSuffix(a.Executable, "curl") {
		t.Errorf("record = %+v; want a question of curl", a)
	}
	var text strings.Builder
	if err := Table(&text, record.Attempts()); err != nil {
		t.Fatal(err)
	}
	wantText(t, "Table()", text.String(), "tried 10.1.2.3:81, never answered")
	var all []string
	for _, c := range Suggest(record.Attempts()) {
		all = append(all, c.String())
	}
	for _, c := range []string{"dns:other.example", "http:http://store.example;DELETE;/v2/list", "tcp:10.1.2.3:81"} {
		if !slices.Contains(all, c) {
			t.Errorf("Suggest() = %q; want %q among them", all, c)
		}
	}
}
