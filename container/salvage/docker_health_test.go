package salvage

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestDockerHealth(t *testing.T) {
	for _, c := range []struct{ config, check, timing string }{
		{
			`{"Healthcheck":{"Test":["CMD-SHELL","etcdctl endpoint health || exit 1"],"Interval":5000000000,"Timeout":1500000000,"StartPeriod":60000000000,"Retries":9}}`,
			`["CMD-SHELL","etcdctl endpoint health || exit 1"]`, `{"interval":"5s","timeout":"1.5s","retries":9,"start":"1m0s"}`,
		},
		{`{"Healthcheck":{"Test":["CMD","/bin/check","a b"]}}`, `["CMD","/bin/check","a b"]`, `{"interval":"30s","timeout":"30s","retries":3}`},
		{`{"Healthcheck":{"Test":["CMD","/bin/check"],"Interval":-1,"Timeout":-1,"StartPeriod":-1,"Retries":-1}}`, `["CMD","/bin/check"]`, `{"interval":"30s","timeout":"30s","retries":3}`},
		{`{"Shell":["/bin/bash","-ec"],"Healthcheck":{"Test":["CMD-SHELL","[[ -e /x ]]"]}}`, `["CMD","/bin/bash","-ec","[[ -e /x ]]"]`, `{"interval":"30s","timeout":"30s","retries":3}`},
		{`{"Healthcheck":{"Test":["NONE"]}}`, "", ""},
		{`{"Healthcheck":{"Test":[]}}`, "", ""},
		{`{"Healthcheck":null}`, "", ""},
	} {
		record, err := parseDockerRecord([]byte(`{"Path":"/bin/sh","Config":`+c.config+`}`), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		notes := record.annotations()
		if got := notes[AnnotationHealth]; got != c.check {
			t.Errorf("%s: check = %s; want %s", c.config, got, c.check)
		}
		if got := notes[AnnotationHealthTiming]; got != c.timing {
			t.Errorf("%s: timing = %s; want %s", c.config, got, c.timing)
		}
	}
}

// TestHealthCheck asks a real shell what it makes of a line.
func TestHealthCheck(t *testing.T) {
	for _, c := range []struct{ annotation, line, says string }{
		{`["CMD-SHELL","printf '<%s>' a b"]`, `printf '<%s>' a b`, "<a><b>"},
		{`["CMD","printf","<%s>","a b","","$HOME","it's","*","-x=y"]`, `printf '<%s>' 'a b' '' '$HOME' 'it'\''s' '*' '-x=y'`, "<a b><><$HOME><it's><*><-x=y>"},
		{`["CMD","/bin/true"]`, `/bin/true`, ""},
	} {
		check, err := HealthCheck(c.annotation)
		line, ok := strings.CutPrefix(check, "exec:")
		if err != nil || !ok || line != c.line {
			t.Errorf("HealthCheck(%s) = %s, %v; want exec:%s", c.annotation, check, err, c.line)
		}
		if out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput(); err != nil || string(out) != c.says {
			t.Errorf("sh -c %s says %q, %v; want %q", line, out, err, c.says)
		}
	}
	for _, bad := range []string{``, `{}`, `[]`, `["CMD"]`, `["NONE"]`, `["CMD-SHELL"]`, `["HTTP","/"]`} {
		if check, err := HealthCheck(bad); err == nil {
			t.Errorf("HealthCheck(%s) = %q; want an error", bad, check)
		}
	}
	if _, err := HealthCheck(`["HTTP","/"]`); !errors.Is(err, ErrIncomplete) {
		t.Errorf("HealthCheck() = %v; want %v", err, ErrIncomplete)
	}
}

func FuzzShellWord(f *testing.F) {
	f.Add("it's", "$(x) `y`")
	f.Add("", "\\")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, word := range []string{a, b} {
			quoted := shellWord(word)
			if got := unquote(quoted); got != word {
				t.Errorf("shellWord(%q) = %s, which is %q", word, quoted, got)
			}
		}
	})
}

// unquote reads a word as sh(1) does, where it has single quotes and escaped
// ones only.
func unquote(s string) string {
	var out []byte
	for i, inside := 0, false; i < len(s); i++ {
		switch {
		case s[i] == '\'':
			inside = !inside
		case s[i] == '\\' && !inside:
			i++
			out = append(out, s[i])
		default:
			out = append(out, s[i])
		}
	}
	return string(out)
}
