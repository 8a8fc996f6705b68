package runbooks

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// browser is a Chromium without a window, driven through its WebDriver (W3C WebDriver, 2018).
type browser struct {
	t       *testing.T
	session string
	client  *http.Client
}

// open starts a browser, and ends it with the test.
func open(t *testing.T) *browser {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.Command("chromedriver", fmt.Sprintf("--port=%d", port))
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("chromium is needed to look at the page: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	b := &browser{t: t, client: &http.Client{Timeout: time.Minute}}
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("chromedriver does not answer: %s", log.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
	var made struct{ SessionID string }
	b.session = base
	b.do("POST", "/session", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:loggingPrefs":  map[string]string{"browser": "ALL"},
		"goog:chromeOptions": map[string]any{"args": []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + filepath.Join(home, "profile")}},
	}}}, &made)
	b.session = base + "/session/" + made.SessionID
	t.Cleanup(func() { b.do("DELETE", "", nil, nil) })
	return b
}

// do is one WebDriver command; answer gets its value.
func (b *browser) do(method, path string, body, answer any) {
	b.t.Helper()
	var in io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		in = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, b.session+path, in)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, raw, err)
	}
	if answer != nil {
		if err := json.Unmarshal(raw, &struct{ Value any }{answer}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// run gives the value of a script in the page.
func (b *browser) run(script string, answer any) {
	b.t.Helper()
	b.do("POST", "/execute/sync", map[string]any{"script": "return " + script, "args": []any{}}, answer)
}

// show opens a file in a window of a size.
func (b *browser) show(path string, width, height int) {
	b.t.Helper()
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": "Emulation.setDeviceMetricsOverride", "params": map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
	}}, nil)
	b.do("POST", "/url", map[string]string{"url": "file://" + path}, nil)
}

// picture keeps what the page looks like, where PAGE_PICTURES says, for somebody to look at.
func (b *browser) picture(name, command string, params map[string]any) []byte {
	b.t.Helper()
	var got struct{ Data string }
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, &got)
	raw, err := base64.StdEncoding.DecodeString(got.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if dir := os.Getenv("PAGE_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	return raw
}

// complaints are what the browser wrote to its console, a violation of the page's policy above all.
func (b *browser) complaints() []string {
	b.t.Helper()
	var log []struct{ Message string }
	b.do("POST", "/se/log", map[string]string{"type": "browser"}, &log)
	var all []string
	for _, l := range log {
		all = append(all, l.Message)
	}
	return all
}

// write puts a page into a file of its own.
func write(t *testing.T, p Page) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runbook.html")
	if err := os.WriteFile(path, []byte(render(t, HTML, p)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPageInBrowser(t *testing.T) {
	b := open(t)
	p := page(t)
	path := write(t, p)

	for _, w := range []struct {
		name          string
		width, height int
	}{{"phone.png", 360, 740}, {"desktop.png", 1280, 900}} {
		b.show(path, w.width, w.height)
		var wide int
		if b.run("document.documentElement.scrollWidth", &wide); wide > w.width {
			t.Errorf("%s: the page is %d wide; want at most %d, nothing to scroll sideways", w.name, wide, w.width)
		}
		var small float64
		if b.run("Math.min(...[...document.querySelectorAll('button')].map(b => b.getBoundingClientRect().height))", &small); small < 32 {
			t.Errorf("%s: the smallest button is %g high; want something a finger finds", w.name, small)
		}
		b.picture(w.name, "Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})
	}

	// The style holds, each step is there with its command as it is, nothing was made of what is in the texts.
	var steps, elements int
	if b.run("document.querySelectorAll('li.step').length", &steps); steps != len(p.Runbook.Steps) {
		t.Errorf("%d steps in the page; want %d", steps, len(p.Runbook.Steps))
	}
	if b.run("document.querySelectorAll('runbook, b b, img').length", &elements); elements != 0 {
		t.Errorf("%d elements came from texts; want none", elements)
	}
	var family string
	if b.run("getComputedStyle(document.querySelector('pre')).whiteSpaceCollapse + getComputedStyle(document.querySelector('.stamp')).borderTopStyle", &family); family != "preservesolid" {
		t.Errorf("computed style = %q; want that of the page's own style sheet", family)
	}
	var pre []string
	b.run("[...document.querySelectorAll('li.step > .command pre')].map(p => p.textContent)", &pre)
	var want []string
	for _, s := range p.Runbook.Steps {
		if c := s.Command(); c != "" {
			want = append(want, c)
		}
	}
	if strings.Join(pre, "\x00") != strings.Join(want, "\x00") {
		t.Errorf("commands in the page = %q; want %q", pre, want)
	}

	// A tap copies a command.
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": "Browser.grantPermissions", "params": map[string]any{"permissions": []string{"clipboardReadWrite", "clipboardSanitizedWrite"}}}, nil)
	var button map[string]string
	b.do("POST", "/element", map[string]string{"using": "css selector", "value": "li.step .command button"}, &button)
	for _, id := range button {
		b.do("POST", "/element/"+id+"/click", map[string]any{}, nil)
	}
	var copied string
	b.do("POST", "/execute/async", map[string]any{"script": "const done = arguments[0]; (async () => { for (;;) { const t = await navigator.clipboard.readText(); if (t) return done(t); await new Promise(r => setTimeout(r, 20)) } })()", "args": []any{}}, &copied)
	if copied != want[0] {
		t.Errorf("the clipboard has %q; want %q", copied, want[0])
	}

	var loaded int
	if b.run("performance.getEntriesByType('resource').length", &loaded); loaded != 0 {
		t.Errorf("the page loaded %d things; want none", loaded)
	}
	if got := b.complaints(); len(got) > 0 {
		t.Errorf("the browser complains: %q", got)
	}

	// On paper: no buttons, and every command.
	pdf := filepath.Join(t.TempDir(), "page.pdf")
	if err := os.WriteFile(pdf, b.picture("page.pdf", "Page.printToPDF", map[string]any{"preferCSSPageSize": true}), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command("pdftotext", "-layout", pdf, "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{`cp -a "${data}" "${data}.before"`, "sip:lead@10.0.0.9", "PROVEN", "STALE", "give it back"} {
		if !bytes.Contains(text, []byte(w)) {
			t.Errorf("the printed page lacks %q", w)
		}
	}
	if bytes.Contains(text, []byte("Copy\n")) {
		t.Errorf("the printed page has buttons")
	}
}

// Without its script the page reads the same, and shows no button that would do nothing.
func TestPageWithoutScript(t *testing.T) {
	b := open(t)
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": "Emulation.setScriptExecutionDisabled", "params": map[string]any{"value": true}}, nil)
	b.show(write(t, page(t)), 360, 740)
	b.do("POST", "/goog/cdp/execute", map[string]any{"cmd": "Emulation.setScriptExecutionDisabled", "params": map[string]any{"value": false}}, nil)
	var shown int
	if b.run("[...document.querySelectorAll('button')].filter(x => x.offsetParent).length", &shown); shown != 0 {
		t.Errorf("%d buttons are shown; want none without the script", shown)
	}
	var selects string
	if b.run("getComputedStyle(document.querySelector('pre')).userSelect", &selects); selects != "all" {
		t.Errorf("user-select = %q; want one tap to select a whole command", selects)
	}
}

// A page made of the worst texts runs nothing of them.
func TestPageHostile(t *testing.T) {
	const evil = `</title></style></script><script>document.title='owned'</script><img src=x onerror="document.title='owned'">`
	doc := fmt.Sprintf("runbook: %[1]q\nsummary: %[1]q\nservice: s\nowner: %[1]q\ncontacts: [lead, \"javascript:document.title='owned'\", %[1]q, \"tel:\\\"><script>document.title='owned'</script>\"]\n"+
		"vars: {v: {default: %[1]q, about: %[1]q}}\nsteps:\n  - {name: %[1]q, run: %[1]q, undo: %[1]q}\n  - {name: b, note: %[1]q}\n  - {name: c, wait_for: {exec: %[1]q, contains: %[1]q}}\n", evil)
	f := mustParse(t, "f.yaml", doc)
	path := write(t, Page{Runbook: f.Runbooks[0], Contacts: map[string]string{"lead": "javascript:document.title='owned'"}, File: evil, Digest: evil, Proofs: []Proof{{Rehearsal: evil, Commit: evil, Stale: evil, Conditions: []Condition{{Name: evil}}}}})
	b := open(t)
	b.show(path, 800, 600)
	var title string
	if b.run("document.title", &title); title != evil {
		t.Errorf("title = %q; want the text as it is", title)
	}
	var scripts, links int
	if b.run("document.querySelectorAll('script, img').length", &scripts); scripts != 1 {
		t.Errorf("%d scripts and images; want the page's own script alone", scripts)
	}
	if b.run("[...document.querySelectorAll('a')].filter(a => !['sip:', 'tel:', 'mailto:'].includes(a.protocol)).length", &links); links != 0 {
		t.Errorf("%d links lead elsewhere; want none", links)
	}
	if got := b.complaints(); len(got) > 0 {
		t.Errorf("the browser complains: %q", got)
	}
}
