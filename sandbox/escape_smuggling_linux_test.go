package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What two servers could take apart differently does not bring a second request
// past a pathway that only reads.
func (s suite) smuggling(t *testing.T) {
	control, o := s.listen(t, "smugcontrol"), s.listen(t, "smuggle")
	dir := t.TempDir()
	block := fmt.Sprintf("location /v2/ { access_log %[1]s/read; return 200 read; } location / { access_log %[1]s/other; return 200 other; }", dir)
	server := nginxAt(t, "", block)
	host, port, _ := net.SplitHostPort(server)
	const script = "python3 $PROGRAMS/smuggle.py "
	run(script+host+" "+port+" store.example $TOKEN", control)
	arrived := func(token string) (bad []string) {
		for _, f := range []string{"read", "other"} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(b)) {
				_, request, _ := strings.Cut(l, `"`)
				if strings.Contains(l, token) && (f == "other" || !strings.HasPrefix(request, "GET /v2/")) {
					bad = append(bad, f+": "+l)
				}
			}
		}
		return bad
	}
	if got := arrived(control.token); len(got) < 15 {
		t.Errorf("outside of a vacuum %d requests arrived that should not; want at least 15, or the test proves nothing:\n%s", len(got), strings.Join(got, ""))
	}
	p := letIn(t, map[string]string{"store.example:80": server}, "http:http://store.example;GET;/v2/*,name=store")
	out := s.attempt(t, p.World, script+"store.example 80 store.example $TOKEN", o)
	if !strings.Contains(out, "plain: 200") || strings.Contains(out, "other") {
		t.Errorf("it says %s; want the plain request to be answered and no other place to answer", out)
	}
	if got := arrived(o.token); len(got) > 0 {
		t.Errorf("requests that should not have passed:\n%s", strings.Join(got, ""))
	}
	denied := 0
	for _, a := range p.end(t) {
		if a.Proto == "http" && a.Verdict == Blocked {
			denied += a.Count
		}
	}
	if denied < 20 {
		t.Errorf("%d requests are recorded as denied; want at least 20. It says %s", denied, out)
	}
}
