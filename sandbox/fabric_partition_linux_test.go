package sandbox

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A connection that stays open over a partition is silent while it lasts.
func TestPartition(t *testing.T) {
	t.Parallel()
	var hosts []Options
	for range 3 {
		hosts = append(hosts, Options{Record: NewRecord(nil), Dark: ModeRefuse})
	}
	f := fabricUp(t, hosts...)
	for i, w := range f.Hosts() {
		serving(t, w, "python3", "-c", servers, fmt.Sprint("host", i))
	}
	reach := func(from int) string {
		t.Helper()
		var places []string
		for j := range 3 {
			for _, a := range addressesOf(j) {
				places = append(places, fmt.Sprintf("tcp,%s,443", a.Addr()), fmt.Sprintf("udp,%s,53", a.Addr()))
			}
		}
		var b strings.Builder
		for l := range strings.Lines(python(t, f.Hosts()[from], probe, places...)) {
			b.WriteString(strings.TrimPrefix(strings.Join(strings.Fields(l)[1:], " "), "answer ") + " ")
		}
		return b.String()
	}
	all, dark := "host0 host0 host0 host0 host1 host1 host1 host1 host2 host2 host2 host2 ", "silent silent silent silent "
	if got := reach(0); got != all {
		t.Fatalf("from host 0 before: %s; want %s", got, all)
	}
	in, toServer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromServer, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*os.File{in, toServer, fromServer, out} {
		defer c.Close()
	}
	_, err = f.Hosts()[0].Spawn(t.Context(), Cmd{Args: []string{"python3", "-c", `
import socket, sys, threading
s = socket.create_connection(("host1", 443))
threading.Thread(target=lambda: [(sys.stdout.write(b.decode()), sys.stdout.flush()) for b in iter(lambda: s.recv(99), b"")], daemon=True).start()
for l in iter(sys.stdin.readline, ""): s.send(l.encode())
`}, Stdin: in, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	read := func(limit time.Duration) string {
		b := make([]byte, 99)
		_ = fromServer.SetReadDeadline(time.Now().Add(limit))
		n, _ := fromServer.Read(b)
		return string(b[:n])
	}
	if got := read(10 * time.Second); got != "host1" {
		t.Fatalf("the connection said %q; want host1", got)
	}
	if err := f.Partition(t.Context(), []int{0}, []int{1, 2}); err != nil {
		t.Fatalf("Partition() = %v; want nil", err)
	}
	if _, err := toServer.WriteString("lost\n"); err != nil {
		t.Fatal(err)
	}
	if got := read(300 * time.Millisecond); got != "" {
		t.Errorf("over a partition the connection said %q; want silence", got)
	}
	if err := f.Heal(t.Context()); err != nil {
		t.Fatalf("Heal() = %v; want nil", err)
	}
	if got := read(20 * time.Second); got != "lost\n" {
		t.Errorf("healed, the connection said %q; want what was lost", got)
	}
	if err := f.Partition(t.Context(), []int{0}, []int{1, 2}); err != nil {
		t.Fatalf("Partition() = %v; want nil", err)
	}
	if got, want := reach(0), all[:24]+dark+dark; got != want {
		t.Errorf("from host 0 when cut off: %s; want %s", got, want)
	}
	if got, want := reach(1), dark+all[24:]; got != want {
		t.Errorf("from host 1 when cut off: %s; want %s", got, want)
	}
	// A change of a host's own rules does not heal it.
	if err := f.Hosts()[1].SetRules(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := reach(1), dark+all[24:]; got != want {
		t.Errorf("from host 1 with other rules: %s; want %s", got, want)
	}
	if err := f.Heal(t.Context()); err != nil {
		t.Fatalf("Heal() = %v; want nil", err)
	}
	if got := reach(1); got != all {
		t.Errorf("from host 1 when healed: %s; want %s", got, all)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"192.0.2.2:443", "192.0.2.1:443", "192.0.2.1:443"} {
		if err := hosts[i].Record.Complete(); err != nil {
			t.Errorf("Complete() of host %d = %v; want nil", i, err)
		}
		if got, want := recordLines(hosts[i].Record), fmt.Sprintf("blocked tcp %s 1 %q [syscall nflog]", want, Silent); i < 2 && !strings.Contains(got, want) {
			t.Errorf("host %d has no line %s in\n%s", i, want, got)
		}
	}
}

// A host that is gone does not keep the others from being cut and healed.
func TestPartitionWithoutAHost(t *testing.T) {
	f := fabricUp(t, Options{}, Options{}, Options{})
	serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
	if err := f.Hosts()[2].Close(); err != nil {
		t.Fatal(err)
	}
	const place = "tcp,192.0.2.2,443"
	for _, c := range []struct {
		change func() error
		want   string
	}{
		{func() error { return f.Partition(t.Context(), []int{0}, []int{1, 2}) }, "silent"},
		{func() error { return f.Heal(t.Context()) }, "answer host1"},
	} {
		if err := c.change(); err != nil {
			t.Errorf("changing the partitions: %v; want nil", err)
		}
		if got := python(t, f.Hosts()[0], probe, place); got != place+" "+c.want {
			t.Errorf("%s; want %s", got, c.want)
		}
	}
}
