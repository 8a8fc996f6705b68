package runbooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// everything is the test data that uses every key.
func everything(t testing.TB) *File {
	t.Helper()
	b, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, "everything.yaml", string(b))
}

var (
	someVars  = map[string]string{"token": "hunter2 & co", "region": "west"}
	someHosts = map[string]netip.Addr{"zk-1": netip.MustParseAddr("10.0.0.5"), "zk-2": netip.MustParseAddr("fd00::6")}
)

func bind(t testing.TB, b *Runbook, vars map[string]string, hosts map[string]netip.Addr) *Bound {
	t.Helper()
	bound, err := b.Bind(vars, hosts)
	if err != nil {
		t.Fatalf("Bind = %v", err)
	}
	return bound
}

// transcript is a plan as a person reads it.
func transcript(p *Plan) string {
	var out strings.Builder
	for _, t := range p.Tasks {
		fmt.Fprintf(&out, "%d %d. %s", t.Wave, t.Number, t.ID)
		if len(t.Needs) > 0 {
			fmt.Fprintf(&out, "  <- %s", strings.Join(t.Needs, "; "))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

const order = "runbook: r\nservice: s\nhosts: [a, b]\nsteps:\n" +
	"  - {name: one, run: x}\n" +
	"  - {name: two, run: x, hosts: [a, b]}\n" +
	"  - {name: three, run: x, needs: []}\n" +
	"  - {name: four, run: x, needs: [six]}\n" +
	"  - {name: five, run: x, needs: [two, three]}\n" +
	"  - {name: six, run: x, needs: [three]}\n"

func TestPlanOrder(t *testing.T) {
	b := bind(t, mustParse(t, "f", order).Runbooks[0], nil, map[string]netip.Addr{"a": netip.MustParseAddr("10.0.0.1"), "b": netip.MustParseAddr("10.0.0.2")})
	for _, c := range []struct {
		name string
		sel  Selection
		want string
	}{
		{"all", Selection{}, "0 1. one\n1 2. two @ a  <- one\n1 2. two @ b  <- one\n0 3. three\n1 6. six  <- three\n2 4. four  <- six\n2 5. five  <- two @ a; two @ b; three\n"},
		{"only", Selection{Only: []string{"five", "two"}}, "1 2. two @ a\n1 2. two @ b\n2 5. five  <- two @ a; two @ b\n"},
		{"from", Selection{From: "six"}, "1 6. six\n2 4. four  <- six\n2 5. five\n"},
		{"from a number", Selection{From: "5"}, "2 5. five\n"},
		{"both", Selection{Only: []string{"1", "5"}, From: "two"}, "2 5. five\n"},
	} {
		p, err := b.Plan(c.sel)
		if err != nil || transcript(p) != c.want {
			t.Errorf("%s: Plan = %v\n%s; want\n%s", c.name, err, transcript(p), c.want)
		}
	}
	for _, sel := range []Selection{{From: "seven"}, {Only: []string{"7"}}, {Only: []string{"0"}}, {Only: []string{"one"}, From: "five"}} {
		if _, err := b.Plan(sel); !errors.Is(err, ErrInvalid) {
			t.Errorf("Plan(%+v) = %v; want ErrInvalid", sel, err)
		}
	}
}

func TestPlanVariables(t *testing.T) {
	f := everything(t)
	b := bind(t, f.Runbooks[0], someVars, someHosts)
	p, err := b.Plan(Selection{})
	if err != nil {
		t.Fatal(err)
	}
	task := func(id string) Task {
		i := slices.IndexFunc(p.Tasks, func(t Task) bool { return t.ID == id })
		if i < 0 {
			t.Fatalf("no task %q in\n%s", id, transcript(p))
		}
		return p.Tasks[i]
	}
	copied := task("keep a copy @ zk-2")
	if got, want := copied.Step.Run, "cp -a \"${data}\" \"${data}.before\"\necho \"kept on ${host}\"\n"; got != want {
		t.Errorf("run = %q; want it as it was written, %q", got, want)
	}
	if got, want := copied.Step.With.Env["NOTE"], "of zk-2 at fd00::6"; got != want {
		t.Errorf("env = %q; want %q", got, want)
	}
	want := []string{"data=/var/lib/zookeeper", "host=zk-2", "ip=fd00::6", "ip_zk_1=10.0.0.5", "ip_zk_2=fd00::6", "odd=it's ${not} `one` $(word)", "region=west"}
	if !slices.Equal(copied.Env, want) {
		t.Errorf("Env = %q; want %q, without a secret that it does not name", copied.Env, want)
	}
	if got := task("the command @ zk-1").Env; !slices.Contains(got, "token=hunter2 & co") {
		t.Errorf("Env = %q; want the secret that the command names", got)
	}
	c := task("start what the scheduler left @ zk-1").Step
	if c.With.Args[0] != "--server=10.0.0.5:2181" || c.With.Env["TOKEN"] != "hunter2 & co" || c.With.Mounts[0] != "/var/lib/zookeeper:/data" {
		t.Errorf("with = %+v; want its variables replaced", c.With)
	}
	if got := task("the port").Step.WaitFor; got.TCP != "10.0.0.5:2181" || got.Within.String() != "2m" {
		t.Errorf("wait_for = %+v; want the address and within", got)
	}
	if got := task("the log").Step.WaitFor.Within; got != DefaultWithin {
		t.Errorf("within = %v; want the default", got)
	}
	if a, b := copied.Step.Timeout.String(), task("stop the spare").Step.Timeout; a != "10m" || b != DefaultTimeout {
		t.Errorf("timeouts = %s, %s; want what is written, or the default", a, b)
	}
	if got := task("who may know").Step.Note; !strings.HasPrefix(got, "Tell west's owners.") {
		t.Errorf("note = %q; want the region", got)
	}
	// What was read stays as it was.
	if got := f.Runbooks[0].Steps[6].With.Args[0]; got != "--server=${ip}:2181" {
		t.Errorf("Plan changed the runbook: %q", got)
	}
	again, err := b.Plan(Selection{})
	if err != nil || fmt.Sprint(transcript(p)) != transcript(again) {
		t.Errorf("Plan gave two orders: %v", err)
	}

	if got := task("start what the scheduler left @ zk-2").Step.With.Args[0]; got != "--server=[fd00::6]:2181" {
		t.Errorf("args = %q; want brackets before the port", got)
	}
	if got := task("the page").Step.WaitFor.HTTP; got != "http://[fd00::6]:8080/commands" {
		t.Errorf("http = %q; want brackets in the URL", got)
	}
}

// What only a value makes wrong is said before anything runs.
func TestPlanBadValue(t *testing.T) {
	doc := "runbook: r\nservice: s\nvars: {to: {default: x}}\nsteps:\n"
	for _, c := range []struct{ step, want string }{
		{"{name: a, wait_for: {tcp: '${to}:2379'}}", "step \"a\": invalid runbook: tcp: want IP:PORT"},
		{"{name: a, wait_for: {http: 'http://${to}/'}}", "want an IP address in the URL"},
		{"{name: a, wait_for: {file: '${to}'}}", "want an absolute path"},
		{"{name: a, handoff: c, with: {until: '${to}'}}", "want http://IP:PORT/PATH, tcp://IP:PORT"},
		{"{name: a, container: c, with: {image: i, health: '${to}'}}", "want http://IP:PORT/PATH, tcp://IP:PORT"},
		{"{name: a, container: c, with: {image: i, mounts: ['${to}']}}", "want SRC:DST[:ro] in mounts"},
	} {
		b := bind(t, mustParse(t, "f", doc+"  - "+c.step+"\n").Runbooks[0], nil, nil)
		if _, err := b.Plan(Selection{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Plan(%s) = %v; want %q", c.step, err, c.want)
		}
	}
}

func TestBindBad(t *testing.T) {
	b := everything(t).Runbooks[0]
	with := func(k, v string) map[string]string {
		m := map[string]string{"token": "hunter22", "region": "west"}
		m[k] = v
		return m
	}
	for _, c := range []struct {
		vars  map[string]string
		hosts map[string]netip.Addr
		want  string
	}{
		{map[string]string{"token": "hunter22"}, someHosts, "variable region has no value: give it with --var region=VALUE"},
		{with("dta", "x"), someHosts, `no variable "dta"`},
		{with("ip_zk_1", "x"), someHosts, `no variable "ip_zk_1"`},
		{with("token", "abc"), someHosts, "secret token is shorter than 4 bytes"},
		{with("data", "a\x00b"), someHosts, "holds a NUL"},
		{someVars, nil, "host zk-1 has no address: give it with --host zk-1=IP"},
		{someVars, map[string]netip.Addr{"zk-3": {}}, `no host "zk-3"`},
	} {
		if _, err := b.Bind(c.vars, c.hosts); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Bind(%v, %v) = %v; want %q", c.vars, c.hosts, err, c.want)
		}
	}
}

func TestGivenAndHealthy(t *testing.T) {
	f := everything(t)
	b := bind(t, f.Runbooks[0], someVars, someHosts)
	p, err := b.Given(f.Rehearsals[0])
	if err != nil || transcript(p) != "0 1. data @ zk-1\n0 1. data @ zk-2\n" {
		t.Errorf("Given = %v\n%s; want the data on both hosts", err, transcript(p))
	}
	probes, env, err := b.Healthy(f.Rehearsals[0])
	if err != nil || probes[0].TCP != "10.0.0.5:2181" || !slices.Contains(env, "region=west") {
		t.Errorf("Healthy = %+v, %q, %v; want the address and the variables", probes, env, err)
	}
}

// A variable's value is text, whatever it looks like.
func TestExpand(t *testing.T) {
	value := func(name string) (string, error) {
		if name == "v" {
			return "$${v}${w}", nil
		}
		return "", errors.New("no " + name)
	}
	for in, want := range map[string]string{
		"":           "",
		"${v}":       "$${v}${w}",
		"a${v}b${v}": "a$${v}${w}b$${v}${w}",
		"$${v}":      "${v}",
		"$v $ {v}":   "$v $ {v}",
		"100$":       "100$",
	} {
		if got, err := expand(in, value); err != nil || got != want {
			t.Errorf("expand(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${", "${v", "${}", "${V}", "${v:-x}", "${w}"} {
		if got, err := expand(in, value); err == nil {
			t.Errorf("expand(%q) = %q; want an error", in, got)
		}
	}
}

// Nothing of a plan goes to JSON by accident: the tree it was read from is not part of it.
func TestTaskJSON(t *testing.T) {
	p, err := bind(t, everything(t).Runbooks[0], someVars, someHosts).Plan(Selection{Only: []string{"the port"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil || strings.Contains(string(b), "line") || !strings.Contains(string(b), "10.0.0.5:2181") {
		t.Errorf("json = %s, %v; want the step without its place in the file", b, err)
	}
}
