package graph

import (
	"bytes"
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
	t   *testing.T
	url string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	home := t.TempDir()
	cmd := exec.Command("chromedriver", "--port="+port)
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting chromedriver: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("chromedriver does not answer: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
	b := &browser{t: t, url: "http://" + address + "/session"}
	var made struct{ SessionID string }
	b.do("", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"goog:loggingPrefs": map[string]string{"browser": "ALL"},
		"goog:chromeOptions": map[string]any{"args": []string{
			"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=" + filepath.Join(home, "profile"),
		}},
	}}}, &made)
	b.url += "/" + made.SessionID
	t.Cleanup(func() {
		req, err := http.NewRequest(http.MethodDelete, b.url, nil)
		if err != nil {
			return
		}
		if resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req); err == nil {
			_ = resp.Body.Close()
		}
	})
	return b
}

// do is one command of WebDriver; answer gets its value.
func (b *browser) do(path string, body, answer any) {
	b.t.Helper()
	j, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: time.Minute}).Post(b.url+path, "application/json", bytes.NewReader(j))
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s %.500s %v", path, resp.Status, raw, err)
	}
	if answer != nil {
		if err := json.Unmarshal(raw, &struct{ Value any }{answer}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *browser) open(page string) {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "graph.html")
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.do("/url", map[string]string{"url": "file://" + path}, nil)
}

func (b *browser) size(width, height int) {
	b.t.Helper()
	b.do("/goog/cdp/execute", map[string]any{"cmd": "Emulation.setDeviceMetricsOverride", "params": map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}}, nil)
}

// run gives the value of a script, as text.
func (b *browser) run(script string) string {
	b.t.Helper()
	var v any
	b.do("/execute/sync", map[string]any{"script": script, "args": []any{}}, &v)
	return fmt.Sprint(v)
}

// picture keeps what the page looks like, where PAGE_PICTURES says, for somebody to look at.
func (b *browser) picture(name, command string, params map[string]any) []byte {
	b.t.Helper()
	var got struct{ Data string }
	b.do("/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, &got)
	raw, err := base64.StdEncoding.DecodeString(got.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if dir := os.Getenv("PAGE_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	return raw
}

// complaints are what the browser wrote to its console, a violation of the page's policy above all.
func (b *browser) complaints() []string {
	b.t.Helper()
	var log []struct{ Message string }
	b.do("/se/log", map[string]string{"type": "browser"}, &log)
	var all []string
	for _, l := range log {
		all = append(all, l.Message)
	}
	return all
}

// chip is a script's expression for a service's box.
func chip(name string) string {
	return fmt.Sprintf("[...document.querySelectorAll('.chip')].find(c => c.querySelector('b').textContent === %q)", name)
}

func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	b.size(1280, 900)
	b.open(mustRender(t, HTML, mustLoad(t, "testdata/incident/before.yaml")))
	b.picture("before.png", "Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})
	want := func(what, script, value string) {
		t.Helper()
		if got := b.run("return " + script); got != value {
			t.Errorf("%s: %s = %s; want %s", what, script, got, value)
		}
	}
	want("rows", "[...document.querySelectorAll('h2')].map(h => h.firstChild.textContent.trim()).join()", "tier 4,tier 3,tier 2,tier 1,tier 0")
	want("time", "document.querySelector('header').textContent.includes('What comes back takes likely 34m, 24m to 50m. The end waits for power-distribution')", "true")
	want("unproven", "[...document.querySelectorAll('summary')].map(s => s.textContent).includes('11 services without a proof that holds')", "true")
	want("printed", "(dispatchEvent(new Event('beforeprint')), document.querySelectorAll('details:not([open])').length)", "0")
	b.run("dispatchEvent(new Event('afterprint'))")
	want("loop", "[...document.querySelectorAll('.chip.loop b')].map(b => b.textContent).join()", "cluster-scheduler,zk")
	want("stuck", "document.querySelectorAll('.chip.stuck').length", "6")

	b.run(chip("zk") + ".click()")
	want("panel", "document.querySelector('#panel h3').textContent", "zk")
	want("runbook", "document.querySelector('#panel').textContent.includes('testdata/incident/zk.yaml')", "true")
	want("proof", "document.querySelector('#panel').textContent.includes('never rehearsed')", "true")
	want("evidence", "document.querySelector('#panel').textContent.includes('declared, testdata/incident/before.yaml:8')", "true")
	want("needs", "[...document.querySelectorAll('.chip.need b')].map(b => b.textContent).sort().join()", "cluster-scheduler,network-fabric")
	b.picture("picked.png", "Page.captureScreenshot", map[string]any{})

	// What if: zk is lost; then a recovery container starts it.
	press := func(text string) {
		b.run(fmt.Sprintf("[...document.querySelectorAll('button')].find(b => b.textContent.includes(%q)).click()", text))
	}
	press("it is lost")
	want("what if lost", "document.getElementById('whatif').textContent", "8 fall, 8 never come back")
	press("Undo: it is lost")
	b.run(chip("cluster-scheduler") + ".click()")
	press("it is lost")
	want("what if the manager is lost", "document.getElementById('whatif').textContent", "1 fall, all come back, the last after 15 min")
	press("Undo: it is lost")
	press("a recovery container")
	want("what if started", "document.getElementById('whatif').textContent", "all come back, the last after 80 min")
	b.picture("whatif.png", "Page.captureScreenshot", map[string]any{})
	press("Reset")
	want("reset", "document.getElementById('whatif').textContent + document.querySelectorAll('.chip.stuck').length", "6")

	b.run("const s = document.getElementById('search'); s.value = 'traffic'; s.dispatchEvent(new Event('input'))")
	want("search", "document.querySelectorAll('.chip:not(.hidden)').length", "3")
	want("network", "performance.getEntriesByType('resource').length", "0")
	if got := b.complaints(); len(got) > 0 {
		t.Errorf("the browser complains: %q", got)
	}
}

func TestLargePageInBrowser(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	var text strings.Builder
	for _, f := range large(500, 4, 2) {
		text.Write(f.Data)
	}
	b.open(mustRender(t, HTML, mustRead(t, "g.yaml", text.String())))
	for _, width := range []int{1600, 400} {
		b.size(width, 1000)
		if got := b.run("return document.documentElement.scrollWidth <= innerWidth"); got != "true" {
			t.Errorf("at %d pixels the page scrolls sideways", width)
		}
		b.picture(fmt.Sprintf("large%d.png", width), "Page.captureScreenshot", map[string]any{"captureBeyondViewport": true})
	}
	if got := b.run("return document.querySelectorAll('.chip').length + ' ' + [...document.querySelectorAll('.chip')].every(c => c.scrollWidth <= c.clientWidth + 1)"); got != "500 true" {
		t.Errorf("boxes = %s; want 500, each with its text inside", got)
	}
	b.run(chip("service-000499") + ".click()")
	b.run("scrollTo(0, document.body.scrollHeight)")
	if got := b.run("return [...document.querySelectorAll('.chip')].every(c => c.getBoundingClientRect().bottom <= document.getElementById('panel').getBoundingClientRect().top)"); got != "true" {
		t.Errorf("the panel covers boxes that cannot be scrolled to")
	}
	pdf := b.picture("large.pdf", "Page.printToPDF", map[string]any{"preferCSSPageSize": true, "printBackground": true})
	if !bytes.HasPrefix(pdf, []byte("%PDF")) || bytes.Count(pdf, []byte("/Type /Page\n")) > 7 {
		t.Errorf("printed: %d bytes, %d pages; want at most 7", len(pdf), bytes.Count(pdf, []byte("/Type /Page\n")))
	}
	b.open(mustRender(t, HTML, New([]Service{{Name: evil, Tier: 1, Owner: evil, Region: evil, Runbook: evil, Needs: []Need{{AnyOf: []string{evil}}}}})))
	b.run("document.querySelector('.chip').click()")
	if got := b.run("return document.title + document.querySelectorAll('img').length + (document.querySelector('#panel h3').textContent === document.querySelector('.chip b').textContent)"); got != "Recovery graph0true" {
		t.Errorf("a page of hostile names = %q; want nothing made of them", got)
	}
	if got := b.complaints(); len(got) > 0 {
		t.Errorf("the browser complains: %q", got)
	}
}
