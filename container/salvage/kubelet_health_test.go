package salvage

import (
	"strings"
	"testing"
)

func TestKubeletAttend(t *testing.T) {
	const ports = "ports: [{name: health, containerPort: 2381}]"
	for _, c := range []struct {
		pod, container, restart, check, timing, problem string
	}{
		{"", "", "always", "", "", ""},
		{"restartPolicy: Never", "", "", "", "", ""},
		{
			"restartPolicy: OnFailure", "livenessProbe: {httpGet: {host: 127.0.0.1, path: '/health?serializable=true', port: 2381, scheme: HTTP}, initialDelaySeconds: 10, failureThreshold: 8, timeoutSeconds: 15}", "on-failure",
			`["HTTP","http://127.0.0.1:2381/health?serializable=true"]`, `{"interval":"10s","timeout":"15s","retries":8,"start":"10s"}`, "",
		},
		{"", ports + ", livenessProbe: {tcpSocket: {port: health}, periodSeconds: 7}, startupProbe: {failureThreshold: 24}", "always", `["TCP","127.0.0.1:2381"]`, `{"interval":"7s","timeout":"1s","retries":3,"start":"4m0s"}`, ""},
		{"", "livenessProbe: {exec: {command: [/bin/check, 'a b']}}", "always", `["CMD","/bin/check","a b"]`, `{"interval":"10s","timeout":"1s","retries":3}`, ""},
		{"", "livenessProbe: {httpGet: {port: 6443, path: /livez, scheme: HTTPS}}", "always", "", "", `it speaks "HTTPS"`},
		{"", "livenessProbe: {httpGet: {port: nowhere}}", "always", "", "", `port "nowhere" is none`},
		{"", "livenessProbe: {httpGet: {port: 80, host: example.com}}", "always", "", "", `host "example.com" is no address`},
		{"", "livenessProbe: {httpGet: {port: 80, path: '@example.com/'}}", "always", "", "", "cannot be asked for"},
		{"", "livenessProbe: {tcpSocket: {port: 99999}}", "always", "", "", `port "99999" is none`},
		{"", "livenessProbe: {grpc: {port: 80}}", "always", "", "", "none of exec, httpGet and tcpSocket"},
		{"", "livenessProbe: {exec: {command: [x]}, periodSeconds: -5, failureThreshold: 999999999}", "always", `["CMD","x"]`, `{"interval":"10s","timeout":"1s","retries":1000}`, ""},
	} {
		manifest := "kind: Pod\nmetadata: {name: p}\nspec: {" + c.pod
		if c.pod != "" {
			manifest += ", "
		}
		manifest += "containers: [{name: a, " + c.container + "}]}\n"
		pod, err := parsePod([]byte(manifest))
		if err != nil {
			t.Errorf("parsePod(%s) = %v; want a pod", manifest, err)
			continue
		}
		notes, said := map[string]string{}, ""
		if err := pod.attend(&pod.Spec.Containers[0], notes); err != nil {
			said = err.Error()
		}
		if notes[AnnotationRestart] != c.restart || notes[AnnotationHealth] != c.check || notes[AnnotationHealthTiming] != c.timing || !strings.Contains(said, c.problem) || (c.problem == "") != (said == "") {
			t.Errorf("attend(%s) = %v, %q; want %q, %s, %s, %q", manifest, notes, said, c.restart, c.check, c.timing, c.problem)
		}
	}
}
