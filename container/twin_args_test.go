package container

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestPortsOf(t *testing.T) {
	local := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}
	for _, c := range []struct {
		name    string
		args    string
		env     string
		exposed string
		want    string // "!" marks a guess
	}{
		{
			name: "etcd", args: `etcd --name a --data-dir=/srv/etcd --listen-client-urls=http://127.0.0.1:2379,https://10.0.0.5:2379
			--advertise-client-urls=http://127.0.0.1:4001 --listen-peer-urls http://10.0.0.5:2380
			--initial-advertise-peer-urls=http://10.0.0.5:2390 --initial-cluster=a=http://10.0.0.5:2391,b=http://10.0.0.6:2380`,
			want: "10.0.0.5:2379/tcp 10.0.0.5:2380/tcp 127.0.0.1:2379/tcp",
		},
		{
			name: "apiserver", args: `kube-apiserver --bind-address=0.0.0.0 --secure-port=6443 --etcd-servers=https://127.0.0.1:2379
			--kubelet-client-certificate=/pki/a.crt --service-cluster-ip-range=10.96.0.0/12 --api-audiences=https://10.0.0.5:9999`,
			want: "*:6443/tcp 10.0.0.5:9999/tcp!",
		},
		{name: "forms", args: "x --listen=:8080 --port 9000 -p=7000 0.0.0.0:54 [::1]:81 --web.listen-address=[fd00::5]:82", want: "*:7000/tcp! *:9000/tcp [::1]:81/tcp! [::]:8080/tcp [fd00::5]:82/tcp 0.0.0.0:54/tcp"},
		{name: "dns", args: "coredns -dns.port=5353 --listen 0.0.0.0:53", want: "*:5353/tcp! 0.0.0.0:53/tcp 0.0.0.0:53/udp"},
		{name: "udp", args: "x --bind udp://127.0.0.1:514 --listen 127.0.0.1:515/udp", want: "127.0.0.1:514/udp 127.0.0.1:515/udp"},
		{name: "default ports", args: "x --listen http://127.0.0.1 --listen https://[::1]/x", want: "127.0.0.1:80/tcp [::1]:443/tcp"},
		{name: "other hosts", args: "x --listen=10.9.9.9:80 --foo 10.9.9.9:80 --endpoints=127.0.0.1:2379 --join 127.0.0.1:1 --upstream=0.0.0.0:9 http://example.org:80"},
		{name: "names", args: "x --listen localhost:80 --listen example.org:81", want: "127.0.0.1:80/tcp"},
		{name: "not ports", args: "x --listen=:0 --listen=:70000 --port=0 --replicas=3 --port=-1 --listen :x --timeout 5 -x"},
		{
			name: "environment", env: "ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379 PORT=8080 KUBERNETES_SERVICE_PORT=443 KUBERNETES_PORT=tcp://10.0.0.5:443 REDIS_SERVER=127.0.0.1:1 HTTP_PROXY=http://127.0.0.1:3128 A=:99",
			want: "*:8080/tcp! 0.0.0.0:2379/tcp 10.0.0.5:443/tcp! [::]:99/tcp!",
		},
		{name: "exposed", exposed: "2379/tcp 53/udp 80 8000-8002/tcp x/tcp 9/sctp", want: "*:2379/tcp! *:53/udp! *:80/tcp! *:8000/tcp! *:8001/tcp! *:8002/tcp!"},
		{name: "sure wins", args: "x --foo 127.0.0.1:9 --listen 127.0.0.1:9", want: "127.0.0.1:9/tcp"},
		{name: "program is no argument", args: "0.0.0.0:80"},
	} {
		exposed := map[string]struct{}{}
		for _, e := range strings.Fields(c.exposed) {
			exposed[e] = struct{}{}
		}
		var got []string
		for _, p := range portsOf(strings.Fields(c.args), strings.Fields(c.env), exposed, local) {
			s := p.String()
			if p.Guess {
				s += "!"
			}
			got = append(got, s)
		}
		want := strings.Fields(c.want)
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: portsOf() = %q; want %q", c.name, got, want)
		}
	}
}

func FuzzPortsOf(f *testing.F) {
	f.Add("etcd --listen-client-urls=http://127.0.0.1:2379,x", "PORT=80", "1-65535/udp")
	f.Add("0", "0", "0-2")
	f.Add("x --a -p [::]:1 --b=http://[", "A==:1", "-")
	f.Fuzz(func(t *testing.T, args, env, exposed string) {
		ports := portsOf(strings.Split(args, " "), strings.Split(env, " "), map[string]struct{}{exposed: {}}, nil)
		if len(ports) > maxPorts {
			t.Errorf("portsOf(%q, %q, %q) gave %d ports; want at most %d", args, env, exposed, len(ports), maxPorts)
		}
		for _, p := range ports {
			if p.Port == 0 || (p.Proto != "tcp" && p.Proto != "udp") {
				t.Errorf("portsOf(%q, %q, %q) holds %v; want a port of TCP or UDP", args, env, exposed, p)
			}
		}
	})
}
