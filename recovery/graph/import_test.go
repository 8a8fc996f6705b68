package graph

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// edges tells services' edges, one to a line.
func edges(services []Service) string {
	var all []string
	for _, s := range services {
		if len(s.Needs) == 0 {
			all = append(all, s.Name)
		}
		for _, n := range s.Needs {
			verb := " needs "
			if n.Managed {
				verb = " managed by "
			}
			if n.Soft {
				verb = " softly" + verb
			}
			if n.Provenance != Declared {
				verb = " " + n.Provenance.String() + verb
			}
			all = append(all, s.Name+verb+n.String())
		}
	}
	return strings.Join(all, "\n")
}

func imports() []struct {
	format           ImportFormat
	name, text, want string
} {
	return []struct {
		format           ImportFormat
		name, text, want string
	}{
		{Compose, "compose.yaml", `
services:
  web:
    image: x
    depends_on: {db: {condition: service_healthy}, cache: {condition: service_started, required: false}}
    links: ["queue:q"]
    network_mode: "service:vpn"
  db: {image: y}
  cache: {image: y, depends_on: [db, cache]}
  queue: {image: z, volumes_from: ["container:other", "db:ro"]}
  vpn: {image: v}
`, "cache needs db\ndb\nqueue needs db\nvpn\nweb needs db\nweb needs queue\nweb needs vpn\nweb softly needs cache"},
		{Compose, "shared.yaml", `
x-common: &common
  restart: always
  depends_on: &waits
    db: {condition: service_healthy}
x-more: &more {depends_on: [queue], links: [vpn]}
services:
  web: {<<: *common, image: x}
  api:
    <<: [*common, *more]
    image: !reset x
  job:
    depends_on:
      <<: *waits
      queue: {condition: service_started}
  own: {<<: *common, depends_on: [queue]}
  db: {}
  queue: {}
  vpn: {}
`, "api needs db\napi needs vpn\ndb\njob needs queue\njob needs db\nown needs queue\nqueue\nvpn\nweb needs db"},
		{Kubernetes, "all.yaml", `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: missing
      containers:
        - name: c
          envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: gone, optional: true}}]
      volumes: [{name: v, persistentVolumeClaim: {claimName: data}}, {name: w, secret: {secretName: tls}}]
---
apiVersion: v1
kind: List
items:
  - {kind: ConfigMap, metadata: {name: settings}}
  - {kind: PersistentVolumeClaim, metadata: {name: data}}
  - {kind: Secret, metadata: {name: gone}}
  - {kind: Service, metadata: {name: web}, spec: {selector: {app: web}}}
  - {kind: ReplicaSet, metadata: {name: web-1, ownerReferences: [{kind: Deployment, name: web, controller: true}]}, spec: {template: {spec: {containers: []}}}}
  - {kind: Pod, metadata: {name: etcd-a, namespace: kube-system, annotations: {kubernetes.io/config.source: file}}, spec: {containers: []}}
  - {kind: Pod, metadata: {name: kube-apiserver-a, namespace: kube-system, annotations: {kubernetes.io/config.source: file}}, spec: {containers: []}}
  - kind: Ingress
    metadata: {name: front}
    spec: {rules: [{http: {paths: [{backend: {service: {name: web, port: {number: 80}}}}]}}]}
`, "configmap/settings\ndeployment/web managed by kubernetes\ndeployment/web needs configmap/settings\ndeployment/web needs persistentvolumeclaim/data\n" +
			"ingress/front needs service/web\nkube-system/pod/etcd-a managed by kubelet\nkube-system/pod/kube-apiserver-a managed by kubelet\nkubelet needs hardware\n" +
			"persistentvolumeclaim/data\nreplicaset/web-1 managed by deployment/web\nservice/web needs deployment/web"},
		{Systemd, "units/a.service", `# a comment
[Unit]
Description=a = b
Requires=b.socket \
  c@x.service tmp.mount
Wants=d.service
After=b.socket e%i.service
DefaultDependencies=no
[Install]
RequiredBy=f.target
[Service]
ExecStart=/bin/true
`, "a.service needs b.socket\na.service needs c@x.service"},
		{
			Nomad, "job.json", `{"Job": {"ID": "api", "TaskGroups": [{"Services": [{"Name": "api-http", "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "db", "LocalBindPort": 5432}]}}}}],
 "Tasks": [{"Name": "t", "Vault": {"Policies": ["x"]}, "Templates": [{"EmbeddedTmpl": "{{ range service \"cache|any\" }}{{ key \"a/b\" }}"}]}]}]}}`,
			"api managed by nomad\napi needs db\napi needs vault\napi softly needs cache\napi softly needs consul",
		},
		{Terraform, "graph.dot", `digraph {
	compound = "true"
	subgraph "root" {
		"[root] aws_instance.web (expand)" [label = "aws_instance.web", shape = "box"]
		"[root] aws_instance.web (expand)" -> "[root] aws_subnet.main (expand)"
		"[root] aws_subnet.main (expand)" -> "[root] provider[\"registry.terraform.io/hashicorp/aws\"]"
		"[root] provider[\"registry.terraform.io/hashicorp/aws\"] (close)" -> "[root] aws_instance.web (expand)"
	}
}
`, "aws_instance.web needs aws_subnet.main\naws_subnet.main needs provider[\"registry.terraform.io/hashicorp/aws\"]\nprovider[\"registry.terraform.io/hashicorp/aws\"]"},
		{
			OpenTelemetry, "otlp.json", `{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "traces_service_graph_request_total", "sum": {"dataPoints": [
 {"attributes": [{"key": "client", "value": {"stringValue": "web"}}, {"key": "server", "value": {"stringValue": "db"}}], "asInt": "7"}]}}]}]}]}`,
			"db\nweb observed softly needs db",
		},
		{OpenTelemetry, "prometheus.json", `{"data": {"result": [{"metric": {"client": "web", "server": "db"}, "value": [1.5, "7"]}]}}`, "db\nweb observed softly needs db"},
		{OpenTelemetry, "jaeger.json", `{"data": [{"parent": "web", "child": "db", "callCount": 3}, {"parent": "db", "child": "db", "callCount": 3}]}`, "db\nweb observed softly needs db"},
	}
}

func TestImport(t *testing.T) {
	bomb := "a0: &a0 {k: [x, x, x, x, x, x, x, x]}\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%d {k: [%s*a%d]}\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 8), i)
	}
	bomb += "services: {a: *a9}\n"
	for _, c := range imports() {
		got, err := Import(c.format, File{c.name, []byte(c.text)})
		if err != nil || edges(got) != c.want {
			t.Errorf("Import(%s):\n%s\n%v; want\n%s", c.name, edges(got), err, c.want)
		}
		for _, s := range got {
			for _, n := range s.Needs {
				if n.Provenance == Proven || n.At.File != c.name && s.Name != "kubelet" {
					t.Errorf("%s: edge %+v; want none proven, and each with its file", s.Name, n)
				}
			}
		}
	}
	for _, c := range []struct {
		format ImportFormat
		text   string
		want   string
	}{
		{Compose, "services: {a: [", "f:1:"},
		{Compose, "services: {a: *b}", "f:1:15: there is no anchor b above"},
		{Compose, "services: {a: {<<: [x]}}", "f:1:21: want a mapping to merge, got text"},
		{Compose, bomb, "aliases stand for too much"},
		{Kubernetes, "kind: &a b", "anchors, aliases, tags and directives are not taken"},
		{Nomad, "{}", "want a job in JSON"},
		{Terraform, "x", "starts with digraph"},
		{Terraform, "digraph {\n\"a\" -> b\n}", "f:2:1: want -> and a text in quotes"},
		{OpenTelemetry, "{}", "no calls in it"},
		{Systemd, "[Unit]\nnonsense\n", "f:2:1: want KEY=VALUE"},
		{"puppet", "", "want one of"},
	} {
		if _, err := Import(c.format, File{"f", []byte(c.text)}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Import(%s, %q) = %v; want %s", c.format, c.text, err, c.want)
		}
	}
}

// Debian's own units on this machine: the targets come up, in the order that systemd has for them.
func TestImportDebianUnits(t *testing.T) {
	var files []File
	for _, pattern := range []string{"/lib/systemd/system/*", "/lib/systemd/system/*.d/*.conf"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if st, err := os.Stat(n); err != nil || !st.Mode().IsRegular() {
				continue
			}
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, File{n, b})
		}
	}
	if len(files) < 50 {
		t.Fatalf("%d unit files; want those of a Debian host", len(files))
	}
	services, err := Import(Systemd, files...)
	if err != nil {
		t.Fatal(err)
	}
	g := New(services)
	r := Check(g, CheckOptions{})
	if len(r.Loops) > 0 {
		t.Errorf("loops: %s; want none among units that ship", r.Loops[0].Sentence())
	}
	for _, m := range r.Missing {
		t.Logf("%s waits for %s, which is not installed", m.Service, m.Need)
	}
	if slices.Contains(r.Stuck, "basic.target") || slices.Contains(r.Stuck, "multi-user.target") {
		t.Errorf("stuck: %v; want the targets up", r.Stuck)
	}
	p, err := Order(g, OrderOptions{Lost: []string{"sysinit.target"}})
	if err != nil || len(p.Steps) < 10 {
		t.Errorf("plan for sysinit.target: %d steps, %v; want all that builds on it", len(p.Steps), err)
	}
}

func fuzzImport(f *testing.F, format ImportFormat) {
	for _, c := range imports() {
		if c.format == format {
			f.Add(c.text)
		}
	}
	for _, file := range published(f, format) {
		f.Add(string(file.Data))
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 20000 {
			return
		}
		got, err := Import(format, File{"kubernetes/manifests/f.yaml", []byte(s)})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error = %v; want ErrInvalid", err)
			}
			return
		}
		g := New(got)
		var b strings.Builder
		if err := Render(&b, JSON, g, CheckOptions{}); err != nil {
			t.Fatal(err)
		}
		again, err := Read(File{"g.json", []byte(b.String())})
		if err != nil {
			t.Fatalf("what was imported does not read: %v\n%s", err, b.String())
		}
		if !slices.Equal(Check(g, CheckOptions{}).Stuck, Check(again, CheckOptions{}).Stuck) {
			t.Errorf("what was imported reads as another graph: %s", b.String())
		}
	})
}

func FuzzKubernetes(f *testing.F)    { fuzzImport(f, Kubernetes) }
func FuzzSystemd(f *testing.F)       { fuzzImport(f, Systemd) }
func FuzzCompose(f *testing.F)       { fuzzImport(f, Compose) }
func FuzzNomad(f *testing.F)         { fuzzImport(f, Nomad) }
func FuzzTerraform(f *testing.F)     { fuzzImport(f, Terraform) }
func FuzzOpenTelemetry(f *testing.F) { fuzzImport(f, OpenTelemetry) }
