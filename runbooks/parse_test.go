package runbooks

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// design is the example that the language was agreed on.
const design = `runbook: etcd from bare hosts
service: etcd
owner: storage-oncall
contacts: ["sip:storage-oncall@10.0.0.9"]
steps:
  - name: get the binary
    fetch: etcd-server                     # an artifact of the kit
  - name: start one member
    needs: [get the binary]
    container: etcd
    with: {args: [--force-new-cluster]}
  - name: it answers
    wait_for: {http: http://127.0.0.1:2379/health, contains: '"health":"true"', within: 60s}
  - name: tell the operator
    confirm: Is the old scheduler really stopped?
---
rehearsal: etcd recovers alone
service: etcd                               # 1 service under test
hardware: {hosts: 1, cpus: 1, memory: 512MiB}   # 2 hardware
runbook: etcd.yaml                          # 3 recovery strategy, 5 tooling
healthy: [{exec: etcdctl endpoint health}]  # 4 validation criteria
conditions: [package-store:read]            # 6 recovery conditions, everything else is dark
within: 90s
`

// mustParse reads a document that is right.
func mustParse(t testing.TB, name, doc string) *File {
	t.Helper()
	f, err := Parse(name, []byte(doc))
	if err != nil {
		t.Fatalf("Parse(%s):\n%v", name, err)
	}
	return f
}

func TestParseDesign(t *testing.T) {
	f := mustParse(t, "etcd.yaml", design)
	if err := Check(Known{}, f); err != nil {
		t.Errorf("Check = %v; want nil", err)
	}
	b, h := f.Runbooks[0], f.Rehearsals[0]
	if b.Title != "etcd from bare hosts" || b.Service != "etcd" || b.Owner != "storage-oncall" || b.Contacts[0] != "sip:storage-oncall@10.0.0.9" {
		t.Errorf("Parse = %+v; want the head of the document", b)
	}
	for i, want := range []struct {
		kind Kind
		text string
		line int
	}{{Fetch, "etcd-server", 6}, {Container, "etcd", 8}, {WaitFor, "", 12}, {Confirm, "Is the old scheduler really stopped?", 14}} {
		s := b.Steps[i]
		if s.Kind() != want.kind || s.Text() != want.text || s.line != want.line {
			t.Errorf("step %d is %s %q in line %d; want %s %q in line %d", i, s.Kind(), s.Text(), s.line, want.kind, want.text, want.line)
		}
	}
	if got := b.Steps[1].With.Args; len(got) != 1 || got[0] != "--force-new-cluster" {
		t.Errorf("with.args = %q; want --force-new-cluster", got)
	}
	p := b.Steps[2].WaitFor
	if p.Kind() != HTTPProbe || p.Target() != "http://127.0.0.1:2379/health" || p.Contains != `"health":"true"` || p.Within.String() != "1m" {
		t.Errorf("wait_for = %+v; want the health of 2379 within 1m", p)
	}
	if h.Hardware.Hosts != 1 || h.Hardware.CPUs != 1 || h.Hardware.Memory != 512<<20 || h.Within.String() != "1m30s" || h.Conditions[0].Name != "package-store:read" {
		t.Errorf("Parse = %+v; want the rehearsal of the document", h)
	}
}

// head and tail make a runbook of steps.
const (
	head = "runbook: r\nservice: s\nhosts: [a, b]\nvars: {data: {default: /x}, key: {secret: true}}\nsteps:\n"
	tail = "rehearsal: h\nservice: s\nrunbook: other.yaml\nwithin: 1m\nhealthy: [{exec: x}]\n"
)

// bad are documents, what is said of them, and whether the schema says it too: it sees one document and no positions.
var bad = []struct {
	name, doc, want string
	schema          bool
}{
	{"empty", "", "1:1: no runbook and no rehearsal in it", false},
	{"comment only", "# nothing\n", "1:1: no runbook and no rehearsal in it", false},
	{"a list", "- a\n", "1:1: want a mapping that starts with runbook or rehearsal, got a list", true},
	{"neither", "service: s\n", "1:1: neither runbook nor rehearsal is there", true},
	{"unknown key", head + "  - {name: a, run: x, nedes: []}\n", `6:23: unknown key "nedes": did you mean needs?`, true},
	{"unknown key at the top", "runbook: r\nservice: s\nstep: []\nsteps: [{name: a, run: x}]\n", `3:1: unknown key "step": did you mean steps?`, true},
	{"unknown option", head + "  - {name: a, stop: x, with: {arguments: [b]}}\n", `6:31: unknown key "arguments"`, true},
	{"duplicate key", head + "  - name: a\n    run: x\n    name: b\n", `8:5: key "name" is there twice: the first is in line 6`, false},
	{"duplicate key in brackets", head + "  - {name: a, run: x, run: y}\n", `6:23: key "run" is there twice`, false},
	{"tab that indents", "runbook: r\nsteps:\n\t- name: a\n", "3:1: a tab cannot indent: use spaces", false},
	{"tab after spaces", "runbook: r\nsteps:\n  \t- name: a\n", "3:3: a tab cannot indent: use spaces", false},
	{"alias", "runbook: &a r\nservice: *a\nsteps: []\n", "1:10: anchors, aliases, tags and directives are not taken", false},
	{"bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "1:4: anchors, aliases", false},
	{"merge", "runbook: r\n<<: {service: s}\n", "2:1: anchors, aliases", false},
	{"tag", "runbook: !!str r\n", "1:10: anchors, aliases", false},
	{"deep brackets", "runbook: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "\n", "1:30: nested too deeply", false},
	{"deep dashes", "a:\n  " + strings.Repeat("- ", 100) + "x\n", "nested too deeply", false},
	{"malformed", "runbook: [a\n", "malformed YAML", false},
	{"not UTF-8", "runbook: caf\xe9 \n", "1:13: not UTF-8", false},
	{"escape sequence", "runbook: \"\\e[2J\"\n", "1:10: runbook: hidden character U+001B", false},
	{"raw escape", "runbook: \x1b[2J\n", "1:10: hidden character U+001B", false},
	{"turned writing", head + "  - {name: a, run: \"rm \u202e /\"}\n", "hidden character U+202E", false},
	{"empty value", "runbook: r\nservice:\nsteps: [{name: a, run: x}]\n", "service is empty", true},
	{"number for text", "runbook: 5\nservice: s\nsteps: [{name: a, run: x}]\n", "1:10: want text, got a number: put it in quotes", true},
	{"boolean for text", head + "  - {name: a, run: true}\n", "6:20: want text, got true or false: put it in quotes", true},
	{"list for text", head + "  - {name: a, run: [x]}\n", "6:20: want text, got a list", true},
	{"text for list", head + "  - {name: a, run: x, needs: b}\n", "6:30: want a list, got text", true},
	{"text for mapping", head + "  - {name: a, run: x, with: b}\n", "6:29: want a mapping, got text", true},
	{"list for mapping", "runbook: r\nservice: s\nvars: [a]\nsteps: [{name: a, run: x}]\n", "3:7: want a mapping, got a list", true},
	{"text for boolean", "runbook: r\nservice: s\nvars: {a: {secret: 'yes'}}\nsteps: [{name: a, run: x}]\n", "3:20: want true or false, got text", true},
	{"text for number", head + "  - {name: a, run: x, retries: often}\n", "6:32: want a number from 0 to 100", true},
	{"fraction", head + "  - {name: a, run: x, retries: 1.5}\n", "6:32: want a whole number, got 1.5", true},
	{"negative", head + "  - {name: a, run: x, retries: -1}\n", "6:32: want a number from 0 to 100", true},
	{"not a number", tail + "hardware: {cpus: .nan}\n", "6:18: want a number from 0 to 4096", false},
	{"too many hosts", tail + "hardware: {hosts: 6}\n", "6:19: want a number from 1 to 5", true},
	{"no host", tail + "hardware: {hosts: 0}\n", "6:19: want a number from 1 to 5", true},
	{"duration without unit", head + "  - {name: a, run: x, timeout: 90}\n", `6:32: "90" is not a duration: write it like 90s`, true},
	{"no duration", head + "  - {name: a, run: x, timeout: soon}\n", `6:32: "soon" is not a duration`, true},
	{"long duration", head + "  - {name: a, run: x, timeout: 400d}\n", `6:32: "400d" is not above zero and at most 365d`, false},
	{"zero duration", head + "  - {name: a, run: x, timeout: 0s}\n", `6:32: "0s" is not above zero`, false},
	{"size", tail + "hardware: {memory: lots}\n", `6:20: "lots" is not a size: write it like 512MiB`, true},
	{"huge size", tail + "hardware: {memory: 9999999999TiB}\n", "6:20: a size is above zero and below", false},
	{"no service", "runbook: r\nsteps: [{name: a, run: x}]\n", "1:1: service is missing", true},
	{"no steps", "runbook: r\nservice: s\n", "1:1: steps is missing", true},
	{"empty steps", "runbook: r\nservice: s\nsteps: []\n", "3:8: steps is empty", true},
	{"no name", head + "  - run: x\n", "6:5: name is missing", true},
	{"blank script", head + "  - {name: a, run: ' '}\n", "6:20: run: it is empty", true},
	{"name of two lines", head + "  - {name: \"a\\nb\", run: x}\n", `6:12: name: want one line of text, got "a\nb"`, true},
	{"no kind", head + "  - {name: a}\n", "6:5: one of run, fetch, container, stop, dns, cert, wait_for, confirm, handoff, note is missing", true},
	{"two kinds", head + "  - {name: a, run: x, note: y}\n", "6:29: run and note: exactly one of them may be there", true},
	{"option of another kind", head + "  - {name: a, run: x, with: {args: [b]}}\n", "6:30: args does not go with run", true},
	{"with on a note", head + "  - {name: a, note: x, with: {dir: /}}\n", "6:24: with does not go with note", true},
	{"retries of a question", head + "  - {name: a, confirm: x, retries: 2}\n", "6:27: retries does not go with confirm", true},
	{"no probe", head + "  - {name: a, wait_for: {within: 5s}}\n", "6:25: one of tcp, http, dns, exec, file, log, unix is missing", true},
	{"two probes", head + "  - {name: a, wait_for: {tcp: '10.0.0.1:1', file: /x}}\n", "6:51: tcp and file: exactly one of them may be there", true},
	{"status of tcp", head + "  - {name: a, wait_for: {tcp: '10.0.0.1:1', status: 200}}\n", "6:45: status does not go with tcp", true},
	{"tcp by name", head + "  - {name: a, wait_for: {tcp: 'registry:5000'}}\n", "6:31: want IP:PORT: a name may not resolve when this is needed", false},
	{"http by name", head + "  - {name: a, wait_for: {http: 'http://localhost/'}}\n", "6:32: want an IP address in the URL", false},
	{"ftp", head + "  - {name: a, wait_for: {http: 'ftp://10.0.0.1/'}}\n", "6:32: want http://IP:PORT/PATH", false},
	{"dns without server", head + "  - {name: a, wait_for: {dns: registry.example}}\n", "6:31: want NAME [TYPE] @IP[:PORT]", false},
	{"log without text", head + "  - {name: a, wait_for: {log: etcd}}\n", "6:31: log needs contains", true},
	{"relative path", head + "  - {name: a, wait_for: {file: x}}\n", `6:32: file: want an absolute path, got "x"`, true},
	{"handoff without until", head + "  - {name: a, handoff: x, with: {grace: 5s}}\n", "6:33: until is missing", true},
	{"handoff without with", head + "  - {name: a, handoff: x}\n", "6:24: handoff needs with: {until: CHECK}", true},
	{"handoff until a name", head + "  - {name: a, handoff: x, with: {until: 'tcp://etcd:1'}}\n", "6:41: want http://IP:PORT/PATH, tcp://IP:PORT", false},
	{"two roots", head + "  - {name: a, container: x, with: {image: i, rootfs: /r}}\n", "6:35: spec, image and rootfs: at most one", false},
	{"mode", head + "  - {name: a, fetch: x, with: {to: /x, mode: '999'}}\n", `6:46: mode: want permissions in octal`, true},
	{"enumeration", head + "  - {name: a, dns: start}\n", `6:20: dns: want serve or takeover or release, got "start"`, true},
	{"missing need", head + "  - {name: a, run: x}\n  - {name: b, run: x, needs: [c]}\n", `7:31: needs "c", which is no step here`, false},
	{"misspelt need", head + "  - {name: stop etcd, run: x}\n  - {name: b, run: x, needs: [stop etdc]}\n", "did you mean stop etcd?", false},
	{"itself", head + "  - {name: a, run: x, needs: [a]}\n", "6:30: a cycle: a needs a: none of them can start first", false},
	{"cycle", head + "  - {name: a, run: x, needs: [c]}\n  - {name: b, run: x}\n  - {name: c, run: x}\n", "6:30: a cycle: a needs c needs b needs a", false},
	{"shortest cycle", head + "  - {name: a, run: x, needs: [c]}\n  - {name: b, run: x}\n  - {name: c, run: x}\n  - {name: d, run: x, needs: [c, e]}\n  - {name: e, run: x}\n", "9:30: a cycle: d needs e needs d", false},
	{"unreachable", head + "  - {name: a, run: x, needs: [b]}\n  - {name: b, run: x}\n  - {name: c, run: x}\n", `8:5: step "c" can never be reached: it waits, perhaps through others, for the cycle of "a"`, false},
	{"same step", head + "  - {name: a, run: x}\n  - {name: a, run: x}\n", `7:12: step "a" is there twice: the first is in line 6`, false},
	{"unknown host", head + "  - {name: a, run: x, hosts: [c]}\n", "6:31: host c is not among the runbook's hosts", false},
	{"unknown variable", head + "  - {name: a, note: \"see ${dta}\"}\n", "6:21: no variable ${dta}", false},
	{"ip without host", head + "  - {name: a, wait_for: {tcp: \"${ip}:1\"}}\n", "no variable ${ip}", false},
	{"half a variable", head + "  - {name: a, note: \"see ${data\"}\n", `"${data" is no variable`, false},
	{"secret with default", "runbook: r\nservice: s\nvars: {p: {secret: true, default: hunter22}}\nsteps: [{name: a, run: x}]\n", "3:35: a secret has no default", false},
	{"reserved variable", "runbook: r\nservice: s\nvars: {http_proxy: {default: x}}\nsteps: [{name: a, run: x}]\n", "3:8: http_proxy means something else", false},
	{"variable in capitals", "runbook: r\nservice: s\nvars: {PATH: {default: x}}\nsteps: [{name: a, run: x}]\n", "3:8: vars: want a variable's name: lower-case", true},
	{"hosts with one variable", "runbook: r\nservice: s\nhosts: [a-b, a.b]\nsteps: [{name: a, run: x}]\n", "3:14: hosts a-b and a.b would both be ${ip_a_b}", false},
	{"no within", "rehearsal: h\nservice: s\nrunbook: o.yaml\nhealthy: [{exec: x}]\n", "1:1: within is missing", true},
	{"no healthy", "rehearsal: h\nservice: s\nrunbook: o.yaml\nwithin: 1m\nhealthy: []\n", "5:10: healthy is empty", true},
	{"no runbook", "rehearsal: h\nservice: s\nwithin: 1m\nhealthy: [{exec: x}]\n", "1:1: 0 runbooks in this file", false},
	{"condition", tail + "conditions: [{any: [a, b]}]\n", "6:14: want a capability, an endpoint, or {any_of: [ONE, OTHER]}", true},
	{"lonely any_of", tail + "conditions: [{any_of: [a]}]\n", "6:14: want a capability", true},
	{"condition twice", tail + "conditions: [a, b, a]\n", "6:20: condition a is there twice", false},
	{"absolute runbook", "rehearsal: h\nservice: s\nrunbook: /etc/shadow\nwithin: 1m\nhealthy: [{exec: x}]\n", "3:10: runbook: want a file's path, relative to this one", true},
}

func TestParseBad(t *testing.T) {
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(c.doc))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrInvalid) {
				t.Errorf("Parse(%q) = %v; want %q", c.doc, err, c.want)
			}
		})
	}
}

// The offending line is there, with the mark under the column, and nothing that could move a cursor.
func TestErrorShowsTheLine(t *testing.T) {
	_, err := Parse("dir/f.yaml", []byte(head+"  - {name: à côté, nte: x}\n"))
	want := "dir/f.yaml:6:5: one of run, fetch, container, stop, dns, cert, wait_for, confirm, handoff, note is missing\n" +
		"    6 |   - {name: à côté, nte: x}\n      |     ^\n" +
		"dir/f.yaml:6:20: unknown key \"nte\": did you mean note?\n" +
		"    6 |   - {name: à côté, nte: x}\n      |                    ^"
	if err == nil || err.Error() != want {
		t.Errorf("Parse = %v; want\n%s", err, want)
	}
	_, err = Parse("f\x1b.yaml", []byte("runbook: \x1b[2J"+strings.Repeat("x", 300)))
	if err == nil || strings.ContainsRune(err.Error(), 0x1b) || len(err.Error()) > 400 {
		t.Errorf("Parse = %q; want a short text without escape sequences", err)
	}
}

func TestParseSecretIsNotShown(t *testing.T) {
	_, err := Parse("f.yaml", []byte("runbook: r\nservice: s\nvars:\n  p: {secret: true, default: hunter22}\nsteps: [{name: a, run: x}]\n"))
	if err == nil || strings.Contains(err.Error(), "hunter22") {
		t.Errorf("Parse = %v; want an error without the secret", err)
	}
}

// A script may hold tabs, colons and anything else that a shell reads; Windows line ends change nothing.
func TestParseScript(t *testing.T) {
	doc := head + "  - name: a\n    run: |\n      cat <<-X\n      \t${unset:-y} $${x}\n      X\n    undo: \"true\"\n"
	for _, d := range []string{doc, strings.ReplaceAll(doc, "\n", "\r\n")} {
		f := mustParse(t, "f.yaml", d)
		if got, want := f.Runbooks[0].Steps[0].Run, "cat <<-X\n\t${unset:-y} $${x}\nX\n"; got != want {
			t.Errorf("run = %q; want %q", got, want)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "etcd.yaml")
	if err := os.WriteFile(path, []byte(design), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Read(path)
	if err != nil || f.Digest == "" || len(f.Runbooks) != 1 {
		t.Errorf("Read = %+v, %v; want one runbook", f, err)
	}
	if err := os.WriteFile(path, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("Read(large) = %v; want it refused", err)
	}
	if _, err := Read(dir); !errors.Is(err, ErrInvalid) {
		t.Errorf("Read(directory) = %v; want ErrInvalid", err)
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read(none) = %v; want os.ErrNotExist", err)
	}
}
