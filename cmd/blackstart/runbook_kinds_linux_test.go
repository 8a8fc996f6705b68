package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const kindsThere = `
runbook: every kind there
service: kinds
hosts: [a]
contacts: [oncall]
steps:
  - name: fetch
    hosts: [a]
    fetch: tool
    with: {to: DATA/tool, mode: "0751"}
    undo: rm DATA/tool
  - name: cert
    hosts: [a]
    cert: shop
    with: {to: DATA/identity, names: [www.shop.example], addresses: ["${ip_a}"], for: 1h}
  - name: cert here
    needs: []
    cert: shop
    with: {to: DATA/here, names: [api.shop.example]}
  - name: container
    needs: [cert]
    hosts: [a]
    container: NAME
    with: {rootfs: DATA/rootfs, command: [/bin/busybox, sleep, "4720"]}
    undo: blackstart --state STATE --data DATA rm --force NAME
  - name: it runs
    hosts: [a]
    wait_for: {exec: "pgrep -f 'busybox [s]leep 4720'", within: 5s}
  - name: names
    hosts: [a]
    dns: serve
    with: {zone: DATA/shop.zone, listen: ["${ip}:53"], answers: auth}
  - name: asked from here
    wait_for: {dns: "www.shop.example A @${ip_a}", contains: "10.0.0.1", within: 5s}
  - name: not yet
    run: test -e DATA/permit
`

// Every kind of step is done on another host, which is known by the kit: what is from the
// kit comes from that host's own, and a certificate from the session that is open here.
// What runs there lives on when the run is over, until it is taken back.
func TestRunbookHostsKinds(t *testing.T) {
	t.Parallel()
	s := newSegment(t, "a")
	a := s.hosts[0]
	name := fmt.Sprintf("far-%d", os.Getpid())
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(s.dir+"/"+path, []byte(text), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	must := func(args ...string) string {
		t.Helper()
		out, code := s.run(args...)
		if code != 0 {
			t.Fatalf("blackstart %q: exit status %d\n%s", args, code, out)
		}
		return out
	}
	write("tool", "#!/bin/sh\necho a tool\n")
	write("kit.yaml", fmt.Sprintf("name: site\nartifacts: [{name: tool, file: tool}]\ntrust: [{name: a, spki: %q}]\ncontacts: [{name: oncall, uri: \"sip:oncall@10.0.0.9\"}]\n", a.pin))
	write("shop.zone", "$ORIGIN shop.example.\n@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 10.0.0.53\nwww 60 IN A 10.0.0.1\n")
	must("kit", "build", "-f", "kit.yaml", "-o", s.data+"/kit")
	must("kit", "sign", s.data+"/kit", "--key", "user")
	s.sh(fmt.Sprintf(`cd %s; printf 'root namespaces="blackstart-kit" %%s\n' "$(cat user.pub)" >%s/trust`, s.dir, s.data))
	// The host has a kit of its own, which came there before the outage.
	s.sh(fmt.Sprintf("cp -r %s/kit %s/kit-of-a; cp %[1]s/trust %[2]s/trust-of-a", s.data, s.dir))
	a.do(fmt.Sprintf(`cp -r %[1]s/kit-of-a %[2]s/kit; cp %[1]s/trust-of-a %[2]s/trust; cp %[1]s/shop.zone %[2]s
mkdir -p %[2]s/rootfs/bin; cd %[2]s/rootfs; mkdir dev etc proc run sys tmp; cp /bin/busybox bin`, s.dir, s.data))
	must("certs", "init", "--unguarded", "--name", "Example", "--dns", "shop.example", "--ip", "10.0.0.0/8", "--recipient", "user.pub", "-o", "ceremony")
	session := s.command("certs", "open", "ceremony", "--unguarded", "--identity", "user", "--for", "5m")
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = session.Process.Kill(), session.Wait() }()
	eventually(t, time.Minute, "the session is open", func() bool { _, code := s.run("certs", "status"); return code == 0 })

	text := strings.NewReplacer("DATA", s.data, "STATE", s.state, "NAME", name, "undo: blackstart", "undo: "+binary).Replace(kindsThere)
	out, code := s.run("runbook", "run", s.runbook(text), "--ssh-key", "user", "--host", "a="+a.v4())
	defer exec.Command("sh", "-c", fmt.Sprintf("nsenter -t %d -n -m -p %s --state %s --data %s rm --force %s", a.outer.Process.Pid, binary, s.state, s.data, name)).Run() //nolint:errcheck // mostly it is gone
	if code != 1 {
		t.Fatalf("exit status %d; want 1 for the last step alone\n%s", code, out)
	}
	if !strings.Contains(out, "whom to call: oncall, sip:oncall@10.0.0.9") {
		t.Errorf("whom to call is not said:\n%s", out)
	}
	wantStates(t, s.states(), map[string]string{
		"fetch @ a": "done", "cert @ a": "done", "cert here": "done", "container @ a": "done", "it runs @ a": "done", "names @ a": "done", "asked from here": "done", "not yet": "failed",
	})
	if got := a.do(s.data + "/tool; stat -c %a " + s.data + "/tool"); got != "a tool\n751\n" {
		t.Errorf("what was fetched is %q; want the tool, 751", got)
	}
	if got := a.do(fmt.Sprintf("cd %s/identity; stat -Lc '%%a %%U' key.pem; openssl verify -CAfile ca.pem -untrusted cert.pem -verify_hostname www.shop.example -verify_ip %s cert.pem", s.data, a.v4())); got != "600 root\ncert.pem: OK\n" {
		t.Errorf("the certificate there: %q; want a good one, with a key for root alone", got)
	}
	if _, err := os.Stat(s.data + "/identity"); err == nil {
		t.Error("the certificate is here as well; want it there alone")
	}
	s.sh(fmt.Sprintf("cd %s/here; test $(stat -Lc %%a key.pem) = 600; openssl verify -CAfile ca.pem -untrusted cert.pem -verify_hostname api.shop.example cert.pem", s.data))
	// The run is over, and what it started lives on.
	containers := func() string { return a.do("pgrep -fc 'busybox [s]leep 4720' || :") }
	if n := containers(); n != "1\n" {
		t.Errorf("%q containers run after the run; want one", n)
	}
	if n := a.processes("runbook step"); n != 0 {
		t.Errorf("%d steps are under way after the run; want none", n)
	}
	if out, err := exec.Command("nsenter", "-t", s.operator, "-n", "dig", "+short", "+tries=1", "+time=3", "@"+a.v4(), "www.shop.example").Output(); err != nil || string(out) != "10.0.0.1\n" {
		t.Errorf("dig = %q, %v; want 10.0.0.1", out, err)
	}

	// Done again, it finds all as it is; taken back, the host is as it was.
	if err := os.WriteFile(s.data+"/permit", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	must("runbook", "resume", "--ssh-key", "user")
	out = must("runbook", "undo", "--yes", "--ssh-key", "user")
	first, then := strings.Index(out, "taken back   container @ a"), strings.Index(out, "taken back   fetch @ a")
	if first < 0 || then < first {
		t.Errorf("undo takes back the container, then the tool; it says\n%s", out)
	}
	if n := containers(); n != "0\n" {
		t.Errorf("%q containers run after the undo; want none", n)
	}
	a.do("test ! -e " + s.data + "/tool")
	release := "runbook: release\nservice: release\nhosts: [a]\nsteps:\n  - name: release\n    hosts: [a]\n    dns: release\n"
	must("runbook", "run", s.runbook(release), "--ssh-key", "user", "--host", "a=["+a.v6()+"]")
	if got := a.do("ls " + s.state + "/dns"); got != "" || a.processes("auth") != 0 {
		t.Errorf("after the release: %q and %d name servers; want none", got, a.processes("auth"))
	}
}
